//! Removes what no outcome names: the uploads, contexts and outboxes of proposals that were not decided.
//!
//! The order is what makes it safe beside attempts at work: a run is closed first, then the records of all runs of
//! its execution are read, and only what belongs to a closed run and to none of these records is removed. Only keys
//! that one writer alone uses are ever removed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use tracing::info;

use super::record::{self, AT_ONCE, abandon, contents_of};
use crate::contract::{
    BlobKey, Committed, Contents, Context, EventContext, EventId, ExecutionId, ExecutionRecord, KeyOwner,
    ModuleName, OutboxChunk, PrivateId,
};
use crate::documents::{Documents as _, Kind};
use crate::error::Result;
use crate::fault;
use crate::plane::DataPlane;

/// What [`collect_garbage`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs that were removed.
    pub blobs: u64,
    /// Their sizes together, in bytes.
    pub bytes: u64,
    /// Documents that were removed.
    pub documents: u64,
    /// Runs without an outcome that were closed: an attempt of one that is still at work takes the next run.
    pub abandoned: u64,
    /// Runs that were left alone since they are younger than asked for.
    pub young: u64,
    /// Runs that were left alone since the document store knows neither them nor their events: most likely it is
    /// not the one that belongs to these blobs.
    pub unknown: u64,
}

/// What belongs to the runs of one module for one event.
#[derive(Debug, Default)]
struct Runs {
    /// Each run with the time of its youngest blob.
    seen: BTreeMap<u32, Option<SystemTime>>,
    /// Contexts and outbox documents, each with its run.
    contexts: Vec<(u32, String)>,
    chunks: Vec<(u32, String)>,
    correlation_id: String,
}

/// Removes what no outcome names, of runs whose blobs are all older than `older_than`.
///
/// Executions of events that the document store does not know are left alone unless `unknown`: if it is not the one
/// that belongs to these blobs, they are all that is left of committed outputs.
///
/// Age only saves work: an attempt whose run is closed beside it goes on in the next one, and stores its outputs
/// again.
///
/// # Errors
/// What the stores report; it can be repeated.
pub async fn collect_garbage(plane: &DataPlane, older_than: Duration, unknown: bool) -> Result<Collected> {
    let mut collected = Collected::default();
    let (executions, submissions) = scan(plane).await?;
    let newest = SystemTime::now().checked_sub(older_than).unwrap_or(SystemTime::UNIX_EPOCH);
    for ((event, module), mut runs) in executions {
        // Without a file there is no age to go by.
        let young =
            |modified: &Option<SystemTime>| !older_than.is_zero() && modified.is_none_or(|at| at > newest);
        let before = runs.seen.len();
        runs.seen.retain(|_, modified| !young(modified));
        collected.young += (before - runs.seen.len()) as u64;
        if !runs.seen.is_empty() {
            collect_runs(plane, &event, &module, runs, unknown, &mut collected).await?;
        }
    }
    for event in submissions {
        let Some(context) = plane.documents.find::<EventContext>(event.as_str()).await? else { continue };
        let named = context.blobs.iter().map(|blob| plane.blobs.folded(&blob.key).into_owned()).collect();
        let own = |key: &BlobKey| matches!(key.owner(), Some(KeyOwner::Submission(of, _)) if of == event);
        remove_unnamed(plane, &format!("{event}/.submit/"), own, &named, &mut collected).await?;
    }
    Ok(collected)
}

async fn collect_runs(
    plane: &DataPlane,
    event: &EventId,
    module: &ModuleName,
    runs: Runs,
    unknown: bool,
    collected: &mut Collected,
) -> Result<()> {
    let id = |run| ExecutionId { event_id: event.clone(), name: module.clone(), run };
    let mut known = unknown.then_some(true);
    for run in runs.seen.keys() {
        if fault::is_broken("gc") || record::find(&*plane.documents, &id(*run)).await?.is_some() {
            continue;
        }
        if known.is_none() {
            let context = plane.documents.find::<EventContext>(event.as_str()).await?;
            known = Some(context.is_some() || record::find(&*plane.documents, &id(0)).await?.is_some());
        }
        if known == Some(false) && runs.contexts.is_empty() && runs.chunks.is_empty() {
            collected.unknown += 1;
            continue;
        }
        let context = Context {
            name: module.clone(),
            event_id: event.clone(),
            correlation_id: runs.correlation_id.clone(),
            parent_event_id: String::new(),
        };
        if abandon(plane, &context, *run, &PrivateId::random()).await?.committed().is_none() {
            info!("{} has no outcome and is closed", id(*run));
            collected.abandoned += 1;
        }
    }
    // Every run of the execution, not only those that were seen: a record names only keys of its own run, and a
    // record that was not read could name anything.
    let (mut closed, mut keys, mut ids) = (BTreeSet::new(), HashSet::new(), HashSet::new());
    for run in 0.. {
        let Some(record) = record::find(&*plane.documents, &id(run)).await? else { break };
        closed.insert(run);
        let Some(committed) = record.committed() else { continue };
        let contents = contents_of(plane, &record, committed).await?;
        ids.extend(contents.events.iter().map(|event| event.event_id.to_string()));
        ids.extend(committed.outbox.iter().cloned());
        keys.extend(output_keys(plane, &record, committed, &contents));
    }
    if fault::is_broken("gc") {
        closed.extend(runs.seen.keys());
    }
    for run in runs.seen.keys().filter(|run| closed.contains(run)) {
        let own = |key: &BlobKey| matches!(key.owner(), Some(KeyOwner::Proposal(of, _)) if of == id(*run));
        remove_unnamed(plane, &format!("{event}/{module}/~{run}-"), own, &keys, collected).await?;
    }
    for (kind, found) in [(Kind::Context, runs.contexts), (Kind::Outbox, runs.chunks)] {
        let found = found
            .into_iter()
            .filter(|(run, id)| closed.contains(run) && runs.seen.contains_key(run) && !ids.contains(id));
        let found: Vec<String> = found.map(|(_, id)| id).collect();
        for ids in found.chunks(AT_ONCE) {
            plane.documents.delete(kind, ids).await?;
            collected.documents += ids.len() as u64;
        }
    }
    Ok(())
}

