//! A bound on how often a provider is called.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;
use tokio::time::{Interval, MissedTickBehavior};

use super::Call;
use crate::error::Result;

/// Lets at most so many calls a second begin, evenly spaced; the others wait their turn.
///
/// One call may move several small files. Clones share the rate.
#[derive(Debug, Clone)]
pub struct RateLimit<P> {
    inner: P,
    /// The time between two calls; `None` sets no limit.
    every: Option<Duration>,
    /// Made by the first call, since it needs the runtime's clock.
    turns: Arc<OnceCell<tokio::sync::Mutex<Interval>>>,
}

impl<P> RateLimit<P> {
    /// Lets at most `per_second` calls of `inner` begin in a second; `None` lets all begin.
    pub fn new(inner: P, per_second: impl Into<Option<NonZeroU32>>) -> Self {
        // The clock takes no interval of zero.
        let every = |calls: NonZeroU32| (Duration::from_secs(1) / calls.get()).max(Duration::from_nanos(1));
        Self { inner, every: per_second.into().map(every), turns: Arc::default() }
    }

    async fn around<'c, T>(&self, _: Call, call: impl Fn() -> BoxFuture<'c, Result<T>>) -> Result<T> {
        let Some(every) = self.every else { return call().await };
        let turns = async || {
            let mut turns = tokio::time::interval(every);
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            tokio::sync::Mutex::new(turns)
        };
        self.turns.get_or_init(turns).await.lock().await.tick().await;
        call().await
    }
}

super::provider!(RateLimit);
