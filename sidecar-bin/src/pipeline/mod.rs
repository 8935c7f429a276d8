//! `sidecar pipeline`: a chain of modules on one machine, with one command.

mod counted;
mod file;
mod flow;
mod lines;
mod report;
mod ui;
mod watch;
mod work;

use std::collections::{BTreeSet, HashSet};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use clap::Args;
use sidecar_core::plane::{counted, nearest};
use sidecar_core::process::Signals;
use sidecar_core::{Error, ModuleUser, Submission};
use tracing::{info, warn};

use crate::exit::{self, Failure};
use crate::submit;
use crate::worker::Work;
pub(crate) use file::{ModuleSpec as Module, Pipeline};
use ui::Ui;
use work::Workers;

/// What `sidecar pipeline` takes besides the settings.
#[derive(Debug, Args)]
pub(crate) struct PipelineArgs {
    /// The modules: a TOML file with a table [modules.NAME] for each
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only check FILE
    #[arg(long)]
    check: bool,
    /// Only print how events flow, as a flowchart for Mermaid
    #[arg(long)]
    graph: bool,
    /// Files and folders of a first event, which is submitted when the bus knows the modules
    #[arg(long, value_name = "FILE", num_args = 1..)]
    input: Vec<PathBuf>,
    /// A value of the first event, or of the event of each watched file; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    value: Vec<String>,
    /// The type of the first event [default: the one type that no module publishes]
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// The id of the first event: to submit the same one again submits nothing new [default: a random one]
    #[arg(long)]
    id: Option<String>,
    /// Submit each file that appears in this folder, and go on until stopped
    #[arg(long, value_name = "DIR")]
    watch: Option<PathBuf>,
    /// How long a watched file must not have changed before it is submitted
    #[arg(long, value_name = "DURATION", default_value = "1s", requires = "watch")]
    settle: humantime::Duration,
    /// Serve the page of what is worked on, live, at a port of this machine or at an address: whoever opens it needs the
    /// token that is printed
    #[arg(long, value_name = "ADDRESS")]
    ui: Option<String>,
    /// Go on when nothing is left to do
    #[arg(long)]
    keep_running: bool,
    /// The modules, once they are loaded.
    #[arg(skip)]
    pipeline: Option<Pipeline>,
}

impl PipelineArgs {
    /// Reads and checks the file, before anything is opened or made, and says whether the modules are to run.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn load(&mut self) -> Result<bool, Vec<String>> {
        let is_first = !self.input.is_empty() || !self.value.is_empty();
        if self.id.is_some() && self.input.is_empty() && (!is_first || self.watch.is_some()) {
            return Err(vec!["--id has no effect without --input or --value: which event has it?".into()]);
        }
        if self.event_type.is_some() && !is_first && self.watch.is_none() {
            return Err(vec!["--type has no effect without --input, --value or --watch".into()]);
        }
        let pipeline = file::read(&self.file, work::cannot_start)?;
        let name = self.file.display();
        for warning in pipeline.warnings() {
            eprintln!("warning: {name}: {warning}");
        }
        if self.graph {
            let _ = exit::print(pipeline.mermaid().trim_end());
            return Ok(false);
        }
        if self.check {
            let first: Vec<_> = pipeline.first_types().into_iter().collect();
            eprintln!(
                "{name}: {}; it begins with events of type {}",
                counted(pipeline.modules.len(), "module"),
                first.join(", ")
            );
            return Ok(false);
        }
        self.pipeline = Some(pipeline);
        Ok(true)
    }

    fn is_endless(&self) -> bool {
        self.keep_running || self.watch.is_some()
    }

    /// The first event, if there is to be one.
    fn submission(&self, id: &str, pipeline: &Pipeline, work: &Work) -> Result<Option<Submission>, Failure> {
        if self.input.is_empty() && (self.value.is_empty() || self.watch.is_some()) {
            return Ok(None);
        }
        let event_type = self.first_type(pipeline)?;
        let stores = work.plane.directories().into_iter().map(|(_, dir)| dir);
        let stores: Vec<_> = stores.collect();
        submit::submission(id.to_owned(), event_type, &self.value, &self.input, &stores).map(Some)
    }

    fn first_type(&self, pipeline: &Pipeline) -> Result<String, Failure> {
        let first: Vec<_> = pipeline.first_types().into_iter().collect();
        let subscribed = || pipeline.modules.iter().flat_map(|module| &module.subscribes).map(String::as_str);
        match (&self.event_type, &*first) {
            (Some(event_type), _) if subscribed().all(|wanted| wanted != event_type) => {
                let meant = nearest(event_type, subscribed());
                let types: BTreeSet<_> = subscribed().collect();
                let all = || format!(", only to {}", types.into_iter().collect::<Vec<_>>().join(", "));
                let meant = meant.map(|meant| format!("; did you mean {meant:?}?")).unwrap_or_else(all);
                let message = format!(
                    "--type {event_type:?}: no module of {} subscribes to it{meant}",
                    self.file.display()
                );
                Err(Failure::new(exit::CONFIGURATION, message))
            }
            (Some(event_type), _) => Ok(event_type.clone()),
            (None, [one]) => Ok((*one).to_owned()),
            (None, several) => {
                let types = if several.is_empty() { "none".into() } else { several.join(", ") };
                let message = format!("--type is required: the types that no module publishes are {types}");
                Err(Failure::new(exit::CONFIGURATION, message))
            }
        }
    }
}

