//! Blob providers that break one guarantee each.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use sidecar_core::blob::{Descriptor, Hasher, Listed, Local, Memory, PAGE, Source, Target};
use sidecar_core::{BlobKey, BlobProvider, Error, Result, conformance};
use tempfile::TempDir;
use url::Url;

sabotages! {
    blob Broken
    always {
        WrongDigest => what_is_put_comes_back,
        WrongSize => what_is_put_comes_back,
        /// A download that ends early is taken for the blob.
        GetsHalf => what_is_put_comes_back,
        AbsentIsEmpty => a_missing_blob_is_not_found,
        KeepsTheFirst => a_put_replaces,
        /// A target from an attempt before is written to at its end.
        AppendsToItsTarget => a_get_replaces_its_target,
        FoldsCase => keys_do_not_collide,
        TakesNoQuotes => odd_names_survive,
        /// A backslash is a slash, and `folded` does not say so.
        FoldsBackslashes => shared_blobs_are_told,
        TakesNoLongKeys => what_is_not_refused_is_stored,
        RefusesWhatItStores => odd_names_survive,
        ListMissesTheLast => every_blob_is_listed,
        ListIgnoresAfter => every_blob_is_listed,
        ListIgnoresThePrefix => every_blob_is_listed,
        ListHasOnePage => every_blob_is_listed,
        ListHasNoSizes => every_blob_is_listed,
        /// A page begins at an index, not after a key.
        ListCounts => a_listing_survives_deletions,
        DeletesNothing => what_is_deleted_is_gone,
        DeletesTheFirst => what_is_deleted_is_gone,
        AbsentCannotBeDeleted => what_is_deleted_is_gone,
        EmptyIsAbsent => an_empty_blob_is_a_blob,
        CutsLargeBlobs => a_large_blob_comes_back,
        OneCallAtATime => many_at_once,
        DropsTheLast => many_in_one_call,
        MixesAnswers => many_in_one_call,
        SkipsAbsent => many_in_one_call,
        NoneIsAnError => none_in_one_call,
        /// It reads the file at the source's path.
        PassesSourcesBy => a_changed_source_is_refused,
        LeavesHalf => a_put_that_breaks_off_stores_nothing,
        /// A put that fails has removed the old blob.
        RemovesTheOldFirst => a_put_that_breaks_off_stores_nothing,
        ShowsHalf => a_blob_is_seen_whole_or_not_at_all,
        /// The key stays locked when a put is dropped.
        LocksForever => a_dropped_put_stores_all_or_nothing,
        IgnoresAFullTarget => a_target_that_is_full_is_an_error,
        /// It writes the file at the target's path.
        PassesTargetsBy => bytes_that_pass_are_counted,
        OneUri => a_uri_names_its_blob,
        ChecksConflict => checks_at_once_succeed,
        CheckClears => checks_at_once_succeed,
        DirectoryElsewhere => the_directories_are_there,
        LongDisplay => the_display_is_short,
    }
    reopen {
        /// What it has stored itself, it never looks up again.
        StaleCache => another_process_sees_what_is_flushed,
        Forgets => a_restart_forgets_nothing,
        /// Blobs are there, but its list of them is its own.
        ForgetsItsList => a_restart_forgets_nothing,
        IdOfAProcess => the_id_is_stable,
    }
    away {
        OutageIsNotFound => an_outage_is_unavailable,
        OutageIsRefused => an_outage_is_unavailable,
        OutageListsNothing => an_outage_is_unavailable,
        OutageDeletes => an_outage_is_unavailable,
        CheckAlwaysSucceeds => a_check_finds_an_outage,
    }
}

/// Blobs in memory, with one thing wrong or none.
#[derive(Debug, Default)]
struct Broken {
    inner: Memory,
    sabotage: Option<Sabotage>,
    is_away: bool,
    /// Calls under way.
    calls: AtomicUsize,
    /// Blobs that were listed so far.
    listed: AtomicUsize,
    locked: Mutex<HashSet<BlobKey>>,
    own: Mutex<HashMap<BlobKey, Vec<u8>>>,
}

