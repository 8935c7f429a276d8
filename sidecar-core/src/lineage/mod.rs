//! Lineage: everything that one submission led to, from what records name alone.

mod compare;
mod copy;
mod retention;
mod trace;
mod verify;

pub use compare::{Difference, Traced};
pub use copy::copy_graph;
pub use retention::{Expired, Retention, Scope, expire};
pub use trace::{Stage, Trace, TracedEvent, TracedExecution};
pub use verify::{Damaged, Verified};
