//! A deadline for every call.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use url::Url;

use crate::blob::{Descriptor, Source, Target};
use crate::contract::{BlobKey, Event, EventContext, EventId, Insight, InsightId};
use crate::error::{Error, Result};
use crate::{BlobProvider, DocumentProvider, EventProvider};

/// Gives up on calls that take longer than `limit`; a transfer, once that long no byte of it has moved.
///
/// What was given up may still take effect, which repeating it makes harmless.
#[derive(Debug, Clone)]
pub struct Timeout<P> {
    inner: P,
    limit: Duration,
}

impl<P: fmt::Display> Timeout<P> {
    /// Gives up on the calls of `inner` after `limit`.
    pub fn new(inner: P, limit: Duration) -> Self {
        Self { inner, limit }
    }

    async fn within<T>(&self, action: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(self.limit, call).await.unwrap_or_else(|_| Err(self.given_up(action)))
    }

    /// Waits for a transfer for as long as it moves.
    async fn while_moving<T>(
        &self,
        action: &str,
        moved: impl Iterator<Item = Arc<AtomicU64>>,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let counters: Vec<_> = moved.collect();
        let moved =
            || counters.iter().map(|counter| counter.load(Ordering::Relaxed)).fold(0, u64::wrapping_add);
        tokio::pin!(call);
        loop {
            let before = moved();
            match tokio::time::timeout(self.limit, &mut call).await {
                Ok(outcome) => return outcome,
                Err(_) if moved() != before => {}
                Err(_) => return Err(self.given_up(action)),
            }
        }
    }

    fn given_up(&self, action: &str) -> Error {
        Error::Unavailable {
            provider: self.inner.to_string(),
            action: action.to_owned(),
            retry_after: None,
            source: format!("no answer within {:?}", self.limit).into(),
        }
    }
}

impl<P: fmt::Display> fmt::Display for Timeout<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl<P: BlobProvider> BlobProvider for Timeout<P> {
    async fn put(&self, key: &BlobKey, source: &Source) -> Result<Descriptor> {
        self.while_moving("store a blob", [source.moved()].into_iter(), self.inner.put(key, source)).await
    }
    async fn get(&self, key: &BlobKey, target: &Target) -> Result<Descriptor> {
        self.while_moving("fetch a blob", [target.moved()].into_iter(), self.inner.get(key, target)).await
    }
    async fn put_all(&self, files: &[(BlobKey, Source)]) -> Result<Vec<Descriptor>> {
        let moved = files.iter().map(|(_, source)| source.moved());
        self.while_moving("store blobs", moved, self.inner.put_all(files)).await
    }
    async fn get_all(&self, blobs: &[(BlobKey, Target)]) -> Result<Vec<Descriptor>> {
        let moved = blobs.iter().map(|(_, target)| target.moved());
        self.while_moving("fetch blobs", moved, self.inner.get_all(blobs)).await
    }
    async fn flush(&self) -> Result<()> {
        // How long a disk takes depends on what was written to it, not on us.
        self.inner.flush().await
    }
    async fn uri(&self, key: &BlobKey) -> Result<Url> {
        self.within("sign a URI", self.inner.uri(key)).await
    }
    async fn check(&self) -> Result<()> {
        self.within("be checked", self.inner.check()).await
    }
}

#[async_trait]
impl<P: DocumentProvider> DocumentProvider for Timeout<P> {
    async fn event_context(&self, id: &EventId) -> Result<Option<EventContext>> {
        self.within("look up an event context", self.inner.event_context(id)).await
    }
    async fn put_event_contexts(&self, contexts: &[EventContext]) -> Result<()> {
        self.within("store event contexts", self.inner.put_event_contexts(contexts)).await
    }
    async fn insight(&self, id: &InsightId) -> Result<Option<Insight>> {
        self.within("look up an insight", self.inner.insight(id)).await
    }
    async fn put_insight(&self, insight: &Insight) -> Result<()> {
        self.within("store an insight", self.inner.put_insight(insight)).await
    }
    async fn check(&self) -> Result<()> {
        self.within("be checked", self.inner.check()).await
    }
}

#[async_trait]
impl<P: EventProvider> EventProvider for Timeout<P> {
    async fn publish(&self, events: &[Event]) -> Result<()> {
        self.within("publish events", self.inner.publish(events)).await
    }
    async fn check(&self) -> Result<()> {
        self.within("be checked", self.inner.check()).await
    }
}
