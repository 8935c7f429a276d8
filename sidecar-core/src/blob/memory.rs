//! Blobs in memory, for tests and for embedders that need no store.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use url::Url;

use super::{BlobProvider, Descriptor, Hasher, Listed, PAGE, Source, Target};
use crate::blocking;
use crate::contract::BlobKey;
use crate::error::{Error, Result};

/// Blobs as long as the process lives; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    blobs: Arc<RwLock<BTreeMap<BlobKey, Arc<[u8]>>>>,
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("blobs in memory")
    }
}

#[async_trait]
impl BlobProvider for Memory {
    async fn put(&self, key: &BlobKey, source: &Source) -> Result<Descriptor> {
        let (blobs, key, source) = (self.blobs.clone(), key.clone(), source.clone());
        blocking(move || {
            let mut reader = source.open()?;
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map_err(Error::io("read", source.path()))?;
            reader.finish()?;
            let descriptor = describe(&bytes);
            blobs.write().unwrap_or_else(PoisonError::into_inner).insert(key, bytes.into());
            Ok(descriptor)
        })
        .await
    }

    async fn get(&self, key: &BlobKey, target: &Target) -> Result<Descriptor> {
        let found = self.blobs.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        let bytes =
            found.ok_or_else(|| Error::NotFound { provider: self.to_string(), key: key.to_string() })?;
        let target = target.clone();
        blocking(move || {
            target.create()?.write_all(&bytes).map_err(Error::io("write", target.path()))?;
            Ok(describe(&bytes))
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<Vec<Listed>> {
        let blobs = self.blobs.read().unwrap_or_else(PoisonError::into_inner);
        let page = blobs.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        let page = page.filter(|(key, _)| after.is_none_or(|after| *key > after)).take(PAGE);
        let listed = |(key, bytes): (&BlobKey, &Arc<[u8]>)| Listed {
            key: key.clone(),
            size: bytes.len() as u64,
            modified: None,
        };
        Ok(page.map(listed).collect())
    }

    async fn delete(&self, keys: &[BlobKey]) -> Result<()> {
        let mut blobs = self.blobs.write().unwrap_or_else(PoisonError::into_inner);
        keys.iter().for_each(|key| drop(blobs.remove(key)));
        Ok(())
    }

    async fn uri(&self, key: &BlobKey) -> Result<Url> {
        let mut uri = Url::parse("memory:///").map_err(|error| Error::Refused {
            provider: self.to_string(),
            action: format!("name {key}"),
            source: error.into(),
        })?;
        uri.set_path(key.as_str());
        Ok(uri)
    }
}

fn describe(bytes: &[u8]) -> Descriptor {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.finish()
}
