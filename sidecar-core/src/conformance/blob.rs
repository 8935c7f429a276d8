//! The guarantees of [`BlobProvider`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tempfile::TempDir;
use uuid::Uuid;

use super::samples::{get, key, large, put, source};
pub use super::transfers::{
    a_blob_is_seen_whole_or_not_at_all, a_dropped_put_stores_all_or_nothing,
    a_large_blob_is_never_held_whole, a_put_that_breaks_off_stores_nothing,
    a_target_that_is_full_is_an_error, bytes_that_pass_are_counted,
};
use super::{assert_directories, assert_short, assert_unavailable};
use crate::blob::{Listed, PAGE, Target};
use crate::{BlobKey, BlobProvider, Error};

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

/// A target that is there already, from an attempt before, is replaced.
pub async fn a_get_replaces_its_target(provider: &dyn BlobProvider) {
    let (dir, key) = (TempDir::new().unwrap(), key("a.txt"));
    put(provider, &key, b"hello").await;
    let target = Target::file(dir.path().join("target"));
    fs::write(target.path(), "longer, and of another attempt").unwrap();
    for _ in 0..2 {
        provider.get(&key, &target).await.unwrap();
        assert_eq!(fs::read(target.path()).unwrap(), b"hello");
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

/// A key that `refuses` has nothing against can be stored, be it long or odd; no other test has a key that it may refuse.
pub async fn what_is_not_refused_is_stored(provider: &dyn BlobProvider) {
    let event = Uuid::new_v4();
    let long =
        |segment: &str, length: usize| segment.repeat(length.div_ceil(segment.len()))[..length].to_owned();
    let names = [
        long("s", 128),
        long("d/", 255) + "e",
        long("long/", 980) + "e",
        "a\tb".into(),
        "a\nb".into(),
        "a\u{1}b".into(),
        "\u{7f}".into(),
        "\u{fffd}\u{feff}".into(),
    ];
    for key in names.iter().filter_map(|name| BlobKey::parse(&format!("{event}/m/{name}")).ok()) {
        if provider.refuses(&key).is_none() {
            put(provider, &key, key.as_str().as_bytes()).await;
            assert_eq!(get(provider, &key).await, key.as_str().as_bytes());
        }
    }
}

/// Every blob below `prefix`, page by page; each page is told before the next is asked for.
async fn list(
    provider: &dyn BlobProvider,
    prefix: &str,
    mut page_is_read: impl AsyncFnMut(&[Listed]),
) -> BTreeMap<BlobKey, u64> {
    let (mut found, mut after) = (BTreeMap::new(), None);
    loop {
        let page = provider.list(prefix, after.as_ref()).await.unwrap();
        assert!(page.len() <= PAGE);
        page_is_read(&page).await;
        let Some(last) = page.last() else { return found };
        after = Some(last.key.clone());
        for Listed { key, size, modified } in page {
            let age = modified.map(|time| SystemTime::now().duration_since(time).unwrap_or_default());
            assert!(age.is_none_or(|age| age < Duration::from_secs(24 * 3600)), "{key} is {age:?} old");
            assert_eq!(found.insert(key.clone(), size), None, "{key} is listed twice");
        }
    }
}

async fn put_small(provider: &dyn BlobProvider, keys: &[BlobKey]) {
    let dir = TempDir::new().unwrap();
    for keys in keys.chunks(100) {
        let files = keys.iter().map(|key| (key.clone(), source(&dir, key.as_str().as_bytes())));
        provider.put_all(&files.collect::<Vec<_>>()).await.unwrap();
    }
    provider.flush(keys).await.unwrap();
}

/// Page by page, `list` gives every blob below a prefix once, with its size, and none beside it.
pub async fn every_blob_is_listed(provider: &dyn BlobProvider) {
    let event = Uuid::new_v4();
    let keyed = |name: String| BlobKey::parse(&format!("{event}/m/{name}")).unwrap();
    let within = (0..PAGE + 7).map(|i| keyed(format!("a/{}/{i}", i % 3)));
    let within: Vec<_> =
        within.chain(["a/b".to_owned(), "a/b.c".to_owned(), "a/b-/c".to_owned()].map(keyed)).collect();
    let beside = ["ab/x", "a.b", "A/x", "b"].map(|name| keyed(name.to_owned()));
    put_small(provider, &within).await;
    put_small(provider, &beside).await;
    let all = async |prefix: String| list(provider, &prefix, async |_| {}).await;
    let sizes = |keys: &[BlobKey]| keys.iter().map(|key| (key.clone(), key.as_str().len() as u64)).collect();
    assert_eq!(all(format!("{event}/m/a/")).await, sizes(&within));
    let found = all(format!("{event}/m/a")).await;
    let (everything, b): (Vec<_>, _) = (within.iter().chain(&beside[..2]).cloned().collect(), &beside[3]);
    assert_eq!(found, sizes(&everything));
    assert!(all(format!("{event}/")).await.contains_key(b));
    assert_eq!(all(format!("{}/", Uuid::new_v4())).await.len(), 0);
}

/// What is deleted between two pages hides none of the blobs that follow.
pub async fn a_listing_survives_deletions(provider: &dyn BlobProvider) {
    let event = Uuid::new_v4();
    let keys = (0..PAGE + 7).map(|i| BlobKey::parse(&format!("{event}/m/{i}")).unwrap());
    let keys: Vec<_> = keys.collect();
    put_small(provider, &keys).await;
    let prefix = format!("{event}/");
    let delete = async |page: &[Listed]| {
        let keys: Vec<_> = page.iter().map(|listed| listed.key.clone()).collect();
        provider.delete(&keys).await.unwrap();
    };
    let found = list(provider, &prefix, delete).await;
    assert!(found.keys().eq(&BTreeSet::from_iter(keys)));
    assert_eq!(list(provider, &prefix, async |_| {}).await.len(), 0);
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
    for key in &keys[1..] {
        let missing = provider.get(key, &Target::file(dir.path().join("target"))).await;
        assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
        assert_eq!(provider.list(key.as_str(), None).await.unwrap(), []);
    }
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
    let (key, content) = (key("large"), large());
    put(provider, &key, &content).await;
    assert!(get(provider, &key).await == content, "the content differs");
}

/// Calls may run side by side, also for one key: then a reader finds one of the blobs, whole.
pub async fn many_at_once(provider: &dyn BlobProvider) {
    let keys: Vec<BlobKey> = (0..64).map(|i| key(&format!("dir{}/{i}", i % 5))).collect();
    join_all(keys.iter().map(|key| put(provider, key, key.as_str().as_bytes()))).await;
    let found = join_all(keys.iter().map(|key| get(provider, key))).await;
    for (key, content) in keys.iter().zip(found) {
        assert_eq!(content, key.as_str().as_bytes());
    }
    let contents: Vec<Vec<u8>> = (1..8).map(|i| vec![i; usize::from(i) << 16]).collect();
    put(provider, &keys[0], &contents[0]).await;
    let puts = join_all(contents.iter().map(|content| put(provider, &keys[0], content)));
    let gets = join_all(contents.iter().map(|_| get(provider, &keys[0])));
    let (_, found) = tokio::join!(puts, gets);
    assert!(found.iter().all(|found| contents.contains(found)));
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

/// An empty slice is no error.
pub async fn none_in_one_call(provider: &dyn BlobProvider) {
    assert_eq!(provider.put_all(&[]).await.unwrap(), []);
    assert_eq!(provider.get_all(&[]).await.unwrap(), []);
    provider.flush(&[]).await.unwrap();
    provider.delete(&[]).await.unwrap();
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

/// Each blob has a URI of its own, which has no blank; one of a file opens the blob.
pub async fn a_uri_names_its_blob(provider: &dyn BlobProvider) {
    let keys = ["a b.txt", "a_b.txt", "d/a.txt"].map(key);
    for key in &keys {
        put(provider, key, key.as_str().as_bytes()).await;
    }
    let mut uris = Vec::new();
    for key in &keys {
        let uri = provider.uri(key).await.unwrap();
        if uri.scheme() == "file" {
            let read = fs::read(uri.to_file_path().unwrap()).unwrap();
            assert!(
                read == key.as_str().as_bytes(),
                "{uri} does not open the blob {key}, and nothing but it"
            );
        }
        let (place, _) = uri.as_str().split_once('?').unwrap_or((uri.as_str(), ""));
        assert!(!uri.as_str().contains(' ') && !uris.contains(&place.to_owned()), "{uri}");
        uris.push(place.to_owned());
    }
}

/// A store that works passes the check, however many make it at once, and keeps what it has.
pub async fn checks_at_once_succeed(provider: &dyn BlobProvider) {
    let key = key("before");
    put(provider, &key, b"x").await;
    for check in join_all((0..8).map(|_| provider.check())).await {
        check.unwrap();
    }
    assert_eq!(get(provider, &key).await, b"x");
}

/// Where it says that it keeps data on this machine, there is a directory.
pub async fn the_directories_are_there(provider: &dyn BlobProvider) {
    assert_directories(&provider.directories());
}

/// `Display` fits into a log line, and so does the identity.
pub async fn the_display_is_short(provider: &dyn BlobProvider) {
    assert_short(&provider.to_string());
    assert_short(&provider.id());
}

/// After `flush`, whoever else uses the store has the blobs; what one removes, the other has not.
pub async fn another_process_sees_what_is_flushed<P: BlobProvider, R: BlobProvider>(
    provider: &P,
    reopen: impl AsyncFn(&P) -> R,
) {
    let other = reopen(provider).await;
    let keys = ["a", "b"].map(key);
    for key in &keys {
        put(provider, key, b"first").await;
        assert_eq!(get(&other, key).await, b"first");
        put(&other, key, b"second").await;
        assert_eq!(get(provider, key).await, b"second");
    }
    let listed = other.list(keys[0].as_str(), None).await.unwrap();
    assert_eq!(listed.iter().map(|listed| (&listed.key, listed.size)).collect::<Vec<_>>(), [(&keys[0], 6)]);
    other.delete(&keys[..1]).await.unwrap();
    let dir = TempDir::new().unwrap();
    let gone = provider.get(&keys[0], &Target::file(dir.path().join("target"))).await;
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
}

/// What was stored before the store was opened is there.
pub async fn a_restart_forgets_nothing<P: BlobProvider, R: BlobProvider>(
    provider: &P,
    reopen: impl AsyncFn(&P) -> R,
) {
    let keys: Vec<_> = (0..3).map(|i| key(&format!("kept/{i}"))).collect();
    put_small(provider, &keys).await;
    provider.delete(&keys[2..]).await.unwrap();
    let restarted = reopen(provider).await;
    for key in &keys[..2] {
        assert_eq!(get(&restarted, key).await, key.as_str().as_bytes());
        assert_eq!(restarted.list(key.as_str(), None).await.unwrap().len(), 1);
    }
    assert_eq!(restarted.list(keys[2].as_str(), None).await.unwrap(), []);
}

/// A store has the same identity in every process.
pub async fn the_id_is_stable<P: BlobProvider, R: BlobProvider>(provider: &P, reopen: impl AsyncFn(&P) -> R) {
    assert_eq!(reopen(provider).await.id(), provider.id());
}

/// A store that cannot be reached is [`Error::Unavailable`], whatever it is asked: nobody may conclude that a blob is
/// not there.
pub async fn an_outage_is_unavailable(away: &dyn BlobProvider) {
    let (dir, key) = (TempDir::new().unwrap(), key("away"));
    let (source, target) = (source(&dir, b"x"), Target::file(dir.path().join("target")));
    assert_unavailable("put", away.put(&key, &source).await);
    assert_unavailable("put_all", away.put_all(&[(key.clone(), source)]).await);
    assert_unavailable("get", away.get(&key, &target).await);
    assert_unavailable("get_all", away.get_all(&[(key.clone(), target)]).await);
    assert_unavailable("list", away.list("", None).await);
    assert_unavailable("delete", away.delete(&[key]).await);
}

/// The check of a store that cannot be reached is [`Error::Unavailable`].
pub async fn a_check_finds_an_outage(away: &dyn BlobProvider) {
    assert_unavailable("check", away.check().await);
}
