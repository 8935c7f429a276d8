//! The log: lines for people, or for programs, on stderr or in a file.

mod json;
#[cfg(feature = "otel")]
mod otlp;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

#[cfg(feature = "otel")]
use sidecar_core::SPANS;
use sidecar_core::process::OUTPUT;
use tokio::runtime::Handle;
#[cfg(feature = "otel")]
use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
#[cfg(feature = "otel")]
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::prelude::*;

use crate::config::{Format, Log};
use crate::exit::{self, Failure};

#[cfg(feature = "otel")]
pub(crate) use otlp::Traces;

/// Nothing is sent.
#[cfg(not(feature = "otel"))]
pub(crate) struct Traces;

#[cfg(not(feature = "otel"))]
impl Traces {
    pub(crate) fn end(&self) {}
}

/// Sends the log where the settings say, and spans where OpenTelemetry's variables do.
///
/// # Errors
/// When the log file cannot be opened, or the variables cannot be understood.
pub(crate) fn start(log: &Log, runtime: &Handle) -> Result<Option<Traces>, Failure> {
    // What drivers log in detail is not written for the users of this program, and may hold their passwords.
    let ours = Targets::new()
        .with_default(if log.level > LevelFilter::INFO { LevelFilter::WARN } else { LevelFilter::OFF })
        .with_targets(["sidecar", "sidecar_core"].map(|target| (target, log.level)))
        // What is printed is printed, unless nothing is to be logged at all.
        .with_target(
            OUTPUT,
            if log.level == LevelFilter::OFF { LevelFilter::OFF } else { LevelFilter::INFO },
        );
    let file = match &log.file {
        None => None,
        Some(path) => {
            let file = File::options().create(true).append(true).open(path).map_err(|error| {
                Failure::new(
                    exit::CONFIGURATION,
                    format!("--logfile: cannot open {}: {error}", path.display()),
                )
            })?;
            Some(Arc::new(file))
        }
    };
    let colours = file.is_none() && io::stderr().is_terminal();
    let to = move || -> Box<dyn Write> {
        match &file {
            Some(file) => Box::new(file.clone()),
            None => Box::new(io::stderr()),
        }
    };
    #[cfg(feature = "otel")]
    let traces = Traces::start(runtime).map_err(|message| Failure::new(exit::CONFIGURATION, message))?;
    #[cfg(not(feature = "otel"))]
    let traces = {
        let _ = runtime;
        None
    };
    let registry = tracing_subscriber::registry();
    #[cfg(feature = "otel")]
    let registry = registry.with(traces.as_ref().map(|traces| {
        let ours = |metadata: &Metadata<'_>| {
            // For people: `receive` is in the place of the first, and the second lives as long as a warm module.
            let is_for_the_log = ["delivery", "process"].contains(&metadata.name());
            let is_ours = [SPANS, "sidecar"].iter().any(|ours| metadata.target().starts_with(ours));
            metadata.is_span() && is_ours && !is_for_the_log
        };
        let layer = tracing_opentelemetry::layer().with_tracer(traces.tracer());
        layer.with_location(false).with_threads(false).with_target(false).with_filter(filter_fn(ours))
    }));
    match log.format {
        Format::Text => {
            let lines = layer().with_target(false).with_ansi(colours).with_writer(move || OneLine(to()));
            registry.with(lines.with_filter(ours)).init();
        }
        Format::Json => {
            let lines = layer().fmt_fields(JsonFields::new()).event_format(json::Json).with_writer(to);
            registry.with(lines.with_filter(ours)).init();
        }
    }
    Ok(traces)
}

/// Whether the log is to be JSON, as far as that can be seen where the settings are wrong.
pub(crate) fn is_json_wanted() -> bool {
    let mut words = std::env::args().take_while(|word| word != "--");
    let given = words.find_map(|word| match word.strip_prefix("--log-format") {
        Some("") => Some(String::new()),
        Some(value) => value.strip_prefix('=').map(str::to_owned),
        None => None,
    });
    match given.as_deref() {
        Some("") => words.next().is_some_and(|value| value == "json"),
        Some(value) => value == "json",
        None => std::env::var("SIDECAR_LOG_FORMAT").is_ok_and(|value| value == "json"),
    }
}

/// A record of the log as JSON, for errors before the log can start.
pub(crate) fn json_line(level: &str, message: &str) -> String {
    let time = humantime::format_rfc3339_micros(std::time::SystemTime::now()).to_string();
    serde_json::json!({ "time": time, "level": level, "message": message }).to_string()
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
