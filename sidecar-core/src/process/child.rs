//! A module's process, and everything that it starts.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
use tokio::process::Command;
use tokio::time::Instant;
use tracing::{Span, debug, warn};

use super::limits;
use super::output::Relays;
use super::reaper::Reaper;
use crate::contract::{Context, ModuleName, TraceParent};
use crate::execution::Session;
use crate::{is_dedicated, os};

use super::serve::Service;

/// A command to be run as a module, and how.
#[derive(Debug, Clone)]
pub struct Module {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// Whether the inputs are staged before it starts and the outputs committed when it has ended well: it need not
    /// call anybody.
    pub wrap: bool,
    /// The user and group that it runs as, if they are not the sidecar's; to change them takes a privilege.
    pub user: Option<(u32, u32)>,
    /// The variables that it does not inherit: settings and credentials of the sidecar.
    pub hidden: Vec<String>,
    /// Where and for how long it is served.
    pub service: Service,
    /// Where and with what it runs, where that is not the sidecar's own.
    pub surroundings: Surroundings,
}

/// Where and with what a module runs; by default in the sidecar's directory, with its environment and its output.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The working directory.
    pub directory: Option<PathBuf>,
    /// Variables besides those that it inherits.
    pub environment: Vec<(String, String)>,
    /// A directory for what it prints: a file for each event, called `EVENT.log`, to which each attempt appends; one
    /// for each slot, `slot-N.log`, of modules that stay.
    pub logs: Option<PathBuf>,
    /// Whether each line that it prints becomes a record of the log, where nothing else is to become of it.
    pub log_output: bool,
    /// Whether it works in the background: without input, and out of reach of the terminal, whose Ctrl-C is for whoever
    /// runs it.
    pub background: bool,
}

impl Surroundings {
    /// The file that takes what a module prints.
    fn log(&self, base: &Path, context: Option<&Context>) -> Option<PathBuf> {
        let name = match context {
            Some(context) => format!("{}.log", context.event_id),
            None => format!("slot-{}.log", base.file_name().unwrap_or_default().to_string_lossy()),
        };
        self.logs.as_ref().map(|dir| dir.join(name))
    }

    fn open_log(&self, base: &Path, context: Option<&Context>) -> io::Result<Option<File>> {
        let Some(path) = self.log(base, context) else { return Ok(None) };
        let open = || {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            File::options().create(true).append(true).open(&path)
        };
        // It is not the command that is missing.
        let failed = |error: io::Error| {
            let text = format!("its log {} cannot be opened: {error}", path.display());
            match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied => {
                    io::Error::other(text)
                }
                kind => io::Error::new(kind, text),
            }
        };
        open().map(Some).map_err(failed)
    }

    /// The last line that the module of an execution has printed, as a person may want to read it with the reason of a
    /// failure.
    pub(crate) fn last_line(&self, base: &Path, context: Option<&Context>) -> Option<String> {
        /// So much of a log is looked at, in bytes.
        const END: u64 = 4096;
        let mut log = File::open(self.log(base, context)?).ok()?;
        let length = log.metadata().ok()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(END))).ok()?;
        let mut end = Vec::new();
        log.take(END).read_to_end(&mut end).ok()?;
        let text = String::from_utf8_lossy(&end);
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
        Some(line.chars().filter(|c| !c.is_control()).take(200).collect())
    }
}

/// A module at work.
#[derive(Debug)]
pub(crate) struct Child {
    child: tokio::process::Child,
    pid: Option<Pid>,
    /// Whether it leads a process group of its own.
    leads: bool,
    relays: Relays,
    _reaper: Reaper,
}

impl Module {
    /// Starts the command; it inherits `lock`, and so does whatever it starts.
    pub(super) fn spawn(
        &self,
        session: &Session,
        traceparent: Option<TraceParent>,
        address: SocketAddr,
        lock: File,
    ) -> io::Result<Child> {
        let context = session.status().context;
        let base = session.layout().base();
        let span = session.span();
        self.start(base, &context.name, Some((&context, traceparent)), address, lock, &span)
    }

