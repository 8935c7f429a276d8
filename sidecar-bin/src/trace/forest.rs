//! A trace as a forest: events, the modules that worked on them, the events that these published, and so on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use sidecar_core::lineage::{Stage, Trace, TracedEvent, TracedExecution};
use sidecar_core::{DeadLetter, EventId, ExecutionId, Failure, ModuleName};

/// Events that are alike: of one type, published by one module on the same way.
#[derive(Debug, Default)]
pub(super) struct Events<'t> {
    /// Their type; empty where none is known.
    pub(super) event_type: &'t str,
    pub(super) events: Vec<&'t TracedEvent>,
    /// How many of them came of a run that another one has replaced.
    pub(super) superseded: usize,
    /// The modules that worked on any of them.
    pub(super) modules: Vec<Module<'t>>,
}

/// A module's work on events that are alike.
#[derive(Debug)]
pub(super) struct Module<'t> {
    pub(super) name: &'t ModuleName,
    pub(super) committed: Vec<&'t TracedExecution>,
    /// Outcomes of runs before those.
    pub(super) earlier: Vec<&'t TracedExecution>,
    /// Attempts that failed before an outcome.
    pub(super) retried: Vec<&'t Failure>,
    /// The last attempts, where they failed.
    pub(super) failed: Vec<&'t Failure>,
    pub(super) given_up: Vec<&'t DeadLetter>,
    /// What it published.
    pub(super) events: Vec<Events<'t>>,
}

impl Events<'_> {
    /// The files of these events, and their sizes together.
    pub(super) fn files(&self) -> (usize, u64) {
        let files = self.events.iter().flat_map(|event| &event.files).map(|file| file.size);
        let referenced = self.events.iter().flat_map(|event| &event.references).map(|of| of.pinned.size);
        let sizes = files.chain(referenced);
        (sizes.clone().count(), sizes.sum())
    }

    /// Those that no module has an outcome or a failure of.
    pub(super) fn untouched(&self) -> usize {
        let mut touched = HashSet::new();
        for module in &self.modules {
            touched.extend(module.earlier.iter().map(|execution| &execution.event_id));
            touched.extend(module.committed.iter().map(|execution| &execution.event_id));
            touched.extend(module.failed.iter().map(|failure| &failure.context.event_id));
            touched.extend(module.given_up.iter().map(|letter| &letter.context.event_id));
        }
        self.events.iter().filter(|event| !touched.contains(&event.event_id)).count()
    }
}

impl Module<'_> {
    /// The files that it committed, and their sizes together.
    pub(super) fn outputs(&self) -> (usize, u64) {
        let files = self.committed.iter().flat_map(|execution| &execution.outputs);
        (files.clone().count(), files.map(|file| file.size).sum())
    }

    /// Those whose outcome was taken over from another execution.
    pub(super) fn reused(&self) -> impl Iterator<Item = &ExecutionId> {
        self.committed.iter().filter_map(|execution| reused(execution))
    }

    /// Why the module ran where it had an outcome of like work, and how often for which reason.
    pub(super) fn ran_again(&self) -> BTreeMap<String, usize> {
        let mut reasons = BTreeMap::new();
        for memoized in self.committed.iter().filter_map(|execution| execution.memoized.as_ref()) {
            if !memoized.because.is_empty() {
                *reasons.entry(memoized.because.join(", ")).or_default() += 1;
            }
        }
        reasons
    }

    /// How long the module took: in the median, where there are several.
    pub(super) fn time(&self) -> Option<Duration> {
        let mut times: Vec<_> = self
            .committed
            .iter()
            .filter(|execution| reused(execution).is_none())
            .filter_map(|execution| duration(execution))
            .collect();
        times.sort();
        times.get(times.len() / 2).copied()
    }
}

fn reused(execution: &TracedExecution) -> Option<&ExecutionId> {
    execution.memoized.as_ref()?.reused.as_ref()
}

/// From staged inputs to the module's end.
pub(super) fn duration(execution: &TracedExecution) -> Option<Duration> {
    let from = time(execution.ready.as_deref().unwrap_or(&execution.started))?;
    time(&execution.done)?.duration_since(from).ok()
}

pub(super) fn time(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}

