//! What `--help` and `sidecar help` show: the settings that people use, and where the rest is.

use clap::{Command, CommandFactory};
use sidecar_core::plane::nearest;

use crate::cli::Cli;
use crate::options;

/// The settings of most command lines, which `sidecar --help` shows.
const COMMON: [&str; 10] = [
    "context.eventid",
    "context.name",
    "basedir",
    "valideventtypes",
    "sharedsecret",
    "blobs",
    "documents",
    "events",
    "development",
    "config",
];

/// Those of them that concern no execution but the data plane alone.
const PLANE: [&str; 5] = ["blobs", "documents", "events", "development", "config"];

/// The commands that process no event.
pub(crate) const WITHOUT_EVENT: [&str; 8] =
    ["check", "get", "trace", "failures", "dead", "recover", "gc", "submit"];

/// The settings' topics, each with the sentence above its list.
const TOPICS: [(&str, &str); 9] = [
    ("Context", "The execution: which module processes which event."),
    ("Module", "The module and its directories."),
    ("Server", "How the module reaches the sidecar."),
    ("Blobs", "The store for files."),
    ("Documents", "The store for execution records, event contexts and insights."),
    ("Events", "The bus that events are published to."),
    ("Calls", "Limits on the calls to the data plane."),
    (
        "Ion",
        "The settings of the sidecar of Ion (2018) for Azure. They keep working; az:, mongodb: and servicebus: URLs do the same.",
    ),
    ("Program", "The program itself."),
];

