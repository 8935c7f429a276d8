//! What `ready` does: stage the inputs of the event.

use std::collections::{HashMap, HashSet};

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::data_plane::DataPlane;
use super::directories;
use super::spec::Settings;
use super::transfer::{Progress, groups, move_groups};
use crate::blob::Target;
use crate::blocking;
use crate::contract::{Blob, EventContext, FileName, KeyValuePairs, Prepared};
use crate::documents::Documents as _;
use crate::error::{Error, Result};
use crate::fault;

/// Fills `in/`; on failure it is left empty.
pub(super) async fn stage(settings: &Settings, plane: &DataPlane, progress: &Progress) -> Result<Prepared> {
    let layout = settings.layout.clone();
    blocking(move || directories::clear(&layout)).await?;
    fault::point("inputs.clear");
    let staged = fill(settings, plane, progress).await;
    if staged.is_err() {
        clear(settings).await;
    }
    staged
}

/// Empties `in/` after an error.
pub(super) async fn clear(settings: &Settings) {
    let layout = settings.layout.clone();
    if let Err(error) = blocking(move || directories::clear(&layout)).await {
        tracing::error!(error = error.chain(), "the inputs could not be cleared");
    }
}

async fn fill(settings: &Settings, plane: &DataPlane, progress: &Progress) -> Result<Prepared> {
    // No context is the first event of a graph; a store that cannot answer is an error, not "no inputs".
    let context = plane.documents.find::<EventContext>(settings.context.event_id.as_str()).await?;
    let (blobs, mut values) = match context {
        None => {
            let event = &settings.context.event_id;
            tracing::info!(
                "no context of event {event} in {}: the module starts without inputs",
                plane.documents
            );
            (Vec::new(), KeyValuePairs::default())
        }
        Some(context) => (manifest(plane, &context)?, context.data),
    };
    // A foreign document may claim any sizes.
    let bytes = blobs.iter().fold(0, |sum: u64, blob| sum.saturating_add(blob.size));
    progress.start(blobs.len() as u64, bytes);
    let groups = groups(blobs.clone(), settings.parallel, |blob| blob.size);
    let fetch = |group| fetch(settings, plane, progress, group);
    let (_, failed) = move_groups(groups, settings.parallel, fetch).await;
    if let Some(error) = failed {
        return Err(error);
    }
    let files = blobs.len() as u64;
    // To sign may take a call each.
    let mut uris = stream::iter(blobs)
        .map(|blob| async move { Result::Ok((plane.blobs.uri(&blob.key).await?, blob.name)) })
        .buffered(settings.parallel.get());
    while let Some((uri, name)) = uris.try_next().await? {
        values.push(name.as_str(), uri);
    }
    let prepared = Prepared { files, bytes, values: values.len() as u64 };
    let layout = settings.layout.clone();
    blocking(move || {
        let mut json = serde_json::to_vec_pretty(&values)
            .map_err(|e| Error::io("encode", layout.input_meta())(std::io::Error::other(e)))?;
        json.push(b'\n');
        directories::write_meta(&layout, &json)
    })
    .await?;
    fault::point("inputs.meta");
    Ok(prepared)
}

/// The blobs of the event's files, in their order.
fn manifest(plane: &DataPlane, context: &EventContext) -> Result<Vec<Blob>> {
    let corrupt = |problem: String| Error::Corrupt {
        provider: plane.documents.to_string(),
        what: format!("the context of event {:?}", context.context.event_id.as_str()),
        problem,
    };
    let blobs: HashMap<&FileName, &Blob> = context.blobs.iter().map(|blob| (&blob.name, blob)).collect();
    let mut seen = HashSet::new();
    let find = |name: &FileName| match blobs.get(name) {
        _ if !seen.insert(name.clone()) => Err(corrupt(format!("file {:?} is named twice", name.as_str()))),
        Some(blob) => Ok((*blob).clone()),
        None => Err(corrupt(format!("no blob is listed for file {:?}", name.as_str()))),
    };
    context.files.iter().map(find).collect()
}

async fn fetch(settings: &Settings, plane: &DataPlane, progress: &Progress, blobs: Vec<Blob>) -> Result<()> {
    let target = |blob: &Blob| {
        let target = Target::file(blob.name.below(&settings.layout.input_data()));
        (blob.key.clone(), target.executable(blob.executable).counted_by(progress.bytes_moved()))
    };
    let targets: Vec<_> = blobs.iter().map(target).collect();
    let found = plane.blobs.get_all(&targets).await?;
    fault::point("blobs.get");
    for (blob, found) in blobs.iter().zip(found) {
        let problem = match () {
            () if found.size != blob.size => format!("{} bytes instead of {}", found.size, blob.size),
            () if found.digest != blob.digest => {
                format!("digest {} instead of {}", found.digest, blob.digest)
            }
            () => {
                progress.file_moved();
                continue;
            }
        };
        let what = format!("blob {:?}", blob.key.as_str());
        return Err(Error::Corrupt { provider: plane.blobs.to_string(), what, problem });
    }
    Ok(())
}