/// Removes the blobs below a prefix that are `own` and not named.
pub(crate) async fn remove_unnamed(
    plane: &DataPlane,
    prefix: &str,
    own: impl Fn(&BlobKey) -> bool,
    named: &HashSet<String>,
    collected: &mut Collected,
) -> Result<()> {
    let mut after = None;
    loop {
        let page = plane.blobs.list(prefix, after.as_ref()).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.key.clone());
        let unnamed: Vec<_> = page
            .into_iter()
            .filter(|listed| own(&listed.key) && !named.contains(&*plane.blobs.folded(&listed.key)))
            .collect();
        let keys: Vec<BlobKey> = unnamed.iter().map(|listed| listed.key.clone()).collect();
        plane.blobs.delete(&keys).await?;
        collected.blobs += unnamed.len() as u64;
        collected.bytes += unnamed.iter().map(|listed| listed.size).sum::<u64>();
    }
}

/// The keys that a record names, as the store sees them.
pub(super) async fn named_keys(
    plane: &DataPlane,
    record: &ExecutionRecord,
    committed: &Committed,
) -> Result<HashSet<String>> {
    let contents = contents_of(plane, record, committed).await?;
    Ok(output_keys(plane, record, committed, &contents).collect())
}

fn output_keys<'r>(
    plane: &'r DataPlane,
    record: &'r ExecutionRecord,
    committed: &'r Committed,
    contents: &'r Contents,
) -> impl Iterator<Item = String> + 'r {
    let keys = contents.outputs.iter().filter_map(|file| record.output_key(committed, file).ok());
    keys.map(|key| plane.blobs.folded(&key).into_owned())
}

type Executions = BTreeMap<(EventId, ModuleName), Runs>;

/// Everything that one writer alone has stored, by execution; and the events of submissions.
async fn scan(plane: &DataPlane) -> Result<(Executions, BTreeSet<EventId>)> {
    let (mut executions, mut submissions) = (Executions::new(), BTreeSet::new());
    let mut after = None;
    loop {
        let page = plane.blobs.list("", after.as_ref()).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.key.clone());
        for listed in &page {
            match listed.key.owner() {
                Some(KeyOwner::Proposal(ExecutionId { event_id, name, run }, _)) => {
                    let runs = executions.entry((event_id, name)).or_default();
                    let youngest = runs.seen.entry(run).or_default();
                    *youngest = (*youngest).max(listed.modified);
                }
                Some(KeyOwner::Submission(event, _)) => drop(submissions.insert(event)),
                None => {}
            }
        }
    }
    let mut after = None::<String>;
    loop {
        let page = plane.documents.page::<EventContext>(after.as_deref()).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        for (id, context) in page {
            let Some(producer) = context.producer else { continue };
            let Ok(event) = EventId::parse(&context.context.parent_event_id) else { continue };
            let runs = executions.entry((event, producer.name)).or_default();
            runs.seen.entry(producer.run).or_default();
            runs.contexts.push((producer.run, id));
            runs.correlation_id = context.context.correlation_id;
        }
    }
    let mut after = None::<String>;
    loop {
        let page = plane.documents.page::<OutboxChunk>(after.as_deref()).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        for (id, chunk) in page {
            let runs = executions.entry((chunk.context.event_id, chunk.context.name)).or_default();
            runs.seen.entry(chunk.run).or_default();
            runs.chunks.push((chunk.run, id));
            runs.correlation_id = chunk.context.correlation_id;
        }
    }
    Ok((executions, submissions))
}
