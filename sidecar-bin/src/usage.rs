//! Command lines that cannot be understood, and what was most likely meant.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches};
use sidecar_core::plane::nearest;

use crate::again::{quoted, secret};
use crate::help;

/// What to type instead, where a mistake is one that many make.
pub(crate) fn hint(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(&**text),
        _ => None,
    };
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(given) = text(ContextKind::InvalidArg).filter(|given| given.starts_with('-'))
        && let Some(hint) = meant(&in_full(given, arguments), arguments)
    {
        return Some(hint);
    }
    let word = match error.kind() {
        ErrorKind::InvalidSubcommand => text(ContextKind::InvalidSubcommand)?,
        ErrorKind::UnknownArgument => text(ContextKind::InvalidArg)?,
        _ => return None,
    };
    let at = arguments.iter().position(|argument| argument == word)?;
    let before = at.checked_sub(1).and_then(|at| arguments[at].to_str()).unwrap_or_default();
    // A switch takes its value after an equals sign, since it may stand alone.
    let takes_a_value = |flag: &str| {
        let command = help::command();
        command.get_arguments().any(|argument| argument.get_long() == flag.strip_prefix("--"))
    };
    if matches!(word, "true" | "false") && before.starts_with("--") && takes_a_value(before) {
        return Some(format!("write {before}={word}"));
    }
    if before == "--rerun" {
        return Some(format!("write --rerun={word}"));
    }
    if arguments.iter().any(|argument| argument == "run" || argument == "worker" || argument == "replay")
        && !arguments.iter().any(|argument| argument == "--")
    {
        let words = |words: &[OsString]| {
            words.iter().map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
        };
        let (flags, command) = (words(&arguments[1..at]), words(&arguments[at..]));
        return Some(format!("write -- before the command: sidecar {flags} -- {command}"));
    }
    None
}

/// The word that an unknown flag begins; of one with a single dash clap tells the first letter.
fn in_full(given: &str, arguments: &[OsString]) -> String {
    let is_it = |argument: &&str| {
        argument.split('=').next() == Some(given) || (!given.starts_with("--") && argument.starts_with(given))
    };
    arguments.iter().filter_map(|argument| argument.to_str()).find(is_it).unwrap_or(given).to_owned()
}

/// Refuses settings of an execution that were given to a command that has none: their user expects something of them.
pub(crate) fn refuse_idle_settings(matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some((name, command)) = matches.subcommand().filter(|(name, _)| help::WITHOUT_EVENT.contains(name))
    else {
        return Ok(());
    };
    for (id, flag, instead) in [
        ("context_eventid", "context.eventid", "--id"),
        ("context_correlationid", "context.correlationid", ""),
        ("context_parenteventid", "context.parenteventid", ""),
        ("context_name", "context.name", ""),
    ] {
        if command.value_source(id) == Some(ValueSource::CommandLine) {
            let instead = match name {
                "submit" if !instead.is_empty() => format!("; say {instead}"),
                "get" => "; say EVENT or EVENT/MODULE".to_owned(),
                "failures" | "trace" => "; say EVENT".to_owned(),
                _ => String::new(),
            };
            let message = format!("--{flag} has no effect on sidecar {name}{instead}\n");
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, message));
        }
    }
    Ok(())
}

/// Settings that may be empty as flags, as the original has them, or that say more about it themselves.
const MAY_BE_EMPTY: [&str; 4] =
    ["context.eventid", "context.parenteventid", "context.correlationid", "valideventtypes"];

/// Refuses flags that were given without a value, as by a variable of the shell that is not set: their default would be
/// used in silence. An empty environment variable is one that is not set.
pub(crate) fn refuse_empty_flags(matches: &ArgMatches) -> Result<(), clap::Error> {
    let command = help::command();
    let is_empty = |argument: &&clap::Arg| {
        let id = argument.get_id().as_str();
        let given = matches.value_source(id) == Some(ValueSource::CommandLine);
        given && matches!(matches.try_get_one::<String>(id), Ok(Some(value)) if value.is_empty())
    };
    let ours = command.get_arguments().filter(|argument| argument.get_help_heading() != Some("Ion"));
    let mut flags = ours.filter(is_empty).filter_map(clap::Arg::get_long);
    match flags.find(|flag| !MAY_BE_EMPTY.contains(flag)) {
        Some(flag) => {
            let message = format!("--{flag} is empty: give it a value, or leave it out for the default\n");
            Err(clap::Error::raw(ErrorKind::InvalidValue, message))
        }
        None => Ok(()),
    }
}

/// Refuses an option of a command that is given twice and counts once: the first one would be forgotten in silence. A
/// setting may be repeated, as in a script that adds to other flags.
pub(crate) fn refuse_repeated_options(
    matches: &ArgMatches,
    arguments: &[OsString],
) -> Result<(), clap::Error> {
    let command = help::command();
    let Some(own) = matches.subcommand().and_then(|(name, _)| command.find_subcommand(name)) else {
        return Ok(());
    };
    let given = || arguments.iter().filter_map(|word| word.to_str()).take_while(|word| *word != "--");
    let once = own.get_arguments().filter(|argument| {
        argument.get_help_heading().is_none() && matches!(argument.get_action(), ArgAction::Set)
    });
    for flag in once.filter_map(clap::Arg::get_long) {
        let is_it = |word: &&str| word.split('=').next() == Some(&*format!("--{flag}"));
        if given().filter(is_it).count() > 1 {
            let message = format!("--{flag} is given twice, and can be given once\n");
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, message));
        }
    }
    Ok(())
}

/// The setting that an unknown flag most likely means.
fn meant(given: &str, arguments: &[OsString]) -> Option<String> {
    let name = given.trim_start_matches('-');
    let (name, value) = name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value)));
    let command = help::command();
    let own = arguments.iter().find_map(|word| command.find_subcommand(word));
    let own = own.filter(|own| help::WITHOUT_EVENT.contains(&own.get_name())).unwrap_or(&command);
    let applies = |flag: &&str| own.get_name() == "sidecar" || !flag.starts_with("context.");
    let flags = || own.get_arguments().filter_map(clap::Arg::get_long).filter(applies);
    if own.get_name() == "submit" && name.ends_with("id") {
        return Some(format!("there is no --{name}: did you mean --id?"));
    }
    let ours = || own.get_arguments().filter(|argument| argument.get_help_heading() != Some("Ion"));
    let ours = || ours().filter_map(clap::Arg::get_long).filter(applies);
    let mut longer = ours().filter(|flag| name.len() > 2 && flag.ends_with(name));
    let only = longer.next().filter(|_| longer.next().is_none());
    let exact = || flags().find(|flag| flag.rsplit('.').next() == Some(name));
    let same = flags().find(|flag| *flag == name);
    let meant = same.or(only).or_else(exact).or_else(|| nearest(name, flags()))?;
    let value =
        value.filter(|_| !secret(meant)).map(|value| format!("={}", quoted(value))).unwrap_or_default();
    Some(match given.starts_with("--") {
        true => format!("there is no --{name}: did you mean --{meant}{value}?"),
        false => format!("a flag has two dashes: --{meant}{value}"),
    })
}
