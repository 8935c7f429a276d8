//! One execution of a module while something fails, and what must hold afterwards.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use sidecar_core::Event;

use crate::plane::{EVENT, Plane, walk};

/// How long a whole execution may take, failures included.
const DEADLINE: Duration = Duration::from_secs(180);
/// How long one answer is waited for; then the sidecar is killed, as an orchestrator would.
const ANSWER: Duration = Duration::from_secs(8);
/// After failing for so long the sidecar is started again, unless the trial says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(6);
/// The most memory a sidecar may have had, in MiB.
const CEILING: u64 = 150;

/// What the module does besides its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// It repeats its calls until they succeed.
    Patient,
    /// It breaks the connection while it waits, and calls again.
    Disconnects,
    /// It dies while it waits; another one is started in its place.
    Dies,
    /// It deletes the base directory before it begins.
    Wipes,
    /// It meets a full disk under the store, which is enlarged later.
    FullStore,
    /// It meets a full disk under its own directory, which is emptied later.
    FullBase,
}

/// What fails.
#[derive(Debug, Clone)]
pub struct Trial {
    /// The row of the table.
    pub fault: &'static str,
    /// Where it strikes.
    pub place: String,
    pub env: Vec<(&'static str, String)>,
    pub grace: &'static str,
    /// After failing for so long the sidecar is started again.
    pub patience: Duration,
    pub module: Module,
}

/// What an execution ended in.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub receipt: Value,
    /// The data plane, as far as it is files.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    pub events: Vec<Event>,
}

struct Sidecar {
    child: Child,
    url: String,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a sidecar; `None` when it ended before it served.
async fn start(plane: &Plane, trial: &Trial, failing: bool) -> Option<Sidecar> {
    let mut command = Command::new(crate::program::path());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SIDECAR_")) {
        command.env_remove(name);
    }
    command
        .current_dir(plane.dir.path())
        .args([&format!("--context.eventid={EVENT}"), "--context.name=m", "--context.correlationid=c"])
        .args([
            "--basedir=base",
            "--serverport=0",
            "--linger=0s",
            "--sharedsecret=s",
            "--valideventtypes=one,two",
        ])
        .args(["--retry-for=1s", "--timeout=1s", &format!("--grace={}", trial.grace)])
        .envs(plane.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if failing {
        command.envs(trial.env.iter().map(|(name, value)| (name, value)));
    }
    let mut child = command.spawn().unwrap();
    let stderr = child.stderr.take().unwrap();
    let (sender, mut line) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if line.contains("listening on http://") {
                let _ = sender.send(line);
            }
        }
    });
    // One that hangs before it serves is killed as well. Other trials go on meanwhile.
    let line = tokio::time::timeout(ANSWER, line.recv()).await.ok().flatten();
    let url = line.and_then(|line| Some(format!("http{}", line.split_once("http")?.1)));
    let sidecar = Sidecar { child, url: url.unwrap_or_default() };
    (!sidecar.url.is_empty()).then_some(sidecar)
}

/// Runs ready and done until both have succeeded, and checks everything that was promised.
pub async fn execute(plane: Arc<Plane>, trial: &Trial) -> Result<Outcome, String> {
    let watched = plane.clone();
    let watcher = tokio::spawn(async move { watch(&watched).await });
    let outcome = run(&plane, trial).await;
    watcher.abort();
    match watcher.await {
        Ok(violation) => Err(violation),
        Err(_) => outcome,
    }
}

