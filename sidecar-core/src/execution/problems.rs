//! What is wrong with a module's outputs, as far as anybody reads it.

use crate::contract::Problem;
use crate::error::{Error, Result};

/// The most problems reported at once: the answer stays of a size that a person can read.
const MOST: usize = 1000;

/// The longest name that a problem repeats, in bytes.
const LONGEST: usize = 512;

/// The first problems found, and how many there are.
#[derive(Debug, Default)]
pub(super) struct Problems {
    list: Vec<Problem>,
    more: usize,
}

impl Problems {
    pub(super) fn add(&mut self, file: &str, message: impl Into<String>) {
        let shown = match file.char_indices().find(|(at, _)| *at >= LONGEST) {
            Some((end, _)) => format!("{}…", &file[..end]),
            None => file.to_owned(),
        };
        self.extend([Problem::of(shown, message)]);
    }

    pub(super) fn extend(&mut self, problems: impl IntoIterator<Item = Problem>) {
        for problem in problems {
            if self.list.len() < MOST {
                self.list.push(problem);
            } else {
                self.more += 1;
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// # Errors
    /// [`Error::Invalid`] if there are any.
    pub(super) fn check(mut self) -> Result<()> {
        if self.list.is_empty() {
            return Ok(());
        }
        if self.more > 0 {
            self.list.push(Problem::of("out", format!("{} more problems", self.more)));
        }
        Err(Error::Invalid(self.list))
    }
}
