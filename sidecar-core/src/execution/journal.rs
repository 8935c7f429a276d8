//! What makes a commit repeatable: the last step that was finished, on disk before the next one begins.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::spec::{Settings, Start};
use crate::blob::Identity;
use crate::contract::{Blob, Context, Event, FileName, Phase, Prepared, Receipt};
use crate::error::{Error, Result};
use crate::{durable, fault};

/// A step of an execution that is finished, with what the next ones need to know of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Step {
    /// Nothing yet.
    New,
    /// The inputs are staged.
    Ready { prepared: Prepared },
    /// These files are durable in the blob store.
    Stored { prepared: Prepared, files: StoredFiles },
    /// Blobs, insight and event contexts are durable; from here on events may have been seen.
    Publishing { prepared: Prepared, events: Vec<Event>, receipt: Receipt },
    /// Every event was accepted; the outputs are not needed any more.
    Published { prepared: Prepared, receipt: Receipt },
    /// The outputs are cleared.
    Done { prepared: Prepared, receipt: Receipt },
    /// The module gave up.
    Failed { reason: String },
}

impl Step {
    /// Whether events may have been seen, so that only finishing is left.
    pub(super) fn is_publishing(&self) -> bool {
        matches!(self, Self::Publishing { .. } | Self::Published { .. })
    }

    /// Where a session stands that begins, or goes on, after this step.
    pub(super) fn phase(&self) -> Phase {
        match self {
            // A failed execution begins anew: see `Journal::open`.
            Self::New | Self::Failed { .. } => Phase::New,
            Self::Ready { .. } | Self::Stored { .. } => Phase::Ready,
            Self::Publishing { .. } | Self::Published { .. } => Phase::Committing,
            Self::Done { .. } => Phase::Done,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Ready { .. } => "ready",
            Self::Stored { .. } => "stored",
            Self::Publishing { .. } => "publishing",
            Self::Published { .. } => "published",
            Self::Done { .. } => "done",
            Self::Failed { .. } => "failed",
        }
    }
}

/// A file in the blob store and the file under `out/data` that it was made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredFile {
    pub(super) blob: Blob,
    pub(super) identity: Identity,
    /// Whether the identity alone tells that the file is still the same; otherwise its digest has to.
    #[serde(default)]
    pub(super) settled: bool,
}

/// Files that are stored, in the order of their names; clones share them, since they may be a million.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct StoredFiles(Arc<Vec<StoredFile>>);

