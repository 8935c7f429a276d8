//! MongoDB's protocol, against SecantusDB: compatible, not MongoDB.

use mongodb::bson::{Document, doc};
use sidecar_core::documents::{Mongo, MongoConfig};
use sidecar_core::{DocumentProvider, Documents, Error, EventContext, EventId};

use crate::servers;

fn config() -> MongoConfig {
    MongoConfig::new("test", "conformance")
}

/// Where nobody listens.
const AWAY: &str = "mongodb://u:swordfish@127.0.0.1:1/?serverSelectionTimeoutMS=100";

async fn provider() -> Option<Mongo> {
    static MADE: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    // Connections belong to the runtime of the test that opened them.
    let provider = Mongo::open(servers::secantusdb()?, config());
    MADE.get_or_init(async || servers::answering(|| provider.check()).await).await;
    Some(provider)
}

mod mongodb_secantusdb {
    use super::*;
    sidecar_core::conformance_documents!(
        optional: provider().await,
        reopen: async |_| provider().await.unwrap(),
        away: Mongo::open(AWAY, config()),
    );
}

async fn collection() -> mongodb::Collection<Document> {
    let client = mongodb::Client::with_uri_str(servers::secantusdb().unwrap()).await.unwrap();
    client.database("test").collection("conformance")
}

#[tokio::test]
async fn documents_have_the_keys_of_the_schemas_and_are_found_by_them() {
    let Some(provider) = provider().await else { return };
    let id = uuid::Uuid::new_v4().to_string();
    let context: EventContext = serde_json::from_value(
        serde_json::json!({"eventId": id, "correlationId": "c", "data": [{"key": "k", "value": "v"}]}),
    )
    .unwrap();
    provider.store(&[context]).await.unwrap();
    let found = collection().await.find_one(doc! {"id": &id, "kind": "context"}).await.unwrap().unwrap();
    assert_eq!(found.get_str("eventId").unwrap(), id);
    assert_eq!(found.get_array("data").unwrap()[0].as_document().unwrap(), &doc! {"key": "k", "value": "v"});
    let indexes = collection().await.list_index_names().await.unwrap();
    assert!(indexes.contains(&"id_1".into()) && indexes.contains(&"correlationId_1".into()), "{indexes:?}");
}

#[tokio::test]
async fn a_document_that_is_not_ours_is_corrupt() {
    let Some(provider) = provider().await else { return };
    let id = uuid::Uuid::new_v4().to_string();
    let foreign = doc! {"_id": format!("context:{id}"), "files": ["../x"]};
    collection().await.insert_one(foreign).await.unwrap();
    let error = provider.find::<EventContext>(EventId::parse(&id).unwrap().as_str()).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable() {
    let away = Mongo::open(AWAY, config());
    let error = away.check().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(!format!("{away:?} {away} {error:?} {}", error.chain()).contains("swordfish"));
}
