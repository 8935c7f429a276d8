//! Repeats what can succeed later: the only file of this crate that knows the crate `backoff`.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;
use futures_util::future::BoxFuture;

use super::Call;
use crate::error::{Error, Result};

/// The wait after the first attempt; each is up to half longer or shorter.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Repeats calls that end in [`Error::Unavailable`], with growing jittered waits, for as long as `budget` after the
/// first of them has failed.
///
/// A wait that the provider asks for is kept, as far as the budget reaches. Every other error is passed on at
/// once.
#[derive(Debug, Clone)]
pub struct Retry<P> {
    inner: P,
    budget: Duration,
}

impl<P> Retry<P> {
    /// Repeats the calls of `inner` for as long as `budget`.
    pub fn new(inner: P, budget: Duration) -> Self {
        Self { inner, budget }
    }

    async fn around<'c, T>(&self, _: Call, call: impl Fn() -> BoxFuture<'c, Result<T>>) -> Result<T> {
        // Made with the first failure: how long the call was at work before is no time without an answer.
        let mut backoff = None;
        let mut reported = false;
        loop {
            let error = match call().await {
                Err(error @ Error::Unavailable { .. }) => error,
                outcome => return outcome,
            };
            let Error::Unavailable { retry_after, .. } = &error else { return Err(error) };
            let backoff = backoff.get_or_insert_with(|| self.backoff());
            let asked = retry_after.unwrap_or_default();
            let wait = backoff.next_backoff().unwrap_or(LONGEST_WAIT);
            let left = self.budget.saturating_sub(backoff.get_elapsed_time());
            // A provider that asks for more would only refuse what comes earlier.
            if left.is_zero() || asked > left {
                return Err(error);
            }
            // The last attempt is made when the budget ends.
            let wait = wait.max(asked).min(left);
            match std::mem::replace(&mut reported, true) {
                // Whoever watches need not wait until it is given up.
                false => tracing::warn!("{}; retrying for up to {:?}", error.chain(), self.budget),
                true => tracing::debug!(?wait, "retrying: {}", error.chain()),
            }
            tokio::time::sleep(wait).await;
        }
    }

    fn backoff(&self) -> ExponentialBackoff {
        ExponentialBackoff {
            current_interval: FIRST_WAIT,
            initial_interval: FIRST_WAIT,
            max_interval: LONGEST_WAIT,
            multiplier: 2.0,
            randomization_factor: 0.5,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        }
    }
}

super::provider!(Retry);
