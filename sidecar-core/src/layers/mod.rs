//! Policies around providers: each layer is itself a provider of the trait it wraps, and passes its suite.
//!
//! Providers neither repeat nor hurry; whoever composes them decides.
//! The usual order, from the outside: [`Retry`] → [`RateLimit`] → [`CircuitBreaker`] → [`Timeout`] → provider.
//! So each attempt counts against the rate, and a call that hangs counts as a failure.

use crate::blob::Moved;
use std::borrow::Cow;

mod circuit_breaker;
mod fault;
mod rate_limit;
mod retry;
mod timeout;

pub use circuit_breaker::CircuitBreaker;
pub use fault::{Fault, Injected};
pub use rate_limit::RateLimit;
pub use retry::Retry;
pub use timeout::Timeout;

/// What a layer knows of the call it wraps.
#[derive(Debug)]
struct Call {
    /// The call as a verb phrase.
    action: Cow<'static, str>,
    /// The counters of the bytes that it moves.
    moved: Vec<Moved>,
}

impl Call {
    fn new(action: impl Into<Cow<'static, str>>) -> Self {
        Self { action: action.into(), moved: Vec::new() }
    }

    fn moving(action: &'static str, moved: impl Iterator<Item = Moved>) -> Self {
        Self { action: action.into(), moved: moved.collect() }
    }
}

/// The call that makes blobs durable: how long a disk takes depends on what was written to it.
const FLUSH: &str = "make blobs durable";

