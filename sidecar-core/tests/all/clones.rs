//! Files on a file system that clones: no byte is moved, and nothing that is stored changes with the file it came from.
//!
//! `.ci/clones` runs these on XFS; elsewhere they say that they were skipped.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use sidecar_core::blob::{Local, Source, Target};
use sidecar_core::{BlobKey, BlobProvider, Digest};
use tempfile::TempDir;

/// Larger than what is copied anyway.
const SIZE: usize = 8 << 20;

/// A store and a directory on a file system that clones; otherwise says what is missing.
fn scene() -> Option<(TempDir, Local)> {
    let dir = TempDir::new().unwrap();
    let (one, other) = (dir.path().join("one"), dir.path().join("other"));
    fs::write(&one, "content").unwrap();
    let cloned = rustix::fs::ioctl_ficlone(File::create(&other).unwrap(), File::open(&one).unwrap());
    if cloned.is_err() {
        eprintln!("skipped: {} does not clone files; .ci/clones runs this on XFS", dir.path().display());
        return None;
    }
    let store = Local::open(dir.path().join("store")).unwrap();
    Some((dir, store))
}

fn key(name: &str) -> BlobKey {
    BlobKey::parse(name).unwrap()
}

/// The bytes that are this file's alone, as far as the file system tells.
fn free(dir: &TempDir) -> u64 {
    let found = rustix::fs::statvfs(dir.path()).unwrap();
    found.f_bfree * found.f_frsize
}

fn pattern(seed: u8) -> Vec<u8> {
    (0..SIZE).map(|at| (at / 4096) as u8 ^ seed).collect()
}

#[tokio::test]
async fn a_stored_file_takes_no_room_and_has_the_right_digest() {
    let Some((dir, store)) = scene() else { return };
    let path = dir.path().join("file");
    fs::write(&path, pattern(1)).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    // So that a change would show.
    std::thread::sleep(Duration::from_millis(50));
    let before = free(&dir);
    let stored = store.put(&key("a"), &Source::file(&path).unwrap()).await.unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let target = dir.path().join("copy");
    let fetched = store.get(&key("a"), &Target::file(&target)).await.unwrap();
    let digest = Digest(*blake3::hash(&pattern(1)).as_bytes());
    assert_eq!((stored.size, stored.digest), (SIZE as u64, digest));
    assert_eq!((fetched.size, fetched.digest), (SIZE as u64, digest));
    let taken = before.saturating_sub(free(&dir));
    assert!(taken < SIZE as u64 / 4, "{taken} bytes were taken");
    assert!(fs::read(&target).unwrap() == pattern(1));
}

#[tokio::test]
async fn nothing_stored_changes_with_the_file_it_came_from() {
    let Some((dir, store)) = scene() else { return };
    let path = dir.path().join("file");
    fs::write(&path, pattern(1)).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    store.put(&key("a"), &Source::file(&path).unwrap()).await.unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let target = dir.path().join("copy");
    store.get(&key("a"), &Target::file(&target)).await.unwrap();
    // In place, as a module does that goes on after done, and one that writes to its inputs.
    for changed in [&path, &target] {
        let mut file = File::options().read(true).write(true).open(changed).unwrap();
        file.seek(SeekFrom::Start(4096)).unwrap();
        file.write_all(&[0xff; 8192]).unwrap();
        file.sync_all().unwrap();
    }
    let mut found = Vec::new();
    File::open(dir.path().join("store/blobs/a")).unwrap().read_to_end(&mut found).unwrap();
    assert!(found == pattern(1));
    assert_ne!(
        fs::metadata(&path).unwrap().ino(),
        fs::metadata(dir.path().join("store/blobs/a")).unwrap().ino()
    );
}

/// A file that is written to while it is stored is refused, or stored as it was or became: never as a mixture with the
/// digest of something else.
#[tokio::test]
async fn a_file_that_changes_while_it_is_stored_is_never_stored_with_another_digest() {
    let Some((dir, store)) = scene() else { return };
    let path = dir.path().join("file");
    let (mut stored, mut refused) = (0, 0);
    for round in 0..40_u8 {
        fs::write(&path, pattern(round)).unwrap();
        if round % 2 == 0 {
            std::thread::sleep(Duration::from_millis(30));
        }
        let source = Source::file(&path).unwrap();
        let writer = std::thread::spawn({
            let path = path.clone();
            move || {
                let mut file = File::options().write(true).open(path).unwrap();
                std::thread::sleep(Duration::from_micros(u64::from(round) * 150));
                for at in (0..SIZE as u64).step_by(1 << 20) {
                    file.seek(SeekFrom::Start(at)).unwrap();
                    file.write_all(&[round ^ 0xaa; 4096]).unwrap();
                }
            }
        });
        let key = key(&format!("r{round}"));
        match store.put(&key, &source).await {
            Ok(described) => {
                let found = fs::read(dir.path().join("store/blobs").join(key.as_str())).unwrap();
                assert_eq!(described.digest, Digest(*blake3::hash(&found).as_bytes()), "round {round}");
                stored += 1;
            }
            Err(_) => refused += 1,
        }
        writer.join().unwrap();
    }
    println!("{stored} stored, {refused} refused");
}
