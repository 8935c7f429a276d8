//! Documents in PostgreSQL: a table of `jsonb` for each kind, with what is searched for in columns of its own.

use std::error::Error as _;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio_postgres::config::Host;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Config, Row};
use tokio_postgres_rustls::MakeRustlsConnect;
use url::{Position, Url};

use super::{Document, DocumentProvider, Kind, PAGE};
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
/// The largest document, in bytes: jsonb has a limit of 256 MiB for what an array or object holds.
const LARGEST: usize = 255 * 1024 * 1024;

/// The prefix of the tables where nothing else is said.
const DEFAULT_TABLE: &str = "sidecar";

/// Documents in the tables `{table}_contexts`, `{table}_insights` and so on, made by
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
    fn refuses(&self, document: &Document) -> Option<String> {
        // jsonb has no text with a NUL, which JSON writes only like this.
        let mut rest = document.json.as_str();
        while let Some(at) = rest.find("\\u0000") {
            let backslashes = rest[..at].bytes().rev().take_while(|byte| *byte == b'\\').count();
            if backslashes % 2 == 0 {
                return Some("takes no text with a NUL character".into());
            }
            rest = &rest[at + 1..];
        }
        (document.json.len() > LARGEST).then(|| format!("takes no document of more than {LARGEST} bytes"))
    }

    async fn get(&self, kind: Kind, id: &str) -> Result<Option<String>> {
        let action = format!("look up {}", kind.one());
        let query = format!("SELECT document::text FROM {} WHERE id = $1", self.table(kind));
        let rows = self.query(&action, &query, &[(&id, Type::TEXT)]).await?;
        rows.first().map(|row| row.try_get(0)).transpose().map_err(|error| self.error(&action, error))
    }

    async fn put(&self, kind: Kind, documents: &[Document]) -> Result<()> {
        let column = |text: fn(&Document) -> &str| documents.iter().map(text).collect::<Vec<_>>();
        let ids = column(|document| &document.id);
        let correlations = column(|document| &document.correlation_id);
        let bodies = column(|document| &document.json);
        let query = format!(
            "INSERT INTO {} (id, correlation_id, document)
             SELECT id, correlation, document::jsonb FROM unnest($1, $2, $3) AS u (id, correlation, document)
             ON CONFLICT (id) DO UPDATE SET correlation_id = EXCLUDED.correlation_id, document = EXCLUDED.document",
            self.table(kind)
        );
        let texts = Type::TEXT_ARRAY;
        let values: [(&(dyn ToSql + Sync), Type); 3] =
            [(&ids, texts.clone()), (&correlations, texts.clone()), (&bodies, texts)];
        self.query(&format!("store {}", kind.many()), &query, &values).await.map(drop)
    }

    async fn insert(&self, kind: Kind, document: &Document) -> Result<String> {
        let action = format!("store {} if there is none", kind.one());
        // What decides an outcome is on the disk before it is seen: a setting that would not wait for it is raised
        // for this one transaction, and one that waits for more is left alone.
        let query = format!(
            "WITH raised AS MATERIALIZED (
                SELECT CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                    THEN set_config('synchronous_commit', 'on', true) END AS level)
             INSERT INTO {} (id, correlation_id, document)
             SELECT $1, $2, $3::jsonb FROM raised WHERE level IS NULL OR level = 'on'
             ON CONFLICT (id) DO NOTHING RETURNING id",
            self.table(kind)
        );
        let Document { id, correlation_id, json } = document;
        let values: [(&(dyn ToSql + Sync), Type); 3] =
            [(id, Type::TEXT), (correlation_id, Type::TEXT), (json, Type::TEXT)];
        if !self.query(&action, &query, &values).await?.is_empty() {
            return Ok(json.clone());
        }
        // A statement of its own: the first one's snapshot need not show what it met.
        let stored = self.get(kind, id).await?;
        stored.ok_or_else(|| Error::unavailable(self, action, "there was one, and it is gone"))
    }

    async fn list(&self, kind: Kind, after: Option<&str>) -> Result<Vec<(String, String)>> {
        self.page(kind, "", &[(&after.unwrap_or_default(), Type::TEXT)]).await
    }

    async fn list_graph(
        &self,
        kind: Kind,
        correlation_id: &str,
        after: Option<&str>,
    ) -> Result<Vec<(String, String)>> {
        let values: [(&(dyn ToSql + Sync), Type); 2] =
            [(&after.unwrap_or_default(), Type::TEXT), (&correlation_id, Type::TEXT)];
        self.page(kind, "AND correlation_id = $2", &values).await
    }

    async fn delete(&self, kind: Kind, ids: &[String]) -> Result<()> {
        let query = format!("DELETE FROM {} WHERE id = ANY($1)", self.table(kind));
        let action = format!("remove {}", kind.many());
        self.query(&action, &query, &[(&ids, Type::TEXT_ARRAY)]).await.map(drop)
    }

    fn id(&self) -> String {
        format!("{}?table={}", self.id, self.table)
    }

    async fn check(&self) -> Result<()> {
        let action = "create the tables";
        let mut missing = Vec::new();
        for kind in Kind::ALL {
            let there = "SELECT to_regclass($1) IS NOT NULL";
            let rows = self.query(action, there, &[(&self.table(kind), Type::TEXT)]).await?;
            let there = rows.first().map_or(Ok(false), |row| row.try_get(0));
            // To use them needs less rights than to make them.
            if !there.map_err(|error| self.error(action, error))? {
                missing.push(kind);
            }
        }
        let statements: String = missing.iter().map(|kind| self.definition(*kind)).collect();
        if missing.is_empty() {
            return self.check_rights().await;
        }
        // Two sidecars that make the tables at once would meet in the catalogue; any number is as good.
        // Statements that are sent together are one transaction.
        let locked = format!("SELECT pg_advisory_xact_lock(7305804402); {statements}");
        let client = self.client(action).await?;
        client.batch_execute(&locked).await.map_err(|error| match self.error(action, error) {
            Error::Refused { provider, action, source } if !statements.is_empty() => Error::Refused {
                provider,
                action,
                source: format!(
                    "{source}{}; somebody who may has to run:\n{statements}",
                    source.source().map(|cause| format!(": {cause}")).unwrap_or_default()
                )
                .into(),
            },
            error => error,
        })
    }
}

