//! A sidecar and its module as one process to the outside.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;
use tracing::{Instrument, info, warn};

use super::child::{Child, Module};
use super::ended::{Ended, Stop};
use super::escaped;
use super::find::find;
use super::serve::{finish_within, outcome, silence};
use super::signals::Signals;
use crate::contract::Phase;
use crate::error::Error;
use crate::execution::Session;
use crate::server::{Listening, Secret, Sessions};
use crate::telemetry;

/// Serves on the side while the command runs, and settles the execution when it has ended.
pub async fn run(session: &Session, module: &Module, signals: &mut Signals) -> Ended {
    Run { session, module, served_at: None }.run(signals).await.unwrap_or_else(|ended| ended)
}

/// The same where the session is served already, at this address.
#[cfg(feature = "worker")]
pub(crate) async fn run_served(
    session: &Session,
    module: &Module,
    served_at: SocketAddr,
    signals: &mut Signals,
) -> Ended {
    let run = Run { session, module, served_at: Some(served_at) };
    run.run(signals).await.unwrap_or_else(|ended| ended)
}

struct Run<'r> {
    session: &'r Session,
    module: &'r Module,
    /// Where the module reaches the session, if it is served by somebody else.
    served_at: Option<SocketAddr>,
}

/// How the module's process ended.
#[derive(Debug)]
struct Exit {
    status: ExitStatus,
    /// The signal that had asked for it.
    told_by: Option<i32>,
    /// Whether processes of its group went on, and were ended.
    left_running: bool,
}

