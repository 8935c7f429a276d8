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
    every: Duration,
    /// Made by the first call, since it needs the runtime's clock.
    turns: Arc<OnceCell<tokio::sync::Mutex<Interval>>>,
}

impl<P> RateLimit<P> {
    /// Lets at most `per_second` calls of `inner` begin in a second.
    pub fn new(inner: P, per_second: NonZeroU32) -> Self {
        Self { inner, every: Duration::from_secs(1) / per_second.get(), turns: Arc::default() }
    }

    async fn around<'c, T>(&self, _: Call, call: impl Fn() -> BoxFuture<'c, Result<T>>) -> Result<T> {
        let turns = async || {
            let mut turns = tokio::time::interval(self.every);
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            tokio::sync::Mutex::new(turns)
        };
        self.turns.get_or_init(turns).await.lock().await.tick().await;
        call().await
    }
}

super::provider!(RateLimit);
