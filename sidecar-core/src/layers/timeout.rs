//! A deadline for every call.

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Call, FLUSH};
use crate::blob::Moved;
use crate::error::{Error, Result};

/// Gives up on calls that take longer than `limit`; a transfer, once that long none of its bytes has arrived: those
/// of a part do so together.
///
/// What was given up may still take effect, at any time later: whoever stores something else then stores it under
/// another name.
#[derive(Debug, Clone)]
pub struct Timeout<P> {
    inner: P,
    limit: Duration,
}

impl<P: fmt::Display> Timeout<P> {
    /// Gives up on the calls of `inner` after `limit`.
    pub fn new(inner: P, limit: Duration) -> Self {
        Self { inner, limit }
    }

    async fn around<'c, T>(&self, name: Call, call: impl Fn() -> BoxFuture<'c, Result<T>>) -> Result<T> {
        let mut call = call();
        if name.action == FLUSH {
            return call.await;
        }
        let moved = || name.moved.iter().map(Moved::bytes).fold(0, u64::wrapping_add);
        loop {
            let before = moved();
            match tokio::time::timeout(self.limit, &mut call).await {
                Ok(outcome) => return outcome,
                Err(_) if moved() != before => {}
                Err(_) => return Err(self.given_up(&name.action)),
            }
        }
    }

    fn given_up(&self, action: &str) -> Error {
        Error::Unavailable {
            provider: self.inner.to_string(),
            action: action.to_owned(),
            retry_after: None,
            source: format!("no answer within {:?}", self.limit).into(),
        }
    }
}

super::provider!(Timeout);
