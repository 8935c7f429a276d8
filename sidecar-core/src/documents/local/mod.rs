//! Documents as readable JSON files, a directory for each kind.

mod graphs;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::{Document, DocumentProvider, Kind, PAGE};
use crate::brief;
use crate::error::{Error, Result};
use crate::local_dir::{self, store_error};
use graphs::Graphs;

/// Event contexts under `ROOT/contexts/{event id}.json`, and every other kind likewise.
#[derive(Debug, Clone)]
pub struct Local {
    root: PathBuf,
    graphs: Graphs,
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
        brief(move || store.read(&path)).await
    }

    async fn put(&self, kind: Kind, documents: &[Document]) -> Result<()> {
        let (store, dir) = (self.clone(), self.dir(kind));
        let documents = documents.to_vec();
        brief(move || {
            documents.iter().try_for_each(|document| store.index(kind, document))?;
            let file = |document: &Document| (local_dir::path(&dir, &document.id), document.json.clone());
            let files: Vec<_> = documents.iter().map(file).collect();
            local_dir::write(&store, &dir, &files)?;
            documents.iter().try_for_each(|document| store.index(kind, document))
        })
        .await
    }

    async fn insert(&self, kind: Kind, document: &Document) -> Result<String> {
        let (store, dir, document) = (self.clone(), self.dir(kind), document.clone());
        brief(move || {
            let path = local_dir::path(&dir, &document.id);
            store.index(kind, &document)?;
            if local_dir::insert(&store, &dir, &path, document.json.as_bytes())? {
                store.index(kind, &document)?;
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
        let (store, after) = (self.clone(), after.map(str::to_owned));
        brief(move || {
            let next = |after: Option<&str>| store.ids(kind, after);
            store.page(kind, after.as_deref(), next, |_| true)
        })
        .await
    }

    async fn list_graph(
        &self,
        kind: Kind,
        correlation_id: &str,
        after: Option<&str>,
    ) -> Result<Vec<(String, String)>> {
        let (store, after, correlation_id) =
            (self.clone(), after.map(str::to_owned), correlation_id.to_owned());
        brief(move || {
            let failed = |error| store_error(&store, "read", &store.root.join(graphs::DIRECTORY))(error);
            let is_indexed = std::cell::Cell::new(false);
            let next = |after: Option<&str>| match store.graphs.page(kind, &correlation_id, after) {
                Ok(Some(page)) => {
                    is_indexed.set(true);
                    Ok(page)
                }
                Ok(None) => store.ids(kind, after),
                Err(error) => Err(failed(error)),
            };
            store.page(kind, after.as_deref(), next, |json| match super::graph_of(json) {
                Some(graph) => graph == correlation_id,
                // The entry says that it is; whoever reads it finds that it is damaged.
                None => is_indexed.get(),
            })
        })
        .await
    }

    async fn delete(&self, kind: Kind, ids: &[String]) -> Result<()> {
        let (store, dir, ids) = (self.clone(), self.dir(kind), ids.to_vec());
        brief(move || {
            for id in ids {
                let path = local_dir::path(&dir, &id);
                let graph = fs::read_to_string(&path).ok().and_then(|json| super::graph_of(&json));
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(store_error(&store, "remove", &path)(error));
                    }
                    _ => {}
                }
                if let Some(graph) = graph {
                    store.graphs.remove(kind, &graph, &id);
                    // Another one may have stored it once more, and seen the entry that is gone now.
                    if path.exists() {
                        let added = store.graphs.add(kind, &graph, &id);
                        added.map_err(store_error(&store, "index", &path))?;
                    }
                }
            }
            local_dir::present(&store, &dir)
        })
        .await
    }

    async fn check(&self) -> Result<()> {
        let store = self.clone();
        brief(move || Kind::ALL.iter().try_for_each(|kind| local_dir::writable(&store, &store.dir(*kind))))
            .await
    }

    fn id(&self) -> String {
        local_dir::id(&self.root)
    }

    fn directories(&self) -> Vec<PathBuf> {
        Kind::ALL.iter().map(|kind| self.dir(*kind)).chain([self.root.join(graphs::DIRECTORY)]).collect()
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
        let store = Self { graphs: Graphs::new(&root), root };
        match store.graphs.prepare(|kind| store.correlations(kind)) {
            // Whoever may only read looks at every document instead.
            Err(Error::Io { source, .. })
                if matches!(
                    source.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) => {}
            prepared => prepared?,
        }
        Ok(store)
    }

    /// The ids of all documents of a kind, with their graphs.
    fn correlations(&self, kind: Kind) -> Result<Vec<(String, String)>> {
        let (mut all, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = self.page(kind, after.as_deref(), |after| self.ids(kind, after), |_| true)?;
            let Some((last, _)) = page.last() else { return Ok(all) };
            after = Some(last.clone());
            let graph = |(id, json): (String, String)| Some((id, super::graph_of(&json)?));
            all.extend(page.into_iter().filter_map(graph));
        }
    }

    fn index(&self, kind: Kind, document: &Document) -> Result<()> {
        let added = self.graphs.add(kind, &document.correlation_id, &document.id);
        added.map_err(store_error(self, "index", &self.dir(kind)))
    }

    /// The next ids of a kind, in their order.
    fn ids(&self, kind: Kind, after: Option<&str>) -> Result<BTreeSet<String>> {
        let dir = self.dir(kind);
        let ids = || {
            let names = fs::read_dir(&dir)?.map(|entry| {
                let name = entry?.file_name();
                Ok(name.to_str().and_then(|name| name.strip_suffix(".json")).map(str::to_owned))
            });
            graphs::first(names.filter_map(io::Result::transpose), after)
        };
        ids().map_err(store_error(self, "read", &dir))
    }

    /// The documents of the next ids; an empty page is the end.
    fn page(
        &self,
        kind: Kind,
        after: Option<&str>,
        next: impl Fn(Option<&str>) -> Result<BTreeSet<String>>,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<(String, String)>> {
        let (mut found, mut after) = (Vec::new(), after.map(str::to_owned));
        while found.is_empty() {
            let ids = next(after.as_deref())?;
            let Some(last) = ids.last() else { break };
            after = Some(last.clone());
            for id in ids {
                let json = self.read(&local_dir::path(&self.dir(kind), &id))?;
                found.extend(json.filter(|json| wanted(json)).map(|json| (id, json)));
            }
        }
        Ok(found)
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