    /// The same for a module that works on one event after another, where there is no context.
    pub(crate) fn start(
        &self,
        base: &Path,
        name: &ModuleName,
        execution: Option<(&Context, Option<TraceParent>)>,
        address: SocketAddr,
        lock: File,
        span: &Span,
    ) -> io::Result<Child> {
        let [program, arguments @ ..] = &*self.command else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut command = Command::new(program);
        self.hidden.iter().for_each(|name| {
            command.env_remove(name);
        });
        let context = execution.as_ref().map(|(context, _)| *context);
        let Surroundings { directory, environment, .. } = &self.surroundings;
        if let Some(directory) = directory {
            command.current_dir(directory);
        }
        let log = self.surroundings.open_log(base, context)?;
        if log.is_some() || self.surroundings.background {
            command.stdin(Stdio::null());
        }
        if let Some(log) = log {
            command.stdout(log.try_clone()?).stderr(log);
        } else if self.surroundings.log_output {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        if self.service.listen.socket.is_none() {
            // The SDK prefers it to the port, and it is that of another sidecar.
            command.env_remove("SIDECAR_SOCKET");
        }
        command
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .env("SHARED_SECRET", &self.service.secret)
            .env("SIDECAR_PORT", address.port().to_string())
            // In its own working directory a relative one would be another.
            .env("SIDECAR_BASE_DIR", std::path::absolute(base)?)
            .env("SIDECAR_MODULE_NAME", name.as_str())
            .kill_on_drop(true);
        if let Some((Context { event_id, correlation_id, .. }, traceparent)) = execution {
            command.env("SIDECAR_EVENT_ID", event_id.as_str()).env("SIDECAR_CORRELATION_ID", correlation_id);
            if let Some(traceparent) = traceparent {
                // The name is that of OpenTelemetry's specification of environment variables as carriers.
                command.env("TRACEPARENT", traceparent.as_str());
            }
        }
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
            // The sidecar's own are another user's.
            let (name, home) = user_of(uid).unwrap_or_else(|| (uid.to_string(), "/".into()));
            command.env("HOME", home).env("USER", &name).env("LOGNAME", name);
        }
        // In a group of its own a module gets each signal once, from the sidecar, and is ended with all that it
        // started. With a terminal as its input it must stay in the foreground group, which the terminal signals.
        let leads = self.surroundings.background || !io::stdin().is_terminal();
        if leads {
            command.process_group(0);
        }
        // Descriptors of this process are closed in a new one, except where the flag is cleared: for this module alone.
        let (mut child, reaper) = {
            let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
            let lock = lock;
            fcntl_setfd(&lock, FdFlags::empty())?;
            Reaper::beside(|| limits::with_inherited(|| command.spawn()))?
        };
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let relays = Relays::start(&mut child, span);
        Ok(Child { child, pid, leads, relays, _reaper: reaper })
    }
}

/// How long a module is waited for in place.
const AT_ONCE: Duration = Duration::from_millis(2);

/// Held while a module is started, as long as there are descriptors that it inherits.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The name and the home directory of a user, as the machine's own list has them.
fn user_of(uid: u32) -> Option<(String, String)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| match *line.split(':').collect::<Vec<_>>() {
        [name, _, number, _, _, home, _] if number.parse() == Ok(uid) => Some((name.into(), home.into())),
        _ => None,
    })
}

impl Child {
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.relays.read_out().await;
        Ok(status)
    }

    /// Waits for one that ends at once, where that keeps nobody waiting: it is gone before this thread could be woken by
    /// others.
    pub(super) fn wait_in_place(&self) {
        if !is_dedicated() {
            return;
        }
        // Whether it has ended is asked for again.
        if let Some(pid) = self.pid {
            os::wait_for_end(pid, AT_ONCE);
        }
    }

    /// Passes a signal on, unless the terminal has sent it to the module already.
    pub(super) fn signal(&self, signal: Signal) {
        let by_terminal = matches!(signal, Signal::INT | Signal::QUIT);
        let Some(pid) = self.pid.filter(|_| self.child.id().is_some() && (self.leads || !by_terminal)) else {
            return;
        };
        debug!(?signal, "passing the signal on to the module");
        // To the group's leader alone: what it started is its own to tell, as in a shell.
        if let Err(error) = kill_process(pid, signal) {
            warn!(?signal, "the signal could not be passed on: {error}");
        }
    }

    /// Kills the module at once; what it started is left to [`end_descendants`](Self::end_descendants).
    pub(super) fn kill(&mut self) {
        // It may have ended at this very moment.
        let _ = self.child.start_kill();
    }

    /// Asks the module to end, and kills it if it has not after `grace`.
    pub(crate) async fn end(&mut self, grace: Duration) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(grace, self.wait()).await.is_err() {
            self.kill();
            let _ = self.wait().await;
        }
    }

    /// Whether processes of its group are there still after it has ended.
    pub(super) fn has_descendants(&self) -> bool {
        self.pid.filter(|_| self.leads).is_some_and(|group| test_kill_process_group(group).is_ok())
    }

    /// Ends what a module that was ended has left running: asked first, killed after `grace`.
    pub(crate) async fn end_descendants(&self, grace: Duration) {
        let Some(group) = self.pid.filter(|_| self.leads) else { return };
        let alive = || test_kill_process_group(group).is_ok();
        if !alive() {
            return;
        }
        // Whoever ends between the two calls needs no signal.
        let _ = kill_process_group(group, Signal::TERM);
        let deadline = Instant::now() + grace;
        while alive() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        if alive() {
            warn!("what the module started is killed: it did not end within {grace:?} after SIGTERM");
            let _ = kill_process_group(group, Signal::KILL);
            // The lock that it inherited is free once it is gone.
            while alive() && Instant::now() < deadline + Duration::from_secs(1) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

/// How soon descendants are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
