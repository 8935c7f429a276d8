//! The settings of an execution.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::cache::Cache;
use super::disk::DiskBudget;
use crate::contract::{Context, EventId, EventTypes, Layout, ModuleName, TraceParent};

/// What an execution is made of.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which module processes which event. Without a correlation id it is the event's, where the event has one,
    /// and so is the parent's id.
    pub context: Context,
    /// Whether the event may begin a graph, and so need no context.
    pub first: First,
    /// How long an event's context may be missing before that is taken for final.
    pub patience: Duration,
    /// The directories shared with the module.
    pub layout: Layout,
    /// Where the journal lives; private to the sidecar, and on a disk that outlives it.
    pub state_dir: PathBuf,
    /// As which user the module works.
    pub module_user: ModuleUser,
    /// Which events the module may publish.
    pub event_types: EventTypes,
    /// How many files are moved at once.
    pub parallel: NonZeroUsize,
    /// What to do with an execution that the journal remembers.
    pub start: Start,
    /// Gives up a commit that the journal remembers and that is not decided, whichever execution it is of.
    pub give_up: bool,
    /// What becomes of the outputs when it fails.
    pub on_failure: OnFailure,
    /// What its inputs, and then its outputs, may take of a disk; inputs wait for room.
    pub disk: Option<DiskBudget>,
    /// Where inputs are kept for other executions on this machine.
    pub cache: Option<Cache>,
    /// What the journal outlives.
    pub journal: Journaling,
    /// The version of a module whose outcomes stand for those of equal work: see [`Session::reuse`].
    ///
    /// [`Session::reuse`]: crate::Session::reuse
    pub memoize: Option<String>,
    /// The trace that it belongs to, where its event brings none and no span of the caller's is recorded.
    pub traceparent: Option<TraceParent>,
}

/// What the journal outlives. It saves work, and decides nothing: without it an execution begins again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Journaling {
    /// A power cut: each step is on the disk before the next one begins.
    #[default]
    Synced,
    /// The process: where the execution is begun again anyway, as by the bus of a worker. It holds nothing but a commit
    /// that may be decided, and one that cannot be understood is taken for none.
    Unsynced,
}

/// What becomes of the outputs of an execution that failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// They stay where they are.
    #[default]
    Keep,
    /// They stay, and the files are stored under keys that no consumer reads as outputs.
    Upload,
}

/// As which user a module works: what the sidecar makes for it must be its own to read and write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ModuleUser {
    /// Perhaps another one, who reaches the base directory by its owner, group or mode: what is made below inherits
    /// them.
    #[default]
    Unknown,
    /// The sidecar's own.
    Same,
    /// This user and group; to give them what is made takes a privilege.
    Other {
        /// The user's number.
        uid: u32,
        /// The group's number.
        gid: u32,
    },
}

impl ModuleUser {
    /// Makes a directory, and those that lead to it, such that this user gets there whatever the process's umask. What is
    /// there stays as it is. Blocks.
    ///
    /// # Errors
    /// When one of them cannot be made.
    pub fn make_reachable(self, dir: &Path) -> io::Result<()> {
        if self.other().is_none() || dir.components().any(|part| part == Component::ParentDir) {
            return fs::create_dir_all(dir);
        }
        let absent: Vec<_> =
            dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
        for made in absent.into_iter().rev() {
            match fs::create_dir(made) {
                // Only what this call has made is opened up, and to pass through is enough.
                Ok(()) => {
                    let made = rustix::fs::open(
                        made,
                        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC,
                        Mode::empty(),
                    )?;
                    let mode =
                        Mode::from_raw_mode(rustix::fs::fstat(&made)?.st_mode) | Mode::from_raw_mode(0o711);
                    rustix::fs::fchmod(&made, mode)?;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The numbers of the user and the group that a module is to be started as, where they are not the sidecar's.
    pub fn other(self) -> Option<(u32, u32)> {
        match self {
            Self::Other { uid, gid } => Some((uid, gid)),
            Self::Unknown | Self::Same => None,
        }
    }
}

/// Whether an event may begin a graph.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum First {
    /// It has a context. Where none is found, its id is wrong, or the context cannot be seen yet.
    #[default]
    No,
    /// Without a context it begins a graph, and the module starts without inputs; a warning says so.
    Allowed,
    /// It was made up just now, and nobody else knows it.
    Yes,
}

/// What to do with an execution that the journal remembers, or that has an outcome already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// Go on with it: its module may be working still.
    #[default]
    Resume,
    /// Its module starts again from the beginning: what an unfinished attempt wrote is set aside.
    Restart,
    /// Its module runs again although there may be an outcome: the first run without one. For people.
    Rerun,
    /// This run, which begins only if every earlier one is decided and published, or abandoned. For programs: to
    /// ask for the same run again gives the same outcome again.
    Run(u32),
}

impl Settings {
    /// Files moved at once by default: enough to hide latency, few enough to bound memory.
    pub const DEFAULT_PARALLEL: NonZeroUsize = NonZeroUsize::new(16).unwrap();

    /// How long a missing context is waited for by default.
    pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(60);

    /// The usual settings of a module whose events are yet to come: a worker fills in the rest of the context.
    pub fn of_module(name: ModuleName, layout: Layout) -> Self {
        let event_id = EventId::from(uuid::Uuid::nil());
        let (correlation_id, parent_event_id) = (String::new(), String::new());
        Self::new(Context { name, event_id, correlation_id, parent_event_id }, layout)
    }

    /// The usual settings: state under `.sidecar` in the base directory, any event type.
    pub fn new(context: Context, layout: Layout) -> Self {
        Self {
            context,
            first: First::No,
            patience: Self::DEFAULT_PATIENCE,
            state_dir: layout.base().join(".sidecar"),
            layout,
            module_user: ModuleUser::Unknown,
            event_types: EventTypes::Any,
            parallel: Self::DEFAULT_PARALLEL,
            start: Start::Resume,
            give_up: false,
            on_failure: OnFailure::Keep,
            disk: None,
            cache: None,
            journal: Journaling::Synced,
            memoize: None,
            traceparent: None,
        }
    }
}
