//! Blobs in an object store: S3 and its compatibles, Azure Blob Storage, or any other
//! implementation of [`ObjectStore`].
//!
//! Large files pass in parts, several at a time, through a fixed amount of memory shared by all transfers.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, FuturesUnordered, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::{Position, Url};

use self::window::Window;
use super::transfer::hash_and_write;
use super::{BlobProvider, Descriptor, Hasher, Listed, PAGE, Source, Target};
use crate::blocking;
use crate::contract::{BlobKey, MAX_KEY, Pinned};
use crate::error::{Error, Result};

mod answer;
#[cfg(feature = "azure")]
mod azure;
#[cfg(feature = "azure")]
mod azure_md5;
#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
mod connection;
#[cfg(feature = "gcs")]
mod gcs;
mod reference;
#[cfg(feature = "s3")]
mod s3;
mod window;

#[cfg(feature = "azure")]
pub use azure::AzureConfig;
#[cfg(feature = "gcs")]
pub use gcs::GcsConfig;
#[cfg(feature = "s3")]
pub use s3::S3Config;

/// The size of a part, in bytes: above the 5 MiB that S3 asks for, and enough to hide a round trip.
const PART: u64 = 8 << 20;
/// The most parts of one upload: S3's limit of 10,000, less a margin.
const MOST_PARTS: u64 = 9_000;
/// Memory for the parts of all transfers together, in units of [`UNIT`].
const MEMORY: u32 = 48;
/// The unit in which memory is counted, in bytes.
const UNIT: u64 = 1 << 20;

/// Blobs that are being removed at once.
const DELETED_AT_ONCE: usize = 16;

/// How long a signed URI is valid where nothing else is said.
pub const DEFAULT_EXPIRY: Duration = Duration::from_secs(3600);

/// Blobs as objects below a prefix; clones share connections and memory.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    signer: Option<Arc<dyn Signer>>,
    expiry: Duration,
    /// `s3://bucket/prefix`, for names and for URIs that are not signed.
    root: Url,
    /// The path of the root, decoded.
    prefix: String,
    /// The endpoint or account where it is, if there can be several.
    at: Option<String>,
    /// Whether `\` and `/` are one: Azure stores a backslash as a slash, and so does whoever takes a URL's path
    /// apart by the WHATWG URL standard.
    folds_backslash: bool,
    memory: Arc<Semaphore>,
    window: Window,
    #[cfg(feature = "azure")]
    container: Option<azure::Container>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("root", &self.root.as_str()).finish_non_exhaustive()
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.root.as_str().trim_end_matches('/'))?;
        self.at.iter().try_for_each(|at| write!(f, " at {}", shown(at)))
    }
}

/// An endpoint or account without the credentials that somebody may have put into it.
fn shown(at: &str) -> &str {
    match at.rsplit_once('@') {
        Some((_, host)) => host,
        None => at,
    }
}

#[async_trait]
impl BlobProvider for Bucket {
    async fn put(&self, key: &BlobKey, source: &Source) -> Result<Descriptor> {
        let path = self.path(key)?;
        if source.size() > PART {
            return self.put_in_parts(key, &path, source).await;
        }
        let permit = self.permit(source.size()).await;
        let opened = source.clone();
        let (bytes, descriptor) = blocking(move || {
            let mut reader = opened.open_uncounted()?;
            let mut bytes = Vec::with_capacity(opened.size() as usize + 1);
            reader.read_to_end(&mut bytes).map_err(Error::io("read", opened.path()))?;
            reader.finish()?;
            let mut hasher = Hasher::default();
            hasher.update(&bytes);
            Ok((bytes, hasher.finish()))
        })
        .await?;
        self.store.put(&path, PutPayload::from(bytes)).await.map_err(|error| self.store_error(key, error))?;
        source.moved().add(descriptor.size);
        drop(permit);
        Ok(descriptor)
    }

    async fn get(&self, key: &BlobKey, target: &Target) -> Result<Descriptor> {
        self.fetch(key.as_str(), &self.path(key)?, &GetOptions::default(), target).await
    }

    fn refuses(&self, key: &BlobKey) -> Option<String> {
        if key.as_str().chars().any(char::is_control) {
            // The listings of these stores are XML, which cannot hold them.
            return Some("takes no name with a control character".into());
        }
        self.path(key).err().map(|error| error.chain())
    }

