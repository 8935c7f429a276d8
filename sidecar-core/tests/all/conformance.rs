//! Every provider keeps every guarantee of its trait; so does every layer.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sidecar_core::conformance::events::Consumer;
use sidecar_core::layers::{CircuitBreaker, Fault, Injected, RateLimit, Retry, Timeout};
use sidecar_core::{BlobProvider, DocumentProvider, Event, EventProvider, blob, documents, events};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(10);

/// A directory that outlives the expression that opens a provider in it; `cargo clean` removes it.
fn dir() -> PathBuf {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap().keep()
}

/// A store whose directory is removed once it is open.
fn removed<P>(open: impl FnOnce(&Path) -> P) -> P {
    let dir = dir();
    let store = open(&dir);
    std::fs::remove_dir_all(dir).unwrap();
    store
}

/// Where a local store was opened.
fn root(directories: &[PathBuf]) -> &Path {
    directories[0].parent().unwrap()
}

mod blob_memory {
    use super::*;
    sidecar_core::conformance_blob!(
        blob::Memory::default(),
        reopen: async |store| blob::Memory::clone(store),
    );
}

mod blob_local {
    use super::*;
    sidecar_core::conformance_blob!(
        blob::Local::open(dir()).unwrap(),
        reopen: async |store| blob::Local::open(root(&store.directories())).unwrap(),
        away: removed(|dir| blob::Local::open(dir).unwrap()),
        large: 256 << 20,
    );
}

mod blob_boxed {
    use super::*;

    fn open(dir: &Path) -> Box<dyn BlobProvider> {
        Box::new(blob::Local::open(dir).unwrap())
    }

    sidecar_core::conformance_blob!(
        open(&dir()),
        reopen: async |store| open(root(&store.directories())),
        away: removed(open),
        large: 256 << 20,
    );
}

mod documents_memory {
    use super::*;
    sidecar_core::conformance_documents!(
        documents::Memory::default(),
        reopen: async |store| documents::Memory::clone(store),
    );
}

mod documents_local {
    use super::*;
    sidecar_core::conformance_documents!(
        documents::Local::open(dir()).unwrap(),
        reopen: async |store| documents::Local::open(root(&store.directories())).unwrap(),
        away: removed(|dir| documents::Local::open(dir).unwrap()),
    );
}

mod documents_boxed {
    use super::*;

    fn open(dir: &Path) -> Box<dyn DocumentProvider> {
        Box::new(documents::Local::open(dir).unwrap())
    }

    sidecar_core::conformance_documents!(
        open(&dir()),
        reopen: async |store| open(root(&store.directories())),
        away: removed(open),
    );
}

struct Memory {
    memory: events::Memory,
    provider: Box<dyn EventProvider>,
}

impl Memory {
    fn new(wrap: impl FnOnce(events::Memory) -> Box<dyn EventProvider>) -> Self {
        let memory = events::Memory::default();
        Self { provider: wrap(memory.clone()), memory }
    }
}

#[async_trait]
impl Consumer for Memory {
    fn provider(&self) -> &dyn EventProvider {
        &*self.provider
    }
    async fn arrived(&self) -> Vec<Event> {
        self.memory.published()
    }
    fn drops_repeats(&self) -> bool {
        true
    }
}

struct Local(events::Local);

#[async_trait]
impl Consumer for Local {
    fn provider(&self) -> &dyn EventProvider {
        &self.0
    }
    async fn arrived(&self) -> Vec<Event> {
        self.0.published().unwrap()
    }
    fn drops_repeats(&self) -> bool {
        true
    }
}

mod events_memory {
    use super::*;
    sidecar_core::conformance_events!(
        Memory::new(|memory| Box::new(memory)),
        reopen: async |bus| bus.memory.clone(),
    );
}

mod events_local {
    use super::*;
    sidecar_core::conformance_events!(
        Local(events::Local::open(dir()).unwrap()),
        reopen: async |bus| events::Local::open(root(&bus.0.directories())).unwrap(),
        away: removed(|dir| events::Local::open(dir).unwrap()),
    );
}

mod events_boxed {
    use super::*;

    fn open(memory: events::Memory) -> Box<dyn EventProvider> {
        Box::new(Box::new(memory) as Box<dyn EventProvider>)
    }

