//! `sidecar worker` and `sidecar dead`: events start modules, and what becomes of those that were given up.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use sidecar_core::lineage::Trace;
use sidecar_core::process::{Module, Service, Signals, Surroundings, find};
use sidecar_core::server::{Listening, Sessions};
use sidecar_core::worker::{self, Processes, Summary, WarmProcesses, Worker, WorkerSettings};
use sidecar_core::{Context, DataPlane, DeadLetter, DiskBudget, Error, ModuleName, Settings};
use tokio::sync::oneshot;
use tracing::info;

use crate::exit::{self, Failure};
use crate::secrets::Secrets;

/// What `sidecar worker` takes besides the settings.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// The event types that start the module, comma-separated
    #[arg(long, value_name = "TYPES", required = true, value_delimiter = ',')]
    subscribe: Vec<String>,
    /// The consumer group: every group gets every event, and its workers share them [default: the module's name]
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// How many modules run at the same time, each in a directory of its own
    #[arg(long, value_name = "N", default_value = "1")]
    concurrency: NonZeroUsize,
    /// Stage the inputs before COMMAND and commit its outputs afterwards: the module needs no sidecar code
    #[arg(long)]
    wrap: bool,
    /// Keep one process a slot, which calls POST /next for each event; it is started again when it ends
    #[arg(long, conflicts_with = "wrap")]
    warm: bool,
    /// After how many failed attempts an event is given up, as a dead letter
    #[arg(long, value_name = "N", default_value_t = WorkerSettings::DEFAULT_MAX_DELIVERIES)]
    max_deliveries: NonZeroU32,
    /// Process one event, or none if there is none, and exit
    #[arg(long)]
    once: bool,
    /// Exit when no event has come for this time
    #[arg(long, value_name = "DURATION")]
    idle_exit: Option<humantime::Duration>,
    /// Exit after this many events
    #[arg(long, value_name = "N", conflicts_with = "once")]
    max_events: Option<u64>,
    /// How many bytes the inputs of all running modules, and the outputs of one, may take, as in 20GB: inputs wait for
    /// room [default: unlimited]
    #[arg(long, value_name = "SIZE")]
    max_disk: Option<ByteSize>,
    /// Keep what modules print in a file DIR/EVENT.log instead of printing it; the last line becomes part of the reason of a
    /// failure
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// Log each line that a module prints, with the module, the event and the attempt, instead of printing it
    #[arg(long, conflicts_with = "logs")]
    log_output: bool,
    /// Take over the outcome of an equal execution instead of running the module: of this version of it, for an event of
    /// the same type with the same values and files
    #[arg(long, value_name = "VERSION")]
    memoize: Option<String>,
    /// How long an event is kept from other workers when this one dies, where the bus does not notice
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    lock: humantime::Duration,
    /// The module: a command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// What a worker works with.
pub(crate) struct Work {
    pub(crate) settings: Settings,
    pub(crate) service: Service,
    pub(crate) hidden: Vec<String>,
    pub(crate) plane: DataPlane,
}

/// Shorter ones cannot be renewed in time.
const SHORTEST_LOCK: Duration = Duration::from_secs(1);

/// How long `--once` waits for an event.
const ONCE: Duration = Duration::from_secs(1);

