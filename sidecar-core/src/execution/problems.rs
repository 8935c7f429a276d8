//! What is wrong with a module's outputs, as far as anybody reads it.

use std::io;

use rustix::io::Errno;

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
    /// Why nobody can tell whether there are any.
    unknown: Option<Error>,
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

    /// Something that cannot be read: a problem of whoever wrote it, unless this machine stands in the way.
    pub(super) fn unreadable(&mut self, file: &str, error: io::Error) {
        let system = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO, Errno::STALE];
        if Errno::from_io_error(&error).is_some_and(|errno| system.contains(&errno)) {
            self.unknown.get_or_insert_with(|| Error::io("read", file)(error));
        } else {
            self.add(file, format!("cannot be read: {error}"));
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// # Errors
    /// [`Error::Invalid`] if there are any; [`Error::Io`] when something could not be looked at.
    pub(super) fn check(mut self) -> Result<()> {
        if let Some(unknown) = self.unknown {
            return Err(unknown);
        }
        if self.list.is_empty() {
            return Ok(());
        }
        if self.more > 0 {
            self.list.push(Problem::of("out", format!("{} more problems", self.more)));
        }
        Err(Error::Invalid(self.list))
    }
}
