//! `sidecar submit`: the first event of a graph.

use std::path::PathBuf;

use sidecar_core::plane::Unopened;
use sidecar_core::{DataPlane, Documents as _, Error, EventContext, EventId, Submission};
use tracing::{info, warn};

use crate::config;
use crate::exit::{self, Failure};

/// What the event is to carry, as it was given.
pub(crate) struct Carried {
    pub(crate) values: Vec<String>,
    pub(crate) references: Vec<String>,
    pub(crate) files: Vec<PathBuf>,
}

/// Puts files and values into the data plane as a first event, and prints its id.
///
/// # Errors
/// With the code that says which part failed.
pub(crate) async fn submit(
    id: Option<String>,
    event_type: String,
    Carried { values, references, files }: Carried,
    unopened: &Unopened,
    plane: &DataPlane,
) -> Result<u8, Failure> {
    if let Some((setting, url)) = unopened.urls().into_iter().find(|(_, url)| *url == "memory:") {
        let message =
            format!("--{setting} {url} keeps nothing when this command ends: name a store that does");
        return Err(Failure::new(exit::CONFIGURATION, message));
    }
    let stores: Vec<_> = unopened.directories().into_iter().map(|(_, dir)| dir).collect();
    let id = id.unwrap_or_else(new_id);
    let mut submission = submission(id.clone(), event_type, &values, &files, &stores)?;
    for given in &references {
        // A URL may hold an equals sign itself.
        let (name, url) = match given.split_once('=') {
            Some((name, url)) if !name.contains("://") => (Some(name), url),
            _ => (None, &**given),
        };
        let reference = plane.references.pin(name, url).await.map_err(|error| match error {
            Error::Submission(_) | Error::NotFound { .. } => unusable(&error),
            other => Failure::at_done(&other),
        })?;
        submission = submission.reference(reference).map_err(|error| unusable(&error))?;
    }
    let id = send(submission, &id, plane).await?;
    // The event is published all the same; whoever needs its id has to know that it did not arrive.
    exit::print(id.as_str())?;
    Ok(0)
}

/// An id that is known before the event is submitted, so that what was stored by half can be submitted again.
pub(crate) fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Submits it under this id.
///
/// # Errors
/// With the code that says which part failed.
pub(crate) async fn send(submission: Submission, id: &str, plane: &DataPlane) -> Result<EventId, Failure> {
    let files = submission.files();
    if submission.is_empty() {
        warn!("the event has no files and no values: name files, or say --value KEY=VALUE");
    }
    let before = plane.documents.find::<EventContext>(id).await;
    let before = before.map_err(|error| Failure::at_done(&error))?;
    let id = submission.submit(plane).await.map_err(|error| match error {
        invalid @ Error::Submission(_) => unusable(&invalid),
        other => {
            let Failure { mut code, message } = Failure::at_done(&other);
            if matches!(other, Error::Io { .. }) {
                // A store's own files are the store's errors: this one was to be submitted.
                code = exit::INPUTS_FAILED;
            }
            Failure::new(
                code,
                format!("{message}\nrepeat the command with --id={id}, so that nothing is submitted twice"),
            )
        }
    })?;
    match before {
        None => info!(files, "submitted as event {id}"),
        Some(_) => info!(
            "event {id} was submitted before, and is published again: where it has outcomes they stay (another id, or run \
             --rerun, works on it once more)"
        ),
    }
    Ok(id)
}

/// The keys and values of `--value`.
///
/// # Errors
/// For one that is not both.
pub(crate) fn values(given: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let pair = |value: &String| match value.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Failure::new(exit::CONFIGURATION, format!("--value {value:?} is not KEY=VALUE"))),
    };
    given.iter().map(pair).collect()
}

/// A first event of files and values, none of which is in the directories of the stores.
///
/// # Errors
/// For what cannot be submitted.
pub(crate) fn submission(
    id: String,
    event_type: String,
    values: &[String],
    files: &[PathBuf],
    stores: &[PathBuf],
) -> Result<Submission, Failure> {
    if event_type.is_empty() {
        return Err(Failure::new(exit::CONFIGURATION, "--type is empty: consumers subscribe to a type"));
    }
    let id =
        EventId::parse(&id).map_err(|error| Failure::new(exit::CONFIGURATION, format!("--id: {error}")))?;
    let mut submission = Submission::new(event_type).event_id(id);
    if let Some(parent) = config::traceparent() {
        submission = submission.traceparent(parent);
    }
    for (key, value) in self::values(values)? {
        submission = submission.value(key, value);
    }
    let stores: Vec<_> = stores.iter().filter_map(|dir| dir.canonicalize().ok()).collect();
    for path in files {
        if path.to_str().is_some_and(|path| path.contains("://")) && !path.exists() {
            let path = path.display();
            let message = format!(
                "{path} is a URL: submit takes local files, and stores them in --blobs; say --reference {path} to leave \
                 it where it is"
            );
            return Err(Failure::new(exit::CONFIGURATION, message));
        }
        if let Ok(real) = path.canonicalize()
            && let Some(dir) = stores.iter().find(|dir| dir.starts_with(&real))
        {
            let (path, dir) = (path.display(), dir.display());
            let message = format!("{path} holds the data plane itself, {dir}: name what lies beside it");
            return Err(Failure::new(exit::INPUTS_FAILED, message));
        }
        submission = submission.path(path).map_err(|error| unusable(&error))?;
    }
    Ok(submission)
}

fn unusable(error: &Error) -> Failure {
    match error {
        Error::Submission(problems) => {
            let lines: String = problems.iter().map(|problem| format!("\n  {problem}")).collect();
            Failure::new(exit::INPUTS_FAILED, format!("nothing was submitted:{lines}"))
        }
        other => Failure::new(exit::INPUTS_FAILED, other.chain()),
    }
}
