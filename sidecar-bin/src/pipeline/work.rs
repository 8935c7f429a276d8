//! The workers of a pipeline, all in one process.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidecar_core::lineage::{Stage, Trace};
use sidecar_core::plane::counted;
use sidecar_core::process::{Module, Surroundings, find};
use sidecar_core::server::{Listening, Sessions};
use sidecar_core::worker::{Processes, WarmProcesses, Worker, WorkerSettings};
use sidecar_core::{
    Attempts, Context, DataPlane, Documents as _, Error, EventId, EventTypes, Layout, ModuleName, Settings,
};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::file::{ModuleSpec, Pipeline};
use crate::exit::Failure;
use crate::worker::{Work, unusable};

/// After so long without anything to do nothing more comes, where the kernel tells of each new event.
const QUIET: Duration = Duration::from_millis(300);
/// The same for a bus on the network.
const QUIET_REMOTE: Duration = Duration::from_secs(3);

/// How long after an outage of the bus the workers may still be asking by a connection that is gone.
const AFTER_OUTAGE: Duration = Duration::from_secs(35);
/// After so long without anything to do it is said what is waited for.
const SILENCE: Duration = Duration::from_secs(10);
/// Longer than any delay before another attempt.
const NEVER: Duration = Duration::from_secs(600);

/// The workers at work.
pub(super) struct Workers {
    workers: Vec<(ModuleName, Worker)>,
    stop: watch::Sender<bool>,
    /// How many are at work, and why one cannot be.
    state: watch::Sender<(usize, Option<Arc<Error>>)>,
    serving: Listening,
    quiet: Duration,
}

/// Why a command cannot be started, as far as that can be seen.
pub(super) fn cannot_start(command: &[String], directory: &Path) -> Option<String> {
    let program = Path::new(command.first()?);
    if !directory.is_dir() {
        return Some(format!("its directory {} does not exist", directory.display()));
    }
    if program.components().count() > 1 {
        let path = directory.join(program);
        let error = find(path.as_os_str()).err()?;
        return match error.kind() {
            _ if error.get_ref().is_some() => Some(format!("{} cannot be started: {error}", path.display())),
            io::ErrorKind::PermissionDenied => Some(format!(
                "{} is not executable: make it so (chmod +x), or name its interpreter before it",
                path.display()
            )),
            _ => Some(format!("{} does not exist", path.display())),
        };
    }
    let found = find(program.as_os_str());
    found.err().map(|_| format!("the command {:?} is not on PATH", program.display().to_string()))
}

impl Workers {
    /// Starts a worker for each module, below `base`; those of a pipeline that ends give up a module that cannot load.
    pub(super) async fn start(
        pipeline: &Pipeline,
        work: Work,
        base: &Path,
        is_endless: bool,
    ) -> Result<Self, Failure> {
        let sessions = Sessions::default();
        let serving = Listening::start(sessions.clone(), &work.service.listen).await;
        let serving = serving.map_err(|error| Failure::local(&error))?;
        let is_local =
            !work.plane.events.directories().is_empty() || work.plane.events.to_string().contains("memory");
        let mut workers = Vec::new();
        for spec in &pipeline.modules {
            let mut settings = settings(spec, &work.settings, base, work.service.grace);
            settings.gives_up = !is_endless;
            let module = spec.module(&work, Some(logs(base, spec.name.as_str())));
            let name = spec.name.clone();
            let (plane, sessions) = (work.plane.clone(), sessions.clone());
            let worker = if spec.warm {
                let below = base.join(spec.name.as_str());
                Worker::new(
                    plane,
                    settings,
                    WarmProcesses::new(module, name.clone(), below, sessions, serving.address()),
                )
            } else {
                Worker::new(plane, settings, Processes::new(module, sessions, serving.address()))
            };
            workers.push((name, worker));
        }
        let (stop, state) = (watch::Sender::new(false), watch::Sender::new((workers.len(), None)));
        for (name, worker) in &workers {
            let (name, worker, state, mut stop) =
                (name.clone(), worker.clone(), state.clone(), stop.subscribe());
            tokio::spawn(async move {
                let stopped = async move {
                    // Whoever could tell is gone, and so is the pipeline.
                    let _ = stop.wait_for(|stop| *stop).await;
                };
                let ended = worker.run(stopped).await;
                debug!("the worker of {name} has ended");
                state.send_modify(|(left, failed)| {
                    *left -= 1;
                    if let Err(error) = ended {
                        failed.get_or_insert(error);
                    }
                });
            });
        }
        let quiet = if is_local { QUIET } else { QUIET_REMOTE };
        Ok(Self { workers, stop, state, serving, quiet })
    }

    pub(super) fn each(&self) -> &[(ModuleName, Worker)] {
        &self.workers
    }

