//! Document providers that break one guarantee each.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use serde_json::Value;
use sidecar_core::documents::{Document, Kind, Memory, PAGE};
use sidecar_core::{DocumentProvider, Error, Result};

sabotages! {
    documents Broken
    always {
        MixesLists => what_is_put_comes_back,
        AbsentIsEmpty => a_missing_document_is_none,
        PutMerges => a_put_replaces,
        KeepsTheFirst => a_put_replaces,
        FoldsCase => ids_do_not_collide,
        CutsIds => ids_do_not_collide,
        MixesKinds => the_kinds_are_sets_of_their_own,
        InsertReplaces => an_insert_never_replaces,
        /// It returns the document that it was given, though another is stored.
        InsertReturnsItsOwn => an_insert_never_replaces,
        /// A `get` before a `put`.
        InsertLooksFirst => one_insert_of_many_decides,
        ListMissesTheLast => every_document_is_listed,
        ListIgnoresAfter => every_document_is_listed,
        ListMixesKinds => every_document_is_listed,
        ListHasOnePage => every_document_is_listed,
        ListEndsAfterOnePage => every_document_is_listed,
        GraphIsEverything => a_graph_is_listed,
        GraphTakesAPrefix => a_graph_is_listed,
        GraphEndsAfterOnePage => a_graph_is_listed,
        GraphMixesKinds => a_graph_is_listed,
        /// A page of documents that are all of other graphs is taken for the end.
        GraphEndsAtOthers => a_graph_is_listed,
        /// A page begins at an index, not after an id.
        ListCounts => a_listing_survives_deletions,
        DeletesNothing => what_is_deleted_is_gone,
        DeletesTheFirst => what_is_deleted_is_gone,
        AbsentCannotBeDeleted => what_is_deleted_is_gone,
        NumbersAreFloats => any_object_comes_back,
        DropsOperators => any_object_comes_back,
        TakesNoLargeDocuments => a_large_document_comes_back,
        OneCallAtATime => many_at_once,
        DropsTheLast => many_in_one_call,
        NoneIsAnError => none_in_one_call,
        TakesOnlyAscii => hostile_values_survive,
        TakesNoNul => what_is_not_refused_is_stored,
        RefusesWhatItStores => hostile_values_survive,
        ChecksConflict => checks_at_once_succeed,
        CheckClears => checks_at_once_succeed,
        DirectoryElsewhere => the_directories_are_there,
        LongDisplay => the_display_is_short,
    }
    reopen {
        /// What it has stored itself, it never looks up again.
        StaleCache => another_process_sees_what_is_stored,
        Forgets => a_restart_forgets_nothing,
        /// A lock of this process stands in for the store's.
        DecidesAlone => one_insert_of_two_processes_decides,
        IdOfAProcess => the_id_is_stable,
    }
    away {
        OutageIsNone => an_outage_is_unavailable,
        OutageIsRefused => an_outage_is_unavailable,
        OutageStores => an_outage_is_unavailable,
        OutageDecides => an_outage_is_unavailable,
        OutageListsNothing => an_outage_is_unavailable,
        OutageDeletes => an_outage_is_unavailable,
        CheckAlwaysSucceeds => a_check_finds_an_outage,
    }
}

/// Documents in memory, with one thing wrong or none.
#[derive(Debug, Default)]
struct Broken {
    inner: Memory,
    sabotage: Option<Sabotage>,
    is_away: bool,
    /// Calls under way.
    calls: AtomicUsize,
    /// Documents that were listed so far.
    listed: AtomicUsize,
    own: Mutex<HashMap<(Kind, String), String>>,
}

mod honest {
    use super::Broken;
    sidecar_core::conformance_documents!(
        Broken::default(),
        reopen: async |store| Broken::reopened(store),
        away: Broken::default().away(),
    );
}

impl Broken {
    fn with(sabotage: Sabotage) -> Self {
        Self { sabotage: Some(sabotage), ..Self::default() }
    }

