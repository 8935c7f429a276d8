//! A call that failed, together with the module that made it.
//!
//! `done` and `fail` take the module, so that neither compiles twice. If they kept it on an error, the only
//! way on would be a new client, which numbers events from the beginning and knows no insight.

use std::error::Error as StdError;
use std::fmt;
use std::ops::Deref;

use crate::error::Error;

/// Why `done` or `fail` failed, and the module, which goes on where it was.
///
/// It prints like the [`Error`] that it dereferences to and has the same sources.
/// `?` turns it into an [`Error`] or a boxed error.
pub struct Refused<M>(Box<Parts<M>>);

/// In a box: every `Result` of `done` would otherwise be as large as a module.
struct Parts<M> {
    module: M,
    error: Error,
}

impl<M> Refused<M> {
    pub(crate) fn new(module: M, error: Error) -> Self {
        Self(Box::new(Parts { module, error }))
    }

    /// The module: its insights are kept, and its next event gets the next number.
    pub fn into_module(self) -> M {
        self.0.module
    }

    /// The module and the error.
    pub fn into_parts(self) -> (M, Error) {
        (self.0.module, self.0.error)
    }
}

impl<M> Deref for Refused<M> {
    type Target = Error;
    fn deref(&self) -> &Error {
        &self.0.error
    }
}

impl<M> From<Refused<M>> for Error {
    fn from(refused: Refused<M>) -> Self {
        refused.0.error
    }
}

impl<M> fmt::Debug for Refused<M> {
    /// Without the module: a `main` that returns the error prints it, and input values can be signed URLs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("error", &self.0.error).finish_non_exhaustive()
    }
}

impl<M> fmt::Display for Refused<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.error.fmt(f)
    }
}

impl<M> StdError for Refused<M> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.error.source()
    }
}
