//! Blob providers: where files live between modules.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use url::Url;

use crate::contract::{BlobKey, Digest};
use crate::error::Result;
use crate::replaceable::Replaceable;

#[cfg(feature = "bucket")]
mod bucket;
#[cfg(feature = "local")]
mod directory;
#[cfg(feature = "local")]
mod local;
#[cfg(feature = "memory")]
mod memory;
mod overlay;
mod reference;
mod transfer;

#[cfg(feature = "azure")]
pub use bucket::AzureConfig;
#[cfg(feature = "gcs")]
pub use bucket::GcsConfig;
#[cfg(feature = "s3")]
pub use bucket::S3Config;
#[cfg(feature = "bucket")]
pub use bucket::{Bucket, DEFAULT_EXPIRY};
#[cfg(feature = "local")]
pub use directory::Directory;
#[cfg(feature = "local")]
pub use local::Local;
#[cfg(feature = "memory")]
pub use memory::Memory;
/// The crate whose stores [`Bucket::new`] takes, in the version that it takes them in.
#[cfg(feature = "bucket")]
#[doc(no_inline)]
pub use object_store;
pub use overlay::Overlay;
pub use reference::{ReferenceStore, References};
#[cfg(feature = "conformance")]
pub(crate) use transfer::Watch;
pub use transfer::{Hasher, Reader, Source, Target, Writer};
pub(crate) use transfer::{Identity, Moved, Side, fill};

/// The size and digest of a content that was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// In bytes.
    pub size: u64,
    /// Of the bytes as they were moved, not of a second look at them.
    pub digest: Digest,
}

/// A blob as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: BlobKey,
    /// Its size in bytes.
    pub size: u64,
    /// When it was stored, where the store tells.
    pub modified: Option<SystemTime>,
}

/// The most blobs that one call of [`BlobProvider::list`] returns.
pub const PAGE: usize = 1000;

/// A store of files under keys.
///
/// # Contract
/// - A blob is there whole or not at all: no reader ever sees a part of one.
/// - `put` under a key that exists replaces the blob.
/// - After `flush` the blobs of these keys, put before, are durable, and visible to every process that uses the
///   store.
/// - `get` gives back byte for byte what was put, or fails; an absent key is [`Error::NotFound`].
/// - `list` returns each blob that was there before it was called and is not deleted, page by page, with its size.
/// - Blobs up to terabytes pass in bounded memory.
/// - All methods may be called concurrently, and dropped at any await point.
///
/// # Retrying
/// Both directions can be repeated safely: a [`Source`] can be opened again, a [`Target`] starts over.
/// Providers do not retry; a layer does.
///
/// # Errors
/// [`Error::Unavailable`] when the same call can succeed later, [`Error::Refused`] when it cannot.
///
/// # Implementing
/// `Display` is the store's short name for logs and errors; it never contains a secret.
/// The suite [`conformance::blob`](crate::conformance::blob) holds one test for each guarantee.
///
/// [`Error::NotFound`]: crate::Error::NotFound
/// [`Error::Unavailable`]: crate::Error::Unavailable
/// [`Error::Refused`]: crate::Error::Refused
#[async_trait]
pub trait BlobProvider: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Stores the content of `source` under `key` and describes what was stored.
    async fn put(&self, key: &BlobKey, source: &Source) -> Result<Descriptor>;

    /// Writes the blob to `target` and describes what was written.
    async fn get(&self, key: &BlobKey, target: &Target) -> Result<Descriptor>;

    /// Stores several files, in their order; providers for which one call for many is cheaper override it.
    ///
    /// After an error any of them may have been stored.
    async fn put_all(&self, files: &[(BlobKey, Source)]) -> Result<Vec<Descriptor>> {
        let mut stored = Vec::with_capacity(files.len());
        for (key, source) in files {
            stored.push(self.put(key, source).await?);
        }
        Ok(stored)
    }

    /// Writes several blobs, in their order; providers for which one call for many is cheaper override it.
    async fn get_all(&self, blobs: &[(BlobKey, Target)]) -> Result<Vec<Descriptor>> {
        let mut written = Vec::with_capacity(blobs.len());
        for (key, target) in blobs {
            written.push(self.get(key, target).await?);
        }
        Ok(written)
    }

    /// Makes blobs that were put before durable. Stores whose `put` is durable already leave it as it is.
    async fn flush(&self, keys: &[BlobKey]) -> Result<()> {
        let _ = keys;
        Ok(())
    }

    /// The next blobs whose keys begin with `prefix`, in an order of the store's choice, after the key `after`: at
    /// most [`PAGE`]. An empty page is the end. What is no key of this project is left out.
    async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<Vec<Listed>>;

    /// Removes blobs; one that is absent is no error.
    async fn delete(&self, keys: &[BlobKey]) -> Result<()>;

    /// Why the store can never take this key, if it cannot; asked before anything is stored.
    fn refuses(&self, key: &BlobKey) -> Option<String> {
        let _ = key;
        None
    }

    /// The key as the store sees it: two keys that are folded together name one blob.
    fn folded<'k>(&self, key: &'k BlobKey) -> Cow<'k, str> {
        Cow::Borrowed(key.as_str())
    }

    /// A URI the blob can be fetched from, signed for as long as the provider is configured to.
    async fn uri(&self, key: &BlobKey) -> Result<Url>;

    /// The store's stable identity, which records and journals compare: two different stores never have the
    /// same, and one has the same in every process, whatever its credentials. It never contains a secret.
    ///
    /// By default `Display`, which is the short name for logs.
    fn id(&self) -> String {
        self.to_string()
    }

    /// The directories of this machine in which it keeps data.
    fn directories(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Checks that the store can be used: reachable, authorised, its container there or made.
    async fn check(&self) -> Result<()> {
        Ok(())
    }
}

