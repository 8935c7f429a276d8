//! What can go wrong, sorted by what the caller does next.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::contract::{Phase, Problem};

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause of an [`Error`], kept for the log; its type is no promise.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// Why a call did not succeed.
///
/// `Display` names the thing and never repeats the cause: print the chain with [`Error::chain`].
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A provider cannot be reached or asks to slow down: the same call can succeed later.
    #[error("{provider} is unavailable: cannot {action}")]
    Unavailable {
        /// The provider's short name.
        provider: String,
        /// What was tried, as a verb phrase.
        action: String,
        /// How long the provider asks to wait, if it does.
        retry_after: Option<Duration>,
        /// The cause.
        source: Cause,
    },
    /// A provider answered that it will not: credentials, rights, sizes. Repeating does not help.
    #[error("{provider} refused to {action}")]
    Refused {
        /// The provider's short name.
        provider: String,
        /// What was tried, as a verb phrase.
        action: String,
        /// The cause.
        source: Cause,
    },
    /// The settings of a provider are invalid, or contradict each other.
    #[error("{provider} cannot be used with these settings")]
    Settings {
        /// The provider's short name.
        provider: String,
        /// The cause.
        source: Cause,
    },
    /// A blob that a manifest names is not there.
    #[error("{provider} has no blob {key:?}")]
    NotFound {
        /// The provider's short name.
        provider: String,
        /// The blob's key.
        key: String,
    },
    /// An event that was named has no context yet: it may be on its way.
    #[error("{provider} has no context of event {event:?} yet")]
    NoEventYet {
        /// The document provider's short name.
        provider: String,
        /// The event's id.
        event: String,
    },
    /// A run that cannot begin, since one before it has no outcome.
    #[error("{run} cannot start: run {open} of this execution has no outcome yet")]
    RunNotOpen {
        /// The run that was asked for.
        run: String,
        /// The first one that has no outcome.
        open: u32,
    },
    /// An event that was named has no context: its id is wrong, or this is not its data plane.
    #[error(
        "{provider} has no context of event {event:?}: check its id and the data plane; submit it again if the store \
         was restored from a backup; one that begins a graph without being submitted needs --first"
    )]
    UnknownEvent {
        /// The document provider's short name.
        provider: String,
        /// The event's id.
        event: String,
    },
    /// The event, outcome or dead letter that was asked for does not exist.
    #[error("{provider} does not have {what}: {why}")]
    Absent {
        /// The document provider's short name.
        provider: String,
        /// What was asked for.
        what: String,
        /// What there is, or what may be wrong.
        why: String,
    },
    /// A delivery that is not held any more: it was settled before, or its lock was lost and another member of the
    /// group may have it.
    #[error("event {event:?} of {provider} is not held any more: it was settled, or its lock was lost")]
    NotHeld {
        /// The bus's short name.
        provider: String,
        /// The event's id.
        event: String,
    },
    /// This run was closed without an outcome: the same call proposes the outputs in the next run.
    #[error("run {run} was closed without an outcome: call again to commit in the next run")]
    Abandoned {
        /// The run that was closed.
        run: u32,
    },
    /// The outcome is published and was answered, and the sidecar is about to end: the next one is for another process of
    /// the module.
    #[error("the execution is finished, and its sidecar ends: call again to reach the next one")]
    Finished,
    /// What a provider gave back is not what was put in.
    #[error("{what} in {provider} is damaged: {problem}")]
    Corrupt {
        /// The provider's short name.
        provider: String,
        /// The blob or document.
        what: String,
        /// How it differs.
        problem: String,
    },
    /// An event refers to an object that cannot be fetched for it: another attempt may be made elsewhere, or when it may be.
    #[error("the event refers to {url}, which cannot be fetched: {problem}")]
    Reference {
        /// Where the object is, without credentials.
        url: String,
        /// Why it cannot be fetched.
        problem: String,
    },
    /// The module's outputs cannot be committed; fix them and call again. Nothing was published.
    #[error("the module's outputs are invalid: {}", summary(.0))]
    Invalid(Vec<Problem>),
    /// An event that cannot be submitted as it is; nothing was published.
    #[error("the event cannot be submitted: {}", summary(.0))]
    Submission(Vec<Problem>),
    /// A call that has no place in this phase.
    #[error("cannot {call} while {phase}: {hint}")]
    OutOfOrder {
        /// The call.
        call: &'static str,
        /// The phase.
        phase: Phase,
        /// What to do instead.
        hint: String,
    },
    /// A local disk is full.
    #[error("no space left to {action} {}", .path.display())]
    DiskFull {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// More than the disk may hold of one execution, by [`Settings::disk`](crate::Settings::disk).
    #[error("the {what} take {bytes} bytes, and {limit} are allowed (--max-disk)")]
    TooLarge {
        /// Inputs or outputs.
        what: &'static str,
        /// Their size.
        bytes: u64,
        /// How much is allowed.
        limit: u64,
    },
    /// A local file or directory cannot be used.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The base or state directory belongs to somebody else.
    #[error("{0}")]
    Busy(String),
    /// A module that stays cannot load: it has ended too often before it asked for an event.
    #[error("the module has ended {starts} times before it asked for an event (POST /next){last}")]
    NotLoaded {
        /// How often it was started.
        starts: u32,
        /// How it ended the last time, as the end of the sentence.
        last: String,
    },
    /// A defect of this crate or of a provider, which should be reported.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// `provider` cannot `action`, a verb phrase, for now.
    pub fn unavailable(
        provider: &impl fmt::Display,
        action: impl Into<String>,
        source: impl Into<Cause>,
    ) -> Self {
        let (provider, action) = (provider.to_string(), action.into());
        Self::Unavailable { provider, action, retry_after: None, source: source.into() }
    }

    /// `provider` will not `action`, a verb phrase.
    pub fn refused(
        provider: &impl fmt::Display,
        action: impl Into<String>,
        source: impl Into<Cause>,
    ) -> Self {
        Self::Refused { provider: provider.to_string(), action: action.into(), source: source.into() }
    }

    /// `provider` cannot be what its settings say.
    pub fn settings(provider: &impl fmt::Display, source: impl Into<Cause>) -> Self {
        Self::Settings { provider: provider.to_string(), source: source.into() }
    }

    /// An I/O error with its path; a full disk becomes [`Error::DiskFull`].
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { action, path },
            _ => Self::Io { action, path, source },
        }
    }

    /// Whether the same call can succeed later without a change by the caller.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. }
                | Self::NoEventYet { .. }
                | Self::DiskFull { .. }
                | Self::Abandoned { .. }
                | Self::Finished
        )
    }

    /// The error and its causes in one line, outermost first, without what an outer one says already.
    pub fn chain(&self) -> String {
        with_causes(self)
    }
}

/// An error and its causes in one line, outermost first, without what an outer one says already.
pub fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Many errors repeat their cause in their own text.
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

fn summary(problems: &[Problem]) -> String {
    match problems {
        [] => String::new(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    }
}
