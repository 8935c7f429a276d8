//! The log: lines for people on stderr, or in a file.

use std::fs::File;
use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::prelude::*;

use crate::config::Log;
use crate::exit::{self, Failure};

/// Sends the log where the settings say.
///
/// # Errors
/// When the log file cannot be opened.
pub(crate) fn start(log: &Log) -> Result<(), Failure> {
    // What drivers log in detail is not written for the users of this program, and may hold their passwords.
    let ours = Targets::new()
        .with_default(log.level.min(LevelFilter::WARN))
        .with_targets(["sidecar", "sidecar_core"].map(|target| (target, log.level)));
    let lines = layer().with_target(false);
    match &log.file {
        None => {
            let lines = lines.with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
            tracing_subscriber::registry().with(lines.with_filter(ours)).init();
        }
        Some(path) => {
            let file = File::options().create(true).append(true).open(path).map_err(|error| {
                Failure::new(
                    exit::CONFIGURATION,
                    format!("--logfile: cannot open {}: {error}", path.display()),
                )
            })?;
            let lines = lines.with_ansi(false).with_writer(file);
            tracing_subscriber::registry().with(lines.with_filter(ours)).init();
        }
    }
    Ok(())
}
