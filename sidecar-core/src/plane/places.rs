//! A data plane whose providers can be replaced while it is used, as when a credential has changed.

use std::sync::Arc;

use url::Url;

use super::DataPlane;
use crate::blob::{ReferenceStore, References};
use crate::error::{Error, Result};
use crate::replaceable::Replaceable;
use crate::{BlobProvider, DocumentProvider, EventProvider};

/// The places of the three providers of a data plane.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    blobs: Arc<Replaceable<dyn BlobProvider>>,
    documents: Arc<Replaceable<dyn DocumentProvider>>,
    events: Arc<Replaceable<dyn EventProvider>>,
    references: Vec<(Url, Arc<Replaceable<dyn ReferenceStore>>)>,
}

impl Places {
    /// Places that hold the providers of `plane`.
    pub(crate) fn new(DataPlane { blobs, documents, events, references }: DataPlane) -> Self {
        let references = references.into_stores().map(|(root, store)| (root, Replaceable::new(store)));
        Self {
            blobs: Replaceable::new(blobs),
            documents: Replaceable::new(documents),
            events: Replaceable::new(events),
            references: references.collect(),
        }
    }

    /// The data plane of whatever is in these places.
    pub(crate) fn plane(&self) -> DataPlane {
        let Self { blobs, documents, events, references } = self.clone();
        let store = |(root, store): (Url, Arc<Replaceable<_>>)| (root, store as Arc<dyn ReferenceStore>);
        let references = References::new(references.into_iter().map(store));
        DataPlane { blobs, documents, events, references }
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
        let DataPlane { blobs, documents, events, references } = plane;
        self.blobs.replace(blobs);
        self.documents.replace(documents);
        self.events.replace(events);
        // The settings are those of this process: only what opens the stores has changed.
        for ((_, place), (_, store)) in self.references.iter().zip(references.into_stores()) {
            place.replace(store);
        }
        Ok(())
    }
}
