//! Events as readable JSON files in one directory, for whoever watches it.

mod source;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use async_trait::async_trait;

use super::{EventFormat, EventProvider, EventSource, Subscription};
use crate::contract::{Event, EventId};
use crate::error::{Error, Result};
use crate::local_dir::{self, store_error};
use crate::{blocking, brief};

/// Events under `ROOT/events/{event id}.json`; a name that begins with a dot is no event yet.
#[derive(Debug, Clone)]
pub struct Local {
    /// The absolute directory that was opened.
    home: PathBuf,
    /// Where the events are.
    dir: PathBuf,
    format: EventFormat,
}

impl std::fmt::Display for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "local events in {}", self.dir.display())
    }
}

#[async_trait]
impl EventProvider for Local {
    async fn publish(&self, events: &[Event]) -> Result<()> {
        let messages: Vec<_> = events
            .iter()
            .map(|event| (event.context.event_id.as_str(), self.format.message(event)))
            .collect();
        let files = local_dir::encode(&self.dir, messages.iter().map(|(id, message)| (*id, message)))?;
        let store = self.clone();
        brief(move || local_dir::write(&store, &store.dir, &files)).await
    }

    async fn republish(&self, event: &Event, message_id: &str) -> Result<()> {
        let files = local_dir::encode(&self.dir, [(message_id, &self.format.message(event))])?;
        let store = self.clone();
        brief(move || local_dir::write(&store, &store.dir, &files)).await
    }

    async fn subscribe(&self, subscription: &Subscription) -> Result<Arc<dyn EventSource>> {
        let (store, subscription) = (self.clone(), subscription.clone());
        let source = brief(move || source::Source::open(&store, &subscription)).await?;
        Ok(Arc::new(source))
    }

    async fn forget(&self, ids: &[EventId]) -> Result<()> {
        let (store, ids) = (self.clone(), ids.to_vec());
        blocking(move || {
            let groups = match fs::read_dir(store.groups()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                listed => listed
                    .and_then(|groups| groups.map(|group| Ok(group?.path())).collect())
                    .map_err(store_error(&store, "read", &store.groups()))?,
            };
            let kept = groups.iter().flat_map(|group| [group.join("claims"), group.join("acked")]);
            // The message first: as long as it is there, what is settled must not come again.
            let places: Vec<_> = std::iter::once(store.dir.clone()).chain(kept).collect();
            for path in ids.iter().flat_map(|id| places.iter().map(|dir| local_dir::path(dir, id.as_str()))) {
                match fs::remove_file(&path) {
                    // Something else than a group lies beside them.
                    Err(error)
                        if !matches!(
                            error.kind(),
                            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                        ) =>
                    {
                        return Err(store_error(&store, "remove", &path)(error));
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .await
    }

    fn id(&self) -> String {
        local_dir::id(&self.home)
    }

    fn directories(&self) -> Vec<PathBuf> {
        vec![self.dir.clone()]
    }

    async fn check(&self) -> Result<()> {
        let store = self.clone();
        brief(move || local_dir::writable(&store, &store.dir)).await
    }
}

impl Local {
    /// Where below its root it keeps data.
    pub(crate) const DIRECTORY: &str = "events";

    /// Where below its root the groups of its consumers keep theirs.
    pub(crate) const GROUPS: &str = "groups";

    /// Opens the store below `root`, making `root/events` when it is absent.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be made.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let home = local_dir::directory(root.as_ref())?;
        let dir = local_dir::directory(&home.join(Self::DIRECTORY))?;
        Ok(Self { home, dir, format: EventFormat::default() })
    }

    /// Where groups keep what they have claimed and settled.
    fn groups(&self) -> PathBuf {
        self.home.join(Self::GROUPS)
    }

    /// Writes the events in `format`.
    #[must_use]
    pub fn format(self, format: EventFormat) -> Self {
        Self { format, ..self }
    }

    /// All events so far, in the order of their ids. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Corrupt`] when one cannot be read.
    pub fn published(&self) -> Result<Vec<Event>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(Error::io("read", &self.dir))? {
            let path = entry.map_err(Error::io("read", &self.dir))?.path();
            if !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
                paths.push(path);
            }
        }
        paths.sort();
        let corrupt = |path: &Path, error: serde_json::Error| Error::Corrupt {
            provider: self.to_string(),
            what: path.display().to_string(),
            problem: error.to_string(),
        };
        let parse = |path: PathBuf| {
            let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
            self.format.decode(&bytes).map_err(|error| corrupt(&path, error))
        };
        paths.into_iter().map(parse).collect()
    }
}
