//! Documents in MongoDB, and in Azure Cosmos DB through its interface for MongoDB.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{StreamExt, TryStreamExt};
use mongodb::bson::{self, Bson, doc};
use mongodb::error::{ErrorKind, WriteFailure};
use mongodb::options::{
    Acknowledgment, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, Tls, TlsOptions,
    WriteConcern,
};
use mongodb::{Client, Collection, IndexModel};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{Document, DocumentProvider, Kind, PAGE};
use crate::error::{Cause, Error, Result};
use crate::setters::setters;
use crate::{blocking, tls};

/// Documents on their way at once.
const WINDOW: usize = 32;
/// How long finding a server and connecting to it may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a call looks for a server; whoever wants to wait for one repeats the call.
const SELECTION_TIMEOUT: Duration = Duration::from_secs(3);
/// Codes of the server that mean "later": interrupted, not primary, time limit, and [`RATE`].
const TRANSIENT: [i32; 16] =
    [6, 7, 50, 64, 89, 91, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436, RATE];
/// Cosmos DB's request rate is used up; its message says for how long.
const RATE: i32 = 16500;
/// Two upserts of one new document met: the repeat replaces what the other inserted.
const DUPLICATE_KEY: i32 = 11000;

/// The largest document, in bytes: MongoDB's limit is 16 MiB, and Cosmos DB's may be set to as much.
const LARGEST: usize = 16 * 1024 * 1024 - 16 * 1024;

/// Where documents go on the server.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MongoConfig {
    /// The database.
    pub database: String,
    /// The collection, which holds documents of every kind.
    pub collection: String,
    /// Certificates to trust besides the system's, as PEM.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

impl MongoConfig {
    /// Documents in `collection` of `database`.
    pub fn new(database: impl Into<String>, collection: impl Into<String>) -> Self {
        Self { database: database.into(), collection: collection.into(), ca_file: None }
    }
}

setters!(MongoConfig {} optional { ca_file: PathBuf });

/// Documents of one collection, as the JSON of the schemas with `_id`, `id` and `kind` besides; clones share the
/// connections.
#[derive(Clone)]
pub struct Mongo {
    url: String,
    config: MongoConfig,
    connected: Arc<OnceCell<Connected>>,
}

struct Connected {
    client: Client,
    collection: Collection<bson::Document>,
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

#[async_trait]
impl DocumentProvider for Mongo {
    fn refuses(&self, document: &Document) -> Option<String> {
        let encoded = match self.encode(Kind::Context, document) {
            Ok(encoded) => encoded,
            Err(error) => return Some(error.chain()),
        };
        if bson::serialize_to_vec(&encoded).is_ok_and(|encoded| encoded.len() > LARGEST) {
            return Some(format!("takes no document of more than {LARGEST} bytes"));
        }
        // Fields of ours and values of extended JSON, such as `{"$oid": …}`, are not what they were.
        let put: BTreeMap<String, Value> = serde_json::from_str(&document.json).ok()?;
        let read = serde_json::to_value(&encoded).ok()?;
        let (field, _) = put.iter().find(|(field, value)| read.get(field) != Some(*value))?;
        Some(format!("would change the field {field:?}"))
    }

    async fn get(&self, kind: Kind, id: &str) -> Result<Option<String>> {
        let action = format!("look up {}", kind.one());
        let found = self.collection().await?.find_one(doc! { "_id": key(kind, id) }).await;
        let found = found.map_err(|error| self.error(&action, error))?;
        found.map(|document| self.json(kind, id, &document)).transpose()
    }

    async fn put(&self, kind: Kind, documents: &[Document]) -> Result<()> {
        let action = format!("store {}", kind.many());
        let collection = self.collection().await?;
        let encoded = documents.iter().map(|document| self.encode(kind, document));
        let encoded = encoded.collect::<Result<Vec<_>>>()?;
        futures_util::stream::iter(encoded)
            .map(async |document| {
                let id = document.get("_id").cloned().unwrap_or(Bson::Null);
                let put = collection.replace_one(doc! { "_id": id }, document).upsert(true).await;
                put.map(drop).map_err(|error| self.error(&action, error))
            })
            .buffer_unordered(WINDOW)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await
    }

