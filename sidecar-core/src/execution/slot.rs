//! The place of one execution at a time: the directory that it shares with its module, its own state, their locks.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::Mode;
use rustix::process::geteuid;

use super::directories;
use super::spec::ModuleUser;
use crate::contract::{Layout, Phase};
use crate::dir::Dir;
use crate::durable;
use crate::error::{Error, Result};
use crate::lock::{Locked, not_locked};

/// A base directory and a state directory that no other sidecar uses while this lives.
#[derive(Debug)]
pub(super) struct Slot {
    layout: Layout,
    state: PathBuf,
    user: ModuleUser,
    held: Mutex<Arc<Held>>,
}

/// The two directories as they were found, whatever their paths lead to by now.
#[derive(Debug)]
struct Held {
    /// Locked itself.
    base: Arc<Dir>,
    state: Arc<Dir>,
    /// The lock of the state directory.
    lock: Arc<Locked<File>>,
}

const LOCK: &str = "lock";
const MODULE_LOCK: &str = "module.lock";

impl Slot {
    /// Makes and locks both directories. Blocks.
    ///
    /// # Errors
    /// [`Error::Busy`] when another sidecar holds one of them, [`Error::Io`] when one cannot be used: also when the
    /// state directory belongs to another user, or others may write it.
    pub(super) fn open(layout: Layout, state: PathBuf, user: ModuleUser) -> Result<Self> {
        let base = lock_base(layout.base(), user)?;
        let held = hold(base, layout.base(), &state)?;
        durable::remove_leftovers(&held.state).map_err(Error::io("tidy up", &state))?;
        let held = Mutex::new(Arc::new(held));
        Ok(Self { layout, state, user, held })
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where the state directory was found, for messages.
    pub(super) fn state_path(&self) -> &Path {
        &self.state
    }

    /// The directory shared with the module.
    pub(super) fn base(&self) -> Arc<Dir> {
        self.held().base.clone()
    }

    /// The directory of the journal.
    pub(super) fn state(&self) -> Arc<Dir> {
        self.held().state.clone()
    }

    /// Makes every directory of the contract that is absent. Blocks.
    pub(super) fn make(&self) -> Result<()> {
        directories::make(&self.base())
    }

    /// The directory of the input files. Blocks.
    pub(super) fn input_data(&self) -> Result<Arc<Dir>> {
        directories::input_data(&self.base()).map(Arc::new)
    }

    /// Empties `in/`. Blocks.
    pub(super) fn clear_inputs(&self) -> Result<()> {
        directories::clear_inputs(&self.base())
    }

    /// Writes `in/meta.json`. Blocks.
    pub(super) fn write_meta(&self, json: &[u8]) -> Result<()> {
        directories::write_meta(&self.base(), self.user, json)
    }

    /// Whether a module wiped the base directory after it was ready, as one that starts again does.
    pub(super) fn inputs_are_gone(&self) -> bool {
        !self.layout.input_meta().exists()
    }

    /// Refuses to commit what lies in a directory that took the place of the one that was prepared.
    pub(super) fn refuse_another_base(&self) -> Result<()> {
        match Dir::open(self.layout.base()) {
            Ok(now) if now.is(&self.base()) => Ok(()),
            _ => Err(Error::OutOfOrder {
                call: "commit",
                phase: Phase::Ready,
                hint: format!(
                    "{} is not the directory that was prepared: call ready again",
                    self.layout.base().display()
                ),
            }),
        }
    }

    /// Empties `out/`; what was in it waits in the trash. Blocks.
    pub(super) fn clear_outputs(&self) -> Result<()> {
        directories::clear_outputs(&self.base(), &self.state())
    }

    /// Whether anything lies in `out/` that a commit would take. Blocks.
    pub(super) fn has_outputs(&self) -> bool {
        directories::has_outputs(&self.base())
    }

    /// Moves what lies in `out/` to a new directory in `out/.previous`, whose name is returned. Blocks.
    pub(super) fn set_outputs_aside(&self) -> Result<Option<PathBuf>> {
        directories::set_outputs_aside(&self.base())
    }

    /// Removes what was set aside before. Blocks.
    pub(super) fn forget_previous(&self) -> Result<()> {
        directories::forget_previous(&self.base())
    }

    /// Removes what was cleared. Blocks.
    pub(super) fn empty_trash(&self) -> Result<()> {
        directories::remove(&self.state(), directories::TRASH)
    }

    /// Refuses to begin beside a module that was started before, or whatever it has left running. Blocks.
    pub(super) fn refuse_beside_a_module(&self) -> Result<()> {
        match self.state().stat(MODULE_LOCK) {
            // Where none was left behind, none is made.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // Given up and not only closed: see `Locked`.
            _ => self.lock_module()?.unlock().map_err(Error::io("unlock", self.state.join(MODULE_LOCK))),
        }
    }

    /// Takes the lock that a module holds as long as it, or anything that inherited it, is at work. Blocks.
    pub(super) fn lock_module(&self) -> Result<File> {
        let path = self.state.join(MODULE_LOCK);
        let file = self.state().open_lock(MODULE_LOCK).map_err(Error::io("lock", &path))?;
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
        let _ = self.state().remove_file(Path::new(MODULE_LOCK));
    }

    /// Takes the directories again if the module wiped them. Blocks.
    pub(super) fn survive_wipe(&self) -> Result<()> {
        let mut held = self.held();
        let base = match Dir::open(self.layout.base()) {
            Ok(now) if now.is(&held.base) => held.base.clone(),
            _ => lock_base(self.layout.base(), self.user)?,
        };
        let state = Dir::open(&self.state).is_ok_and(|now| now.is(&held.state));
        if state && Arc::ptr_eq(&base, &held.base) {
            return Ok(());
        }
        *held = Arc::new(match state {
            true => Held { base, state: held.state.clone(), lock: held.lock.clone() },
            false => hold(base, self.layout.base(), &self.state)?,
        });
        Ok(())
    }

    /// Makes the state directory again if the module wiped it, and says whether it did; the base directory stays the
    /// one that is held. Blocks.
    pub(super) fn survive_wiped_state(&self) -> Result<bool> {
        let mut held = self.held();
        if Dir::open(&self.state).is_ok_and(|now| now.is(&held.state)) {
            return Ok(false);
        }
        fs::create_dir_all(self.layout.base()).map_err(Error::io("create", self.layout.base()))?;
        // Below a base directory that was wiped nothing can be made.
        let base = Dir::open(self.layout.base()).map_err(Error::io("open", self.layout.base()))?;
        let Held { state, lock, .. } = hold(Arc::new(base), self.layout.base(), &self.state)?;
        *held = Arc::new(Held { base: held.base.clone(), state, lock });
        Ok(true)
    }

    fn held(&self) -> MutexGuard<'_, Arc<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes and locks the base directory.
fn lock_base(path: &Path, user: ModuleUser) -> Result<Arc<Dir>> {
    let is_new = !path.exists();
    user.make_reachable(path).map_err(|error| {
        let is_file = error.kind() == io::ErrorKind::AlreadyExists;
        let error = if is_file { io::Error::other("it is not a directory") } else { error };
        Error::io("use", path)(error)
    })?;
    let base = Dir::open(path).and_then(Dir::locked).map_err(not_locked(path, taken(path, "--basedir")))?;
    let heirs = match user {
        ModuleUser::Other { uid, gid } => Some((uid, gid)),
        ModuleUser::Unknown | ModuleUser::Same => None,
    };
    if let Some((uid, gid)) = heirs.filter(|_| is_new) {
        base.give(uid, gid).map_err(Error::io("give away", path))?;
    }
    Ok(Arc::new(base.for_heirs(heirs)))
}

/// Makes and locks the state directory.
fn hold(base: Arc<Dir>, base_path: &Path, path: &Path) -> Result<Held> {
    let use_it = |error: io::Error| {
        let is_other = error.kind() == io::ErrorKind::NotADirectory;
        let why = "it is a link or a file, or lies in one, and must be a directory";
        Error::io("use", path)(if is_other { io::Error::other(why) } else { error })
    };
    let name = path.file_name().map(Path::new).ok_or_else(|| use_it(io::ErrorKind::InvalidInput.into()))?;
    // Below the base directory the module may have put a link anywhere.
    let (dir, name) = match path.strip_prefix(base_path) {
        Ok(below) => (base.try_clone().map_err(use_it)?.for_heirs(None), below),
        Err(_) => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
            (Dir::open(parent).map_err(use_it)?, name)
        }
    };
    // State is nobody else's business: it names keys and ids.
    let state = dir.make_private_dir(name).map_err(use_it)?;
    let stat = state.own_stat().map_err(use_it)?;
    if stat.st_uid != geteuid().as_raw() {
        return Err(use_it(io::Error::other(format!(
            "it belongs to the user {} and not to this one: give --statedir a directory of its own",
            stat.st_uid
        ))));
    }
    if Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
        return Err(use_it(io::Error::other(
            "other users may write it: take the right away with chmod go-w, or give another --statedir",
        )));
    }
    let lock_path = path.join(LOCK);
    let file = state.open_lock(LOCK).map_err(Error::io("lock", &lock_path))?;
    let lock = Locked::new(file).map_err(not_locked(path, taken(path, "--statedir")))?;
    Ok(Held { base, state: Arc::new(state), lock: Arc::new(lock) })
}

/// What is said of a directory that another sidecar has locked.
fn taken(path: &Path, flag: &str) -> String {
    format!("another sidecar works in {}: wait for it, or give this one its own {flag}", path.display())
}