    sidecar_core::conformance_events!(
        Memory::new(open),
        reopen: async |bus| open(bus.memory.clone()),
        away: removed(|dir| Box::new(events::Local::open(dir).unwrap()) as Box<dyn EventProvider>),
    );
}

type Layers<P> = Retry<RateLimit<CircuitBreaker<Timeout<Fault<P>>>>>;

/// The layers as the binary composes them.
fn layers<P: std::fmt::Display>(faulty: Fault<P>, budget: Duration) -> Layers<P> {
    let breaker = CircuitBreaker::new(Timeout::new(faulty, LIMIT), NonZeroU32::MAX, LIMIT);
    Retry::new(RateLimit::new(breaker, NonZeroU32::new(10_000).unwrap()), budget)
}

/// Calls fail now and then, and the layers make up for it.
fn wrapped<P: std::fmt::Display>(provider: P) -> Layers<P> {
    let faulty = Fault::new(provider, |_, n| match n {
        0 | 3 => Injected::Unavailable,
        1 => Injected::AnswerLost,
        _ => Injected::Nothing,
    });
    layers(faulty, LIMIT)
}

/// All calls fail, for longer than the layers are patient.
fn away<P: std::fmt::Display>(provider: P) -> Layers<P> {
    layers(Fault::new(provider, |_, _| Injected::Unavailable), Duration::from_millis(100))
}

mod blob_wrapped {
    use super::*;
    sidecar_core::conformance_blob!(
        wrapped(blob::Memory::default()),
        reopen: async |store| Layers::clone(store),
        away: away(blob::Memory::default()),
    );
}

mod documents_wrapped {
    use super::*;
    sidecar_core::conformance_documents!(
        wrapped(documents::Memory::default()),
        reopen: async |store| Layers::clone(store),
        away: away(documents::Memory::default()),
    );
}

mod events_wrapped {
    use super::*;
    sidecar_core::conformance_events!(
        Memory::new(|memory| Box::new(wrapped(memory))),
        reopen: async |bus| wrapped(bus.memory.clone()),
        away: away(events::Memory::default()),
    );
}

mod events_local_cloudevents {
    use super::*;

    fn open(dir: &Path) -> events::Local {
        events::Local::open(dir).unwrap().format(events::EventFormat::CloudEvents)
    }

    sidecar_core::conformance_events!(
        Local(open(&dir())),
        reopen: async |bus| open(root(&bus.0.directories())),
        away: removed(open),
    );
}

mod sources_memory {
    use super::*;
    sidecar_core::conformance_sources!(
        events::Memory::default(),
        reopen: async |bus| events::Memory::clone(bus),
    );
}

mod sources_local {
    use super::*;
    sidecar_core::conformance_sources!(
        events::Local::open(dir()).unwrap(),
        reopen: async |bus| events::Local::open(root(&bus.directories())).unwrap(),
        away: removed(|dir| events::Local::open(dir).unwrap()),
    );
}

/// The layers pass subscriptions on.
mod sources_layered {
    use super::*;
    sidecar_core::conformance_sources!(Retry::new(Timeout::new(events::Memory::default(), LIMIT), LIMIT),);
}

/// Documents that an older release wrote have no entry by graph until the store is opened.
#[tokio::test]
async fn a_local_store_of_an_older_release_lists_graphs() {
    use sidecar_core::documents::{Document, Kind};
    let dir = tempfile::TempDir::new().unwrap();
    let document = |id: &str| Document {
        id: id.into(),
        correlation_id: "c/1".into(),
        json: r#"{"correlationId":"c/1"}"#.into(),
    };
    let store = documents::Local::open(dir.path()).unwrap();
    store.put(Kind::Context, &[document("old")]).await.unwrap();
    std::fs::remove_dir_all(dir.path().join("graphs")).unwrap();
    // One that may not make entries looks at every document.
    assert_eq!(store.list_graph(Kind::Context, "c/1", None).await.unwrap().len(), 1);
    let store = documents::Local::open(dir.path()).unwrap();
    store.put(Kind::Context, &[document("new")]).await.unwrap();
    let ids: Vec<_> = store.list_graph(Kind::Context, "c/1", None).await.unwrap();
    assert_eq!(ids.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["new", "old"]);
    assert!(dir.path().join("graphs/c%2F1/contexts/old").exists());
}
