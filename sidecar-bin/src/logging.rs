//! The log: lines for people on stderr, or in a file.

use std::fs::File;
use std::io::{self, IsTerminal, Write};

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
        .with_default(if log.level > LevelFilter::INFO { LevelFilter::WARN } else { LevelFilter::OFF })
        .with_targets(["sidecar", "sidecar_core"].map(|target| (target, log.level)));
    let lines = layer().with_target(false);
    match &log.file {
        None => {
            let lines =
                lines.with_ansi(std::io::stderr().is_terminal()).with_writer(|| OneLine(std::io::stderr()));
            tracing_subscriber::registry().with(lines.with_filter(ours)).init();
        }
        Some(path) => {
            let file = File::options().create(true).append(true).open(path).map_err(|error| {
                Failure::new(
                    exit::CONFIGURATION,
                    format!("--logfile: cannot open {}: {error}", path.display()),
                )
            })?;
            let file = std::sync::Arc::new(file);
            let lines = lines.with_ansi(false).with_writer(move || OneLine(file.clone()));
            tracing_subscriber::registry().with(lines.with_filter(ours)).init();
        }
    }
    Ok(())
}

/// Keeps each record in one line, whatever names it tells of: a line end in a file's name would forge another record.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let (text, end) = match record.split_last() {
            Some((b'\n', text)) => (text, &b"\n"[..]),
            _ => (record, &b""[..]),
        };
        // Colours are escape sequences of the formatter's own; it escapes those of messages itself.
        let harmless = |byte: &u8| !byte.is_ascii_control() || matches!(byte, b'\t' | 0x1b);
        if text.iter().all(harmless) {
            self.0.write_all(record)?;
            return Ok(record.len());
        }
        let mut line = Vec::with_capacity(record.len() + 16);
        for byte in text {
            match harmless(byte) {
                true => line.push(*byte),
                false => line.extend(byte.escape_ascii()),
            }
        }
        line.extend_from_slice(end);
        self.0.write_all(&line)?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
