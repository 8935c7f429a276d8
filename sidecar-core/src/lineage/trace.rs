//! A trace: the events and executions of one graph.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::contract::{
    Blob, DeadLetter, EventContext, EventId, ExecutionId, ExecutionRecord, Failure, KeyValuePairs, Memoized,
    ModuleName, PrivateId, Publication, Published, RecordedFile, Reference,
};
use crate::documents::Documents as _;
use crate::error::{Error, Result};
use crate::execution::{contents_of, record_id};
use crate::plane::DataPlane;

/// Records whose large parts are fetched at the same time.
const AT_ONCE: usize = 16;

/// What happened to everything that one submission led to.
///
/// As JSON it is stable: fields are added, and none changes its meaning without another `format`. It holds all that is
/// needed to run an execution again, except for the contents of the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// The format of this document: 1.
    pub format: u32,
    /// What all its events share.
    pub correlation_id: String,
    /// The events, those without a parent first, then by their ids.
    pub events: Vec<TracedEvent>,
    /// The executions that have an outcome, in the order of their decisions.
    pub executions: Vec<TracedExecution>,
    /// Attempts that failed, the oldest first.
    pub failures: Vec<Failure>,
    /// Events that workers gave up, the oldest first.
    pub dead_letters: Vec<DeadLetter>,
}

/// An event that was submitted, or that an outcome published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TracedEvent {
    /// Its id.
    pub event_id: EventId,
    /// Its type; absent for one that was never submitted, but only named by whoever ran a module.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// The event whose processing published it; empty for one that begins the graph.
    #[serde(default)]
    pub parent_event_id: String,
    /// The module that published it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<ModuleName>,
    /// The run of that module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<u32>,
    /// Its files, with the keys under which they are stored.
    #[serde(default)]
    pub files: Vec<Blob>,
    /// The files that it refers to where they lie.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<Reference>,
    /// Its values.
    #[serde(default)]
    pub data: KeyValuePairs,
}

/// An execution that has an outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TracedExecution {
    /// The event that was processed.
    pub event_id: EventId,
    /// The module.
    pub module: ModuleName,
    /// The run: 0, unless the module ran again on purpose or an earlier run was closed.
    pub run: u32,
    /// The run whose outcome this one replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<u32>,
    /// The attempt that was decided.
    pub attempt: PrivateId,
    /// The machine.
    pub host: String,
    /// The version of the sidecar.
    pub version: String,
    /// When the attempt began: RFC 3339, UTC.
    pub started: String,
    /// When the inputs were staged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// When the module was done.
    pub done: String,
    /// The module's exit code, where it had ended before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
    /// How it stands to equal work, where the module is memoized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memoized: Option<Memoized>,
    /// The files that were staged.
    #[serde(default)]
    pub inputs: Vec<RecordedFile>,
    /// The files that were committed, with their keys.
    #[serde(default)]
    pub outputs: Vec<Blob>,
    /// The insight.
    #[serde(default)]
    pub insight: KeyValuePairs,
    /// The events that were published, in their order.
    #[serde(default)]
    pub events: Vec<Published>,
}

