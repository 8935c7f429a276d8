//! Other Unix systems, as macOS: slower, and with less that a module could not do to the sidecar, but the same contract.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, Mode, OFlags};
use rustix::io::Errno;

#[cfg(feature = "process")]
pub(crate) use process::*;
#[cfg(feature = "local")]
pub(crate) use watch::{Changes, Told};

/// A directory is reached by reading it, which its permissions may not allow.
pub(crate) const REACHABLE: OFlags = OFlags::RDONLY;

/// There is no such call: paths are walked component by component.
pub(crate) fn open_beneath(_: BorrowedFd<'_>, _: &Path, _: OFlags, _: Mode) -> rustix::io::Result<OwnedFd> {
    Err(Errno::NOSYS)
}

/// There are no files without a name: they have a hidden one.
pub(crate) fn create_unnamed(_: BorrowedFd<'_>, _: Mode) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// There are no files without a name.
pub(crate) fn link_unnamed(_: &File, _: BorrowedFd<'_>, _: &OsStr) -> rustix::io::Result<()> {
    Err(Errno::NOSYS)
}

/// Changes the mode of what was opened.
pub(crate) fn chmod_reached(reached: &OwnedFd, mode: Mode) -> rustix::io::Result<()> {
    sys::fchmod(reached, mode)
}

/// A clone would have to be made under a name of its own: files are copied.
pub(crate) fn is_cloned(_: &File, _: &File) -> bool {
    false
}

/// All of them: nobody says when a whole file system is durable.
pub(crate) const SYNCED_ONE_BY_ONE: usize = usize::MAX;

/// Begins to write everything to the disks, which is not waited for.
pub(crate) fn sync_file_system(_: impl AsFd) -> io::Result<()> {
    sys::sync();
    Ok(())
}

/// A path that opens what this descriptor holds, as long as it is open.
pub(crate) fn descriptor_path(held: BorrowedFd<'_>) -> PathBuf {
    format!("/dev/fd/{}", held.as_raw_fd()).into()
}

/// The path itself: there is no shorter one.
pub(crate) fn short_path(_: BorrowedFd<'_>, path: &Path) -> PathBuf {
    path.to_owned()
}

#[cfg(feature = "process")]
mod process {
    use std::fs::Metadata;
    use std::time::Duration;

    use rustix::process::{Pid, Signal};

    /// The memory of other processes is closed to all but root.
    pub(crate) fn hide_memory() {}

    /// Whoever needs to know asks again.
    pub(crate) fn wait_for_end(_: Pid, _: Duration) {}

    /// Nobody tells who has a file open: what leaves the module's process group is not found.
    pub(crate) fn holders(_: &Metadata) -> Vec<Pid> {
        Vec::new()
    }

    /// The same.
    pub(crate) fn signal_holders(_: &Metadata, _: Signal) {}

    /// Only the first process of a container inherits others.
    pub(crate) fn children() -> Vec<Pid> {
        Vec::new()
    }

    /// Nobody tells: none.
    pub(crate) fn ignored_signals() -> u64 {
        0
    }
}

#[cfg(feature = "local")]
mod watch {
    use std::io;
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    use super::super::{Change, Watched};

    /// How often directories are looked at.
    const LOOK: Duration = Duration::from_millis(100);

    /// Nothing is reported: what there is, is looked at again and again.
    #[derive(Debug, Default)]
    pub(crate) struct Changes {
        watched: Mutex<Vec<PathBuf>>,
    }

    /// The time until the next look.
    #[derive(Debug)]
    pub(crate) struct Told;

    impl Changes {
        /// Whatever comes is found by looking.
        #[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
        pub(crate) fn new() -> io::Result<(Self, Told)> {
            Ok((Self::default(), Told))
        }

        /// Looks at a directory from now on.
        pub(crate) fn watch(&self, dir: &Path, _: Watched) -> io::Result<()> {
            std::fs::read_dir(dir)?;
            self.watched.lock().unwrap_or_else(PoisonError::into_inner).push(dir.to_owned());
            Ok(())
        }

        /// There may have been changes, as long as the directories are there.
        #[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
        pub(crate) fn read(&self, mut heard: impl FnMut(Change)) -> io::Result<()> {
            let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            if watched.iter().any(|dir| !dir.is_dir()) {
                watched.clear();
                heard(Change::Unwatched);
            }
            heard(Change::Lost);
            Ok(())
        }
    }

    impl Told {
        /// Waits until it is time to look.
        #[expect(clippy::unused_self, reason = "elsewhere there is something to wait for")]
        pub(crate) async fn told(&self) -> io::Result<()> {
            tokio::time::sleep(LOOK).await;
            Ok(())
        }
    }
}
