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
    #[error("{call} failed at {address} after {attempts} attempt(s) in {elapsed:.1?}")]
    Call {
        /// The call: `ready`, `done`, `fail` or `status`.
        call: &'static str,
        /// Where the sidecar was called, as a URL or `unix:PATH`.
        address: String,
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

    /// The error and its causes in one line, outermost first.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// An error and its causes in one line, outermost first, without what is said twice.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = Some(error);
    while let Some(error) = next {
        let said = error.to_string();
        // Many errors repeat their cause in their own text.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = error.source();
    }
    text
}

/// Why one attempt failed.
#[non_exhaustive]
#[derive(Debug)]
pub enum Cause {
    /// The sidecar answered with an error.
    Answer(ErrorBody),
    /// No answer came.
    Transport(Box<dyn StdError + Send + Sync>),
    /// The answer was a success, but its body is not one of a sidecar.
    Decode(serde_json::Error),
}

impl Cause {
    /// The innermost cause, which says what is the matter in the fewest words.
    pub(crate) fn root(&self) -> String {
        let mut root: &dyn StdError = self;
        while let Some(cause) = root.source() {
            root = cause;
        }
        root.to_string()
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answer(body) => {
                write!(f, "the sidecar answered {}: {}", body.status_code, body.message)?;
                // Whoever prints the causes, and knows no more of them, still reads what is wrong.
                let known = |problem: &&Problem| !body.message.contains(&problem.to_string());
                body.problems.iter().filter(known).try_for_each(|problem| write!(f, "; {problem}"))
            }
            Self::Transport(_) => f.write_str("the sidecar cannot be reached"),
            Self::Decode(_) => f.write_str("the answer is not one of a sidecar"),
        }
    }
}

impl StdError for Cause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Answer(_) => None,
            Self::Transport(error) => Some(&**error),
            Self::Decode(error) => Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_told_once() {
        let model = || io::Error::new(io::ErrorKind::NotFound, "no file model.bin");
        let error = anyhow::Error::new(model()).context("cannot load the model").context("the module failed");
        let error: Box<dyn StdError> = error.into();
        assert_eq!(chain(&*error), "the module failed: cannot load the model: no file model.bin");

        // One that repeats its cause.
        #[derive(Debug, thiserror::Error)]
        #[error("cannot load the model: {0}")]
        struct Repeats(#[source] io::Error);
        assert_eq!(chain(&Repeats(model())), "cannot load the model: no file model.bin");

        let text: Box<dyn StdError> = "only a text".into();
        assert_eq!(chain(&*text), "only a text");
    }
}
