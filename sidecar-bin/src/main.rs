//! The sidecar as a program: configuration → log → data plane → session → serve, run or one shot.

mod cli;
mod config;
mod config_file;
mod errors;
mod exit;
mod ion;
mod logging;
mod options;
mod plane;
mod progress;
mod run;
mod serve;
mod signals;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::FromArgMatches;
use rustix::process::{Resource, Rlimit};
use sidecar_core::plane::Unopened;
use sidecar_core::{
    Context, Documents, Error, EventContext, EventId, EventTypes, Phase, Session, Settings, Start, Submission,
};
use tracing::{error, info, warn};

use crate::cli::{Cli, Command};
use crate::config::{Config, Mode};
use crate::exit::Failure;
use crate::progress::Bar;
use crate::signals::Signals;

fn main() -> ExitCode {
    let Cli { command, options } = match parse_cli() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let mode = match &command {
        None => Mode::Serve,
        Some(Command::Run { command, .. }) => Mode::Run { name: run::module_name(command) },
        Some(Command::Prepare { .. } | Command::Commit) => Mode::OneShot,
        Some(Command::Submit { .. } | Command::Check) => Mode::NoEvent,
    };
    let config = match Config::parse(options, &mode) {
        Ok(config) => config,
        Err(errors) => return configuration(&errors),
    };
    if config.print {
        let _ = write!(std::io::stdout(), "{}", config.describe());
    }
    if let Err(failure) = logging::start(&config.log) {
        return configuration(&[failure.message]);
    }
    raise_file_limit();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return configuration(&[format!("cannot start: {error}")]),
    };
    let code = runtime.block_on(start(command, config)).unwrap_or_else(|failure| {
        error!("{}", failure.message);
        failure.code
    });
    // A transfer that was cut short must not keep the process.
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// Lets many clients and transfers be open at once, as far as the system allows without asking.
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // What cannot be raised stays as it is, and is enough for one module.
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// The command line, with the settings of `--config` beneath it.
fn parse_cli() -> Result<Cli, ExitCode> {
    let parse = |flags: Vec<String>| {
        let mut arguments = std::env::args_os();
        let program = arguments.next().into_iter();
        let arguments = program.chain(flags.into_iter().map(Into::into)).chain(arguments);
        let matches = cli::command().try_get_matches_from(arguments);
        matches.and_then(|matches| Cli::from_arg_matches(&matches)).map_err(|error| {
            // Where stdout or stderr is closed nobody can be told.
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { exit::CONFIGURATION } else { 0 })
        })
    };
    let cli = parse(Vec::new())?;
    let Some(file) = cli.options.config.as_ref().filter(|file| !file.is_empty()) else { return Ok(cli) };
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match config_file::flags(file, is_set) {
        Ok(flags) => parse(flags),
        Err(errors) => Err(configuration(&errors)),
    }
}

fn configuration(errors: &[String]) -> ExitCode {
    for error in errors {
        eprintln!("error: {error}");
    }
    eprintln!("sidecar --help lists every flag");
    ExitCode::from(exit::CONFIGURATION)
}

async fn start(command: Option<Command>, config: Config) -> Result<u8, Failure> {
    let plane = config.plane.unopened.open().map_err(|error| Failure::at_start(&error))?;
    plane.check().await.map_err(|errors| {
        let errors: Vec<_> = errors.iter().map(Error::chain).collect();
        Failure::new(exit::PROVIDER_FAILED, errors.join("\n"))
    })?;
    if matches!(command, Some(Command::Check)) {
        return Ok(0);
    }
    if let Some(Command::Submit { id, event_type, values, files }) = command {
        if event_type.is_empty() {
            return Err(Failure::new(exit::CONFIGURATION, "--type is empty: consumers subscribe to a type"));
        }
        let mut submission = Submission::new(event_type);
        if let Some(id) = id {
            let id = EventId::parse(&id)
                .map_err(|error| Failure::new(exit::CONFIGURATION, format!("--id: {error}")))?;
            submission = submission.event_id(id);
        }
        return submit(submission, values, files, &config.plane.unopened, &plane).await;
    }
    let Some(mut settings) = config.settings else {
        return Err(Failure::new(exit::CONFIGURATION, "no context"));
    };
    // `run` starts its module from the beginning; whoever else calls ready or done goes on where they were.
    settings.start = match command {
        Some(Command::Run { rerun: true, .. } | Command::Prepare { rerun: true }) => Start::Rerun,
        Some(Command::Run { .. }) => Start::Restart,
        _ => Start::Resume,
    };
    describe(&settings);
    if matches!(command, Some(Command::Commit)) {
        prepared(&settings).await?;
    }
    inherit(&mut settings, config.event_is_given, &plane).await?;
    let session = Session::open(settings, plane).await.map_err(|error| Failure::local(&error))?;
    if session.phase() == Phase::Done && !matches!(command, Some(Command::Run { .. })) {
        let Context { name, event_id, .. } = session.status().context;
        warn!("module {name} committed event {event_id} before: what it writes now is not committed");
    }
    let half = matches!(command, Some(Command::Prepare { .. } | Command::Commit));
    if half && session.phase() != Phase::Done && !session.is_publishing() {
        // Beside a module of `run` that is still at work, its inputs or half of its outputs would be taken.
        drop(session.lock_module().await.map_err(|error| Failure::local(&error))?);
        session.forget_module().await;
    }
    let mut signals = Signals::catch()
        .map_err(|error| Failure::new(exit::LOCAL_FAILED, format!("cannot catch signals: {error}")))?;
    let bar = Bar::of(&session);
    let code = match command {
        Some(Command::Run { wrap, command, .. }) => {
            run::run(&session, &config.server, &command, wrap, &bar, &mut signals).await
        }
        Some(Command::Prepare { .. }) => tokio::select! {
            prepared = session.ready() => prepared.map(|_| 0).map_err(|error| Failure::at_ready(&error)),
            _ = signals.end() => Ok(exit::TERMINATED),
        },
        Some(Command::Commit) => tokio::select! {
            done = session.done() => done.map(|_| 0).map_err(|error| Failure::at_done(&error)),
            _ = signals.end() => Ok(serve::finish_within_grace(&session, &config.server).await),
        },
        _ => serve::serve(&session, &config.server, &mut signals).await,
    };
    drop(bar);
    if let Err(error) = session.tidy().await {
        warn!("{}", error.chain());
    }
    code
}

