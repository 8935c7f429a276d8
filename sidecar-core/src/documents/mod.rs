//! Document providers: where event contexts are looked up and insights are kept.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use crate::contract::{EventContext, EventId, Failure, FailureId, Insight, InsightId};
use crate::error::Result;

#[cfg(feature = "local")]
mod local;
#[cfg(feature = "memory")]
mod memory;
#[cfg(feature = "mongodb")]
mod mongo;
#[cfg(feature = "postgres")]
mod postgres;

#[cfg(feature = "local")]
pub use local::Local;
#[cfg(feature = "memory")]
pub use memory::Memory;
#[cfg(feature = "mongodb")]
pub use mongo::{Mongo, MongoConfig};
#[cfg(feature = "postgres")]
pub use postgres::Postgres;

/// A store of JSON documents under their ids.
///
/// # Contract
/// - What was put is durable, and visible to every reader, when the call returns.
/// - A document put under an id that exists replaces the old one; there are never two.
/// - What is read back equals what was put, with the order and the duplicates of its pairs.
/// - An id that was never put is `Ok(None)`; a store that cannot answer is an error.
/// - Event contexts, insights and failures are three sets: equal ids do not meet.
///
/// # Retrying
/// Every call can be repeated safely; after an error any part of a slice may have been stored.
///
/// # Errors
/// [`Error::Unavailable`] when the same call can succeed later, [`Error::Refused`] when it cannot,
/// [`Error::Corrupt`] when what is stored under the id is no such document.
///
/// # Implementing
/// `Display` is the store's short name for logs and errors; it never contains a secret.
/// The suite [`conformance::documents`](crate::conformance::documents) holds one test for each guarantee.
///
/// [`Error::Unavailable`]: crate::Error::Unavailable
/// [`Error::Refused`]: crate::Error::Refused
/// [`Error::Corrupt`]: crate::Error::Corrupt
#[async_trait]
pub trait DocumentProvider: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// The context of an event, if there is one.
    async fn event_context(&self, id: &EventId) -> Result<Option<EventContext>>;

    /// Stores event contexts, each under its event's id.
    async fn put_event_contexts(&self, contexts: &[EventContext]) -> Result<()>;

    /// An insight, if there is one.
    async fn insight(&self, id: &InsightId) -> Result<Option<Insight>>;

    /// Stores an insight under its id.
    async fn put_insight(&self, insight: &Insight) -> Result<()>;

    /// A failure, if there is one.
    async fn failure(&self, id: &FailureId) -> Result<Option<Failure>>;

    /// Stores a failure under its id.
    async fn put_failure(&self, failure: &Failure) -> Result<()>;

    /// The store's stable identity, which records and journals compare: two different stores never have the
    /// same, and one has the same in every process, whatever its credentials. It never contains a secret.
    ///
    /// By default `Display`, which is the short name for logs.
    fn id(&self) -> String {
        self.to_string()
    }

    /// The directories of this machine in which it keeps data.
    fn directories(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Checks that the store can be used: reachable, authorised, its tables there or made.
    async fn check(&self) -> Result<()> {
        Ok(())
    }
}

macro_rules! forward {
    ($($pointer:ident),*) => {$(
        #[async_trait]
        impl<P: DocumentProvider + ?Sized> DocumentProvider for $pointer<P> {
            async fn event_context(&self, id: &EventId) -> Result<Option<EventContext>> {
                (**self).event_context(id).await
            }
            async fn put_event_contexts(&self, contexts: &[EventContext]) -> Result<()> {
                (**self).put_event_contexts(contexts).await
            }
            async fn insight(&self, id: &InsightId) -> Result<Option<Insight>> {
                (**self).insight(id).await
            }
            async fn put_insight(&self, insight: &Insight) -> Result<()> {
                (**self).put_insight(insight).await
            }
            async fn failure(&self, id: &FailureId) -> Result<Option<Failure>> {
                (**self).failure(id).await
            }
            async fn put_failure(&self, failure: &Failure) -> Result<()> {
                (**self).put_failure(failure).await
            }
            async fn check(&self) -> Result<()> {
                (**self).check().await
            }
            fn id(&self) -> String {
                (**self).id()
            }
            fn directories(&self) -> Vec<PathBuf> {
                (**self).directories()
            }
        }
    )*};
}

forward!(Arc, Box);
