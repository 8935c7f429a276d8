//! Uploads that do not end well leave no parts behind.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use sidecar_core::blob::{Bucket, DEFAULT_EXPIRY, Source};
use sidecar_core::{BlobKey, BlobProvider};
use tempfile::TempDir;

/// A store whose uploads fail or hang in the end, and that counts those it was asked to forget.
#[derive(Debug, Clone)]
struct Failing {
    inner: Arc<InMemory>,
    end: ControlFlow<()>,
    aborted: Arc<AtomicUsize>,
}

impl std::fmt::Display for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("failing")
    }
}

#[async_trait]
impl MultipartUpload for Failing {
    fn put_part(&mut self, _: PutPayload) -> UploadPart {
        async { Ok(()) }.boxed()
    }
    async fn complete(&mut self) -> Result<PutResult> {
        match self.end {
            ControlFlow::Break(()) => Err(object_store::Error::NotImplemented {
                operation: "complete".into(),
                implementer: "failing".into(),
            }),
            ControlFlow::Continue(()) => std::future::pending().await,
        }
    }
    async fn abort(&mut self) -> Result<()> {
        self.aborted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[async_trait]
impl ObjectStore for Failing {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(at, payload, options).await
    }
    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(self.clone()))
    }
    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(at, options).await
    }
    fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(at)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn an_upload_that_fails_or_is_given_up_is_aborted() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("large");
    std::fs::File::create(&path).unwrap().set_len(20 << 20).unwrap();
    let (source, key) = (Source::file(&path).unwrap(), BlobKey::parse("e/m/large").unwrap());
    for end in [ControlFlow::Break(()), ControlFlow::Continue(())] {
        let store = Failing { inner: Arc::default(), end, aborted: Arc::default() };
        let aborted = store.aborted.clone();
        let bucket = Bucket::new(Arc::new(store), None, "any://store/".parse().unwrap(), DEFAULT_EXPIRY);
        let put = tokio::time::timeout(Duration::from_secs(2), bucket.put(&key, &source)).await;
        assert!(put.is_err() || put.is_ok_and(|put| put.is_err()));
        // What was dropped is aborted on its own.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while aborted.load(Ordering::Relaxed) == 0 {
            assert!(std::time::Instant::now() < deadline, "not aborted");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(aborted.load(Ordering::Relaxed), 1);
    }
}
