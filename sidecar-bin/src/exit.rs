//! Exit codes: each means one thing, so that whoever started the sidecar knows what to do next.
//!
//! They follow `sysexits.h` where it has a fitting one.

use std::io::{self, Write};
use std::path::Path;

use sidecar_core::process::{Ended, Stop};
use sidecar_core::{Context, Error};

use crate::again::again;

/// The module failed: it called `/fail`, or exited without `done`. `run` passes the module's own code on.
pub(crate) const MODULE_FAILED: u8 = 1;
/// The configuration is wrong; nothing was started.
pub(crate) const CONFIGURATION: u8 = 64;
/// The module's outputs are invalid; nothing was published.
pub(crate) const OUTPUTS_INVALID: u8 = 65;
/// The inputs could not be staged.
pub(crate) const INPUTS_FAILED: u8 = 66;
/// A provider cannot be used, or failed during the commit, which can be repeated.
pub(crate) const PROVIDER_FAILED: u8 = 69;
/// A local file, directory or socket cannot be used.
pub(crate) const LOCAL_FAILED: u8 = 71;
/// The command of `run` is not executable.
const NOT_EXECUTABLE: u8 = 126;
/// The command of `run` does not exist.
const NOT_FOUND: u8 = 127;
/// What the system answers for a file that is no program and names none.
const ENOEXEC: i32 = 8;
/// A signal ended the sidecar before the outputs were committed: its number is added.
const SIGNALLED: u8 = 128;

/// Why the program ends early: the code, and what to tell.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// An error before or while the inputs were staged.
    pub(crate) fn at_ready(error: &Error) -> Self {
        Self::new(INPUTS_FAILED, describe(error))
    }

    /// An error of the commit.
    pub(crate) fn at_done(error: &Error) -> Self {
        let code = match error {
            Error::Invalid(_) => OUTPUTS_INVALID,
            Error::Io { .. } | Error::DiskFull { .. } | Error::Busy(_) => LOCAL_FAILED,
            Error::OutOfOrder { .. } => MODULE_FAILED,
            _ => PROVIDER_FAILED,
        };
        Self::new(code, describe(error))
    }

    /// An error while the providers were opened.
    pub(crate) fn at_start(error: &Error) -> Self {
        match error {
            local if is_local(local) => Self::local(local),
            Error::Refused { .. } | Error::Settings { .. } => Self::new(CONFIGURATION, describe(error)),
            other => Self::local(other),
        }
    }

    /// What the stores of a data plane cannot be used for.
    pub(crate) fn at_check(errors: &[Error]) -> Self {
        let code = if errors.iter().all(is_local) {
            LOCAL_FAILED
        } else if errors.iter().all(|error| matches!(error, Error::Settings { .. })) {
            CONFIGURATION
        } else {
            PROVIDER_FAILED
        };
        let errors: Vec<_> = errors.iter().map(Error::chain).collect();
        Self::new(code, errors.join("\n"))
    }

    /// An error while the execution was looked up, or of the data plane alone.
    pub(crate) fn at_open(error: &Error) -> Self {
        match error {
            Error::Busy(_) | Error::Io { .. } | Error::DiskFull { .. } | Error::Internal(_) => {
                Self::local(error)
            }
            Error::Corrupt { .. } | Error::Reference { .. } => Self::at_ready(error),
            // What cannot be, whatever the store is like.
            Error::RunNotOpen { .. } | Error::Settings { .. } => Self::new(CONFIGURATION, describe(error)),
            Error::NotLoaded { .. } => Self::new(MODULE_FAILED, describe(error)),
            other => Self::new(PROVIDER_FAILED, describe(other)),
        }
    }

    /// An error of this machine.
    pub(crate) fn local(error: &Error) -> Self {
        Self::new(LOCAL_FAILED, describe(error))
    }
}

/// Whether it is this machine that does not let a file or directory be used, also where that is a store.
fn is_local(error: &Error) -> bool {
    match error {
        Error::Io { .. } | Error::DiskFull { .. } => true,
        Error::Refused { source, .. } => source.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
        }),
        _ => false,
    }
}

/// The code for a command that cannot be started.
pub(crate) fn not_started(kind: io::ErrorKind) -> u8 {
    match kind {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    }
}

