//! The sidecar as a program: configuration → log → data plane → session → serve, run or one shot.

mod again;
mod cli;
mod config;
mod config_file;
mod errors;
mod exit;
mod help;
mod install;
mod ion;
mod logging;
mod maintain;
mod options;
mod origins;
#[cfg(feature = "pipeline")]
mod pipeline;
mod plane;
mod progress;
#[cfg(feature = "pipeline")]
mod replay;
mod secrets;
mod status;
mod submit;
mod trace;
mod usage;
mod worker;

use std::io::Write;
use std::process::ExitCode;

use clap::FromArgMatches;
use clap::parser::ValueSource;
use sidecar_core::plane::Setting;
use sidecar_core::process::{self, Ended, Module, Signals, Surroundings};
use sidecar_core::{
    Context, DataPlane, Error, EventTypes, Phase, Remembered, Session, Settings, Start, publish_outcome,
};
use tracing::{debug, error, info, warn};

use crate::cli::{Cli, Command};
use crate::config::{Config, Mode};
use crate::exit::Failure;
use crate::origins::Origins;
use crate::progress::Bar;

fn main() -> ExitCode {
    // Before any secret is read: a module of the same user must not find it in /proc.
    process::hide_memory();
    #[cfg_attr(
        not(feature = "pipeline"),
        allow(unused_mut, reason = "only a pipeline has something to load")
    )]
    let (Cli { mut command, mut options, parent_is_empty, .. }, origins) = match parse_cli() {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    let mode = match &command {
        None => Mode::Serve,
        Some(Command::Run { command, .. }) => Mode::Run { name: process::module_name(command) },
        #[cfg(feature = "pipeline")]
        Some(Command::Pipeline(_)) => Mode::Pipeline,
        #[cfg(feature = "pipeline")]
        Some(Command::Replay(args)) => Mode::Worker { name: process::module_name(&args.command) },
        Some(Command::Worker(args)) => Mode::Worker { name: process::module_name(&args.command) },
        Some(Command::Prepare { .. } | Command::Commit) => Mode::OneShot,
        Some(
            Command::Submit { .. }
            | Command::Check
            | Command::Get { .. }
            | Command::Failures { .. }
            | Command::Trace(_)
            | Command::Dead { .. }
            | Command::Recover
            | Command::Gc { .. },
        ) => Mode::NoEvent,
        Some(Command::Help { topics }) => return help(topics),
        Some(Command::Status) => {
            return match status::run(options) {
                Ok(asked) => ended(asked),
                Err(errors) => configuration(&origins.locate(&errors)),
            };
        }
        Some(Command::Completions { shell, dir }) => {
            return ended(install::completions(*shell, dir.as_deref()).map(|()| 0));
        }
        Some(Command::Install { dir }) => {
            return ended(install::install(dir).map(|()| 0));
        }
    };
    if std::env::args_os().len() == 1 && options.all().all(Option::is_none) {
        eprintln!("{}", help::BEGIN);
        return ExitCode::from(exit::CONFIGURATION);
    }
    #[cfg(feature = "pipeline")]
    if matches!(&command, Some(Command::Replay(args)) if args.pipeline.is_some())
        && options.context_name.is_none()
    {
        return configuration(&["--context.name is required: which module of the pipeline?".into()]);
    }
    #[cfg(feature = "pipeline")]
    if matches!(&command, Some(Command::Replay(args)) if args.from.is_some()) && options.development.is_none()
    {
        // The file stands for both.
        options.documents.get_or_insert_with(|| "memory:".into());
        options.events.get_or_insert_with(|| "memory:".into());
    }
    if command.as_ref().is_some_and(Command::reads)
        && options.development.is_none()
        && options.events_file.is_none()
        && options.servicebuseventprovider.is_none()
    {
        // Whoever only reads needs no bus.
        options.events.get_or_insert_with(|| "memory:".into());
    }
    let reruns = matches!(command, Some(Command::Run { rerun: Some(_), .. }));
    if reruns && options.context_eventid.as_deref().unwrap_or_default().is_empty() {
        return configuration(&["--rerun: which execution? name its event with --context.eventid".into()]);
    }
    #[cfg(feature = "pipeline")]
    if let Some(Command::Pipeline(args)) = &mut command {
        match args.load() {
            Ok(true) => {}
            Ok(false) => return ExitCode::SUCCESS,
            Err(problems) => return configuration(&problems),
        }
    }
    let config = match Config::parse(options, &mode, parent_is_empty) {
        Ok(config) => config,
        Err(errors) => return configuration(&origins.locate(&errors)),
    };
    if config.print {
        let _ = write!(std::io::stdout(), "{}", config.describe());
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return configuration(&[format!("cannot start: {error}")]),
    };
    let traces = match logging::start(&config.log, runtime.handle()) {
        Ok(traces) => traces,
        Err(failure) => return configuration(&[failure.message]),
    };
    for (name, meant) in options::unknown_variables(&help::command()) {
        let meant = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
        warn!("the environment variable {name} is not a setting and is ignored{meant}");
    }
    process::raise_file_limit();
    let code = runtime.block_on(start(command, config)).unwrap_or_else(|failure| {
        failure.message.lines().for_each(|line| error!("{line}"));
        failure.code
    });
    traces.iter().for_each(logging::Traces::end);
    // A transfer that was cut short must not keep the process, and what still works must not find the timers gone.
    std::mem::forget(runtime);
    ExitCode::from(code)
}

