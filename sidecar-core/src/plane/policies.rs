//! The policies around a provider on the network.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::layers::{CircuitBreaker, RateLimit, Retry, Timeout};

/// How long an open circuit leaves its provider alone.
const PAUSE: Duration = Duration::from_secs(1);

/// How patiently a provider is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies {
    /// How long a call may go without an answer, or a transfer without finishing a part.
    pub timeout: Duration,
    /// How long a call is repeated after its first failure.
    pub retry_for: Duration,
    /// Failures in a row after which a provider is left alone for a second; `None` never leaves it alone.
    pub failures: Option<NonZeroU32>,
    /// The most calls a second; `None` sets no limit.
    pub per_second: Option<NonZeroU32>,
}

impl Default for Policies {
    /// A minute for an answer, a minute of repeats, five failures in a row, no limit on the rate.
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { timeout: minute, retry_for: minute, failures: NonZeroU32::new(5), per_second: None }
    }
}

impl Policies {
    /// `provider` with these policies around it, in the order of [`layers`](crate::layers).
    pub fn around<P: fmt::Display>(&self, provider: P) -> Retry<RateLimit<CircuitBreaker<Timeout<P>>>> {
        let timeout = Timeout::new(provider, self.timeout);
        let breaker = CircuitBreaker::new(timeout, self.failures.unwrap_or(NonZeroU32::MAX), PAUSE);
        Retry::new(RateLimit::new(breaker, self.per_second), self.retry_for)
    }
}
