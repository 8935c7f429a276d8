//! Outcomes that are old go as a whole, and what somebody may still need stays.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sidecar_core::documents::{Document, Kind};

use sidecar_core::lineage::{Expired, Retention, Scope, Trace, expire};
use sidecar_core::{
    BlobProvider as _, Context, DataPlane, DeadLetter, DocumentProvider, Documents as _, Error, Event,
    EventContext, EventId, KeyValuePairs, ModuleName, Publication, Result, Session, Start, Submission, blob,
    documents, events, recover,
};
use tempfile::TempDir;

use crate::scene::{Scene, files};

const NOW: Duration = Duration::ZERO;
const LATER: Duration = Duration::from_secs(3600);

fn module(name: &str, age: Duration) -> (Scope, Duration) {
    (Scope::Module(ModuleName::parse(name).unwrap()), age)
}

async fn expired(
    plane: &DataPlane,
    rules: impl IntoIterator<Item = (Scope, Duration)>,
    delete: bool,
) -> Expired {
    // Whatever is decided now is older than no time at all only later.
    tokio::time::sleep(Duration::from_millis(5)).await;
    expire(plane, &Retention::from_iter(rules), delete).await.unwrap()
}

/// How many executions go, by module.
fn counts(expired: &Expired) -> Vec<(String, u64)> {
    expired.modules.iter().map(|(module, (count, _))| (module.to_string(), *count)).collect()
}

/// A submission that `first` has made two events of, each of which `next` has worked on.
async fn chain(plane: &DataPlane) -> (EventId, Vec<EventId>) {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a"), "submitted").unwrap();
    let submission = Submission::new("begin").path(dir.path().join("a")).unwrap();
    let event = submission.submit(plane).await.unwrap();
    let first = scene(plane, "first", &event);
    let session = open(&first, Start::Resume).await;
    session.ready().await.unwrap();
    first.write_outputs();
    let published: Vec<_> =
        session.done().await.unwrap().events.iter().map(|event| event.event_id.clone()).collect();
    for event in &published {
        let next = scene(plane, "next", event);
        let session = open(&next, Start::Resume).await;
        session.ready().await.unwrap();
        next.write("out/data/end", "end");
        session.done().await.unwrap();
    }
    (event, published)
}

fn scene(plane: &DataPlane, module: &'static str, event: &EventId) -> Scene {
    let mut scene = Scene::new(plane.clone());
    (scene.module, scene.event) = (module, event.clone());
    scene
}

/// A session in the graph of its event.
async fn open(scene: &Scene, start: Start) -> Session {
    let mut settings = scene.settings();
    settings.context.correlation_id = String::new();
    settings.start = start;
    Session::open(settings, scene.plane.clone()).await.unwrap()
}

async fn keys(plane: &DataPlane) -> usize {
    plane.blobs.list("", None).await.unwrap().len()
}

