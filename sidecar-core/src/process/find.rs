//! What a command is called, and finding it before anything is staged for it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use rustix::fs::{Access, access};

/// Programs that are given a script, without the digits of their versions.
const INTERPRETERS: [&str; 10] =
    ["python", "pypy", "sh", "bash", "node", "ruby", "perl", "Rscript", "julia", "php"];

/// The module's name where none is given: that of its script, or of its command.
pub fn module_name(command: &[OsString]) -> String {
    let program = command.first().map(Path::new).and_then(Path::file_stem).unwrap_or_default();
    let program = program.to_string_lossy();
    let interprets = INTERPRETERS
        .iter()
        .any(|known| program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.') == *known);
    let mut words = command.iter().skip(1);
    if interprets {
        // The name of a script that is not there is no other.
        while let Some(word) = words.next() {
            match word.to_str() {
                Some("-m") => {
                    let module = words.next().map(|module| module.to_string_lossy()).unwrap_or_default();
                    return module
                        .rsplit('.')
                        .next()
                        .filter(|name| !name.is_empty())
                        .unwrap_or("module")
                        .to_owned();
                }
                Some("-c" | "-e") | None => break,
                Some(flag) if flag.starts_with('-') => {}
                Some(script) if Path::new(script).extension().is_some() => {
                    let stem = Path::new(script).file_stem().unwrap_or_default();
                    return stem.to_string_lossy().into_owned();
                }
                Some(_) => break,
            }
        }
    }
    let is_script = |part: &&Path| part.extension().is_some() && part.is_file();
    let script = command.iter().skip(1).map(Path::new).find(is_script);
    let named = script.or_else(|| command.first().map(Path::new)).and_then(Path::file_stem);
    named.map_or_else(|| "module".into(), |stem| stem.to_string_lossy().into_owned())
}

/// Whether the command can be started: as a path if it has a slash, otherwise through `PATH`.
///
/// # Errors
/// `NotFound`, or `PermissionDenied` for a file that is not executable.
pub fn find(program: &OsStr) -> io::Result<()> {
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
    fn a_module_is_called_after_its_script_or_its_command() {
        for (command, name) in [
            ("thumbnail --size 3", "thumbnail"),
            ("/opt/bin/thumbnail.sh x", "thumbnail"),
            ("python3 -u split.py", "split"),
            ("python3.11 missing/split.py x.txt", "split"),
            ("python3 -m package.split", "split"),
            ("sh -c date>now.txt", "sh"),
            ("bash script", "bash"),
            ("node -e x.y", "node"),
            ("", "module"),
        ] {
            let command: Vec<OsString> =
                command.split(' ').filter(|word| !word.is_empty()).map(Into::into).collect();
            assert_eq!(module_name(&command), name, "{command:?}");
        }
    }

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
