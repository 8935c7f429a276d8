//! How the program comes to where it is used: into a container, into a shell, into the manual.

use std::fs;
use std::path::Path;

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
    // Where there is such a link, the file may have been replaced since the program was started.
    let held = Path::new("/proc/self/exe");
    let program = if held.exists() { Ok(held.to_owned()) } else { std::env::current_exe() };
    let copied = program.and_then(|program| fs::copy(program, &temporary)).and_then(|_| {
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
fn manual(command: clap::Command) -> Result<String, Failure> {
    let mut page = Vec::new();
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
    let written = clap_mangen::Man::new(command).render(&mut page).and_then(|()| more.to_writer(&mut page));
    written.map_err(|error| Failure::new(exit::LOCAL_FAILED, error.to_string()))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// Prints the completions of a shell, or the man page; with a directory, writes the man pages of all commands there.
///
/// # Errors
/// When they cannot be written.
pub(crate) fn completions(shell: Shell, dir: Option<&Path>) -> Result<(), Failure> {
    let mut command = help::command();
    let generator = match shell {
        Shell::Bash => aot::Shell::Bash,
        Shell::Elvish => aot::Shell::Elvish,
        Shell::Fish => aot::Shell::Fish,
        Shell::Powershell => aot::Shell::PowerShell,
        Shell::Zsh => aot::Shell::Zsh,
        Shell::Man => {
            return match dir {
                Some(dir) => manuals(&command, dir),
                None => manual(command).and_then(|page| exit::print(page.trim_end())),
            };
        }
    };
    if let Some(dir) = dir {
        let why = format!("only man pages are written to a directory; print to {} instead", dir.display());
        return Err(Failure::new(exit::CONFIGURATION, why));
    }
    let mut text = Vec::new();
    aot::generate(generator, &mut command, NAME, &mut text);
    exit::print(String::from_utf8_lossy(&text).trim_end())
}

/// Writes the man page of the program and of each command into a directory.
fn manuals(command: &clap::Command, dir: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(exit::LOCAL_FAILED, format!("cannot write man pages to {}: {error}", dir.display()))
    };
    fs::create_dir_all(dir).map_err(failed)?;
    fs::write(dir.join(format!("{NAME}.1")), manual(command.clone())?).map_err(failed)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let name = format!("{NAME}-{}", sub.get_name());
        let mut page = Vec::new();
        let page_of = clap_mangen::Man::new(sub.clone().display_name(&name));
        page_of.render(&mut page).map_err(failed)?;
        fs::write(dir.join(format!("{name}.1")), page).map_err(failed)?;
    }
    Ok(())
}
