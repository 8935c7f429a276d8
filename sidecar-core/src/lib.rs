#![doc = include_str!("../README.md")]

mod contract;

pub use contract::*;

#[cfg(feature = "engine")]
pub mod blob;
#[cfg(feature = "engine")]
mod blocking;
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
#[cfg(feature = "engine")]
pub mod lineage;
#[cfg(feature = "local")]
mod local_dir;
#[cfg(feature = "engine")]
mod lock;
#[cfg(feature = "engine")]
mod os;
#[cfg(feature = "engine")]
pub mod plane;
#[cfg(feature = "process")]
pub mod process;
#[cfg(feature = "engine")]
mod replaceable;
#[cfg(feature = "server")]
pub mod server;
#[cfg(any(
    feature = "s3",
    feature = "azure",
    feature = "gcs",
    feature = "mongodb",
    feature = "servicebus",
    feature = "nats",
    feature = "amqp"
))]
mod setters;
#[cfg(feature = "engine")]
mod telemetry;
#[cfg(any(feature = "mongodb", feature = "postgres", feature = "nats"))]
mod tls;
#[cfg(feature = "worker")]
pub mod worker;

#[cfg(feature = "engine")]
pub use blob::BlobProvider;
#[cfg(feature = "worker")]
pub(crate) use blocking::dedicated;
#[cfg(feature = "process")]
pub(crate) use blocking::is_dedicated;
#[cfg(feature = "engine")]
pub(crate) use blocking::{blocking, brief, spawn};
#[cfg(feature = "engine")]
pub use documents::{DocumentProvider, Documents};
#[cfg(feature = "engine")]
pub use error::{Cause, Error, Result, with_causes};
#[cfg(feature = "engine")]
pub use events::EventProvider;
#[cfg(feature = "engine")]
pub use execution::{
    Cache, Collected, Copied, DiskBudget, First, Journaling, ModuleUser, OnFailure, Recovered, Remembered,
    Session, Settings, ShownFailure, Start, Submission, Timings, collect_garbage, copy_out, failures,
    publish_outcome, recover,
};
#[cfg(feature = "engine")]
pub use plane::DataPlane;
#[cfg(feature = "engine")]
pub use telemetry::SPANS;

// The examples of the guides compile, and those that can run do.
#[cfg(all(doctest, feature = "process", feature = "worker"))]
#[doc = include_str!("../../docs/embedding.md")]
mod guides {}
