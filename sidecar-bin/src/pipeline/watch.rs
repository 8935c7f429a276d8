//! A folder whose files become events.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sidecar_core::blob::Source;
use sidecar_core::documents::Documents as _;
use sidecar_core::{DataPlane, Error, Event, EventContext, EventId, KeyValuePairs, Submission};
use tokio::sync::watch;
use tracing::{info, warn};
use uuid::Uuid;

use crate::exit::{self, Failure};

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How soon a file is submitted again that could not be.
const AGAIN: Duration = Duration::from_secs(5);

/// The ids of files: the same for the same content under the same name, so that a restart submits nothing twice.
const FILES: Uuid = Uuid::from_u128(0x0b0f_3f0a_58a5_4f2e_a2c8_77b3_9f44_1d02);

/// What changes with the content of a file: its size, when it was changed, and which file it is.
type State = (u64, i64, i64, u64);

/// A file that is not submitted.
struct Waiting {
    why: String,
    /// When it is tried again; never, where nothing comes of it as long as it is what it is.
    again: Option<Instant>,
}

/// The value that says where a file lies below the watched folder.
const PATH: &str = "path";

/// The folder, and what became of its files.
pub(super) struct Watch {
    dir: PathBuf,
    event_type: String,
    values: Vec<(String, String)>,
    /// A file counts as whole when it has not changed for so long.
    settle: Duration,
    /// What was submitted in this run, for whoever tells of it in the end.
    submitted: watch::Sender<Vec<(EventId, PathBuf)>>,
    waiting: watch::Sender<HashMap<PathBuf, Waiting>>,
}

impl Watch {
    /// A folder that is there, and has nothing to do with the directories that the pipeline itself writes to.
    ///
    /// # Errors
    /// When it cannot be read, or would feed itself.
    pub(super) fn new(
        dir: &Path,
        event_type: String,
        values: Vec<(String, String)>,
        settle: Duration,
        written: &[PathBuf],
    ) -> Result<Self, Failure> {
        std::fs::read_dir(dir).map_err(|error| unreadable(dir, &error))?;
        let real = dir.canonicalize().map_err(|error| unreadable(dir, &error))?;
        for other in written.iter().filter_map(|other| other.canonicalize().ok()) {
            if other.starts_with(&real) || real.starts_with(&other) {
                let message = format!(
                    "--watch {}: the pipeline writes to {}: watch a folder beside it",
                    dir.display(),
                    other.display()
                );
                return Err(Failure::new(exit::CONFIGURATION, message));
            }
        }
        let dir = std::path::absolute(dir).map_err(|error| unreadable(dir, &error))?;
        let (submitted, waiting) = (watch::Sender::default(), watch::Sender::default());
        Ok(Self { dir, event_type, values, settle, submitted, waiting })
    }

    /// The events of this run, each with its file, below the folder.
    pub(super) fn submitted(&self) -> Vec<(EventId, PathBuf)> {
        self.submitted.borrow().clone()
    }

    /// Files that could not be submitted, each with the reason.
    pub(super) fn left(&self) -> Vec<(PathBuf, String)> {
        let mut left: Vec<_> =
            self.waiting.borrow().iter().map(|(path, file)| (path.clone(), file.why.clone())).collect();
        left.sort();
        left
    }