mod honest {
    use super::Broken;
    sidecar_core::conformance_blob!(
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

    fn reach(&self, key: &str) -> Result<()> {
        let away = || "nobody listens";
        match self.sabotage {
            _ if !self.is_away => Ok(()),
            Some(Sabotage::OutageIsNotFound) => {
                Err(Error::NotFound { provider: self.to_string(), key: key.to_owned() })
            }
            Some(Sabotage::OutageIsRefused) => Err(Error::refused(self, "answer", away())),
            _ => Err(Error::unavailable(self, "answer", away())),
        }
    }

    fn key(&self, key: &BlobKey) -> BlobKey {
        let text = match self.sabotage {
            Some(Sabotage::FoldsCase) => key.as_str().to_lowercase(),
            Some(Sabotage::FoldsBackslashes) => key.as_str().replace('\\', "/"),
            _ => key.to_string(),
        };
        BlobKey::parse(&text).unwrap()
    }

    async fn store(&self, key: &BlobKey, bytes: &[u8]) -> Result<Descriptor> {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("f"), bytes).unwrap();
        self.inner.put(key, &Source::file(dir.path().join("f"))?).await
    }

    async fn fetch(&self, key: &BlobKey) -> Result<Vec<u8>> {
        let dir = TempDir::new().unwrap();
        self.inner.get(key, &Target::file(dir.path().join("f"))).await?;
        Ok(fs::read(dir.path().join("f")).unwrap())
    }

    async fn put_one(&self, key: &BlobKey, source: &Source) -> Result<Descriptor> {
        let content = || fs::read(source.path()).unwrap();
        let half = || content()[..source.size() as usize / 2].to_vec();
        match self.sabotage {
            Some(Sabotage::KeepsTheFirst) if self.fetch(key).await.is_ok() => {
                return Ok(describe(&content()));
            }
            Some(Sabotage::EmptyIsAbsent) if source.size() == 0 => return Ok(describe(&[])),
            Some(Sabotage::CutsLargeBlobs) if source.size() > 8 << 20 => {
                return self.store(key, &half()).await;
            }
            Some(Sabotage::PassesSourcesBy) => return self.store(key, &content()).await,
            Some(Sabotage::RemovesTheOldFirst) => self.inner.delete(std::slice::from_ref(key)).await?,
            Some(Sabotage::ShowsHalf) => drop(self.store(key, &half()).await?),
            Some(Sabotage::LocksForever) if !self.locked.lock().unwrap().insert(key.clone()) => {
                return Err(Error::refused(self, "store", "somebody else does"));
            }
            Some(Sabotage::StaleCache | Sabotage::ForgetsItsList) => {
                self.own.lock().unwrap().insert(key.clone(), content());
            }
            Some(Sabotage::TakesNoQuotes) if key.as_str().contains('"') => {
                return Err(Error::refused(self, "store", "a quote"));
            }
            Some(Sabotage::TakesNoLongKeys) if key.as_str().len() > 500 => {
                return Err(Error::refused(self, "store", "a long key"));
            }
            _ => {}
        }
        let stored = self.inner.put(key, source).await;
        self.locked.lock().unwrap().remove(key);
        if stored.is_err() && self.is(Sabotage::LeavesHalf) {
            self.store(key, &half()).await?;
        }
        let mut stored = stored?;
        match self.sabotage {
            Some(Sabotage::WrongDigest) => stored.digest.0[0] ^= 1,
            Some(Sabotage::WrongSize) => stored.size += 1,
            _ => {}
        }
        Ok(stored)
    }

