//! What a command is called, and finding it before anything is staged for it.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
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
/// `NotFound` if the program, or the interpreter that its first line names, does not exist, `PermissionDenied` if it is not
/// executable, `Other` for a script without such a line.
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
    access(path, Access::EXEC_OK)?;
    // Once its inputs are staged it is too late.
    no_program(path).map_or(Ok(()), Err)
}

/// Why the system does not start an executable file, as far as its beginning tells: a script without an interpreter.
fn no_program(path: &Path) -> Option<io::Error> {
    let mut beginning = Vec::new();
    std::fs::File::open(path).ok()?.take(LONGEST_LINE).read_to_end(&mut beginning).ok()?;
    let line = beginning.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Some(line) = line.strip_prefix(b"#!") else {
        let is_text = !beginning.is_empty() && !beginning.contains(&0) && std::str::from_utf8(line).is_ok();
        let is_other = beginning.is_empty() || beginning.starts_with(b"\x7fELF") || !is_text;
        let why = "name its interpreter in its first line (#!/bin/sh), or before it";
        return (!is_other).then(|| io::Error::other(why));
    };
    let line = String::from_utf8_lossy(line);
    let words = line.split([' ', '\t']).filter(|word| !word.is_empty());
    let interpreter = words.into_iter().next()?;
    std::fs::metadata(interpreter).err().map(|_| {
        let why = match interpreter.strip_suffix('\r') {
            Some(_) => "the interpreter that its first line names does not exist: the line ends with \\r\\n"
                .to_owned(),
            None => format!("the interpreter {interpreter} that its first line names does not exist"),
        };
        io::Error::new(io::ErrorKind::NotFound, why)
    })
}

/// The longest first line that the system reads, in bytes (`BINPRM_BUF_SIZE` of Linux).
const LONGEST_LINE: u64 = 256;

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

    #[test]
    fn a_script_without_an_interpreter_is_found_before_it_is_started() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("script");
        let why = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            no_program(&path).map(|error| error.to_string())
        };
        for fine in [&b"#!/bin/sh\n"[..], b"#! /bin/sh -e\nexit", b"\x7fELF\x02", b"", b"MZ\0\0"] {
            assert_eq!(why(fine), None, "{fine:?}");
        }
        assert!(why(b"import sys\n").unwrap().contains("#!/bin/sh"));
        assert!(why(b"#!/usr/bin/pyhton3\n").unwrap().contains("/usr/bin/pyhton3 that"));
        assert!(why(b"#!/bin/sh\r\nexit\r\n").unwrap().contains("\\r\\n"));
    }
}
