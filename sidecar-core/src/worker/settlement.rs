//! What becomes of a delivery: the one table from how an execution came out to how its event is settled.

use std::sync::Arc;
use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

use crate::error::Error;

/// How an execution came out for its worker.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It has its outcome: by this attempt, by another one, or before this delivery came.
    Committed,
    /// The module failed, for this reason.
    Failed(String),
    /// The worker was told to stop before the module had ended.
    Stopped,
    /// The inputs could not be staged.
    NotPrepared(Arc<Error>),
    /// The outputs could not be committed.
    NotCommitted(Arc<Error>),
    /// The outcome is decided, and the bus does not take its events.
    NotPublished(Arc<Error>),
    /// This worker cannot run the module, whatever the event is.
    Unusable(Arc<Error>),
}

/// How the delivery of an event is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// It is done.
    Ack,
    /// It is delivered again after a delay; the attempt counts.
    Retry,
    /// It is given up: a dead letter is written, then it is done.
    DeadLetter,
    /// It is delivered again; the attempt does not count.
    HandBack,
}

impl Outcome {
    /// How the delivery is settled after this many attempts, of which `most` are allowed.
    pub fn settlement(&self, attempts: u32, most: u32) -> Settlement {
        let again = if attempts < most { Settlement::Retry } else { Settlement::DeadLetter };
        match self {
            Self::Committed => Settlement::Ack,
            Self::Failed(_) => again,
            Self::Stopped | Self::Unusable(_) | Self::NotPublished(_) => Settlement::HandBack,
            Self::NotPrepared(error) => match **error {
                // What was published damaged, or too large, stays so.
                Error::NotFound { .. } | Error::Corrupt { .. } | Error::TooLarge { .. } => {
                    Settlement::DeadLetter
                }
                // Its context may appear still: a secondary lags behind.
                // Another sidecar may be allowed to read what this one is not.
                Error::UnknownEvent { .. } | Error::Reference { .. } => again,
                // A store or a disk that is away must not cost an event its attempts.
                _ => Settlement::HandBack,
            },
            Self::NotCommitted(error) => match **error {
                Error::Invalid(_) | Error::OutOfOrder { .. } => again,
                _ => Settlement::HandBack,
            },
        }
    }

    /// Why it did not come out well, for a dead letter.
    pub fn reason(&self) -> String {
        match self {
            Self::Committed => "committed".into(),
            Self::Failed(reason) => reason.clone(),
            Self::Stopped => "the worker was stopped".into(),
            Self::NotPrepared(error) => format!("the inputs could not be staged: {}", error.chain()),
            Self::NotCommitted(error) => format!("the outputs could not be committed: {}", error.chain()),
            Self::NotPublished(error) => {
                format!("the outcome is decided, and its events cannot be published: {}", error.chain())
            }
            Self::Unusable(error) => error.chain(),
        }
    }
}

/// Whether a store does not do what it should, and may do so later: then the same attempt waits for it.
pub(super) fn is_outage(error: &Error) -> bool {
    matches!(
        error,
        Error::Unavailable { .. } | Error::NoEventYet { .. } | Error::Refused { .. } | Error::Settings { .. }
    )
}

/// The delay before the second attempt; each is up to half longer or shorter.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// The longest delay.
const LONGEST_DELAY: Duration = Duration::from_secs(300);

/// How long an event waits for its next attempt after this many.
pub(super) fn delay(attempts: u32) -> Duration {
    let doubled = FIRST_DELAY.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(LONGEST_DELAY);
    let mut backoff = ExponentialBackoff {
        current_interval: doubled,
        initial_interval: doubled,
        max_interval: LONGEST_DELAY,
        randomization_factor: 0.5,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    backoff.next_backoff().unwrap_or(doubled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Phase, Problem};

    #[test]
    fn every_outcome_has_its_settlement() {
        use Settlement::{Ack, DeadLetter, HandBack, Retry};
        let p = || "p".to_owned();
        let away = || Error::unavailable(&"p", "x", "away");
        let refused = || Error::refused(&"p", "x", "no");
        let prepared = |error| Outcome::NotPrepared(Arc::new(error));
        let committed = |error| Outcome::NotCommitted(Arc::new(error));
        for (outcome, early, last) in [
            (Outcome::Committed, Ack, Ack),
            (Outcome::Failed("exit 1".into()), Retry, DeadLetter),
            (Outcome::Stopped, HandBack, HandBack),
            (Outcome::Unusable(Arc::new(Error::Busy("b".into()))), HandBack, HandBack),
            (prepared(Error::NotFound { provider: p(), key: "k".into() }), DeadLetter, DeadLetter),
            (
                prepared(Error::Corrupt { provider: p(), what: "w".into(), problem: "x".into() }),
                DeadLetter,
                DeadLetter,
            ),
            (prepared(Error::UnknownEvent { provider: p(), event: "e".into() }), Retry, DeadLetter),
            (prepared(Error::TooLarge { what: "inputs", bytes: 2, limit: 1 }), DeadLetter, DeadLetter),
            (prepared(away()), HandBack, HandBack),
            (prepared(refused()), HandBack, HandBack),
            (prepared(Error::DiskFull { action: "write", path: "f".into() }), HandBack, HandBack),
            (committed(Error::Invalid(vec![Problem::of("f", "m")])), Retry, DeadLetter),
            (committed(Error::OutOfOrder { call: "c", phase: Phase::New, hint: p() }), Retry, DeadLetter),
            (committed(away()), HandBack, HandBack),
            (committed(refused()), HandBack, HandBack),
        ] {
            assert_eq!(outcome.settlement(1, 5), early, "{outcome:?}");
            assert_eq!(outcome.settlement(5, 5), last, "{outcome:?}");
        }
    }

    #[test]
    fn delays_grow_and_have_an_end() {
        for (attempts, about) in [(1, 1), (2, 2), (5, 16), (9, 256), (10, 300), (u32::MAX, 300)] {
            let about = Duration::from_secs(about);
            for _ in 0..20 {
                let delay = delay(attempts);
                assert!(delay >= about / 2 && delay <= about * 3 / 2, "{attempts}: {delay:?}");
            }
        }
    }
}
