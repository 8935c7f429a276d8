//! What can go wrong for a module.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sidecar_core::{ErrorBody, Problem};

/// Why a call or a file operation did not succeed.
///
/// `Display` does not repeat the cause; walk `source` for the chain, or print [`Error::chain`].
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is missing or cannot be used.
    #[error("{0}")]
    Config(String),
    /// A call to the sidecar failed for good.
    #[error("{call} failed after {attempts} attempt(s) in {elapsed:.1?}")]
    Call {
        /// The call: `ready`, `done` or `fail`.
        call: &'static str,
        /// How often it was tried.
        attempts: u32,
        /// From the first attempt to the last answer.
        elapsed: Duration,
        /// Why the last attempt failed.
        source: Cause,
    },
    /// A file of the module cannot be used.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// The HTTP status that the sidecar answered last, if it answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Call { source: Cause::Answer(body), .. } => Some(body.status_code),
            _ => None,
        }
    }

    /// What is wrong with the module's outputs, when that is why `done` failed.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Call { source: Cause::Answer(body), .. } => &body.problems,
            _ => &[],
        }
    }

    /// Whether the sidecar could not be reached.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Call { source: Cause::Transport(_), .. })
    }

    /// The error and its causes in one line, outermost first; then one line a problem.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        for problem in self.problems() {
            text.push_str("\n  ");
            text.push_str(&problem.to_string());
        }
        text
    }
}

/// Why one attempt failed.
#[derive(Debug)]
pub enum Cause {
    /// The sidecar answered with an error.
    Answer(ErrorBody),
    /// No answer came.
    Transport(Box<dyn StdError + Send + Sync>),
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answer(body) => write!(f, "the sidecar answered {}: {}", body.status_code, body.message),
            Self::Transport(_) => f.write_str("the sidecar cannot be reached"),
        }
    }
}

impl StdError for Cause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Answer(_) => None,
            Self::Transport(error) => Some(&**error),
        }
    }
}
