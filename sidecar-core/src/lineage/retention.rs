//! How long outcomes are kept: those that are older are removed, each as a whole.
//!
//! An outcome goes when it is older than its rule says, and everything that came of it goes too or is gone: what stays
//! can still be traced, verified and replayed. Its record goes last, so that whoever is interrupted goes on where it was.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use tracing::{debug, info};

use super::{Trace, TracedExecution};
use crate::contract::{
    Attempts, Context, EventContext, EventId, ExecutionId, ExecutionRecord, KeyOwner, Memo, ModuleName,
    Publication,
};
use crate::documents::{Documents as _, Kind, PAGE};
use crate::error::Result;
use crate::execution::{
    Collected, MEMO_VALID, attempts_id, find_record, insight_id, is_half_removed, record_id, remove_record,
    remove_unnamed,
};
use crate::plane::DataPlane;

/// The outcomes that a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All that no other rule is for.
    All,
    /// Those of a module.
    Module(ModuleName),
    /// Those for events of a type.
    Type(String),
}

/// How long outcomes are kept after they were decided. Rules for a module or a type replace that for [`Scope::All`]; of
/// several, the longest counts. What no rule is for stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention(Vec<(Scope, Duration)>);

impl FromIterator<(Scope, Duration)> for Retention {
    fn from_iter<I: IntoIterator<Item = (Scope, Duration)>>(rules: I) -> Self {
        Self(rules.into_iter().collect())
    }
}

impl Retention {
    fn age(&self, module: &ModuleName, event_type: Option<&str>) -> Option<Duration> {
        let own = self.0.iter().filter(|(scope, _)| match scope {
            Scope::All => false,
            Scope::Module(name) => name == module,
            Scope::Type(name) => Some(&**name) == event_type,
        });
        let all = || self.0.iter().filter(|(scope, _)| *scope == Scope::All);
        own.map(|(_, age)| *age).max().or_else(|| all().map(|(_, age)| *age).max())
    }
}

/// What [`expire`] has removed, or would remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expired {
    /// How many executions of each module, and the bytes of their files.
    pub modules: BTreeMap<ModuleName, (u64, u64)>,
    /// Submitted events that no execution is left of.
    pub submissions: u64,
    /// Executions that are old enough and stay, since something that stays came of them, or names their files.
    pub needed: u64,
    /// The modules that there are outcomes or failures of, old or not.
    pub known_modules: BTreeSet<ModuleName>,
    /// The types of all events in their graphs.
    pub known_types: BTreeSet<String>,
    /// What was deleted; nothing where that was not asked for.
    pub deleted: Collected,
}

/// Removes the outcomes that are older than `retention` says, with their files, documents and failures, and the submitted
/// events that no outcome is left of; or only counts them, unless `delete`.
///
/// What a younger record refers to stays, and so does what is not published, what a dead letter names, and what a worker
/// tries again. A first attempt at an event is not recorded anywhere: ages are longer than events wait. Before anything is deleted that equal work may still take over, it waits for a minute.
///
/// Once a record is gone, its event would run again: let no bus deliver one that is so old.
///
/// # Errors
/// What the stores report; it can be repeated.
pub async fn expire(plane: &DataPlane, retention: &Retention, delete: bool) -> Result<Expired> {
    let now = SystemTime::now();
    let mut survey = Survey::of(plane).await?;
    let mut removing = Removing::Nothing;
    if delete && survey.is_memoized {
        let is_half = !survey.half.is_empty();
        let (planned, going) = walk(plane, retention, now, survey, Removing::Nothing).await?;
        // Nothing is waited for where nothing goes.
        if going.is_empty() && !is_half {
            return Ok(planned);
        }
        forget(plane, &going).await?;
        survey = after_takers(plane).await?;
        // What has become old meanwhile may still be taken over: it goes the next time.
        removing = Removing::These(going);
    } else if delete {
        if forget(plane, &Going::new()).await? {
            survey = after_takers(plane).await?;
        }
        removing = Removing::All;
    }
    for record in survey.half.iter().filter(|_| delete) {
        remove_record(plane, record).await?;
    }
    walk(plane, retention, now, survey, removing).await.map(|(expired, _)| expired)
}

