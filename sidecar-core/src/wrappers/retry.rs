//! Repeats what can succeed later: the only file of this crate that knows the crate `backoff`.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;
use futures_util::future::BoxFuture;
use url::Url;

use crate::blob::{Descriptor, Source, Target};
use crate::contract::{BlobKey, Event, EventContext, EventId, Insight, InsightId};
use crate::error::{Error, Result};
use crate::{BlobProvider, DocumentProvider, EventProvider};

/// The wait after the first attempt; each is up to half longer or shorter.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Repeats calls that end in [`Error::Unavailable`], with growing jittered waits, for as long as `budget`.
///
/// A wait that the provider asks for is kept. Every other error is passed on at once.
#[derive(Debug, Clone)]
pub struct Retry<P> {
    inner: P,
    budget: Duration,
}

impl<P> Retry<P> {
    /// Repeats the calls of `inner` for as long as `budget`.
    pub fn new(inner: P, budget: Duration) -> Self {
        Self { inner, budget }
    }

    async fn repeat<'c, T>(&self, call: impl Fn() -> BoxFuture<'c, Result<T>>) -> Result<T> {
        let mut backoff = ExponentialBackoff {
            current_interval: FIRST_WAIT,
            initial_interval: FIRST_WAIT,
            max_interval: LONGEST_WAIT,
            multiplier: 2.0,
            randomization_factor: 0.5,
            max_elapsed_time: Some(self.budget),
            ..ExponentialBackoff::default()
        };
        loop {
            let error = match call().await {
                Err(error @ Error::Unavailable { .. }) => error,
                outcome => return outcome,
            };
            let Some(wait) = backoff.next_backoff() else { return Err(error) };
            let Error::Unavailable { retry_after, .. } = &error else { return Err(error) };
            let wait = retry_after.map_or(wait, |asked| asked.max(wait));
            tracing::warn!(error = error.chain(), ?wait, "trying again");
            tokio::time::sleep(wait).await;
        }
    }
}

impl<P: fmt::Display> fmt::Display for Retry<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl<P: BlobProvider> BlobProvider for Retry<P> {
    async fn put(&self, key: &BlobKey, source: &Source) -> Result<Descriptor> {
        self.repeat(|| self.inner.put(key, source)).await
    }
    async fn get(&self, key: &BlobKey, target: &Target) -> Result<Descriptor> {
        self.repeat(|| self.inner.get(key, target)).await
    }
    async fn put_all(&self, files: &[(BlobKey, Source)]) -> Result<Vec<Descriptor>> {
        self.repeat(|| self.inner.put_all(files)).await
    }
    async fn get_all(&self, blobs: &[(BlobKey, Target)]) -> Result<Vec<Descriptor>> {
        self.repeat(|| self.inner.get_all(blobs)).await
    }
    async fn flush(&self) -> Result<()> {
        self.repeat(|| self.inner.flush()).await
    }
    async fn uri(&self, key: &BlobKey) -> Result<Url> {
        self.repeat(|| self.inner.uri(key)).await
    }
    async fn check(&self) -> Result<()> {
        self.repeat(|| self.inner.check()).await
    }
}

#[async_trait]
impl<P: DocumentProvider> DocumentProvider for Retry<P> {
    async fn event_context(&self, id: &EventId) -> Result<Option<EventContext>> {
        self.repeat(|| self.inner.event_context(id)).await
    }
    async fn put_event_contexts(&self, contexts: &[EventContext]) -> Result<()> {
        self.repeat(|| self.inner.put_event_contexts(contexts)).await
    }
    async fn insight(&self, id: &InsightId) -> Result<Option<Insight>> {
        self.repeat(|| self.inner.insight(id)).await
    }
    async fn put_insight(&self, insight: &Insight) -> Result<()> {
        self.repeat(|| self.inner.put_insight(insight)).await
    }
    async fn check(&self) -> Result<()> {
        self.repeat(|| self.inner.check()).await
    }
}

#[async_trait]
impl<P: EventProvider> EventProvider for Retry<P> {
    async fn publish(&self, events: &[Event]) -> Result<()> {
        self.repeat(|| self.inner.publish(events)).await
    }
    async fn check(&self) -> Result<()> {
        self.repeat(|| self.inner.check()).await
    }
}
