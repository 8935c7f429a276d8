//! The file given by `--config`: TOML whose keys are the long flags, turned into those flags.

use sidecar_core::plane::nearest;
use toml::{Table, Value};

use crate::help;

/// The file's settings as flags, less those that `is_given` says are given elsewhere, by their ids in clap; a setting and the file that holds it are one.
///
/// # Errors
/// One line for each setting that is no flag or no plain value, or one for a file that is no TOML.
pub(crate) fn flags(path: &str, is_given: impl Fn(&str) -> bool) -> Result<Vec<String>, Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|error| vec![format!("--config {path}: {error}")])?;
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        // The line itself may hold a secret.
        let line =
            error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        vec![format!("--config {path}:{line}: {}", error.message())]
    })?;
    let mut settings = Vec::new();
    flatten("", table, &mut settings);

    let command = help::command();
    let (mut flags, mut errors) = (Vec::new(), Vec::new());
    for (key, value) in settings {
        // `azureblobprovider` is both a switch and a table; in TOML the switch is called `enabled`.
        let key = key.strip_suffix(".enabled").unwrap_or(&key);
        let known = |arg: &&clap::Arg| arg.get_long() == Some(key) && key != "config";
        let Some(arg) = command.get_arguments().find(known) else {
            let names: Vec<_> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
            // TOML counts what follows the head of a table to the table.
            let below = key.rsplit_once('.').filter(|(_, last)| names.contains(last));
            let meant = match below {
                Some((table, last)) => format!("; {last:?} belongs above [{table}]"),
                None => nearest(key, names.into_iter())
                    .map(|meant| format!("; did you mean {meant:?}?"))
                    .unwrap_or_default(),
            };
            let line = line_of(key, &text);
            let meant = if key == "config" { " of this file" } else { &meant };
            errors.push(format!("--config {path}{line}: {key:?} is not a setting{meant}"));
            continue;
        };
        let value = match value {
            Value::String(text) => text,
            Value::Integer(number) => number.to_string(),
            Value::Boolean(switch) => switch.to_string(),
            _ => {
                let line = line_of(key, &text);
                errors.push(format!(
                    "--config {path}{line}: {key:?} must be a text, a whole number or a boolean"
                ));
                continue;
            }
        };
        let other = key.strip_suffix("-file").map_or_else(|| format!("{key}-file"), str::to_owned);
        let of_other = |arg: &&clap::Arg| arg.get_long() == Some(&*other);
        let names = [Some(arg), command.get_arguments().find(of_other)];
        if !names.into_iter().flatten().any(|arg| is_given(arg.get_id().as_str())) {
            flags.push(format!("--{key}={value}"));
        }
    }
    if errors.is_empty() { Ok(flags) } else { Err(errors) }
}

/// Where a key is, as far as a look at the lines tells.
fn line_of(key: &str, text: &str) -> String {
    let last = key.rsplit('.').next().unwrap_or(key);
    let is_key = |line: &str| {
        let name = line.split('=').next().unwrap_or_default().trim();
        line.contains('=') && (name == key || name.rsplit('.').next() == Some(last))
    };
    text.lines().position(is_key).map(|line| format!(":{}", line + 1)).unwrap_or_default()
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
