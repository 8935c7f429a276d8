//! How the program comes to where it is used: into a container, into a shell, into the manual.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap_complete::aot;
use clap_mangen::roff::{self, Roff};

use crate::cli::Shell;
use crate::exit::{self, Failure};
use crate::help;

/// The name of the program in the directory.
const NAME: &str = "sidecar";

/// Copies the program that runs into a directory. An older copy is replaced at once, even one that is running.
///
/// # Errors
/// When the directory cannot be made or written.
pub(crate) fn install(dir: &Path) -> Result<(), Failure> {
    let failed = |what: &Path, error: std::io::Error| {
        Failure::new(exit::LOCAL_FAILED, format!("cannot install to {}: {error}", what.display()))
    };
    let target = dir.join(NAME);
    let temporary = dir.join(format!(".{NAME}.{}", std::process::id()));
    fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    // By descriptor: the file may have been replaced since the program was started.
    let program = Path::new("/proc/self/exe");
    let copied = fs::copy(program, &temporary).and_then(|_| {
        // Whoever owns the directory: the module may be another user.
        #[cfg(unix)]
        fs::set_permissions(&temporary, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        fs::rename(&temporary, &target)
    });
    copied.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        failed(&target, error)
    })
}

/// The man page: what clap knows, and what else a manual says.
fn manual(command: clap::Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    clap_mangen::Man::new(command).render(page)?;
    let mut more = Roff::default();
    for (title, text) in [
        ("EXIT STATUS", help::EXIT_CODES.lines().skip(1).collect::<Vec<_>>().join("\n")),
        ("ENVIRONMENT", help::ENVIRONMENT.to_owned()),
        ("FILES", help::FILES.to_owned()),
    ] {
        more.control("SH", [title]).control("nf", []);
        for line in text.lines() {
            more.text([roff::roman(line), roff::line_break()]);
        }
        more.control("fi", []);
    }
    more.to_writer(page)
}

/// Prints the completions of a shell, or the man page.
pub(crate) fn completions(shell: Shell) -> ExitCode {
    let mut command = help::command();
    let mut text = Vec::new();
    let generator = match shell {
        Shell::Bash => Some(aot::Shell::Bash),
        Shell::Elvish => Some(aot::Shell::Elvish),
        Shell::Fish => Some(aot::Shell::Fish),
        Shell::Powershell => Some(aot::Shell::PowerShell),
        Shell::Zsh => Some(aot::Shell::Zsh),
        Shell::Man => None,
    };
    let written = match generator {
        Some(shell) => {
            aot::generate(shell, &mut command, NAME, &mut text);
            Ok(())
        }
        None => manual(command, &mut text),
    };
    let printed = written
        .map_err(|error| Failure::new(exit::LOCAL_FAILED, error.to_string()))
        .and_then(|()| exit::print(String::from_utf8_lossy(&text).trim_end()));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(failure.code),
    }
}
