//! `sidecar run`: a sidecar and its module as one process to the outside.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};
use sidecar_core::server::Listening;
use sidecar_core::{Error, Phase, Session};
use tokio::process::{Child, Command};
use tracing::{debug, warn};

use crate::config::Server;
use crate::exit::{self, Failure};
use crate::one_shot;
use crate::progress::Bar;
use crate::serve::{abandoned, finish_within_grace, listen, outcome, silence};
use crate::signals::Signals;

/// The module's name where none is given: that of its script, or of its command.
pub(crate) fn module_name(command: &[OsString]) -> String {
    let is_script = |part: &&Path| part.extension().is_some() && part.is_file();
    let script = command.iter().skip(1).map(Path::new).find(is_script);
    let named = script.or_else(|| command.first().map(Path::new)).and_then(Path::file_stem);
    named.map_or_else(|| "module".into(), |stem| stem.to_string_lossy().into_owned())
}

/// Serves on the side while the command runs, and exits with its code.
///
/// # Errors
/// With the code that says which part failed.
pub(crate) async fn run(
    session: &Session,
    config: &Server,
    command: &[OsString],
    wrap: bool,
    bar: &Bar,
    signals: &mut Signals,
) -> Result<u8, Failure> {
    let phase = tokio::select! {
        phase = session.idle() => phase,
        _ = signals.end() => return Ok(finish_within_grace(session, config).await),
    };
    if phase == Phase::Done {
        let context = session.status().context;
        let (event, module) = (&context.event_id, &context.name);
        warn!(
            "module {module} committed event {event} before: nothing to do (--rerun runs it again; another \
             module needs another --context.name)"
        );
        return Ok(0);
    }
    if session.is_publishing() {
        // The module did its part before; starting it again could only confuse what is half published.
        return commit(session, config, signals).await;
    }
    if wrap {
        tokio::select! {
            prepared = one_shot::ready(session) => {
                if let Err(error) = prepared {
                    session.report(&error).await;
                    return Err(Failure::at_ready(&error));
                }
            }
            _ = signals.end() => return Ok(finish_within_grace(session, config).await),
        };
    }
    bar.clear();
    let serving = listen(session, config).await?;
    let ended = module(session, config, command, wrap, &serving, signals).await?;
    if ended.status.code().is_some() && !ended.told_to_end {
        // What it left running it left on purpose; what outlives one that was ended must end first.
        session.forget_module().await;
    }
    let code = finish(session, ended, wrap, config, signals).await;
    serving.stop(config.grace).await;
    code
}

/// Runs the command to its end, passing signals on; one that is silent for longer than its lease is ended.
async fn module(
    session: &Session,
    config: &Server,
    command: &[OsString],
    wrap: bool,
    serving: &Listening,
    signals: &mut Signals,
) -> Result<Ended, Failure> {
    let [program, arguments @ ..] = command else {
        return Err(Failure::new(exit::CONFIGURATION, "run: no command"));
    };
    let mut command = Command::new(program);
    // The sidecar's settings, credentials among them, are none of the module's business.
    let private = ["SIDECAR_"].into_iter().chain(config.credential_variables);
    for (name, _) in std::env::vars_os() {
        if private.clone().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
            command.env_remove(name);
        }
    }
    command
        .args(arguments)
        .env("SHARED_SECRET", &config.secret)
        .env("SIDECAR_PORT", serving.address().port().to_string())
        .env("SIDECAR_BASE_DIR", session.layout().base())
        .kill_on_drop(true);
    let lock = session.lock_module().await.map_err(|error| Failure::local(&error))?;
    // What this process opens is not inherited unless it is told to be.
    fcntl_setfd(&lock, FdFlags::empty())
        .map_err(|error| Failure::new(exit::LOCAL_FAILED, format!("cannot lock for the module: {error}")))?;
    let mut child = command.spawn().map_err(|error| {
        let program = Path::new(program).display();
        Failure::new(exit::CONFIGURATION, format!("cannot start {program}: {error}"))
    })?;
    // From here on it is in the hands of the module.
    drop(lock);
    // Only from now on it can be silent.
    session.heartbeat();
    // A terminal sends Ctrl-C to the module itself, which is in the same process group.
    let interactive = std::io::stdin().is_terminal();
    let (mut asked, mut only_hung_up) = (false, true);
    loop {
        tokio::select! {
            status = child.wait() => {
                let status = status.map_err(|error| {
                    Failure::new(exit::LOCAL_FAILED, format!("cannot wait for the module: {error}"))
                })?;
                // To many programs a hang-up is no end.
                let told_to_end = asked && (!only_hung_up || status.signal().is_some());
                return Ok(Ended { status, told_to_end });
            }
            () = abandoned(session, config) => {
                let reason = silence(config, wrap);
                // It fails only if the module has called after all, or if the outcome may be decided.
                let failed = session.fail(reason.clone()).await;
                pass_on(&child, Signal::TERM);
                if tokio::time::timeout(config.grace.min(MODULE_GRACE), child.wait()).await.is_err() {
                    // It may have ended at this very moment.
                    let _ = child.kill().await;
                }
                if failed.is_err() && outcome(session, config).await == Phase::Done {
                    return Err(Failure::new(0, format!("{reason}, after its outcome was decided")));
                }
                return Err(Failure::new(exit::MODULE_FAILED, reason));
            }
            signal = signals.next() => {
                asked |= Signals::ends(signal);
                only_hung_up &= signal == Signal::HUP || !Signals::ends(signal);
                if !(interactive && signal == Signal::INT) {
                    pass_on(&child, signal);
                }
            }
        }
    }
}

