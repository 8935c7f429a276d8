//! A data plane of its own for every execution, and eyes on it from outside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sidecar_core::blob::{AzureConfig, Bucket, DEFAULT_EXPIRY, S3Config, Source, Target};
use sidecar_core::documents::{Mongo, MongoConfig, Postgres};
use sidecar_core::{
    Blob, BlobKey, BlobProvider, DocumentProvider, Documents, Event, EventContext, EventId, FileName, blob,
    documents, events,
};
use tempfile::TempDir;

use crate::bus::Bus;
use crate::servers;

/// The event that every execution processes.
pub const EVENT: &str = "crash-event";

/// Which stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Local,
    /// SeaweedFS, PostgreSQL and NATS.
    Cluster,
    /// Azurite, SecantusDB and RabbitMQ.
    Azure,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local files",
            Self::Cluster => "SeaweedFS, PostgreSQL, NATS",
            Self::Azure => "Azurite, SecantusDB, RabbitMQ",
        }
    }
}

/// The stores of one execution.
pub struct Plane {
    pub dir: TempDir,
    pub env: Vec<(&'static str, String)>,
    pub blobs: Arc<dyn BlobProvider>,
    pub documents: Arc<dyn DocumentProvider>,
    bus: Bus,
}

impl Plane {
    /// Fresh stores that hold the input of `EVENT`; `None` where a server is missing.
    pub async fn new(kind: Kind, number: usize) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let name = format!("crash{}x{number}", std::process::id());
        let plane = match kind {
            Kind::Local => Self::local(dir),
            Kind::Cluster => Self::cluster(dir, &name).await?,
            Kind::Azure => Self::azure(dir, &name).await?,
        };
        plane.submit().await;
        Some(plane)
    }

    fn local(dir: TempDir) -> Self {
        let root = dir.path().join("plane");
        let url = format!("file://{}", root.display());
        Self {
            env: ["SIDECAR_BLOBS", "SIDECAR_DOCUMENTS", "SIDECAR_EVENTS"]
                .map(|name| (name, url.clone()))
                .to_vec(),
            blobs: Arc::new(blob::Local::open(&root).unwrap()),
            documents: Arc::new(documents::Local::open(&root).unwrap()),
            bus: Bus::Local(events::Local::open(&root).unwrap()),
            dir,
        }
    }

    async fn cluster(dir: TempDir, name: &str) -> Option<Self> {
        let (s3, postgres, nats) = (servers::seaweedfs()?, servers::postgres()?, servers::nats()?);
        let config = S3Config::default()
            .endpoint(s3.clone())
            .region("us-east-1")
            .access_key_id(servers::S3_KEY)
            .secret_access_key(servers::S3_SECRET);
        let root = format!("s3://test/{name}").parse().unwrap();
        let table = format!("{postgres}?table={name}");
        let documents = Postgres::open(&table.parse().unwrap(), None).unwrap();
        servers::answering(|| documents.check()).await;
        Some(Self {
            env: vec![
                ("SIDECAR_BLOBS", format!("s3://test/{name}?endpoint={s3}&region=us-east-1")),
                ("AWS_ACCESS_KEY_ID", servers::S3_KEY.into()),
                ("AWS_SECRET_ACCESS_KEY", servers::S3_SECRET.into()),
                ("SIDECAR_DOCUMENTS", table),
                ("SIDECAR_EVENTS", format!("{nats}/{name}")),
            ],
            blobs: Arc::new(Bucket::s3(&root, &config, DEFAULT_EXPIRY).unwrap()),
            documents: Arc::new(documents),
            bus: Bus::nats(nats, name),
            dir,
        })
    }

    async fn azure(dir: TempDir, name: &str) -> Option<Self> {
        let (azurite, mongodb, broker) = (servers::azurite()?, servers::secantusdb()?, servers::rabbitmq()?);
        let account = "devstoreaccount1";
        let config =
            AzureConfig::default().account(account).key(servers::AZURITE_KEY).endpoint(azurite.clone());
        let blobs = Bucket::azure(&format!("az://crash/{name}").parse().unwrap(), &config, DEFAULT_EXPIRY);
        let blobs = blobs.unwrap();
        let config = MongoConfig::new("crash", name);
        let documents = Mongo::open(&mongodb, config);
        servers::answering(|| blobs.check()).await;
        servers::answering(|| documents.check()).await;
        let (server, query) = mongodb.split_once('?').unwrap_or((&mongodb, ""));
        Some(Self {
            env: vec![
                ("SIDECAR_BLOBS", format!("az://crash/{name}?account={account}&endpoint={azurite}")),
                ("SIDECAR_AZUREBLOBPROVIDER_BLOBACCOUNTKEY", servers::AZURITE_KEY.into()),
                ("SIDECAR_DOCUMENTS", format!("{}/crash.{name}?{query}", server.trim_end_matches('/'))),
                ("SIDECAR_EVENTS", format!("{broker}/{name}?queue={name}")),
            ],
            blobs: Arc::new(blobs),
            documents: Arc::new(documents),
            bus: Bus::amqp(&broker, name).await,
            dir,
        })
    }

    /// Puts an input file and a value under `EVENT`.
    async fn submit(&self) {
        let input = self.dir.path().join("input");
        std::fs::write(&input, "input").unwrap();
        let name = FileName::parse("deep/input.txt").unwrap();
        let key = BlobKey::parse(&format!("{EVENT}/.submit/input.txt")).unwrap();
        let stored = self.blobs.put(&key, &Source::file(input).unwrap()).await.unwrap();
        self.blobs.flush(std::slice::from_ref(&key)).await.unwrap();
        let blob =
            Blob { name: name.clone(), key, size: stored.size, digest: stored.digest, executable: false };
        let context = serde_json::json!({
            "eventId": EVENT, "correlationId": "c", "files": [name], "data": [{"key": "k", "value": "v"}], "blobs": [blob]
        });
        self.documents.store::<EventContext>(&[serde_json::from_value(context).unwrap()]).await.unwrap();
    }

    pub async fn context(&self, id: &EventId) -> Option<EventContext> {
        self.documents.find::<EventContext>(id.as_str()).await.unwrap()
    }

    /// The content of a blob, or `None` when it is not there or other than the manifest says.
    pub async fn content(&self, blob: &Blob) -> Option<Vec<u8>> {
        let target = Target::file(self.dir.path().join("fetched").join(uuid::Uuid::new_v4().to_string()));
        let found = self.blobs.get(&blob.key, &target).await.ok()?;
        let content = std::fs::read(target.path()).unwrap();
        std::fs::remove_file(target.path()).unwrap();
        (found.digest == blob.digest && found.size == blob.size).then_some(content)
    }

    /// Every event on the bus.
    pub async fn published(&self) -> Vec<Event> {
        self.bus.published().await
    }

    /// The files of a local plane, by name; nothing for stores that are no files.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let root = self.dir.path().join("plane");
        walk(&root, &root, &mut found);
        found
    }
}

pub fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(root, &path, found);
        } else {
            found.insert(
                path.strip_prefix(root).unwrap().to_owned(),
                std::fs::read(&path).unwrap_or_default(),
            );
        }
    }
}