/// Waits until whoever has found a memo before has given it up, and looks again.
async fn after_takers(plane: &DataPlane) -> Result<Survey> {
    info!("waiting for {:?}: until then, equal work may take over what is to be deleted", MEMO_VALID * 2);
    tokio::time::sleep(MEMO_VALID * 2).await;
    Survey::of(plane).await
}

/// The outcomes that go, by event and module.
type Going = HashSet<(EventId, ModuleName)>;

/// What is removed of what is old.
enum Removing {
    Nothing,
    These(Going),
    All,
}

/// Counts what is old, graph by graph, and removes it where that is asked for; what goes is named.
async fn walk(
    plane: &DataPlane,
    retention: &Retention,
    now: SystemTime,
    mut survey: Survey,
    removing: Removing,
) -> Result<(Expired, Going)> {
    // One event may be in two graphs, where whoever started a run said so.
    let (mut expired, mut seen, mut submissions) = (Expired::default(), Going::new(), HashSet::new());
    for graph in std::mem::take(&mut survey.graphs) {
        let plan = Plan::new(plane, &graph, retention, now, &survey).await?;
        expired.needed += plan.needed;
        expired.known_modules.extend(plan.trace.stages().into_keys().map(|(_, module)| module.clone()));
        expired.known_types.extend(plan.trace.events.iter().filter_map(|event| event.event_type.clone()));
        for (event, module) in &plan.executions {
            let of = plan.trace.executions.iter().filter(|of| of.event_id == *event && of.module == *module);
            let mut bytes = 0;
            for execution in of {
                bytes += execution.outputs.iter().map(|file| file.size).sum::<u64>();
                // It needs no other any more.
                let of = execution.memoized.as_ref().and_then(|memoized| memoized.reused.as_ref());
                if let Some(by) = of.and_then(|of| survey.reused.get_mut(of)) {
                    by.remove(&id_of(execution));
                }
            }
            let this = (event.clone(), module.clone());
            if seen.contains(&this) {
                continue;
            }
            if matches!(&removing, Removing::These(going) if !going.contains(&this)) {
                // What led to it is needed.
                break;
            }
            debug!("{event}/{module} is older than it has to be kept");
            if !matches!(removing, Removing::Nothing)
                && !plan.remove(plane, event, module, &mut expired.deleted).await?
            {
                // What led to it is needed.
                break;
            }
            seen.insert(this);
            let count = expired.modules.entry(module.clone()).or_default();
            *count = (count.0 + 1, count.1 + bytes);
        }
        submissions.extend(plan.submissions);
    }
    expired.submissions = submissions.len() as u64;
    Ok((expired, seen))
}

fn id_of(execution: &TracedExecution) -> ExecutionId {
    let TracedExecution { event_id, module, run, .. } = execution;
    ExecutionId { event_id: event_id.clone(), name: module.clone(), run: *run }
}

/// Who has taken over the outcome of an execution.
type Reused = HashMap<ExecutionId, HashSet<ExecutionId>>;

/// What all records tell.
struct Survey {
    /// The graphs that have outcomes, those with the youngest first.
    graphs: Vec<String>,
    reused: Reused,
    /// What workers have begun again, and what an interrupted removal has left, by graph.
    attempts: HashMap<String, Vec<Context>>,
    /// Whether any module's outcomes may be taken over.
    is_memoized: bool,
    half: Vec<ExecutionRecord>,
}

