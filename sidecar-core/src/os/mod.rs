//! What only one operating system has, each with what other Unix systems do instead. Nothing else asks which one it is.
//!
//! `RUSTFLAGS="--cfg portable"` builds the second half on Linux, so that the tests can try it there.

// Each provider and command uses a part.
#![cfg_attr(not(all(feature = "local", feature = "process", feature = "mongodb")), allow(dead_code))]

#[cfg(all(target_os = "linux", not(portable)))]
mod linux;
#[cfg(any(not(target_os = "linux"), portable))]
mod unix;

#[cfg(all(target_os = "linux", not(portable)))]
pub(crate) use linux::*;
#[cfg(any(not(target_os = "linux"), portable))]
pub(crate) use unix::*;

/// What became of a watched directory.
#[cfg(feature = "local")]
#[derive(Debug)]
pub(crate) enum Change {
    /// A file of this name came, or was closed.
    #[cfg_attr(any(not(target_os = "linux"), portable), allow(dead_code))]
    Name(String),
    /// There were changes, and nobody knows which.
    Lost,
    /// A directory is not watched any more, since it is not there.
    #[cfg_attr(any(not(target_os = "linux"), portable), allow(dead_code))]
    Unwatched,
}

/// What is watched for in a directory.
#[cfg(feature = "local")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watched {
    /// Files that come into it.
    Arrivals,
    /// Files in it that somebody who wrote them closes.
    Closes,
}
