//! The log: lines for people on stderr, or in a file.

use std::fs::File;
use std::io::IsTerminal;

use tracing_subscriber::fmt;

use crate::config::Log;
use crate::exit::{self, Failure};

/// Sends the log where the settings say.
///
/// # Errors
/// When the log file cannot be opened.
pub(crate) fn start(log: &Log) -> Result<(), Failure> {
    let builder = fmt().with_max_level(log.level).with_target(false);
    match &log.file {
        None => builder.with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).init(),
        Some(path) => {
            let file = File::options().create(true).append(true).open(path).map_err(|error| {
                Failure::new(
                    exit::CONFIGURATION,
                    format!("--logfile: cannot open {}: {error}", path.display()),
                )
            })?;
            builder.with_ansi(false).with_writer(file).init();
        }
    }
    Ok(())
}
