//! Files that are there whole or not at all, and still there after a power cut.

// Each provider uses a part of this file.
#![cfg_attr(not(all(feature = "local", feature = "bucket")), allow(dead_code))]

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, OFlags};
use uuid::Uuid;

/// Up to this many files are made durable one by one, more by syncing their file system once.
///
/// One `syncfs` beats thousands of `fsync` calls, but it also waits for what other programs wrote.
const FEW: usize = 64;

/// How often a directory is made for a file: somebody else may remove it while it is empty.
const MADE_AGAIN: usize = 8;

/// A file that has no name yet: if the process dies, nothing is left of it, unless it was just about to replace
/// another one; then a hidden `.….tmp` may be.
#[derive(Debug)]
pub(crate) struct Staged {
    file: File,
    /// On file systems that know no unnamed files, the name it has meanwhile.
    name: Option<PathBuf>,
}

impl Staged {
    /// Makes an empty file on the file system of the directory `dir`.
    pub(crate) fn new_in(dir: &Path, executable: bool) -> io::Result<Self> {
        let mode = if executable { 0o755 } else { 0o644 };
        let unnamed = OFlags::TMPFILE.bits() as i32;
        match File::options().write(true).mode(mode).custom_flags(unnamed).open(dir) {
            Ok(file) => Ok(Self { file, name: None }),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::IsADirectory) =>
            {
                let name = sibling(&dir.join("x"));
                let file = File::options().write(true).create_new(true).mode(mode).open(&name)?;
                Ok(Self { file, name: Some(name) })
            }
            Err(error) => Err(error),
        }
    }

    /// Gives the file its name, replacing what had it; makes the directory if need be.
    pub(crate) fn persist(&mut self, dest: &Path) -> io::Result<()> {
        for _ in 0..MADE_AGAIN {
            match self.link(dest) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if let Some(parent) = dest.parent() {
                        fs::create_dir_all(parent)?;
                    }
                }
                linked => return linked,
            }
        }
        self.link(dest)
    }

    /// Gives the file its name if nothing has that name; otherwise the error is `AlreadyExists`.
    pub(crate) fn insert(&mut self, dest: &Path) -> io::Result<()> {
        match &self.name {
            // Atomic on every file system that knows it; one that does not is no place to decide anything.
            Some(name) => {
                rustix::fs::renameat_with(CWD, name, CWD, dest, rustix::fs::RenameFlags::NOREPLACE)?;
                self.name = None;
                Ok(())
            }
            None => self.link_new(dest),
        }
    }

    fn link(&mut self, dest: &Path) -> io::Result<()> {
        if let Some(name) = &self.name {
            fs::rename(name, dest)?;
            self.name = None;
            return Ok(());
        }
        match self.link_new(dest) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let name = sibling(dest);
                self.link_new(&name)?;
                // From here on it has a name, and could not be linked again without one.
                self.name = Some(name);
                self.link(dest)
            }
            linked => linked,
        }
    }

    fn link_new(&self, dest: &Path) -> io::Result<()> {
        let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(rustix::fs::linkat(CWD, unnamed, CWD, dest, AtFlags::SYMLINK_FOLLOW)?)
    }
}

impl Staged {
    /// Lets `work` write a large file while what it has written already goes to the disk, so that making it
    /// durable in the end does not take as long again. The second result is the disk's.
    pub(crate) fn write_behind<T>(&mut self, work: impl FnOnce(&mut dyn Write) -> T) -> (T, io::Result<()>) {
        let behind = match self.file.try_clone() {
            Ok(file) => file,
            Err(error) => return (work(self), Err(error)),
        };
        let (sender, written) = std::sync::mpsc::sync_channel(1);
        std::thread::scope(|scope| {
            let syncing = scope.spawn(move || written.iter().try_for_each(|()| behind.sync_data()));
            let mut writer = WriteBehind { staged: self, written: 0, sender };
            let done = work(&mut writer);
            drop(writer);
            let synced = syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (done, synced)
        })
    }
}

/// Bytes between two calls to the disk: enough for it to be busy, few enough for it to begin early.
const BEHIND: usize = 64 * 1024 * 1024;

struct WriteBehind<'s> {
    staged: &'s mut Staged,
    written: usize,
    sender: std::sync::mpsc::SyncSender<()>,
}

impl Write for WriteBehind<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.staged.write(bytes)?;
        self.written += n;
        if self.written >= BEHIND {
            self.written = 0;
            // A disk that is still busy with the last call has enough to do.
            let _ = self.sender.try_send(());
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Staged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // Nothing more can be done about a temporary file that cannot be removed.
            let _ = fs::remove_file(name);
        }
    }
}

/// Replaces the file at `path`; it holds durably what `write` wrote when this returns, and the old bytes until
/// then.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut staged = Staged::new_in(dir, false)?;
    let mut buffer = BufWriter::new(&mut staged);
    write(&mut buffer)?;
    buffer.flush()?;
    drop(buffer);
    staged.file.sync_data()?;
    staged.persist(path)?;
    File::open(dir)?.sync_all()
}

/// Makes the contents of staged files in `dir` durable.
pub(crate) fn sync_staged<'s>(
    dir: &Path,
    staged: impl ExactSizeIterator<Item = &'s Staged>,
) -> io::Result<()> {
    if staged.len() > FEW {
        return Ok(rustix::fs::syncfs(File::open(dir)?)?);
    }
    for staged in staged {
        staged.file.sync_data()?;
    }
    Ok(())
}

/// Adds a file to those that [`sync`] is to make durable; more than it looks at one by one are not kept.
pub(crate) fn remember(files: &mut Vec<PathBuf>, path: PathBuf) {
    if files.len() <= FEW {
        files.push(path);
    }
}

/// Makes files below `root`, and the directories that lead to them, durable.
pub(crate) fn sync(root: &Path, files: &[PathBuf]) -> io::Result<()> {
    if files.len() > FEW {
        return Ok(rustix::fs::syncfs(File::open(root)?)?);
    }
    let mut dirs = std::collections::BTreeSet::new();
    for path in files {
        File::open(path)?.sync_all()?;
        dirs.extend(path.ancestors().skip(1).take_while(|dir| dir.starts_with(root)));
    }
    dirs.into_iter().try_for_each(|dir| File::open(dir)?.sync_all())
}

fn sibling(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.tmp", Uuid::new_v4().simple()))
}