    async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<Vec<Listed>> {
        let failed = |error| self.error("list", prefix, error);
        // The store lists by whole segments: what is left of the prefix is compared here.
        let dir = prefix.rsplit_once('/').map_or("", |(dir, _)| dir);
        let under = |path: &str| Path::parse(format!("{}/{path}", self.prefix()).trim_matches('/'));
        let dir = under(dir).map_err(|error| Error::refused(self, format!("list {prefix}"), error))?;
        let found = match after.map(|after| self.path(after)).transpose()? {
            Some(after) => self.store.list_with_offset(Some(&dir), &after),
            None => self.store.list(Some(&dir)),
        };
        let root = self.prefix().len();
        let listed = found.try_filter_map(|meta| {
            let name = meta.location.as_ref().get(root..).map(|name| name.trim_start_matches('/'));
            let key = name.filter(|name| name.starts_with(prefix)).and_then(|name| BlobKey::parse(name).ok());
            let (size, modified) = (meta.size, Some(meta.last_modified.into()));
            std::future::ready(Ok(key.map(|key| Listed { key, size, modified })))
        });
        listed.take(PAGE).try_collect().await.map_err(failed)
    }

    async fn delete(&self, keys: &[BlobKey]) -> Result<()> {
        let delete = |key: &BlobKey| {
            let (path, store, key) = (self.path(key), self.store.clone(), key.clone());
            async move {
                match store.delete(&path?).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                    Err(error) => Err(self.error("remove", key.as_str(), error)),
                }
            }
        };
        let deleted =
            stream::iter(keys.iter().map(delete).collect::<Vec<_>>()).buffer_unordered(DELETED_AT_ONCE);
        deleted.try_for_each(|()| std::future::ready(Ok(()))).await
    }

    fn folded<'k>(&self, key: &'k BlobKey) -> Cow<'k, str> {
        match key.as_str() {
            key if self.folds_backslash && key.contains('\\') => Cow::Owned(key.replace('\\', "/")),
            key => Cow::Borrowed(key),
        }
    }

    async fn uri(&self, key: &BlobKey) -> Result<Url> {
        let path = self.path(key)?;
        if let Some(signer) = self.signer.as_ref().filter(|_| self.can_sign(key)) {
            match signer.signed_url(reqwest::Method::GET, &path, self.expiry).await {
                Ok(url) => return Ok(url),
                Err(error) => match self.error("sign the URI of", key.as_str(), error) {
                    // To sign may take a call, which can succeed later.
                    error @ Error::Unavailable { .. } => return Err(error),
                    // These credentials cannot sign: whoever fetches it brings credentials of their own.
                    error => tracing::debug!(error = error.chain(), "the URI is not signed"),
                },
            }
        }
        let mut uri = self.root.clone();
        if let Ok(mut segments) = uri.path_segments_mut() {
            segments.pop_if_empty().extend(key.as_str().split('/'));
        }
        Ok(uri)
    }

    fn id(&self) -> String {
        let path = self.root.path().trim_matches('/');
        let root = format!("{}/{path}", &self.root[..Position::AfterHost]);
        let root = root.trim_end_matches('/');
        match self.at.as_deref().map(place) {
            Some(at) => format!("{root} at {at}"),
            None => root.to_owned(),
        }
    }

    async fn check(&self) -> Result<()> {
        // A name of its own, so that several may check at once; the very path that blobs take.
        let name = format!("{}/.sidecar-check/{}", self.prefix(), uuid::Uuid::new_v4().simple());
        let path = Path::parse(name.trim_start_matches('/'));
        let path = path.map_err(|error| Error::refused(self, "take this prefix", error))?;
        let probe = || self.store.put(&path, PutPayload::from_static(PROBE));
        #[cfg_attr(not(feature = "azure"), allow(unused_mut, reason = "only Azure makes the container"))]
        let mut outcome = probe().await;
        #[cfg(feature = "azure")]
        if let (Err(object_store::Error::NotFound { .. }), Some(container)) = (&outcome, &self.container) {
            container.create(self).await?;
            outcome = probe().await;
        }
        match outcome {
            Ok(_) => {}
            Err(object_store::Error::NotFound { source, .. }) => {
                return Err(Error::refused(self, "find the bucket: make it first", source));
            }
            Err(error) => return Err(self.error("store", path.as_ref(), error)),
        }
        // A server that answers 200 to whatever it is asked stores nothing.
        let read = async { self.store.get(&path).await?.bytes().await };
        let read = read.await.map_err(|error| self.error("read back", path.as_ref(), error))?;
        if read != PROBE {
            let why = "what was stored does not come back: is this the endpoint of an object store?";
            return Err(Error::refused(self, format!("keep {path}"), why));
        }
        if let Err(error) = self.list(".sidecar-check/", None).await {
            tracing::warn!(
                error = error.chain(),
                "a repeated commit stores all files again, and gc cannot work"
            );
        }
        if let Err(error) = self.store.delete(&path).await {
            // Only `gc` and an attempt that lost need the right to delete.
            let error = self.error("delete", path.as_ref(), error);
            tracing::warn!(
                error = error.chain(),
                "what the check wrote stays, and so will what gc would remove"
            );
        }
        Ok(())
    }
}