/// Works until it is told to stop, or until what it was asked for is done.
///
/// # Errors
/// With the code that says why it cannot work.
pub(crate) async fn run(
    args: WorkerArgs,
    Work { settings: module, service, hidden, plane }: Work,
    secrets: Secrets,
) -> Result<u8, Failure> {
    if args.subscribe.iter().any(String::is_empty) {
        return Err(Failure::new(exit::CONFIGURATION, "--subscribe: an event type is empty"));
    }
    let user = module.module_user.other();
    let mut settings = WorkerSettings::new(module, args.subscribe);
    if let Some(group) = args.group {
        settings.group = ModuleName::parse(&group)
            .map_err(|error| Failure::new(exit::CONFIGURATION, format!("--group: {error}")))?;
    }
    settings.concurrency = args.concurrency;
    settings.max_deliveries = args.max_deliveries;
    settings.max_events = if args.once { Some(1) } else { args.max_events };
    settings.idle_exit = args.idle_exit.map(Into::into).or(args.once.then_some(ONCE));
    settings.grace = service.grace;
    settings.lock = args.lock.into();
    if settings.lock < SHORTEST_LOCK {
        let why = format!("--lock {}: a lock is {SHORTEST_LOCK:?} at least", args.lock);
        return Err(Failure::new(exit::CONFIGURATION, why));
    }
    if args.memoize.as_deref() == Some("") {
        return Err(Failure::new(exit::CONFIGURATION, "--memoize: the version of the module is empty"));
    }
    settings.module.memoize = args.memoize;
    if args.max_disk.is_some_and(|size| size < ByteSize::mib(1)) {
        return Err(Failure::new(
            exit::CONFIGURATION,
            "--max-disk: less than 1MiB; is the unit missing, as in 20GB?",
        ));
    }
    settings.module.disk = args.max_disk.map(|size| DiskBudget::new(size.as_u64()));

    if let Some(program) = args.command.first() {
        let missing = |source| Error::Io { action: "start", path: PathBuf::from(program), source };
        find(program).map_err(|error| unusable(&missing(error)))?;
    }
    if let Some(dir) = &args.logs {
        let usable = std::fs::create_dir_all(dir)
            .and_then(|()| Ok(rustix::fs::access(dir, rustix::fs::Access::WRITE_OK)?));
        usable.map_err(|error| {
            Failure::new(exit::LOCAL_FAILED, format!("--logs: {} cannot be written: {error}", dir.display()))
        })?;
    }

    let mut signals = Signals::catch()
        .map_err(|error| Failure::new(exit::LOCAL_FAILED, format!("cannot catch signals: {error}")))?;
    let sessions = Sessions::default();
    let serving = Listening::start(sessions.clone(), &service.listen).await;
    let serving = serving.map_err(|error| Failure::local(&error))?;
    let grace = service.grace;
    let (logs, log_output) = (args.logs, args.log_output);
    let surroundings = Surroundings { logs, log_output, ..Surroundings::default() };
    let module = Module { command: args.command, wrap: args.wrap, user, hidden, service, surroundings };
    let (address, served) = (serving.address(), sessions.clone());
    info!(
        "sidecar {}: module {}, base directory {}, /metrics at http://{address}",
        env!("CARGO_PKG_VERSION"),
        settings.module.context.name,
        settings.module.layout.base().display()
    );
    let worker = if args.warm {
        let (name, base) = (settings.module.context.name.clone(), settings.module.layout.base().to_owned());
        Worker::new(plane, settings, WarmProcesses::new(module, name, base, sessions, address))
    } else {
        Worker::new(plane, settings, Processes::new(module, sessions, address))
    };

    worker.expose(&served);
    let (told, stop) = oneshot::channel();
    let watching = tokio::spawn({
        let running = worker.clone();
        async move {
            let signal = signals.end().await;
            let ending = worker::ending(grace);
            info!(
                "received signal {signal}: no more events are received; modules may finish within {:?}, then they are \
                 asked to end, and killed after {ending:?} (--grace {grace:?})",
                grace - ending
            );
            // Where the worker has ended by itself, nobody listens.
            let _ = told.send(());
            let signal = signals.end().await;
            info!("received signal {signal}: modules are asked to end now");
            running.end_modules();
        }
    });
    let renewing = tokio::spawn(secrets.keep_fresh(worker.clone()));
    let ended = worker.run(async { drop(stop.await) }).await;
    renewing.abort();
    watching.abort();
    serving.stop(grace).await;
    let Summary { received, committed, retried, dead_lettered, handed_back, .. } = match ended {
        Ok(summary) => summary,
        Err(error) => return Err(unusable(&error)),
    };
    info!(
        "events received: {received}, committed: {committed}, retried: {retried}, given up: {dead_lettered}, \
         handed back: {handed_back}"
    );
    Ok(0)
}

/// Why a worker cannot run its module at all.
pub(crate) fn unusable(error: &Error) -> Failure {
    match error {
        Error::Io { action: "start", source, path } => {
            let why = match source.kind() {
                std::io::ErrorKind::NotFound if source.get_ref().is_none() => "command not found".to_owned(),
                _ => source.to_string(),
            };
            Failure::new(exit::not_started(source.kind()), format!("cannot start {}: {why}", path.display()))
        }
        other => Failure::at_open(other),
    }
}

/// What can be done with dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum Dead {
    /// List the events that were given up
    List {
        /// Only those that this group gave up
        #[arg(long, value_name = "NAME")]
        group: Option<String>,
    },
    /// Show one as JSON
    Show {
        /// The id of a dead letter, EVENT, EVENT/MODULE, or a correlation id
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Publish events again for the groups that gave them up, and count their attempts from one
    #[command(
        override_usage = "sidecar dead redrive ID...\n       sidecar dead redrive --all [--group NAME]"
    )]
    Redrive {
        /// The ids of dead letters, EVENT, EVENT/MODULE, or correlation ids
        #[arg(value_name = "ID", required_unless_present = "all")]
        ids: Vec<String>,
        /// All of them
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        /// Of all of them, those that this group gave up
        #[arg(long, value_name = "NAME", requires = "all")]
        group: Option<String>,
    },
    /// Delete dead letters; their events are not tried again
    #[command(override_usage = "sidecar dead drop ID...\n       sidecar dead drop --all [--group NAME]")]
    Drop {
        /// The ids of dead letters, EVENT, EVENT/MODULE, or correlation ids
        #[arg(value_name = "ID", required_unless_present = "all")]
        ids: Vec<String>,
        /// All of them
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        /// Of all of them, those that this group gave up
        #[arg(long, value_name = "NAME", requires = "all")]
        group: Option<String>,
    },
}