/// `commit` goes on with what `prepare` began; it must not touch another execution.
async fn prepared(settings: &Settings) -> Result<(), Failure> {
    let other = Session::context_in(&settings.state_dir).await.map_err(|error| Failure::local(&error))?;
    let Settings { context, .. } = settings;
    let found = match other {
        Some(other) if other.event_id == context.event_id && other.name == context.name => return Ok(()),
        Some(other) => format!("was prepared for event {} of module {}", other.event_id, other.name),
        None => "was never prepared".to_owned(),
    };
    let base = settings.layout.base().display();
    let (event, module) = (&context.event_id, &context.name);
    let message =
        format!("{base} {found}, not for event {event} of module {module}: run sidecar prepare first");
    Err(Failure::new(exit::CONFIGURATION, message))
}

/// The consumer of an event belongs to the event's graph, where no flag says otherwise.
async fn inherit(
    settings: &mut Settings,
    given: bool,
    plane: &sidecar_core::DataPlane,
) -> Result<(), Failure> {
    let Settings { context, state_dir, start, .. } = settings;
    if !context.correlation_id.is_empty() {
        return Ok(());
    }
    let event = &context.event_id;
    let journal = Session::context_in(&*state_dir).await.map_err(|error| Failure::local(&error))?;
    let known = journal.filter(|known| known.event_id == *event && known.name == context.name);
    let known = known.map(|known| (known.correlation_id, known.parent_event_id));
    let (correlation, parent) = match known {
        // The execution goes on as it began.
        Some(known) if *start == Start::Resume => known,
        // The event was made up just now.
        _ if !given => Default::default(),
        known => match plane.documents.find::<EventContext>(event.as_str()).await {
            Ok(Some(found)) => (found.context.correlation_id, found.context.parent_event_id),
            Ok(None) => {
                let documents = &plane.documents;
                warn!("there is no event {event} in {documents}: unless it begins a graph, its id is wrong");
                known.unwrap_or_default()
            }
            // What is left to do may not need the event any more.
            Err(error) => known.ok_or_else(|| Failure::at_ready(&error))?,
        },
    };
    context.correlation_id = if correlation.is_empty() { event.to_string() } else { correlation };
    if context.parent_event_id.is_empty() {
        context.parent_event_id = parent;
    }
    Ok(())
}

fn describe(settings: &Settings) {
    let context = &settings.context;
    info!(module = %context.name, event = %context.event_id, base = %settings.layout.base().display(), "sidecar {}", env!("CARGO_PKG_VERSION"));
    if settings.event_types == EventTypes::Any {
        info!("--valideventtypes is not set: any event type is allowed");
    }
}

async fn submit(
    mut submission: Submission,
    values: Vec<String>,
    files: Vec<PathBuf>,
    unopened: &Unopened,
    plane: &sidecar_core::DataPlane,
) -> Result<u8, Failure> {
    for value in values {
        let Some((key, value)) = value.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(Failure::new(exit::CONFIGURATION, format!("--value {value:?} is not KEY=VALUE")));
        };
        submission = submission.value(key, value);
    }
    let unusable = |error: Error| match &error {
        Error::Invalid(problems) => {
            let lines: String = problems.iter().map(|problem| format!("\n  {problem}")).collect();
            Failure::new(exit::INPUTS_FAILED, format!("nothing was submitted:{lines}"))
        }
        other => Failure::new(exit::INPUTS_FAILED, other.chain()),
    };
    let stores = unopened.directories().into_iter().filter_map(|(_, dir)| dir.canonicalize().ok());
    let stores: Vec<_> = stores.collect();
    for path in files {
        if let Ok(real) = path.canonicalize()
            && let Some(dir) = stores.iter().find(|dir| dir.starts_with(&real))
        {
            let (path, dir) = (path.display(), dir.display());
            let message = format!("{path} holds the data plane itself, {dir}: name what lies beside it");
            return Err(Failure::new(exit::INPUTS_FAILED, message));
        }
        submission = submission.path(path).map_err(unusable)?;
    }
    let files = submission.files();
    let id = submission.submit(plane).await.map_err(|error| match error {
        invalid @ Error::Invalid(_) => unusable(invalid),
        other => Failure::at_done(&other),
    })?;
    info!(files, "submitted as event {id}");
    // The event is published; a reader that is gone does not undo it.
    let _ = writeln!(std::io::stdout(), "{id}");
    Ok(0)
}
