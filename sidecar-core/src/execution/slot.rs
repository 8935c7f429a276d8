//! The place of one execution at a time: the directory that it shares with its module, its own state, their locks.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;

use super::directories;
use crate::contract::Layout;
use crate::error::{Error, Result};

/// A base directory and a state directory that no other sidecar uses while this lives.
#[derive(Debug)]
pub(super) struct Slot {
    layout: Layout,
    state: PathBuf,
    locks: Mutex<[File; 2]>,
}

const LOCK: &str = "lock";
const MODULE_LOCK: &str = "module.lock";

impl Slot {
    /// Makes and locks both directories. Blocks.
    ///
    /// # Errors
    /// [`Error::Busy`] when another sidecar holds one of them.
    pub(super) fn open(layout: Layout, state: PathBuf) -> Result<Self> {
        let locks = Mutex::new(lock(layout.base(), &state)?);
        Ok(Self { layout, state, locks })
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The directory of the journal.
    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    /// Where cleared outputs wait to be removed.
    fn trash(&self) -> PathBuf {
        self.state.join("trash")
    }

    /// Makes every directory of the contract that is absent. Blocks.
    pub(super) fn make(&self) -> Result<()> {
        directories::make(&self.layout)
    }

    /// Empties `in/`. Blocks.
    pub(super) fn clear_inputs(&self) -> Result<()> {
        directories::clear(&self.layout)
    }

    /// Writes `in/meta.json`. Blocks.
    pub(super) fn write_meta(&self, json: &[u8]) -> Result<()> {
        directories::write_meta(&self.layout, json)
    }

    /// Whether a module wiped the base directory after it was ready, as one that starts again does.
    pub(super) fn inputs_are_gone(&self) -> bool {
        !self.layout.input_meta().exists()
    }

    /// Empties `out/`; what was in it waits in the trash. Blocks.
    pub(super) fn clear_outputs(&self) -> Result<()> {
        directories::clear_outputs(&self.layout, &self.trash())
    }

    /// Moves what lies in `out/` to a new directory in `out/.previous`, whose name is returned. Blocks.
    pub(super) fn set_outputs_aside(&self) -> Result<Option<PathBuf>> {
        directories::set_outputs_aside(&self.layout)
    }

    /// Removes what was cleared. Blocks.
    pub(super) fn empty_trash(&self) -> Result<()> {
        directories::remove(&self.trash())
    }

    /// Refuses to begin beside a module that was started before, or whatever it has left running. Blocks.
    pub(super) fn refuse_beside_a_module(&self) -> Result<()> {
        match fs::symlink_metadata(self.state.join(MODULE_LOCK)) {
            // Where none was left behind, none is made.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            _ => self.lock_module().map(drop),
        }
    }

    /// Takes the lock that a module holds as long as it, or anything that inherited it, is at work. Blocks.
    pub(super) fn lock_module(&self) -> Result<File> {
        let path = self.state.join(MODULE_LOCK);
        let file = lock_file(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(Error::Busy(format!(
                "the module of an earlier run, or something that it started, still works in {}: wait for it or \
                 end it (fuser {} finds it)",
                self.layout.base().display(),
                path.display(),
            ))),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
        }
    }

    /// Forgets the module that has ended: what it left running on purpose hinders nobody.
    pub(super) fn forget_module(&self) {
        // A file that nobody holds locked hinders nobody either.
        let _ = fs::remove_file(self.state.join(MODULE_LOCK));
    }

    /// Takes the locks again if the module wiped the directories that held them. Blocks.
    pub(super) fn survive_wipe(&self) -> Result<()> {
        let held = |lock: &File, path: &Path| match (lock.metadata(), fs::metadata(path)) {
            (Ok(held), Ok(now)) => held.ino() == now.ino() && held.dev() == now.dev(),
            _ => false,
        };
        let (base_dir, lock_file) = (self.layout.base(), self.state.join(LOCK));
        let mut locks = self.locks();
        let [base, file] = &*locks;
        if held(base, base_dir) && held(file, &lock_file) {
            return Ok(());
        }
        for (lock, path) in [(base, base_dir), (file, &*lock_file)] {
            if held(lock, path) {
                // It is ours: taking it a second time through another file would find it taken.
                lock.unlock().map_err(Error::io("lock", path))?;
            }
        }
        *locks = lock(base_dir, &self.state)?;
        Ok(())
    }

    fn locks(&self) -> MutexGuard<'_, [File; 2]> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Locks the base directory and the state directory, making them when they are absent.
fn lock(base: &Path, dir: &Path) -> Result<[File; 2]> {
    fs::create_dir_all(base).map_err(|error| {
        let is_file = error.kind() == io::ErrorKind::AlreadyExists;
        let error = if is_file { io::Error::other("it is no directory") } else { error };
        Error::io("use", base)(error)
    })?;
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    // State is nobody else's business: it names keys and ids.
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::io("create", dir)(error));
        }
        _ => {}
    }
    let path = dir.join(LOCK);
    let locks = [File::open(base).map_err(Error::io("lock", base))?, lock_file(&path)?];
    for (lock, path, flag) in [(&locks[0], base, "--basedir"), (&locks[1], dir, "--statedir")] {
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let place = path.display();
                return Err(Error::Busy(format!(
                    "another sidecar works in {place}: wait for it, or give this one its own {flag}"
                )));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
        }
    }
    Ok(locks)
}

/// Opens a file that is there to be locked; nothing is written to it, and no link is followed.
fn lock_file(path: &Path) -> Result<File> {
    // Some file systems lock only what is open for writing.
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    options.open(path).map_err(Error::io("lock", path))
}