impl Survey {
    async fn of(plane: &DataPlane) -> Result<Self> {
        let (mut graphs, mut reused, mut half) =
            (HashMap::<String, String>::new(), Reused::new(), Vec::new());
        let (mut after, mut is_memoized) = (None::<String>, false);
        loop {
            let page = plane.documents.page::<ExecutionRecord>(after.as_deref()).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (_, record) in page {
                let id = record.execution();
                let Some(committed) = record.committed() else {
                    half.extend(is_half_removed(&record).then_some(record));
                    continue;
                };
                is_memoized |= committed.memoized.is_some();
                if let Some(of) = committed.memoized.as_ref().and_then(|memoized| memoized.reused.clone()) {
                    reused.entry(of).or_default().insert(id);
                }
                let youngest = graphs.entry(record.context.correlation_id.clone()).or_default();
                // As text, times in UTC are in their order.
                if *youngest < committed.done {
                    youngest.clone_from(&committed.done);
                }
            }
        }
        let mut graphs: Vec<_> = graphs.into_iter().collect();
        // Whoever takes over an outcome is younger than it.
        graphs.sort_by(|(one, its), (other, others)| (others, one).cmp(&(its, other)));
        let (mut attempts, mut after) = (HashMap::<String, Vec<Context>>::new(), None::<String>);
        loop {
            let page = plane.documents.page::<Attempts>(after.as_deref()).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            let begun =
                page.into_iter().map(|(_, begun)| begun).filter(|begun| begun.attempts != Attempts::DROPPED);
            begun.for_each(|begun| {
                attempts.entry(begun.context.correlation_id.clone()).or_default().push(begun.context);
            });
        }
        let graphs = graphs.into_iter().map(|(graph, _)| graph).collect();
        Ok(Self { graphs, reused, attempts, is_memoized, half })
    }
}

/// Removes the memos of outcomes that are about to go, or are gone; whether there were any.
async fn forget(plane: &DataPlane, going: &Going) -> Result<bool> {
    let (mut after, mut found) = (None::<String>, false);
    loop {
        let page = plane.documents.page::<Memo>(after.as_deref()).await?;
        let Some((last, _)) = page.last() else { return Ok(found) };
        after = Some(last.clone());
        let mut old = Vec::new();
        for (id, memo) in page {
            let goes = going.contains(&(memo.context.event_id.clone(), memo.context.name.clone()));
            let record = find_record(&*plane.documents, &memo.execution()).await?;
            if goes || record.is_none_or(|record| record.committed().is_none()) {
                old.push(id);
            }
        }
        found |= !old.is_empty();
        plane.documents.delete(Kind::Memo, &old).await?;
    }
}

/// Whether a time is longer ago than an age; one that nobody can read is not.
fn is_older(time: &str, age: Duration, now: SystemTime) -> bool {
    let time = humantime::parse_rfc3339(time).ok();
    time.and_then(|time| now.duration_since(time).ok()).is_some_and(|since| since > age)
}

/// What goes of one graph.
struct Plan {
    trace: Trace,
    /// Those that came of others first.
    executions: Vec<(EventId, ModuleName)>,
    /// Events that were submitted, and that no execution is left of.
    submissions: BTreeSet<EventId>,
    needed: u64,
}

impl Plan {
    async fn new(
        plane: &DataPlane,
        graph: &str,
        retention: &Retention,
        now: SystemTime,
        Survey { reused, attempts, .. }: &Survey,
    ) -> Result<Self> {
        let attempts = attempts.get(graph).map(Vec::as_slice).unwrap_or_default();
        let trace = Trace::of_graph(plane, graph).await?;
        // All executions, with whether they are old enough.
        let mut all = BTreeMap::<(EventId, ModuleName), bool>::new();
        let types: HashMap<_, _> =
            trace.events.iter().map(|event| (&event.event_id, event.event_type.as_deref())).collect();
        let mut note = |event: &EventId, module: &ModuleName, time: Option<&str>| {
            let event_type = types.get(event).copied().flatten();
            let is_old = match (time, retention.age(module, event_type)) {
                (Some(time), Some(age)) => is_older(time, age, now),
                _ => false,
            };
            let entry = all.entry((event.clone(), module.clone())).or_insert(true);
            *entry &= is_old;
        };
        for execution in &trace.executions {
            let id = record_id(&id_of(execution));
            let is_published = plane.documents.find::<Publication>(&id).await?.is_some();
            let time = is_published.then_some(&*execution.done);
            note(&execution.event_id, &execution.module, time);
        }
        for failure in &trace.failures {
            note(&failure.context.event_id, &failure.context.name, Some(&failure.time));
        }
        for letter in &trace.dead_letters {
            let Context { event_id, name, .. } = &letter.context;
            // One that stayed behind an outcome says nothing.
            if trace.execution(event_id, name, None).is_none() {
                note(event_id, name, None);
            }
        }
        for Context { event_id, name, .. } in attempts {
            // A count that stayed behind an outcome says nothing.
            if trace.execution(event_id, name, None).is_none() {
                note(event_id, name, None);
            }
        }
        let old = all.values().filter(|is_old| **is_old).count();
        let mut plan = Self {
            executions: all.iter().filter(|(_, is_old)| **is_old).map(|(key, _)| key.clone()).collect(),
            submissions: BTreeSet::new(),
            needed: 0,
            trace,
        };
        while plan.keep_needed(&all, reused) {}
        plan.needed = (old - plan.executions.len()) as u64;
        plan.submissions = plan.left_alone(&all);
        let depths = plan.depths();
        plan.executions
            .sort_by_key(|(event, _)| std::cmp::Reverse(depths.get(event).copied().unwrap_or_default()));
        Ok(plan)
    }

