//! The outcome of an execution: decided once, and rolled forward by anyone.
//!
//! `decide` is the only conditional step of the engine. Before it an attempt stores only under names of its own;
//! after it everything depends on the record alone, which never changes, and can be repeated by any number of
//! machines at once. `docs/model/` is this text as an exhaustive model.

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tracing::{Instrument, info, warn};

use super::{Execution, host, ids, now, stores};
use crate::contract::{
    Committed, Contents, Context, Event, EventHeader, ExecutionId, ExecutionRecord, Insight, KeyValuePairs,
    OutboxChunk, Outcome, PrivateId, Publication,
};
use crate::documents::{DocumentProvider, Documents as _, Kind};
use crate::error::{Error, Result};
use crate::fault;
use crate::plane::DataPlane;
use crate::telemetry::step;

/// Events of one call: a bus that is slow or throttles gets through them within a deadline.
pub(super) const AT_ONCE: usize = 500;
/// After so many events it is stored how far they are, so that not all of them are published again.
const CURSOR_EVERY: usize = 20 * AT_ONCE;
/// The oldest reader that can roll this release's records forward.
const MIN_READER: u32 = 1;

impl ExecutionRecord {
    /// The record of an attempt's proposal.
    pub(super) fn new(context: Context, run: u32, attempt: PrivateId, outcome: Outcome) -> Self {
        Self {
            format: Self::FORMAT,
            min_reader: MIN_READER,
            supersedes: None,
            context,
            run,
            outcome,
            attempt,
            host: host(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// Who decided, for people.
    pub(super) fn decided_by(&self) -> String {
        format!("attempt {} on {}", self.attempt, self.host)
    }
}

/// Whatever is stored is the outcome: this proposal, if there was none.
pub(super) async fn decide(plane: &DataPlane, record: &ExecutionRecord) -> Result<ExecutionRecord> {
    fault::point("decide.before");
    if fault::is_broken("decide") {
        plane.documents.store(std::slice::from_ref(record)).await?;
        return Ok(record.clone());
    }
    let stored = plane.documents.decide(record).instrument(step!("decide")).await?;
    fault::point("decide.after");
    Ok(stored)
}

/// Closes the run, unless it has an outcome: whatever is stored then.
pub(super) async fn abandon(
    plane: &DataPlane,
    context: &Context,
    run: u32,
    attempt: &PrivateId,
) -> Result<ExecutionRecord> {
    let record = ExecutionRecord::new(context.clone(), run, attempt.clone(), Outcome::Abandoned);
    decide(plane, &record).await
}

/// The record of one run, if it has one.
pub(crate) async fn find(
    documents: &dyn DocumentProvider,
    execution: &ExecutionId,
) -> Result<Option<ExecutionRecord>> {
    let found: Option<ExecutionRecord> = documents.find(&ids::record(execution)).await?;
    if let Some(record) = found.as_ref().filter(|record| record.execution() != *execution) {
        return Err(Error::Corrupt {
            provider: documents.to_string(),
            what: format!("the record of {execution}"),
            problem: format!("it is of {}", record.execution()),
        });
    }
    Ok(found)
}

/// Removes the record of a run that is published, and the notes of that.
///
/// The record alone would be published once more by whoever finds it without a note, and the note alone would let the next
/// outcome of this run pass for published: so the run is closed first, as one that never had an outcome.
pub(crate) async fn remove(plane: &DataPlane, record: &ExecutionRecord) -> Result<()> {
    let execution = record.execution();
    let attempt = ids::of_retention(&execution);
    let closed = ExecutionRecord::new(record.context.clone(), record.run, attempt, Outcome::Abandoned);
    plane.documents.store(&[closed]).await?;
    // As long as the record named them, it could not be read without them.
    let chunks: Vec<OutboxChunk> = match record.committed() {
        Some(committed) if committed.outbox.is_empty() => Vec::new(),
        _ => plane.documents.graph(&record.context.correlation_id).await?,
    };
    let of_run = |chunk: &&OutboxChunk| {
        chunk.run == record.run
            && chunk.context.event_id == record.context.event_id
            && chunk.context.name == record.context.name
    };
    let chunks: Vec<String> = chunks.iter().filter(of_run).map(|chunk| chunk.id.clone()).collect();
    for chunks in chunks.chunks(AT_ONCE) {
        plane.documents.delete(Kind::Outbox, chunks).await?;
    }
    let (record, cursor) = (ids::record(&execution), ids::cursor(&execution));
    plane.documents.delete(Kind::Published, &[record.clone(), cursor]).await?;
    plane.documents.delete(Kind::Execution, &[record]).await
}

/// Whether [`remove`] has closed this run and not come further.
pub(crate) fn is_half_removed(record: &ExecutionRecord) -> bool {
    record.attempt == ids::of_retention(&record.execution())
}

/// What an execution comes to, from one run on: an abandoned run is no outcome, and the next one is looked at.
#[derive(Debug)]
pub(super) enum Found {
    /// This run has no record.
    Open(u32),
    /// This was decided.
    Decided(Box<ExecutionRecord>),
}

/// Looks for the outcome, from `run` on.
pub(super) async fn look(plane: &DataPlane, execution: &ExecutionId) -> Result<Found> {
    let mut execution = execution.clone();
    loop {
        match find(&*plane.documents, &execution).await? {
            None => return Ok(Found::Open(execution.run)),
            Some(record) if record.committed().is_some() => return Ok(Found::Decided(Box::new(record))),
            Some(_) => execution.run += 1,
        }
    }
}

/// The last outcome of any run.
pub(super) async fn latest(plane: &DataPlane, execution: &ExecutionId) -> Result<Option<ExecutionRecord>> {
    let (mut latest, mut next) = (None, execution.clone());
    while let Found::Decided(record) = look(plane, &next).await? {
        next.run = record.run + 1;
        latest = Some(*record);
    }
    Ok(latest)
}

/// Publishes what is left of the last outcome of an execution; whether it has one.
///
/// # Errors
/// What the stores and the bus report.
pub async fn publish_outcome(plane: &DataPlane, context: &Context) -> Result<bool> {
    let found = latest(plane, &ids::execution(context, 0)).await?;
    let Some((record, committed)) = found.as_ref().and_then(|record| Some((record, record.committed()?)))
    else {
        return Ok(false);
    };
    roll_forward(plane, record, committed, None).await.map(|_| true)
}

/// The first run without a record; what earlier ones decided is published first.
pub(super) async fn first_open(plane: &DataPlane, execution: &ExecutionId) -> Result<u32> {
    let mut execution = ExecutionId { run: 0, ..execution.clone() };
    while let Some(record) = find(&*plane.documents, &execution).await? {
        if let Some(committed) = record.committed() {
            roll_forward(plane, &record, committed, None).await?;
        }
        execution.run += 1;
    }
    Ok(execution.run)
}

/// Whether every run before this one has a record.
pub(super) async fn earlier_are_closed(plane: &DataPlane, execution: &ExecutionId) -> Result<bool> {
    for run in 0..execution.run {
        if find(&*plane.documents, &ExecutionId { run, ..execution.clone() }).await?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The last run before this one that has an outcome.
pub(super) async fn last_committed(plane: &DataPlane, execution: &ExecutionId) -> Result<Option<u32>> {
    for run in (0..execution.run).rev() {
        let earlier = ExecutionId { run, ..execution.clone() };
        if find(&*plane.documents, &earlier).await?.is_some_and(|record| record.committed().is_some()) {
            return Ok(Some(run));
        }
    }
    Ok(None)
}

/// Makes sure that every run before this one is closed and, if it was decided, published.
pub(super) async fn close_earlier(plane: &DataPlane, execution: &ExecutionId) -> Result<()> {
    for run in 0..execution.run {
        let earlier = ExecutionId { run, ..execution.clone() };
        let Some(record) = find(&*plane.documents, &earlier).await? else {
            return Err(Error::RunNotOpen { run: execution.to_string(), open: run });
        };
        if let Some(committed) = record.committed() {
            roll_forward(plane, &record, committed, None).await?;
        }
    }
    Ok(())
}

/// Publishes what was decided, from the store alone or from what its proposer holds in memory; says what it was.
///
/// Any number of callers may do so at once and again: everything has ids of its own.
pub(super) async fn roll_forward(
    plane: &DataPlane,
    record: &ExecutionRecord,
    committed: &Committed,
    held: Option<Contents>,
) -> Result<Contents> {
    let execution = record.execution();
    check_reader(plane, record)?;
    let (id, proposer) = (ids::record(&execution), held.is_some());
    // Whoever has just decided knows that nothing is published; what is published is so wherever the stores are by now.
    if !proposer && plane.documents.find::<Publication>(&id).await?.is_some() {
        return contents_of(plane, record, committed).await;
    }
    let (here, there) = (stores(plane), &committed.stores);
    if here != *there {
        let differing =
            [(&here.blobs, &there.blobs), (&here.documents, &there.documents), (&here.events, &there.events)];
        let differing = differing.into_iter().find(|(here, there)| here != there);
        let (here, there) = differing.map_or(("", ""), |(here, there)| (here.as_str(), there.as_str()));
        let why = format!("it was decided on another data plane: {there} instead of {here}");
        return Err(Error::refused(&plane.documents, format!("publish {execution}"), why));
    }
    let contents = match held {
        Some(contents) => contents,
        None => contents_of(plane, record, committed).await?,
    };
    // Between the record and its note, retention may have removed both.
    if !proposer && !is_still(plane, &execution, committed).await? {
        return Ok(contents);
    }
    if let Some(id) = committed.insight_id.clone() {
        let insight = Insight { context: record.context.clone(), id, data: contents.insight.clone() };
        plane.documents.store(&[insight]).await?;
        fault::point("documents.put_insight");
    }
    let step = step!("publish", otel.kind = "producer", events = contents.events.len());
    publish(plane, record, &contents, proposer).instrument(step).await?;
    Ok(contents)
}

/// Whether this is still the outcome of its run.
async fn is_still(plane: &DataPlane, execution: &ExecutionId, committed: &Committed) -> Result<bool> {
    let found = find(&*plane.documents, execution).await?;
    let found = found.as_ref().and_then(ExecutionRecord::committed);
    Ok(found.is_some_and(|found| found.proposal == committed.proposal))
}

async fn publish(
    plane: &DataPlane,
    record: &ExecutionRecord,
    contents: &Contents,
    proposer: bool,
) -> Result<()> {
    let (execution, all) = (record.execution(), contents.events.len());
    let so_far = |id: String, published: usize| Publication {
        id,
        context: record.context.clone(),
        run: record.run,
        published: published as u64,
        time: now(),
    };
    let cursor = ids::cursor(&execution);
    let mut published = 0;
    if !proposer && all > CURSOR_EVERY {
        let found: Option<Publication> = plane.documents.find(&cursor).await?;
        published = found.map_or(0, |found| usize::try_from(found.published).unwrap_or(0).min(all));
    }
    let mut stored = published;
    while published < all {
        let next = (published + AT_ONCE).min(all);
        let events: Vec<Event> = contents.events[published..next]
            .iter()
            .map(|event| Event {
                context: EventHeader {
                    name: String::new(),
                    event_id: event.event_id.clone(),
                    correlation_id: record.context.correlation_id.clone(),
                    parent_event_id: record.context.event_id.to_string(),
                },
                event_type: event.event_type.clone(),
                previous_stages: Vec::new(),
                data: KeyValuePairs::default(),
                traceparent: record.committed().and_then(|committed| committed.traceparent.clone()),
            })
            .collect();
        plane.events.publish(&events).await?;
        fault::point("events.publish");
        published = next;
        // Only what the bus has accepted counts.
        if published - stored >= CURSOR_EVERY && published < all {
            plane.documents.store(&[so_far(cursor.clone(), published)]).await?;
            stored = published;
        }
    }
    plane.documents.store(&[so_far(ids::record(&execution), all)]).await?;
    fault::point("documents.put_published");
    if stored > 0 {
        // Left behind it would be in nobody's way.
        let _ = plane.documents.delete(Kind::Published, &[cursor]).await;
    }
    Ok(())
}

/// Refuses a record of which this release may not understand everything: what it does not see it would lose.
fn check_reader(plane: &DataPlane, record: &ExecutionRecord) -> Result<()> {
    if record.min_reader <= ExecutionRecord::FORMAT {
        return Ok(());
    }
    let why = format!("it was decided by a newer sidecar ({}): upgrade this one", record.version);
    Err(Error::unavailable(&plane.documents, format!("read the record of {}", record.execution()), why))
}

/// The lists of a record, from the documents that hold them.
pub(crate) async fn contents_of(
    plane: &DataPlane,
    record: &ExecutionRecord,
    committed: &Committed,
) -> Result<Contents> {
    check_reader(plane, record)?;
    let mut contents = committed.contents.clone();
    let find = |id: &String| {
        let (documents, id) = (plane.documents.clone(), id.clone());
        async move {
            let chunk: Option<OutboxChunk> = documents.find(&id).await?;
            chunk.ok_or_else(|| Error::Corrupt {
                provider: documents.to_string(),
                what: format!("the record of {}", record.execution()),
                problem: format!("its part {id} is missing"),
            })
        }
    };
    let found = stream::iter(committed.outbox.iter().map(find).collect::<Vec<_>>());
    let mut chunks = found.buffered(super::Settings::DEFAULT_PARALLEL.get());
    while let Some(chunk) = chunks.try_next().await? {
        contents.inputs.extend(chunk.contents.inputs);
        contents.outputs.extend(chunk.contents.outputs);
        contents.insight.0.extend(chunk.contents.insight.0);
        contents.events.extend(chunk.contents.events);
    }
    Ok(contents)
}

/// What [`recover`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Executions that were decided and not published, and are now.
    pub published: u64,
    /// Executions that could not be published; each was logged.
    pub failed: u64,
    /// How long ago the oldest of the unpublished outcomes was proposed, in seconds.
    pub oldest_seconds: u64,
}

/// Publishes everything that is decided and not published, whoever decided it.
///
/// # Errors
/// What the document store reports while it lists; an execution that cannot be published is logged and counted.
pub async fn recover(plane: &DataPlane) -> Result<Recovered> {
    let (mut recovered, mut after) = (Recovered::default(), None::<String>);
    loop {
        let page = plane.documents.readable_page::<ExecutionRecord>(after.as_deref()).await?;
        let Some((last, _)) = page.last() else { return Ok(recovered) };
        after = Some(last.clone());
        let (mut records, mut damaged) = (Vec::new(), Vec::new());
        for (id, read) in page {
            match read {
                Ok(record) => records.push((id, record)),
                Err(error) => damaged.push(error),
            }
        }
        for error in damaged {
            // It keeps nobody else's outcome from being published.
            warn!("{}: restore it from a backup", error.chain());
            recovered.failed += 1;
        }
        let unpublished = stream::iter(records)
            .map(|(id, record)| async move {
                let published = plane.documents.find::<Publication>(&id).await?;
                Result::Ok((published.is_none() && record.committed().is_some()).then_some(record))
            })
            .buffered(super::Settings::DEFAULT_PARALLEL.get());
        // All look-ups first: one that nobody polls keeps its connection, which the publishing may wait for.
        let unpublished: Vec<_> = unpublished.try_collect().await?;
        for record in unpublished.into_iter().flatten() {
            let Some(committed) = record.committed() else { continue };
            let age = humantime::parse_rfc3339(&committed.done).ok().and_then(|done| done.elapsed().ok());
            recovered.oldest_seconds = recovered.oldest_seconds.max(age.unwrap_or_default().as_secs());
            match roll_forward(plane, &record, committed, None).await {
                Ok(contents) => {
                    info!(events = contents.events.len(), "published {}", record.execution());
                    recovered.published += 1;
                }
                Err(error) => {
                    warn!(error = error.chain(), "{} could not be published", record.execution());
                    recovered.failed += 1;
                }
            }
        }
    }
}

/// How the decision of a proposal came out, and what follows from it.
#[derive(Debug)]
pub(super) enum Decision {
    /// This record is the outcome, and it is the caller's own proposal.
    Won(Box<ExecutionRecord>),
    /// This record is the outcome.
    Lost(Box<ExecutionRecord>),
    /// The run was closed without one: nobody has an outcome yet, and this run never will.
    Abandoned { run: u32 },
}

impl Execution {
    /// Decides the proposal that the journal holds, and looks on where its run was abandoned.
    pub(super) async fn decide(&self, record: &ExecutionRecord) -> Result<Decision> {
        let stored = decide(&self.plane, record).await?;
        let mine = record.committed().map(|committed| &committed.proposal);
        match stored.committed().map(|committed| &committed.proposal) {
            Some(proposal) if Some(proposal) == mine => Ok(Decision::Won(Box::new(stored))),
            Some(_) if fault::is_broken("loser") => Ok(Decision::Won(Box::new(record.clone()))),
            Some(_) => Ok(Decision::Lost(Box::new(stored))),
            None => {
                let next = ExecutionId { run: record.run + 1, ..record.execution() };
                match look(&self.plane, &next).await? {
                    Found::Decided(record) => Ok(Decision::Lost(record)),
                    Found::Open(run) => Ok(Decision::Abandoned { run }),
                }
            }
        }
    }
}