macro_rules! forward {
    ($($pointer:ident: $this:ident => $inner:expr),* $(,)?) => {$(
        #[async_trait]
        impl<P: BlobProvider + ?Sized> BlobProvider for $pointer<P> {
            async fn put(&self, key: &BlobKey, source: &Source) -> Result<Descriptor> {
                let $this = self;
                $inner.put(key, source).await
            }
            async fn get(&self, key: &BlobKey, target: &Target) -> Result<Descriptor> {
                let $this = self;
                $inner.get(key, target).await
            }
            async fn put_all(&self, files: &[(BlobKey, Source)]) -> Result<Vec<Descriptor>> {
                let $this = self;
                $inner.put_all(files).await
            }
            async fn get_all(&self, blobs: &[(BlobKey, Target)]) -> Result<Vec<Descriptor>> {
                let $this = self;
                $inner.get_all(blobs).await
            }
            async fn flush(&self, keys: &[BlobKey]) -> Result<()> {
                let $this = self;
                $inner.flush(keys).await
            }
            async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<Vec<Listed>> {
                let $this = self;
                $inner.list(prefix, after).await
            }
            async fn delete(&self, keys: &[BlobKey]) -> Result<()> {
                let $this = self;
                $inner.delete(keys).await
            }
            fn refuses(&self, key: &BlobKey) -> Option<String> {
                let $this = self;
                $inner.refuses(key)
            }
            fn folded<'k>(&self, key: &'k BlobKey) -> Cow<'k, str> {
                let $this = self;
                $inner.folded(key)
            }
            async fn uri(&self, key: &BlobKey) -> Result<Url> {
                let $this = self;
                $inner.uri(key).await
            }
            async fn check(&self) -> Result<()> {
                let $this = self;
                $inner.check().await
            }
            fn id(&self) -> String {
                let $this = self;
                $inner.id()
            }
            fn directories(&self) -> Vec<PathBuf> {
                let $this = self;
                $inner.directories()
            }
        }
    )*};
}

forward! {
    Arc: this => (**this),
    Box: this => (**this),
    Replaceable: this => this.current(),
}