    fn reopened(&self) -> Self {
        let inner = if self.is(Sabotage::Forgets) { Memory::default() } else { self.inner.clone() };
        Self { inner, sabotage: self.sabotage, ..Self::default() }
    }

    fn away(self) -> Self {
        Self { is_away: true, ..self }
    }

    fn is(&self, sabotage: Sabotage) -> bool {
        self.sabotage == Some(sabotage)
    }

    /// Fails while the store is away; with this sabotage, the answer is a lie.
    fn reach<T>(&self, sabotage: Sabotage, lie: T) -> Result<Option<T>> {
        match self.sabotage {
            _ if !self.is_away => Ok(None),
            Some(lies) if lies == sabotage => Ok(Some(lie)),
            Some(Sabotage::OutageIsRefused) => Err(Error::refused(self, "answer", "nobody listens")),
            _ => Err(Error::unavailable(self, "answer", "nobody listens")),
        }
    }

    fn kind(&self, kind: Kind) -> Kind {
        if self.is(Sabotage::MixesKinds) { Kind::Context } else { kind }
    }

    fn id(&self, id: &str) -> String {
        match self.sabotage {
            Some(Sabotage::FoldsCase) => id.to_lowercase(),
            Some(Sabotage::CutsIds) => id.chars().take(64).collect(),
            _ => id.to_owned(),
        }
    }

    /// The document as it is stored.
    async fn stored(&self, kind: Kind, document: &Document) -> Result<Document> {
        let mut stored = Document { id: self.id(&document.id), ..document.clone() };
        let mut value: Value = serde_json::from_str(&document.json).unwrap();
        match self.sabotage {
            Some(Sabotage::TakesNoLargeDocuments) if document.json.len() > 1 << 20 => {
                return Err(Error::refused(self, "store", "a large document"));
            }
            Some(Sabotage::TakesNoNul) if document.json.contains("\\u0000") => {
                return Err(Error::refused(self, "store", "a NUL"));
            }
            Some(Sabotage::TakesOnlyAscii) => {
                stored.json = document.json.replace(|c: char| !c.is_ascii(), "?")
            }
            Some(Sabotage::MixesLists) => {
                edit(&mut value, &|value| value.as_array_mut().into_iter().for_each(|list| list.reverse()));
                stored.json = value.to_string();
            }
            Some(Sabotage::NumbersAreFloats) => {
                edit(&mut value, &|value| {
                    if let Some(number) = value.as_f64() {
                        *value = number.into();
                    }
                });
                stored.json = value.to_string();
            }
            Some(Sabotage::DropsOperators) => {
                edit(&mut value, &|value| {
                    value.as_object_mut().into_iter().for_each(|o| o.retain(|key, _| !key.starts_with('$')));
                });
                stored.json = value.to_string();
            }
            Some(Sabotage::PutMerges) => {
                let old = self.inner.get(kind, &stored.id).await?.unwrap_or_else(|| "{}".into());
                let old: BTreeMap<String, Value> = serde_json::from_str(&old).unwrap();
                for (key, old) in old {
                    match (value.get_mut(&key), old) {
                        (Some(Value::Array(list)), Value::Array(old)) => list.extend(old),
                        (Some(_), _) => {}
                        (None, old) => value[key] = old,
                    }
                }
                stored.json = value.to_string();
            }
            Some(Sabotage::KeepsTheFirst) => {
                stored.json = self.inner.get(kind, &stored.id).await?.unwrap_or(stored.json);
            }
            Some(Sabotage::StaleCache) => {
                self.own.lock().unwrap().insert((kind, stored.id.clone()), stored.json.clone());
            }
            _ => {}
        }
        Ok(stored)
    }

    /// Runs a call, unless there may be only one.
    async fn alone<T>(&self, sabotage: Sabotage, call: impl Future<Output = Result<T>>) -> Result<T> {
        let others = self.calls.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let answer = match others > 0 && self.is(sabotage) {
            true => Err(Error::refused(self, "answer", "one at a time")),
            false => call.await,
        };
        self.calls.fetch_sub(1, Ordering::SeqCst);
        answer
    }

