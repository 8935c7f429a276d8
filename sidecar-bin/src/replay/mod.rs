//! `sidecar replay`: a module again on exactly the inputs of a past execution, publishing nothing.

mod differences;

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use clap::Args;
use glob::Pattern;
use sidecar_core::blob::{self, Overlay};
use sidecar_core::lineage::{Trace, Traced, TracedEvent, TracedExecution};
use sidecar_core::plane::counted;
use sidecar_core::process::{self, Ended, Module, Signals, Surroundings};
use sidecar_core::{
    Blob, Context, DataPlane, Documents as _, Error, EventContext, EventHeader, EventId, EventTypes, First,
    Layout, ObjectDigest, RecordedFile, Session, Settings, Start, copy_out, documents, events,
};
use tempfile::TempDir;
use tracing::{Instrument as _, info, info_span, warn};

use crate::exit::{self, Failure};
use crate::pipeline::Module as Spec;
use crate::trace::unknown;
use crate::worker::Work;

/// The module's outputs differ, or it failed.
const DIFFERS: u8 = 1;
/// The execution cannot be replayed.
const NOT_REPLAYABLE: u8 = 2;

/// What `sidecar replay` takes besides the settings.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The event that the module processed
    #[arg(value_name = "EVENT")]
    event: String,
    /// The run whose outcome is compared [default: the last]
    #[arg(long, value_name = "N")]
    run: Option<u32>,
    /// Take the event and the outcome from this file, which `sidecar trace --format json` has written
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// Take the module's command from this pipeline, by the name in --context.name
    #[arg(long, value_name = "FILE", conflicts_with_all = ["wrap", "command"], required_unless_present = "command")]
    pub(crate) pipeline: Option<PathBuf>,
    /// Do not compare these files, as in 'out/data/*.log' or 'out/meta.json:seconds'
    #[arg(long, value_name = "GLOB")]
    ignore: Vec<String>,
    /// Copy the new outputs into this directory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Write the differences as a page for a browser, pictures side by side
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Stage the inputs before COMMAND and take its outputs afterwards: the module needs no sidecar code
    #[arg(long)]
    wrap: bool,
    /// The module: a command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Runs the module, and prints what differs.
