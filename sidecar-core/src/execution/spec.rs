//! What an execution is told before it begins.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::failure::OnFailure;
use crate::contract::{Context, EventTypes, Layout};

/// What an execution is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which module processes which event.
    pub context: Context,
    /// The directories shared with the module.
    pub layout: Layout,
    /// Where the journal lives; private to the sidecar, and on a disk that outlives it.
    pub state_dir: PathBuf,
    /// Which events the module may publish.
    pub event_types: EventTypes,
    /// How many files are moved at once.
    pub parallel: NonZeroUsize,
    /// What to do with an execution that the journal remembers.
    pub start: Start,
    /// What becomes of the outputs when it fails.
    pub on_failure: OnFailure,
}

/// What to do with an execution that the journal remembers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// Go on with it: its module may be working still.
    #[default]
    Resume,
    /// Its module starts again from the beginning: what an unfinished attempt wrote is set aside.
    Restart,
    /// The same, even if it was committed already; equal ids make the repeat harmless.
    Rerun,
}

impl Settings {
    /// Files moved at once where nothing else is said: enough to hide latency, few enough to bound memory.
    pub const DEFAULT_PARALLEL: NonZeroUsize = NonZeroUsize::new(16).unwrap();

    /// The usual settings: state under `.sidecar` in the base directory, any event type.
    pub fn new(context: Context, layout: Layout) -> Self {
        let state_dir = layout.base().join(".sidecar");
        let (event_types, parallel) = (EventTypes::Any, Self::DEFAULT_PARALLEL);
        Self {
            context,
            layout,
            state_dir,
            event_types,
            parallel,
            start: Start::Resume,
            on_failure: OnFailure::Keep,
        }
    }

    /// Where cleared outputs wait to be removed.
    pub(super) fn trash(&self) -> PathBuf {
        self.state_dir.join("trash")
    }
}
