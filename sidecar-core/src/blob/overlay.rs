//! A store over another one, which is only read.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;
use url::Url;

use super::{BlobProvider, Descriptor, Listed, Source, Target};
use crate::contract::BlobKey;
use crate::error::{Error, Result};

/// What is stored goes to the store above; what is not there is read from the one below. To list and to delete concerns
/// the store above alone.
#[derive(Debug, Clone)]
pub struct Overlay<A, B> {
    above: A,
    below: B,
}

impl<A, B> Overlay<A, B> {
    /// `above` over `below`.
    pub fn new(above: A, below: B) -> Self {
        Self { above, below }
    }
}

impl<A: BlobProvider, B: BlobProvider> fmt::Display for Overlay<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} over {}", self.above, self.below)
    }
}

#[async_trait]
impl<A: BlobProvider, B: BlobProvider> BlobProvider for Overlay<A, B> {
    async fn put(&self, key: &BlobKey, source: &Source) -> Result<Descriptor> {
        self.above.put(key, source).await
    }

    async fn get(&self, key: &BlobKey, target: &Target) -> Result<Descriptor> {
        match self.above.get(key, target).await {
            Err(Error::NotFound { .. }) => self.below.get(key, target).await,
            got => got,
        }
    }

    async fn put_all(&self, files: &[(BlobKey, Source)]) -> Result<Vec<Descriptor>> {
        self.above.put_all(files).await
    }

    async fn flush(&self, keys: &[BlobKey]) -> Result<()> {
        self.above.flush(keys).await
    }

    async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<Vec<Listed>> {
        self.above.list(prefix, after).await
    }

    async fn delete(&self, keys: &[BlobKey]) -> Result<()> {
        self.above.delete(keys).await
    }

    fn refuses(&self, key: &BlobKey) -> Option<String> {
        self.above.refuses(key)
    }

    fn folded<'k>(&self, key: &'k BlobKey) -> Cow<'k, str> {
        self.above.folded(key)
    }

    /// Where the store below keeps it, unless that cannot tell.
    async fn uri(&self, key: &BlobKey) -> Result<Url> {
        match self.below.uri(key).await {
            Err(Error::NotFound { .. }) => self.above.uri(key).await,
            uri => uri,
        }
    }

    async fn check(&self) -> Result<()> {
        self.above.check().await
    }

    fn id(&self) -> String {
        self.above.id()
    }

    fn directories(&self) -> Vec<PathBuf> {
        self.above.directories()
    }
}