/// The command line, with the settings of `--config` beneath it.
fn parse_cli() -> Result<(Cli, Origins), ExitCode> {
    let parse = |flags: Vec<String>, from_file: bool| {
        let mut arguments = std::env::args_os();
        let program = arguments.next().into_iter();
        let arguments = program.chain(flags.into_iter().map(Into::into)).chain(arguments);
        let matches = help::command().try_get_matches_from(arguments);
        let parsed = matches.and_then(|matches| {
            let mut cli = Cli::from_arg_matches(&matches)?;
            // An empty variable is no flag: it is how many environments spell "not set".
            let flag = matches.value_source("context_parenteventid") == Some(ValueSource::CommandLine);
            // A file of settings is for every command.
            if !from_file {
                usage::refuse_idle_settings(&matches)?;
                usage::refuse_empty_flags(&matches)?;
                usage::refuse_repeated_options(&matches, &std::env::args_os().collect::<Vec<_>>())?;
            }
            cli.parent_is_empty = flag && cli.options.context_parenteventid.as_deref() == Some("");
            Ok((cli, matches))
        });
        parsed.map_err(|error| {
            let arguments: Vec<_> = std::env::args_os().collect();
            if let Some(hint) = usage::hint(&error, &arguments) {
                return configuration(&[hint]);
            }
            // Where stdout or stderr is closed nobody can be told.
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { exit::CONFIGURATION } else { 0 })
        })
    };
    let (cli, matches) = parse(Vec::new(), false)?;
    let Some(file) = cli.options.config.as_ref().filter(|file| !file.is_empty()) else {
        return Ok((cli, Origins::new(&matches, None)));
    };
    let is_given =
        |id: &str| matches!(matches.try_get_one::<String>(id), Ok(Some(value)) if !value.is_empty());
    match config_file::flags(file, is_given) {
        Ok(flags) => {
            let origins = Origins::new(&matches, Some((file, &flags)));
            parse(flags, true).map(|(cli, _)| (cli, origins))
        }
        Err(errors) => Err(configuration(&errors)),
    }
}

fn help(topics: &[String]) -> ExitCode {
    match help::page(topics).map(|page| exit::print(page.trim_end())) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => ExitCode::from(failure.code),
        Err(problem) => configuration(&[problem]),
    }
}

/// How a command ended that has no log.
fn ended(result: Result<u8, Failure>) -> ExitCode {
    ExitCode::from(result.unwrap_or_else(|failure| {
        eprintln!("error: {}", failure.message);
        failure.code
    }))
}

fn configuration(errors: &[String]) -> ExitCode {
    if logging::is_json_wanted() {
        errors.iter().for_each(|error| eprintln!("{}", logging::json_line("error", error)));
        return ExitCode::from(exit::CONFIGURATION);
    }
    for error in errors {
        eprintln!("error: {error}");
    }
    eprintln!("sidecar --help lists the commands, and sidecar help settings all settings");
    ExitCode::from(exit::CONFIGURATION)
}