async fn run(plane: &Plane, trial: &Trial) -> Result<Outcome, String> {
    let base = plane.dir.path().join("base");
    let full = Full::prepare(plane, trial.module)?;
    let started = Instant::now();
    let mut sidecar = start(plane, trial, true).await;
    if trial.module == Module::Wipes {
        let _ = std::fs::remove_dir_all(&base);
    }
    let client = reqwest::Client::new();
    let (mut receipt, mut peak) = (Value::Null, 0);
    for call in ["ready", "done"] {
        let (mut failing_since, mut disturbed) = (None, false);
        loop {
            if started.elapsed() > DEADLINE {
                return Err(format!("{call} did not succeed within {DEADLINE:?}"));
            }
            let Some(serving) = &sidecar else {
                sidecar = start(plane, trial, false).await;
                continue;
            };
            let request = client.get(format!("{}/{call}", serving.url)).header("secret", "s");
            let disturb = call == "done" && !disturbed;
            if disturb && matches!(trial.module, Module::Disconnects | Module::Dies) {
                disturbed = true;
                let _ = request.timeout(Duration::from_millis(5)).send().await;
                if trial.module == Module::Dies {
                    // Whoever is started in its place may come much later.
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                continue;
            }
            match request.timeout(ANSWER).send().await {
                Ok(answer) if answer.status() == 200 => {
                    peak = peak.max(memory(serving));
                    match answer.json().await {
                        Ok(body) => receipt = body,
                        Err(_) => continue,
                    }
                    break;
                }
                Ok(answer) if matches!(answer.status().as_u16(), 500 | 502 | 503 | 507) => {
                    if let Some(full) = &full {
                        full.mend();
                    }
                    let since = failing_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > trial.patience {
                        (sidecar, failing_since) = (None, None);
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Ok(answer) => {
                    let status = answer.status();
                    return Err(format!(
                        "{call} was answered {status}: {}",
                        answer.text().await.unwrap_or_default()
                    ));
                }
                // It died, or it is as good as dead.
                Err(_) => sidecar = None,
            }
        }
        if call == "ready" {
            let input = std::fs::read_to_string(base.join("in/data/deep/input.txt")).unwrap_or_default();
            let values = std::fs::read_to_string(base.join("in/meta.json")).unwrap_or_default();
            if input != "input" || !values.contains("\"v\"") {
                return Err("ready was answered and the inputs are not whole".into());
            }
            write_outputs(&base);
        }
    }
    drop(sidecar);
    again(plane, trial, &client, &receipt).await?;
    check(plane, trial, &receipt, peak).await
}

/// One more sidecar and one more done: the same receipt.
async fn again(
    plane: &Plane,
    trial: &Trial,
    client: &reqwest::Client,
    receipt: &Value,
) -> Result<(), String> {
    let mut sidecar = start(plane, trial, false).await.ok_or("it cannot be started again")?;
    let answer =
        client.get(format!("{}/done", sidecar.url)).header("secret", "s").timeout(ANSWER).send().await;
    let body: Value =
        answer.map_err(|error| error.to_string())?.json().await.map_err(|error| error.to_string())?;
    if body != *receipt {
        return Err(format!("a repeat was answered {body} instead of {receipt}"));
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while sidecar.child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            return Err("it does not end".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn check(plane: &Plane, trial: &Trial, receipt: &Value, peak: u64) -> Result<Outcome, String> {
    let events = plane.published().await;
    let ids = |events: Vec<&str>| {
        let mut ids: Vec<String> = events.into_iter().map(str::to_owned).collect();
        ids.sort();
        ids
    };
    let promised =
        ids(receipt["events"].as_array().unwrap().iter().map(|e| e["eventId"].as_str().unwrap()).collect());
    let found = ids(events.iter().map(|event| event.context.event_id.as_str()).collect());
    if promised != found || promised.len() != 2 {
        return Err(format!("the receipt has the events {promised:?} and the bus {found:?}"));
    }
    for event in &events {
        complete(plane, event).await?;
    }
    collect_garbage(plane)?;
    for event in &events {
        complete(plane, event).await?;
    }
    if peak > CEILING {
        return Err(format!("it took {peak} MiB"));
    }
    let mut left = BTreeMap::new();
    let base = plane.dir.path().join("base");
    walk(&base, &base, &mut left);
    let mut names: Vec<_> = left.keys().map(|name| name.display().to_string()).collect();
    names.retain(|name| name != ".sidecar/journal.json" && name != ".sidecar/lock");
    if names != ["in/data/deep/input.txt", "in/meta.json"] && trial.module != Module::Wipes {
        return Err(format!("this is left in the base directory: {names:?}"));
    }
    let mut events = events;
    events.sort_by_key(|event| event.context.event_id.as_str().to_owned());
    Ok(Outcome { receipt: receipt.clone(), files: plane.files(), events })
}

/// What died before its outcome was decided may have left a proposal that nobody names.
fn collect_garbage(plane: &Plane) -> Result<(), String> {
    let mut command = Command::new(crate::program::path());
    command.current_dir(plane.dir.path()).arg("gc");
    command.envs(plane.env.iter().map(|(name, value)| (name, value)));
    let ended = command.output().unwrap();
    match ended.status.success() {
        true => Ok(()),
        false => Err(format!("gc failed: {}", String::from_utf8_lossy(&ended.stderr))),
    }
}

/// Looks at the bus again and again: an event that is visible must be complete.
async fn watch(plane: &Plane) -> String {
    let mut seen = Vec::new();
    loop {
        for event in plane.published().await {
            if !seen.contains(&event.context.event_id) {
                if let Err(problem) = complete(plane, &event).await {
                    return format!("an event was visible too early: {problem}");
                }
                seen.push(event.context.event_id);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether everything that the event stands for is there.
async fn complete(plane: &Plane, event: &Event) -> Result<(), String> {
    let id = &event.context.event_id;
    let context = plane.context(id).await.ok_or_else(|| format!("event {id} has no context"))?;
    if context.blobs.len() != context.files.len() || context.blobs.is_empty() {
        return Err(format!("event {id} has files without blobs"));
    }
    for blob in &context.blobs {
        let content =
            plane.content(blob).await.ok_or_else(|| format!("{} is missing or damaged", blob.key))?;
        if content != content_of(blob.name.as_str()) {
            return Err(format!("{} has another content", blob.key));
        }
    }
    Ok(())
}

fn content_of(name: &str) -> Vec<u8> {
    match name {
        "big" => (0..3 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 9) as u8).collect(),
        name => name.as_bytes().to_vec(),
    }
}

fn write_outputs(base: &std::path::Path) {
    let event = |kind: &str, files: &str| {
        serde_json::json!([{"key": "eventType", "value": kind}, {"key": "files", "value": files}]).to_string()
    };
    for (name, content) in [
        ("data/a/x", content_of("a/x")),
        ("data/b/x", content_of("b/x")),
        ("data/big", content_of("big")),
        ("meta.json", br#"[{"key":"k","value":"v"}]"#.to_vec()),
        ("events/1.json", event("one", "a/x,b/x,big").into_bytes()),
        ("events/2.json", event("two", "b/x").into_bytes()),
    ] {
        let path = base.join("out").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

/// Peak resident memory so far, in MiB.
fn memory(sidecar: &Sidecar) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// A small file system that is full.
struct Full {
    at: PathBuf,
}

impl Full {
    /// Mounts it; needs root.
    fn prepare(plane: &Plane, module: Module) -> Result<Option<Self>, String> {
        let (at, size) = match module {
            // Of the outputs there is room for a part.
            Module::FullStore => (plane.dir.path().join("plane/blobs"), "2m"),
            Module::FullBase => (plane.dir.path().join("base"), "8k"),
            _ => return Ok(None),
        };
        std::fs::create_dir_all(&at).unwrap();
        let mut stored = BTreeMap::new();
        walk(&at, &at, &mut stored);
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&at)
            .stderr(Stdio::null())
            .status();
        if !mount.is_ok_and(|status| status.success()) {
            return Err(NO_MOUNT.into());
        }
        // What was there before is hidden by now.
        for (name, content) in stored {
            let path = at.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        Ok(Some(Self { at }))
    }

    /// Makes room.
    fn mend(&self) {
        let _ = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&self.at).status();
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

/// Why a trial with a full disk is left out.
pub const NO_MOUNT: &str = "a small file system cannot be mounted without root";
