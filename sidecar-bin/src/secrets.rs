//! Secrets that are kept in files: whoever rotates them replaces the files while a worker runs.

use std::time::Duration;

use sidecar_core::worker::Worker;
use sidecar_core::{DataPlane, Error};
use tracing::{info, warn};

use crate::errors::Errors;
use crate::options::Options;
use crate::plane::Plane;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// The settings that name the files, and what was in them.
#[derive(Clone)]
pub(crate) struct Secrets {
    given: Options,
    development: bool,
    known: Contents,
}

/// What the files hold, and the certificates.
type Contents = (Vec<Option<String>>, Option<Vec<u8>>);

impl Secrets {
    /// Those of the settings as they were `given`, and as they were once their files had been `read`. Nothing is read
    /// here: a pipe gives what it has only once.
    pub(crate) fn new(mut given: Options, read: &mut Options, development: bool) -> Self {
        let is_kept = |file: &String| std::fs::metadata(file).is_ok_and(|found| found.is_file());
        for ((_, value, file), (_, read, _)) in given.in_files().into_iter().zip(read.in_files()) {
            if file.take_if(|file| !is_kept(file)).is_some() {
                value.clone_from(read);
            }
        }
        let known = (values(read), None);
        Self { given, development, known }
    }

    fn are_in_files(&mut self) -> bool {
        self.given.ca_file.is_some() || self.given.in_files().iter().any(|(_, _, file)| file.is_some())
    }

    fn certificates(&self) -> Option<Vec<u8>> {
        std::fs::read(self.given.ca_file.as_ref()?).ok()
    }

    /// The data plane by what the files hold now; `None` when they are as they were.
    fn look(&mut self) -> Option<Result<DataPlane, String>> {
        let (mut options, mut errors) = (self.given.clone(), Errors::default());
        read_files(&mut options, &mut errors);
        let now = (values(&mut options), self.certificates());
        if now == self.known {
            return None;
        }
        self.known = now;
        let plane = Plane::parse(&options, self.development, &mut errors);
        Some(match plane.filter(|_| errors.0.is_empty()) {
            Some(plane) => plane.unopened.open().map_err(|error: Error| error.chain()),
            None => Err(errors.0.join("; ")),
        })
    }

    /// Gives a worker the new credentials whenever the files have changed.
    pub(crate) async fn keep_fresh(mut self, worker: Worker) {
        if !self.are_in_files() {
            return;
        }
        self.known.1 = self.certificates();
        loop {
            tokio::time::sleep(LOOK).await;
            let renewed = match self.look() {
                None => continue,
                Some(Ok(plane)) => worker.renew(plane).await.map_err(|error| error.chain()),
                Some(Err(problem)) => Err(problem),
            };
            match renewed {
                Ok(()) => info!(
                    "the files of secrets have changed: from now on their new contents are used; a call that is being \
                     retried keeps the old ones until --retry-for has passed"
                ),
                Err(problem) => {
                    warn!("the files of secrets have changed, and cannot be used: {problem}");
                    self.known = Contents::default();
                }
            }
        }
    }
}

/// The values of settings that files can hold. Modules know the shared secret: it cannot change under them.
fn values(options: &mut Options) -> Vec<Option<String>> {
    let values = options.in_files().into_iter().filter(|(flag, ..)| *flag != "sharedsecret");
    values.map(|(_, value, _)| value.clone()).collect()
}

/// Takes the settings that were given as files.
pub(crate) fn read_files(options: &mut Options, errors: &mut Errors) {
    for (flag, value, file) in options.in_files() {
        let Some(file) = file else { continue };
        let flag_file = format!("{flag}-file");
        if value.is_some() {
            errors.push(&flag_file, format!("and --{flag} are both given; give one of them"));
            continue;
        }
        match std::fs::read_to_string(&*file) {
            // An editor ends the last line; no secret does.
            Ok(text) if text.trim().is_empty() => errors.push(&flag_file, format!("{file} is empty")),
            Ok(text) => *value = Some(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) => errors.push(&flag_file, format!("cannot read {file}: {error}")),
        }
    }
    if let Some(file) = options.ca_file.take() {
        match std::fs::read_to_string(&file) {
            Ok(pem) if pem.contains("-----BEGIN CERTIFICATE-----") => options.ca_file = Some(file),
            Ok(_) => errors.push("ca-file", format!("{file} has no certificate in PEM")),
            Err(error) => errors.push("ca-file", format!("cannot read {file}: {error}")),
        }
    }
}
