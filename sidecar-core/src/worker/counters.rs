//! What a worker has done.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the worker began.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) received: AtomicU64,
    pub(super) running: AtomicU64,
    pub(super) committed: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) dead_lettered: AtomicU64,
    pub(super) handed_back: AtomicU64,
}

/// The counts at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Deliveries.
    pub received: u64,
    /// Modules at work.
    pub running: u64,
    /// Deliveries whose execution has its outcome.
    pub committed: u64,
    /// Deliveries that failed and come again.
    pub retried: u64,
    /// Events that were given up.
    pub dead_lettered: u64,
    /// Deliveries that were handed back without a failure of theirs.
    pub handed_back: u64,
}

impl Counters {
    /// The counts by now.
    pub fn summary(&self) -> Summary {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Summary {
            received: read(&self.received),
            running: read(&self.running),
            committed: read(&self.committed),
            retried: read(&self.retried),
            dead_lettered: read(&self.dead_lettered),
            handed_back: read(&self.handed_back),
        }
    }
}

/// Counts one up.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
