//! How serving or running a module came out.

use std::io;
use std::sync::Arc;

use crate::error::Error;

/// How a run came out, by what its starter does next.
#[derive(Debug)]
pub enum Ended {
    /// The outcome is committed: by this run, or before it.
    Committed,
    /// The module failed.
    Failed {
        /// The code that it exited with, or 128 and the number of the signal that ended it; 1 where it failed
        /// otherwise.
        code: u8,
        /// What is to be told; `None` once it was.
        reason: Option<String>,
    },
    /// A signal asked to end before anything was committed.
    Stopped(Stop),
    /// The command cannot be started.
    NotStarted {
        /// The command.
        program: String,
        /// `NotFound`, `PermissionDenied`, or whatever else keeps it from starting.
        error: io::Error,
    },
    /// The inputs could not be staged.
    NotPrepared(Arc<Error>),
    /// The outputs could not be committed; the session can still commit them.
    NotCommitted(Arc<Error>),
    /// This machine stands in the way.
    Local(Error),
}

/// How an execution was stopped by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// The code that the module exited with, where it ended with one of its own.
    pub code: Option<u8>,
    /// The number of the signal.
    pub signal: i32,
}
