//! Documents in memory, for tests and for embedders that need no store.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Document, DocumentProvider, Kind, PAGE};
use crate::error::Result;

/// By kind and id, with the correlation id.
type Stored = BTreeMap<(&'static str, String), (Arc<str>, Arc<str>)>;

/// Documents as long as the process lives; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    stored: Arc<Mutex<Stored>>,
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("documents in memory")
    }
}

#[async_trait]
impl DocumentProvider for Memory {
    async fn get(&self, kind: Kind, id: &str) -> Result<Option<String>> {
        Ok(self.stored().get(&(kind.name(), id.to_owned())).map(|(_, json)| json.to_string()))
    }

    async fn put(&self, kind: Kind, documents: &[Document]) -> Result<()> {
        let key = |document: &Document| (kind.name(), document.id.clone());
        let stored = documents.iter().map(|document| (key(document), texts(document)));
        self.stored().extend(stored);
        Ok(())
    }

    async fn insert(&self, kind: Kind, document: &Document) -> Result<String> {
        let mut stored = self.stored();
        let entry = stored.entry((kind.name(), document.id.clone()));
        Ok(entry.or_insert_with(|| texts(document)).1.to_string())
    }

    async fn list(&self, kind: Kind, after: Option<&str>) -> Result<Vec<(String, String)>> {
        Ok(self.page(kind, after, |_| true))
    }

    async fn list_graph(
        &self,
        kind: Kind,
        correlation_id: &str,
        after: Option<&str>,
    ) -> Result<Vec<(String, String)>> {
        Ok(self.page(kind, after, |correlation| correlation == correlation_id))
    }

    async fn delete(&self, kind: Kind, ids: &[String]) -> Result<()> {
        let mut stored = self.stored();
        ids.iter().for_each(|id| drop(stored.remove(&(kind.name(), id.clone()))));
        Ok(())
    }
}

fn texts(document: &Document) -> (Arc<str>, Arc<str>) {
    (document.correlation_id.as_str().into(), document.json.as_str().into())
}

impl Memory {
    fn page(&self, kind: Kind, after: Option<&str>, wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        let stored = self.stored();
        let from = (kind.name(), after.unwrap_or_default().to_owned());
        let page = stored.range((Bound::Excluded(from), Bound::Unbounded));
        let page = page.take_while(|((name, _), _)| *name == kind.name());
        let page = page.filter(|(_, (correlation, _))| wanted(correlation)).take(PAGE);
        page.map(|((_, id), (_, json))| (id.clone(), json.to_string())).collect()
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
