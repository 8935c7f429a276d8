//! A folder whose files become events.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sidecar_core::blob::Source;
use sidecar_core::documents::Kind;
use sidecar_core::{DataPlane, Error, EventId, Submission};
use tokio::sync::watch;
use tracing::{info, warn};
use uuid::Uuid;

use crate::exit::{self, Failure};

/// How often the folder is looked at. A file counts as whole when it has not changed from one look to the next.
const LOOK: Duration = Duration::from_millis(500);
/// How soon a file is submitted again that could not be.
const AGAIN: Duration = Duration::from_secs(5);

/// The ids of files: the same for the same content under the same name, so that a restart submits nothing twice.
const FILES: Uuid = Uuid::from_u128(0x0b0f_3f0a_58a5_4f2e_a2c8_77b3_9f44_1d02);

/// What changes with the content of a file: its size, when it was changed, and which file it is.
type State = (u64, i64, i64, u64);

/// The folder, and what became of its files.
pub(super) struct Watch {
    dir: PathBuf,
    event_type: String,
    /// What was submitted in this run, for whoever tells of it in the end.
    submitted: watch::Sender<Vec<EventId>>,
    /// Files that are not submitted, with the reason.
    waiting: watch::Sender<HashMap<PathBuf, String>>,
}

impl Watch {
    /// A folder that is there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn new(dir: &Path, event_type: String) -> Result<Self, Failure> {
        std::fs::read_dir(dir).map_err(|error| unreadable(dir, &error))?;
        let dir = std::path::absolute(dir).map_err(|error| unreadable(dir, &error))?;
        let (submitted, waiting) = (watch::Sender::default(), watch::Sender::default());
        Ok(Self { dir, event_type, submitted, waiting })
    }

    /// The events of this run.
    pub(super) fn submitted(&self) -> Vec<EventId> {
        self.submitted.borrow().clone()
    }

    /// Files that could not be submitted, each with the reason.
    pub(super) fn left(&self) -> Vec<(PathBuf, String)> {
        let mut left: Vec<_> =
            self.waiting.borrow().iter().map(|(path, why)| (path.clone(), why.clone())).collect();
        left.sort();
        left
    }

    /// Submits each file that lies in the folder, or below it, or appears there. It ends only with an error.
    pub(super) async fn run(&self, plane: &DataPlane) -> Failure {
        let (mut seen, mut done) = (HashMap::<PathBuf, State>::new(), HashMap::<PathBuf, State>::new());
        let (mut told, mut pause) = (HashSet::new(), Duration::ZERO);
        loop {
            let now = match files(&self.dir, &mut told) {
                Ok(now) => now,
                Err(error) => return unreadable(&self.dir, &error),
            };
            if pause.is_zero() {
                for (path, state) in &now {
                    let is_whole = seen.get(path) == Some(state);
                    if is_whole && done.get(path) != Some(state) && self.submit(path, plane).await {
                        done.insert(path.clone(), *state);
                    }
                }
                let is_there = |path: &PathBuf, _: &mut String| now.contains_key(path);
                self.waiting.send_modify(|waiting| waiting.retain(is_there));
                pause = if self.waiting.borrow().is_empty() { Duration::ZERO } else { AGAIN };
            }
            done.retain(|path, _| now.contains_key(path));
            seen = now;
            tokio::time::sleep(LOOK).await;
            pause = pause.saturating_sub(LOOK);
        }
    }

    /// Submits a file; whether it need not be tried again.
    async fn submit(&self, path: &Path, plane: &DataPlane) -> bool {
        let name = path.strip_prefix(&self.dir).unwrap_or(path);
        let submitted = async {
            let digest = digest(path).await?;
            let id = EventId::from(Uuid::new_v5(&FILES, format!("{}\n{digest}", path.display()).as_bytes()));
            let known = plane.documents.get(Kind::Context, id.as_str()).await?.is_some();
            let submission = Submission::new(&self.event_type).event_id(id.clone());
            // Also one that is known: its message may be missing.
            submission.path(path)?.submit(plane).await?;
            Ok::<_, Error>((id, known))
        };
        match submitted.await {
            Ok((id, known)) => {
                if !known {
                    info!("submitted {} as event {id}", name.display());
                    self.submitted.send_modify(|all| all.push(id));
                }
                self.waiting.send_modify(|waiting| drop(waiting.remove(path)));
                true
            }
            Err(error) => {
                let why = error.chain();
                if self.waiting.borrow().get(path) != Some(&why) {
                    warn!("{} is not submitted yet: {why}; it is tried again", name.display());
                }
                self.waiting.send_modify(|waiting| drop(waiting.insert(path.to_owned(), why)));
                false
            }
        }
    }
}

fn unreadable(dir: &Path, error: &std::io::Error) -> Failure {
    Failure::new(exit::LOCAL_FAILED, format!("--watch {}: {error}", dir.display()))
}

/// The digest of a file's content.
async fn digest(path: &Path) -> Result<String, Error> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || Ok(Source::file(path)?.describe()?.digest.to_string()));
    read.await.map_err(|error| Error::Internal(error.to_string()))?
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
                let state = (
                    found.len(),
                    found.mtime_nsec() + found.mtime() * 1_000_000_000,
                    found.ctime(),
                    found.ino(),
                );
                files.insert(entry.path(), state);
            } else if told.insert(entry.path()) {
                warn!("{} is passed over: it is a link or no file", entry.path().display());
            }
        }
    }
    Ok(files)
}
