//! Everything that is wrong with the settings, collected so that it is reported together.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

/// One line for each mistake.
#[derive(Debug, Default)]
pub(crate) struct Errors(pub(crate) Vec<String>);

impl Errors {
    pub(crate) fn push(&mut self, flag: &str, problem: impl Display) {
        let error = format!("--{flag}: {problem}");
        // One setting may be read in two places.
        if !self.0.contains(&error) {
            self.0.push(error);
        }
    }

    /// Whether something is wrong with this flag.
    pub(crate) fn has(&self, flag: &str) -> bool {
        let start = format!("--{flag}: ");
        self.0.iter().any(|error| error.starts_with(&start))
    }

    /// The parsed value; one that is not `what` is noted.
    pub(crate) fn parse<T: FromStr>(&mut self, flag: &str, text: &Option<String>, what: &str) -> Option<T> {
        let text = text.as_ref()?;
        text.parse().map_err(|_| self.push(flag, format!("{text:?} is not {what}"))).ok()
    }

    pub(crate) fn switch(&mut self, flag: &str, text: &Option<String>) -> Option<bool> {
        match text.as_deref()?.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" | "" => Some(false),
            other => {
                self.push(flag, format!("{other:?} is neither true nor false"));
                // What would follow from the other value is not what is wrong.
                Some(true)
            }
        }
    }

    pub(crate) fn duration(&mut self, flag: &str, text: &Option<String>, default: Duration) -> Duration {
        let Some(text) = text else { return default };
        humantime::parse_duration(text).unwrap_or_else(|error| {
            self.push(flag, format!("{text:?} is not a duration such as 30s or 5m: {error}"));
            default
        })
    }
}