    async fn everything(&self, kind: Kind) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> = Vec::new();
        loop {
            let page = self.inner.list(kind, all.last().map(|(id, _)| id.as_str())).await.unwrap();
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }
}

/// Applies `change` to a value and all that it holds.
fn edit(value: &mut Value, change: &dyn Fn(&mut Value)) {
    change(value);
    match value {
        Value::Array(list) => list.iter_mut().for_each(|value| edit(value, change)),
        Value::Object(fields) => fields.values_mut().for_each(|value| edit(value, change)),
        _ => {}
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is(Sabotage::LongDisplay) { "broken\ndocuments" } else { "broken documents" })
    }
}

#[async_trait]
impl DocumentProvider for Broken {
    async fn get(&self, kind: Kind, id: &str) -> Result<Option<String>> {
        if let Some(lie) = self.reach(Sabotage::OutageIsNone, None)? {
            return Ok(lie);
        }
        let (kind, id) = (self.kind(kind), self.id(id));
        let own = self.own.lock().unwrap().get(&(kind, id.clone())).cloned();
        if own.is_some() && self.is(Sabotage::StaleCache) {
            return Ok(own);
        }
        let found = self.inner.get(kind, &id).await?;
        Ok(found.or_else(|| self.is(Sabotage::AbsentIsEmpty).then(|| "{}".into())))
    }

    async fn put(&self, kind: Kind, documents: &[Document]) -> Result<()> {
        if let Some(lie) = self.reach(Sabotage::OutageStores, ())? {
            return Ok(lie);
        }
        let kind = self.kind(kind);
        let put = async {
            let mut stored = Vec::new();
            for document in documents {
                stored.push(self.stored(kind, document).await?);
            }
            match self.sabotage {
                Some(Sabotage::DropsTheLast) if stored.len() > 1 => drop(stored.pop()),
                Some(Sabotage::NoneIsAnError) if stored.is_empty() => {
                    return Err(Error::refused(self, "store documents", "there are none"));
                }
                _ => {}
            }
            self.inner.put(kind, &stored).await
        };
        self.alone(Sabotage::OneCallAtATime, put).await
    }

    async fn insert(&self, kind: Kind, document: &Document) -> Result<String> {
        if let Some(lie) = self.reach(Sabotage::OutageDecides, document.json.clone())? {
            return Ok(lie);
        }
        let kind = self.kind(kind);
        let stored = self.stored(kind, document).await?;
        match self.sabotage {
            Some(Sabotage::InsertReplaces) => {
                self.inner.put(kind, std::slice::from_ref(&stored)).await?;
                Ok(stored.json)
            }
            Some(Sabotage::InsertReturnsItsOwn) => {
                self.inner.insert(kind, &stored).await?;
                Ok(stored.json)
            }
            Some(Sabotage::InsertLooksFirst) => {
                if let Some(found) = self.inner.get(kind, &stored.id).await? {
                    return Ok(found);
                }
                tokio::task::yield_now().await;
                self.inner.put(kind, std::slice::from_ref(&stored)).await?;
                Ok(stored.json)
            }
            Some(Sabotage::DecidesAlone) => {
                let key = (kind, stored.id.clone());
                let json = self.own.lock().unwrap().entry(key).or_insert(stored.json.clone()).clone();
                self.inner.put(kind, &[Document { json: json.clone(), ..stored }]).await?;
                Ok(json)
            }
            _ => self.inner.insert(kind, &stored).await,
        }
    }

