//! Workers: they receive events, and run a module for each.
//!
//! A [`Worker`] has a number of slots, each with a directory of its own. A slot takes one delivery at a time, opens a
//! [`Session`](crate::Session) for it, lets a [`Runner`] run the module, and settles the delivery as the table in
//! [`Outcome::settlement`] says. The bus decides who tries; only the execution's record decides what came of it.

mod attempts;
mod counters;
mod dead;
#[cfg(feature = "process")]
mod process;
mod runner;
mod settlement;
mod slot;
#[cfg(feature = "process")]
mod warm;

pub use counters::{Counters, Summary};
pub use dead::{dead_letter, dead_letters, drop_letter, redrive};
#[cfg(feature = "process")]
pub use process::Processes;
pub use runner::{Assignment, Function, Runner, Slot};
pub use settlement::{Outcome, Settlement};
#[cfg(feature = "process")]
pub use warm::WarmProcesses;

use std::fs::File;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::contract::{EventId, ModuleName};
use crate::error::{Error, Result};
use crate::events::{EventSource, Subscription};
use crate::execution::{First, Journaling, ModuleUser, Settings, Start, check_places, recover};
use crate::lock::{Locked, not_locked};
use crate::plane::{DataPlane, Places};
use crate::server::Sessions;
use crate::{blocking, dedicated};

/// What a worker works on.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// The module. Of its context the name counts; the rest is that of each event. Its directories hold one for each
    /// slot, called after the slot's number.
    pub module: Settings,
    /// The consumer group; workers of one group share the events.
    pub group: ModuleName,
    /// The event types that start the module; none means every type.
    pub types: Vec<String>,
    /// How many modules run at the same time.
    pub concurrency: NonZeroUsize,
    /// After how many attempts an event is given up.
    pub max_deliveries: NonZeroU32,
    /// After how many events the worker ends by itself.
    pub max_events: Option<u64>,
    /// After how long without an event it ends by itself.
    pub idle_exit: Option<Duration>,
    /// Whether a module that ends again and again before it takes an event ends the worker too; otherwise it is started
    /// for ever, with pauses. A worker that ends by itself gives up in any case.
    pub gives_up: bool,
    /// How long modules may take to end when the worker is told to stop; what is not done then is handed back.
    pub grace: Duration,
    /// How long an event is kept from other workers when this one dies, where the bus does not notice.
    pub lock: Duration,
}

impl WorkerSettings {
    /// Attempts at an event by default.
    pub const DEFAULT_MAX_DELIVERIES: NonZeroU32 = NonZeroU32::new(5).unwrap();

    /// The usual settings: a group called after the module, one module at a time, thirty seconds of grace.
    pub fn new(module: Settings, types: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            group: module.context.name.clone(),
            module,
            types: types.into_iter().map(Into::into).collect(),
            concurrency: NonZeroUsize::MIN,
            max_deliveries: Self::DEFAULT_MAX_DELIVERIES,
            max_events: None,
            idle_exit: None,
            gives_up: false,
            grace: Duration::from_secs(30),
            lock: Subscription::DEFAULT_LOCK,
        }
    }
}

/// Receives events and runs a module for each; clones are the same worker.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use sidecar_core::worker::{Function, Worker, WorkerSettings};
/// use sidecar_core::{Context, DataPlane, EventId, Layout, ModuleName, Session, Settings, Submission};
///
/// let (base, plane) = (tempfile::tempdir()?, DataPlane::memory());
/// Submission::new("picture").value("size", "small").submit(&plane).await?;
///
/// let name = ModuleName::parse("thumbnail")?;
/// let mut settings = WorkerSettings::new(Settings::of_module(name, Layout::new(base.path())), ["picture"]);
/// settings.idle_exit = Some(Duration::ZERO);
/// let module = Function::new(async |session: Session| {
///     std::fs::write(session.layout().output_data().join("small.txt"), "a picture")
/// });
/// let summary = Worker::new(plane, settings, module).run(std::future::pending()).await?;
/// assert_eq!(summary.committed, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Worker {
    shared: Arc<Shared>,
}