    /// Takes out what something that stays needs; whether there was any.
    fn keep_needed(&mut self, all: &BTreeMap<(EventId, ModuleName), bool>, reused: &Reused) -> bool {
        let going: BTreeSet<_> = self.executions.iter().cloned().collect();
        let stays = |event: &EventId, module: &ModuleName| !going.contains(&(event.clone(), module.clone()));
        let alive: HashSet<&EventId> =
            all.keys().filter(|(event, module)| stays(event, module)).map(|(event, _)| event).collect();
        let kept = self.trace.executions.iter().filter(|of| stays(&of.event_id, &of.module));
        let mut keys: HashSet<&str> = HashSet::new();
        for execution in kept {
            keys.extend(execution.outputs.iter().map(|file| file.key.as_str()));
            keys.extend(execution.inputs.iter().filter_map(|file| file.key.as_ref()).map(|key| key.as_str()));
        }
        for event in self.trace.events.iter().filter(|event| alive.contains(&event.event_id)) {
            keys.extend(event.files.iter().map(|file| file.key.as_str()));
        }
        let mut needed = BTreeSet::new();
        for execution in &self.trace.executions {
            let is_needed = execution.events.iter().any(|event| alive.contains(&event.event_id))
                || execution.outputs.iter().any(|file| keys.contains(file.key.as_str()))
                || reused.get(&id_of(execution)).is_some_and(|by| !by.is_empty());
            if is_needed {
                needed.insert((execution.event_id.clone(), execution.module.clone()));
            }
        }
        let before = self.executions.len();
        self.executions.retain(|key| !needed.contains(key));
        self.executions.len() < before
    }

    /// The submitted events whose executions all go.
    fn left_alone(&self, all: &BTreeMap<(EventId, ModuleName), bool>) -> BTreeSet<EventId> {
        let going: BTreeSet<_> = self.executions.iter().collect();
        let is_going = |event: &EventId| {
            let mut of = all.keys().filter(|(of, _)| of == event).peekable();
            of.peek().is_some() && of.all(|key| going.contains(key))
        };
        let submitted = self.trace.events.iter().filter(|event| event.module.is_none());
        submitted.map(|event| &event.event_id).filter(|event| is_going(event)).cloned().collect()
    }

    /// How far each event is from the submission.
    fn depths(&self) -> HashMap<EventId, usize> {
        let parents: HashMap<_, _> = self
            .trace
            .events
            .iter()
            .map(|event| (event.event_id.as_str(), &*event.parent_event_id))
            .collect();
        let depth = |event: &EventId| {
            let (mut depth, mut at) = (0, event.as_str());
            // A record that was written by somebody else may lead in a circle.
            while let Some(parent) = parents.get(at).filter(|_| depth < parents.len()) {
                (depth, at) = (depth + 1, parent);
            }
            depth
        };
        self.trace.events.iter().map(|event| (event.event_id.clone(), depth(&event.event_id))).collect()
    }

