//! What a command is called, and finding it before anything is staged for it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use rustix::fs::{Access, access};

/// The module's name where none is given: that of its script, or of its command.
pub fn module_name(command: &[OsString]) -> String {
    let is_script = |part: &&Path| part.extension().is_some() && part.is_file();
    let script = command.iter().skip(1).map(Path::new).find(is_script);
    let named = script.or_else(|| command.first().map(Path::new)).and_then(Path::file_stem);
    named.map_or_else(|| "module".into(), |stem| stem.to_string_lossy().into_owned())
}

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
