//! Blobs: files under their keys.

use std::fmt;
use std::io::{Read, Write};

use async_trait::async_trait;
use sidecar_core::blob::{BlobProvider, Descriptor, Hasher, Listed, PAGE, Source, Target};
use sidecar_core::{BlobKey, Error, Result};
use url::Url;

use crate::error;
use crate::server::Server;

/// Blobs on a server.
#[derive(Debug, Clone)]
pub struct Blobs {
    server: Server,
    name: String,
}

impl Blobs {
    /// The blobs below `name` on this server.
    pub fn open(server: &Server, name: &str) -> Self {
        Self { server: server.clone(), name: name.to_owned() }
    }

    fn key(&self, key: &str) -> String {
        format!("{}/{key}", self.name)
    }
}

impl fmt::Display for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "example blobs {}", self.name)
    }
}

#[async_trait]
impl BlobProvider for Blobs {
    // This server takes a blob in one piece. A provider of large blobs sends parts, and hashes each as it passes.
    async fn put(&self, key: &BlobKey, source: &Source) -> Result<Descriptor> {
        let source = source.clone();
        let (bytes, descriptor) = on_disk(move || {
            let mut reader = source.open()?;
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map_err(Error::io("read", source.path()))?;
            // A file that changed while it was being read is not stored.
            reader.finish()?;
            let descriptor = describe(&bytes);
            Ok((bytes, descriptor))
        })
        .await?;
        let put = self.server.put(&self.key(key.as_str()), &bytes);
        put.map_err(error(self, format!("store {key}")))?;
        Ok(descriptor)
    }

    async fn get(&self, key: &BlobKey, target: &Target) -> Result<Descriptor> {
        let found = self.server.get(&self.key(key.as_str())).map_err(error(self, format!("read {key}")))?;
        let missing = || Error::NotFound { provider: self.to_string(), key: key.to_string() };
        let (bytes, target) = (found.ok_or_else(missing)?, target.clone());
        on_disk(move || {
            target.create()?.write_all(&bytes).map_err(Error::io("write", target.path()))?;
            Ok(describe(&bytes))
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<Vec<Listed>> {
        let after = after.map(|after| self.key(after.as_str())).unwrap_or_default();
        let page = self.server.list(&self.key(prefix), &after, PAGE).map_err(error(self, "list blobs"))?;
        let listed = page.into_iter().filter_map(|(key, value)| {
            let key = BlobKey::parse(&key[self.name.len() + 1..]).ok()?;
            Some(Listed { key, size: value.len() as u64, modified: None })
        });
        Ok(listed.collect())
    }

    async fn delete(&self, keys: &[BlobKey]) -> Result<()> {
        for key in keys {
            let deleted = self.server.delete(&self.key(key.as_str()));
            deleted.map_err(error(self, format!("delete {key}")))?;
        }
        Ok(())
    }

    async fn uri(&self, key: &BlobKey) -> Result<Url> {
        let unusable = |problem: url::ParseError| Error::refused(self, format!("name {key}"), problem);
        let mut uri = Url::parse("example:///").map_err(unusable)?;
        uri.set_path(&self.key(key.as_str()));
        Ok(uri)
    }

    async fn check(&self) -> Result<()> {
        self.server.ping().map_err(error(self, "connect"))
    }
}

fn describe(bytes: &[u8]) -> Descriptor {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.finish()
}

/// Runs work that blocks on a thread that may block.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::Internal(error.to_string()))?
}
