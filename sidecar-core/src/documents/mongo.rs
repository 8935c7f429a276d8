//! Documents in MongoDB, and in Azure Cosmos DB through its interface for MongoDB.

use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{StreamExt, TryStreamExt};
use mongodb::bson::{Bson, Document, deserialize_from_document, doc, serialize_to_document};
use mongodb::error::{ErrorKind, WriteFailure};
use mongodb::options::{ClientOptions, Tls, TlsOptions, WriteConcern};
use mongodb::{Client, Collection, IndexModel};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use super::DocumentProvider;
use crate::contract::{EventContext, EventId, Failure, FailureId, Insight, InsightId};
use crate::error::{Cause, Error, Result};
use crate::{blocking, tls};

/// Documents on their way at once.
const WINDOW: usize = 32;
/// How long finding a server and connecting to it may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Codes of the server that mean "later": interrupted, not primary, time limit, and [`RATE`].
const TRANSIENT: [i32; 16] =
    [6, 7, 50, 64, 89, 91, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436, RATE];
/// Cosmos DB's request rate is used up; its message says for how long.
const RATE: i32 = 16500;
/// Two upserts of one new document met: the repeat replaces what the other inserted.
const DUPLICATE_KEY: i32 = 11000;

/// Where documents go on the server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MongoConfig {
    /// The database.
    pub database: String,
    /// The collection, which holds event contexts, insights and failures.
    pub collection: String,
    /// Certificates to trust besides the system's, as PEM.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// Documents of one collection, as the JSON of the schemas with `_id`, `id` and `kind` besides; clones share the
/// connections.
#[derive(Clone)]
pub struct Mongo {
    url: String,
    config: MongoConfig,
    connected: Arc<OnceCell<Connected>>,
}

struct Connected {
    collection: Collection<Document>,
    /// The driver reads it again for every server that it finds.
    _roots: Option<File>,
}

impl fmt::Debug for Mongo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mongo").field("config", &self.config).finish_non_exhaustive()
    }
}

impl fmt::Display for Mongo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MongoConfig { database, collection, .. } = &self.config;
        let (scheme, hosts) = self.server();
        write!(f, "{scheme}://{hosts}/{database}.{collection}")
    }
}

/// The kinds of documents, which share a collection but never an `_id`.
#[derive(Clone, Copy)]
enum Kind {
    Context,
    Insight,
    Failure,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Context => "context",
            Self::Insight => "insight",
            Self::Failure => "failure",
        }
    }

    fn key(self, id: &str) -> String {
        format!("{}:{id}", self.name())
    }
}

#[async_trait]
impl DocumentProvider for Mongo {
    async fn event_context(&self, id: &EventId) -> Result<Option<EventContext>> {
        self.find(Kind::Context, id.as_str()).await
    }

    async fn put_event_contexts(&self, contexts: &[EventContext]) -> Result<()> {
        let documents = contexts.iter().map(|document| (document.context.event_id.as_str(), document));
        self.upsert(Kind::Context, documents).await
    }

    async fn insight(&self, id: &InsightId) -> Result<Option<Insight>> {
        self.find(Kind::Insight, id.as_str()).await
    }

    async fn put_insight(&self, insight: &Insight) -> Result<()> {
        self.upsert(Kind::Insight, [(insight.id.as_str(), insight)]).await
    }

    async fn failure(&self, id: &FailureId) -> Result<Option<Failure>> {
        self.find(Kind::Failure, id.as_str()).await
    }

    async fn put_failure(&self, failure: &Failure) -> Result<()> {
        self.upsert(Kind::Failure, [(failure.id.as_str(), failure)]).await
    }

    /// Hosts in the order of their names, each with its port: whatever the URL says besides leads to the same place.
    fn id(&self) -> String {
        let (scheme, hosts) = self.server();
        let port = if scheme == "mongodb" { ":27017" } else { "" };
        let has_port = |host: &str| host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let mut hosts: Vec<_> = hosts
            .split(',')
            .map(|host| format!("{}{}", host.to_lowercase(), if has_port(host) { "" } else { port }))
            .collect();
        hosts.sort();
        hosts.dedup();
        let MongoConfig { database, collection, .. } = &self.config;
        format!("{scheme}://{}/{database}.{collection}", hosts.join(","))
    }

    async fn check(&self) -> Result<()> {
        let action = "make the indexes";
        let index = |key: &str| IndexModel::builder().keys(doc! { key: 1 }).build();
        let collection = self.collection().await?;
        let made = collection.create_indexes([index("id"), index("correlationId")]).await;
        made.map(drop).map_err(|error| self.error(action, error))
    }
}

impl Mongo {
    /// The server of `mongodb://user:password@host:port,host:port/?options`, or `mongodb+srv:`; it is connected by
    /// the first call.
    pub fn open(server: impl Into<String>, config: MongoConfig) -> Self {
        Self { url: server.into(), config, connected: Arc::default() }
    }

    /// The scheme and the hosts of the URL.
    fn server(&self) -> (&str, &str) {
        let (scheme, rest) = self.url.split_once("://").unwrap_or_default();
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        (scheme, authority.rsplit('@').next().unwrap_or_default())
    }

