//! The guarantees of [`BlobProvider`] for a transfer that stops, breaks off or is given up half-way.

use std::fs::{self, File};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::Notify;

use super::samples::{LARGE, get, key, large, put, source};
use crate::blob::{Source, Target, Watch};
use crate::{BlobKey, BlobProvider, Error};

/// Longer than any step of a test takes, in which nothing waits for anything but the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the reader of a source waits, half-way, until the test lets it go on.
#[derive(Default)]
struct Gate {
    reached: Notify,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) -> io::Result<()> {
        self.reached.notify_one();
        let waited = self.opened.wait_timeout_while(self.open.lock().unwrap(), PATIENCE, |open| !*open);
        match waited.unwrap().1.timed_out() {
            true => Err(io::Error::other("nobody let the reader go on: does it block an async thread?")),
            false => Ok(()),
        }
    }
}

/// The test's side of a [`Gate`], which it leaves open however it ends.
struct Keeper(Arc<Gate>);

impl Keeper {
    /// A source that waits in the middle, and its keeper.
    fn of(source: Source) -> (Source, Self) {
        let gate = Arc::new(Gate::default());
        let (half, keeper) = (source.size() / 2, Self(gate.clone()));
        let pass = move |read| if read < half { Ok(()) } else { gate.pass() };
        (source.watched(Watch(Arc::new(pass))), keeper)
    }

    async fn reached(&self) {
        let reached = tokio::time::timeout(PATIENCE, self.0.reached.notified()).await;
        reached.expect("a put does not read its source to the end");
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        *self.0.open.lock().unwrap() = true;
        self.0.opened.notify_all();
    }
}

/// What a reader finds: the blob, or nothing and nothing in the listing either.
async fn found(provider: &dyn BlobProvider, key: &BlobKey) -> Option<Vec<u8>> {
    let dir = TempDir::new().unwrap();
    let target = Target::file(dir.path().join("target"));
    let described = provider.get(key, &target).await;
    let listed = provider.list(key.as_str(), None).await.unwrap();
    match described {
        Ok(described) => {
            let content = fs::read(target.path()).unwrap();
            assert_eq!(described.digest.0, *blake3::hash(&content).as_bytes());
            assert_eq!(listed.iter().map(|listed| listed.size).collect::<Vec<_>>(), [content.len() as u64]);
            Some(content)
        }
        Err(error) => {
            assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
            assert_eq!(listed, []);
            None
        }
    }
}

/// The blob under a key is this one, or absent.
async fn assert_found(provider: &dyn BlobProvider, key: &BlobKey, content: Option<&[u8]>) {
    let found = found(provider, key).await;
    let size = |blob: Option<&[u8]>| blob.map(<[u8]>::len);
    assert!(found.as_deref() == content, "{:?} bytes, not {:?}", size(found.as_deref()), size(content));
}

/// A source that fails half-way is an error. The key has the blob that it had before, or none.
pub async fn a_put_that_breaks_off_stores_nothing(provider: &dyn BlobProvider) {
    let (dir, content, key) = (TempDir::new().unwrap(), large(), key("broken"));
    let broken = |read| match read < LARGE as u64 / 2 {
        true => Ok(()),
        false => Err(io::Error::other("the disk is broken")),
    };
    let broken = source(&dir, &content).watched(Watch(Arc::new(broken)));
    for old in [None, Some(&b"old"[..])] {
        if let Some(old) = old {
            put(provider, &key, old).await;
        }
        let stored = provider.put(&key, &broken).await;
        assert!(stored.is_err(), "{stored:?}");
        assert_found(provider, &key, old).await;
        let stored = provider.put_all(&[(key.clone(), broken.clone())]).await;
        assert!(stored.is_err(), "{stored:?}");
        assert_found(provider, &key, old).await;
    }
    put(provider, &key, &content).await;
    assert!(get(provider, &key).await == content);
}

/// While a put is under way, readers and listings find the blob that was there before, or none.
pub async fn a_blob_is_seen_whole_or_not_at_all(provider: &dyn BlobProvider) {
    let (dir, content, key) = (TempDir::new().unwrap(), large(), key("slow"));
    for old in [None, Some(&b"old"[..])] {
        if let Some(old) = old {
            put(provider, &key, old).await;
        }
        let (source, keeper) = Keeper::of(source(&dir, &content));
        let look = async {
            keeper.reached().await;
            assert_found(provider, &key, old).await;
            drop(keeper);
        };
        let (stored, ()) = tokio::join!(provider.put(&key, &source), look);
        stored.unwrap();
        provider.flush(std::slice::from_ref(&key)).await.unwrap();
        assert_found(provider, &key, Some(&content)).await;
    }
}

