//! Documents in PostgreSQL: three tables of `jsonb`, with what is searched for in columns of its own.

use std::error::Error as _;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_postgres::Config;
use tokio_postgres::config::Host;
use tokio_postgres_rustls::MakeRustlsConnect;
use url::{Position, Url};

use super::DocumentProvider;
use crate::contract::{EventContext, EventId, Failure, FailureId, Insight, InsightId};
use crate::error::{Error, Result};
use crate::tls;

/// Connections at once: documents are few and written in batches.
const CONNECTIONS: usize = 4;
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection that was used before may take to show that it still works.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long what was sent may stay without any sign of the server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The prefix of the tables where nothing else is said.
const DEFAULT_TABLE: &str = "sidecar";

/// Documents in the tables `{table}_contexts`, `{table}_insights` and `{table}_failures`, made by
/// [`check`](DocumentProvider::check); clones share the connections.
#[derive(Clone)]
pub struct Postgres {
    pool: Pool,
    name: String,
    /// The servers and the database, in one spelling.
    id: String,
    table: String,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("name", &self.name)
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}?table={}", self.name, self.table)
    }
}

#[async_trait]
impl DocumentProvider for Postgres {
    async fn event_context(&self, id: &EventId) -> Result<Option<EventContext>> {
        self.find("contexts", id.as_str()).await
    }

    async fn put_event_contexts(&self, contexts: &[EventContext]) -> Result<()> {
        let rows = contexts.iter().map(|document| {
            let context = &document.context;
            (context.event_id.as_str(), context.correlation_id.as_str(), document)
        });
        self.upsert("contexts", rows).await
    }

    async fn insight(&self, id: &InsightId) -> Result<Option<Insight>> {
        self.find("insights", id.as_str()).await
    }

    async fn put_insight(&self, insight: &Insight) -> Result<()> {
        let row = (insight.id.as_str(), insight.context.correlation_id.as_str(), insight);
        self.upsert("insights", [row]).await
    }

    async fn failure(&self, id: &FailureId) -> Result<Option<Failure>> {
        self.find("failures", id.as_str()).await
    }

    async fn put_failure(&self, failure: &Failure) -> Result<()> {
        let row = (failure.id.as_str(), failure.context.correlation_id.as_str(), failure);
        self.upsert("failures", [row]).await
    }

    fn id(&self) -> String {
        format!("{}?table={}", self.id, self.table)
    }

    async fn check(&self) -> Result<()> {
        let action = "make the tables";
        let client = self.client(action).await?;
        let mut statements = String::new();
        for kind in ["contexts", "insights", "failures"] {
            let table = self.table(kind);
            let there = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table]).await;
            // To use them needs less rights than to make them.
            if there.and_then(|row| row.try_get(0)).map_err(|error| self.error(action, error))? {
                continue;
            }
            let index = format!("\"{}_{kind}_correlation\"", self.table);
            statements += &format!(
                "CREATE TABLE IF NOT EXISTS {table} (
                    id text PRIMARY KEY, correlation_id text NOT NULL, document jsonb NOT NULL);
                CREATE INDEX IF NOT EXISTS {index} ON {table} (correlation_id);"
            );
        }
        // Two sidecars that make the tables at once would meet in the catalogue; any number is as good.
        // Statements that are sent together are one transaction.
        let statements = format!("SELECT pg_advisory_xact_lock(7305804402); {statements}");
        client.batch_execute(&statements).await.map_err(|error| self.error(action, error))
    }
}

