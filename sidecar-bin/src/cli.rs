//! The command line, as it is typed: every flag is text here, so that `config` can judge them all at once.

use std::time::Duration;

use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::{Parser, Subcommand};
use sidecar_core::lineage::Scope;
use sidecar_core::{ModuleName, Start};

use crate::options::Options;
#[cfg(feature = "pipeline")]
use crate::pipeline::PipelineArgs;
#[cfg(feature = "pipeline")]
use crate::replay::ReplayArgs;
use crate::trace::TraceArgs;
use crate::worker::{Dead, WorkerArgs};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Runs beside a batch program (a module) that reads and writes plain files: stages its inputs from a data plane, and
/// commits its outputs to it.
///
/// Without a command, the sidecar serves: the module calls GET /ready, works, and calls GET /done.
#[derive(Parser)]
#[command(
    name = "sidecar",
    version,
    styles = STYLES,
    args_override_self = true,
    disable_help_flag = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    /// Print this help
    #[arg(short, long, global = true, action = clap::ArgAction::HelpShort)]
    help: Option<bool>,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) options: Options,
    /// Whether an empty parent was given as a flag, which is how the original begins a graph.
    #[arg(skip)]
    pub(crate) parent_is_empty: bool,
}

impl Command {
    /// Whether it is about what a data plane holds already: then none is made.
    pub(crate) fn needs_a_plane(&self) -> bool {
        match self {
            Self::Dead { .. } | Self::Recover | Self::Gc { .. } => true,
            #[cfg(feature = "pipeline")]
            Self::Replay(args) if args.from.is_some() => false,
            other => other.reads(),
        }
    }

    /// Whether it only reads the stores of files and documents: then it needs neither the bus nor the right to write.
    pub(crate) fn reads(&self) -> bool {
        match self {
            Self::Get { .. } | Self::Failures { .. } | Self::Trace(_) => true,
            Self::Dead { dead } => matches!(dead, Dead::List { .. } | Dead::Show { .. }),
            #[cfg(feature = "pipeline")]
            Self::Replay(_) => true,
            _ => false,
        }
    }
}