    async fn get_one(&self, key: &BlobKey, target: &Target) -> Result<Descriptor> {
        let own = self.own.lock().unwrap().get(key).cloned().filter(|_| self.is(Sabotage::StaleCache));
        if let Some(own) = own {
            target.create()?.write_all(&own).map_err(Error::io("write", target.path()))?;
            return Ok(describe(&own));
        }
        let content = match self.fetch(key).await {
            Err(Error::NotFound { .. }) if self.is(Sabotage::AbsentIsEmpty) => Vec::new(),
            found => found?,
        };
        match self.sabotage {
            Some(Sabotage::GetsHalf) => {
                let half = &content[..content.len() / 2];
                target.create()?.write_all(half).map_err(Error::io("write", target.path()))?;
                Ok(describe(half))
            }
            Some(Sabotage::AbsentIsEmpty) => target.create().map(|_| describe(&content)),
            Some(Sabotage::AppendsToItsTarget) => {
                let file = fs::File::options().create(true).append(true).open(target.path());
                file.unwrap().write_all(&content).unwrap();
                Ok(describe(&content))
            }
            Some(Sabotage::IgnoresAFullTarget) => {
                let _ = self.inner.get(key, target).await;
                Ok(describe(&content))
            }
            Some(Sabotage::PassesTargetsBy) => {
                fs::write(target.path(), &content).unwrap();
                Ok(describe(&content))
            }
            _ => self.inner.get(key, target).await,
        }
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

    async fn everything(&self) -> Vec<Listed> {
        let mut all: Vec<Listed> = Vec::new();
        loop {
            let page = self.inner.list("", all.last().map(|last| &last.key)).await.unwrap();
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is(Sabotage::LongDisplay) { "broken\nblobs" } else { "broken blobs" })
    }
}

#[async_trait]
impl BlobProvider for Broken {
    async fn put(&self, key: &BlobKey, source: &Source) -> Result<Descriptor> {
        self.reach(key.as_str())?;
        self.alone(Sabotage::OneCallAtATime, self.put_one(&self.key(key), source)).await
    }

    async fn get(&self, key: &BlobKey, target: &Target) -> Result<Descriptor> {
        self.reach(key.as_str())?;
        self.alone(Sabotage::OneCallAtATime, self.get_one(&self.key(key), target)).await
    }

    async fn put_all(&self, files: &[(BlobKey, Source)]) -> Result<Vec<Descriptor>> {
        let mut stored = Vec::new();
        for (n, (key, source)) in files.iter().enumerate() {
            let is_last = n > 0 && n + 1 == files.len();
            stored.push(match self.is(Sabotage::DropsTheLast) && is_last {
                true => describe(&fs::read(source.path()).unwrap()),
                false => self.put(key, source).await?,
            });
        }
        match self.sabotage {
            Some(Sabotage::MixesAnswers) => stored.reverse(),
            Some(Sabotage::NoneIsAnError) if files.is_empty() => {
                return Err(Error::refused(self, "store blobs", "there are none"));
            }
            _ => {}
        }
        Ok(stored)
    }

    async fn get_all(&self, blobs: &[(BlobKey, Target)]) -> Result<Vec<Descriptor>> {
        let mut written = Vec::new();
        for (key, target) in blobs {
            match self.get(key, target).await {
                Err(Error::NotFound { .. }) if self.is(Sabotage::SkipsAbsent) => {}
                found => written.push(found?),
            }
        }
        Ok(written)
    }

    async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<Vec<Listed>> {
        if self.is_away && self.is(Sabotage::OutageListsNothing) {
            return Ok(Vec::new());
        }
        self.reach(prefix)?;
        let prefix = if self.is(Sabotage::ListIgnoresThePrefix) { "" } else { prefix };
        let mut all = self.everything().await;
        all.retain(|listed| listed.key.as_str().starts_with(prefix));
        match self.sabotage {
            Some(Sabotage::ListCounts) => {
                if after.is_none() {
                    self.listed.store(0, Ordering::SeqCst);
                }
                all.drain(..self.listed.load(Ordering::SeqCst).min(all.len()));
                self.listed.fetch_add(all.len().min(PAGE), Ordering::SeqCst);
            }
            Some(Sabotage::ListIgnoresAfter) => {}
            _ => all.retain(|listed| after.is_none_or(|after| listed.key > *after)),
        }
        match self.sabotage {
            Some(Sabotage::ListMissesTheLast) => drop(all.pop()),
            Some(Sabotage::ListHasNoSizes) => all.iter_mut().for_each(|listed| listed.size = 0),
            Some(Sabotage::ForgetsItsList) => {
                all.retain(|listed| self.own.lock().unwrap().contains_key(&listed.key))
            }
            _ => {}
        }
        if !self.is(Sabotage::ListHasOnePage) {
            all.truncate(PAGE);
        }
        Ok(all)
    }

