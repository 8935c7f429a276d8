//! How the program comes to where it is used.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tempfile::TempDir;

use crate::process::output;

/// An init container without a shell brings the program; one that is there is replaced, even while it runs.
#[test]
fn the_program_installs_itself() {
    let dir = TempDir::new().unwrap();
    for _ in 0..2 {
        let (code, _, log) = output(&dir, &["install", "a/bin"]);
        assert_eq!(code, 0, "{log}");
    }
    let program = dir.path().join("a/bin/sidecar");
    assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::read_dir(dir.path().join("a/bin")).unwrap().count(), 1);
    let said = Command::new(&program).arg("--version").output().unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).starts_with("sidecar "));
    fs::write(dir.path().join("file"), "").unwrap();
    let (code, _, log) = output(&dir, &["install", "file"]);
    assert!(code == 71 && log.contains("cannot install to file"), "{log}");
}

/// Every shell is given something that it can read, with the commands and the settings.
#[test]
fn completions_name_the_commands_and_the_settings() {
    let dir = TempDir::new().unwrap();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh", "man"] {
        let (code, text, log) = output(&dir, &["completions", shell]);
        assert_eq!(code, 0, "{log}");
        for name in ["worker", "pipeline", "blobs"] {
            assert!(text.contains(name), "{shell}: no {name}");
        }
    }
    let (code, _, log) = output(&dir, &["completions", "man", "man1"]);
    assert_eq!(code, 0, "{log}");
    let page = |name: &str| fs::read_to_string(dir.path().join("man1").join(name)).unwrap();
    assert!(page("sidecar.1").contains("EXIT STATUS") && page("sidecar-pipeline.1").contains("watch"));
    assert_eq!(output(&dir, &["completions", "bash", "man1"]).0, 64);
    let (_, script, _) = output(&dir, &["completions", "bash"]);
    fs::write(dir.path().join("completions"), script).unwrap();
    let ask = ". ./completions; COMP_WORDS=(sidecar pipe); COMP_CWORD=1; _sidecar sidecar pipe sidecar; echo ${COMPREPLY[@]}";
    let said = Command::new("bash").args(["-c", ask]).current_dir(dir.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "pipeline");
}
