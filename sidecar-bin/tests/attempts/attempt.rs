//! One attempt: `sidecar run` with a module, on directories of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::plane::{EVENT, Plane};
use crate::program;

/// How long an attempt may take, failures included.
const DEADLINE: Duration = Duration::from_secs(90);
/// How often a process is looked at.
const TICK: Duration = Duration::from_millis(1);
/// The exit codes of an attempt that says what it lacks: inputs, a provider, its disk.
const CLEAR: [i32; 3] = [66, 69, 71];
/// The module. Every byte and every value that it writes is its first argument.
const MODULE: &str = r#"
set -e
cd "$SIDECAR_BASE_DIR/out"
mkdir -p data/a data/b events
fill() { head -c "$1" /dev/zero | tr '\0' "$2"; }
fill 10 "$1" > data/a/x
fill 20 "$1" > data/b/x
fill 3145728 "$1" > data/big
{ printf '[{"key":"who","value":"'; fill 540000 "$1"; printf '"}]'; } > meta.json
event() {
  printf '[{"key":"eventType","value":"%s"},{"key":"files","value":"%s"},{"key":"who","value":"%s"}]' "$@"
}
event one a/x,b/x,big "$1" > events/1.json
event two b/x "$1" > events/2.json
"#;
/// The files that the module writes, with their sizes.
pub const FILES: [(&str, usize); 3] = [("a/x", 10), ("b/x", 20), ("big", 3 << 20)];

/// Where an attempt is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// A line of the trace.
    line: String,
    /// How often it is passed before.
    count: usize,
}

impl Place {
    /// The places of a whole execution, in their order.
    pub fn all(trace: &str) -> Vec<Self> {
        let mut counts = BTreeMap::<&str, usize>::new();
        let place = |line| {
            let count = counts.entry(line).or_default();
            *count += 1;
            Self { line: line.to_owned(), count: *count }
        };
        trace.lines().map(place).collect()
    }

    fn call(&self) -> Option<&str> {
        self.line.strip_prefix("call ")
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.line, self.count)
    }
}

/// What becomes of an attempt that was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It is killed. A call at which it is held has no effect and no answer.
    Dies,
    /// It goes on. A call at which it is held may have taken effect, or even have been answered.
    GoesOn,
    /// It is not held, and loses a store from outside.
    IsCutOff,
}

/// An attempt at work.
pub struct Attempt {
    name: String,
    dir: PathBuf,
    child: Child,
    place: Option<Place>,
    asked_to_stop: bool,
}

/// An attempt that has ended.
#[derive(Debug)]
pub struct Ended {
    pub name: String,
    pub code: Option<i32>,
    /// What it answered its module, as its journal remembers it.
    pub receipt: Value,
    log: String,
}

impl Attempt {
    /// Starts an attempt whose module writes the first letter of `name`; it is held at the place, if there is one.
    pub fn start(plane: &Plane, name: &str, place: Option<(&Place, Then)>, flags: &[&str]) -> Self {
        let dir = directory(plane, name);
        std::fs::create_dir_all(&dir).unwrap();
        let mut command = sidecar(plane);
        command
            .args(["run", "--wrap", &format!("--context.eventid={EVENT}"), "--context.name=m"])
            .args(["--serverport=0", "--linger=0s", "--sharedsecret=s", "--valideventtypes=one,two"])
            .args(["--retry-for=20s", "--timeout=2s", "--grace=30s"])
            .arg(format!("--basedir={}", dir.join("base").display()))
            .arg(format!("--statedir={}", dir.join("state").display()))
            .args(flags)
            .args(["--", "sh", "-c", MODULE, "module", &name[..1]])
            .env("SIDECAR_FAULT_TRACE", dir.join("trace"));
        match place.map(|(place, then)| (place, place.call(), then)) {
            Some((place, Some(call), Then::Dies)) => {
                command
                    .env("SIDECAR_FAULT_CALL", format!("{call} {}", place.count))
                    .env("SIDECAR_FAULT_INJECT", "hang");
            }
            Some((_, _, Then::IsCutOff)) => {}
            Some((place, None, _)) => {
                command.env("SIDECAR_FAULT_AT", place.to_string()).env("SIDECAR_FAULT_SIGNAL", "STOP");
            }
            Some((_, Some(_), Then::GoesOn)) | None => {}
        }
        let place = place.map(|(place, _)| place.clone());
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { name: name.to_owned(), dir, child, place, asked_to_stop: false }
    }