#[tokio::test]
async fn what_is_old_goes_as_a_whole() {
    let dir = TempDir::new().unwrap();
    let plane = DataPlane::local(dir.path()).unwrap();
    chain(&plane).await;
    let before = (keys(&plane).await, files(dir.path()));
    assert!(counts(&expired(&plane, [(Scope::All, LATER)], true).await).is_empty());
    // Nothing is deleted that was only to be shown.
    let shown = expired(&plane, [(Scope::All, NOW)], false).await;
    assert_eq!(counts(&shown), [("first".into(), 1), ("next".into(), 2)]);
    assert_eq!((shown.submissions, shown.needed, shown.deleted), (1, 0, Default::default()));
    assert_eq!((keys(&plane).await, files(dir.path())), before);
    let deleted = expired(&plane, [(Scope::All, NOW)], true).await;
    assert_eq!(deleted.modules, shown.modules);
    let left: Vec<_> = files(dir.path()).into_iter().filter(|name| !is_of_the_store(name)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(counts(&expired(&plane, [(Scope::All, NOW)], true).await).is_empty());
}

/// What belongs to the store itself, and to the bus.
fn is_of_the_store(name: &str) -> bool {
    name.starts_with("events/")
        || Path::new(name).file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

#[tokio::test]
async fn what_something_younger_refers_to_stays() {
    let plane = DataPlane::memory();
    let (event, published) = chain(&plane).await;
    // Its events are still worked on by `next`, whose outcomes are kept for longer.
    let kept = expired(&plane, [module("first", NOW), module("next", LATER)], true).await;
    assert_eq!((counts(&kept), kept.needed), (Vec::new(), 1));
    // The other way round only the leaves go.
    let kept = expired(&plane, [module("next", NOW), module("first", LATER)], true).await;
    assert_eq!((counts(&kept), kept.submissions), (vec![("next".into(), 2)], 0));
    let trace = Trace::of(&plane, event.as_str()).await.unwrap();
    assert_eq!((trace.executions.len(), trace.events.len()), (1, 3));
    assert!(trace.verify(&plane).await.unwrap().damaged.is_empty());
    // An event whose outcome is gone can be worked on as if for the first time.
    let next = scene(&plane, "next", &published[0]);
    open(&next, Start::Resume).await.ready().await.unwrap();
    assert_eq!(next.read("in/data/b/x"), "bx");
}

#[tokio::test]
async fn the_longest_of_the_rules_for_an_outcome_counts() {
    let plane = DataPlane::memory();
    chain(&plane).await;
    let begin = || (Scope::Type("begin".into()), LATER);
    assert_eq!(counts(&expired(&plane, [(Scope::All, NOW), begin()], false).await), [("next".into(), 2)]);
    let both = [module("first", NOW), begin(), (Scope::All, LATER)];
    assert!(counts(&expired(&plane, both, false).await).is_empty());
    // A rule of its own is stronger than that for all.
    let own = [(Scope::All, LATER), module("next", NOW)];
    assert_eq!(counts(&expired(&plane, own, false).await), [("next".into(), 2)]);
    assert!(counts(&expired(&plane, [module("other", NOW)], false).await).is_empty());
}

#[tokio::test]
async fn what_failed_and_what_ran_again_goes_with_its_outcome() {
    let dir = TempDir::new().unwrap();
    let plane = DataPlane::local(dir.path()).unwrap();
    let event = Submission::new("begin").value("k", "v").submit(&plane).await.unwrap();
    let first = scene(&plane, "first", &event);
    let session = open(&first, Start::Resume).await;
    session.ready().await.unwrap();
    session.fail("once").await.unwrap();
    drop(session);
    for start in [Start::Restart, Start::Rerun] {
        let session = open(&first, start).await;
        session.ready().await.unwrap();
        first.write_outputs();
        session.done().await.unwrap();
    }
    let deleted = expired(&plane, [(Scope::All, NOW)], true).await;
    assert_eq!(counts(&deleted), [("first".into(), 1)]);
    let left: Vec<_> = files(dir.path()).into_iter().filter(|name| !is_of_the_store(name)).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Whatever was deleted when it was interrupted, the next start deletes the rest.
#[tokio::test]
async fn an_interrupted_removal_is_gone_on_with() {
    for calls in 0.. {
        let store = Stopping::default();
        let plane = DataPlane::new(blob::Memory::default(), store.clone(), events::Memory::default());
        chain(&plane).await;
        store.left.store(calls, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(5)).await;
        let rules = Retention::from_iter([(Scope::All, NOW)]);
        let whole = expire(&plane, &rules, true).await.is_ok();
        store.left.store(usize::MAX, Ordering::SeqCst);
        expired(&plane, [(Scope::All, NOW)], true).await;
        assert_eq!(keys(&plane).await, 0, "after {calls} calls");
        for kind in Kind::ALL {
            assert!(
                plane.documents.list(kind, None).await.unwrap().is_empty(),
                "{kind:?} after {calls} calls"
            );
        }
        if whole {
            assert!(calls > 10, "{calls}");
            return;
        }
    }
}

/// A store that deletes for so many calls.
#[derive(Debug, Clone)]
struct Stopping {
    inner: documents::Memory,
    left: Arc<AtomicUsize>,
}

impl Default for Stopping {
    fn default() -> Self {
        Self { inner: documents::Memory::default(), left: Arc::new(AtomicUsize::new(usize::MAX)) }
    }
}

impl std::fmt::Display for Stopping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stopping")
    }
}

#[async_trait]
impl DocumentProvider for Stopping {
    async fn get(&self, kind: Kind, id: &str) -> Result<Option<String>> {
        self.inner.get(kind, id).await
    }
    async fn put(&self, kind: Kind, documents: &[Document]) -> Result<()> {
        self.inner.put(kind, documents).await
    }
    async fn insert(&self, kind: Kind, document: &Document) -> Result<String> {
        self.inner.insert(kind, document).await
    }
    async fn list(&self, kind: Kind, after: Option<&str>) -> Result<Vec<(String, String)>> {
        self.inner.list(kind, after).await
    }
    async fn delete(&self, kind: Kind, ids: &[String]) -> Result<()> {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
            self.left.store(0, Ordering::SeqCst);
            return Err(Error::unavailable(self, "delete", "it is away"));
        }
        self.inner.delete(kind, ids).await
    }
}