async fn start(command: Option<Command>, config: Config) -> Result<u8, Failure> {
    let reads = command.as_ref().is_some_and(Command::reads);
    let mut directories = config.plane.unopened.directories().into_iter();
    if command.as_ref().is_some_and(Command::needs_a_plane)
        && let Some((_, dir)) = directories.find(|(setting, _)| *setting == Setting::Documents)
    {
        match dir.try_exists() {
            Ok(true) => {}
            Ok(false) => {
                let message = format!("there is no data plane: {} does not exist", dir.display());
                return Err(Failure::new(exit::INPUTS_FAILED, message));
            }
            Err(error) => return Err(Failure::local(&Error::io("use", dir)(error))),
        }
    }
    // What takes long from here on has a name.
    let is_for_one =
        matches!(command, None | Some(Command::Run { .. } | Command::Prepare { .. } | Command::Commit));
    if let Some(settings) = config.settings.as_ref().filter(|_| is_for_one) {
        describe(settings);
    }
    let plane = config.plane.unopened.open().map_err(|error| Failure::at_start(&error))?;
    // Who only reads must not need the bus, nor the right to write.
    if !reads {
        let check = async { plane.check().await.map_err(|errors| Failure::at_check(&errors)) };
        if matches!(command, Some(Command::Worker(_))) {
            // From here on it catches signals itself, and whoever stops it has stopped it.
            let mut signals = Signals::catch().map_err(|error| {
                Failure::new(exit::LOCAL_FAILED, format!("cannot catch signals: {error}"))
            })?;
            tokio::select! {
                checked = check => checked?,
                signal = signals.end() => {
                    info!("received signal {signal} before the data plane could be used: nothing was begun");
                    return Ok(0);
                }
            }
        } else {
            check.await?;
        }
    }
    match command {
        Some(Command::Check) => {
            for provider in [plane.blobs.to_string(), plane.documents.to_string(), plane.events.to_string()] {
                info!("{provider}: usable");
            }
            return Ok(0);
        }
        Some(Command::Get { id, all, dir }) => return maintain::get(&plane, &id, all, dir).await,
        Some(Command::Trace(args)) => return trace::run(&plane, args).await,
        Some(Command::Failures { open, event }) => return maintain::failures(&plane, open, event).await,
        Some(Command::Dead { dead }) => return worker::dead(&plane, dead).await,
        Some(Command::Recover) => return maintain::recover(&plane).await,
        Some(Command::Gc { older_than, outcomes: true, delete, .. }) => {
            return maintain::expire(&plane, older_than, delete).await;
        }
        Some(Command::Gc { older_than, unknown, .. }) => {
            return maintain::gc(&plane, &older_than, unknown).await;
        }
        _ => {}
    }
    if let Some(Command::Submit { id, event_type, values, reference: references, files }) = command {
        let carried = submit::Carried { values, references, files };
        return submit::submit(id, event_type, carried, &config.plane.unopened, &plane).await;
    }
    let Some(mut settings) = config.settings else {
        return Err(Failure::new(exit::CONFIGURATION, "no context"));
    };
    #[cfg(feature = "pipeline")]
    if let Some(Command::Pipeline(args)) = command {
        let work = worker::Work { settings, service: config.service, hidden: config.plane.hidden, plane };
        return pipeline::run(*args, work).await;
    }
    #[cfg(feature = "pipeline")]
    if let Some(Command::Replay(args)) = command {
        let work = worker::Work { settings, service: config.service, hidden: config.plane.hidden, plane };
        return replay::run(*args, work).await;
    }
    if let Some(Command::Worker(args)) = command {
        let work = worker::Work { settings, service: config.service, hidden: config.plane.hidden, plane };
        return worker::run(*args, work, config.secrets).await;
    }
    // `run` and `prepare` are for a module that starts from the beginning; whoever else calls ready or done goes on where
    // they were.
    settings.start = match command {
        Some(Command::Run { rerun: Some(start), .. } | Command::Prepare { rerun: Some(start) }) => start,
        Some(Command::Run { .. } | Command::Prepare { .. }) => Start::Restart,
        _ => Start::Resume,
    };
    let user = settings.module_user.other();
    if matches!(command, Some(Command::Commit)) && !prepared(&settings, &plane).await? {
        return Ok(0);
    }
    if matches!(command, Some(Command::Prepare { .. })) {
        warn_of_another(&settings).await;
    }
    let session = Session::open(settings, plane).await.map_err(|error| Failure::at_open(&error))?;
    let half = matches!(command, Some(Command::Prepare { .. } | Command::Commit));
    if half && session.is_publishing() {
        // What was decided before is published first; then it is known.
        session.idle().await;
    }
    if session.phase() == Phase::Done && !matches!(command, Some(Command::Run { .. })) {
        let Context { name, event_id, .. } = session.status().context;
        if matches!(command, Some(Command::Commit)) {
            info!("module {name} has committed event {event_id} already");
        } else {
            warn!("module {name} committed event {event_id} before: what it writes now is not committed");
        }
    }
    if half && session.phase() != Phase::Done && !session.is_publishing() {
        // Beside a module of `run` that is still at work, its inputs or half of its outputs would be taken.
        drop(session.lock_module().await.map_err(|error| Failure::local(&error))?);
        session.forget_module().await;
    }
    let mut signals = Signals::catch()
        .map_err(|error| Failure::new(exit::LOCAL_FAILED, format!("cannot catch signals: {error}")))?;
    let bar = Bar::of(&session);
    let (service, hidden) = (config.service, config.plane.hidden);
    let ended = match command {
        Some(Command::Run { wrap, log_output, command, .. }) => {
            let surroundings = Surroundings { log_output, ..Surroundings::default() };
            let module = Module { command, wrap, user, hidden, service, surroundings };
            process::run(&session, &module, &mut signals).await
        }
        Some(Command::Prepare { .. }) => tokio::select! {
            prepared = session.prepare() => match prepared {
                Ok(_) => left_to_others(&session).await,
                Err(error) => {
                    session.report(&error).await;
                    Ended::NotPrepared(error)
                }
            },
            signal = signals.end() => process::stopped(&session, service.grace, signal).await,
        },
        Some(Command::Commit) => tokio::select! {
            done = session.commit() => match done {
                Ok(_) => Ended::Committed,
                Err(error) => {
                    session.report(&error).await;
                    Ended::NotCommitted(error)
                }
            },
            signal = signals.end() => process::stopped(&session, service.grace, signal).await,
        },
        _ => process::serve(&session, &service, &mut signals).await,
    };
    let code = exit::code(ended, &session.status().context);
    drop(bar);
    if let Err(error) = session.empty_trash().await {
        warn!("{}", error.chain());
    }
    code
}