impl Run<'_> {
    async fn run(&self, signals: &mut Signals) -> Result<Ended, Ended> {
        let Self { session, module, served_at } = self;
        let phase = tokio::select! {
            phase = session.idle() => phase,
            signal = signals.end() => return Ok(self.stop(signal).await),
        };
        if phase == Phase::Done {
            let context = session.status().context;
            warn!(
                "module {} committed event {} before: nothing to do (--rerun runs it again; another module needs \
                 another --context.name)",
                context.name, context.event_id
            );
            return Ok(Ended::Committed);
        }
        if session.is_publishing() {
            // The module did its part before; starting it again could only confuse what is half published.
            return self.commit(signals).await;
        }
        let program = module.command.first().map_or(OsStr::new(""), |program| program);
        let not_started =
            |error| Ended::NotStarted { program: program.to_string_lossy().into_owned(), error };
        find(program).map_err(not_started)?;
        if module.wrap {
            tokio::select! {
                prepared = session.prepare() => if let Err(error) = prepared {
                    session.report_unless_repeated(&error).await;
                    return Err(Ended::NotPrepared(error));
                },
                signal = signals.end() => return Ok(self.stop(signal).await),
            };
        }
        let (address, serving) = match served_at {
            Some(address) => (*address, None),
            None => {
                let sessions = Sessions::one(Secret::new(&module.service.secret), (*session).clone());
                let serving =
                    Listening::start(sessions, &module.service.listen).await.map_err(Ended::Local)?;
                (serving.address(), Some(serving))
            }
        };
        let lock = session.lock_module().await.map_err(Ended::Local)?;
        let held = lock.metadata().map_err(|error| Ended::Local(Error::io("lock", "the module")(error)))?;
        let step = session.module_span();
        let traceparent = telemetry::traceparent(&step).or_else(|| session.traceparent());
        let child = module.spawn(session, traceparent, address, lock).map_err(not_started)?;
        let mut exit = self.watch(child, signals).instrument(step.clone()).await?;
        step.record("exit_code", exit.status.code());
        if !exit.status.success() {
            telemetry::failed(&step, &how(exit.status));
        }
        drop(step);
        if module.wrap && exit.told_by.is_none() && session.module_is_at_work().await {
            exit.left_running = true;
            escaped::end(&held, LEASE_GRACE).await;
        }
        if module.wrap && exit.left_running {
            warn!(
                "the module has ended while processes that it had started were at work: they are ended, and what \
                 they had not written is missing (wait for them before the module ends)"
            );
        }
        if exit.status.code().is_some() && exit.told_by.is_none() {
            // What it left running it left on purpose.
            session.forget_module().await;
        }
        let ended = self.settle(exit, signals).await;
        if let Some(serving) = serving {
            serving.stop(module.service.grace).await;
        }
        ended
    }

    async fn stop(&self, signal: i32) -> Ended {
        finish_within(self.session, self.module.service.grace, signal).await
    }

    /// Waits for the end of the process, passing signals on; one that is silent for longer than its lease is ended.
    async fn watch(&self, mut child: Child, signals: &mut Signals) -> Result<Exit, Ended> {
        let Self { session, module, .. } = self;
        child.wait_in_place();
        // Only from now on it can be silent.
        session.heartbeat();
        let (mut told_by, mut hung_up, mut deadline, mut told_of_staying) = (None, false, None, false);
        let overdue = |deadline: Option<Instant>| async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        loop {
            tokio::select! {
                status = child.wait() => {
                    let status = status.map_err(|error| {
                        Ended::Local(Error::io("wait for", "the module")(error))
                    })?;
                    // To many programs a hang-up is no end.
                    let hung_up = hung_up.then_some(Signal::HUP.as_raw()).filter(|_| status.signal().is_some());
                    let told_by = told_by.or(hung_up);
                    if told_by.is_some() {
                        let left = deadline.map(|deadline: Instant| deadline - Instant::now());
                        child.end_descendants(left.unwrap_or(module.service.grace)).await;
                    }
                    // What writes on while the outputs are committed, or into those of the next execution, is no
                    // output of either. Of a module that calls done itself, only it knows what goes on.
                    let left_running = told_by.is_none() && module.wrap && child.has_descendants();
                    if left_running {
                        child.end_descendants(LEASE_GRACE).await;
                    }
                    return Ok(Exit { status, told_by, left_running });
                }
                () = self.silent() => return Err(self.expired(&mut child).await),
                () = self.outstays(), if !told_of_staying => {
                    told_of_staying = true;
                    warn!(
                        "the module is {}, and its process goes on: the sidecar waits for its end (--module-timeout \
                         limits that)",
                        session.phase()
                    );
                }
                () = overdue(deadline) => {
                    warn!("the module is killed: it did not end within {:?} (--grace)", module.service.grace);
                    deadline = None;
                    child.kill();
                }
                signal = signals.next() => {
                    match signal {
                        Signal::HUP => hung_up = true,
                        Signal::INT if told_by == Some(Signal::INT.as_raw()) => {
                            warn!("the module is killed: the second Ctrl-C does not wait for it");
                            child.kill();
                            continue;
                        }
                        _ if Signals::ends(signal) => {
                            if told_by.is_none() {
                                let (grace, number) = (module.service.grace, signal.as_raw());
                                info!("passing signal {number} on to the module, which has {grace:?} to end (--grace)");
                            }
                            told_by.get_or_insert(signal.as_raw());
                            deadline.get_or_insert_with(|| Instant::now() + module.service.grace);
                        }
                        _ => {}
                    }
                    child.signal(signal);
                }
            }
        }
    }

    /// Waits until the module has been silent for too long, if that is limited.
    async fn silent(&self) {
        match self.module.service.lease {
            Some(lease) => self.session.process_silent_for(lease).await,
            None => std::future::pending().await,
        }
    }

    /// Waits until the execution has ended, and its module has not although it had the time.
    async fn outstays(&self) {
        self.session.ended().await;
        tokio::time::sleep(STAYS).await;
    }

    /// Ends a module that has lost its lease.
    async fn expired(&self, child: &mut Child) -> Ended {
        let Self { session, module, .. } = self;
        let reason = silence(module.service.lease.unwrap_or_default(), module.wrap);
        let gave_up = session.phase() == Phase::Failed;
        // It fails only if the module has called after all, or if the outcome may be decided.
        let failed = session.fail(reason.clone()).await;
        let grace = module.service.grace.min(LEASE_GRACE);
        child.end(grace).await;
        child.end_descendants(grace).await;
        if failed.is_err() && outcome(session, module.service.grace).await == Phase::Done {
            warn!("{reason}, after its outcome was decided");
            return Ended::Committed;
        }
        if gave_up {
            warn!("{reason}, after it had given up");
            return Ended::Failed { code: 1, reason: None };
        }
        Ended::Failed { code: 1, reason: Some(reason) }
    }

    /// What the module's end means for the execution.
    async fn settle(
        &self,
        Exit { status, told_by, .. }: Exit,
        signals: &mut Signals,
    ) -> Result<Ended, Ended> {
        let Self { session, module, served_at } = self;
        let out = session.layout().base().join("out");
        if !status.success() {
            let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
            let code = code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
            if let Some(signal) = told_by {
                // That is no failure of the module, and nothing keeps it from being run again.
                return Ok(match self.stop(signal).await {
                    Ended::Failed { reason, .. } => Ended::Failed { code, reason },
                    // What it had committed stays so, and its own code counts.
                    Ended::Committed => Ended::Failed { code, reason: None },
                    _ => Ended::Stopped(Stop { code: Some(code), signal }),
                });
            }
            // What it could do nothing about is not its own failure.
            if served_at.is_some()
                && let Some(error) = session.inputs_refused()
            {
                return Err(Ended::NotPrepared(error));
            }
            let reason = match session.last_error() {
                // It had done its work, and a store was away: somebody will be there when that is back.
                Some(error)
                    if served_at.is_some()
                        && matches!(*error, Error::Unavailable { .. } | Error::Refused { .. }) =>
                {
                    return Err(Ended::NotCommitted(error));
                }
                Some(error) => {
                    format!("the module ended with {} when done had failed: {}", how(status), error.chain())
                }
                None => {
                    let context = session.status().context;
                    let line = module.surroundings.last_line(session.layout().base(), Some(&context));
                    format!(
                        "the module ended with {}{}",
                        how(status),
                        line.map(|line| format!(": {line}")).unwrap_or_default()
                    )
                }
            };
            let mut failed = tokio::select! {
                failed = session.fail(reason.clone()) => failed,
                signal = signals.end() => return Ok(self.stop(signal).await),
            };
            if served_at.is_some() {
                // A disk that only this module has filled is its own fault.
                if let Err(error) = session.discard().await {
                    warn!("the slot could not be emptied: {}", error.chain());
                }
                if matches!(&failed, Err(error) if matches!(**error, Error::DiskFull { .. })) {
                    failed = session.fail(reason).await;
                }
            }
            match failed {
                // A module that fails on a full disk is not at fault.
                Ok(()) if served_at.is_some() && session.is_disk_full().await => {
                    let path = session.layout().base().to_owned();
                    return Err(Ended::NotCommitted(Arc::new(Error::DiskFull { action: "write", path })));
                }
                Err(error) if served_at.is_some() && matches!(*error, Error::DiskFull { .. }) => {
                    return Err(Ended::NotCommitted(error));
                }
                // Where one execution follows another, it is not left.
                Ok(()) if served_at.is_some() => {}
                Ok(()) => warn!("what it wrote is left in {}", out.display()),
                // It failed after its outputs were committed: then they stay so.
                Err(_) if session.is_publishing() => drop(self.commit(signals).await?),
                Err(_) if session.phase() == Phase::Done => {
                    warn!("the module ended with {} after it was done: {}", how(status), session.saved());
                }
                Err(error) => warn!("the failure could not be recorded: {}", error.chain()),
            }
            return Ok(Ended::Failed { code, reason: None });
        }
        if module.wrap && told_by.is_none() {
            let committed = session.phase() == Phase::Done;
            session.module_exited(0);
            let ended = self.commit(signals).await;
            if committed && std::fs::read_dir(out.join("data")).is_ok_and(|mut files| files.next().is_some())
            {
                let out = out.display();
                warn!(
                    "the module called done before it ended: what it wrote to {out} afterwards is not committed"
                );
            }
            return ended;
        }
        let phase = tokio::select! {
            phase = session.idle() => phase,
            signal = signals.end() => return Ok(self.stop(signal).await),
        };
        match (phase, session.last_error()) {
            (Phase::Done, _) => Ok(Ended::Committed),
            (Phase::Failed, _) => Ok(Ended::Failed { code: 1, reason: None }),
            // The module was told of an error and did not ask again.
            _ if session.is_publishing() => self.commit(signals).await,
            (_, Some(error)) => Err(self.refused(error).await),
            (_, None) if let Some(signal) = told_by => Ok(self.stop(signal).await),
            (_, None) => {
                let reason = "the module ended without calling done: nothing was committed (--wrap, or `wrap = true` in a pipeline, \
                     commits for it)";
                // It ends with the same code if that cannot be recorded.
                let _ = session.fail(reason).await;
                if served_at.is_none() {
                    warn!("what it wrote is left in {}", out.display());
                }
                Err(Ended::Failed { code: 1, reason: Some(reason.into()) })
            }
        }
    }

    /// Commits what the module wrote.
    async fn commit(&self, signals: &mut Signals) -> Result<Ended, Ended> {
        tokio::select! {
            done = self.session.commit() => match done {
                Ok(_) => Ok(Ended::Committed),
                Err(error) => Err(self.refused(error).await),
            },
            signal = signals.end() => Ok(self.stop(signal).await),
        }
    }

    async fn refused(&self, error: Arc<Error>) -> Ended {
        self.session.report_unless_repeated(&error).await;
        Ended::NotCommitted(error)
    }
}

/// How a process ended, in the words of the exit codes.
pub(crate) fn how(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit code {code}"),
        None => status.to_string(),
    }
}

/// How long a module may take to end after its last call before that is worth a word.
const STAYS: Duration = Duration::from_secs(30);

/// How long a module that lost its lease may take to end.
const LEASE_GRACE: Duration = Duration::from_secs(10);
