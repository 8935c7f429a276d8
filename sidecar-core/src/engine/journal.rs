//! What makes a commit repeatable: the last step that was finished, on disk before the next one begins.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::blob::Identity;
use crate::contract::{Blob, Context, Event, FileName, Prepared, Receipt};
use crate::error::{Error, Result};
use crate::{durable, fault};

/// A step of an execution that is finished, with what the next ones need to know of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "step")]
pub(super) enum Step {
    /// Nothing yet.
    New,
    /// The inputs are staged.
    Ready { prepared: Prepared },
    /// These files are durable in the blob store.
    Stored { prepared: Prepared, files: HashMap<FileName, StoredFile> },
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
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// The format of this file.
    version: u32,
    context: Context,
    #[serde(flatten)]
    step: Step,
}

const VERSION: u32 = 1;

/// The journal of one execution, and the lock that keeps a second sidecar away.
#[derive(Debug)]
pub(super) struct Journal {
    dir: PathBuf,
    lock: File,
    record: Record,
}

impl Journal {
    /// Locks `dir` and reads the journal in it; a new one begins where none is.
    ///
    /// # Errors
    /// [`Error::Busy`] when another sidecar holds it.
    pub(super) fn open(dir: &Path, context: &Context, rerun: bool) -> Result<(Self, Option<Earlier>)> {
        let lock = lock(dir)?;
        let path = dir.join(FILE);
        let mut journal = Self {
            dir: dir.to_owned(),
            lock,
            record: Record { version: VERSION, context: context.clone(), step: Step::New },
        };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((journal, None)),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let record: Record = serde_json::from_slice(&bytes)
            .map_err(|error| Error::io("understand", &path)(io::Error::other(error)))?;
        if record.version != VERSION {
            let why = format!("its version is {}, this sidecar knows {VERSION}", record.version);
            return Err(Error::io("understand", &path)(io::Error::other(why)));
        }
        let same = record.context.event_id == context.event_id && record.context.name == context.name;
        let anew = match record.step {
            Step::Failed { .. } => true,
            Step::Done { .. } => rerun,
            _ => false,
        };
        if same && !anew {
            journal.record.step = record.step;
            return Ok((journal, None));
        }
        if matches!(record.step, Step::Publishing { .. } | Step::Published { .. }) {
            return Err(Error::Busy(format!(
                "{} holds the unfinished commit of event {:?} by module {:?}: start the sidecar with that context first",
                dir.display(),
                record.context.event_id.as_str(),
                record.context.name.as_str(),
            )));
        }
        let earlier = Earlier { context: record.context, worked: record.step != Step::New };
        Ok((journal, Some(earlier)))
    }

    /// The last finished step.
    pub(super) fn step(&self) -> &Step {
        &self.record.step
    }

    /// Records a step; it is durable when this returns.
    pub(super) fn advance(&mut self, step: Step) -> Result<()> {
        fault::point(&format!("journal.{}.before", step.name()));
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
        let path = self.dir.join(LOCK);
        let held = self.lock.metadata().map_err(Error::io("lock", &path))?;
        if fs::metadata(&path).is_ok_and(|now| now.ino() == held.ino() && now.dev() == held.dev()) {
            return Ok(());
        }
        self.lock = lock(&self.dir)?;
        Ok(())
    }

    fn write(&self) -> Result<()> {
        let path = self.dir.join(FILE);
        let bytes =
            serde_json::to_vec(&self.record).map_err(|e| Error::io("encode", &path)(io::Error::other(e)))?;
        durable::replace(&path, &bytes).map_err(Error::io("write", &path))
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

fn lock(dir: &Path) -> Result<File> {
    // State is nobody else's business: it names keys and ids.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::io("create", dir))?;
    let path = dir.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Error::io("lock", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Busy(format!(
            "another sidecar works in {}: give this one its own --basedir or --statedir",
            dir.display()
        ))),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
    }
}
