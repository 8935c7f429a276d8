//! The three providers together.

use std::fmt;
use std::sync::Arc;

use crate::{BlobProvider, DocumentProvider, EventProvider};

/// Where files, documents and events go; clones share the providers.
#[derive(Debug, Clone)]
pub struct DataPlane {
    /// Where files go.
    pub blobs: Arc<dyn BlobProvider>,
    /// Where insights and event contexts go.
    pub documents: Arc<dyn DocumentProvider>,
    /// Where events go.
    pub events: Arc<dyn EventProvider>,
}

impl fmt::Display for DataPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}; {}", self.blobs, self.documents, self.events)
    }
}

impl DataPlane {
    /// A data plane of these three.
    pub fn new(
        blobs: impl BlobProvider,
        documents: impl DocumentProvider,
        events: impl EventProvider,
    ) -> Self {
        Self { blobs: Arc::new(blobs), documents: Arc::new(documents), events: Arc::new(events) }
    }

    /// The embedded default: readable files under one directory, made when absent.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when a directory cannot be made.
    #[cfg(feature = "local")]
    pub fn local(root: impl AsRef<std::path::Path>) -> crate::Result<Self> {
        let root = root.as_ref();
        Ok(Self::new(
            crate::blob::Local::open(root)?,
            crate::documents::Local::open(root)?,
            crate::events::Local::open(root)?,
        ))
    }

    /// A data plane that lives as long as the process.
    #[cfg(feature = "memory")]
    pub fn memory() -> Self {
        Self::new(
            crate::blob::Memory::default(),
            crate::documents::Memory::default(),
            crate::events::Memory::default(),
        )
    }
}