/// So many events that nothing came of are named.
const SHOWN: usize = 5;

/// Runs all modules until nothing is left to do, or until a signal stops it.
///
/// # Errors
/// When the pipeline cannot begin, or a module cannot be run at all.
pub(crate) async fn run(mut args: PipelineArgs, mut work: Work) -> Result<u8, Failure> {
    let Some(pipeline) = args.pipeline.take() else {
        return Err(Failure::new(exit::CONFIGURATION, "the pipeline was not loaded"));
    };
    let address = args.ui.as_deref().map(ui::address).transpose()?;
    let base = work.settings.layout.base().to_owned();
    let counts = counted::count(&mut work.plane);
    let mut signals = Signals::catch()
        .map_err(|error| Failure::new(exit::LOCAL_FAILED, format!("cannot catch signals: {error}")))?;
    let report = report::Report::begin(&base, &work.plane);
    // Before anything is submitted: whoever sees this fail would submit it once more.
    let _base = alone(&base, work.settings.module_user, &pipeline)?;
    let watching = match &args.watch {
        Some(dir) => {
            let stores = work.plane.directories().into_iter().map(|(_, dir)| dir);
            let written: Vec<_> = stores.chain([base.clone()]).collect();
            let (event_type, values) = (args.first_type(&pipeline)?, submit::values(&args.value)?);
            Some(watch::Watch::new(dir, event_type, values, args.settle.into(), &written)?)
        }
        None => None,
    };
    let listener = match address {
        Some(address) => Some(ui::listen(address).await?),
        None => None,
    };
    let mut graphs = Vec::new();
    let id = args.id.clone().unwrap_or_else(submit::new_id);
    let submission = args.submission(&id, &pipeline, &work)?;
    let (plane, grace) = (work.plane.clone(), work.service.grace);
    let workers = Workers::start(&pipeline, work, &base, args.is_endless()).await?;
    if let Some(submission) = submission {
        // A bus may keep only what a group wants, and only from when it knows the group.
        let submitted = tokio::select! {
            () = workers.subscribed() => submit::send(submission, &id, &plane).await,
            failed = workers.failed() => Err(failed),
            signal = signals.end() => {
                workers.stop(grace).await;
                info!("received signal {signal}: nothing was submitted");
                return Ok(exit::signalled(signal));
            }
        };
        match submitted {
            Ok(id) => graphs.push(id.to_string()),
            Err(failure) => {
                workers.stop(grace).await;
                return Err(failure);
            }
        }
    }
    let each = lines::lines(&workers, &pipeline);
    let ui =
        listener.map(|listener| Ui::start(listener, &plane, report.logs(), counts.clone(), each.clone()));
    if let Some(ui) = &ui {
        // Not in the log, which others may read: whoever has it sees everything.
        eprintln!("the page, live: {}", ui.url);
    }
    let lines = lines::show(each, counts.clone());
    let watched = async {
        match &watching {
            Some(watch) => {
                workers.subscribed().await;
                watch.run(&plane).await
            }
            None => std::future::pending().await,
        }
    };
    let mut stopped_by = None;
    let ended = tokio::select! {
        ended = workers.until_done(&pipeline, &plane, &graphs), if !args.is_endless() => ended,
        failed = workers.failed() => Err(failed),
        failed = watched => Err(failed),
        signal = signals.end() => {
            info!("received signal {signal}: no more events are received; modules may finish within {grace:?}");
            stopped_by = Some(signal);
            workers.drain();
            tokio::select! {
                () = workers.ended() => {}
                signal = signals.end() => {
                    info!("received signal {signal}: modules are asked to end now");
                    workers.end_modules();
                }
            }
            let graphs = worked_on(&graphs, watching.as_ref(), &counts);
            Ok(workers.left(&pipeline, &plane, &graphs).await?)
        }
    };
    let handed_back = workers.handed_back();
    workers.stop(grace).await;
    if let Some(ui) = ui {
        ui.stop().await;
    }
    drop(lines);
    let left = match ended {
        Ok(left) => left,
        Err(failure) => {
            // What the others have done meanwhile is not lost on whoever looks.
            let graphs = worked_on(&graphs, watching.as_ref(), &counts);
            report.end(&plane, &graphs, &[], &args.file, &pipeline).await?;
            return Err(failure);
        }
    };
    for left in left.iter().take(SHOWN) {
        warn!("nothing came of {left}");
    }
    if let more @ 1.. = left.len().saturating_sub(SHOWN) {
        warn!("nothing came of {more} more");
    }
    let dropped = Workers::dropped(&pipeline, &plane, &graphs).await?;
    for dropped in dropped.iter().take(SHOWN) {
        warn!(
            "{dropped} was dropped by `sidecar dead drop`, and is not worked on: submit it under another id"
        );
    }
    let graphs = worked_on(&graphs, watching.as_ref(), &counts);
    let mut is_whole = left.is_empty() && dropped.is_empty();
    let mut files = Vec::new();
    if let Some(watch) = watching {
        files = watch.submitted();
        for (path, why) in watch.left() {
            warn!("{} was not submitted: {why}", path.display());
            is_whole = false;
        }
        info!(
            "submitted from {}: {}",
            args.watch.unwrap_or_default().display(),
            counted(files.len(), "event")
        );
    }
    let failed = report.end(&plane, &graphs, &files, &args.file, &pipeline).await?;
    Ok(match stopped_by {
        // Whoever asked for an end has got it, and what is not done is done by the next start.
        Some(signal) if !left.is_empty() || handed_back > 0 => {
            warn!("the same command without --input and --value goes on with what is left");
            exit::signalled(signal)
        }
        _ if failed || !is_whole => exit::MODULE_FAILED,
        _ => 0,
    })
}

