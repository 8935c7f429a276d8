//! How far a transfer is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of the running or last transfer; only ever read to be shown.
#[derive(Debug, Default)]
pub(super) struct Progress {
    files: AtomicU64,
    files_total: AtomicU64,
    bytes: Arc<AtomicU64>,
    bytes_total: AtomicU64,
}

impl Progress {
    pub(super) fn start(&self, files: u64, bytes: u64) {
        self.files.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.files_total.store(files, Ordering::Relaxed);
        self.bytes_total.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn file_moved(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    /// The counter that sources and targets add their bytes to.
    pub(super) fn bytes_moved(&self) -> Arc<AtomicU64> {
        self.bytes.clone()
    }

    /// Files, files in all, bytes, bytes in all.
    pub(super) fn read(&self) -> [u64; 4] {
        [&self.files, &self.files_total, &*self.bytes, &self.bytes_total].map(|n| n.load(Ordering::Relaxed))
    }
}
