//! A `sidecar run` that was killed leaves its module at work: the next one must not start a second beside it.
//!
//! The module, and every process that it starts, inherits a locked file, so that the lock is free only when all
//! of them have ended.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use tokio::process::{Child, Command};
use tracing::warn;

/// Waits until the processes of an earlier run have ended.
///
/// # Errors
/// When the lock in `state_dir` cannot be read.
pub(crate) async fn wait(state_dir: &Path, base: &Path) -> io::Result<()> {
    let path = path(state_dir);
    let mut told = false;
    loop {
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        match file.try_lock() {
            Ok(()) => return Ok(()),
            // Its module is at work by right: this run is refused as soon as it opens its session.
            Err(TryLockError::WouldBlock) if has_a_sidecar(base) => return Ok(()),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if !std::mem::replace(&mut told, true) {
            // Empty where the sidecar was killed just after it started the module.
            let pid = fs::read_to_string(&path).unwrap_or_default();
            warn!("waiting for the module of an earlier run, process {pid}, and all that it started to end");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Starts the module with the lock in its hands.
///
/// # Errors
/// When it cannot be started, or the lock cannot be made.
pub(crate) fn spawn(command: &mut Command, state_dir: &Path) -> io::Result<Child> {
    let mut file = File::options().create(true).truncate(true).write(true).open(path(state_dir))?;
    file.try_lock()?;
    fcntl_setfd(&file, FdFlags::empty())?;
    let child = command.spawn()?;
    write!(file, "{}", child.id().unwrap_or_default())?;
    Ok(child)
}

/// Forgets the module, which has ended: what it left running on purpose is nobody's hindrance.
pub(crate) fn forget(state_dir: &Path) {
    // One that is left over and that nobody holds is none either.
    let _ = fs::remove_file(path(state_dir));
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("module.lock")
}

fn has_a_sidecar(base: &Path) -> bool {
    File::open(base).is_ok_and(|base| matches!(base.try_lock(), Err(TryLockError::WouldBlock)))
}
