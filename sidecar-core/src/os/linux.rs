//! Linux: `openat2`, files without a name, clones, inotify, and `/proc`.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, AtFlags, CWD, Mode, OFlags, ResolveFlags};

#[cfg(feature = "process")]
pub(crate) use process::*;
#[cfg(feature = "local")]
pub(crate) use watch::{Changes, Told};

/// For reaching what lies in a directory, whatever its permissions.
pub(crate) const REACHABLE: OFlags = OFlags::PATH;

/// What may never happen to a path below a held directory.
const WITHIN: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Opens what lies below a directory under a relative path, without following a link on the way.
///
/// # Errors
/// `NOSYS` where the system has no such call.
pub(crate) fn open_beneath(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    sys::openat2(dir, path, flags, mode, WITHIN)
}

/// Makes a file on the file system of a directory that has no name yet.
///
/// # Errors
/// `Unsupported` or `IsADirectory` where there is no such thing.
pub(crate) fn create_unnamed(dir: BorrowedFd<'_>, mode: Mode) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    Ok(sys::openat(dir, ".", flags, mode)?.into())
}

/// Gives a file without a name one, unless that is taken.
pub(crate) fn link_unnamed(file: &File, dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    sys::linkat(CWD, descriptor_path(file.as_fd()), dir, name, AtFlags::SYMLINK_FOLLOW)
}

/// Changes the mode of what was opened only to be reached.
pub(crate) fn chmod_reached(reached: &OwnedFd, mode: Mode) -> rustix::io::Result<()> {
    sys::chmod(descriptor_path(reached.as_fd()), mode)
}

/// Whether the empty file `to` has the content of `from` now, without a copy.
pub(crate) fn is_cloned(from: &File, to: &File) -> bool {
    sys::ioctl_ficlone(to, from).is_ok()
}

/// Up to this many files are made durable one by one, more by syncing their file system once.
pub(crate) const SYNCED_ONE_BY_ONE: usize = 64;

/// Makes everything on a file system durable.
pub(crate) fn sync_file_system(on_it: impl AsFd) -> io::Result<()> {
    Ok(sys::syncfs(on_it)?)
}

/// A path that opens what this descriptor holds, as long as it is open.
pub(crate) fn descriptor_path(held: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", held.as_raw_fd()).into()
}

/// A short path to a held directory: that of a socket must not be long.
pub(crate) fn short_path(dir: BorrowedFd<'_>, _: &Path) -> PathBuf {
    descriptor_path(dir)
}

#[cfg(feature = "process")]
mod process {
    use std::fs::{self, Metadata};
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{
        DumpableBehavior, Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal,
        set_dumpable_behavior,
    };

    /// Keeps other processes of this user from reading the memory and the environment of this one.
    pub(crate) fn hide_memory() {
        // What cannot be hidden is as it was.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }

    /// Waits until a process has ended, but not longer than this. Blocks.
    pub(crate) fn wait_for_end(pid: Pid, longest: Duration) {
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        let longest = Timespec {
            tv_sec: longest.as_secs().try_into().unwrap_or_default(),
            tv_nsec: longest.subsec_nanos().into(),
        };
        let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&longest));
    }

    /// The other processes that have this file open.
    pub(crate) fn holders(file: &Metadata) -> Vec<Pid> {
        let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
        let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let own = getpid();
        numbers.filter_map(Pid::from_raw).filter(|pid| *pid != own && holds(*pid, file)).collect()
    }

    /// Sends a signal to each process that has this file open.
    pub(crate) fn signal_holders(file: &Metadata, signal: Signal) {
        for pid in holders(file) {
            // Held by descriptor, so that the signal cannot reach another process that was given the same number since.
            let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            if holds(pid, file) {
                let _ = pidfd_send_signal(process, signal);
            }
        }
    }

    fn holds(pid: Pid, file: &Metadata) -> bool {
        let Ok(open) = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())) else { return false };
        open.flatten()
            .filter_map(|descriptor| fs::metadata(descriptor.path()).ok())
            .any(|other| (other.dev(), other.ino()) == (file.dev(), file.ino()))
    }

    /// The children of this process, whoever started them.
    pub(crate) fn children() -> Vec<Pid> {
        let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let children = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
        let numbers =
            |line: String| line.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>();
        children.flat_map(numbers).filter_map(Pid::from_raw).collect()
    }

    /// The signals that this process ignores, as a bit mask; nothing where the system does not tell.
    pub(crate) fn ignored_signals() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
    }
}

#[cfg(feature = "local")]
mod watch {
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::path::Path;
    use std::sync::Arc;

    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
    use rustix::io::Errno;
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    use super::super::{Change, Watched};

    /// What the kernel reports of directories.
    #[derive(Debug)]
    pub(crate) struct Changes(Arc<OwnedFd>);

    /// The kernel's word that there is something to read.
    #[derive(Debug)]
    pub(crate) struct Told(AsyncFd<Arc<OwnedFd>>);

    impl Changes {
        /// Reports nothing yet.
        pub(crate) fn new() -> io::Result<(Self, Told)> {
            let inotify = Arc::new(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?);
            #[expect(
                deprecated,
                reason = "the descriptor is owned and kept, which is all that its successor asks for"
            )]
            let told = AsyncFd::with_interest(inotify.clone(), Interest::READABLE)?;
            Ok((Self(inotify), Told(told)))
        }

        /// Reports what comes into a directory, or is closed there, from now on.
        pub(crate) fn watch(&self, dir: &Path, what: Watched) -> io::Result<()> {
            let flags = match what {
                Watched::Arrivals => WatchFlags::MOVED_TO | WatchFlags::CREATE,
                Watched::Closes => WatchFlags::CLOSE_WRITE,
            };
            inotify::add_watch(&self.0, dir, flags | WatchFlags::ONLYDIR)?;
            Ok(())
        }

        /// Hands on what was reported since the last call.
        pub(crate) fn read(&self, mut heard: impl FnMut(Change)) -> io::Result<()> {
            let mut buffer = [MaybeUninit::uninit(); 16 << 10];
            let mut reader = Reader::new(&*self.0, &mut buffer);
            loop {
                match reader.next() {
                    Ok(event) if event.events().contains(ReadFlags::IGNORED) => heard(Change::Unwatched),
                    Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => heard(Change::Lost),
                    Ok(event) => {
                        if let Some(name) = event.file_name().and_then(|name| name.to_str().ok()) {
                            heard(Change::Name(name.to_owned()));
                        }
                    }
                    Err(Errno::WOULDBLOCK) => return Ok(()),
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }

    impl Told {
        /// Waits until there is something to read.
        pub(crate) async fn told(&self) -> io::Result<()> {
            self.0.readable().await.map(|mut told| told.clear_ready())
        }
    }
}
