//! What the tests of providers store and publish.

use std::fs;

use tempfile::TempDir;
use uuid::Uuid;

use crate::blob::{Source, Target};
use crate::{BlobKey, BlobProvider, TraceParent};

/// More than the buffers and the parts of most stores.
pub(super) const LARGE: usize = 24 << 20;

/// A key that no other test uses.
pub(super) fn key(name: &str) -> BlobKey {
    BlobKey::parse(&format!("{}/module/{name}", Uuid::new_v4())).unwrap()
}

pub(super) fn source(dir: &TempDir, content: &[u8]) -> Source {
    let path = dir.path().join(Uuid::new_v4().to_string());
    fs::write(&path, content).unwrap();
    Source::file(path).unwrap()
}

pub(super) async fn put(provider: &dyn BlobProvider, key: &BlobKey, content: &[u8]) {
    let dir = TempDir::new().unwrap();
    assert_eq!(provider.refuses(key), None);
    let descriptor = provider.put(key, &source(&dir, content)).await.unwrap();
    assert_eq!(descriptor.size, content.len() as u64);
    assert_eq!(descriptor.digest.0, *blake3::hash(content).as_bytes());
    provider.flush(std::slice::from_ref(key)).await.unwrap();
}

pub(super) async fn get(provider: &dyn BlobProvider, key: &BlobKey) -> Vec<u8> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("below/target");
    let descriptor = provider.get(key, &Target::file(&path)).await.unwrap();
    let content = fs::read(path).unwrap();
    assert_eq!(descriptor.size, content.len() as u64);
    assert_eq!(descriptor.digest.0, *blake3::hash(&content).as_bytes());
    content
}

/// Content without a repeated block.
pub(super) fn large() -> Vec<u8> {
    (0..LARGE as u32).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

/// The trace that something belongs to.
pub(super) fn traceparent() -> Option<TraceParent> {
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().ok()
}
