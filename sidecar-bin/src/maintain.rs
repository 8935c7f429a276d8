//! What people and timers run beside executions: `get`, `failures`, `recover` and `gc`.

use std::path::PathBuf;
use std::time::Duration;

use sidecar_core::lineage::{self, Expired, Scope, Stage, Trace, copy_graph};
use sidecar_core::plane::counted;
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
    let trace = match all {
        true => Some(Trace::of(plane, id).await.map_err(|error| unknown(&error, id))?),
        false => None,
    };
    let copied = match &trace {
        Some(trace) => copy_graph(plane, trace, &dir).await,
        None => copy_out(plane, id, &dir).await,
    };
    let Copied { files, bytes } = copied.map_err(|error| match &error {
        Error::Io { .. } | Error::DiskFull { .. } => Failure::local(&error),
        other => Failure::at_ready(other),
    })?;
    info!(files, bytes, "copied {id}");
    let (missing, superseded) = trace.as_ref().map(left_out).unwrap_or_default();
    if superseded > 0 {
        let what = counted(superseded, "execution");
        info!("not copied, since a later run of a module has replaced what it came of: {what}");
    }
    if missing > 0 {
        let (flags, id) = (again::plane_flags(), again::quoted(id));
        warn!(
            "executions without an outcome, and so without files: {missing}; sidecar trace{flags} {id} names them"
        );
    }
    exit::print(&dir.display().to_string())?;
    Ok(if missing > 0 { exit::MODULE_FAILED } else { 0 })
}

/// How many executions have no files although somebody waits for them, and how many came of a run that was replaced.
fn left_out(trace: &Trace) -> (usize, usize) {
    let (mut missing, mut superseded) = (0, 0);
    let replaced = trace.superseded();
    for ((event, module), stage) in trace.stages() {
        match stage {
            _ if replaced.contains(event) => superseded += 1,
            Stage::Committed(_) => {}
            // A run that failed takes nothing from an outcome before it.
            Stage::Failed(_) | Stage::GivenUp(_) if trace.execution(event, module, None).is_some() => {}
            Stage::Failed(_) | Stage::GivenUp(_) => missing += 1,
        }
    }
    (missing, superseded)
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
        failed => Err(Failure::new(
            exit::PROVIDER_FAILED,
            format!("could not be published: {}", counted(failed, "execution")),
        )),
    }
}

/// Removes what no outcome names.
///
/// # Errors
/// When a store cannot be listed or changed; it can be repeated.
pub(crate) async fn gc(plane: &DataPlane, rules: &[(Scope, Duration)], all: bool) -> Result<u8, Failure> {
    let older_than = match rules {
        [] => Duration::ZERO,
        [(Scope::All, age)] => *age,
        _ => {
            let why = "--older-than: without --outcomes it is one duration, for all leftovers";
            return Err(Failure::new(exit::CONFIGURATION, why));
        }
    };
    let collected =
        collect_garbage(plane, older_than, all).await.map_err(|error| Failure::at_open(&error))?;
    let Collected { blobs, bytes, documents, abandoned, young, unknown, .. } = collected;
    info!(
        "deleted {} of {bytes} bytes and {}; closed {}",
        counted(blobs, "file"),
        counted(documents, "document"),
        counted(abandoned, "undecided run")
    );
    if young > 0 {
        let young = counted(young, "execution");
        info!("left alone, with a file that was stored within {older_than:?} (--older-than): {young}");
    }
    if unknown > 0 {
        warn!(
            "left alone: {}; {} knows neither them nor their events, and may belong to other blobs (--unknown deletes \
             them)",
            counted(unknown, "execution"),
            plane.documents
        );
    }
    Ok(0)
}

/// Shows outcomes that are older than they have to be kept, or deletes them.
///
/// # Errors
/// When a store cannot be listed or changed; it can be repeated.
pub(crate) async fn expire(
    plane: &DataPlane,
    rules: Vec<(Scope, Duration)>,
    delete: bool,
) -> Result<u8, Failure> {
    let expired = lineage::expire(plane, &rules.into_iter().collect(), delete).await;
    let Expired { modules, submissions, needed, .. } = expired.map_err(|error| Failure::at_open(&error))?;
    if needed > 0 {
        let needed = counted(needed, "older outcome");
        info!("kept, since something that stays depends on them: {needed}");
    }
    if modules.is_empty() {
        info!("no outcome is to be deleted");
        return Ok(0);
    }
    let done = if delete { "deleted" } else { "would be deleted (--delete does it)" };
    info!("{done}, with {}:", counted(submissions, "submitted event"));
    let lines =
        modules.into_iter().map(|(module, (outcomes, bytes))| format!("{module}\t{outcomes}\t{bytes}"));
    exit::table("MODULE\tOUTCOMES\tBYTES", lines.collect())?;
    Ok(0)
}