    /// Waits until nothing is left to do, and says what nothing came of in these graphs.
    pub(super) async fn until_done(
        &self,
        pipeline: &Pipeline,
        plane: &DataPlane,
        graphs: &[String],
    ) -> Result<Vec<Left>, Failure> {
        let (mut is_waiting, mut told) = (false, false);
        let (mut outage, began) = (None::<Instant>, Instant::now());
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            // What this process has handed back, since it could do nothing with it, may come for ever.
            let waits = |worker: &Worker| worker.counters().summary().handed_back == 0;
            let due = self.workers.iter().filter(|(_, worker)| waits(worker));
            let due = due.filter_map(|(name, worker)| Some((worker.due_in()?, name))).min();
            // What comes at once, or after a failure that was just reported, is no news.
            if let Some((due, name)) = due.filter(|(due, _)| *due > self.quiet && !told)
                && self.workers.iter().all(|(_, worker)| worker.counters().summary().received == 0)
            {
                told = true;
                let due = humantime::format_duration(Duration::from_secs(due.as_secs() + 1));
                info!("an event waits for its next attempt in module {name}, in {due}");
            }
            if due.is_some() {
                continue;
            }
            let idle = self.workers.iter().map(|(_, worker)| worker.idle_for()).min().unwrap_or(NEVER);
            // What was submitted before this began may have taken long.
            let idle = idle.min(began.elapsed());
            if idle < self.quiet {
                continue;
            }
            let mut left = self.left(pipeline, plane, graphs).await?;
            if left.is_empty() || idle >= NEVER {
                let answers = self.bus_answers(plane).await;
                if answers && outage.is_none_or(|since| since.elapsed() >= AFTER_OUTAGE) {
                    return Ok(left);
                }
                // What waits there is not known before the workers are connected again.
                if !answers {
                    outage = Some(Instant::now());
                }
                tokio::time::sleep(self.quiet).await;
                continue;
            }
            if left.iter().all(|left| self.have_settled(left)) {
                // An outcome may have come between the two looks: it is there before a message is settled.
                left = self.left(pipeline, plane, graphs).await?;
                left.iter_mut().for_each(|left| left.settled = self.have_settled(left));
                return Ok(left);
            }
            if let Some(first) = left.first().filter(|_| idle >= SILENCE && !is_waiting) {
                is_waiting = true;
                info!(
                    "waiting for {}, the first of them {first}: no module works on it now",
                    counted(left.len(), "event")
                );
            }
            // An event waits for its next attempt, or its message is on its way.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Whether the bus is there: while it is not, nothing to do means nothing.
    async fn bus_answers(&self, plane: &DataPlane) -> bool {
        if self.quiet == QUIET {
            return true;
        }
        if self.workers.iter().any(|(_, worker)| worker.is_cut_off()) {
            return false;
        }
        let asked = Instant::now();
        let answered = plane.events.check().await;
        if let Err(error) = &answered {
            warn!("the bus is waited for: {}", error.chain());
        }
        // It may have come back while it was asked again and again.
        answered.is_ok() && asked.elapsed() < self.quiet
    }

    /// Waits until the bus knows the groups of all modules.
    pub(super) async fn subscribed(&self) {
        for (_, worker) in &self.workers {
            worker.subscribed().await;
        }
    }

    /// Whether nobody will work on it any more, as far as the bus tells.
    fn have_settled(&self, left: &Left) -> bool {
        let mut workers = self.workers.iter().filter(|(name, _)| *name == left.module);
        workers.any(|(_, worker)| worker.has_settled(&left.event))
    }

    /// What nothing came of so far in these graphs.
    pub(super) async fn left(
        &self,
        pipeline: &Pipeline,
        plane: &DataPlane,
        graphs: &[String],
    ) -> Result<Vec<Left>, Failure> {
        left(pipeline, plane, graphs, false).await.map_err(|error| Failure::at_open(&error))
    }

    /// What a person has dropped in these graphs, which nobody works on any more.
    pub(super) async fn dropped(
        pipeline: &Pipeline,
        plane: &DataPlane,
        graphs: &[String],
    ) -> Result<Vec<Left>, Failure> {
        left(pipeline, plane, graphs, true).await.map_err(|error| Failure::at_open(&error))
    }

    /// Why a module cannot be run at all, once that is so.
    pub(super) async fn failed(&self) -> Failure {
        let mut state = self.state.subscribe();
        match state.wait_for(|(_, failed)| failed.is_some()).await.map(|state| state.1.clone()) {
            Ok(Some(error)) => unusable(&error),
            _ => std::future::pending().await,
        }
    }

    /// How many deliveries were handed back, not to be lost.
    pub(super) fn handed_back(&self) -> u64 {
        self.workers.iter().map(|(_, worker)| worker.counters().summary().handed_back).sum()
    }

    /// Receives nothing more.
    pub(super) fn drain(&self) {
        self.stop.send_replace(true);
    }

    pub(super) fn end_modules(&self) {
        self.workers.iter().for_each(|(_, worker)| worker.end_modules());
    }

    /// Waits until no worker is at work.
    pub(super) async fn ended(&self) {
        let _ = self.state.subscribe().wait_for(|(left, _)| *left == 0).await;
    }

    /// Ends all workers.
    pub(super) async fn stop(self, grace: Duration) {
        self.drain();
        self.ended().await;
        self.serving.stop(grace).await;
    }
}

fn settings(spec: &ModuleSpec, of_all: &Settings, base: &Path, grace: Duration) -> WorkerSettings {
    let mut module = of_all.clone();
    module.context = Context { name: spec.name.clone(), ..module.context };
    module.layout = Layout::new(base.join(spec.name.as_str()));
    module.state_dir = module.layout.base().join(".sidecar");
    module.event_types = spec.event_types();
    module.memoize.clone_from(&spec.memoize);
    let mut settings = WorkerSettings::new(module, spec.subscribes.clone());
    settings.group = spec.group.clone();
    settings.grace = grace;
    settings.concurrency = spec.concurrency;
    settings.max_deliveries = spec.max_deliveries;
    settings
}

impl ModuleSpec {
    /// The module of this name in a pipeline.
    ///
    /// # Errors
    /// What is wrong with the file, or which names it has.
    pub(crate) fn read(file: &Path, name: &ModuleName) -> Result<Self, Vec<String>> {
        let pipeline = super::file::read(file, |_, _| None)?;
        let names: Vec<_> = pipeline.modules.iter().map(|module| module.name.to_string()).collect();
        let found = pipeline.modules.into_iter().find(|module| module.name == *name);
        found.ok_or_else(|| {
            vec![format!(
                "{} has no module {name}: say --context.name with one of {}",
                file.display(),
                names.join(", ")
            )]
        })
    }