/// What `sidecar completions` prints.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
    /// The man page sidecar(1)
    Man,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a module, serve it, and exit with its exit code
    #[command(override_usage = "sidecar run [OPTIONS] -- COMMAND...")]
    Run {
        /// Stage the inputs before COMMAND and commit its outputs afterwards: the module needs no sidecar code
        #[arg(long)]
        wrap: bool,
        /// Run an execution again that has an outcome, as its next run or as run N
        #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "next", value_parser = rerun)]
        rerun: Option<Start>,
        /// Log each line that the module prints, with the module, the event and the attempt, instead of printing it
        #[arg(long)]
        log_output: bool,
        /// The module: a command and its arguments
        #[arg(required = true, last = true, value_name = "COMMAND")]
        command: Vec<std::ffi::OsString>,
    },
    /// Receive events, and run a module for each
    #[command(override_usage = "sidecar worker --subscribe TYPES [OPTIONS] -- COMMAND...")]
    Worker(Box<WorkerArgs>),
    /// Run a chain of modules on this machine, until nothing is left to do
    #[cfg(feature = "pipeline")]
    Pipeline(Box<PipelineArgs>),
    /// Run a module again on the inputs of a past execution, and compare; nothing is published
    #[cfg(feature = "pipeline")]
    #[command(override_usage = "sidecar replay EVENT --context.name NAME [OPTIONS] -- COMMAND...")]
    Replay(Box<ReplayArgs>),
    /// Show, redrive or drop the events that workers gave up
    Dead {
        #[command(subcommand)]
        dead: Dead,
    },
    /// Stage the inputs and exit
    Prepare {
        /// Prepare an execution again that has an outcome, as its next run or as run N
        #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "next", value_parser = rerun)]
        rerun: Option<Start>,
    },
    /// Commit the outputs of a module that `sidecar prepare` prepared
    Commit,
    /// Check that the data plane can be used
    Check,
    /// Copy the files of an event, or the outputs of an execution, out of the data plane
    Get {
        /// EVENT, EVENT/MODULE, EVENT/MODULE/RUN, or the id of a failure whose outputs were kept; with --all, an event's or
        /// a correlation id
        #[arg(value_name = "ID")]
        id: String,
        /// Copy the files of the submission that ID belongs to, as MODULE/EVENT/FILE, without what came of replaced runs
        #[arg(long)]
        all: bool,
        /// The destination, a new or empty directory [default: the id, with - for /]
        #[arg(value_name = "DIR")]
        dir: Option<std::path::PathBuf>,
    },
    /// Show what one submission led to: events, modules, files, failures
    Trace(TraceArgs),
    /// Ask a running sidecar what it is doing and how far it is
    Status,
    /// List failed attempts, and whether a later attempt succeeded
    Failures {
        /// Only those that no later attempt has overcome; exit with 1 if there are any
        #[arg(long)]
        open: bool,
        /// Only those at this event, or of everything that belongs to this submission
        #[arg(value_name = "ID")]
        event: Option<String>,
    },
    /// Publish what was committed but not published yet, by any sidecar
    Recover,
    /// Delete leftovers of attempts that were not committed, or outcomes that are old
    Gc {
        /// Keep leftovers of runs that stored a file within DURATION [default: 0s]; with --outcomes, required and
        /// repeatable: 90d for all outcomes, module:NAME=7d for a module, type:TYPE=3650d for events of a type
        #[arg(long, value_name = "[SCOPE=]DURATION", value_parser = older_than)]
        older_than: Vec<(Scope, Duration)>,
        /// Also delete the files of events that the document store does not know
        #[arg(long, conflicts_with = "outcomes")]
        unknown: bool,
        /// Instead of leftovers, count the outcomes older than --older-than, by module; nothing is deleted without --delete
        #[arg(long, requires = "older_than")]
        outcomes: bool,
        /// Delete the outcomes that --outcomes counts, with everything that belongs to them
        #[arg(long, requires = "outcomes")]
        delete: bool,
    },
    /// Store files and values as the first event of a graph, and print its id
    Submit {
        /// The event's id, which makes the command repeatable [default: a new id]
        #[arg(long, value_name = "ID")]
        id: Option<String>,
        /// The event's type
        #[arg(long = "type", value_name = "TYPE", default_value = "submitted")]
        event_type: String,
        /// A value for the in/meta.json of the consumer; may be repeated
        #[arg(long = "value", value_name = "KEY=VALUE")]
        values: Vec<String>,
        /// An object that stays where it is, in one of the stores of --references: its size and ETag, or the version behind
        /// a #, are part of the event (%25, %23 and %3F stand for %, # and ? in a name); may be repeated
        #[arg(long = "reference", value_name = "[NAME=]URL[#VERSION]")]
        reference: Vec<String>,
        /// Files and directories; a file in a directory keeps its path below that directory
        #[arg(value_name = "FILE")]
        files: Vec<std::path::PathBuf>,
    },
    /// Copy this program into a directory, as an init container does for the container of a module
    Install {
        /// The directory, which is made if it is absent
        #[arg(value_name = "DIR")]
        dir: std::path::PathBuf,
    },
    /// Print the completions of a shell, or the man page
    Completions {
        /// Which shell
        #[arg(value_enum, value_name = "SHELL")]
        shell: Shell,
        /// With `man`: write the page of each command into this directory
        #[arg(value_name = "DIR")]
        dir: Option<std::path::PathBuf>,
    },
    /// Explain a command, the settings, or the exit codes
    #[command(name = "help")]
    Help {
        /// A command, `exit-codes`, or `settings` and one of its topics
        #[arg(value_name = "TOPIC")]
        topics: Vec<String>,
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

/// A rule of `--older-than`: a duration, with `module:NAME=` or `type:TYPE=` before it where it is for those alone.
fn older_than(text: &str) -> Result<(Scope, Duration), String> {
    let (scope, age) = match text.rsplit_once('=') {
        None => (Scope::All, text),
        Some((scope, age)) => match scope.split_once(':') {
            Some(("module", name)) => {
                let name = ModuleName::parse(name).map_err(|error| error.to_string())?;
                (Scope::Module(name), age)
            }
            Some(("type", name)) if !name.is_empty() => (Scope::Type(name.to_owned()), age),
            _ => return Err(format!("{scope:?} is neither module:NAME nor type:TYPE")),
        },
    };
    let age = humantime::parse_duration(age)
        .map_err(|error| format!("{age:?} is not a duration such as 90d: {error}"))?;
    Ok((scope, age))
}
