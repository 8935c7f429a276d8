//! The guarantees of [`BlobProvider`].

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use uuid::Uuid;

use crate::blob::{Listed, PAGE, Source, Target};
use crate::{BlobKey, BlobProvider, Error};

/// A key that no other test uses.
fn key(name: &str) -> BlobKey {
    BlobKey::parse(&format!("{}/module/{name}", Uuid::new_v4())).unwrap()
}

fn source(dir: &TempDir, content: &[u8]) -> Source {
    let path = dir.path().join(Uuid::new_v4().to_string());
    fs::write(&path, content).unwrap();
    Source::file(path).unwrap()
}

async fn put(provider: &dyn BlobProvider, key: &BlobKey, content: &[u8]) {
    let dir = TempDir::new().unwrap();
    let descriptor = provider.put(key, &source(&dir, content)).await.unwrap();
    assert_eq!(descriptor.size, content.len() as u64);
    assert_eq!(descriptor.digest.0, *blake3::hash(content).as_bytes());
    provider.flush(std::slice::from_ref(key)).await.unwrap();
}

async fn get(provider: &dyn BlobProvider, key: &BlobKey) -> Vec<u8> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("below/target");
    let descriptor = provider.get(key, &Target::file(&path)).await.unwrap();
    let content = fs::read(path).unwrap();
    assert_eq!(descriptor.size, content.len() as u64);
    assert_eq!(descriptor.digest.0, *blake3::hash(&content).as_bytes());
    content
}

/// `get` gives back byte for byte what was put.
pub async fn what_is_put_comes_back(provider: &dyn BlobProvider) {
    let key = key("a.txt");
    put(provider, &key, b"hello").await;
    assert_eq!(get(provider, &key).await, b"hello");
}

/// An absent key is [`Error::NotFound`], and names the key.
pub async fn a_missing_blob_is_not_found(provider: &dyn BlobProvider) {
    let dir = TempDir::new().unwrap();
    let key = key("absent");
    let error = provider.get(&key, &Target::file(dir.path().join("target"))).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    assert!(error.to_string().contains(key.as_str()), "{error}");
}

/// `put` under a key that exists replaces the blob, be it longer or shorter.
pub async fn a_put_replaces(provider: &dyn BlobProvider) {
    let key = key("a.txt");
    for content in ["first", "the second one", "3"] {
        put(provider, &key, content.as_bytes()).await;
        assert_eq!(get(provider, &key).await, content.as_bytes());
    }
}

/// Keys that look alike are different keys.
pub async fn keys_do_not_collide(provider: &dyn BlobProvider) {
    let event = Uuid::new_v4();
    let names = ["a/x", "b/x", "x", "a-x", "a_x", "a%2Fx", "A/x", "c/x", "c/x ", "c/ x"];
    let keys = names.map(|name| BlobKey::parse(&format!("{event}/m/{name}")).unwrap());
    for key in &keys {
        put(provider, key, key.as_str().as_bytes()).await;
    }
    for key in &keys {
        assert_eq!(get(provider, key).await, key.as_str().as_bytes());
    }
}

/// Spaces, unicode, quotes and leading dots are names like others.
pub async fn odd_names_survive(provider: &dyn BlobProvider) {
    for name in [
        ".hidden",
        "a b",
        "größe.png",
        "日本/語",
        "'\"",
        "a+b&c=d?e#f",
        "100%",
        "%41",
        "back\\slash",
        "a;b:c,d",
    ] {
        let key = key(name);
        put(provider, &key, name.as_bytes()).await;
        assert_eq!(get(provider, &key).await, name.as_bytes(), "{name}");
        assert!(!provider.uri(&key).await.unwrap().as_str().contains(' '));
    }
}

/// Keys that share a blob are told to: `folded` is the same for both, and different for all others.
pub async fn shared_blobs_are_told(provider: &dyn BlobProvider) {
    let event = Uuid::new_v4();
    let names = ["x/y", "x\\y", "X/y", "x/y.", "x/y ", "x/%79", "x/\u{e9}", "x/e\u{301}"];
    let keys = names.map(|name| BlobKey::parse(&format!("{event}/module/{name}")).unwrap());
    for key in &keys {
        put(provider, key, key.as_str().as_bytes()).await;
    }
    for key in &keys {
        let last = keys.iter().rfind(|other| provider.folded(other) == provider.folded(key)).unwrap();
        assert_eq!(get(provider, key).await, last.as_str().as_bytes(), "{key}");
    }
}

