//! Files that are there whole or not at all, and still there after a power cut.

// Each provider uses a part of this file.
#![cfg_attr(not(all(feature = "local", feature = "bucket")), allow(dead_code))]

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, Uid};
use uuid::Uuid;

use crate::dir::{self, Dir};
use crate::os;

/// Up to this many files are made durable one by one, more by syncing their file system once.
///
/// One `syncfs` beats thousands of `fsync` calls, but it also waits for what other programs wrote.
pub(crate) const FEW: usize = os::SYNCED_ONE_BY_ONE;

/// How often a directory is made for a file: somebody else may remove it while it is empty.
const MADE_AGAIN: usize = 8;

/// A file that has no name yet: if the process dies, nothing is left of it, unless it was just about to replace
/// another one; then a hidden `.….tmp` may be.
#[derive(Debug)]
pub(crate) struct Staged {
    file: File,
    /// On file systems that know no unnamed files, the name it has meanwhile.
    name: Option<(Dir, PathBuf)>,
}

impl Staged {
    /// Makes an empty file on the file system of the directory `dir`, accessible as `mode` and the umask say.
    pub(crate) fn new_in(dir: &Dir, mode: Mode) -> io::Result<Self> {
        match dir.create_unnamed(mode) {
            Ok(file) => Ok(Self { file, name: None }),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::IsADirectory) =>
            {
                Self::hidden_in(dir, mode)
            }
            Err(error) => Err(error),
        }
    }

    /// The same with a hidden name, which is one step less where it takes the place of another file.
    fn hidden_in(dir: &Dir, mode: Mode) -> io::Result<Self> {
        let name = sibling(Path::new("x"));
        let file = dir.create_file(&name, mode)?;
        Ok(Self { file, name: Some((dir.try_clone()?, name)) })
    }

    /// The file itself.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Makes it accessible as `mode` says, whatever the umask.
    pub(crate) fn set_mode(&self, mode: Mode) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&self.file, mode)?)
    }

    /// Gives it to another user or group.
    pub(crate) fn give(&self, uid: Option<u32>, gid: u32) -> io::Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), Gid::from_raw(gid));
        Ok(rustix::fs::fchown(&self.file, uid, Some(gid))?)
    }

    /// Gives the file a name below `dir`, replacing what had it; makes its directory if need be.
    pub(crate) fn persist(&mut self, dir: &Dir, dest: &Path) -> io::Result<()> {
        for _ in 0..MADE_AGAIN {
            match self.link(dir, dest) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    dir.make_dir(dest.parent().unwrap_or(Path::new("")))?;
                }
                linked => return linked,
            }
        }
        self.link(dir, dest)
    }

    /// Gives the file its name if nothing has that name; otherwise the error is `AlreadyExists`.
    pub(crate) fn insert(&mut self, dir: &Dir, dest: &Path) -> io::Result<()> {
        match &self.name {
            // Atomic on every file system that knows it; one that does not is no place to decide anything.
            Some((_, name)) => {
                dir.rename_new(name, dest)?;
                self.name = None;
                Ok(())
            }
            None => dir.link(&self.file, dest),
        }
    }

    /// The same where its directory is there.
    pub(crate) fn link(&mut self, dir: &Dir, dest: &Path) -> io::Result<()> {
        if let Some((there, name)) = &self.name {
            there.rename(name, dir, dest)?;
            self.name = None;
            return Ok(());
        }
        match dir.link(&self.file, dest) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let name = sibling(dest);
                dir.link(&self.file, &name)?;
                // From here on it has a name, and could not be linked again without one.
                self.name = Some((dir.try_clone()?, name));
                self.link(dir, dest)
            }
            linked => linked,
        }
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
        if let Some((dir, name)) = &self.name {
            // Nothing more can be done about a temporary file that cannot be removed.
            let _ = dir.remove_file(name);
        }
    }
}

/// Replaces a file in `dir`: it holds what `write` wrote when this returns, and the old bytes until then; where it is
/// `synced`, also after a power cut.
pub(crate) fn replace(
    dir: &Dir,
    name: &str,
    synced: bool,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut staged = Staged::hidden_in(dir, Mode::RUSR | Mode::WUSR)?;
    let mut buffer = BufWriter::new(&mut staged);
    write(&mut buffer)?;
    buffer.flush()?;
    drop(buffer);
    if synced {
        staged.file.sync_data()?;
    }
    staged.persist(dir, Path::new(name))?;
    if synced { dir.sync() } else { Ok(()) }
}

/// Makes the contents of staged files in `dir` durable.
pub(crate) fn sync_staged<'s>(
    dir: &Dir,
    staged: impl ExactSizeIterator<Item = &'s Staged>,
) -> io::Result<()> {
    if staged.len() > FEW {
        return dir.sync_file_system();
    }
    for staged in staged {
        staged.file.sync_data()?;
    }
    Ok(())
}

/// Makes files below `root`, and the directories that lead to them, durable.
pub(crate) fn sync(root: &Path, files: &[PathBuf]) -> io::Result<()> {
    if files.len() > FEW {
        return os::sync_file_system(File::open(root)?);
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

/// Removes what processes left that died while they replaced a file of this directory. Nobody may be at it.
pub(crate) fn remove_leftovers(dir: &Dir) -> io::Result<()> {
    let mut left = Vec::new();
    dir.entries(|name, _| {
        let name = dir::os(name);
        if name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(".tmp")) {
            left.push(PathBuf::from(name));
        }
        Ok(true)
    })?;
    left.iter().try_for_each(|name| dir.remove_file(name))
}