/// Whoever starts the module is somebody else, and looks here for what is left of earlier ones.
async fn left_to_others(session: &Session) -> Ended {
    let previous = session.layout().base().join("out/.previous");
    if std::fs::read_dir(&previous).is_ok_and(|mut all| all.next().is_some()) {
        let previous = previous.display();
        info!("{previous} holds outputs of executions that were not committed; they stay there");
    }
    match session.leave_to_others().await {
        Ok(()) => Ended::Committed,
        Err(error) => Ended::Local(error),
    }
}

/// Nothing is locked between `prepare` and `commit`: two jobs in one directory would mix what they write.
async fn warn_of_another(settings: &Settings) {
    // `Session::open` reports one that cannot be read.
    if let Ok(Some(Remembered { context, is_committable: true, is_committed: false, .. })) =
        Session::remembered(settings).await
    {
        let base = settings.layout.base().display();
        warn!(
            "event {} of module {} was prepared in {base} and not committed: if its job is still at work, its outputs \
             will mix with these (flock keeps jobs apart)",
            context.event_id, context.name
        );
    }
}

/// `commit` goes on with what `prepare` began, or with a commit that was begun; it must not touch another execution, nor
/// take the half of what a module was writing. Whether there is anything to commit.
async fn prepared(settings: &Settings, plane: &DataPlane) -> Result<bool, Failure> {
    let found = Session::remembered(settings).await.map_err(|error| Failure::local(&error))?;
    let Settings { context, .. } = settings;
    let (event, module) = (&context.event_id, &context.name);
    let base = settings.layout.base().display();
    let found = match found {
        Some(Remembered { context: other, is_committable, failure, .. })
            if other.event_id == *event && other.name == *module =>
        {
            if is_committable {
                return Ok(true);
            }
            match failure {
                Some(reason) => format!("it failed in {base} ({reason}), and what it wrote stays there"),
                None => format!("its module had not finished in {base}"),
            }
        }
        Some(Remembered { context: other, .. }) => {
            format!("{base} was prepared for event {} of module {}", other.event_id, other.name)
        }
        None => format!("nothing was prepared in {base}"),
    };
    // A repeated step reports that all is done.
    if publish_outcome(plane, context).await.map_err(|error| Failure::at_done(&error))? {
        info!("module {module} has committed event {event} already");
        return Ok(false);
    }
    let prepare = again::again("prepare", context);
    let message =
        format!("cannot commit event {event} of module {module}: {found}; prepare it first: {prepare}");
    Err(Failure::new(exit::CONFIGURATION, message))
}

fn describe(settings: &Settings) {
    let context = &settings.context;
    let (base, version) = (settings.layout.base().display(), env!("CARGO_PKG_VERSION"));
    info!("sidecar {version}: module {}, event {}, base directory {base}", context.name, context.event_id);
    if settings.event_types == EventTypes::Any {
        debug!("--valideventtypes is not set: any event type is allowed");
    }
}