/// The code after a signal that ended the work before it was done.
pub(crate) fn signalled(signal: i32) -> u8 {
    SIGNALLED.saturating_add(u8::try_from(signal).unwrap_or(0))
}

/// Prints a table that begins with times, the oldest first.
///
/// # Errors
/// Those of [`print()`].
pub(crate) fn table(header: &str, mut lines: Vec<String>) -> Result<(), Failure> {
    lines.sort();
    print(header)?;
    lines.iter().try_for_each(|line| print(line))
}

/// A text as the cell of a table.
pub(crate) fn cell(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Prints a result.
///
/// # Errors
/// When stdout takes nothing; a reader that has seen enough is no error.
pub(crate) fn print(line: &str) -> Result<(), Failure> {
    let printed = writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(LOCAL_FAILED, format!("cannot print {line}: {error}")))
        }
        _ => Ok(()),
    }
}

/// The code for how an execution came out.
///
/// # Errors
/// With what is still to be told.
pub(crate) fn code(ended: Ended, context: &Context) -> Result<u8, Failure> {
    match ended {
        Ended::Committed => Ok(0),
        // The session has logged why.
        Ended::Failed { code, .. } => Ok(code),
        Ended::Stopped(Stop { code: Some(code @ 1..), .. }) => Ok(code),
        Ended::Stopped(Stop { signal, .. }) => Ok(signalled(signal)),
        Ended::NotStarted { program, error } => {
            let code = not_started(error.kind());
            let why = match error.kind() {
                _ if error.get_ref().is_some() => error.to_string(),
                _ if code == NOT_FOUND && Path::new(&program).is_file() => {
                    "the interpreter that its first line names does not exist (a line that ends with \\r\\n names one that \
                     ends with \\r)"
                        .to_owned()
                }
                _ if code == NOT_FOUND => "command not found".to_owned(),
                _ if program.is_empty() => "the command is empty".to_owned(),
                _ if error.raw_os_error() == Some(ENOEXEC) => {
                    format!("{error}: name its interpreter in its first line (#!/bin/sh), or before it")
                }
                io::ErrorKind::PermissionDenied => {
                    format!("{error}: make it executable, or name its interpreter before it")
                }
                _ => error.to_string(),
            };
            Err(Failure::new(code, format!("cannot start {program}: {why}")))
        }
        // A module would call again; here nobody does, and nothing else reports it.
        Ended::NotPrepared(error) if error.is_retryable() => {
            let code = match *error {
                Error::Io { .. } | Error::DiskFull { .. } => LOCAL_FAILED,
                _ => INPUTS_FAILED,
            };
            Err(Failure::new(code, format!("the inputs could not be staged: {}", error.chain())))
        }
        // The session has logged why, and why nothing was prepared.
        Ended::NotCommitted(error) if matches!(*error, Error::OutOfOrder { .. }) => {
            let code = Failure::at_done(&error).code;
            Err(Failure::new(code, "nothing was committed: the module has to run again"))
        }
        Ended::NotPrepared(_) => Ok(INPUTS_FAILED),
        Ended::NotCommitted(error) => {
            let Failure { code, message } = Failure::at_done(&error);
            // The session has logged the error, and each problem of the outputs.
            let what =
                if matches!(*error, Error::Invalid(_)) { message } else { "nothing is lost".to_owned() };
            let again = again("commit", context);
            let message = format!(
                "{what}; to repeat the commit, before another event is run in this directory: {again}"
            );
            Err(Failure::new(code, message))
        }
        Ended::Local(error @ Error::Io { action: "listen on", .. }) => Err(Failure::new(
            LOCAL_FAILED,
            format!("{} (choose another --serverport or --socket)", error.chain()),
        )),
        Ended::Local(error) => Err(Failure::local(&error)),
    }
}

/// The error in one line; the session has logged the problems one by one.
fn describe(error: &Error) -> String {
    match error {
        Error::Invalid(problems) => format!(
            "nothing was committed: {} with the module's outputs",
            if problems.len() == 1 { "1 problem".to_owned() } else { format!("{} problems", problems.len()) }
        ),
        other => other.chain(),
    }
}
