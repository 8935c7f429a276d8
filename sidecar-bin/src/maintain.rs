//! What people and timers run beside executions: `get`, `failures`, `recover` and `gc`.

use std::path::PathBuf;
use std::time::Duration;

use sidecar_core::lineage::{Stage, Trace, copy_graph};
use sidecar_core::{Collected, Copied, DataPlane, Error, Recovered, ShownFailure, collect_garbage, copy_out};
use tracing::{info, warn};

use crate::again;
use crate::exit::{self, Failure};
use crate::trace::unknown;

/// Copies files out of the data plane, and prints where they are.
///
/// # Errors
/// With the code that says which part failed.
pub(crate) async fn get(plane: &DataPlane, id: &str, all: bool, dir: Option<PathBuf>) -> Result<u8, Failure> {
    let dir = dir.unwrap_or_else(|| id.replace('/', "-").into());
    let copied = match all {
        true => copy_graph(plane, id, &dir).await,
        false => copy_out(plane, id, &dir).await,
    };
    let Copied { files, bytes } = copied.map_err(|error| match &error {
        Error::UnknownEvent { .. } => unknown(&error, id),
        Error::Io { .. } | Error::DiskFull { .. } => Failure::local(&error),
        other => Failure::at_ready(other),
    })?;
    info!(files, bytes, "copied {id}");
    let missing = match all {
        // What was given up has no files, and whoever has copied everything should know.
        true => Trace::of_graph(plane, id).await.map_or(0, |trace| {
            trace.stages().into_values().filter(|stage| !matches!(stage, Stage::Committed(_))).count()
        }),
        false => 0,
    };
    if missing > 0 {
        let (flags, id) = (again::plane_flags(), again::quoted(id));
        warn!(
            "executions without an outcome, and so without files: {missing}; sidecar trace{flags} {id} names them"
        );
    }
    exit::print(&dir.display().to_string())?;
    Ok(if missing > 0 { exit::MODULE_FAILED } else { 0 })
}

/// Prints one line for each failure, the oldest first, with tabs between its columns.
///
/// # Errors
/// When the documents cannot be listed, or the lines not be printed.
pub(crate) async fn failures(plane: &DataPlane, open: bool, event: Option<String>) -> Result<u8, Failure> {
    let (mut lines, mut after) = (Vec::new(), None);
    loop {
        let page = sidecar_core::failures(plane, after.as_deref()).await;
        let page = page.map_err(|error| Failure::at_open(&error))?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        for (_, ShownFailure { failure, overcome_by, unpublished }) in page {
            let context = &failure.context;
            let execution = format!("{}/{}", context.event_id, context.name);
            let other = event.as_ref().is_some_and(|id| {
                [context.event_id.as_str(), &context.correlation_id, &execution]
                    .iter()
                    .all(|known| known != id)
            });
            if other || open && overcome_by.is_some() && !unpublished {
                continue;
            }
            let reason = exit::cell(&failure.reason);
            lines.push(format!(
                "{}\t{}\t{}/{}\t{}\t{}\t{}\t{reason}",
                failure.time,
                failure.id,
                context.event_id,
                context.name,
                failure.phase,
                format!("{:?}", failure.culprit).to_lowercase(),
                match &overcome_by {
                    Some(_) if unpublished => "decided and not published: sidecar recover publishes it",
                    by => by.as_deref().unwrap_or("-"),
                },
            ));
        }
    }
    if lines.is_empty() {
        if let Some(event) = &event {
            // Of an id with a slip there are no failures either.
            Trace::of(plane, event).await.map_err(|error| unknown(&error, event))?;
        }
        let what = if open { "no open failures" } else { "no failures" };
        let at = event.map(|event| format!(" at event {event}")).unwrap_or_default();
        info!("{what}{at} in {}", plane.documents);
        return Ok(0);
    }
    exit::table("TIME\tID\tEXECUTION\tPHASE\tCULPRIT\tOVERCOME BY\tREASON", lines)?;
    Ok(if open { exit::MODULE_FAILED } else { 0 })
}

/// Publishes what is decided and not published.
///
/// # Errors
/// When the documents cannot be listed, or something could not be published.
pub(crate) async fn recover(plane: &DataPlane) -> Result<u8, Failure> {
    let recovered = sidecar_core::recover(plane).await.map_err(|error| Failure::at_open(&error))?;
    let Recovered { published, failed, oldest_seconds } = recovered;
    info!(published, failed, oldest_seconds, "published what was left");
    match failed {
        0 => Ok(0),
        failed => {
            Err(Failure::new(exit::PROVIDER_FAILED, format!("{failed} executions could not be published")))
        }
    }
}

/// Removes what no outcome names.
///
/// # Errors
/// When a store cannot be listed or changed; it can be repeated.
pub(crate) async fn gc(plane: &DataPlane, older_than: Duration, all: bool) -> Result<u8, Failure> {
    let collected =
        collect_garbage(plane, older_than, all).await.map_err(|error| Failure::at_open(&error))?;
    let Collected { blobs, bytes, documents, abandoned, young, unknown, .. } = collected;
    info!(
        "deleted {blobs} files of {bytes} bytes and {documents} documents; closed {abandoned} undecided runs"
    );
    if young > 0 {
        info!("{young} executions were left alone: they stored a file within {older_than:?} (--older-than)");
    }
    if unknown > 0 {
        warn!(
            "{unknown} executions were left alone: {} knows neither them nor their events, and may not be the one \
             that belongs to these blobs (--unknown removes them)",
            plane.documents
        );
    }
    Ok(0)
}