/// Page by page, `list` gives every blob below a prefix once, with its size, and none beside it.
pub async fn every_blob_is_listed(provider: &dyn BlobProvider) {
    let dir = TempDir::new().unwrap();
    let event = Uuid::new_v4();
    let keyed = |name: String| BlobKey::parse(&format!("{event}/m/{name}")).unwrap();
    let within = (0..PAGE + 7).map(|i| keyed(format!("a/{}/{i}", i % 3)));
    let within: Vec<_> =
        within.chain(["a/b".to_owned(), "a/b.c".to_owned(), "a/b-/c".to_owned()].map(keyed)).collect();
    let beside = ["ab/x", "a.b", "A/x", "b"].map(|name| keyed(name.to_owned()));
    let files: Vec<_> = within
        .iter()
        .chain(&beside)
        .map(|key| (key.clone(), source(&dir, key.as_str().as_bytes())))
        .collect();
    for files in files.chunks(100) {
        provider.put_all(files).await.unwrap();
    }
    let keys: Vec<_> = files.iter().map(|(key, _)| key.clone()).collect();
    provider.flush(&keys).await.unwrap();
    let all = async |prefix: String| {
        let (mut found, mut after) = (std::collections::BTreeMap::new(), None);
        loop {
            let page = provider.list(&prefix, after.as_ref()).await.unwrap();
            assert!(page.len() <= PAGE);
            let Some(last) = page.last() else { return found };
            after = Some(last.key.clone());
            for Listed { key, size, .. } in page {
                assert_eq!(found.insert(key.clone(), size), None, "{key} is listed twice");
            }
        }
    };
    let sizes = |keys: &[BlobKey]| keys.iter().map(|key| (key.clone(), key.as_str().len() as u64)).collect();
    assert_eq!(all(format!("{event}/m/a/")).await, sizes(&within));
    let found = all(format!("{event}/m/a")).await;
    let (everything, b): (Vec<_>, _) = (within.iter().chain(&beside[..2]).cloned().collect(), &beside[3]);
    assert_eq!(found, sizes(&everything));
    assert!(all(format!("{event}/")).await.contains_key(b));
    assert_eq!(all(format!("{}/", Uuid::new_v4())).await.len(), 0);
}

/// A blob that was deleted is gone, and the others are not; deleting again is no error.
pub async fn what_is_deleted_is_gone(provider: &dyn BlobProvider) {
    let keys: Vec<BlobKey> = (0..40).map(|i| key(&format!("deleted/{i}"))).collect();
    for key in &keys {
        put(provider, key, b"x").await;
    }
    for _ in 0..2 {
        provider.delete(&keys[1..]).await.unwrap();
    }
    let dir = TempDir::new().unwrap();
    let missing = provider.get(&keys[1], &Target::file(dir.path().join("target"))).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    assert_eq!(get(provider, &keys[0]).await, b"x");
    put(provider, &keys[1], b"again").await;
    assert_eq!(get(provider, &keys[1]).await, b"again");
}

/// An empty file is a file.
pub async fn an_empty_blob_is_a_blob(provider: &dyn BlobProvider) {
    let key = key("empty");
    put(provider, &key, b"").await;
    assert_eq!(get(provider, &key).await, b"");
}

/// A blob of many buffers comes back.
pub async fn a_large_blob_comes_back(provider: &dyn BlobProvider) {
    let content: Vec<u8> = (0..24 << 20).map(|i: u32| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
    let key = key("large");
    put(provider, &key, &content).await;
    assert!(get(provider, &key).await == content, "the content differs");
}

/// Calls may run side by side.
pub async fn many_at_once(provider: &dyn BlobProvider) {
    let keys: Vec<BlobKey> = (0..64).map(|i| key(&format!("dir{}/{i}", i % 5))).collect();
    futures_util::future::join_all(keys.iter().map(|key| put(provider, key, key.as_str().as_bytes()))).await;
    let found = futures_util::future::join_all(keys.iter().map(|key| get(provider, key))).await;
    for (key, content) in keys.iter().zip(found) {
        assert_eq!(content, key.as_str().as_bytes());
    }
}

/// Several files in one call come back like one each, and in their order.
pub async fn many_in_one_call(provider: &dyn BlobProvider) {
    let dir = TempDir::new().unwrap();
    let contents: Vec<Vec<u8>> = (0..100).map(|i| vec![i; usize::from(i) * 50]).collect();
    let files: Vec<_> = contents
        .iter()
        .enumerate()
        .map(|(i, c)| (key(&format!("dir{}/{i}", i % 3)), source(&dir, c)))
        .collect();
    let stored = provider.put_all(&files).await.unwrap();
    let keys: Vec<_> = files.iter().map(|(key, _)| key.clone()).collect();
    provider.flush(&keys).await.unwrap();
    let path = |i: usize| dir.path().join(format!("target/{i}"));
    let targets: Vec<_> =
        files.iter().enumerate().map(|(i, (key, _))| (key.clone(), Target::file(path(i)))).collect();
    assert_eq!(provider.get_all(&targets).await.unwrap(), stored);
    for (i, content) in contents.iter().enumerate() {
        assert_eq!(stored[i].digest.0, *blake3::hash(content).as_bytes());
        assert!(fs::read(path(i)).unwrap() == *content);
    }
    let missing = [targets[0].clone(), (key("absent"), Target::file(path(0)))];
    assert!(matches!(provider.get_all(&missing).await, Err(Error::NotFound { .. })));
}

/// What was validated is what is stored: a source that changed is an error, and stores nothing.
pub async fn a_changed_source_is_refused(provider: &dyn BlobProvider) {
    let dir = TempDir::new().unwrap();
    let key = key("changed");
    let changed = source(&dir, b"before");
    fs::write(changed.path(), "something else").unwrap();
    assert!(provider.put(&key, &changed).await.is_err());

    let swapped = source(&dir, b"before");
    fs::remove_file(swapped.path()).unwrap();
    std::os::unix::fs::symlink(Path::new("/etc/passwd"), swapped.path()).unwrap();
    assert!(provider.put(&key, &swapped).await.is_err());

    let missing = provider.get(&key, &Target::file(dir.path().join("target"))).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
}

/// `Display` fits into a log line.
pub async fn the_display_is_short(provider: &dyn BlobProvider) {
    let name = provider.to_string();
    assert!(!name.is_empty() && name.len() < 200 && !name.contains('\n'), "{name}");
}