    /// Removes everything of an execution, its record last; `false` where it ran again meanwhile, and stays.
    async fn remove(
        &self,
        plane: &DataPlane,
        event: &EventId,
        module: &ModuleName,
        deleted: &mut Collected,
    ) -> Result<bool> {
        let id = |run| ExecutionId { event_id: event.clone(), name: module.clone(), run };
        let of = |context: &Context| context.event_id == *event && context.name == *module;
        let traced = || {
            self.trace
                .executions
                .iter()
                .filter(|traced| traced.event_id == *event && traced.module == *module)
        };
        let end = traced().map(|traced| traced.run + 1).max().unwrap_or_default();
        let (mut runs, mut next) = (Vec::new(), 0);
        loop {
            let record = find_record(&*plane.documents, &id(next)).await?;
            // An earlier removal may have left a gap.
            if record.is_none() && next >= end {
                break;
            }
            runs.extend(record);
            next += 1;
        }
        if runs.iter().any(|record| record.run >= end && record.committed().is_some()) {
            return Ok(false);
        }
        let context = Context {
            name: module.clone(),
            event_id: event.clone(),
            correlation_id: String::new(),
            parent_event_id: String::new(),
        };
        let insights = runs.iter().map(|record| insight_id(&record.execution()).to_string()).collect();
        let published: Vec<EventId> =
            traced().flat_map(|traced| &traced.events).map(|event| event.event_id.clone()).collect();
        let failures = self.trace.failures.iter().filter(|failure| of(&failure.context));
        let (failures, kept): (Vec<_>, Vec<_>) =
            failures.map(|failure| (failure.id.to_string(), &failure.blobs)).unzip();
        let letters = self
            .trace
            .dead_letters
            .iter()
            .filter(|letter| of(&letter.context))
            .map(|letter| letter.id.clone());
        let kept: Vec<_> = kept.into_iter().flatten().map(|blob| blob.key.clone()).collect();
        for keys in kept.chunks(PAGE) {
            plane.blobs.delete(keys).await?;
            deleted.blobs += keys.len() as u64;
        }
        let own = |owner: Option<KeyOwner>| matches!(owner, Some(KeyOwner::Proposal(of, _)) if of.event_id == *event && of.name == *module && of.run < next);
        let prefix = format!("{event}/{module}/~");
        remove_unnamed(plane, &prefix, |key| own(key.owner()), &HashSet::new(), deleted).await?;
        for (kind, ids) in [
            (Kind::Attempts, vec![attempts_id(&context)]),
            (Kind::Insight, insights),
            (Kind::Context, published.iter().map(EventId::to_string).collect()),
            (Kind::Failure, failures),
            (Kind::DeadLetter, letters.collect()),
        ] {
            for ids in ids.chunks(PAGE) {
                plane.documents.delete(kind, ids).await?;
                deleted.documents += ids.len() as u64;
            }
        }
        plane.events.forget(&published).await?;
        if self.submissions.contains(event) {
            remove_submission(plane, event, deleted).await?;
            plane.events.forget(std::slice::from_ref(event)).await?;
        }
        // The youngest first: as long as one is left, the event does not run.
        for record in runs.iter().rev() {
            remove_record(plane, record).await?;
            deleted.documents += 1;
        }
        Ok(true)
    }
}

/// Removes a submitted event with its files.
async fn remove_submission(plane: &DataPlane, event: &EventId, deleted: &mut Collected) -> Result<()> {
    let own = |owner: Option<KeyOwner>| matches!(owner, Some(KeyOwner::Submission(of, _)) if of == *event);
    let prefix = format!("{event}/.submit/");
    remove_unnamed(plane, &prefix, |key| own(key.owner()), &HashSet::new(), deleted).await?;
    if plane.documents.find::<EventContext>(event.as_str()).await?.is_some() {
        deleted.documents += 1;
    }
    plane.documents.delete(Kind::Context, &[event.to_string()]).await
}
