//! How many parts of one file are on their way at once, as the store's answers show.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The window of a fresh connection.
const FIRST: usize = 4;
/// The largest window; the memory that all transfers share bounds them together.
const LARGEST: usize = 6;
/// A part that takes longer than this many times the fastest one is a sign of queues.
const SLOW: u64 = 3;

/// Grows by one while parts arrive quickly, and halves when the store asks to slow down; clones are one.
#[derive(Debug, Clone)]
pub(super) struct Window {
    parts: Arc<AtomicUsize>,
    /// How long a quick part takes, in microseconds.
    fastest: Arc<AtomicU64>,
}

impl Default for Window {
    fn default() -> Self {
        Self { parts: Arc::new(AtomicUsize::new(FIRST)), fastest: Arc::new(AtomicU64::new(u64::MAX)) }
    }
}

impl Window {
    /// Parts that may be on their way.
    pub(super) fn parts(&self) -> usize {
        self.parts.load(Ordering::Relaxed)
    }

    /// A whole part has arrived.
    pub(super) fn arrived(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // What was quick once is forgotten slowly: the network may have changed.
        let before = self.fastest.load(Ordering::Relaxed);
        let fastest = before.saturating_add(before / 64).min(took);
        self.fastest.store(fastest, Ordering::Relaxed);
        if took <= fastest.saturating_mul(SLOW) {
            self.change(|parts| (parts + 1).min(LARGEST));
        }
    }

    /// The store asks to slow down.
    pub(super) fn throttled(&self) {
        self.change(|parts| (parts / 2).max(1));
    }

    fn change(&self, new: impl Fn(usize) -> usize) {
        // The closure always gives a value.
        let _ = self.parts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |parts| Some(new(parts)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_while_parts_are_quick_and_halves_when_throttled() {
        let window = Window::default();
        for _ in 0..20 {
            window.arrived(Duration::from_millis(10));
        }
        assert_eq!(window.parts(), LARGEST);
        window.throttled();
        assert_eq!(window.parts(), LARGEST / 2);
        // Slow parts are no reason to send more.
        window.arrived(Duration::from_millis(40));
        assert_eq!(window.parts(), LARGEST / 2);
        window.arrived(Duration::from_millis(20));
        assert_eq!(window.parts(), LARGEST / 2 + 1);
        (0..10).for_each(|_| window.throttled());
        assert_eq!(window.parts(), 1);
    }
}
