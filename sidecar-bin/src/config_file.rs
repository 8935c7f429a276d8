//! The file given by `--config`: TOML whose keys are the long flags, turned into those flags.

use sidecar_core::plane::nearest;
use toml::{Table, Value};

use crate::cli;

/// The file's settings as flags, less those that the environment sets.
///
/// # Errors
/// One line for each setting that is no flag or no plain value, or one for a file that is no TOML.
pub(crate) fn flags(path: &str, env_is_set: impl Fn(&str) -> bool) -> Result<Vec<String>, Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|error| vec![format!("--config {path}: {error}")])?;
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        // The line itself may hold a secret.
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
        vec![format!("--config {path}:{line}: {}", error.message())]
    })?;
    let mut settings = Vec::new();
    flatten("", table, &mut settings);

    let command = cli::command();
    let (mut flags, mut errors) = (Vec::new(), Vec::new());
    for (key, value) in settings {
        // `azureblobprovider` is both a switch and a table; in TOML the switch is called `enabled`.
        let key = key.strip_suffix(".enabled").unwrap_or(&key);
        let known = |arg: &&clap::Arg| arg.get_long() == Some(key) && key != "config";
        let Some(arg) = command.get_arguments().find(known) else {
            let names = command.get_arguments().filter_map(clap::Arg::get_long);
            let meant =
                nearest(key, names).map(|meant| format!("; did you mean {meant:?}?")).unwrap_or_default();
            errors.push(format!("--config {path}: {key:?} is not a setting{meant}"));
            continue;
        };
        let value = match value {
            Value::String(text) => text,
            Value::Integer(number) => number.to_string(),
            Value::Boolean(switch) => switch.to_string(),
            _ => {
                errors.push(format!("--config {path}: {key:?} must be a text, a whole number or a boolean"));
                continue;
            }
        };
        if !arg.get_env().and_then(|name| name.to_str()).is_some_and(&env_is_set) {
            flags.push(format!("--{key}={value}"));
        }
    }
    if errors.is_empty() { Ok(flags) } else { Err(errors) }
}

fn flatten(prefix: &str, table: Table, settings: &mut Vec<(String, Value)>) {
    for (key, value) in table {
        let key = format!("{prefix}{key}");
        match value {
            Value::Table(table) => flatten(&format!("{key}."), table, settings),
            value => settings.push((key, value)),
        }
    }
}
