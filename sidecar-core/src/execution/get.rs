//! Copies files out of the data plane, for people and scripts: keys have a part that nobody types.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::record::{self, contents_of, latest};
use super::reference;
use super::spec::Settings;
use super::stage;
use super::transfer::{groups, move_groups};
use crate::blob::Target;
use crate::blocking;
use crate::contract::{
    Blob, BlobKey, EventContext, EventId, ExecutionId, ExecutionRecord, Failure, ModuleName, Reference,
};
use crate::documents::Documents as _;
use crate::error::{Error, Result};
use crate::plane::DataPlane;

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// How many files.
    pub files: u64,
    /// Their sizes together, in bytes.
    pub bytes: u64,
}

/// Copies the files of an event (`EVENT`), the outputs of an execution (`EVENT/MODULE`, or `EVENT/MODULE/RUN`), or what was
/// kept of a failed attempt's (the id of its failure), into the directory `dir`, as a tree. Sizes and digests are verified.
///
/// The directory is made if it is absent, and must be empty otherwise; it is there whole or not at all.
///
/// # Errors
/// [`Error::Absent`] when there is no such event or outcome, [`Error::Io`] when the directory is not empty;
/// otherwise what the providers report.
pub async fn copy_out(plane: &DataPlane, id: &str, dir: &Path) -> Result<Copied> {
    let (blobs, references) = named(plane, id).await?;
    let files = blobs.into_iter().map(|blob| (blob.name.below(Path::new("")), blob));
    copy(plane, files.collect(), &references, dir).await
}

/// Copies blobs to their places below `dir`, and what is referred to under its names.
pub(crate) async fn copy(
    plane: &DataPlane,
    files: Vec<(PathBuf, Blob)>,
    references: &[Reference],
    dir: &Path,
) -> Result<Copied> {
    let dir = std::path::absolute(dir).map_err(Error::io("use", dir))?;
    let staging = blocking({
        let dir = dir.clone();
        move || stage(&dir)
    })
    .await?;
    let sizes = files.iter().map(|(_, blob)| blob.size).chain(references.iter().map(|of| of.pinned.size));
    let copied = Copied { files: (files.len() + references.len()) as u64, bytes: sizes.sum() };
    // One file may be in several places.
    let mut rounds: Vec<HashMap<BlobKey, (PathBuf, Blob)>> = Vec::new();
    for (path, blob) in files {
        match rounds.iter_mut().find(|round| !round.contains_key(&blob.key)) {
            Some(round) => drop(round.insert(blob.key.clone(), (path, blob))),
            None => rounds.push(HashMap::from([(blob.key.clone(), (path, blob))])),
        }
    }
    let mut failed = None;
    for places in rounds {
        let fetch = async |group: Vec<Blob>| {
            stage::fetch(&*plane.blobs, &group, |blob| Target::file(staging.join(&places[&blob.key].0))).await
        };
        let blobs = places.values().map(|(_, blob)| blob.clone()).collect();
        let groups = groups(blobs, Settings::DEFAULT_PARALLEL, |blob: &Blob| blob.size);
        let (_, stopped) = move_groups(groups, Settings::DEFAULT_PARALLEL, fetch).await;
        failed = failed.or(stopped);
    }
    for of in references {
        if failed.is_none() {
            let target = Target::file(of.name.below(&staging));
            failed = reference::fetch(plane, of, &target).await.err();
        }
    }
    blocking(move || {
        if let Some(error) = failed {
            // It was made here, and holds nothing else.
            let _ = fs::remove_dir_all(&staging);
            return Err(error);
        }
        fs::rename(&staging, &dir).map_err(Error::io("create", &dir))
    })
    .await?;
    Ok(copied)
}

/// A directory beside `dir`, to be renamed to it.
fn stage(dir: &Path) -> Result<std::path::PathBuf> {
    if let Ok(mut entries) = fs::read_dir(dir)
        && entries.next().is_some()
    {
        return Err(Error::io("copy into", dir)(std::io::Error::other(
            "it is not empty; name another directory",
        )));
    }
    let parent = dir.parent().unwrap_or(dir);
    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    let staging = parent.join(format!(".{}.tmp", uuid::Uuid::new_v4().simple()));
    fs::create_dir(&staging).map_err(Error::io("create", &staging))?;
    Ok(staging)
}