/// Where the processing of an event by a module stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage<'t> {
    /// It has an outcome.
    Committed(&'t TracedExecution),
    /// The last attempt failed, and may be repeated.
    Failed(&'t Failure),
    /// It was given up.
    GivenUp(&'t DeadLetter),
}

impl Trace {
    /// The format that this release writes.
    pub const FORMAT: u32 = 1;

    /// The trace of the graph of an event, or of a correlation id.
    ///
    /// # Errors
    /// [`Error::UnknownEvent`] when the data plane knows neither; otherwise what the document store reports.
    pub async fn of(plane: &DataPlane, id: &str) -> Result<Self> {
        let whole = Self::of_graph(plane, id).await?;
        if !whole.is_empty() {
            return Ok(whole);
        }
        if EventId::parse(id).is_ok()
            && let Some(context) = plane.documents.find::<EventContext>(id).await?
        {
            let graph = Self::of_graph(plane, &context.context.correlation_id).await?;
            // The context of a proposal that never became an outcome is nobody's event.
            if graph.events.iter().any(|event| event.event_id.as_str() == id) {
                return Ok(graph);
            }
        }
        Err(Error::UnknownEvent { provider: plane.documents.to_string(), event: id.to_owned() })
    }

    /// The trace of one correlation id, which may be empty.
    ///
    /// # Errors
    /// What the document store reports.
    pub async fn of_graph(plane: &DataPlane, correlation_id: &str) -> Result<Self> {
        let documents = &plane.documents;
        let contexts: Vec<EventContext> = documents.graph(correlation_id).await?;
        let records: Vec<ExecutionRecord> = documents.graph(correlation_id).await?;
        let mut failures: Vec<Failure> = documents.graph(correlation_id).await?;
        let mut dead_letters: Vec<DeadLetter> = documents.graph(correlation_id).await?;
        // All of them first: a closure that outlives an await would keep this call from being spawned.
        let executions: Vec<_> = records.iter().map(|record| traced(plane, record)).collect();
        let executions = stream::iter(executions).buffered(AT_ONCE);
        let mut executions: Vec<_> =
            executions.try_filter_map(|traced| std::future::ready(Ok(traced))).try_collect().await?;
        // RFC 3339 in UTC: as text it is in the order of time.
        executions.sort_by(|one, other| (&one.done, &one.event_id).cmp(&(&other.done, &other.event_id)));
        failures.sort_by(|one, other| (&one.time, &one.id).cmp(&(&other.time, &other.id)));
        dead_letters.sort_by(|one, other| (&one.time, &one.id).cmp(&(&other.time, &other.id)));
        let events = events(contexts, &executions, &failures);
        let (format, correlation_id) = (Self::FORMAT, correlation_id.to_owned());
        Ok(Self { format, correlation_id, events, executions, failures, dead_letters })
    }

    /// The executions whose outcome is decided and not published, so that nobody has worked on all of their events yet.
    ///
    /// # Errors
    /// What the document store reports.
    pub async fn unpublished(&self, plane: &DataPlane) -> Result<Vec<&TracedExecution>> {
        let worked_on: HashSet<_> = self.executions.iter().map(|of| &of.event_id).collect();
        let may_be =
            |of: &&TracedExecution| of.events.iter().any(|event| !worked_on.contains(&event.event_id));
        let looks: Vec<_> = self.executions.iter().filter(may_be).map(|of| looked_up(plane, of)).collect();
        let found: Vec<_> = stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Whether nothing is known of it.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.executions.is_empty() && self.failures.is_empty()
    }

    /// For each event and module that worked on it, where that stands: at its last outcome, unless an attempt has failed
    /// since.
    pub fn stages(&self) -> BTreeMap<(&EventId, &ModuleName), Stage<'_>> {
        let mut stages = BTreeMap::new();
        for failure in &self.failures {
            stages.insert((&failure.context.event_id, &failure.context.name), Stage::Failed(failure));
        }
        for letter in &self.dead_letters {
            stages.insert((&letter.context.event_id, &letter.context.name), Stage::GivenUp(letter));
        }
        for execution in &self.executions {
            let key = (&execution.event_id, &execution.module);
            let failed_since = match stages.get(&key) {
                Some(Stage::Failed(failure)) => {
                    failure.time > execution.done && failure.attempt.as_ref() != Some(&execution.attempt)
                }
                Some(Stage::GivenUp(letter)) => letter.time > execution.done,
                Some(Stage::Committed(other)) => other.run > execution.run,
                None => false,
            };
            if !failed_since {
                stages.insert(key, Stage::Committed(execution));
            }
        }
        stages
    }

    /// The events that no last outcome led to: an earlier run of a module published them, or they came of such an event.
    pub fn superseded(&self) -> HashSet<&EventId> {
        let (mut last, mut of_event) = (HashMap::new(), HashMap::<_, Vec<_>>::new());
        for execution in &self.executions {
            let run = last.entry((&execution.event_id, &execution.module)).or_insert(execution.run);
            *run = execution.run.max(*run);
            of_event.entry(&execution.event_id).or_default().push(execution);
        }
        let is_last = |of: &TracedExecution| last.get(&(&of.event_id, &of.module)) == Some(&of.run);
        let mut open: Vec<_> = self.executions.iter().filter(|execution| !is_last(execution)).collect();
        let mut superseded = HashSet::new();
        while let Some(execution) = open.pop() {
            for event in &execution.events {
                if superseded.insert(&event.event_id) {
                    open.extend(of_event.get(&event.event_id).into_iter().flatten());
                }
            }
        }
        superseded
    }

    /// The event with this id.
    pub fn event(&self, id: &EventId) -> Option<&TracedEvent> {
        self.events.iter().find(|event| event.event_id == *id)
    }

    /// The last outcome of a module for an event, or that of a run.
    pub fn execution(
        &self,
        event: &EventId,
        module: &ModuleName,
        run: Option<u32>,
    ) -> Option<&TracedExecution> {
        let of = |execution: &&TracedExecution| {
            execution.event_id == *event
                && execution.module == *module
                && run.is_none_or(|run| execution.run == run)
        };
        self.executions.iter().filter(of).max_by_key(|execution| execution.run)
    }
}

/// An outcome with everything that its record is cut into; `None` for a run that was closed without one.
async fn traced(plane: &DataPlane, record: &ExecutionRecord) -> Result<Option<TracedExecution>> {
    let Some(committed) = record.committed() else { return Ok(None) };
    let contents = contents_of(plane, record, committed).await?;
    let blob = |file: RecordedFile| {
        let key = record.output_key(committed, &file).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(Blob { name: file.name, key, size: file.size, digest: file.digest, executable: file.executable })
    };
    Ok(Some(TracedExecution {
        event_id: record.context.event_id.clone(),
        module: record.context.name.clone(),
        run: record.run,
        supersedes: record.supersedes,
        attempt: record.attempt.clone(),
        host: record.host.clone(),
        version: record.version.clone(),
        started: committed.started.clone(),
        ready: committed.ready.clone(),
        done: committed.done.clone(),
        exit: committed.exit,
        memoized: committed.memoized.clone(),
        inputs: contents.inputs,
        outputs: contents.outputs.into_iter().map(blob).collect::<Result<_>>()?,
        insight: contents.insight,
        events: contents.events,
    }))
}

/// The execution, if its outcome is not published.
async fn looked_up<'t>(plane: &DataPlane, of: &'t TracedExecution) -> Result<Option<&'t TracedExecution>> {
    let TracedExecution { event_id, module, run, .. } = of;
    let id = ExecutionId { event_id: event_id.clone(), name: module.clone(), run: *run };
    let published: Option<Publication> = plane.documents.find(&record_id(&id)).await?;
    Ok(published.is_none().then_some(of))
}

