//! The one way in which files get into the blob store: for a commit, a failure and a submission.

use std::num::NonZeroUsize;

use tracing::Instrument;

use super::transfer::{Progress, groups, move_groups};
use crate::blob::{BlobProvider, Source};
use crate::contract::{Blob, BlobKey, FileName};
use crate::error::{Error, Result};
use crate::fault;
use crate::telemetry::step;

/// A file on its way: its name, where it goes, and where it is.
pub(super) type Upload = (FileName, BlobKey, Source);

/// Stores files, several at once, and makes them durable: what was stored, and the first error.
///
/// After an error nothing new begins, and what had been stored is durable all the same.
pub(super) async fn upload(
    store: &dyn BlobProvider,
    files: Vec<Upload>,
    parallel: NonZeroUsize,
    progress: &Progress,
) -> (Vec<(Blob, Source)>, Option<Error>) {
    let groups = groups(files, parallel, |(_, _, source)| source.size());
    let (stored, failed) = move_groups(groups, parallel, |group| put(store, progress, group)).await;
    let stored: Vec<_> = stored.into_iter().flatten().collect();
    if stored.is_empty() {
        return (stored, failed);
    }
    let keys: Vec<BlobKey> = stored.iter().map(|(blob, _)| blob.key.clone()).collect();
    if let Err(error) = store.flush(&keys).await {
        return (Vec::new(), Some(failed.unwrap_or(error)));
    }
    fault::point("blobs.flush");
    (stored, failed)
}

async fn put(
    store: &dyn BlobProvider,
    progress: &Progress,
    group: Vec<Upload>,
) -> Result<Vec<(Blob, Source)>> {
    let counted =
        group.into_iter().map(|(name, key, source)| (name, (key, source.counted_by(progress.bytes_moved()))));
    let (names, files): (Vec<_>, Vec<_>) = counted.unzip();
    let bytes = files.iter().map(|(_, source)| source.size()).sum::<u64>();
    let step = step!("put", otel.kind = "client", store = %store, files = files.len(), bytes);
    let described = store.put_all(&files).instrument(step).await?;
    fault::point("blobs.put");
    let mut stored = Vec::with_capacity(files.len());
    for ((name, (key, source)), found) in names.into_iter().zip(files).zip(described) {
        progress.file_moved();
        if found.size != source.size() {
            let problem = format!("{} bytes were stored instead of {}", found.size, source.size());
            return Err(Error::Corrupt { provider: store.to_string(), what: key.to_string(), problem });
        }
        let executable = source.is_executable();
        stored.push((Blob { name, key, size: found.size, digest: found.digest, executable }, source));
    }
    Ok(stored)
}
