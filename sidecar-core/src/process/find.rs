//! Finding a command before anything is staged for it.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use rustix::fs::{Access, access};

/// Whether the command can be started: as a path if it has a slash, otherwise through `PATH`.
///
/// # Errors
/// `NotFound`, or `PermissionDenied` for a file that is not executable.
pub(super) fn find(program: &OsStr) -> io::Result<()> {
    if program.as_encoded_bytes().contains(&b'/') {
        return usable(Path::new(program));
    }
    // Where none is set, the system looks in these.
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut found = Err(io::ErrorKind::NotFound.into());
    for dir in std::env::split_paths(&path) {
        match usable(&dir.join(program)) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => found = Err(error),
            Err(_) => {}
        }
    }
    found
}

fn usable(path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(access(path, Access::EXEC_OK)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_found_or_not_before_it_is_started() {
        find(OsStr::new("sh")).unwrap();
        find(OsStr::new("/bin/sh")).unwrap();
        let kind = |program: &str| find(OsStr::new(program)).unwrap_err().kind();
        assert_eq!(kind("no-such-command"), io::ErrorKind::NotFound);
        assert_eq!(kind("/etc/hostname/x"), io::ErrorKind::NotADirectory);
        assert_eq!(kind("/etc/passwd"), io::ErrorKind::PermissionDenied);
        assert_eq!(kind("/etc"), io::ErrorKind::PermissionDenied);
    }
}