struct Shared {
    places: Places,
    /// The data plane in these places.
    plane: DataPlane,
    /// Where events come from, once the bus is subscribed to.
    source: watch::Sender<Option<Arc<dyn EventSource>>>,
    settings: WorkerSettings,
    runner: Box<dyn Runner>,
    counters: Arc<Counters>,
    /// Whether nothing more is received.
    draining: watch::Sender<bool>,
    /// Whether modules are to end.
    stop: watch::Sender<bool>,
    /// How many slots wait for a store.
    outages: watch::Sender<usize>,
    /// Whether it was said that no event can be received, and nothing since.
    bus_away: AtomicBool,
    /// Events received, and receives that may bring one.
    taken: AtomicU64,
    /// Slots with an event.
    busy: AtomicUsize,
    /// Slots whose module is not there yet.
    loading: AtomicUsize,
    /// When an event was last there.
    active: Mutex<Instant>,
    /// Where its sessions are shown.
    exposed: OnceLock<Sessions>,
    /// Why no event can be worked on.
    unusable: Mutex<Option<Arc<Error>>>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

impl Shared {
    async fn subscribe(&self) -> Result<Arc<dyn EventSource>> {
        let WorkerSettings { group, types, lock, concurrency, .. } = &self.settings;
        let subscription = Subscription {
            group: group.clone(),
            types: types.clone(),
            lock: *lock,
            concurrency: concurrency.get(),
            stores: format!("{} and {}", self.plane.blobs.id(), self.plane.documents.id()),
        };
        let source = self.plane.events.subscribe(&subscription).await?;
        self.counters.answered(true);
        self.source.send_replace(Some(source.clone()));
        Ok(source)
    }

    /// Ends the worker with this error.
    fn give_up(&self, error: Arc<Error>) {
        *self.unusable.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.draining.send_replace(true);
    }

    fn source(&self) -> Result<Arc<dyn EventSource>> {
        let source = self.source.borrow().clone();
        source.ok_or_else(|| Error::Internal("the bus is not subscribed to".into()))
    }
}

/// How often an idle worker looks for outcomes that are decided and not published.
const RECOVER_EVERY: Duration = Duration::from_secs(600);

/// How long it works before it looks for the first time.
const RECOVER_AFTER: Duration = Duration::from_secs(60);

/// How long a module has to end after it was asked to, at most; so much of the grace period is left for it.
const ENDING: Duration = Duration::from_secs(5);

impl Worker {
    /// A worker that has not begun.
    pub fn new(plane: DataPlane, mut settings: WorkerSettings, runner: impl Runner) -> Self {
        settings.module.first = First::No;
        settings.module.start = Start::Restart;
        // The event is delivered again, after a delay; nothing waits in between.
        settings.module.patience = Duration::ZERO;
        // After a power cut too.
        settings.module.journal = Journaling::Unsynced;
        let counters = Arc::new(Counters::new(&settings.module.context.name, &settings.types));
        let places = Places::new(plane);
        let shared = Shared {
            plane: places.plane(),
            places,
            source: watch::Sender::default(),
            settings,
            runner: Box::new(runner),
            counters,
            draining: watch::Sender::new(false),
            stop: watch::Sender::new(false),
            outages: watch::Sender::new(0),
            bus_away: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            loading: AtomicUsize::new(0),
            active: Mutex::new(Instant::now()),
            exposed: OnceLock::new(),
            unusable: Mutex::new(None),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Works until it ends by itself, or until `stop` comes: then it receives nothing more, and its modules may finish
    /// within the grace period. It works once: another run takes another worker.
    ///
    /// # Errors
    /// When the bus cannot be subscribed to, or why no module can be run here.
    pub async fn run(&self, stop: impl Future<Output = ()>) -> Result<Summary, Arc<Error>> {
        let shared = &self.shared;
        let WorkerSettings { group, types, concurrency, .. } = &shared.settings;
        let (base, user) =
            (shared.settings.module.layout.base().to_owned(), shared.settings.module.module_user);
        check_places(&shared.settings.module, &shared.plane)?;
        let _base = blocking(move || lock_base(&base, user)).await?;
        let mut slots = JoinSet::new();
        // As long as nobody is there to receive from, there is nothing that a signal could interrupt.
        tokio::pin!(stop);
        let source = tokio::select! {
            source = shared.subscribe() => source?,
            () = &mut stop => return Ok(shared.counters.summary()),
        };
        info!("group {group} receives {} from {source}", describe(types));
        // Another one may take its place, and then its connection is to end.
        drop(source);
        *shared.active.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        for number in 0..concurrency.get() {
            let shared = shared.clone();
            slots.spawn(dedicated::run(format!("slot-{number}"), move || slot::work(shared, number)));
        }
        let recovering = tokio::spawn(recover_when_idle(shared.clone()));
        let mut draining = shared.draining.subscribe();
        let all = async {
            while let Some(ended) = slots.join_next().await {
                // A defect of a provider or of the runner: the slot is gone, and whoever runs the worker is to know.
                match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        shared.give_up(Arc::new(Error::Internal(format!("a slot cannot work: {error}"))));
                    }
                    Err(panic) if panic.is_panic() => {
                        shared.give_up(Arc::new(Error::Internal(format!("a slot has ended: {panic}"))));
                    }
                    Err(_) => {}
                }
            }
        };
        tokio::pin!(all);
        tokio::select! {
            () = &mut all => {}
            () = stop => {
                self.drain();
                let _ = draining.wait_for(|draining| *draining).await;
                let patience = shared.settings.grace.saturating_sub(ending(shared.settings.grace));
                if tokio::time::timeout(patience, &mut all).await.is_err() {
                    warn!("the grace period is over: modules are asked to end, and their events are handed back");
                    self.end_modules();
                    // Whoever ends this process has been told of the grace period alone.
                    let last = ending(shared.settings.grace) + HANDING_BACK;
                    if tokio::time::timeout(last, &mut all).await.is_err() {
                        warn!("a store or the bus does not answer: what is left is delivered again");
                    }
                }
            }
        }
        recovering.abort();
        match shared.unusable.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(shared.counters.summary()),
        }
    }