/// What nobody can read keeps no other outcome from being published.
#[tokio::test]
async fn a_damaged_record_does_not_stop_recovery() {
    let plane = DataPlane::memory();
    let (event, _) = chain(&plane).await;
    let published: Vec<Publication> = plane.documents.graph(event.as_str()).await.unwrap();
    let ids: Vec<_> = published.iter().map(|note| note.id.clone()).collect();
    plane.documents.delete(Kind::Published, &ids).await.unwrap();
    let (id, correlation_id) = ("damaged".to_owned(), "c".to_owned());
    let damaged = Document { id, correlation_id, json: "{\"format\":1}".into() };
    plane.documents.put(Kind::Execution, &[damaged]).await.unwrap();
    let recovered = recover(&plane).await.unwrap();
    assert_eq!((recovered.published, recovered.failed), (3, 1));
}

/// A letter that stayed behind its event's outcome keeps nothing.
#[tokio::test]
async fn a_letter_without_a_meaning_goes_with_its_outcome() {
    let plane = DataPlane::memory();
    let (event, _) = chain(&plane).await;
    let header: EventContext = plane.documents.find(event.as_str()).await.unwrap().unwrap();
    let letter = |name: &str, id: &str| DeadLetter {
        context: Context {
            name: ModuleName::parse(name).unwrap(),
            event_id: event.clone(),
            correlation_id: event.to_string(),
            parent_event_id: String::new(),
        },
        id: id.into(),
        group: name.into(),
        event: Event {
            context: header.context.clone(),
            event_type: "begin".into(),
            previous_stages: Vec::new(),
            data: KeyValuePairs::default(),
            traceparent: None,
        },
        reason: "gave up".into(),
        failure: None,
        attempts: 5,
        time: "2026-01-01T00:00:00Z".into(),
    };
    // That of a module without an outcome keeps the event.
    plane.documents.store(&[letter("other", "l1")]).await.unwrap();
    assert_eq!(expired(&plane, [(Scope::All, NOW)], false).await.submissions, 0);
    plane.documents.delete(Kind::DeadLetter, &["l1".to_owned()]).await.unwrap();
    plane.documents.store(&[letter("first", "l2")]).await.unwrap();
    let gone = expired(&plane, [(Scope::All, NOW)], true).await;
    assert_eq!(counts(&gone), [("first".to_owned(), 1), ("next".to_owned(), 2)]);
    assert!(plane.documents.page::<DeadLetter>(None).await.unwrap().is_empty());
}
