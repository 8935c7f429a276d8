//! Every provider keeps every guarantee of its trait; so does every layer.

use std::num::NonZeroU32;

use async_trait::async_trait;
use sidecar_core::conformance::events::Consumer;
use sidecar_core::layers::{CircuitBreaker, Fault, Injected, RateLimit, Retry, Timeout};
use sidecar_core::{BlobProvider, DocumentProvider, Event, EventProvider, blob, documents, events};
use tempfile::TempDir;

const LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// A directory that outlives the expression that opens a provider in it; `cargo clean` removes it.
fn dir() -> std::path::PathBuf {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap().keep()
}

mod blob_memory {
    use super::*;
    sidecar_core::conformance_blob!(blob::Memory::default());
}

mod blob_local {
    use super::*;
    sidecar_core::conformance_blob!(blob::Local::open(dir()).unwrap());
}

mod blob_boxed {
    use super::*;
    sidecar_core::conformance_blob!(Box::new(blob::Memory::default()) as Box<dyn BlobProvider>);
}

mod documents_memory {
    use super::*;
    sidecar_core::conformance_documents!(documents::Memory::default());
}

mod documents_local {
    use super::*;
    sidecar_core::conformance_documents!(documents::Local::open(dir()).unwrap());
}

mod documents_boxed {
    use super::*;
    sidecar_core::conformance_documents!(Box::new(documents::Memory::default()) as Box<dyn DocumentProvider>);
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
    sidecar_core::conformance_events!(Memory::new(|memory| Box::new(memory)));
}

mod events_local {
    use super::*;
    sidecar_core::conformance_events!(Local(events::Local::open(dir()).unwrap()));
}

mod events_boxed {
    use super::*;
    sidecar_core::conformance_events!(Memory::new(|memory| Box::new(
        Box::new(memory) as Box<dyn EventProvider>
    )));
}

/// The layers as the binary composes them, with a scripted failure inside.
fn wrapped<P: std::fmt::Display>(provider: P) -> Retry<RateLimit<CircuitBreaker<Timeout<Fault<P>>>>> {
    let faulty = Fault::new(provider, |_, n| match n {
        0 | 3 => Injected::Unavailable,
        1 => Injected::AnswerLost,
        _ => Injected::Nothing,
    });
    let breaker = CircuitBreaker::new(Timeout::new(faulty, LIMIT), NonZeroU32::MAX, LIMIT);
    Retry::new(RateLimit::new(breaker, NonZeroU32::new(10_000).unwrap()), LIMIT)
}

mod blob_wrapped {
    use super::*;
    sidecar_core::conformance_blob!(wrapped(blob::Memory::default()));
}

mod documents_wrapped {
    use super::*;
    sidecar_core::conformance_documents!(wrapped(documents::Memory::default()));
}

mod events_wrapped {
    use super::*;
    sidecar_core::conformance_events!(Memory::new(|memory| Box::new(wrapped(memory))));
}

mod events_local_cloudevents {
    use super::*;
    sidecar_core::conformance_events!(Local(
        events::Local::open(dir()).unwrap().format(events::EventFormat::CloudEvents)
    ));
}
