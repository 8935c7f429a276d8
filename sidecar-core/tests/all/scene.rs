//! What the tests play with: a base directory, a data plane that can be told to fail, a module's outputs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use sidecar_core::blob::{self, Descriptor, Source, Target};
use sidecar_core::documents::{Document, Kind};
use sidecar_core::{
    BlobKey, BlobProvider, Context, DataPlane, DocumentProvider, Error, Event, EventId, EventProvider, First,
    Layout, ModuleName, Result, Session, Settings, documents, events,
};
use tempfile::TempDir;
use url::Url;

/// The provider calls so far, and which of them fail.
#[derive(Debug, Clone, Default)]
pub struct Script {
    calls: Arc<Mutex<Vec<String>>>,
    failing: Arc<Mutex<Option<(&'static str, usize)>>>,
}

impl Script {
    /// Fails the next `times` calls of this name.
    pub fn fail(&self, call: &'static str, times: usize) {
        *self.failing.lock().unwrap() = Some((call, times));
    }

    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    /// The calls so far that are not among those of opening a session.
    pub fn calls_after_open(&self) -> Vec<String> {
        let calls = self.calls();
        assert_eq!(calls.get(..2), Some(&["find_record".to_owned(), "event_context".to_owned()][..]));
        calls[2..].to_vec()
    }

    fn call(&self, name: &'static str) -> Result<()> {
        if let Some((failing, times)) = &mut *self.failing.lock().unwrap()
            && *failing == name
            && *times > 0
        {
            *times -= 1;
            return Err(Error::Unavailable {
                provider: "script".into(),
                action: name.into(),
                retry_after: None,
                source: "scripted".into(),
            });
        }
        self.calls.lock().unwrap().push(name.to_owned());
        Ok(())
    }
}

/// A provider that keeps in memory what the script lets through.
#[derive(Debug, Clone, Default)]
pub struct Scripted {
    pub script: Script,
    pub blobs: blob::Memory,
    pub documents: documents::Memory,
    pub events: events::Memory,
}

impl std::fmt::Display for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("script")
    }
}

#[async_trait]
impl BlobProvider for Scripted {
    async fn put(&self, key: &BlobKey, source: &Source) -> Result<Descriptor> {
        self.script.call("put")?;
        self.blobs.put(key, source).await
    }
    async fn get(&self, key: &BlobKey, target: &Target) -> Result<Descriptor> {
        self.script.call("get")?;
        self.blobs.get(key, target).await
    }
    async fn flush(&self, _: &[BlobKey]) -> Result<()> {
        self.script.call("flush")
    }
    async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<Vec<blob::Listed>> {
        self.script.call("list")?;
        self.blobs.list(prefix, after).await
    }
    async fn delete(&self, keys: &[BlobKey]) -> Result<()> {
        self.script.call("delete")?;
        self.blobs.delete(keys).await
    }
    async fn uri(&self, key: &BlobKey) -> Result<Url> {
        Ok(Url::parse("https://blobs.example/").unwrap().join(&format!("{key}?sig=signature")).unwrap())
    }
}

#[async_trait]
impl DocumentProvider for Scripted {
    async fn get(&self, kind: Kind, id: &str) -> Result<Option<String>> {
        self.script.call(match kind {
            Kind::Context => "event_context",
            Kind::Execution => "find_record",
            _ => "find",
        })?;
        self.documents.get(kind, id).await
    }
    async fn put(&self, kind: Kind, documents: &[Document]) -> Result<()> {
        self.script.call(match kind {
            Kind::Context => "put_event_contexts",
            Kind::Insight => "put_insight",
            Kind::Failure => "put_failure",
            Kind::Published => "put_published",
            _ => "put_outbox",
        })?;
        self.documents.put(kind, documents).await
    }
    async fn insert(&self, kind: Kind, document: &Document) -> Result<String> {
        self.script.call("decide")?;
        self.documents.insert(kind, document).await
    }
    async fn list(&self, kind: Kind, after: Option<&str>) -> Result<Vec<(String, String)>> {
        self.documents.list(kind, after).await
    }
    async fn delete(&self, kind: Kind, ids: &[String]) -> Result<()> {
        self.documents.delete(kind, ids).await
    }
}

#[async_trait]
impl EventProvider for Scripted {
    async fn publish(&self, events: &[Event]) -> Result<()> {
        self.script.call("publish")?;
        self.events.publish(events).await
    }
}

impl Scripted {
    pub fn plane(&self) -> DataPlane {
        DataPlane::new(self.clone(), self.clone(), self.clone())
    }
}

/// One module's base directory beside a data plane.
pub struct Scene {
    pub base: TempDir,
    pub plane: DataPlane,
    pub event: EventId,
    pub module: &'static str,
}

impl Scene {
    pub fn new(plane: DataPlane) -> Self {
        Self { base: TempDir::new().unwrap(), plane, event: EventId::parse("e1").unwrap(), module: "first" }
    }

    /// The next module, for this event, on the same data plane.
    pub fn next(&self, module: &'static str, event: &EventId) -> Self {
        Self { base: TempDir::new().unwrap(), plane: self.plane.clone(), event: event.clone(), module }
    }

    pub fn settings(&self) -> Settings {
        let context = Context {
            name: ModuleName::parse(self.module).unwrap(),
            event_id: self.event.clone(),
            correlation_id: "c1".into(),
            parent_event_id: String::new(),
        };
        let mut settings = Settings::new(context, Layout::new(self.base.path()));
        settings.first = First::Allowed;
        settings
    }

    pub async fn open(&self) -> Session {
        Session::open(self.settings(), self.plane.clone()).await.unwrap()
    }

    pub async fn ready(&self) -> Session {
        let session = self.open().await;
        session.ready().await.unwrap();
        session
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// An event file of this type with these files.
    pub fn write_event(&self, name: &str, event_type: &str, files: &str) {
        let json = serde_json::json!([
            {"key": "eventType", "value": event_type},
            {"key": "files", "value": files},
            {"key": "note", "value": "travels on"},
        ]);
        self.write(&format!("out/events/{name}"), json.to_string());
    }

    /// Two files, an insight and two events.
    pub fn write_outputs(&self) {
        self.write("out/data/a/x", "ax");
        self.write("out/data/b/x", "bx");
        self.write("out/meta.json", r#"[{"key":"k","value":"v"}]"#);
        self.write_event("1.json", "one", "a/x,b/x");
        self.write_event("2.json", "two", "b/x");
    }
}

/// The names of the regular files below `root`, sorted.
pub fn files(root: impl AsRef<Path>) -> Vec<String> {
    fn walk(root: &Path, dir: &Path, found: &mut Vec<String>) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(root.as_ref(), root.as_ref(), &mut found);
    found.sort();
    found
}
