//! Documents as readable JSON files, a directory for each kind.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::{Document, DocumentProvider, Kind, PAGE};
use crate::blocking;
use crate::error::{Error, Result};
use crate::local_dir::{self, store_error};

/// Event contexts under `ROOT/contexts/{event id}.json`, and every other kind likewise.
#[derive(Debug, Clone)]
pub struct Local {
    root: PathBuf,
}

impl std::fmt::Display for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "local documents in {}", self.root.display())
    }
}

#[async_trait]
impl DocumentProvider for Local {
    async fn get(&self, kind: Kind, id: &str) -> Result<Option<String>> {
        let (store, path) = (self.clone(), local_dir::path(&self.dir(kind), id));
        blocking(move || store.read(&path)).await
    }

    async fn put(&self, kind: Kind, documents: &[Document]) -> Result<()> {
        let (store, dir) = (self.clone(), self.dir(kind));
        let file = |document: &Document| (local_dir::path(&dir, &document.id), document.json.clone());
        let files: Vec<_> = documents.iter().map(file).collect();
        blocking(move || local_dir::write(&store, &dir, &files)).await
    }

    async fn insert(&self, kind: Kind, document: &Document) -> Result<String> {
        let (store, dir, document) = (self.clone(), self.dir(kind), document.clone());
        blocking(move || {
            let path = local_dir::path(&dir, &document.id);
            if local_dir::insert(&store, &dir, &path, document.json.as_bytes())? {
                return Ok(document.json);
            }
            store.read(&path)?.ok_or_else(|| {
                let gone = io::Error::other("it was there, and is not any more");
                Error::unavailable(&store, format!("read {}", path.display()), gone)
            })
        })
        .await
    }

    async fn list(&self, kind: Kind, after: Option<&str>) -> Result<Vec<(String, String)>> {
        let (store, dir, after) = (self.clone(), self.dir(kind), after.map(str::to_owned));
        blocking(move || {
            // The first of those after `after`, and never more of them in memory than a page has.
            let mut page = BTreeSet::new();
            for entry in fs::read_dir(&dir).map_err(store_error(&store, "read", &dir))? {
                let name = entry.map_err(store_error(&store, "read", &dir))?.file_name();
                let id = name.to_str().and_then(|name| name.strip_suffix(".json"));
                if let Some(id) = id.filter(|id| after.as_deref().is_none_or(|after| *id > after)) {
                    page.insert(id.to_owned());
                    if page.len() > PAGE {
                        page.pop_last();
                    }
                }
            }
            let read = |id: String| Ok(store.read(&local_dir::path(&dir, &id))?.map(|json| (id, json)));
            page.into_iter().filter_map(|id| read(id).transpose()).collect()
        })
        .await
    }

    async fn delete(&self, kind: Kind, ids: &[String]) -> Result<()> {
        let (store, dir, ids) = (self.clone(), self.dir(kind), ids.to_vec());
        blocking(move || {
            for id in ids {
                let path = local_dir::path(&dir, &id);
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(store_error(&store, "remove", &path)(error));
                    }
                    _ => {}
                }
            }
            local_dir::present(&store, &dir)
        })
        .await
    }

    async fn check(&self) -> Result<()> {
        let store = self.clone();
        blocking(move || Kind::ALL.iter().try_for_each(|kind| local_dir::present(&store, &store.dir(*kind))))
            .await
    }

    fn id(&self) -> String {
        local_dir::id(&self.root)
    }

    fn directories(&self) -> Vec<PathBuf> {
        Kind::ALL.iter().map(|kind| self.dir(*kind)).collect()
    }
}

impl Local {
    /// Opens the store below `root`, making its directories when they are absent.
    ///
    /// # Errors
    /// [`Error::Io`] when a directory cannot be made.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = local_dir::directory(root.as_ref())?;
        for kind in Kind::ALL {
            local_dir::directory(&root.join(kind.plural()))?;
        }
        Ok(Self { root })
    }

    fn dir(&self, kind: Kind) -> PathBuf {
        self.root.join(kind.plural())
    }

    fn read(&self, path: &Path) -> Result<Option<String>> {
        let Some(bytes) = local_dir::read(self, path)? else { return Ok(None) };
        String::from_utf8(bytes).map(Some).map_err(|error| Error::Corrupt {
            provider: self.to_string(),
            what: path.display().to_string(),
            problem: error.to_string(),
        })
    }
}