/// The table for `sidecar help exit-codes`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
    0  the outputs are committed
    1  the module failed (`run` exits with the module's own code); `failures --open`: there are some; `replay`: the
       outputs differ; `pipeline`: an event failed; `get --all`: an execution has no outcome; `worker`: a warm module
       ended five times without asking for an event
    2  `replay`: the execution cannot be replayed
   64  a setting is wrong; nothing was started
   65  the module's outputs are invalid; nothing was published
   66  the inputs could not be staged or submitted, or nothing is known of an id
   69  a provider cannot be used, or failed during the commit; repeat the command
   71  a local file, directory or socket cannot be used, or the base directory is another execution's
  126  `run`, `worker`, `pipeline`: the command cannot be executed
  127  `run`, `worker`, `pipeline`: the command does not exist
128+N  signal N ended the sidecar before the outputs were committed (143: SIGTERM, 130: Ctrl-C); `run`: signal N ended
       the module
";

/// What the man page says of the environment.
pub(crate) const ENVIRONMENT: &str = "\
Each setting is a variable too: --blobs is SIDECAR_BLOBS, --context.name is SIDECAR_CONTEXT_NAME.
AWS_..., AZURE_..., GOOGLE_...: credentials of the stores, as their own tools read them.
OTEL_...: traces are sent over OTLP if OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set.
SHARED_SECRET, SIDECAR_PORT, SIDECAR_BASE_DIR, SIDECAR_MODULE_NAME, SIDECAR_EVENT_ID, SIDECAR_CORRELATION_ID,
TRACEPARENT: set for the module by run, worker and pipeline.
";

/// What it says of files.
pub(crate) const FILES: &str = "\
Below the base directory (--basedir):
in/data, in/meta.json        the files and values of the event
out/data, out/meta.json      the files and the insight that the module writes
out/events/*.json            the events that it publishes
out/.previous                outputs that were set aside
.sidecar                     the state of the execution (--statedir)
";

const MORE: &str = "\
Without a command, sidecar serves: the module calls GET /ready, works, and calls GET /done.
Each setting is a flag, an environment variable (--blobs is SIDECAR_BLOBS) or a key of the file given by --config.
All settings: sidecar help settings [context|module|server|blobs|documents|events|calls|ion|program]
Exit codes:   sidecar help exit-codes";

const REST: &str = "More settings: sidecar help settings [TOPIC]";

/// What says where a sidecar listens.
const SERVER: [&str; 5] = ["sharedsecret-file", "serverport", "serveraddress", "socket", "development"];

/// The whole command line.
pub(crate) fn command() -> Command {
    arrange(options::complete(Cli::command()))
}

/// Lets each command show the settings that concern it.
fn arrange(command: Command) -> Command {
    let showing = |command: Command, shown: &'static [&str]| {
        command.mut_args(|argument| {
            let hidden = argument.get_help_heading().is_some()
                && !argument.get_long().is_some_and(|long| shown.contains(&long));
            match argument.get_help_heading() {
                None => argument,
                Some(_) => argument.hide(hidden).hide_env(true),
            }
        })
    };
    let mut command = showing(command, &COMMON).after_help(MORE);
    // From here on every command has its copy of the settings.
    command.build();
    let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for name in &names {
        command = command.mut_subcommand(name, |command| match &**name {
            "help" | "install" | "completions" => showing(command, &[]),
            "status" => showing(command, &SERVER),
            name if WITHOUT_EVENT.contains(&name) => showing(command, &PLANE).after_help(REST),
            _ => command.after_help(REST),
        });
    }
    command
}

/// What is said where nothing at all was asked for.
pub(crate) const BEGIN: &str = "\
Nothing to do. Three ways to begin:

  sidecar run --wrap --development=true -- COMMAND
      runs COMMAND, and stores what it writes to $SIDECAR_BASE_DIR/out/data, all in ./dev

  sidecar --development=true --context.name=NAME --context.eventid=EVENT
      serves a module that you start, and that calls GET /ready and GET /done

  sidecar check --blobs=URL --documents=URL --events=URL
      checks the data plane of a cluster

sidecar --help lists the commands, and sidecar help settings all settings";

/// The page that was asked for.
///
/// # Errors
/// When there is no such page.
pub(crate) fn page(topics: &[String]) -> Result<String, String> {
    let mut command = command();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    match topics[..] {
        [] => Ok(command.render_help().to_string()),
        ["exit-codes"] => Ok(EXIT_CODES.to_owned()),
        ["settings"] => {
            Ok(TOPICS.iter().map(|(name, about)| settings(name, about)).collect::<Vec<_>>().join("\n"))
        }
        ["settings", topic] => {
            let known = TOPICS.iter().find(|(name, _)| name.eq_ignore_ascii_case(topic));
            let names = TOPICS.map(|(name, _)| name.to_ascii_lowercase()).join(", ");
            let Some((name, about)) = known else {
                let known = TOPICS.map(|(name, _)| name.to_ascii_lowercase());
                let meant = nearest(&topic.to_ascii_lowercase(), known.iter().map(String::as_str));
                let meant = meant.map(|meant| format!(" (did you mean {meant}?)")).unwrap_or_default();
                return Err(format!("no topic {topic:?}{meant}: there are {names}"));
            };
            Ok(settings(name, about))
        }
        [name] => match command.find_subcommand_mut(name) {
            Some(found) => Ok(found.render_help().to_string()),
            None => {
                let names =
                    command.get_subcommands().map(Command::get_name).chain(["settings", "exit-codes"]);
                let meant = nearest(name, names).map(|meant| format!(": try sidecar help {meant}"));
                Err(format!("no help on {name:?}{}", meant.unwrap_or_default()))
            }
        },
        [name, below] => {
            let found = command.find_subcommand_mut(name).and_then(|found| found.find_subcommand_mut(below));
            match found {
                Some(found) => Ok(found.render_help().to_string()),
                None => Err(format!("no help on {:?}", topics.join(" "))),
            }
        }
        _ => Err(format!("no help on {:?}", topics.join(" "))),
    }
}

/// The settings of a topic, with their variables.
fn settings(name: &str, about: &str) -> String {
    let of_topic = |argument: &clap::Arg| argument.get_help_heading() == Some(name);
    let arguments =
        command().get_arguments().filter(|argument| of_topic(argument)).cloned().collect::<Vec<_>>();
    let page = Command::new("settings")
        .disable_help_flag(true)
        .help_template("{options}")
        .args(
            arguments
                .into_iter()
                .map(|argument| argument.hide(false).hide_env(false).help_heading(None::<&str>)),
        )
        .render_help();
    format!("{name}: {about}\n\n{page}")
}