///
/// # Errors
/// When it cannot be replayed, or a store cannot be asked.
pub(crate) async fn run(args: ReplayArgs, work: Work) -> Result<u8, Failure> {
    let ignored = ignored(&args.ignore)?;
    args.refuse_places()?;
    let name = work.settings.context.name.clone();
    let (module, event_types) = module(&args, &work)?;
    let trace = match &args.from {
        Some(file) => read(file)?,
        None => Trace::of(&work.plane, &args.event).await.map_err(|error| unknown(&error, &args.event))?,
    };
    let not_replayable =
        |why: String| Failure::new(NOT_REPLAYABLE, format!("event {} cannot be replayed: {why}", args.event));
    let id = EventId::parse(&args.event).map_err(|error| not_replayable(error.to_string()))?;
    let Some(event) = trace.event(&id) else {
        return Err(not_replayable(format!("the trace of {} does not have it", trace.correlation_id)));
    };
    let recorded = trace.execution(&id, &name, args.run);
    if recorded.is_none() {
        let others: Vec<_> = trace
            .stages()
            .into_keys()
            .filter(|(other, _)| **other == id)
            .map(|(_, module)| module.to_string())
            .collect();
        match (args.run, &*others) {
            (Some(run), _) => {
                return Err(not_replayable(format!("module {name} has no outcome of run {run}")));
            }
            (None, []) => {
                return Err(not_replayable(format!("module {name} has not worked on it, and no other has")));
            }
            (None, others) if !others.contains(&name.to_string()) => {
                let others = others.join(", ");
                return Err(not_replayable(format!(
                    "module {name} has not worked on it; --context.name may be {others}"
                )));
            }
            _ => warn!("module {name} has no outcome for event {id}: there is nothing to compare with"),
        }
    }
    let scratch = scratch(&work.settings).map_err(|error| {
        Failure::new(exit::LOCAL_FAILED, format!("cannot make a temporary directory: {error}"))
    })?;
    let plane = scratch_plane(&scratch, &work.plane).map_err(|error| Failure::local(&error))?;
    let settings = settings(&scratch, &work.settings, &plane, event, recorded, &trace.correlation_id).await;
    let mut settings = settings.map_err(|error| Failure::at_open(&error))?;
    settings.event_types = event_types;
    let mut signals = Signals::catch()
        .map_err(|error| Failure::new(exit::LOCAL_FAILED, format!("cannot catch signals: {error}")))?;
    info!("replaying on a data plane of its own: nothing is stored or published in {}", work.plane);
    let session = Session::open(settings, plane.clone()).await.map_err(|error| Failure::at_open(&error))?;
    // Whatever it says of events is of the replay alone.
    match process::run(&session, &module, &mut signals).instrument(info_span!("replay")).await {
        Ended::Committed => {}
        Ended::NotPrepared(error) => return Err(not_replayable(error.chain())),
        // What it wrote is there to be looked at, where the log says.
        Ended::Failed { code, .. } => {
            info!(
                "the module failed (exit code {code}): nothing is compared; its inputs are in {}",
                scratch.keep().join("base/in").display()
            );
            return Ok(DIFFERS);
        }
        Ended::NotCommitted(error) if matches!(*error, Error::Invalid(_)) => {
            let out = scratch.keep().join("base/out");
            info!("the module's outputs are invalid: nothing is compared; they are in {}", out.display());
            return Ok(DIFFERS);
        }
        other => return exit::code(other, &session.status().context),
    }
    if let Some(dir) = &args.keep {
        let outputs = format!("{id}/{name}");
        copy_out(&plane, &outputs, dir).await.map_err(|error| Failure::local(&error))?;
        info!("the new outputs are in {}", dir.display());
    }
    let again = Trace::of_graph(&plane, &session.status().context.correlation_id).await;
    let again = again.map_err(|error| Failure::at_open(&error))?;
    let Some((recorded, found)) = recorded.zip(again.execution(&id, &name, None)) else {
        info!("the module succeeded");
        return Ok(0);
    };
    let recorded = Traced { execution: recorded, trace: &trace };
    let mut differences = recorded.differences(&Traced { execution: found, trace: &again });
    differences.retain(|difference| !ignored.iter().any(|pattern| pattern.matches(&difference.place)));
    let shown =
        differences::Shown::read(&plane, differences).await.map_err(|error| Failure::at_ready(&error))?;
    if let Some(file) = &args.report {
        std::fs::write(file, shown.page(&format!("{name}, event {id}"))).map_err(|error| {
            Failure::new(exit::LOCAL_FAILED, format!("cannot write {}: {error}", file.display()))
        })?;
    }
    if shown.is_empty() {
        let (files, events) = (counted(found.outputs.len(), "file"), counted(found.events.len(), "event"));
        info!("the outputs are the same: {files}, {events}");
        return Ok(0);
    }
    exit::print(shown.lines().trim_end())?;
    Ok(DIFFERS)
}

impl ReplayArgs {
    /// Finds out before the module runs that its outputs or the report cannot be put where they are to go.
    fn refuse_places(&self) -> Result<(), Failure> {
        let is_full =
            |dir: &PathBuf| std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
        let refused = match (&self.keep, &self.report) {
            (Some(dir), _) if is_full(dir) => {
                format!("--keep {}: it is not empty; name another directory", dir.display())
            }
            (Some(dir), _) if dir.is_file() => {
                format!("--keep {}: it is a file; name a directory", dir.display())
            }
            (_, Some(file)) if file.is_dir() => {
                format!("--report {}: it is a directory; name a file", file.display())
            }
            (_, Some(file))
                if file.parent().is_some_and(|dir| !dir.as_os_str().is_empty() && !dir.is_dir()) =>
            {
                format!("--report {}: its directory does not exist", file.display())
            }
            _ => return Ok(()),
        };
        Err(Failure::new(exit::LOCAL_FAILED, refused))
    }
}

fn ignored(globs: &[String]) -> Result<Vec<Pattern>, Failure> {
    let pattern = |glob: &String| {
        Pattern::new(glob)
            .map_err(|error| Failure::new(exit::CONFIGURATION, format!("--ignore {glob:?}: {}", error.msg)))
    };
    globs.iter().map(pattern).collect()
}