    async fn insert(&self, kind: Kind, document: &Document) -> Result<String> {
        let action = format!("store {} if there is none", kind.one());
        let collection = self.collection().await?;
        match collection.insert_one(self.encode(kind, document)?).await {
            Ok(_) => return Ok(document.json.clone()),
            Err(error) if code(&error) == Some(DUPLICATE_KEY) => {}
            Err(error) => return Err(self.error(&action, error)),
        }
        self.get(kind, &document.id).await?.ok_or_else(|| {
            Error::unavailable(self, action, "the server has such a document, and does not find it")
        })
    }

    async fn list(&self, kind: Kind, after: Option<&str>) -> Result<Vec<(String, String)>> {
        self.page(kind, after, doc! {}).await
    }

    async fn list_graph(
        &self,
        kind: Kind,
        correlation_id: &str,
        after: Option<&str>,
    ) -> Result<Vec<(String, String)>> {
        self.page(kind, after, doc! { "correlationId": correlation_id }).await
    }

    async fn delete(&self, kind: Kind, ids: &[String]) -> Result<()> {
        let action = format!("remove {}", kind.many());
        let keys: Vec<String> = ids.iter().map(|id| key(kind, id)).collect();
        let deleted = self.collection().await?.delete_many(doc! { "_id": { "$in": keys } }).await;
        deleted.map(drop).map_err(|error| self.error(&action, error))
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
        let action = "create the indexes";
        let index = |key: &str| IndexModel::builder().keys(doc! { key: 1 }).build();
        let Connected { client, collection, .. } = self.connected().await?;
        let made = collection.create_indexes([index("id"), index("correlationId")]).await;
        made.map_err(|error| match *error.kind {
            // It is the first call: the server is away, or knows no such user.
            ErrorKind::Authentication { .. } | ErrorKind::ServerSelection { .. } | ErrorKind::Io(_) => {
                self.error("connect", error)
            }
            _ => self.error(action, error),
        })?;
        self.check_shard_key(client).await?;
        if self.url.contains(".mongo.cosmos.azure.com") {
            tracing::warn!(
                "{self}: an account of Cosmos DB with several write regions decides by the last writer: write to \
                 one region only, or attempts of one execution must not overlap"
            );
        }
        Ok(())
    }
}

/// Kinds share the collection, but never an `_id`.
fn key(kind: Kind, id: &str) -> String {
    format!("{}:{id}", kind.name())
}

impl Mongo {
    /// The next documents of a kind after an id, by this filter.
    async fn page(
        &self,
        kind: Kind,
        after: Option<&str>,
        mut filter: bson::Document,
    ) -> Result<Vec<(String, String)>> {
        let action = format!("list {}", kind.many());
        // A colon is followed by a semicolon: the ids of a kind end before it.
        let end = format!("{};", kind.name());
        filter.insert("_id", doc! { "$gt": key(kind, after.unwrap_or_default()), "$lt": end });
        let find = self.collection().await?.find(filter).sort(doc! { "_id": 1 });
        let found = find.limit(PAGE.try_into().unwrap_or(i64::MAX)).await;
        let found = found.map_err(|error| self.error(&action, error))?;
        let found: Vec<bson::Document> =
            found.try_collect().await.map_err(|error| self.error(&action, error))?;
        let entry = |document: bson::Document| {
            let id = document.get_str("_id").unwrap_or_default();
            let id = id.split_once(':').map_or(id, |(_, id)| id).to_owned();
            let json = self.json(kind, &id, &document)?;
            Ok((id, json))
        };
        found.into_iter().map(entry).collect()
    }

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

    async fn collection(&self) -> Result<&Collection<bson::Document>> {
        Ok(&self.connected().await?.collection)
    }

    async fn connected(&self) -> Result<&Connected> {
        let connect = async || {
            let settings = |error| match self.error("connect", error) {
                Error::Refused { provider, source, .. } => Error::Settings { provider, source },
                other => other,
            };
            let mut options = ClientOptions::parse(&self.url).await.map_err(settings)?;
            options.app_name.get_or_insert_with(|| "sidecar".into());
            options.server_selection_timeout.get_or_insert(SELECTION_TIMEOUT);
            options.connect_timeout.get_or_insert(CONNECT_TIMEOUT);
            // What decides an outcome must survive the loss of a primary, whatever the URL says.
            options.write_concern =
                Some(WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build());
            options.read_concern = Some(ReadConcern::majority());
            options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
            if options.tls.is_none() && self.url.starts_with("mongodb+srv:") {
                options.tls = Some(Tls::Enabled(TlsOptions::default()));
            }
            let mut roots = None;
            // The URL may name a file of its own with `tlsCAFile`.
            if let Some(Tls::Enabled(tls @ TlsOptions { ca_file_path: None, .. })) = &mut options.tls {
                let ca_file = self.config.ca_file.clone();
                let made = blocking(move || Ok(tls::roots_file(ca_file.as_deref()))).await?;
                roots = made.map_err(|error| Error::settings(self, error))?;
                tls.ca_file_path = roots.as_ref().map(|file| crate::os::descriptor_path(file.as_fd()));
            }
            let client = Client::with_options(options).map_err(settings)?;
            let collection = client.database(&self.config.database).collection(&self.config.collection);
            Ok(Connected { client, collection, _roots: roots })
        };
        self.connected.get_or_try_init(connect).await
    }

