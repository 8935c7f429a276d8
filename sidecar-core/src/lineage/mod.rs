//! Lineage: everything that one submission led to, from what records name alone.

mod trace;
mod verify;

pub use trace::{Stage, Trace, TracedEvent, TracedExecution};
pub use verify::{Damaged, Verified};
