//! Locks of files and directories (flock(2)).

use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::Error;

/// An open file or directory that nobody else locks until this is dropped.
///
/// The lock is given up and not only closed: a process that is just being started has a copy of each descriptor for a
/// moment, and would go on holding it.
#[derive(Debug)]
pub(crate) struct Locked<F: AsFd>(F);

impl<F: AsFd> Locked<F> {
    /// Locks it without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when somebody else has locked it.
    pub(crate) fn new(file: F) -> io::Result<Self> {
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self(file))
    }
}

impl<F: AsFd> Deref for Locked<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.0
    }
}

impl<F: AsFd> Drop for Locked<F> {
    fn drop(&mut self) {
        // Where that fails, to close it does the same a moment later.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Why something could not be locked; `busy` where somebody else has locked it.
pub(crate) fn not_locked(path: &Path, busy: String) -> impl FnOnce(io::Error) -> Error + '_ {
    move |error| match error.kind() {
        io::ErrorKind::WouldBlock => Error::Busy(busy),
        _ => Error::io("lock", path)(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_was_given_up_is_free_although_its_descriptor_has_a_copy() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || std::fs::File::open(file.path()).unwrap();
        let locked = Locked::new(open()).unwrap();
        let _copy = locked.try_clone().unwrap();
        assert_eq!(Locked::new(open()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(locked);
        Locked::new(open()).unwrap();
    }
}
