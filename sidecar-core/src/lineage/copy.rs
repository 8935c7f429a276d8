//! Everything of a submission, as a tree.

use std::path::Path;

use super::{Stage, Trace};
use crate::error::Result;
use crate::execution::{Copied, copy};
use crate::plane::DataPlane;

/// Copies everything of a submission into the directory `dir`: the outputs of each execution's last run as
/// `MODULE/EVENT/…`, and the submitted files as `submitted/EVENT/…`. For the rest it is as
/// [`copy_out`](crate::copy_out).
///
/// # Errors
/// [`Error::UnknownEvent`] when nothing is known of the id, [`Error::Io`] when the directory is not empty; otherwise what
/// the providers report.
///
/// [`Error::UnknownEvent`]: crate::Error::UnknownEvent
/// [`Error::Io`]: crate::Error::Io
pub async fn copy_graph(plane: &DataPlane, id: &str, dir: &Path) -> Result<Copied> {
    let trace = Trace::of(plane, id).await?;
    let mut files = Vec::new();
    for event in trace.events.iter().filter(|event| event.module.is_none()) {
        let below = Path::new("submitted").join(event.event_id.as_str());
        files.extend(event.files.iter().map(|blob| (blob.name.below(&below), blob.clone())));
    }
    for ((event, module), stage) in trace.stages() {
        let last = match stage {
            Stage::Committed(execution) => Some(execution),
            // There may be an outcome from before the failure.
            Stage::Failed(_) | Stage::GivenUp(_) => trace.execution(event, module, None),
        };
        let Some(execution) = last else { continue };
        let below = Path::new(module.as_str()).join(event.as_str());
        files.extend(execution.outputs.iter().map(|blob| (blob.name.below(&below), blob.clone())));
    }
    copy(plane, files, dir).await
}