/// What the events of the graph led to, the submitted ones first. Those that are alike are together, unless `all` are
/// wanted.
pub(super) fn forest(trace: &Trace, all: bool) -> Vec<Events<'_>> {
    let by_id: HashMap<&EventId, &TracedEvent> =
        trace.events.iter().map(|event| (&event.event_id, event)).collect();
    let mut work: HashMap<&EventId, Vec<(&ModuleName, Stage<'_>)>> = HashMap::new();
    for ((event, module), stage) in trace.stages() {
        work.entry(event).or_default().push((module, stage));
    }
    let known: HashSet<&EventId> = trace
        .executions
        .iter()
        .flat_map(|execution| &execution.events)
        .map(|event| &event.event_id)
        .collect();
    let roots = trace.events.iter().filter(|event| !known.contains(&event.event_id)).collect();
    let mut outcomes: HashMap<(&EventId, &ModuleName), Vec<&TracedExecution>> = HashMap::new();
    for execution in &trace.executions {
        outcomes.entry((&execution.event_id, &execution.module)).or_default().push(execution);
    }
    let mut failures: HashMap<(&EventId, &ModuleName), Vec<&Failure>> = HashMap::new();
    for failure in &trace.failures {
        failures.entry((&failure.context.event_id, &failure.context.name)).or_default().push(failure);
    }
    let superseded = trace.superseded();
    let index = Index { by_id, work, outcomes, failures, superseded, all };
    let mut seen = HashSet::new();
    index.group(roots, &mut seen)
}

struct Index<'t> {
    by_id: HashMap<&'t EventId, &'t TracedEvent>,
    work: HashMap<&'t EventId, Vec<(&'t ModuleName, Stage<'t>)>>,
    outcomes: HashMap<(&'t EventId, &'t ModuleName), Vec<&'t TracedExecution>>,
    failures: HashMap<(&'t EventId, &'t ModuleName), Vec<&'t Failure>>,
    superseded: HashSet<&'t EventId>,
    all: bool,
}

impl<'t> Index<'t> {
    fn group(&self, events: Vec<&'t TracedEvent>, seen: &mut HashSet<&'t EventId>) -> Vec<Events<'t>> {
        let mut groups: BTreeMap<(&str, Option<&EventId>), Vec<&TracedEvent>> = BTreeMap::new();
        for event in events {
            // A record that was written by somebody else may name any event.
            if seen.insert(&event.event_id) {
                let one = self.all.then_some(&event.event_id);
                groups.entry((event.event_type.as_deref().unwrap_or_default(), one)).or_default().push(event);
            }
        }
        let one = |((event_type, _), events): ((&'t str, _), Vec<&'t TracedEvent>)| {
            let modules = self.modules(&events, seen);
            let superseded = events.iter().filter(|event| self.superseded.contains(&event.event_id)).count();
            Events { event_type, events, superseded, modules }
        };
        groups.into_iter().map(one).collect()
    }

    fn modules(&self, events: &[&'t TracedEvent], seen: &mut HashSet<&'t EventId>) -> Vec<Module<'t>> {
        let mut modules: BTreeMap<&ModuleName, Module<'t>> = BTreeMap::new();
        for event in events {
            for (name, stage) in self.work.get(&event.event_id).into_iter().flatten() {
                let module = modules.entry(name).or_insert_with(|| Module {
                    name,
                    committed: Vec::new(),
                    earlier: Vec::new(),
                    retried: Vec::new(),
                    failed: Vec::new(),
                    given_up: Vec::new(),
                    events: Vec::new(),
                });
                let last = match stage {
                    Stage::Committed(execution) => Some(execution.run),
                    Stage::Failed(_) | Stage::GivenUp(_) => None,
                };
                let outcomes = self.outcomes.get(&(&event.event_id, *name)).into_iter().flatten();
                module.earlier.extend(outcomes.filter(|execution| Some(execution.run) != last));
                match stage {
                    Stage::Committed(execution) => {
                        let failures = self.failures.get(&(&event.event_id, *name)).into_iter().flatten();
                        module.retried.extend(
                            failures.filter(|failure| failure.attempt.as_ref() != Some(&execution.attempt)),
                        );
                        module.committed.push(execution);
                    }
                    Stage::Failed(failure) => module.failed.push(failure),
                    Stage::GivenUp(letter) => module.given_up.push(letter),
                }
            }
        }
        let mut modules: Vec<_> = modules.into_values().collect();
        for module in &mut modules {
            let published =
                module.earlier.iter().chain(&module.committed).flat_map(|execution| &execution.events);
            let published = published.filter_map(|event| self.by_id.get(&event.event_id).copied()).collect();
            module.events = self.group(published, seen);
        }
        modules
    }
}
