//! Everything of a submission, as a tree.

use std::path::Path;

use super::{Stage, Trace};
use crate::error::Result;
use crate::execution::{Copied, copy};
use crate::plane::DataPlane;

/// Copies everything of a trace into the directory `dir`: the outputs of each execution's last run as
/// `MODULE/EVENT/…`, and the submitted files as `submitted/EVENT/…`; what came of a run that another one has
/// [replaced](Trace::superseded) is left out. For the rest it is as [`copy_out`](crate::copy_out).
///
/// # Errors
/// [`Error::Io`] when the directory is not empty; otherwise what the providers report.
///
/// [`Error::Io`]: crate::Error::Io
pub async fn copy_graph(plane: &DataPlane, trace: &Trace, dir: &Path) -> Result<Copied> {
    let (mut files, superseded) = (Vec::new(), trace.superseded());
    for event in trace.events.iter().filter(|event| event.module.is_none()) {
        let below = Path::new("submitted").join(event.event_id.as_str());
        files.extend(event.files.iter().map(|blob| (blob.name.below(&below), blob.clone())));
    }
    for ((event, module), stage) in trace.stages() {
        if superseded.contains(event) {
            continue;
        }
        let last = match stage {
            Stage::Committed(execution) => Some(execution),
            // There may be an outcome from before the failure.
            Stage::Failed(_) | Stage::GivenUp(_) => trace.execution(event, module, None),
        };
        let Some(execution) = last else { continue };
        let below = Path::new(module.as_str()).join(event.as_str());
        files.extend(execution.outputs.iter().map(|blob| (blob.name.below(&below), blob.clone())));
    }
    // What events refer to stays where it is.
    copy(plane, files, &[], dir).await
}
