#![doc = include_str!("../README.md")]

mod api;
mod client;
mod error;
mod module;
mod refused;
mod retry;
mod run;
pub mod testing;
mod workspace;

#[cfg(feature = "blocking")]
pub mod blocking;

pub use client::{Client, ClientBuilder};
pub use error::{Cause, Error};
pub use module::Module;
pub use refused::Refused;
pub use retry::Retry;
pub use run::{run, serve};
pub use sidecar_core::{
    Context, ErrorBody, EventId, EventTypes, FileName, InsightId, InvalidName, KeyValuePair, KeyValuePairs,
    Layout, ModuleName, OutputEvent, Phase, Prepared, Problem, Published, Receipt, Status, TraceParent,
};
pub use workspace::{EventBuilder, Output, Workspace};

// The examples of the guides compile.
#[cfg(doctest)]
#[doc = include_str!("../../docs/testing-a-module.md")]
#[doc = include_str!("../../docs/writing-a-module.md")]
#[doc = include_str!("../../README.md")]
mod guides {}