impl Postgres {
    /// The database of `postgres://user:password@host:port/database?table=prefix`; nothing is connected yet.
    ///
    /// TLS trusts what the system trusts, and the certificates of the PEM file `ca_file`.
    ///
    /// # Errors
    /// [`Error::Settings`] when the URL cannot be used.
    pub fn open(url: &Url, ca_file: Option<&Path>) -> Result<Self> {
        let name = format!("postgres://{}", &url[Position::BeforeHost..Position::AfterPath]);
        let refused = |source: crate::Cause| Error::settings(&name, source);
        let (mut connection, mut table) = (url.clone(), DEFAULT_TABLE.to_owned());
        connection.set_query(None);
        for (key, mut value) in url.query_pairs() {
            // TLS always verifies the certificate and the host's name; the driver's word for that is another.
            if key == "sslmode" && matches!(&*value, "verify-ca" | "verify-full") {
                value = "require".into();
            }
            match &*key {
                "table" => table = value.into_owned(),
                // The driver takes a plus sign for what it is: a blank is %20.
                _ => {
                    let pair =
                        [key, value].map(|part| utf8_percent_encode(&part, NON_ALPHANUMERIC).to_string());
                    let before = connection.query().map(|query| format!("{query}&")).unwrap_or_default();
                    connection.set_query(Some(&format!("{before}{}", pair.join("="))));
                }
            }
        }
        if table.is_empty() || !table.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(refused(format!("table {table:?} is not made of letters, digits and _").into()));
        }
        let mut config: Config =
            connection.as_str().parse().map_err(|error: tokio_postgres::Error| refused(error.into()))?;
        let id = identity(&config);
        // A standby may not have what was decided yet.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
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

    /// Whether the user may do to the tables what is done to them.
    async fn check_rights(&self) -> Result<()> {
        let action = "look at the rights on the tables";
        let names: Vec<String> = Kind::ALL.iter().map(|kind| self.table(*kind)).collect();
        let query = "SELECT t || ' (' || string_agg(p, ', ') || ')'
             FROM unnest($1) AS t, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p
             WHERE NOT has_table_privilege(t, p) GROUP BY t ORDER BY t";
        let rows = self.query(action, query, &[(&names, Type::TEXT_ARRAY)]).await?;
        let lacking: Vec<String> = rows
            .iter()
            .map(|row| row.try_get(0))
            .collect::<Result<_, _>>()
            .map_err(|error| self.error(action, error))?;
        if lacking.is_empty() {
            return Ok(());
        }
        let why = format!("the user lacks rights on {}", lacking.join(", "));
        Err(Error::refused(self, "use the tables", why))
    }

    fn table(&self, kind: Kind) -> String {
        format!("\"{}_{}\"", self.table, kind.plural())
    }

    /// How the table of a kind is made.
    fn definition(&self, kind: Kind) -> String {
        let (table, index) = (self.table(kind), format!("\"{}_{}_correlation\"", self.table, kind.plural()));
        format!(
            "CREATE TABLE IF NOT EXISTS {table} (id text PRIMARY KEY, correlation_id text NOT NULL, document jsonb NOT NULL);
CREATE INDEX IF NOT EXISTS {index} ON {table} (correlation_id);
"
        )
    }

    /// The next documents after the id `$1`.
    async fn page(
        &self,
        kind: Kind,
        condition: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<(String, String)>> {
        let (action, table) = (format!("list {}", kind.many()), self.table(kind));
        let query = format!(
            "SELECT id, document::text FROM {table} WHERE id > $1 {condition} ORDER BY id LIMIT {PAGE}"
        );
        let rows = self.query(&action, &query, values).await?;
        let entry = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.iter().map(entry).collect::<Result<_, _>>().map_err(|error| self.error(&action, error))
    }

    async fn client(&self, action: &str) -> Result<Object> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => self.error("connect", error),
            other => Error::unavailable(self, action, other),
        })
    }

    /// Sends a query without a name, so that nothing relies on the session: a pooler may change it each time.
    async fn query(
        &self,
        action: &str,
        query: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>> {
        let client = self.client(action).await?;
        client.query_typed(query, values).await.map_err(|error| self.error(action, error))
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
        let build = if transient { Error::unavailable } else { Error::refused };
        build(self, action.to_owned(), cause(error))
    }
}

/// What the server said, or else the driver.
fn cause(error: tokio_postgres::Error) -> crate::Cause {
    if let Some(said) = error.as_db_error() {
        let detail = said.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        return format!("{}{detail}, SQLSTATE {}", said.message(), said.code().code()).into();
    }
    let cause = error.source().map(ToString::to_string);
    match cause.as_deref() {
        Some("password missing") => {
            "the server wants a password: write the URL with it into a file, and name that with --documents-file"
                .into()
        }
        _ => error.into(),
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
        assert_eq!(id("postgres://u@h/d"), id("postgres://u@h/d?sslmode=verify-full"));
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