/// Lists, shows, redrives or drops dead letters.
///
/// # Errors
/// When there is no such letter, or a store reports something.
pub(crate) async fn dead(plane: &DataPlane, dead: Dead) -> Result<u8, Failure> {
    let failed = |error: Error| Failure::at_open(&error);
    match dead {
        Dead::List { group: only } => {
            let mut lines = Vec::new();
            let mut traces = HashMap::new();
            for letter in all(plane, only.as_deref()).await? {
                let Context { correlation_id, event_id, name, .. } = &letter.context;
                let trace: &Option<Trace> = match traces.entry(correlation_id.clone()) {
                    Entry::Occupied(trace) => trace.into_mut(),
                    // A graph that cannot be read is no reason not to show its letters.
                    Entry::Vacant(place) => place.insert(Trace::of_graph(plane, correlation_id).await.ok()),
                };
                let overcome =
                    trace.as_ref().is_some_and(|trace| trace.execution(event_id, name, None).is_some());
                let mark = if overcome { "(has its outcome by now) " } else { "" };
                let reason = exit::cell(&format!("{mark}{}", letter.reason));
                let DeadLetter { time, id, context, group, attempts, event, .. } = letter;
                let (execution, correlation) =
                    (format!("{}/{}", context.event_id, context.name), exit::cell(&context.correlation_id));
                lines.push(format!(
                    "{time}\t{id}\t{execution}\t{correlation}\t{}\t{group}\t{attempts}\t{reason}",
                    exit::cell(&event.event_type)
                ));
            }
            if lines.is_empty() {
                info!("no dead letters in {}", plane.documents);
                return Ok(0);
            }
            exit::table("TIME\tID\tEXECUTION\tCORRELATION\tTYPE\tGROUP\tATTEMPTS\tREASON", lines)?;
        }
        Dead::Show { id } => {
            for letter in named(plane, std::slice::from_ref(&id)).await? {
                let json = serde_json::to_string_pretty(&letter).map_err(|error| {
                    Failure::new(exit::LOCAL_FAILED, format!("cannot show {id}: {error}"))
                })?;
                exit::print(&json)?;
            }
        }
        Dead::Redrive { ids, all: every, group } => {
            let letters =
                if every { all(plane, group.as_deref()).await? } else { named(plane, &ids).await? };
            for letter in &letters {
                worker::redrive(plane, letter).await.map_err(|error| Failure::at_done(&error))?;
            }
            info!("published again: {}", letters.len());
        }
        Dead::Drop { ids, all: every, group } => {
            let letters =
                if every { all(plane, group.as_deref()).await? } else { named(plane, &ids).await? };
            for letter in &letters {
                worker::drop_letter(plane, letter).await.map_err(failed)?;
            }
            info!("dropped: {}", letters.len());
        }
    }
    Ok(0)
}

/// Those that a group gave up, or all.
async fn all(plane: &DataPlane, group: Option<&str>) -> Result<Vec<DeadLetter>, Failure> {
    let (mut letters, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = worker::dead_letters(plane, after.as_deref()).await;
        let page = page.map_err(|error| Failure::at_open(&error))?;
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        letters.extend(page);
    }
    let Some(group) = group else { return Ok(letters) };
    let groups: BTreeSet<String> = letters.iter().map(|letter| letter.group.clone()).collect();
    letters.retain(|letter| letter.group == group);
    if letters.is_empty() && !groups.is_empty() {
        let groups = groups.into_iter().collect::<Vec<_>>().join(", ");
        let message = format!("no dead letter is of the group {group}, and there are some of {groups}");
        return Err(Failure::new(exit::INPUTS_FAILED, message));
    }
    Ok(letters)
}

/// All of them are looked up before anything is done with the first.
async fn named(plane: &DataPlane, ids: &[String]) -> Result<Vec<DeadLetter>, Failure> {
    let mut letters = Vec::with_capacity(ids.len());
    let mut every = None;
    for id in ids {
        if let Ok(letter) = worker::dead_letter(plane, id).await {
            letters.push(letter);
            continue;
        }
        // People have the ids of events.
        if every.is_none() {
            every = Some(all(plane, None).await?);
        }
        let is_meant = |letter: &&DeadLetter| {
            let Context { event_id, name, correlation_id, .. } = &letter.context;
            [event_id.as_str(), correlation_id, &format!("{event_id}/{name}")].contains(&&**id)
        };
        let meant: Vec<_> = every.iter().flatten().filter(is_meant).cloned().collect();
        if meant.is_empty() {
            let message = format!(
                "{} has no dead letter {id}, and none of an event or a submission {id}",
                plane.documents
            );
            return Err(Failure::new(exit::INPUTS_FAILED, message));
        }
        letters.extend(meant);
    }
    Ok(letters)
}
