#![doc = include_str!("../README.md")]

mod contract;

pub use contract::*;

#[cfg(feature = "engine")]
pub mod blob;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "engine")]
mod dir;
#[cfg(feature = "engine")]
pub mod documents;
#[cfg(feature = "engine")]
mod durable;
#[cfg(feature = "engine")]
mod error;
#[cfg(feature = "engine")]
pub mod events;
#[cfg(feature = "engine")]
mod execution;
#[cfg(feature = "engine")]
mod fault;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "engine")]
pub mod layers;
#[cfg(feature = "local")]
mod local_dir;
#[cfg(feature = "engine")]
pub mod plane;
#[cfg(feature = "server")]
pub mod server;
#[cfg(any(feature = "mongodb", feature = "postgres", feature = "nats"))]
mod tls;

#[cfg(feature = "engine")]
pub use blob::BlobProvider;
#[cfg(feature = "engine")]
pub use documents::{DocumentProvider, Documents};
#[cfg(feature = "engine")]
pub use error::{Cause, Error, Result};
#[cfg(feature = "engine")]
pub use events::EventProvider;
#[cfg(feature = "engine")]
pub use execution::{
    Collected, Copied, First, OnFailure, Recovered, Session, Settings, Start, Submission, collect_garbage,
    copy_out, recover,
};
#[cfg(feature = "engine")]
pub use plane::DataPlane;

/// Runs a whole blocking file operation off the async threads.
#[cfg(feature = "engine")]
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down: nobody is left to take an answer.
            Err(_) => std::future::pending().await,
        },
    }
}
