//! The command line, as it is typed: every flag is text here, so that `config` can judge them all at once.

use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::{CommandFactory, Parser, Subcommand};

use sidecar_core::Start;

use crate::options::Options;
use crate::{exit, options};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Runs beside a module that works on plain files: stages its inputs, commits its outputs.
///
/// Without a command it serves: the module calls GET /ready, works, and calls GET /done, each with the header
/// `secret`. Flags win over environment variables, and those over the file given by --config.
#[derive(Parser)]
#[command(name = "sidecar", version, styles = STYLES, after_help = exit::HELP, args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) options: Options,
    /// Whether an empty parent was given as a flag, which is how the original begins a graph.
    #[arg(skip)]
    pub(crate) parent_is_empty: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serves, starts a module, and exits with its code
    Run {
        /// Stage the inputs before the command and commit the outputs after it: the module needs no sidecar code
        #[arg(long)]
        wrap: bool,
        /// Run again what has an outcome: as the first run that has none, or as run N, which is the same again when
        /// it is repeated
        #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "next", value_parser = rerun)]
        rerun: Option<Start>,
        /// The command and its arguments
        #[arg(required = true, last = true, value_name = "COMMAND")]
        command: Vec<std::ffi::OsString>,
    },
    /// Stages the inputs and exits
    Prepare {
        /// Begin again what has an outcome: as the first run that has none, or as run N
        #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "next", value_parser = rerun)]
        rerun: Option<Start>,
    },
    /// Commits the outputs of a prepared module and exits
    Commit,
    /// Checks that the data plane can be used, and exits
    Check,
    /// Copies the files of an event, or the outputs of an execution, out of the data plane
    Get {
        /// EVENT, EVENT/MODULE, or EVENT/MODULE/RUN
        #[arg(value_name = "ID")]
        id: String,
        /// Where to: a directory that is absent or empty [default: named like the id, with - for /]
        #[arg(value_name = "DIR")]
        dir: Option<std::path::PathBuf>,
    },
    /// Lists the failures that attempts left, with those that a later outcome has overcome, and exits
    Failures,
    /// Publishes what is decided and not published, whoever decided it, and exits
    Recover,
    /// Removes what no outcome names, and exits; an attempt that is at work beside it stores its outputs again
    Gc {
        /// Leave runs alone whose youngest file is younger
        #[arg(long, value_name = "DURATION", default_value = "0s")]
        older_than: humantime::Duration,
        /// Also remove what belongs to events that the document store does not know
        #[arg(long)]
        unknown: bool,
    },
    /// Puts files and values into the data plane as a first event and prints its id
    Submit {
        /// The event's id instead of a new one, so that the same can be submitted again
        #[arg(long, value_name = "ID")]
        id: Option<String>,
        /// The event's type
        #[arg(long = "type", value_name = "TYPE", default_value = "submitted")]
        event_type: String,
        /// A value for the consumer's in/meta.json; may be repeated
        #[arg(long = "value", value_name = "KEY=VALUE")]
        values: Vec<String>,
        /// Files, and directories whose files are taken with their names in them
        #[arg(value_name = "FILE")]
        files: Vec<std::path::PathBuf>,
    },
}

/// Which run `--rerun` means.
fn rerun(text: &str) -> Result<Start, String> {
    match text {
        "next" => Ok(Start::Rerun),
        number => {
            number.parse().map(Start::Run).map_err(|_| "say --rerun, or --rerun=N with a number".into())
        }
    }
}

/// The whole command line.
pub(crate) fn command() -> clap::Command {
    options::complete(Cli::command())
}