    async fn list(&self, kind: Kind, after: Option<&str>) -> Result<Vec<(String, String)>> {
        if let Some(lie) = self.reach(Sabotage::OutageListsNothing, Vec::new())? {
            return Ok(lie);
        }
        let mut all = self.everything(self.kind(kind)).await;
        if self.is(Sabotage::ListMixesKinds) {
            all.extend(self.everything(Kind::Failure).await);
        }
        match self.sabotage {
            Some(Sabotage::ListCounts) => {
                if after.is_none() {
                    self.listed.store(0, Ordering::SeqCst);
                }
                all.drain(..self.listed.load(Ordering::SeqCst).min(all.len()));
                self.listed.fetch_add(all.len().min(PAGE), Ordering::SeqCst);
            }
            Some(Sabotage::ListEndsAfterOnePage) if after.is_some() => all.clear(),
            Some(Sabotage::ListMissesTheLast) => drop(all.pop()),
            Some(Sabotage::ListIgnoresAfter) => {}
            _ => all.retain(|(id, _)| after.is_none_or(|after| id.as_str() > after)),
        }
        if !self.is(Sabotage::ListHasOnePage) {
            all.truncate(PAGE);
        }
        Ok(all)
    }

    async fn list_graph(
        &self,
        kind: Kind,
        graph: &str,
        after: Option<&str>,
    ) -> Result<Vec<(String, String)>> {
        if let Some(lie) = self.reach(Sabotage::OutageListsNothing, Vec::new())? {
            return Ok(lie);
        }
        let of = |json: &str| {
            let document: Value = serde_json::from_str(json).unwrap_or_default();
            document["correlationId"].as_str().unwrap_or_default().to_owned()
        };
        match self.sabotage {
            Some(Sabotage::GraphIsEverything) => self.list(kind, after).await,
            Some(Sabotage::GraphTakesAPrefix) => {
                let mut page = self.list(kind, after).await?;
                page.retain(|(_, json)| of(json).starts_with(graph));
                Ok(page)
            }
            Some(Sabotage::GraphEndsAfterOnePage) if after.is_some() => Ok(Vec::new()),
            Some(Sabotage::GraphMixesKinds) => self.inner.list_graph(Kind::Context, graph, after).await,
            Some(Sabotage::GraphEndsAtOthers) => {
                let mut page = self.list(kind, after).await?;
                page.retain(|(_, json)| of(json) == graph);
                page.truncate(page.len().min(PAGE / 2));
                if after.is_some() { Ok(Vec::new()) } else { Ok(page) }
            }
            _ => self.inner.list_graph(self.kind(kind), graph, after).await,
        }
    }

    async fn delete(&self, kind: Kind, ids: &[String]) -> Result<()> {
        if let Some(lie) = self.reach(Sabotage::OutageDeletes, ())? {
            return Ok(lie);
        }
        let kind = self.kind(kind);
        for (n, id) in ids.iter().enumerate() {
            match self.sabotage {
                Some(Sabotage::DeletesNothing) => return Ok(()),
                Some(Sabotage::DeletesTheFirst) if n > 0 => return Ok(()),
                Some(Sabotage::AbsentCannotBeDeleted) if self.inner.get(kind, id).await?.is_none() => {
                    return Err(Error::refused(self, "delete", "it is not there"));
                }
                _ => {}
            }
            self.own.lock().unwrap().remove(&(kind, self.id(id)));
            self.inner.delete(kind, &[self.id(id)]).await?;
        }
        Ok(())
    }

    fn refuses(&self, document: &Document) -> Option<String> {
        (self.is(Sabotage::RefusesWhatItStores) && document.json.contains('$'))
            .then(|| "takes no dollars".into())
    }

    fn id(&self) -> String {
        if self.is(Sabotage::IdOfAProcess) { format!("{self:p}") } else { self.to_string() }
    }

    fn directories(&self) -> Vec<PathBuf> {
        if self.is(Sabotage::DirectoryElsewhere) { vec!["/nowhere".into()] } else { Vec::new() }
    }

    async fn check(&self) -> Result<()> {
        if self.reach(Sabotage::CheckAlwaysSucceeds, ())?.is_some() {
            return Ok(());
        }
        if self.is(Sabotage::CheckClears) {
            let all: Vec<_> = self.everything(Kind::Insight).await.into_iter().map(|(id, _)| id).collect();
            self.inner.delete(Kind::Insight, &all).await?;
        }
        self.alone(Sabotage::ChecksConflict, async { Ok(()) }).await
    }
}
