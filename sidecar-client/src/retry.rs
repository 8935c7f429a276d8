//! When to call again, and how long to wait: the only file that knows the crate `backoff`.

use std::time::{Duration, Instant};

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

use crate::error::{Cause, Error};

/// How long and how patiently a call is repeated.
///
/// Only what can succeed later is repeated: a sidecar that cannot be reached, and answers that say so.
/// A wait that the sidecar asks for with `Retry-After` is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    /// How long a call may go on without success: all waits and all attempts to reach the sidecar together.
    ///
    /// The time in which the sidecar was at work on a call does not count: a transfer may take hours.
    pub budget: Duration,
    /// The wait after the first attempt; each is up to half longer or shorter, so that modules spread out.
    pub first_wait: Duration,
    /// The longest wait between two attempts.
    pub longest_wait: Duration,
    /// The factor from one wait to the next.
    pub growth: f64,
}

impl Default for Retry {
    /// Ten minutes, since a sidecar may start much later than its module; from 50 ms doubling to 5 s.
    fn default() -> Self {
        Self {
            budget: Duration::from_secs(600),
            first_wait: Duration::from_millis(50),
            longest_wait: Duration::from_secs(5),
            growth: 2.0,
        }
    }
}

impl Retry {
    /// One attempt, no more.
    pub fn never() -> Self {
        Self { budget: Duration::ZERO, ..Self::default() }
    }

    fn backoff(&self) -> ExponentialBackoff {
        ExponentialBackoff {
            current_interval: self.first_wait,
            initial_interval: self.first_wait,
            max_interval: self.longest_wait,
            multiplier: self.growth,
            randomization_factor: 0.5,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        }
    }
}

/// After how long without success a call says on the standard error that it is waiting.
const PATIENCE: Duration = Duration::from_secs(1);

/// One failed attempt.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) cause: Cause,
    pub(crate) transient: bool,
    /// Whether the sidecar was reached, so that the attempt's time was spent at work.
    pub(crate) reached: bool,
    pub(crate) retry_after: Option<Duration>,
}

/// Calls until it succeeds, fails for good, or the budget is used up.
///
/// No async closure: whether its futures are `Send` cannot be told for a caller that spawns them.
pub(crate) async fn retry<T, F: Future<Output = Result<T, Attempt>>>(
    policy: &Retry,
    call: &'static str,
    address: &str,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Error> {
    let started = Instant::now();
    let mut backoff = policy.backoff();
    let mut spent = Duration::ZERO;
    let mut waiting = false;
    for attempts in 1.. {
        let attempted = Instant::now();
        let failed = match attempt().await {
            Ok(value) => return Ok(value),
            Err(failed) => failed,
        };
        if !failed.reached {
            spent += attempted.elapsed();
        }
        let wait = backoff.next_backoff().unwrap_or(policy.longest_wait);
        let wait = failed.retry_after.map_or(wait, |asked| asked.max(wait));
        spent += wait;
        if !failed.transient || spent > policy.budget {
            let elapsed = started.elapsed();
            if waiting {
                eprintln!("sidecar-client: {call}: gave up waiting for {address} after {elapsed:.1?}");
            }
            return Err(Error::Call {
                call,
                address: address.to_owned(),
                attempts,
                elapsed,
                source: failed.cause,
            });
        }
        // A module that hangs at its start must say what for.
        if !waiting && spent >= PATIENCE {
            waiting = true;
            let budget = policy.budget;
            eprintln!(
                "sidecar-client: {call}: waiting up to {budget:.0?} for {address}: {}",
                failed.cause.root()
            );
        }
        tokio::time::sleep(wait).await;
    }
    unreachable!("the loop ends by returning")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(transient: bool) -> Attempt {
        Attempt { cause: Cause::Transport("refused".into()), transient, reached: false, retry_after: None }
    }

    #[tokio::test]
    async fn transient_failures_are_repeated_until_success() {
        let policy = Retry { first_wait: Duration::from_millis(1), ..Retry::default() };
        let mut calls = 0;
        let answer = retry(&policy, "ready", "a", || {
            calls += 1;
            std::future::ready(if calls < 4 { Err(attempt(true)) } else { Ok(calls) })
        });
        assert_eq!(answer.await.unwrap(), 4);
    }

    #[tokio::test]
    async fn permanent_failures_are_not_repeated() {
        let error =
            retry::<(), _>(&Retry::default(), "done", "http://a", || std::future::ready(Err(attempt(false))))
                .await
                .unwrap_err();
        assert!(error.to_string().starts_with("done failed at http://a after 1 attempt(s) in"), "{error}");
        assert!(error.chain().ends_with("the sidecar cannot be reached: refused"), "{}", error.chain());
    }

    #[tokio::test]
    async fn the_budget_bounds_the_attempts() {
        let policy = Retry {
            budget: Duration::from_millis(80),
            first_wait: Duration::from_millis(5),
            ..Retry::default()
        };
        let started = Instant::now();
        let error = retry::<(), _>(&policy, "ready", "a", || std::future::ready(Err(attempt(true))))
            .await
            .unwrap_err();
        let Error::Call { attempts, .. } = error else { panic!("{error:?}") };
        assert!(attempts > 1 && started.elapsed() < Duration::from_secs(2), "{attempts}");
        let error = retry::<(), _>(&Retry::never(), "ready", "a", || std::future::ready(Err(attempt(true))))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Call { attempts: 1, .. }));
    }

    #[tokio::test]
    async fn retry_after_is_kept() {
        let policy = Retry { first_wait: Duration::from_millis(1), ..Retry::default() };
        let mut first = true;
        let started = Instant::now();
        let answer = retry(&policy, "ready", "a", || {
            std::future::ready(match std::mem::take(&mut first) {
                true => Err(Attempt { retry_after: Some(Duration::from_millis(100)), ..attempt(true) }),
                false => Ok(()),
            })
        });
        answer.await.unwrap();
        assert!(started.elapsed() >= Duration::from_millis(100));
    }
}
