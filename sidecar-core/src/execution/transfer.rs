//! How a transfer is cut into calls, and how far it is.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::stream::{self, StreamExt};

use crate::error::{Error, Result};

/// Counters of the running or last transfer; only ever read to be shown.
#[derive(Debug, Default)]
pub(super) struct Progress {
    files: AtomicU64,
    files_total: AtomicU64,
    bytes: Arc<AtomicU64>,
    bytes_total: AtomicU64,
    /// Files that were in the cache, and files that were not, of all transfers.
    cached: [AtomicU64; 2],
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

    pub(super) fn cached(&self, hits: u64, misses: u64) {
        for (sum, count) in self.cached.iter().zip([hits, misses]) {
            sum.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Files that were in the cache, and files that were not.
    pub(super) fn read_cached(&self) -> [u64; 2] {
        self.cached.each_ref().map(|n| n.load(Ordering::Relaxed))
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

/// Files up to this size are moved several a call, in bytes.
const SMALL: u64 = 64 * 1024;
/// The most files moved by one call.
const LARGEST_GROUP: usize = 64;

/// Cuts files into groups for one call each: small files together, but not so many that calls run short.
pub(super) fn groups<T>(files: Vec<T>, parallel: NonZeroUsize, size: impl Fn(&T) -> u64) -> Vec<Vec<T>> {
    let most = files.len().div_ceil(parallel.get()).clamp(1, LARGEST_GROUP);
    let mut groups: Vec<Vec<T>> = Vec::new();
    let mut open = false;
    for file in files {
        let small = size(&file) <= SMALL;
        match groups.last_mut() {
            Some(group) if open && small && group.len() < most => group.push(file),
            _ => groups.push(vec![file]),
        }
        open = small;
    }
    groups
}

/// Makes one call for each group, several at once, and gathers their results and the first error.
///
/// After an error nothing new begins, but what is on its way is waited for: it may still write where a repeat,
/// or a clean-up, is about to.
pub(super) async fn move_groups<G, T, F: Future<Output = Result<T>>>(
    groups: Vec<G>,
    parallel: NonZeroUsize,
    call: impl FnMut(G) -> F,
) -> (Vec<T>, Option<Error>) {
    let stop = AtomicBool::new(false);
    let calls = stream::iter(groups)
        .take_while(|_| std::future::ready(!stop.load(Ordering::Relaxed)))
        .map(call)
        .buffer_unordered(parallel.get());
    let mut calls = std::pin::pin!(calls);
    let (mut moved, mut failed) = (Vec::new(), None);
    while let Some(outcome) = calls.next().await {
        match outcome {
            Ok(result) => moved.push(result),
            Err(error) => {
                stop.store(true, Ordering::Relaxed);
                failed.get_or_insert(error);
            }
        }
    }
    (moved, failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_share_a_call_and_large_ones_do_not() {
        let groups = |sizes: &[u64], parallel| {
            groups(sizes.to_vec(), NonZeroUsize::new(parallel).unwrap(), |size| *size)
        };
        assert_eq!(groups(&[], 2), Vec::<Vec<u64>>::new());
        assert_eq!(groups(&[1, 2, 3, 4, 5], 2), [vec![1, 2, 3], vec![4, 5]]);
        assert_eq!(groups(&[1, SMALL + 1, 2, 3], 2), [vec![1], vec![SMALL + 1], vec![2, 3]]);
        assert_eq!(groups(&[1, 2, 3], 16).len(), 3);
        assert_eq!(groups(&vec![1; 10_000], 16).len(), 10_000usize.div_ceil(64));
    }
}
