//! What is in a file that a trace names.

use sidecar_core::blob::Target;
use sidecar_core::{Blob, DataPlane, Error};

/// Reads it into memory, and checks that it is what the trace says.
///
/// # Errors
/// What the store reports; [`Error::Corrupt`] where it is something else.
pub(crate) async fn content(plane: &DataPlane, blob: &Blob) -> Result<Vec<u8>, Error> {
    let dir = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
    let path = dir.path().join("content");
    let read = plane.blobs.get(&blob.key, &Target::file(&path).at_most(blob.size)).await?;
    if read.digest != blob.digest {
        let (provider, what) = (plane.blobs.to_string(), format!("blob {:?}", blob.key.as_str()));
        return Err(Error::Corrupt { provider, what, problem: format!("digest {}", read.digest) });
    }
    std::fs::read(&path).map_err(Error::io("read", &path))
}