    /// Submits each file that lies in the folder, or below it, or appears there. It ends only with an error.
    pub(super) async fn run(&self, plane: &DataPlane) -> Failure {
        let mut seen = HashMap::<PathBuf, (State, Instant)>::new();
        let mut done = HashMap::<PathBuf, State>::new();
        let (mut told, mut begun) = (HashSet::new(), HashSet::new());
        loop {
            let now = match files(&self.dir, &mut told) {
                Ok(now) => now,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    if told.insert(self.dir.clone()) {
                        warn!("--watch {} is not there: it is waited for", self.dir.display());
                    }
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
                Err(error) => return unreadable(&self.dir, &error),
            };
            told.remove(&self.dir);
            let was = std::mem::take(&mut seen);
            seen.extend(now.iter().map(|(path, state)| match was.get(path) {
                Some((before, since)) if before == state => (path.clone(), (*state, *since)),
                _ => (path.clone(), (*state, Instant::now())),
            }));
            for (path, state) in &now {
                let is_whole = seen.get(path).is_some_and(|(_, since)| since.elapsed() >= self.settle);
                let is_due = || match self.waiting.borrow().get(path) {
                    Some(Waiting { again, .. }) => again.is_some_and(|again| again <= Instant::now()),
                    None => true,
                };
                if !is_whole {
                    // It is another file now.
                    self.waiting.send_modify(|waiting| drop(waiting.remove(path)));
                } else if done.get(path) != Some(state)
                    && is_due()
                    && self.submit(path, plane, &mut begun).await
                {
                    done.insert(path.clone(), *state);
                }
            }
            self.waiting.send_modify(|waiting| waiting.retain(|path, _| now.contains_key(path)));
            done.retain(|path, _| now.contains_key(path));
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Submits a file; whether it is. `begun` are the events of which this run has stored the first part.
    async fn submit(&self, path: &Path, plane: &DataPlane, begun: &mut HashSet<EventId>) -> bool {
        let name = path.strip_prefix(&self.dir).unwrap_or(path);
        match self.submitted_as(path, plane, begun).await {
            Ok(id) => {
                if begun.remove(&id) {
                    info!("submitted {} as event {id}", name.display());
                    self.submitted.send_modify(|all| all.push((id, name.to_owned())));
                }
                self.waiting.send_modify(|waiting| drop(waiting.remove(path)));
                true
            }
            Err(error) => {
                let (why, is_final) = match &error {
                    // No module has anything to do with it.
                    Error::Submission(problems) => {
                        let problems: Vec<_> =
                            problems.iter().map(|problem| problem.message.as_str()).collect();
                        (problems.join("; "), true)
                    }
                    error => (error.chain(), false),
                };
                if self.waiting.borrow().get(path).is_none_or(|file| file.why != why) {
                    let next = if is_final { "until it changes" } else { "yet" };
                    warn!("{} is not submitted {next}: {why}", name.display());
                }
                let again = (!is_final).then(|| Instant::now() + AGAIN);
                self.waiting
                    .send_modify(|waiting| drop(waiting.insert(path.to_owned(), Waiting { why, again })));
                false
            }
        }
    }

    async fn submitted_as(
        &self,
        path: &Path,
        plane: &DataPlane,
        begun: &mut HashSet<EventId>,
    ) -> Result<EventId, Error> {
        let (before, content) = (state(path)?, content(path).await?);
        let mut name = format!("{}\n{}\n{content}", path.display(), self.event_type);
        for (key, value) in &self.values {
            name.push_str(&format!("\n{key}={value}"));
        }
        let id = EventId::from(Uuid::new_v5(&FILES, name.as_bytes()));
        if let Some(known) = plane.documents.find::<EventContext>(id.as_str()).await? {
            // Only its message may be missing.
            let message = Event {
                context: known.context,
                event_type: self.event_type.clone(),
                previous_stages: Vec::new(),
                data: KeyValuePairs::default(),
                traceparent: known.traceparent,
            };
            plane.events.publish(&[message]).await?;
            return Ok(id);
        }
        let mut submission = Submission::new(&self.event_type).event_id(id.clone()).path(path)?;
        // Two files of one name may lie in two folders.
        let below = path.strip_prefix(&self.dir).unwrap_or(path).to_str();
        let is_deep = |below: &&str| below.contains('/') && !self.values.iter().any(|(key, _)| key == PATH);
        if let Some(below) = below.filter(is_deep) {
            submission = submission.value(PATH, below);
        }
        for (key, value) in &self.values {
            submission = submission.value(key, value);
        }
        // From here on the submission notices itself.
        if state(path)? != before {
            let why = std::io::Error::other("it was replaced meanwhile");
            return Err(Error::io("read", path)(why));
        }
        begun.insert(id);
        submission.submit(plane).await
    }
}

fn unreadable(dir: &Path, error: &std::io::Error) -> Failure {
    Failure::new(exit::LOCAL_FAILED, format!("--watch {}: {error}", dir.display()))
}

/// What a file's event goes by: the digest of its content, and whether it may be executed.
async fn content(path: &Path) -> Result<String, Error> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let source = Source::file(path)?;
        Ok(format!("{} {}", source.describe()?.digest, source.is_executable()))
    });
    read.await.map_err(|error| Error::Internal(error.to_string()))?
}

fn state(path: &Path) -> Result<State, Error> {
    std::fs::symlink_metadata(path).map(|found| state_of(&found)).map_err(Error::io("read", path))
}

fn state_of(found: &Metadata) -> State {
    (found.len(), found.mtime_nsec() + found.mtime() * 1_000_000_000, found.ctime(), found.ino())
}

/// The files in the folder and below it, but hidden ones, which are not whole yet by the habit of many programs. What is
/// no file is named once.
fn files(dir: &Path, told: &mut HashSet<PathBuf>) -> std::io::Result<HashMap<PathBuf, State>> {
    let (mut files, mut dirs) = (HashMap::new(), vec![dir.to_owned()]);
    while let Some(below) = dirs.pop() {
        let entries = match below.read_dir() {
            Err(error) if below != dir => {
                // It may be gone again, or not be ours to read.
                if told.insert(below.clone()) {
                    warn!("{} is passed over: {error}", below.display());
                }
                continue;
            }
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            // It may be gone again.
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                dirs.push(entry.path());
            } else if found.is_file() {
                files.insert(entry.path(), state_of(&found));
            } else if told.insert(entry.path()) {
                warn!("{} is passed over: it is a link or no file", entry.path().display());
            }
        }
    }
    Ok(files)
}
