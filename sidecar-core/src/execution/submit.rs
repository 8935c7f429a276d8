//! The first event of a graph, made of files and values that no module wrote.

use std::fs;
use std::path::Path;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::conflicts;
use super::data_plane::DataPlane;
use super::spec::Settings;
use super::tree::{self, Tree};
use crate::blob::Source;
use crate::contract::{
    Blob, BlobKey, Event, EventContext, EventId, FileName, KeyValuePairs, Lineage, Problem,
};
use crate::documents::Documents as _;
use crate::error::{Error, Result};

/// What a first event carries.
#[derive(Debug, Clone)]
pub struct Submission {
    event_id: EventId,
    event_type: String,
    values: KeyValuePairs,
    files: Tree,
}

impl Submission {
    /// Stands for the module in the keys of submitted files; no module can have this name.
    const MODULE: &'static str = ".submit";

    /// An event of this type, without files and values.
    pub fn new(event_type: impl Into<String>) -> Self {
        Self {
            event_id: EventId::from(uuid::Uuid::new_v4()),
            event_type: event_type.into(),
            values: KeyValuePairs::default(),
            files: Tree::new(),
        }
    }

    /// Gives the event this id instead of a new one, so that the same can be submitted again.
    #[must_use]
    pub fn event_id(mut self, id: EventId) -> Self {
        self.event_id = id;
        self
    }

    /// Adds a value for the consumers' `in/meta.json`.
    #[must_use]
    pub fn value(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.values.push(key, value);
        self
    }

    /// Adds a file under its own name, or all files of a directory under their names in it. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Invalid`] when a name cannot be used or is taken.
    pub fn path(mut self, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let invalid =
            |message: String| Error::Invalid(vec![Problem::of(path.display().to_string(), message)]);
        let real = path.canonicalize().map_err(Error::io("read", path))?;
        let metadata = fs::symlink_metadata(&real).map_err(Error::io("read", path))?;
        let found = if metadata.is_dir() {
            let mut problems = Vec::new();
            let found = tree::walk(&real, &path.display().to_string(), &mut problems)?;
            if !problems.is_empty() {
                return Err(Error::Invalid(problems));
            }
            found
        } else if metadata.is_file() {
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| invalid("the name is not UTF-8".into()))?;
            let name = FileName::parse(name).map_err(|error| invalid(error.to_string()))?;
            Tree::from([(name, Source::found(real, &metadata))])
        } else {
            return Err(invalid("is neither a file nor a directory".into()));
        };
        for (name, source) in found {
            if let Some(other) = self.files.insert(name.clone(), source) {
                return Err(invalid(format!(
                    "{name:?} is the name of {} too",
                    other.path().display(),
                    name = name.as_str()
                )));
            }
        }
        Ok(self)
    }

    /// Puts everything into the data plane and publishes the event, whose id is returned.
    ///
    /// # Errors
    /// What the providers report; nothing is published before everything it names is durable.
    pub async fn submit(self, plane: &DataPlane) -> Result<EventId> {
        let id = self.event_id;
        let mut problems = conflicts::nested("", self.files.keys());
        let keyed = self.files.keys().map(|name| Ok((name, key(&id, name)?)));
        let keyed = keyed.collect::<Result<Vec<_>>>()?;
        problems.extend(conflicts::folded(
            &*plane.blobs,
            "",
            keyed.iter().map(|(name, key)| (*name, key.clone())),
        ));
        if !problems.is_empty() {
            return Err(Error::Invalid(problems));
        }
        let blobs: Vec<Blob> = stream::iter(self.files.clone())
            .map(|(name, source)| put(plane, &id, name, source))
            .buffered(Settings::DEFAULT_PARALLEL.get())
            .try_collect()
            .await?;
        plane.blobs.flush().await?;
        let lineage = Lineage {
            name: String::new(),
            event_id: id.clone(),
            correlation_id: id.to_string(),
            parent_event_id: String::new(),
        };
        let context = EventContext {
            context: lineage.clone(),
            files: self.files.into_keys().collect(),
            data: self.values,
            blobs,
        };
        plane.documents.store(&[context]).await?;
        let event = Event {
            context: lineage,
            event_type: self.event_type,
            previous_stages: Vec::new(),
            data: KeyValuePairs::default(),
        };
        plane.events.publish(&[event]).await?;
        Ok(id)
    }

    /// How many files were added.
    pub fn files(&self) -> usize {
        self.files.len()
    }
}

async fn put(plane: &DataPlane, id: &EventId, name: FileName, source: Source) -> Result<Blob> {
    let key = key(id, &name)?;
    let descriptor = plane.blobs.put(&key, &source).await?;
    Ok(Blob {
        name,
        key,
        size: descriptor.size,
        digest: descriptor.digest,
        executable: source.is_executable(),
    })
}

fn key(id: &EventId, name: &FileName) -> Result<BlobKey> {
    BlobKey::parse(&format!("{id}/{}/{name}", Submission::MODULE))
        .map_err(|invalid| Error::Invalid(vec![Problem::of(name.as_str(), invalid.to_string())]))
}