    async fn collection(&self) -> Result<&Collection<Document>> {
        let connect = async || {
            let action = "take these settings";
            let mut options =
                ClientOptions::parse(&self.url).await.map_err(|error| self.error(action, error))?;
            options.app_name.get_or_insert_with(|| "sidecar".into());
            options.server_selection_timeout.get_or_insert(CONNECT_TIMEOUT);
            options.connect_timeout.get_or_insert(CONNECT_TIMEOUT);
            options.write_concern.get_or_insert(WriteConcern::majority());
            if options.tls.is_none() && self.url.starts_with("mongodb+srv:") {
                options.tls = Some(Tls::Enabled(TlsOptions::default()));
            }
            let mut roots = None;
            // The URL may name a file of its own with `tlsCAFile`.
            if let Some(Tls::Enabled(tls @ TlsOptions { ca_file_path: None, .. })) = &mut options.tls {
                let ca_file = self.config.ca_file.clone();
                let made = blocking(move || Ok(tls::roots_file(ca_file.as_deref()))).await?;
                roots = made.map_err(|error| Error::refused(self, action, error))?;
                tls.ca_file_path =
                    roots.as_ref().map(|file| format!("/proc/self/fd/{}", file.as_raw_fd()).into());
            }
            let client = Client::with_options(options).map_err(|error| self.error(action, error))?;
            let collection = client.database(&self.config.database).collection(&self.config.collection);
            Ok(Connected { collection, _roots: roots })
        };
        self.connected.get_or_try_init(connect).await.map(|connected| &connected.collection)
    }

    async fn find<T: DeserializeOwned>(&self, kind: Kind, id: &str) -> Result<Option<T>> {
        let collection = self.collection().await?;
        let found = collection.find_one(doc! { "_id": kind.key(id) }).await;
        let found = found.map_err(|error| self.error("look a document up", error))?;
        let parse = |document| {
            deserialize_from_document(document).map_err(|error| Error::Corrupt {
                provider: self.to_string(),
                what: format!("document {id:?}"),
                problem: error.to_string(),
            })
        };
        found.map(parse).transpose()
    }

    async fn upsert<'d, T: Serialize + 'd>(
        &self,
        kind: Kind,
        documents: impl IntoIterator<Item = (&'d str, &'d T)>,
    ) -> Result<()> {
        let action = "store documents";
        let collection = self.collection().await?;
        let encode = |(id, document): (&str, &T)| {
            let mut encoded: Document =
                serialize_to_document(document).map_err(|error| Error::refused(self, action, error))?;
            encoded.insert("id", id);
            encoded.insert("kind", kind.name());
            Ok((Bson::String(kind.key(id)), encoded))
        };
        let encoded = documents.into_iter().map(encode).collect::<Result<Vec<_>>>()?;
        futures_util::stream::iter(encoded)
            .map(async |(id, document)| {
                let put = collection.replace_one(doc! { "_id": id }, document).upsert(true).await;
                put.map(drop).map_err(|error| self.error(action, error))
            })
            .buffer_unordered(WINDOW)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await
    }

    /// The one table from the server's errors to ours.
    fn error(&self, action: &str, error: mongodb::error::Error) -> Error {
        let code = match &*error.kind {
            ErrorKind::Command(error) => Some(error.code),
            ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
            ErrorKind::Write(WriteFailure::WriteConcernError(error)) => Some(error.code),
            _ => None,
        };
        let transient = match &*error.kind {
            ErrorKind::Io(_)
            | ErrorKind::ServerSelection { .. }
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::DnsResolve { .. } => true,
            _ => {
                error.contains_label("RetryableWriteError")
                    || error.contains_label("TransientTransactionError")
                    || code.is_some_and(|code| TRANSIENT.contains(&code) || code == DUPLICATE_KEY)
            }
        };
        // The driver's own text may repeat the connection string's host, never its password.
        let cause: Cause = error.to_string().into();
        if !transient {
            return Error::refused(self, action, cause);
        }
        let retry_after = retry_after(&cause.to_string());
        Error::Unavailable { provider: self.to_string(), action: action.into(), retry_after, source: cause }
    }
}

/// How long Cosmos DB asks to wait: `RetryAfterMs=32` in its message.
fn retry_after(message: &str) -> Option<Duration> {
    let (_, rest) = message.split_once("RetryAfterMs=")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
    digits.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling_and_no_secret() {
        let id = |server: &str, collection: &str| {
            let (database, collection) = ("d".to_owned(), collection.to_owned());
            Mongo::open(server, MongoConfig { database, collection, ca_file: None }).id()
        };
        let one = id("mongodb://u:secret@b:1,A/?replicaSet=r", "c");
        assert_eq!(one, "mongodb://a:27017,b:1/d.c");
        assert_eq!(one, id("mongodb://a:27017,b:1/?w=1", "c"));
        assert_eq!(id("mongodb://[::1]/", "c"), "mongodb://[::1]:27017/d.c");
        assert_ne!(one, id("mongodb://a,b:1/", "other"));
        assert_ne!(one, id("mongodb://a,b:2/", "c"));
    }

    #[test]
    fn cosmos_db_says_how_long_to_wait() {
        assert_eq!(retry_after("Error=16500, RetryAfterMs=32, Details"), Some(Duration::from_millis(32)));
        assert_eq!(retry_after("no hint"), None);
    }
}