/// A put that is dropped leaves the whole blob or none, and nothing in the way of the next one.
pub async fn a_dropped_put_stores_all_or_nothing(provider: &dyn BlobProvider) {
    let (dir, content, key) = (TempDir::new().unwrap(), large(), key("dropped"));
    let (waiting, keeper) = Keeper::of(source(&dir, &content));
    tokio::select! {
        biased;
        stored = provider.put(&key, &waiting) => panic!("it did not read its source: {stored:?}"),
        () = keeper.reached() => {}
    }
    drop(keeper);
    let target = Target::file(dir.path().join("target"));
    match provider.get(&key, &target).await {
        Ok(_) => assert!(fs::read(target.path()).unwrap() == content),
        Err(error) => assert!(matches!(error, Error::NotFound { .. }), "{error:?}"),
    }
    put(provider, &key, b"next").await;
    let next = get(provider, &key).await;
    // What was dropped may arrive late.
    assert!(next == b"next" || next == content);
}

/// A target that takes no more is an error, never a part of the blob.
pub async fn a_target_that_is_full_is_an_error(provider: &dyn BlobProvider) {
    let (dir, content, key) = (TempDir::new().unwrap(), large(), key("large"));
    put(provider, &key, &content).await;
    for limit in [0, LARGE as u64 / 2, LARGE as u64 - 1] {
        let target = Target::file(dir.path().join("target")).at_most(limit);
        let written = provider.get(&key, &target).await;
        assert!(written.is_err(), "{written:?}");
        assert!(provider.get_all(&[(key.clone(), target)]).await.is_err());
    }
    let target = Target::file(dir.path().join("target")).at_most(LARGE as u64);
    provider.get(&key, &target).await.unwrap();
    assert!(fs::read(target.path()).unwrap() == content);
}

/// Sources and targets count the bytes that pass them: a time limit knows by it what is at work.
pub async fn bytes_that_pass_are_counted(provider: &dyn BlobProvider) {
    let dir = TempDir::new().unwrap();
    for content in [b"small".to_vec(), large()] {
        let (key, sent, fetched) = (key("counted"), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        provider.put(&key, &source(&dir, &content).counted_by(sent.clone())).await.unwrap();
        provider.flush(std::slice::from_ref(&key)).await.unwrap();
        let target = Target::file(dir.path().join("target")).counted_by(fetched.clone());
        provider.get(&key, &target).await.unwrap();
        for counted in [sent, fetched] {
            // A part that was sent again counts again.
            let counted = counted.load(Ordering::Relaxed);
            assert!(counted >= content.len() as u64, "{counted} of {} bytes", content.len());
        }
    }
}

/// However large a blob is, it passes in parts, in both directions: here a blob of `size` bytes without taking half as
/// much memory. No other test may run in this process meanwhile.
pub async fn a_large_blob_is_never_held_whole(provider: &dyn BlobProvider, size: u64) {
    let dir = TempDir::new().unwrap();
    File::create(dir.path().join("large")).unwrap().set_len(size).unwrap();
    let (key, source) = (key("large"), Source::file(dir.path().join("large")).unwrap());
    let target = Target::file(dir.path().join("target"));
    // From now on, the peak is that of what follows.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS:");
    let stored = provider.put(&key, &source).await.unwrap();
    provider.flush(std::slice::from_ref(&key)).await.unwrap();
    let sent = memory("VmHWM:").saturating_sub(before);
    let fetched = provider.get(&key, &target).await.unwrap();
    let both = memory("VmHWM:").saturating_sub(before);
    provider.delete(std::slice::from_ref(&key)).await.unwrap();
    assert_eq!((fetched, stored.size), (stored, size));
    assert!(sent < size / 2, "a put of {size} bytes took {sent} bytes of memory");
    assert!(both < size / 2, "a get of {size} bytes took {both} bytes of memory");
}

/// What the system says about the memory of this process, in bytes.
fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