    fn encode(&self, kind: Kind, document: &Document) -> Result<bson::Document> {
        let refused = |error: serde_json::Error| Error::refused(self, format!("store {}", kind.one()), error);
        let mut encoded: bson::Document = serde_json::from_str(&document.json).map_err(refused)?;
        encoded.insert("_id", key(kind, &document.id));
        encoded.insert("id", document.id.as_str());
        encoded.insert("kind", kind.name());
        Ok(encoded)
    }

    fn json(&self, kind: Kind, id: &str, document: &bson::Document) -> Result<String> {
        serde_json::to_string(document).map_err(|error| Error::Corrupt {
            provider: self.to_string(),
            what: format!("{} {id:?}", kind.name()),
            problem: error.to_string(),
        })
    }

    /// Where a collection is sharded by anything but `_id`, two shards may each hold a document of one `_id`.
    async fn check_shard_key(&self, client: &Client) -> Result<()> {
        let action = "look up how the collection is sharded";
        let hello = client.database("admin").run_command(doc! { "hello": 1 }).await;
        let hello = hello.map_err(|error| self.error(action, error))?;
        if hello.get_str("msg").ok() != Some("isdbgrid") {
            return Ok(());
        }
        let MongoConfig { database, collection, .. } = &self.config;
        let collections = client.database("config").collection::<bson::Document>("collections");
        let found = collections.find_one(doc! { "_id": format!("{database}.{collection}") }).await;
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                let error = error.to_string();
                tracing::warn!(error, "{self}: cannot look up the shard key; it must be _id");
                return Ok(());
            }
        };
        match found.as_ref().and_then(|found| found.get_document("key").ok()) {
            Some(key) if !decides_by(key) => Err(Error::refused(
                self,
                "decide in this collection",
                format!("it is sharded by {key}: shard it by _id, or take one that is not sharded"),
            )),
            _ => Ok(()),
        }
    }

    /// The one table from the server's errors to ours.
    fn error(&self, action: &str, error: mongodb::error::Error) -> Error {
        let code = code(&error);
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
        let cause: Cause = brief(&error).into();
        if !transient {
            return Error::refused(self, action, cause);
        }
        let retry_after = retry_after(&cause.to_string());
        Error::Unavailable { provider: self.to_string(), action: action.into(), retry_after, source: cause }
    }
}

/// The error in one short sentence, without the driver's picture of the servers.
fn brief(error: &mongodb::error::Error) -> String {
    let text = error.to_string();
    tracing::debug!(%text, "the driver's whole error");
    match &*error.kind {
        ErrorKind::ServerSelection { .. } => {
            let why = text.split_once("Error: Kind: ").and_then(|(_, rest)| rest.split_once(", labels"));
            format!("no server can be reached: {}", why.map_or("none answers in time", |(why, _)| why))
        }
        _ => {
            let text = text.strip_prefix("Kind: ").unwrap_or(&text);
            text.split_once(", labels: {").map_or(text, |(text, _)| text).to_owned()
        }
    }
}

/// Whether documents of one `_id` always meet on one shard.
fn decides_by(shard_key: &bson::Document) -> bool {
    shard_key.len() == 1 && shard_key.contains_key("_id")
}

fn code(error: &mongodb::error::Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => Some(error.code),
        _ => None,
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
    fn only_a_shard_key_of_the_id_alone_decides() {
        assert!(decides_by(&doc! { "_id": 1 }) && decides_by(&doc! { "_id": "hashed" }));
        assert!(!decides_by(&doc! { "correlationId": 1 }) && !decides_by(&doc! { "_id": 1, "kind": 1 }));
    }

    #[test]
    fn cosmos_db_says_how_long_to_wait() {
        assert_eq!(retry_after("Error=16500, RetryAfterMs=32, Details"), Some(Duration::from_millis(32)));
        assert_eq!(retry_after("no hint"), None);
    }
}