    pub(crate) fn is_warm(&self) -> bool {
        self.warm
    }

    /// Which events it may publish.
    pub(crate) fn event_types(&self) -> EventTypes {
        match &self.publishes {
            Some(types) => EventTypes::Only(types.clone()),
            None => EventTypes::Any,
        }
    }

    /// As a command with its surroundings.
    pub(crate) fn module(&self, work: &Work, logs: Option<PathBuf>) -> Module {
        let mut service = work.service.clone();
        service.lease = self.timeout.or(service.lease);
        Module {
            command: self.command.iter().map(Into::into).collect(),
            wrap: self.wrap,
            user: work.settings.module_user.other(),
            hidden: work.hidden.clone(),
            service,
            surroundings: Surroundings {
                directory: Some(self.directory.clone()),
                environment: self.environment.clone(),
                logs,
                log_output: false,
                background: true,
            },
        }
    }
}

/// An event that a module should have worked on, and has not.
pub(super) struct Left {
    event: EventId,
    module: ModuleName,
    /// Whether its message was settled before, so that it does not come again.
    settled: bool,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {} in module {}", self.event, self.module)?;
        if self.settled {
            f.write_str(
                ": its message was settled before, and its outcome is not there any more (see sidecar gc --outcomes); \
                 submit it under another id",
            )?;
        }
        Ok(())
    }
}

/// The events of these graphs that a module should have worked on and has not, as far as anybody can; or, `want_dropped`,
/// those among them that a person has dropped.
async fn left(
    pipeline: &Pipeline,
    plane: &DataPlane,
    graphs: &[String],
    want_dropped: bool,
) -> sidecar_core::Result<Vec<Left>> {
    let mut left = Vec::new();
    for graph in graphs {
        let trace = Trace::of_graph(plane, graph).await?;
        let stages = trace.stages();
        // Whatever a person has dropped is not waited for.
        let attempts: Vec<Attempts> = plane.documents.graph(graph).await?;
        let dropped: HashSet<_> = attempts
            .iter()
            .filter(|attempts| attempts.attempts == Attempts::DROPPED)
            .map(|attempts| (&attempts.context.event_id, &attempts.context.name))
            .collect();
        for event in &trace.events {
            let Some(event_type) = &event.event_type else { continue };
            for module in pipeline.modules.iter().filter(|module| module.subscribes.contains(event_type)) {
                let is_dropped = dropped.contains(&(&event.event_id, &module.name));
                match stages.get(&(&event.event_id, &module.name)) {
                    Some(Stage::Committed(_)) => {}
                    Some(Stage::GivenUp(_)) if !is_dropped => {}
                    _ if is_dropped != want_dropped => {}
                    _ => left.push(Left {
                        event: event.event_id.clone(),
                        module: module.name.clone(),
                        settled: false,
                    }),
                }
            }
        }
    }
    Ok(left)
}

/// Where the modules' output is kept, below the base directory.
pub(super) fn logs(base: &Path, module: &str) -> PathBuf {
    base.join("logs").join(module)
}