    /// Waits until it is stopped at its place.
    ///
    /// # Errors
    /// When it ends before it comes there; at a call that does not hang it may have been too fast.
    pub async fn held(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + DEADLINE;
        let is_call = self.place.as_ref().is_some_and(|place| place.call().is_some());
        while !self.is_stopped() {
            if self.child.try_wait().unwrap().is_some() {
                return match is_call && self.has_passed() {
                    true => Ok(()),
                    false => Err(format!("{} ended before it came to its place:\n{}", self.name, self.log())),
                };
            }
            // At a call it is stopped from here.
            if is_call && !self.asked_to_stop && self.has_passed() {
                self.signal(Signal::STOP);
                self.asked_to_stop = true;
            }
            self.in_time(deadline)?;
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    /// Waits until it has passed its place, or has ended.
    pub async fn passes(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + DEADLINE;
        while !self.has_passed() && self.child.try_wait().unwrap().is_none() {
            self.in_time(deadline)?;
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn go_on(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.signal(Signal::CONT);
        }
    }

    /// Ends it as the loss of its machine does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub async fn end(mut self) -> Result<Ended, String> {
        let deadline = Instant::now() + DEADLINE;
        let status: ExitStatus = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            self.in_time(deadline)?;
            tokio::time::sleep(TICK).await;
        };
        let journal = std::fs::read_to_string(self.dir.join("state/journal.json")).unwrap_or_default();
        let journal: Value = serde_json::from_str(&journal).unwrap_or_default();
        let receipt = journal["step"]["done"]["receipt"].clone();
        Ok(Ended { name: self.name.clone(), code: status.code(), receipt, log: self.log() })
    }

    /// Holds it at its place for a while, if it comes there, and waits for its end.
    pub async fn end_after(mut self, held: Duration) -> Result<Ended, String> {
        if self.held().await.is_ok() {
            tokio::time::sleep(held).await;
            self.go_on();
        }
        self.end().await
    }

    fn signal(&self, signal: Signal) {
        // Its id is not taken by another process: it has not been waited for.
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    }

    fn has_passed(&self) -> bool {
        let Some(place) = &self.place else { return false };
        self.trace().lines().filter(|line| *line == place.line).count() >= place.count
    }

    fn trace(&self) -> String {
        std::fs::read_to_string(self.dir.join("trace")).unwrap_or_default()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn in_time(&self, deadline: Instant) -> Result<(), String> {
        match Instant::now() < deadline {
            true => Ok(()),
            false => Err(format!("{} did not end within {DEADLINE:?}:\n{}", self.name, self.log())),
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The attempt, if it committed.
    pub fn committed(self) -> Result<Self, String> {
        match self.code {
            Some(0) => Ok(self),
            code => Err(format!("{} ended with {code:?}:\n{}", self.name, self.log)),
        }
    }

    /// The attempt, if it committed or says why it did not.
    pub fn committed_or_clear(self) -> Result<Self, String> {
        match self.code {
            Some(code) if CLEAR.contains(&code) && !self.log.contains("panicked") => {
                // It is allowed, and worth knowing.
                println!("{} did not commit, and ended with {code}:\n{}", self.name, self.log);
                Ok(self)
            }
            _ => self.committed(),
        }
    }
}

/// Where the directories of an attempt are.
pub fn directory(plane: &Plane, name: &str) -> PathBuf {
    plane.dir.path().join("attempts").join(name)
}

/// Runs a command of the sidecar on the data plane to its end.
pub async fn maintain(plane: &Plane, arguments: &[&str]) -> Result<(), String> {
    let mut command = tokio::process::Command::from(sidecar(plane));
    let output = command.args(arguments).output().await.unwrap();
    match output.status.success() {
        true => Ok(()),
        false => {
            Err(format!("{arguments:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
        }
    }
}

fn sidecar(plane: &Plane) -> Command {
    let mut command = Command::new(program::path());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SIDECAR_")) {
        command.env_remove(name);
    }
    command
        .current_dir(plane.dir.path())
        .envs(plane.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null());
    command
}
