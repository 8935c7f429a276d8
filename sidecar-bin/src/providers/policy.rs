//! The policies around a provider on the network: one flag each.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::config::Errors;
use crate::options::Options;

/// Failures in a row after which a provider is left alone for a while.
const FAILURES: u32 = 5;
/// For how long it is left alone.
#[allow(dead_code, reason = "builds without any store on the network have nothing to wrap")]
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// How patiently a provider is called.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub(super) timeout: Duration,
    pub(super) retry_for: Duration,
    /// `None`: it is never left alone.
    pub(super) failures: Option<NonZeroU32>,
    /// `None`: as often as it goes.
    pub(super) per_second: Option<NonZeroU32>,
}

impl Policy {
    pub(super) fn parse(options: &Options, errors: &mut Errors) -> Self {
        let failures = errors
            .parse("circuit-breaker", &options.circuit_breaker, "a number of failures")
            .unwrap_or(FAILURES);
        Self {
            timeout: errors.duration("timeout", &options.timeout, Duration::from_secs(60)),
            retry_for: errors.duration("retry-for", &options.retry_for, Duration::from_secs(60)),
            failures: NonZeroU32::new(failures),
            per_second: errors.parse(
                "rate-limit",
                &options.rate_limit,
                "a number of calls a second, from 1 on",
            ),
        }
    }
}

impl fmt::Display for Policy {
    /// From the outside in, as a call passes them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = humantime::format_duration;
        write!(f, "retry-for {} > ", time(self.retry_for))?;
        match self.per_second {
            Some(calls) => write!(f, "rate-limit {calls}/s > ")?,
            None => write!(f, "rate-limit none > ")?,
        }
        match self.failures {
            Some(failures) => write!(f, "circuit-breaker {failures} > ")?,
            None => write!(f, "circuit-breaker none > ")?,
        }
        write!(f, "timeout {}; file: and memory: without", time(self.timeout))
    }
}

/// A provider with the policies around it, as a pointer to its trait.
#[allow(unused_macros, reason = "builds without any store on the network have nothing to wrap")]
macro_rules! wrapped {
    ($policy:expr, $provider:expr) => {{
        use sidecar_core::layers::{CircuitBreaker, RateLimit, Retry, Timeout};
        let policy: &$crate::providers::policy::Policy = $policy;
        let failures = policy.failures.unwrap_or(std::num::NonZeroU32::MAX);
        let timeout = Timeout::new($crate::providers::faulty($provider), policy.timeout);
        let breaker = CircuitBreaker::new(timeout, failures, $crate::providers::policy::PAUSE);
        match policy.per_second {
            Some(calls) => Arc::new(Retry::new(RateLimit::new(breaker, calls), policy.retry_for)),
            None => Arc::new(Retry::new(breaker, policy.retry_for)),
        }
    }};
}

#[allow(unused_imports, reason = "builds without any store on the network have nothing to wrap")]
pub(super) use wrapped;
