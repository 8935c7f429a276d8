//! Failures on demand, for tests of whatever is built on a provider.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;

use super::Call;
use crate::error::{Error, Result};

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injected {
    /// Nothing.
    Nothing,
    /// It fails without having had an effect; it can be repeated.
    Unavailable,
    /// It fails without having had an effect; repeating it does not help.
    Refused,
    /// It has its effect, but the answer is lost.
    AnswerLost,
    /// It never answers.
    Hang,
}

/// Which calls fail: told the call as a verb phrase and how many calls there were before.
type Script = dyn Fn(&str, usize) -> Injected + Send + Sync;

/// Fails the calls of a provider as a script says.
///
/// ```
/// # use sidecar_core::{blob, layers::{Fault, Injected}};
/// // The first two calls find the store away.
/// let store = Fault::new(blob::Memory::default(), |_, n| match n {
///     0 | 1 => Injected::Unavailable,
///     _ => Injected::Nothing,
/// });
/// ```
#[derive(Clone)]
pub struct Fault<P> {
    inner: P,
    script: Arc<Script>,
    calls: Arc<AtomicUsize>,
}

impl<P: fmt::Debug> fmt::Debug for Fault<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<P: fmt::Display> Fault<P> {
    /// Asks `script` before each call of `inner`; it is told the call and how many there were before.
    pub fn new(inner: P, script: impl Fn(&str, usize) -> Injected + Send + Sync + 'static) -> Self {
        Self { inner, script: Arc::new(script), calls: Arc::default() }
    }

    async fn around<'c, T>(&self, name: Call, call: impl Fn() -> BoxFuture<'c, Result<T>>) -> Result<T> {
        let provider = self.inner.to_string();
        let (action, source) = (name.action.to_string(), "injected".into());
        let away =
            |source| Error::Unavailable { provider: provider.clone(), action, retry_after: None, source };
        match (self.script)(&name.action, self.calls.fetch_add(1, Ordering::Relaxed)) {
            Injected::Nothing => call().await,
            Injected::Unavailable => Err(away(source)),
            Injected::Refused => Err(Error::Refused { provider, action: name.action.into_owned(), source }),
            Injected::AnswerLost => {
                call().await?;
                Err(away("injected: the answer was lost".into()))
            }
            Injected::Hang => std::future::pending().await,
        }
    }
}

super::provider!(Fault);