/// What the check writes and reads back.
const PROBE: &[u8] = b"sidecar check\n";

impl Bucket {
    /// Blobs below `root` in any object store; `root` is `scheme://bucket/prefix`, and is shown in logs.
    ///
    /// With a `signer`, URIs are signed for `expiry`.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        signer: Option<Arc<dyn Signer>>,
        root: Url,
        expiry: Duration,
    ) -> Self {
        Self {
            store,
            signer,
            expiry,
            prefix: percent_encoding::percent_decode_str(root.path().trim_matches('/'))
                .decode_utf8_lossy()
                .into_owned(),
            root,
            at: None,
            folds_backslash: false,
            memory: Arc::new(Semaphore::new(MEMORY as usize)),
            window: Window::default(),
            #[cfg(feature = "azure")]
            container: None,
        }
    }

    /// Fetches an object in parts, each of which is what `options` ask for.
    async fn fetch(
        &self,
        key: &str,
        path: &Path,
        options: &GetOptions,
        target: &Target,
    ) -> Result<Descriptor> {
        let part = |range| GetOptions { range: Some(GetRange::Bounded(range)), ..options.clone() };
        let permit = self.permit(PART).await;
        let first = match reference::get(&*self.store, path, part(0..PART)).await {
            Ok(first) => first,
            // An empty object has no first byte: the store says so in one way or another.
            Err(error) if !matches!(error, object_store::Error::NotFound { .. }) => {
                let whole = GetOptions { head: true, ..options.clone() };
                match self.store.get_opts(path, whole).await {
                    Ok(found) if found.meta.size == 0 => return self.get_empty(target).await,
                    _ => return Err(self.error("fetch", key, error)),
                }
            }
            Err(error) => return Err(self.error("fetch", key, error)),
        };
        let size = first.meta.size;
        let bytes = first.bytes().await.map_err(|error| self.error("fetch", key, error))?;
        let writer = {
            let target = target.clone();
            blocking(move || target.create()).await?
        };
        let mut state = (writer, Hasher::default());
        state = write(state, target, bytes, permit).await?;

        // Parts arrive in any order and are written in theirs; memory is granted in their order too, so that
        // the part that is waited for always has its share.
        let mut parts = VecDeque::new();
        let mut next = PART;
        loop {
            while parts.len() < self.window.parts() && next < size {
                let range = next..(next + PART).min(size);
                let permit = match self.try_permit(PART) {
                    Some(permit) => permit,
                    None if parts.is_empty() => self.permit(PART).await,
                    // No memory for one more: go on with those on their way.
                    None => break,
                };
                next = range.end;
                let (store, path, part) = (self.store.clone(), path.clone(), part(range));
                let window = self.window.clone();
                let fetched = tokio::spawn(async move {
                    let started = Instant::now();
                    let bytes = async { reference::get(&*store, &path, part).await?.bytes().await }.await;
                    if bytes.as_ref().is_ok_and(|bytes| bytes.len() as u64 == PART) {
                        window.arrived(started.elapsed());
                    }
                    bytes
                });
                parts.push_back((AbortOnDrop(fetched), permit));
            }
            let Some((mut fetched, permit)) = parts.pop_front() else { break };
            let bytes = match (&mut fetched.0).await {
                Ok(fetched) => fetched.map_err(|error| self.error("fetch", key, error))?,
                Err(error) => return Err(Error::unavailable(self, format!("fetch {key}"), error)),
            };
            state = write(state, target, bytes, permit).await?;
        }
        Ok(state.1.finish())
    }

    /// As the store spells it: a URL has blanks and umlauts encoded.
    fn prefix(&self) -> &str {
        &self.prefix
    }

    fn path(&self, key: &BlobKey) -> Result<Path> {
        let path = format!("{}/{key}", self.prefix());
        let path = path.trim_start_matches('/');
        if path.len() > MAX_KEY {
            let cause = format!("with the prefix it is longer than {MAX_KEY} bytes");
            return Err(Error::refused(self, format!("name {key}"), cause));
        }
        Path::parse(path).map_err(|error| Error::refused(self, format!("name {key}"), error))
    }

    async fn permit(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        self.memory.clone().acquire_many_owned(units(bytes)).await.ok()
    }

    #[allow(clippy::option_option)]
    fn try_permit(&self, bytes: u64) -> Option<Option<OwnedSemaphorePermit>> {
        self.memory.clone().try_acquire_many_owned(units(bytes)).ok().map(Some)
    }

    /// Azure's signer signs the encoded name, which the service does not accept: such a URI would open nothing.
    fn can_sign(&self, key: &BlobKey) -> bool {
        #[cfg(feature = "azure")]
        if self.container.is_some() {
            return key.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./~".contains(&b));
        }
        let _ = key;
        true
    }

    async fn get_empty(&self, target: &Target) -> Result<Descriptor> {
        let target = target.clone();
        blocking(move || target.create().map(drop)).await?;
        Ok(Hasher::default().finish())
    }

    async fn put_in_parts(&self, key: &BlobKey, path: &Path, source: &Source) -> Result<Descriptor> {
        let failed = |error| self.store_error(key, error);
        let upload = self.store.put_multipart(path).await.map_err(failed)?;
        let mut unfinished = Unfinished { upload: Some(upload), window: self.window.clone() };
        let Some(upload) = &mut unfinished.upload else { return Err(Error::Internal("no upload".into())) };
        let sent = match self.send_parts(&mut **upload, key, source).await {
            Ok(descriptor) => upload.complete().await.map_err(failed).map(|_| descriptor),
            Err(error) => Err(error),
        };
        match sent {
            Ok(_) => unfinished.upload = None,
            Err(_) => unfinished.abort().await,
        }
        sent
    }

    async fn send_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        key: &BlobKey,
        source: &Source,
    ) -> Result<Descriptor> {
        let size = PART.max(source.size().div_ceil(MOST_PARTS));
        let opened = source.clone();
        let mut reader = blocking(move || opened.open_uncounted()).await?;
        let mut hasher = Hasher::default();
        let mut sending = FuturesUnordered::new();
        let mut rest = source.size();
        while rest > 0 {
            while sending.len() >= self.window.parts() {
                self.sent(sending.next().await, key)?;
            }
            let permit = loop {
                match self.try_permit(size) {
                    Some(permit) => break permit,
                    None if sending.is_empty() => break self.permit(size).await,
                    None => self.sent(sending.next().await, key)?,
                }
            };
            let (length, read_from) = (rest.min(size), source.clone());
            let part;
            (reader, hasher, part) = blocking(move || {
                let mut part = vec![0; length as usize];
                reader.read_exact(&mut part).map_err(Error::io("read", read_from.path()))?;
                hasher.update(&part);
                Ok((reader, hasher, part))
            })
            .await?;
            rest -= length;
            let sent = upload.put_part(PutPayload::from(part));
            let (window, moved) = (self.window.clone(), source.moved());
            sending.push(async move {
                let started = Instant::now();
                let sent = sent.await;
                if sent.is_ok() {
                    moved.add(length);
                    if length == size {
                        window.arrived(started.elapsed());
                    }
                }
                drop(permit);
                sent
            });
        }
        while !sending.is_empty() {
            self.sent(sending.next().await, key)?;
        }
        reader.finish()?;
        Ok(hasher.finish())
    }

    fn sent(&self, part: Option<object_store::Result<()>>, key: &BlobKey) -> Result<()> {
        part.unwrap_or(Ok(())).map_err(|error| self.store_error(key, error))
    }

    /// An error of storing: what is not found then is not the blob.
    fn store_error(&self, key: &BlobKey, error: object_store::Error) -> Error {
        match error {
            object_store::Error::NotFound { source, .. } => {
                Error::refused(self, format!("store {key}"), answer::summary(self.root.as_str(), &*source))
            }
            error => self.error("store", key.as_str(), error),
        }
    }

    /// The one table from the store's errors to ours.
    fn error(&self, action: &str, key: &str, error: object_store::Error) -> Error {
        use object_store::Error as Store;
        match error {
            // Only whoever reads what was pinned asks for one.
            Store::Precondition { .. } => Pinned::changed(self, key),
            Store::NotFound { .. } => Error::NotFound { provider: self.to_string(), key: key.to_owned() },
            Store::Generic { source, .. } if !is_permanent(&*source) => Error::unavailable(
                self,
                format!("{action} {key}"),
                answer::summary(self.root.as_str(), &*source),
            ),
            other => {
                Error::refused(self, format!("{action} {key}"), answer::summary(self.root.as_str(), &other))
            }
        }
    }
}