/// The module of the command line, or that of a pipeline, and what it may publish.
fn module(args: &ReplayArgs, work: &Work) -> Result<(Module, EventTypes), Failure> {
    let user = work.settings.module_user.other();
    let (hidden, service) = (work.hidden.clone(), work.service.clone());
    let Some(file) = &args.pipeline else {
        let (command, surroundings) = (args.command.clone(), Surroundings::default());
        let module = Module { command, wrap: args.wrap, user, hidden, service, surroundings };
        return Ok((module, EventTypes::Any));
    };
    let spec = Spec::read(file, &work.settings.context.name)
        .map_err(|problems| Failure::new(exit::CONFIGURATION, problems.join("\n")))?;
    if spec.is_warm() {
        let why = "the module stays warm and asks for events: name a command that works on one, after --";
        return Err(Failure::new(NOT_REPLAYABLE, why));
    }
    Ok((spec.module(work, None), spec.event_types()))
}

fn read(file: &std::path::Path) -> Result<Trace, Failure> {
    let wrong = |error: String| Failure::new(NOT_REPLAYABLE, format!("--from {}: {error}", file.display()));
    let text = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let trace: Trace =
        serde_json::from_slice(&text).map_err(|error| wrong(format!("it is no trace: {error}")))?;
    match trace.format {
        Trace::FORMAT => Ok(trace),
        other => Err(wrong(format!("its format is {other}, and this sidecar knows {}", Trace::FORMAT))),
    }
}

/// A directory that nobody else can look into: the module's inputs and outputs pass through it.
fn scratch(settings: &Settings) -> std::io::Result<TempDir> {
    let private = std::fs::Permissions::from_mode(0o700);
    let scratch = tempfile::Builder::new().prefix("sidecar-replay-").permissions(private).tempdir()?;
    if let Some((uid, gid)) = settings.module_user.other() {
        std::os::unix::fs::chown(scratch.path(), Some(uid), Some(gid))?;
    }
    Ok(scratch)
}

/// A file of the event as the recorded execution got it: what is not the same any more cannot be staged.
fn as_recorded(file: &Blob, recorded: Option<&TracedExecution>) -> Blob {
    let input =
        recorded.into_iter().flat_map(|recorded| &recorded.inputs).find(|input| input.name == file.name);
    match input {
        Some(RecordedFile { size, digest, executable, .. }) => {
            Blob { size: *size, digest: *digest, executable: *executable, ..file.clone() }
        }
        None => file.clone(),
    }
}

/// A data plane of its own: only the files of the other one are read.
fn scratch_plane(scratch: &TempDir, of: &DataPlane) -> Result<DataPlane, Error> {
    let blobs = Overlay::new(blob::Local::open(scratch.path().join("plane"))?, of.blobs.clone());
    let own = DataPlane::new(blobs, documents::Memory::default(), events::Memory::default());
    Ok(DataPlane { references: of.references.clone(), ..own })
}

/// An execution of the same event in the scratch data plane.
async fn settings(
    scratch: &TempDir,
    of: &Settings,
    plane: &DataPlane,
    event: &TracedEvent,
    recorded: Option<&TracedExecution>,
    correlation_id: &str,
) -> Result<Settings, Error> {
    let context = Context {
        name: of.context.name.clone(),
        event_id: event.event_id.clone(),
        correlation_id: correlation_id.to_owned(),
        parent_event_id: event.parent_event_id.clone(),
    };
    let mut settings = Settings::new(context.clone(), Layout::new(scratch.path().join("base")));
    // What the recorded run was given says whether there was a context.
    let is_known = event.event_type.is_some() || recorded.is_some_and(|recorded| !recorded.inputs.is_empty());
    settings.first = if is_known { First::No } else { First::Yes };
    settings.module_user = of.module_user;
    settings.start = Start::Restart;
    settings.parallel = of.parallel;
    if is_known {
        let stored = EventContext {
            context: EventHeader {
                name: String::new(),
                event_id: context.event_id,
                correlation_id: context.correlation_id,
                parent_event_id: context.parent_event_id,
            },
            files: (event.files.iter().map(|file| &file.name))
                .chain(event.references.iter().map(|of| &of.name))
                .cloned()
                .collect(),
            data: event.data.clone(),
            blobs: event.files.iter().map(|file| as_recorded(file, recorded)).collect(),
            references: event.references.clone(),
            event_type: event.event_type.clone(),
            producer: None,
            traceparent: None,
        };
        let recorded = recorded.map(|recorded| &*recorded.inputs).unwrap_or_default();
        for of in &event.references {
            if let Some(input) = recorded.iter().find(|input| input.name == of.name) {
                let digest = ObjectDigest::new(of, correlation_id.to_owned(), input.digest);
                plane.documents.store(&[digest]).await?;
            }
        }
        plane.documents.store(&[stored]).await?;
    }
    Ok(settings)
}