    /// Goes on with the same data plane by other credentials: events are received, and calls are made, with them.
    ///
    /// # Errors
    /// [`Error::Busy`] when it is another data plane; why the bus cannot be subscribed to, and then that goes on as
    /// before.
    pub async fn renew(&self, plane: DataPlane) -> Result<()> {
        self.shared.places.replace(plane)?;
        self.shared.subscribe().await.map(drop)
    }

    /// Receives nothing more; what was received is worked on.
    pub fn drain(&self) {
        self.shared.draining.send_replace(true);
    }

    /// How long nothing was there to do: zero while an event is worked on, or will come again after a delay that this
    /// worker has asked for, and while a module is loading, for which an event may wait.
    pub fn idle_for(&self) -> Duration {
        let Shared { busy, loading, .. } = &*self.shared;
        match busy.load(Ordering::Relaxed) + loading.load(Ordering::Relaxed) {
            0 => self.shared.active.lock().unwrap_or_else(PoisonError::into_inner).elapsed(),
            _ => Duration::ZERO,
        }
    }

    /// How soon the next event comes that waits for another attempt, as far as the bus tells.
    pub fn due_in(&self) -> Option<Duration> {
        self.shared.source.borrow().as_ref().and_then(|source| source.due_in())
    }

    /// Whether the bus did not answer when it was last asked for an event.
    pub fn is_cut_off(&self) -> bool {
        self.shared.bus_away.load(Ordering::Relaxed)
    }

    /// Waits until the bus knows the group: from then on it gets whatever is published for it.
    pub async fn subscribed(&self) {
        // The sender lives as long as this worker.
        let _ = self.shared.source.subscribe().wait_for(Option::is_some).await;
    }

    /// Whether it is known that the group has settled this event, so that it does not come again.
    pub fn has_settled(&self, event: &EventId) -> bool {
        self.shared.source.borrow().as_ref().is_some_and(|source| source.has_settled(event))
    }

    /// Asks running modules to end at once; their events are handed back.
    pub fn end_modules(&self) {
        self.drain();
        self.shared.stop.send_replace(true);
    }

    /// Shows its counts and durations at `/metrics` of the server of `sessions`: of one worker a server, since each has
    /// the same metrics.
    pub fn expose(&self, sessions: &Sessions) {
        sessions.expose(self.shared.counters.clone());
        // The sessions are shown by the first server only.
        let _ = self.shared.exposed.set(sessions.clone());
    }

    /// What it has done so far.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

/// Keeps other workers from the slots' directories, as long as the file is open.
fn lock_base(base: &Path, user: ModuleUser) -> Result<Locked<File>> {
    user.make_reachable(base).map_err(Error::io("use", base))?;
    let path = base.join(".worker.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let busy =
        format!("another worker works in {}: give this one a base directory of its own", base.display());
    file.and_then(Locked::new).map_err(not_locked(&path, busy))
}

/// How long stores and the bus have for what is handed back when the grace period is over.
const HANDING_BACK: Duration = Duration::from_secs(5);

/// How long of a grace period is left to modules that were asked to end.
pub fn ending(grace: Duration) -> Duration {
    ENDING.min(grace / 4)
}

fn describe(types: &[String]) -> String {
    match types {
        [] => "events of every type".into(),
        [one] => format!("events of type {one:?}"),
        several => format!("events of types {}", several.join(", ")),
    }
}

/// Publishes what is decided and unpublished, whoever decided it, while there is nothing else to do.
async fn recover_when_idle(shared: Arc<Shared>) {
    // It looks at every record: a worker that lives for one event has no time for that.
    tokio::time::sleep(RECOVER_AFTER).await;
    loop {
        let idle = shared.busy.load(Ordering::Relaxed) == 0;
        if idle && let Err(error) = recover(&shared.plane).await {
            debug!("nothing could be recovered: {}", error.chain());
        }
        tokio::time::sleep(if idle { RECOVER_EVERY } else { Duration::from_secs(10) }).await;
    }
}