/// The submissions of this start, then those of watched files, then what an earlier start has left or somebody else has
/// submitted meanwhile.
fn worked_on(submitted: &[String], watching: Option<&watch::Watch>, counts: &counted::Counts) -> Vec<String> {
    let watched = watching.into_iter().flat_map(watch::Watch::submitted).map(|(id, _)| id.to_string());
    let mut seen = HashSet::new();
    let all = submitted.iter().cloned().chain(watched).chain(counts.graphs());
    all.filter(|graph| seen.insert(graph.clone())).collect()
}

/// Makes the directories of the modules, and keeps other pipelines out of them as long as the file is open.
fn alone(base: &Path, user: ModuleUser, pipeline: &Pipeline) -> Result<File, Failure> {
    for module in &pipeline.modules {
        let dir = base.join(module.name.as_str());
        user.make_reachable(&dir).map_err(|error| Failure::local(&Error::io("use", dir)(error)))?;
    }
    let path = base.join(".pipeline.lock");
    let lock = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = lock.map_err(|error| Failure::local(&Error::io("lock", &path)(error)))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Failure::local(&Error::Busy(format!(
            "another pipeline works in {}: sidecar submit gives it an event; or give this one a --basedir of its own",
            base.display()
        )))),
        Err(TryLockError::Error(error)) => Err(Failure::local(&Error::io("lock", &path)(error))),
    }
}