    async fn delete(&self, keys: &[BlobKey]) -> Result<()> {
        if self.is_away && self.is(Sabotage::OutageDeletes) {
            return Ok(());
        }
        self.reach(keys.first().map_or("", BlobKey::as_str))?;
        for (n, key) in keys.iter().enumerate() {
            match self.sabotage {
                Some(Sabotage::DeletesNothing) => return Ok(()),
                Some(Sabotage::DeletesTheFirst) if n > 0 => return Ok(()),
                Some(Sabotage::AbsentCannotBeDeleted) => drop(self.fetch(key).await?),
                _ => {}
            }
            self.own.lock().unwrap().remove(key);
            self.inner.delete(&[self.key(key)]).await?;
        }
        Ok(())
    }

    fn refuses(&self, key: &BlobKey) -> Option<String> {
        (self.is(Sabotage::RefusesWhatItStores) && key.as_str().contains('"'))
            .then(|| "takes no quotes".into())
    }

    fn folded<'k>(&self, key: &'k BlobKey) -> Cow<'k, str> {
        self.inner.folded(key)
    }

    async fn uri(&self, key: &BlobKey) -> Result<Url> {
        let one = BlobKey::parse("e/m/one").unwrap();
        self.inner.uri(if self.is(Sabotage::OneUri) { &one } else { key }).await
    }

    fn id(&self) -> String {
        if self.is(Sabotage::IdOfAProcess) { format!("{self:p}") } else { self.to_string() }
    }

    fn directories(&self) -> Vec<PathBuf> {
        if self.is(Sabotage::DirectoryElsewhere) { vec!["/nowhere".into()] } else { Vec::new() }
    }

    async fn check(&self) -> Result<()> {
        if self.is(Sabotage::CheckAlwaysSucceeds) {
            return Ok(());
        }
        self.reach("check")?;
        if self.is(Sabotage::CheckClears) {
            let all: Vec<_> = self.everything().await.into_iter().map(|listed| listed.key).collect();
            self.inner.delete(&all).await?;
        }
        self.alone(Sabotage::ChecksConflict, async { Ok(()) }).await
    }
}

fn describe(bytes: &[u8]) -> Descriptor {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.finish()
}

/// Blobs in a directory; they pass through memory whole.
#[derive(Debug)]
struct Held(Local, Way);

/// The way of a blob that is held.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl BlobProvider for Held {
    async fn put(&self, key: &BlobKey, source: &Source) -> Result<Descriptor> {
        let mut held = Vec::new();
        if self.1 == Way::In {
            source.open()?.read_to_end(&mut held).map_err(Error::io("read", source.path()))?;
        }
        self.0.put(key, source).await
    }
    async fn get(&self, key: &BlobKey, target: &Target) -> Result<Descriptor> {
        let described = self.0.get(key, target).await?;
        let held = if self.1 == Way::Out { fs::read(target.path()).unwrap() } else { Vec::new() };
        drop(held);
        Ok(described)
    }
    async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<Vec<Listed>> {
        self.0.list(prefix, after).await
    }
    async fn delete(&self, keys: &[BlobKey]) -> Result<()> {
        self.0.delete(keys).await
    }
    async fn uri(&self, key: &BlobKey) -> Result<Url> {
        self.0.uri(key).await
    }
}

async fn a_held_blob_is_caught(way: Way) {
    if conformance::alone() {
        let dir = TempDir::new().unwrap();
        let held = Held(Local::open(dir.path()).unwrap(), way);
        let test = conformance::blob::a_large_blob_is_never_held_whole(&held, 64 << 20);
        assert!(super::fails(test).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_holds_a_blob_is_caught() {
    a_held_blob_is_caught(Way::In).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_that_holds_a_blob_is_caught() {
    a_held_blob_is_caught(Way::Out).await;
}
