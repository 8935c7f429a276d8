//! What people and timers run beside executions: `get`, `failures`, `recover` and `gc`.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use sidecar_core::lineage::{self, Expired, Retention, Scope, Stage, Trace, copy_graph};
use sidecar_core::plane::{counted, is_misspelling};
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
    let (mut missing, idle, superseded) = trace.as_ref().map(left_out).unwrap_or_default();
    if let Some(trace) = &trace {
        let unpublished = trace.unpublished(plane).await.map_err(|error| Failure::at_open(&error))?.len();
        if unpublished > 0 {
            missing += unpublished;
            warn!(
                "outcomes that are decided and not published yet, and so have no consumers: {unpublished} (sidecar recover \
                 publishes them)"
            );
        }
    }
    if idle > 0 {
        info!("events that no module has worked on so far: {idle}");
    }
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

/// How many executions have no files although somebody waits for them, how many events nobody has worked on of whose type
/// nobody ever has, and how many executions came of a run that was replaced.
fn left_out(trace: &Trace) -> (usize, usize, usize) {
    let (mut missing, mut idle, mut superseded) = (0, 0, 0);
    let replaced = trace.superseded();
    let touched: HashSet<_> = trace.stages().into_keys().map(|(event, _)| event).collect();
    let consumed: HashSet<_> = trace
        .events
        .iter()
        .filter(|event| touched.contains(&event.event_id))
        .map(|event| &event.event_type)
        .collect();
    let untouched = trace
        .events
        .iter()
        .filter(|event| !touched.contains(&event.event_id) && !replaced.contains(&event.event_id));
    for event in untouched {
        // Others of its type have consumers, and it waits for them.
        *(if consumed.contains(&event.event_type) { &mut missing } else { &mut idle }) += 1;
    }
    for ((event, module), stage) in trace.stages() {
        match stage {
            _ if replaced.contains(event) => superseded += 1,
            Stage::Committed(_) => {}
            // A run that failed takes nothing from an outcome before it.
            Stage::Failed(_) | Stage::GivenUp(_) if trace.execution(event, module, None).is_some() => {}
            Stage::Failed(_) | Stage::GivenUp(_) => missing += 1,
        }
    }
    (missing, idle, superseded)
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
    let failed = |error: Error| Failure::at_open(&error);
    let retention: Retention = rules.iter().cloned().collect();
    if delete && rules.iter().any(|(scope, _)| *scope != Scope::All) {
        // Before anything is deleted that a misspelt rule was to keep.
        misspelt(&rules, &lineage::expire(plane, &retention, false).await.map_err(failed)?)?;
    }
    let expired = lineage::expire(plane, &retention, delete).await.map_err(failed)?;
    if !delete {
        misspelt(&rules, &expired)?;
    }
    let Expired { modules, submissions, needed, .. } = expired;
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

/// Refuses a rule for a module or a type that there is nothing of, where there is one of almost that name without a rule.
fn misspelt(rules: &[(Scope, Duration)], found: &Expired) -> Result<(), Failure> {
    let has_rule = |scope: &Scope| rules.iter().any(|(of, _)| of == scope);
    for (scope, _) in rules {
        let known: Vec<Scope> = match scope {
            Scope::Module(_) => found.known_modules.iter().cloned().map(Scope::Module).collect(),
            Scope::Type(_) => found.known_types.iter().cloned().map(Scope::Type).collect(),
            _ => continue,
        };
        if known.contains(scope) {
            continue;
        }
        let (what, name) = named(scope);
        let is_meant = |known: &&Scope| is_misspelling(name, named(known).1) && !has_rule(known);
        let Some(meant) = known.iter().find(is_meant).map(|meant| named(meant).1) else {
            warn!("--older-than {what}:{name}: there is no outcome of it");
            continue;
        };
        let message = format!(
            "--older-than {what}:{name}: there is no outcome of it; did you mean {meant}? Nothing was deleted (if not, give \
             {meant} a rule of its own)"
        );
        return Err(Failure::new(exit::CONFIGURATION, message));
    }
    Ok(())
}

/// What a rule is for.
fn named(scope: &Scope) -> (&'static str, &str) {
    match scope {
        Scope::Module(name) => ("module", name.as_str()),
        Scope::Type(name) => ("type", name),
        _ => ("all", ""),
    }
}