/// How the module ended.
#[derive(Debug)]
struct Ended {
    status: ExitStatus,
    /// Whether a signal had asked for it.
    told_to_end: bool,
}

/// How long a module that lost its lease may take to end.
const MODULE_GRACE: Duration = Duration::from_secs(10);

fn pass_on(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        debug!(?signal, "passing the signal on to the module");
        if let Err(error) = kill_process(pid, signal) {
            warn!(?signal, "the signal could not be passed on: {error}");
        }
    }
}

/// What the module's end means for the execution.
async fn finish(
    session: &Session,
    Ended { status, told_to_end }: Ended,
    wrap: bool,
    config: &Server,
    signals: &mut Signals,
) -> Result<u8, Failure> {
    let out = session.layout().base().join("out");
    if !status.success() {
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        let code = code.and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::MODULE_FAILED);
        if told_to_end {
            // That is no failure of the module, and nothing keeps it from being run again.
            finish_within_grace(session, config).await;
            return Ok(code);
        }
        let reason = match session.last_error() {
            Some(error) => format!("the module ended with {status} when done had failed: {}", error.chain()),
            None => format!("the module ended with {status}"),
        };
        let failed = tokio::select! {
            failed = session.fail(reason) => failed,
            _ = signals.end() => return Ok(finish_within_grace(session, config).await),
        };
        match failed {
            Ok(()) => warn!("what it wrote is left in {}", out.display()),
            // It failed after its outputs were committed: then they stay so.
            Err(_) if session.is_publishing() => drop(commit(session, config, signals).await?),
            Err(_) if session.phase() == Phase::Done => {
                warn!("the module ended with {status} after it was done: {}", session.saved());
            }
            Err(error) => warn!("the failure could not be recorded: {}", error.chain()),
        }
        return Ok(code);
    }
    if wrap && !told_to_end {
        session.module_exited(0);
        return commit(session, config, signals).await;
    }
    let phase = tokio::select! {
        phase = session.idle() => phase,
        _ = signals.end() => return Ok(finish_within_grace(session, config).await),
    };
    match (phase, session.last_error()) {
        (Phase::Done, _) => Ok(0),
        (Phase::Failed, _) => Ok(exit::MODULE_FAILED),
        // The module was told of an error and did not ask again.
        _ if session.is_publishing() => commit(session, config, signals).await,
        (_, Some(error)) => Err(refused(session, &error).await),
        (_, None) if told_to_end => Ok(finish_within_grace(session, config).await),
        (_, None) => {
            let reason =
                "the module ended without calling done: nothing was committed (--wrap commits for it)";
            // It ends with the same code if that cannot be recorded.
            let _ = session.fail(reason).await;
            warn!("what it wrote is left in {}", out.display());
            Err(Failure::new(exit::MODULE_FAILED, reason))
        }
    }
}

/// Commits what the module wrote, and says how to go on where that cannot be.
async fn commit(session: &Session, config: &Server, signals: &mut Signals) -> Result<u8, Failure> {
    tokio::select! {
        done = one_shot::done(session) => match done {
            Ok(_) => Ok(0),
            Err(error) => Err(refused(session, &error).await),
        },
        _ = signals.end() => Ok(finish_within_grace(session, config).await),
    }
}

/// Why nothing is committed, and the command that commits what the module wrote.
async fn refused(session: &Session, error: &Error) -> Failure {
    session.report(error).await;
    let Failure { code, message } = Failure::at_done(error);
    let context = session.status().context;
    Failure::new(
        code,
        format!(
            "{message}; with the other settings as they were: sidecar commit --context.name={} --context.eventid={}",
            context.name, context.event_id
        ),
    )
}
