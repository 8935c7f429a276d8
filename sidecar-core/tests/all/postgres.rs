//! PostgreSQL, against a real server.

use sidecar_core::documents::Postgres;
use sidecar_core::{DocumentProvider, Documents, Error, EventContext, EventId};
use tokio::sync::OnceCell;

use crate::servers;

fn open(query: &str) -> Option<Postgres> {
    Some(at(&servers::postgres()?, query))
}

/// Where nobody listens.
const AWAY: &str = "postgres://u:swordfish@127.0.0.1:1/d";

fn at(server: &str, query: &str) -> Postgres {
    Postgres::open(&format!("{server}{query}").parse().unwrap(), None).unwrap()
}

/// The tables are made by the first check, which waits until the server answers.
async fn provider() -> Option<Postgres> {
    static MADE: OnceCell<()> = OnceCell::const_new();
    let provider = open("?table=conformance")?;
    MADE.get_or_init(async || servers::answering(|| provider.check()).await).await;
    Some(provider)
}

mod postgres_server {
    use super::*;
    sidecar_core::conformance_documents!(
        optional: provider().await,
        reopen: async |_| provider().await.unwrap(),
        away: at(AWAY, "?table=conformance"),
    );
}

async fn pooled() -> Option<Postgres> {
    static MADE: OnceCell<()> = OnceCell::const_new();
    let provider = at(&servers::pgbouncer()?, "?table=conformance_pooled");
    MADE.get_or_init(async || servers::answering(|| provider.check()).await).await;
    Some(provider)
}

mod postgres_behind_a_pooler_of_transactions {
    use super::*;
    sidecar_core::conformance_documents!(
        optional: pooled().await,
        reopen: async |_| pooled().await.unwrap(),
        away: at(AWAY, "?table=conformance_pooled"),
    );
}

#[tokio::test]
async fn checks_at_once_make_the_tables_once() {
    if provider().await.is_none() {
        return;
    }
    let providers: Vec<_> = (0..8).filter_map(|_| open("?table=raced")).collect();
    let checks = futures_util::future::join_all(providers.iter().map(|provider| provider.check())).await;
    assert!(checks.iter().all(Result::is_ok), "{checks:?}");
}

#[tokio::test]
async fn a_document_that_is_not_ours_is_corrupt() {
    let Some(provider) = provider().await else { return };
    let (client, connection) =
        tokio_postgres::connect(&servers::postgres().unwrap(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let foreign = "INSERT INTO conformance_contexts VALUES ('foreign', 'c', '[1]') ON CONFLICT DO NOTHING";
    client.batch_execute(foreign).await.unwrap();
    let error = provider.find::<EventContext>(EventId::parse("foreign").unwrap().as_str()).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable_and_a_missing_database_is_refused() {
    let away = at(AWAY, "");
    let error = away.check().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(!format!("{away:?} {error:?} {}", error.chain()).contains("swordfish"));
    let Some(_) = provider().await else { return };
    let url = servers::postgres().unwrap().replace("/postgres", "/absent");
    let error = Postgres::open(&url.parse().unwrap(), None).unwrap().check().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
}

/// A user who may not make tables needs none to be made.
#[tokio::test]
async fn absent_tables_without_the_right_to_make_them_are_refused() {
    let Some(owner) = provider().await else { return };
    let server = servers::postgres().unwrap();
    let (client, connection) = tokio_postgres::connect(&server, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let user = format!("limited{}", std::process::id());
    let grants = format!(
        "CREATE ROLE {user} LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC;
         GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}"
    );
    client.batch_execute(&grants).await.unwrap();
    let as_user = |table: &str| {
        let url = format!("{}?table={table}", server.replacen("postgres@", &format!("{user}@"), 1));
        Postgres::open(&url.parse().unwrap(), None).unwrap()
    };
    let error = as_user("absent").check().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }) && error.chain().contains("permission"), "{error:?}");
    let error = as_user("conformance").check().await.unwrap_err();
    let lacks = "\"conformance_contexts\" (INSERT, UPDATE, DELETE)";
    assert!(matches!(error, Error::Refused { .. }) && error.chain().contains(lacks), "{error:?}");
    client.batch_execute(&format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}")).await.unwrap();
    as_user("conformance").check().await.unwrap();
    drop(owner);
}

#[test]
fn table_names_are_names() {
    let url = "postgres://h/d?table=a%22;drop".parse().unwrap();
    assert!(matches!(Postgres::open(&url, None).unwrap_err(), Error::Settings { .. }));
}

/// Whoever looks up some documents while it writes others needs more than one connection at a time.
#[tokio::test]
async fn many_outcomes_do_not_keep_one_from_being_recovered() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use sidecar_core::layers::{Fault, Injected, Timeout};
    use sidecar_core::{
        Context, DataPlane, First, Layout, ModuleName, Session, Settings, blob, events, recover,
    };

    let Some(documents) = open(&format!("?table=recover_{}", std::process::id())) else { return };
    servers::answering(|| documents.check()).await;
    let documents = Timeout::new(documents, std::time::Duration::from_secs(10));
    let away = Arc::new(AtomicBool::new(true));
    let bus = Fault::new(events::Memory::default(), {
        let away = away.clone();
        move |_, _| if away.load(Ordering::Relaxed) { Injected::Unavailable } else { Injected::Nothing }
    });
    let plane = DataPlane::new(blob::Memory::default(), documents, bus);
    let base = tempfile::tempdir().unwrap();
    for number in 0..60 {
        let context = Context {
            name: ModuleName::parse("m").unwrap(),
            event_id: EventId::parse(&format!("e{number}")).unwrap(),
            correlation_id: "c".into(),
            parent_event_id: String::new(),
        };
        let mut settings = Settings::new(context, Layout::new(base.path().join(number.to_string())));
        settings.first = First::Yes;
        let session = Session::open(settings, plane.clone()).await.unwrap();
        session.ready().await.unwrap();
        if number % 20 == 0 {
            let event = session.layout().output_events().join("1.json");
            std::fs::write(event, r#"[{"key":"eventType","value":"t"}]"#).unwrap();
        }
        assert_eq!(session.done().await.is_ok(), number % 20 != 0);
    }
    away.store(false, Ordering::Relaxed);
    let recovered = recover(&plane).await.unwrap();
    assert_eq!((recovered.published, recovered.failed), (3, 0));
}