/// Makes a provider of a layer with a field `inner` and a method
/// `around(&self, Call, impl Fn() -> BoxFuture<Result<T>>) -> Result<T>`.
macro_rules! provider {
    ($layer:ident) => {
        const _: () = {
            use std::path::PathBuf;
            use std::sync::Arc;

            use async_trait::async_trait;
            use url::Url;

            use super::Call;
            use crate::blob::{BlobProvider, Descriptor, Listed, ReferenceStore, Source, Target};
            use crate::contract::{BlobKey, Event, EventId, Pinned};
            use crate::documents::{Document, DocumentProvider, Kind};
            use crate::error::Result;
            use crate::events::{EventProvider, EventSource, Subscription};

            impl<P: std::fmt::Display> std::fmt::Display for $layer<P> {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    self.inner.fmt(f)
                }
            }

            #[async_trait]
            impl<P: BlobProvider> BlobProvider for $layer<P> {
                async fn put(&self, key: &BlobKey, source: &Source) -> Result<Descriptor> {
                    let call = Call::moving("store a blob", [source.moved()].into_iter());
                    self.around(call, || self.inner.put(key, source)).await
                }
                async fn get(&self, key: &BlobKey, target: &Target) -> Result<Descriptor> {
                    let call = Call::moving("fetch a blob", [target.moved()].into_iter());
                    self.around(call, || self.inner.get(key, target)).await
                }
                async fn put_all(&self, files: &[(BlobKey, Source)]) -> Result<Vec<Descriptor>> {
                    let call = Call::moving("store blobs", files.iter().map(|(_, source)| source.moved()));
                    self.around(call, || self.inner.put_all(files)).await
                }
                async fn get_all(&self, blobs: &[(BlobKey, Target)]) -> Result<Vec<Descriptor>> {
                    let call = Call::moving("fetch blobs", blobs.iter().map(|(_, target)| target.moved()));
                    self.around(call, || self.inner.get_all(blobs)).await
                }
                async fn flush(&self, keys: &[BlobKey]) -> Result<()> {
                    self.around(Call::new(super::FLUSH), || self.inner.flush(keys)).await
                }
                async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<Vec<Listed>> {
                    self.around(Call::new("list blobs"), || self.inner.list(prefix, after)).await
                }
                async fn delete(&self, keys: &[BlobKey]) -> Result<()> {
                    self.around(Call::new("remove blobs"), || self.inner.delete(keys)).await
                }
                fn refuses(&self, key: &BlobKey) -> Option<String> {
                    self.inner.refuses(key)
                }
                fn folded<'k>(&self, key: &'k BlobKey) -> std::borrow::Cow<'k, str> {
                    self.inner.folded(key)
                }
                async fn uri(&self, key: &BlobKey) -> Result<Url> {
                    self.around(Call::new("sign a URI"), || self.inner.uri(key)).await
                }
                async fn check(&self) -> Result<()> {
                    self.around(Call::new("be checked"), || self.inner.check()).await
                }
                fn id(&self) -> String {
                    self.inner.id()
                }
                fn directories(&self) -> Vec<PathBuf> {
                    self.inner.directories()
                }
            }

            #[async_trait]
            impl<P: ReferenceStore> ReferenceStore for $layer<P> {
                async fn pin(&self, object: &str, version: Option<&str>) -> Result<Pinned> {
                    self.around(Call::new("find an object"), || self.inner.pin(object, version)).await
                }
                async fn get_pinned(
                    &self,
                    object: &str,
                    pinned: &Pinned,
                    target: &Target,
                ) -> Result<Descriptor> {
                    let call = Call::moving("fetch an object", [target.moved()].into_iter());
                    self.around(call, || self.inner.get_pinned(object, pinned, target)).await
                }
            }

            #[async_trait]
            impl<P: DocumentProvider> DocumentProvider for $layer<P> {
                async fn get(&self, kind: Kind, id: &str) -> Result<Option<String>> {
                    let call = Call::new(format!("look up {}", kind.one()));
                    self.around(call, || self.inner.get(kind, id)).await
                }
                async fn put(&self, kind: Kind, documents: &[Document]) -> Result<()> {
                    let call = Call::new(format!("store {}", kind.many()));
                    self.around(call, || self.inner.put(kind, documents)).await
                }
                async fn insert(&self, kind: Kind, document: &Document) -> Result<String> {
                    let call = Call::new(format!("decide {}", kind.one()));
                    self.around(call, || self.inner.insert(kind, document)).await
                }
                async fn list(&self, kind: Kind, after: Option<&str>) -> Result<Vec<(String, String)>> {
                    let call = Call::new(format!("list {}", kind.many()));
                    self.around(call, || self.inner.list(kind, after)).await
                }
                async fn list_graph(
                    &self,
                    kind: Kind,
                    correlation_id: &str,
                    after: Option<&str>,
                ) -> Result<Vec<(String, String)>> {
                    let call = Call::new(format!("list {} of one graph", kind.many()));
                    self.around(call, || self.inner.list_graph(kind, correlation_id, after)).await
                }
                async fn delete(&self, kind: Kind, ids: &[String]) -> Result<()> {
                    let call = Call::new(format!("remove {}", kind.many()));
                    self.around(call, || self.inner.delete(kind, ids)).await
                }
                fn refuses(&self, document: &Document) -> Option<String> {
                    self.inner.refuses(document)
                }
                fn decides(&self) -> bool {
                    self.inner.decides()
                }
                async fn check(&self) -> Result<()> {
                    self.around(Call::new("be checked"), || self.inner.check()).await
                }
                fn id(&self) -> String {
                    self.inner.id()
                }
                fn directories(&self) -> Vec<PathBuf> {
                    self.inner.directories()
                }
            }

            #[async_trait]
            impl<P: EventProvider> EventProvider for $layer<P> {
                async fn publish(&self, events: &[Event]) -> Result<()> {
                    self.around(Call::new("publish events"), || self.inner.publish(events)).await
                }
                async fn republish(&self, event: &Event, message_id: &str) -> Result<()> {
                    let call = Call::new("publish an event again");
                    self.around(call, || self.inner.republish(event, message_id)).await
                }
                async fn subscribe(&self, subscription: &Subscription) -> Result<Arc<dyn EventSource>> {
                    self.around(Call::new("be subscribed to"), || self.inner.subscribe(subscription)).await
                }
                async fn forget(&self, ids: &[EventId]) -> Result<()> {
                    self.around(Call::new("forget events"), || self.inner.forget(ids)).await
                }
                fn refuses(&self, event: &Event) -> Option<String> {
                    self.inner.refuses(event)
                }
                async fn check(&self) -> Result<()> {
                    self.around(Call::new("be checked"), || self.inner.check()).await
                }
                fn id(&self) -> String {
                    self.inner.id()
                }
                fn directories(&self) -> Vec<PathBuf> {
                    self.inner.directories()
                }
            }
        };
    };
}

use provider;