impl Postgres {
    /// The database of `postgres://user:password@host:port/database?table=prefix`; nothing is connected yet.
    ///
    /// TLS trusts what the system trusts, and the certificates of the PEM file `ca_file`.
    ///
    /// # Errors
    /// [`Error::Refused`] when the URL cannot be used.
    pub fn open(url: &Url, ca_file: Option<&Path>) -> Result<Self> {
        let name = format!("postgres://{}", &url[Position::BeforeHost..Position::AfterPath]);
        let refused = |source: crate::Cause| Error::refused(&name, "take these settings", source);
        let (mut connection, mut table) = (url.clone(), DEFAULT_TABLE.to_owned());
        connection.set_query(None);
        for (key, value) in url.query_pairs() {
            match &*key {
                "table" => table = value.into_owned(),
                _ => drop(connection.query_pairs_mut().append_pair(&key, &value)),
            }
        }
        if table.is_empty() || !table.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(refused(format!("table {table:?} is not made of letters, digits and _").into()));
        }
        let mut config: Config =
            connection.as_str().parse().map_err(|error: tokio_postgres::Error| refused(error.into()))?;
        let id = identity(&config);
        config.connect_timeout(CONNECT_TIMEOUT).application_name("sidecar");
        // A connection that was dropped without a word is found out before the retries are used up.
        config.keepalives_idle(CONNECT_TIMEOUT).tcp_user_timeout(ANSWER_TIMEOUT);
        let tls = MakeRustlsConnect::new(tls::client_config(ca_file).map_err(refused)?);
        let manager = ManagerConfig { recycling_method: RecyclingMethod::Verified };
        let manager = Manager::from_config(config, tls, manager);
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .recycle_timeout(Some(CHECK_TIMEOUT))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| refused(error.into()))?;
        Ok(Self { pool, name, id, table })
    }

    fn table(&self, kind: &str) -> String {
        format!("\"{}_{kind}\"", self.table)
    }

    async fn client(&self, action: &str) -> Result<Object> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => self.error(action, error),
            other => Error::unavailable(self, action, other),
        })
    }

    async fn find<T: DeserializeOwned>(&self, kind: &str, id: &str) -> Result<Option<T>> {
        let action = "look a document up";
        let client = self.client(action).await?;
        let query = format!("SELECT document FROM {} WHERE id = $1", self.table(kind));
        let row = client.query_opt(&query, &[&id]).await.map_err(|error| self.error(action, error))?;
        let document: Option<Value> =
            row.map(|row| row.try_get(0)).transpose().map_err(|e| self.error(action, e))?;
        let parse = |document| {
            serde_json::from_value(document).map_err(|error| Error::Corrupt {
                provider: self.to_string(),
                what: format!("document {id:?}"),
                problem: error.to_string(),
            })
        };
        document.map(parse).transpose()
    }

    async fn upsert<'d, T: Serialize + 'd>(
        &self,
        kind: &str,
        rows: impl IntoIterator<Item = (&'d str, &'d str, &'d T)>,
    ) -> Result<()> {
        let action = "store documents";
        let (mut ids, mut correlations, mut documents) = (Vec::new(), Vec::new(), Vec::new());
        for (id, correlation, document) in rows {
            ids.push(id.to_owned());
            correlations.push(correlation.to_owned());
            documents
                .push(serde_json::to_value(document).map_err(|error| Error::refused(self, action, error))?);
        }
        if ids.is_empty() {
            return Ok(());
        }
        let query = format!(
            "INSERT INTO {} (id, correlation_id, document) SELECT * FROM unnest($1::text[], $2::text[], $3::jsonb[])
             ON CONFLICT (id) DO UPDATE SET correlation_id = EXCLUDED.correlation_id, document = EXCLUDED.document",
            self.table(kind)
        );
        let client = self.client(action).await?;
        let stored = client.execute(&query, &[&ids, &correlations, &documents]).await;
        stored.map(drop).map_err(|error| self.error(action, error))
    }

    /// The one table from the server's errors to ours.
    fn error(&self, action: &str, error: tokio_postgres::Error) -> Error {
        // Classes of SQLSTATE: connection, rolled back, out of resources, operator intervention, system.
        let transient = match error.code() {
            // One that is read only has just lost its place to another.
            Some(code) if code.code() == "25006" => true,
            Some(code) => ["08", "40", "53", "57", "58"].iter().any(|class| code.code().starts_with(class)),
            // No answer of the server at all; a value that cannot be sent stays so.
            None => error.is_closed() || error.source().is_some_and(|cause| cause.is::<std::io::Error>()),
        };
        if transient { Error::unavailable(self, action, error) } else { Error::refused(self, action, error) }
    }
}

/// The servers in the order of their names, the database, and the schema if the connection chooses one.
fn identity(config: &Config) -> String {
    let names = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.to_lowercase(),
        Host::Unix(path) => path.display().to_string(),
    });
    let addresses = config.get_hostaddrs().iter().map(ToString::to_string);
    let hosts: Vec<_> = if config.get_hosts().is_empty() { addresses.collect() } else { names.collect() };
    let ports = config.get_ports();
    let port = |n: usize| ports.get(n).or(ports.first()).copied().unwrap_or(5432);
    let mut servers: Vec<_> =
        hosts.iter().enumerate().map(|(n, host)| format!("{host}:{}", port(n))).collect();
    servers.sort();
    servers.dedup();
    // The server takes the user's name for that of the database.
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    let options = config.get_options().unwrap_or_default().split_whitespace();
    let schema = options.filter(|option| option.contains("search_path")).map(|option| format!(" {option}"));
    format!("postgres://{}/{database}{}", servers.join(","), schema.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling_and_no_secret() {
        let id = |url: &str| Postgres::open(&url.parse().unwrap(), None).unwrap().id();
        let one = id("postgres://u:secret@Host/d?sslmode=disable");
        assert_eq!(one, "postgres://host:5432/d?table=sidecar");
        assert_eq!(one, id("postgresql://host:5432/d?table=sidecar"));
        assert_eq!(id("postgres://d@host"), one);
        assert_eq!(id("postgres://b,a/d"), "postgres://a:5432,b:5432/d?table=sidecar");
        assert_eq!(id("postgres:///d?host=/run&port=1"), "postgres:///run:1/d?table=sidecar");
        let schema = "postgres://host/d?options=-c%20search_path%3Dx";
        for other in ["postgres://host/e", "postgres://host:1/d", "postgres://host/d?table=t", schema] {
            assert_ne!(one, id(other), "{other}");
        }
    }
}