/// The files that an id names.
async fn named(plane: &DataPlane, id: &str) -> Result<(Vec<Blob>, Vec<Reference>)> {
    let refused = |why: String| absent(plane, &format!("{id:?}"), why);
    let parts: Vec<&str> = id.split('/').collect();
    let invalid = |error: crate::InvalidName| refused(error.to_string());
    let (event, module, run) = match parts[..] {
        [event] => return event_files(plane, &EventId::parse(event).map_err(invalid)?).await,
        [event, module] => (event, module, None),
        [event, module, run] => {
            let run: u32 = run.parse().map_err(|_| refused(format!("{run:?} is not the number of a run")))?;
            (event, module, Some(run))
        }
        _ => return Err(refused("say EVENT, EVENT/MODULE or EVENT/MODULE/RUN".into())),
    };
    let event_id = EventId::parse(event).map_err(invalid)?;
    let name = ModuleName::parse(module).map_err(invalid)?;
    let execution = |run| ExecutionId { event_id: event_id.clone(), name: name.clone(), run };
    let found = match run {
        Some(run) => record::find(&*plane.documents, &execution(run)).await?,
        None => latest(plane, &execution(0)).await?,
    };
    let Some((record, committed)) = found.as_ref().and_then(|record| Some((record, record.committed()?)))
    else {
        let modules = committed_for(plane, &event_id).await?;
        return Err(refused(match modules.is_empty() {
            true => format!("event {event} has no outcome here (failed attempts: sidecar failures)"),
            false => format!("it has no outcome; event {event} has these: {}", modules.join(", ")),
        }));
    };
    let contents = contents_of(plane, record, committed).await?;
    let blob = |file: crate::RecordedFile| {
        let key = record.output_key(committed, &file).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(Blob { name: file.name, key, size: file.size, digest: file.digest, executable: file.executable })
    };
    Ok((contents.outputs.into_iter().map(blob).collect::<Result<_>>()?, Vec::new()))
}

fn absent(plane: &DataPlane, what: &str, why: impl Into<String>) -> Error {
    Error::Absent { provider: plane.documents.to_string(), what: what.to_owned(), why: why.into() }
}

/// The executions of an event that have an outcome with outputs, as `EVENT/MODULE/RUN`, among the first of the store.
async fn committed_for(plane: &DataPlane, event: &EventId) -> Result<Vec<String>> {
    /// A look at all of a large store would keep a person waiting for an error.
    const PAGES: usize = 100;
    let (mut found, mut after) = (Vec::new(), None::<String>);
    for _ in 0..PAGES {
        let page = plane.documents.page::<ExecutionRecord>(after.as_deref()).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        let of_event =
            page.iter().map(|(_, record)| record).filter(|record| record.context.event_id == *event);
        found.extend(
            of_event
                .filter(|record| record.committed().is_some())
                .map(|record| format!("{event}/{}/{}", record.context.name, record.run)),
        );
    }
    found.sort();
    Ok(found)
}

async fn event_files(plane: &DataPlane, event: &EventId) -> Result<(Vec<Blob>, Vec<Reference>)> {
    let context = plane.documents.find::<EventContext>(event.as_str()).await?;
    let Some(context) = context else {
        if let Some(failure) = plane.documents.find::<Failure>(event.as_str()).await? {
            let why = "nothing was kept of what this attempt wrote: --on-failure=upload keeps it";
            return match failure.blobs.is_empty() {
                true => Err(absent(plane, &format!("the outputs of failure {event}"), why)),
                false => Ok((failure.blobs, Vec::new())),
            };
        }
        // The first event of a graph has none where nothing was submitted.
        let modules = committed_for(plane, event).await?;
        let why = match modules.is_empty() {
            true => "there is no such event; is this its data plane?".to_owned(),
            false => format!("the event itself has no files; its outcomes: {}", modules.join(", ")),
        };
        return Err(absent(plane, &format!("{:?}", event.as_str()), why));
    };
    let listed = |name: &crate::FileName| context.blobs.iter().find(|blob| blob.name == *name).cloned();
    let is_stored = |name: &&crate::FileName| !context.references.iter().any(|of| of.name == **name);
    let stored = context
        .files
        .iter()
        .filter(is_stored)
        .map(|name| {
            listed(name).ok_or_else(|| Error::Corrupt {
                provider: plane.documents.to_string(),
                what: format!("the context of event {event}"),
                problem: format!("no blob is listed for file {:?}", name.as_str()),
            })
        })
        .collect::<Result<_>>()?;
    Ok((stored, context.references.clone()))
}
