//! What lets a restart on the same disk go on: the last finished step, on disk before the next one begins.
//!
//! It is a hint. Which outcome an execution has, only the document store tells.

use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::slot::Slot;
use super::spec::Journaling;
use crate::blob::Identity;
use crate::contract::{Blob, Context, ExecutionRecord, FileName, Prepared, PrivateId, Receipt, Stores};
use crate::dir::{Dir, absent_is_fine};
use crate::error::{Error, Result};
use crate::{durable, fault};

/// A step of an attempt that is finished, with what the next ones need to know of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Step {
    /// Nothing yet.
    New,
    /// The inputs are staged.
    Ready { prepared: Prepared },
    /// A proposal is being stored; these files of it, and of earlier ones of this run, are durable.
    Committing { prepared: Prepared, proposal: PrivateId, files: StoredFiles },
    /// Everything that the record names is durable; from here on it may have been decided.
    Deciding { prepared: Option<Prepared>, record: Box<ExecutionRecord> },
    /// The outcome is published, and the outputs are cleared.
    Done { prepared: Option<Prepared>, receipt: Receipt },
    /// The module gave up.
    Failed { reason: String },
}

impl Step {
    /// What was staged, if anything was.
    pub(super) fn prepared(&self) -> Option<&Prepared> {
        match self {
            Self::Ready { prepared } | Self::Committing { prepared, .. } => Some(prepared),
            Self::Deciding { prepared, .. } | Self::Done { prepared, .. } => prepared.as_ref(),
            Self::New | Self::Failed { .. } => None,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Ready { .. } => "ready",
            Self::Committing { files, .. } if files.len() > 0 => "stored",
            Self::Committing { .. } => "committing",
            Self::Deciding { .. } => "deciding",
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

    pub(super) fn iter(&self) -> impl Iterator<Item = &StoredFile> {
        self.0.iter()
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

/// Everything that is written down of an attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    /// The format of this file.
    version: u32,
    pub(super) context: Context,
    pub(super) run: u32,
    pub(super) attempt: PrivateId,
    /// Where the step was taken: another data plane has none of what this one stored.
    pub(super) stores: Stores,
    pub(super) started: String,
    #[serde(default)]
    pub(super) ready: Option<String>,
    /// Which process the module is, as it said.
    #[serde(default)]
    pub(super) module_start: Option<String>,
    pub(super) step: Step,
    /// Whether the outputs are complete: the module called `done`, or `prepare` left it to people.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) complete: bool,
    /// An entry of release 0.1, which had begun to publish under ids of its own.
    #[serde(skip)]
    pub(super) legacy: Option<Legacy>,
}

impl Entry {
    pub(super) fn new(context: Context, run: u32, stores: Stores, started: String) -> Self {
        let attempt = PrivateId::random();
        let (step, ready, module_start, legacy) = (Step::New, None, None, None);
        let (version, complete) = (VERSION, false);
        Self { version, context, run, attempt, stores, started, ready, module_start, step, complete, legacy }
    }

    /// Whether a commit can go on without the module.
    pub(super) fn is_committable(&self) -> bool {
        match self.step {
            Step::Committing { .. } | Step::Deciding { .. } | Step::Done { .. } => true,
            // What a module left that failed may be the half of something.
            Step::Failed { .. } => false,
            Step::New | Step::Ready { .. } => self.complete,
        }
    }

    /// Whether it is of this execution, but for the run.
    pub(super) fn is_of(&self, context: &Context) -> bool {
        self.context.event_id == context.event_id && self.context.name == context.name
    }
}

/// How far release 0.1 had come with an execution that may have been seen.
#[derive(Debug, Clone)]
pub(super) enum Legacy {
    /// Its ids and keys become the proposal.
    Publishing(Receipt),
    /// It is the outcome already.
    Done,
}

const VERSION: u32 = 3;
const FILE: &str = "journal.json";

/// The journal of one attempt.
#[derive(Debug)]
pub(super) struct Journal {
    slot: Arc<Slot>,
    entry: Mutex<Arc<Entry>>,
    /// Held while an entry is written, so that readers need not wait for the disk.
    writing: Mutex<()>,
    journaling: Journaling,
}

impl Journal {
    /// A journal that goes on from `entry`, which is not written yet.
    pub(super) fn new(slot: Arc<Slot>, entry: Entry, journaling: Journaling) -> Self {
        Self { slot, entry: Mutex::new(Arc::new(entry)), writing: Mutex::default(), journaling }
    }

    /// The entry that is on the disk, or would be if it were synced.
    pub(super) fn entry(&self) -> Arc<Entry> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records a step; it is durable when this returns, as far as it is synced. Blocks.
    pub(super) fn advance(&self, step: Step) -> Result<()> {
        self.change(|entry| entry.step = step)
    }

    /// Records a change of the entry in the same way. Blocks.
    pub(super) fn change(&self, change: impl FnOnce(&mut Entry)) -> Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entry = (*self.entry()).clone();
        change(&mut entry);
        let name = entry.step.name();
        fault::point(&format!("journal.{name}.before"));
        let synced = self.journaling == Journaling::Synced;
        // What begins again anyway needs only what may be decided.
        let is_kept = synced || matches!(entry.step, Step::Deciding { .. });
        let write = || match is_kept {
            true => durable::replace(&self.slot.state(), FILE, synced, |file: &mut dyn Write| {
                Ok(serde_json::to_writer(file, &entry)?)
            }),
            false => absent_is_fine(self.slot.state().remove_file(Path::new(FILE))),
        };
        let written = match write() {
            Err(_) if self.slot.survive_wiped_state()? => write(),
            written => written,
        };
        written.map_err(Error::io("write", self.slot.state_path().join(FILE)))?;
        *self.entry.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(entry);
        fault::point(&format!("journal.{name}.after"));
        Ok(())
    }
}

/// The longest journal, in bytes: that of a million files.
const LONGEST: u64 = 1024 * 1024 * 1024;

/// What the journal in the state directory `dir` remembers. Blocks.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, or not be understood although it was synced.
pub(super) fn read(dir: &Dir, journaling: Journaling) -> Result<Option<Entry>> {
    match read_whole(dir) {
        Err(Error::Io { action: UNDERSTAND, path, source }) if journaling == Journaling::Unsynced => {
            tracing::warn!(
                "{} is no journal, as after a power cut, and is left out: {source}",
                path.display()
            );
            Ok(None)
        }
        read => read,
    }
}

const UNDERSTAND: &str = "understand";

fn read_whole(dir: &Dir) -> Result<Option<Entry>> {
    let path = dir.path().join(FILE);
    let open = || match dir.open_file(Path::new(FILE)) {
        Ok(file) => Ok(Some(BufReader::new(file.take(LONGEST)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", &path)(error)),
    };
    let understand = |error: serde_json::Error| {
        let why =
            format!("{error}; delete it to start over: the contents of out/ are moved to out/.previous");
        Error::io(UNDERSTAND, &path)(io::Error::other(why))
    };
    let Some(file) = open()? else { return Ok(None) };
    let Version { version } = serde_json::from_reader(file).map_err(understand)?;
    let Some(file) = open()? else { return Ok(None) };
    match version {
        VERSION => serde_json::from_reader(file).map(Some).map_err(understand),
        EntryOf01::VERSION => {
            let old: EntryOf01 = serde_json::from_reader(file).map_err(understand)?;
            Ok(Some(old.into()))
        }
        other => {
            let why = format!("its version is {other}, this sidecar knows {VERSION}");
            Err(Error::io(UNDERSTAND, &path)(io::Error::other(why)))
        }
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// A journal of release 0.1.
#[derive(Deserialize)]
struct EntryOf01 {
    context: Context,
    /// The names of the three stores for the log.
    plane: String,
    step: StepOf01,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum StepOf01 {
    New,
    Ready { prepared: Prepared },
    Stored { prepared: Prepared, files: IgnoredAny },
    Publishing { prepared: Prepared, events: IgnoredAny, receipt: Receipt },
    Published { prepared: Prepared, receipt: Receipt },
    Done { prepared: Prepared, receipt: Receipt },
    Failed { reason: String },
}

impl EntryOf01 {
    const VERSION: u32 = 2;
}

impl From<EntryOf01> for Entry {
    fn from(old: EntryOf01) -> Self {
        let mut names = old.plane.splitn(3, "; ").map(str::to_owned);
        let mut name = || names.next().unwrap_or_default();
        let stores = Stores { blobs: name(), documents: name(), events: name() };
        let (step, legacy) = match old.step {
            StepOf01::New => (Step::New, None),
            // Its files lie under keys that other attempts may share: they are uploaded again.
            StepOf01::Ready { prepared } | StepOf01::Stored { prepared, files: IgnoredAny } => {
                (Step::Ready { prepared }, None)
            }
            StepOf01::Publishing { prepared, events: IgnoredAny, receipt }
            | StepOf01::Published { prepared, receipt } => {
                (Step::Ready { prepared }, Some(Legacy::Publishing(receipt)))
            }
            StepOf01::Done { prepared, receipt } => {
                (Step::Done { prepared: Some(prepared), receipt }, Some(Legacy::Done))
            }
            StepOf01::Failed { reason } => (Step::Failed { reason }, None),
        };
        Self { step, legacy, ..Self::new(old.context, 0, stores, super::now()) }
    }
}
