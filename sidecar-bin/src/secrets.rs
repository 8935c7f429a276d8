//! Secrets that are kept in files: whoever rotates them replaces the files while a worker runs.

use std::time::Duration;

use sidecar_core::worker::Worker;
use sidecar_core::{DataPlane, Error};
use tracing::{info, warn};

use crate::config::read_files;
use crate::errors::Errors;
use crate::options::Options;
use crate::plane::Plane;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// The settings that name the files, and what was in them.
#[derive(Clone)]
pub(crate) struct Secrets {
    options: Options,
    development: bool,
    known: Vec<String>,
}

impl Secrets {
    /// Those of `options` as they were given, whose files have not been read into them yet.
    pub(crate) fn new(options: &Options, development: bool) -> Self {
        let mut secrets = Self { options: options.clone(), development, known: Vec::new() };
        secrets.known = secrets.contents();
        secrets
    }

    /// What the files hold; nothing where a file cannot be read.
    fn contents(&self) -> Vec<String> {
        let mut options = self.options.clone();
        let files = options.in_files().into_iter();
        // Modules know the shared secret: it cannot change under them.
        let files =
            files.filter(|(flag, ..)| *flag != "sharedsecret").filter_map(|(_, _, file)| file.clone());
        let files = files.chain(self.options.ca_file.clone());
        files.map(|file| std::fs::read_to_string(file).unwrap_or_default()).collect()
    }

    /// The data plane by what the files hold now; `None` when they are as they were.
    fn look(&mut self) -> Option<Result<DataPlane, String>> {
        let now = self.contents();
        if now == self.known {
            return None;
        }
        self.known = now;
        let (mut options, mut errors) = (self.options.clone(), Errors::default());
        read_files(&mut options, &mut errors);
        let plane = Plane::parse(&options, self.development, &mut errors);
        Some(match plane.filter(|_| errors.0.is_empty()) {
            Some(plane) => plane.unopened.open().map_err(|error: Error| error.chain()),
            None => Err(errors.0.join("; ")),
        })
    }

    /// Gives a worker the new credentials whenever the files have changed.
    pub(crate) async fn keep_fresh(mut self, worker: Worker) {
        if self.known.is_empty() {
            return;
        }
        loop {
            tokio::time::sleep(LOOK).await;
            let renewed = match self.look() {
                None => continue,
                Some(Ok(plane)) => worker.renew(plane).await.map_err(|error| error.chain()),
                Some(Err(problem)) => Err(problem),
            };
            match renewed {
                Ok(()) => info!("the files of secrets have changed: their new contents are in use"),
                Err(problem) => {
                    warn!("the files of secrets have changed, and cannot be used: {problem}");
                    self.known.clear();
                }
            }
        }
    }
}