/// The events that were submitted, that an outcome names, or that a module was run for.
fn events(
    contexts: Vec<EventContext>,
    executions: &[TracedExecution],
    failures: &[Failure],
) -> Vec<TracedEvent> {
    let mut published = HashMap::new();
    for execution in executions {
        for event in &execution.events {
            published.insert(&event.event_id, (execution, event));
        }
    }
    let (mut events, mut known) = (Vec::with_capacity(contexts.len()), HashSet::new());
    for EventContext { context, data, blobs, references, event_type, producer, .. } in contexts {
        let by = published.get(&context.event_id);
        // What a proposal stored that was not decided is not part of what happened.
        if producer.is_some() && by.is_none() {
            continue;
        }
        known.insert(context.event_id.clone());
        events.push(TracedEvent {
            event_type: by.map(|(_, event)| event.event_type.clone()).or(event_type),
            module: by.map(|(execution, _)| execution.module.clone()),
            run: by.map(|(execution, _)| execution.run),
            parent_event_id: context.parent_event_id,
            event_id: context.event_id,
            files: blobs,
            references,
            data,
        });
    }
    let worked_on = executions.iter().map(|execution| &execution.event_id);
    for event_id in worked_on.chain(failures.iter().map(|failure| &failure.context.event_id)) {
        if known.insert(event_id.clone()) {
            events.push(TracedEvent {
                event_id: event_id.clone(),
                event_type: None,
                parent_event_id: String::new(),
                module: None,
                run: None,
                files: Vec::new(),
                references: Vec::new(),
                data: KeyValuePairs::default(),
            });
        }
    }
    events.sort_by(|one, other| {
        let key = |event: &TracedEvent| (!event.parent_event_id.is_empty(), event.event_id.clone());
        key(one).cmp(&key(other))
    });
    events
}
