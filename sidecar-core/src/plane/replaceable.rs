//! A data plane whose providers can be replaced while it is used, as when a credential has changed.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use super::DataPlane;
use crate::error::{Error, Result};
use crate::{BlobProvider, DocumentProvider, EventProvider};

/// A provider that another one can take the place of; calls at work end with the one that they began with.
pub(crate) struct Replaceable<P: ?Sized>(RwLock<Arc<P>>);

impl<P: ?Sized> Replaceable<P> {
    fn new(provider: Arc<P>) -> Arc<Self> {
        Arc::new(Self(RwLock::new(provider)))
    }

    /// The one in place.
    pub(crate) fn current(&self) -> Arc<P> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, provider: Arc<P>) {
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

/// The places of the three providers of a data plane.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    blobs: Arc<Replaceable<dyn BlobProvider>>,
    documents: Arc<Replaceable<dyn DocumentProvider>>,
    events: Arc<Replaceable<dyn EventProvider>>,
}

impl Places {
    /// Places that hold the providers of `plane`.
    pub(crate) fn new(DataPlane { blobs, documents, events }: DataPlane) -> Self {
        Self {
            blobs: Replaceable::new(blobs),
            documents: Replaceable::new(documents),
            events: Replaceable::new(events),
        }
    }

    /// The data plane of whatever is in these places.
    pub(crate) fn plane(&self) -> DataPlane {
        let Self { blobs, documents, events } = self.clone();
        DataPlane { blobs, documents, events }
    }

    /// Puts the providers of `plane` there.
    ///
    /// # Errors
    /// [`Error::Busy`] when it is not the same data plane: what was decided in one is not in another.
    pub(crate) fn replace(&self, plane: DataPlane) -> Result<()> {
        let (here, other) = (self.plane().id(), plane.id());
        if here != other {
            return Err(Error::Busy(format!(
                "{other} is not the data plane {here}: start another worker for it"
            )));
        }
        let DataPlane { blobs, documents, events } = plane;
        self.blobs.replace(blobs);
        self.documents.replace(documents);
        self.events.replace(events);
        Ok(())
    }
}