/// An endpoint or an account, in one spelling and without what may be a secret: Azure's own endpoint of an account
/// is that account.
fn place(at: &str) -> String {
    let Some(url) = Url::parse(at).ok().filter(Url::has_host) else { return at.to_owned() };
    let (host, path) = (&url[Position::BeforeHost..Position::AfterPort], url.path().trim_end_matches('/'));
    match host.strip_suffix(".blob.core.windows.net") {
        Some(account) if path.is_empty() => account.to_owned(),
        _ => format!("{}://{host}{path}", url.scheme()),
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(MEMORY).clamp(1, MEMORY)
}

/// Whether the store answered that the request itself is wrong; the status is only in the text.
fn is_permanent(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if let Some((_, status)) = text.split_once("status code: ") {
            let later = ["408", "429"].iter().any(|later| status.starts_with(later))
                || ["ExpiredToken", "RequestTimeout"].iter().any(|later| status.contains(later));
            return status.starts_with('4') && !later;
        }
        cause = error.source();
    }
    false
}

/// An upload that is aborted unless it is completed, also when nobody waits for it any more: parts that stay
/// behind cost money. One that cannot be aborted is the store's to expire.
struct Unfinished {
    upload: Option<Box<dyn MultipartUpload>>,
    window: Window,
}

impl Unfinished {
    /// The rest of its life, if it is not completed.
    fn abort(&mut self) -> impl Future<Output = ()> + Send + 'static {
        let upload = self.upload.take();
        if upload.is_some() {
            // If there were too many parts at once to be done in time, then there are fewer from now on.
            self.window.throttled();
        }
        async {
            if let Some(mut upload) = upload {
                let _ = upload.abort().await;
            }
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.upload.is_some()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(self.abort());
        }
    }
}

