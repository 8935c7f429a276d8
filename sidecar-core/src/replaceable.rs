//! A provider that can be replaced while it is used, as when a credential has changed.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// A provider that another one can take the place of; calls at work end with the one that they began with.
pub(crate) struct Replaceable<P: ?Sized>(RwLock<Arc<P>>);

impl<P: ?Sized> Replaceable<P> {
    pub(crate) fn new(provider: Arc<P>) -> Arc<Self> {
        Arc::new(Self(RwLock::new(provider)))
    }

    /// The one in place.
    pub(crate) fn current(&self) -> Arc<P> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn replace(&self, provider: Arc<P>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = provider;
    }
}

impl<P: fmt::Display + ?Sized> fmt::Display for Replaceable<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current().fmt(f)
    }
}

impl<P: fmt::Debug + ?Sized> fmt::Debug for Replaceable<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current().fmt(f)
    }
}
