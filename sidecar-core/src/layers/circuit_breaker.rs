//! A provider that is down is left alone for a while.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::Call;
use crate::error::{Error, Result, with_causes};

/// After `failures` calls in a row that ended in [`Error::Unavailable`], answers so by itself for `pause`.
///
/// Then one call is let through: its success closes the circuit, its failure opens it for another `pause`.
/// The answers of an open circuit ask to be repeated after what is left of the pause. Clones share the circuit.
#[derive(Debug, Clone)]
pub struct CircuitBreaker<P> {
    inner: P,
    failures: NonZeroU32,
    pause: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    failures_in_a_row: u32,
    /// Why the last call failed.
    cause: String,
    open_until: Option<Instant>,
}

impl<P: fmt::Display> CircuitBreaker<P> {
    /// Leaves `inner` alone for `pause` after `failures` failures in a row.
    pub fn new(inner: P, failures: NonZeroU32, pause: Duration) -> Self {
        Self { inner, failures, pause, state: Arc::default() }
    }

    async fn around<'c, T>(&self, name: Call, call: impl Fn() -> BoxFuture<'c, Result<T>>) -> Result<T> {
        if let Some(left) = self.pause_left() {
            return Err(Error::Unavailable {
                provider: self.inner.to_string(),
                action: name.action.into_owned(),
                retry_after: Some(left),
                source: format!(
                    "it failed {} times in a row and is left alone, the last time with: {}",
                    self.failures,
                    self.state().cause
                )
                .into(),
            });
        }
        let outcome = call().await;
        let mut state = self.state();
        match &outcome {
            Err(Error::Unavailable { retry_after, source, .. }) => {
                state.cause = with_causes(&**source);
                state.failures_in_a_row = state.failures_in_a_row.saturating_add(1);
                if state.failures_in_a_row >= self.failures.get() {
                    let pause = retry_after.unwrap_or_default().max(self.pause);
                    state.open_until = Instant::now().checked_add(pause);
                }
            }
            // Any other answer is an answer.
            _ => *state = State::default(),
        }
        drop(state);
        outcome
    }

    /// How long the circuit stays open; `None` lets the caller through.
    fn pause_left(&self) -> Option<Duration> {
        let mut state = self.state();
        let left = state.open_until?.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Some(left);
        }
        // The one call that finds out; a caller that gives up on it must not block the others for ever.
        state.open_until = Instant::now().checked_add(self.pause);
        None
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

super::provider!(CircuitBreaker);