type Written = (super::Writer, Hasher);

async fn write(
    (mut writer, mut hasher): Written,
    target: &Target,
    bytes: Bytes,
    permit: Option<OwnedSemaphorePermit>,
) -> Result<Written> {
    let target = target.clone();
    blocking(move || {
        hash_and_write(&mut hasher, &mut writer, &bytes).map_err(Error::io("write", target.path()))?;
        drop(permit);
        Ok((writer, hasher))
    })
    .await
}

/// A download that nobody waits for any more is not worth its traffic.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(root: &str, at: Option<&str>) -> String {
        let store = Arc::new(object_store::memory::InMemory::new());
        let bucket = Bucket::new(store, None, root.parse().unwrap(), DEFAULT_EXPIRY);
        Bucket { at: at.map(str::to_owned), ..bucket }.id()
    }

    #[test]
    fn an_id_has_one_spelling_and_no_secret() {
        assert_eq!(id("s3://b/p/", None), id("s3://b/p", None));
        assert_eq!(id("s3://b/", Some("http://u:secret@Host:80/")), "s3://b at http://host");
        let azure = id("az://c/p", Some("account"));
        assert_eq!(azure, id("az://c/p/", Some("https://account.blob.core.windows.net/?sig=secret")));
        for other in [
            id("az://c/p", Some("other")),
            id("az://c/q", Some("account")),
            id("az://d/p", Some("account")),
            id("az://c/p", Some("http://127.0.0.1:10000/account")),
        ] {
            assert_ne!(azure, other);
        }
        let port = |port| id("s3://b", Some(&format!("http://127.0.0.1:{port}")));
        assert_ne!(port(1), port(2));
    }
}