impl StoredFiles {
    pub(super) fn get(&self, name: &FileName) -> Option<&StoredFile> {
        let found = self.0.binary_search_by(|file| file.blob.name.cmp(name)).ok()?;
        self.0.get(found)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl From<Vec<StoredFile>> for StoredFiles {
    fn from(mut files: Vec<StoredFile>) -> Self {
        files.sort_unstable_by(|one, other| one.blob.name.cmp(&other.blob.name));
        Self(Arc::new(files))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// The format of this file.
    version: u32,
    context: Context,
    /// Where the step was taken: another data plane has none of what this one stored.
    plane: String,
    step: Step,
}

const VERSION: u32 = 2;

/// The journal of one execution, and the lock that keeps a second sidecar away.
#[derive(Debug)]
pub(super) struct Journal {
    dir: PathBuf,
    base: PathBuf,
    locks: [File; 2],
    record: Record,
}

impl Journal {
    /// Locks the directories and reads the journal; a new one begins where none is.
    ///
    /// # Errors
    /// [`Error::Busy`] when another sidecar holds them, or when they hold what must be finished first.
    pub(super) fn open(settings: &Settings, plane: String) -> Result<(Self, Option<Earlier>)> {
        let (dir, base) = (settings.state_dir.as_path(), settings.layout.base());
        let context = &settings.context;
        let locks = lock(base, dir)?;
        let mut journal = Self {
            dir: dir.to_owned(),
            base: base.to_owned(),
            locks,
            record: Record { version: VERSION, context: context.clone(), plane, step: Step::New },
        };
        let Some(record) = read(dir)? else {
            journal.refuse_beside_a_module()?;
            return Ok((journal, None));
        };
        let same = record.context.event_id == context.event_id && record.context.name == context.name;
        let anew = match record.step {
            Step::Failed { .. } => true,
            // One that is recorded may have written something before it was ready.
            Step::New | Step::Ready { .. } | Step::Stored { .. } => settings.start != Start::Resume,
            Step::Done { .. } => settings.start == Start::Rerun,
            Step::Publishing { .. } | Step::Published { .. } => false,
        };
        if same && !anew {
            journal.record.step = match record.step {
                step if record.plane == journal.record.plane => step,
                Step::Stored { prepared, .. } => Step::Ready { prepared },
                Step::Publishing { .. } | Step::Published { .. } => {
                    return Err(Error::Busy(format!(
                        "{} holds a commit that was begun on another data plane ({}): finish it there first",
                        dir.display(),
                        record.plane,
                    )));
                }
                Step::Done { .. } => {
                    return Err(Error::Busy(format!(
                        "{} holds the commit of this event by this module on another data plane ({}): take \
                         another --basedir and --statedir, or run it again with --rerun",
                        dir.display(),
                        record.plane,
                    )));
                }
                step => step,
            };
            return Ok((journal, None));
        }
        // A module that starts from the beginning must not meet one that was started before.
        journal.refuse_beside_a_module()?;
        if record.step.is_publishing() {
            return Err(Error::Busy(format!(
                "{} holds the unfinished commit of event {:?} by module {:?}: start the sidecar with that context first",
                dir.display(),
                record.context.event_id.as_str(),
                record.context.name.as_str(),
            )));
        }
        // Even after a commit: a module that was not told, and worked once more, leaves its outputs behind.
        let worked = record.step != Step::New || settings.start != Start::Resume;
        let earlier = Earlier { context: record.context, worked };
        Ok((journal, Some(earlier)))
    }

    fn refuse_beside_a_module(&self) -> Result<()> {
        match fs::symlink_metadata(self.dir.join(MODULE_LOCK)) {
            // Where none was left behind, none is made.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            _ => self.take_module_lock().map(drop),
        }
    }

    /// Takes the lock that a module is to hold, and remembers that it may have begun.
    pub(super) fn lock_module(&mut self) -> Result<File> {
        let lock = self.take_module_lock()?;
        if self.record.step == Step::New {
            self.advance(Step::New)?;
        }
        Ok(lock)
    }

    /// Takes the lock that a module holds as long as it, or anything that inherited it, is at work.
    fn take_module_lock(&self) -> Result<File> {
        let path = self.dir.join(MODULE_LOCK);
        let file = lock_file(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(Error::Busy(format!(
                "the module of an earlier run, or something that it started, still works in {}: wait for it or \
                 end it (fuser {} finds it)",
                self.base.display(),
                path.display(),
            ))),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
        }
    }

    /// Forgets the module that has ended: what it left running on purpose hinders nobody.
    pub(super) fn forget_module(&self) {
        // A file that nobody holds locked hinders nobody either.
        let _ = fs::remove_file(self.dir.join(MODULE_LOCK));
    }

    /// The execution that the journal in `dir` remembers.
    pub(super) fn context_in(dir: &Path) -> Result<Option<Context>> {
        Ok(read(dir)?.map(|record| record.context))
    }

    /// The last finished step.
    pub(super) fn step(&self) -> &Step {
        &self.record.step
    }

    /// Records a step; it is durable when this returns.
    pub(super) fn advance(&mut self, step: Step) -> Result<()> {
        fault::point(&format!("journal.{}.before", step.name()));
        self.survive_wipe()?;
        let before = std::mem::replace(&mut self.record.step, step);
        if let Err(error) = self.write() {
            self.record.step = before;
            return Err(error);
        }
        fault::point(&format!("journal.{}.after", self.record.step.name()));
        Ok(())
    }

    /// Takes the lock again if the module wiped the directory that held it.
    pub(super) fn survive_wipe(&mut self) -> Result<()> {
        let lock_file = self.dir.join(LOCK);
        let held = |lock: &File, path: &Path| match (lock.metadata(), fs::metadata(path)) {
            (Ok(held), Ok(now)) => held.ino() == now.ino() && held.dev() == now.dev(),
            _ => false,
        };
        let [base, file] = &self.locks;
        if !held(base, &self.base) || !held(file, &lock_file) {
            for (lock, path) in [(base, &self.base), (file, &lock_file)] {
                if held(lock, path) {
                    // It is ours: taking it a second time through another file would find it taken.
                    lock.unlock().map_err(Error::io("lock", path))?;
                }
            }
            self.locks = lock(&self.base, &self.dir)?;
        }
        Ok(())
    }

    fn write(&self) -> Result<()> {
        let path = self.dir.join(FILE);
        let write = |file: &mut dyn Write| Ok(serde_json::to_writer(file, &self.record)?);
        durable::replace(&path, write).map_err(Error::io("write", &path))
    }
}

/// Another execution that this journal was used for before.
#[derive(Debug)]
pub(super) struct Earlier {
    pub(super) context: Context,
    /// Whether its module may have left outputs.
    pub(super) worked: bool,
}

const FILE: &str = "journal.json";
const LOCK: &str = "lock";
const MODULE_LOCK: &str = "module.lock";

fn read(dir: &Path) -> Result<Option<Record>> {
    let path = dir.join(FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", &path)(error)),
    };
    let record: Record = serde_json::from_reader(BufReader::new(file))
        .map_err(|error| Error::io("understand", &path)(io::Error::other(error)))?;
    if record.version != VERSION {
        let why = format!("its version is {}, this sidecar knows {VERSION}", record.version);
        return Err(Error::io("understand", &path)(io::Error::other(why)));
    }
    Ok(Some(record))
}

/// Locks the base directory and the state directory, making them when they are absent.
fn lock(base: &Path, dir: &Path) -> Result<[File; 2]> {
    fs::create_dir_all(base).map_err(|error| {
        let is_file = error.kind() == io::ErrorKind::AlreadyExists;
        let error = if is_file { io::Error::other("it is no directory") } else { error };
        Error::io("use", base)(error)
    })?;
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    // State is nobody else's business: it names keys and ids.
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::io("create", dir)(error));
        }
        _ => {}
    }
    let path = dir.join(LOCK);
    let locks = [File::open(base).map_err(Error::io("lock", base))?, lock_file(&path)?];
    for (lock, path, flag) in [(&locks[0], base, "--basedir"), (&locks[1], dir, "--statedir")] {
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let place = path.display();
                return Err(Error::Busy(format!(
                    "another sidecar works in {place}: wait for it, or give this one its own {flag}"
                )));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
        }
    }
    Ok(locks)
}

/// Opens a file that is there to be locked; nothing is written to it, and no link is followed.
fn lock_file(path: &Path) -> Result<File> {
    // Some file systems lock only what is open for writing.
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    options.open(path).map_err(Error::io("lock", path))
}
