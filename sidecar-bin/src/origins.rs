//! Where settings come from that no flag gave: a mistake is to be corrected there.

use std::collections::HashMap;

use clap::ArgMatches;
use clap::parser::ValueSource;

use crate::help;

/// The variable, or the file of settings, by the flag.
#[derive(Debug, Default)]
pub(crate) struct Origins(HashMap<String, String>);

impl Origins {
    /// Those of a command line, and of a file of settings with the `--flag=value`s that it became.
    pub(crate) fn new(matches: &ArgMatches, file: Option<(&str, &[String])>) -> Self {
        let mut origins = HashMap::new();
        for arg in help::command().get_arguments() {
            let (Some(flag), Some(variable)) = (arg.get_long(), arg.get_env()) else { continue };
            let source = matches.try_contains_id(arg.get_id().as_str()).is_ok();
            if source && matches.value_source(arg.get_id().as_str()) == Some(ValueSource::EnvVariable) {
                origins.insert(flag.to_owned(), format!("{} (--{flag})", variable.to_string_lossy()));
            }
        }
        if let Some((file, flags)) = file {
            let names = flags.iter().filter_map(|flag| flag.strip_prefix("--")?.split('=').next());
            origins.extend(names.map(|flag| (flag.to_owned(), format!("--config {file}: {flag}"))));
        }
        Self(origins)
    }

    /// Lets each message that begins with a flag begin with the place where the flag's value is.
    pub(crate) fn locate(&self, messages: &[String]) -> Vec<String> {
        messages.iter().map(|message| self.located(message)).collect()
    }

    fn located(&self, message: &str) -> String {
        let located = message
            .strip_prefix("--")
            .and_then(|rest| rest.split_once(": "))
            .and_then(|(flag, problem)| Some(format!("{}: {problem}", self.0.get(flag)?)));
        located.unwrap_or_else(|| message.to_owned())
    }
}
