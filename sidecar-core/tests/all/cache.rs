//! Inputs that are kept on a machine: fetched once, always checked, and never missed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use sidecar_core::{Cache, EventId, Session};
use tempfile::TempDir;

use crate::scene::{Scene, Scripted, files};

/// An event with files of these names and contents, and modules that work on it.
struct Inputs {
    stores: Scripted,
    first: Scene,
    event: EventId,
    dir: TempDir,
}

impl Inputs {
    async fn new(inputs: &[(&str, Vec<u8>)]) -> Self {
        let stores = Scripted::default();
        let first = Scene::new(stores.plane());
        let session = first.ready().await;
        for (name, content) in inputs {
            first.write(&format!("out/data/{name}"), content);
        }
        let names: Vec<_> = inputs.iter().map(|(name, _)| *name).collect();
        first.write_event("1.json", "one", &names.join(","));
        let event = session.done().await.unwrap().events[0].event_id.clone();
        Self { stores, first, event, dir: TempDir::new().unwrap() }
    }

    fn gets(&self) -> usize {
        self.stores.script.calls().iter().filter(|call| *call == "get").count()
    }

    /// Another module, ready with the cache.
    async fn ready(&self, module: &'static str, cache: &Cache) -> (Scene, Session) {
        let scene = self.first.next(module, &self.event);
        let mut settings = scene.settings();
        settings.cache = Some(cache.clone());
        let session = Session::open(settings, scene.plane.clone()).await.unwrap();
        session.ready().await.unwrap();
        (scene, session)
    }

    fn cache(&self, size: u64) -> Cache {
        Cache::new(self.dir.path().join("cache"), size)
    }

    /// What the cache holds.
    fn kept(&self) -> Vec<PathBuf> {
        let dir = self.dir.path().join("cache");
        files(&dir).into_iter().map(|name| dir.join(name)).collect()
    }
}

fn large(byte: u8) -> Vec<u8> {
    vec![byte; 2 * 1024 * 1024 + 1]
}

#[tokio::test]
async fn inputs_are_fetched_once_for_all_executions_of_a_machine() {
    let inputs = Inputs::new(&[("small", b"content".to_vec()), ("sub/large", large(7))]).await;
    inputs.ready("m1", &inputs.cache(10_000_000)).await;
    let fetched = inputs.gets();
    assert!(fetched > 0);
    // Another process has another value for the same directory.
    let (scene, _) = inputs.ready("m2", &inputs.cache(10_000_000)).await;
    assert_eq!(inputs.gets(), fetched);
    assert_eq!(scene.read("in/data/small"), "content");
    assert_eq!(fs::read(scene.path("in/data/sub/large")).unwrap(), large(7));
    // What the module does to its own copy concerns nobody else.
    fs::write(scene.path("in/data/small"), "changed").unwrap();
    let (scene, _) = inputs.ready("m3", &inputs.cache(10_000_000)).await;
    assert_eq!(scene.read("in/data/small"), "content");
    for kept in inputs.kept() {
        assert_eq!(fs::metadata(kept).unwrap().permissions().mode() & 0o777, 0o444);
    }
}

#[tokio::test]
async fn an_executable_and_a_plain_file_of_one_content_stay_apart() {
    let inputs = Inputs::new(&[("plain", b"#!".to_vec())]).await;
    let cache = inputs.cache(1 << 20);
    inputs.ready("m1", &cache).await;
    let other = inputs.first.next("other", &EventId::parse("e2").unwrap());
    let session = other.ready().await;
    other.write("out/data/tool", "#!");
    fs::set_permissions(other.path("out/data/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    other.write_event("1.json", "one", "tool");
    let event = session.done().await.unwrap().events[0].event_id.clone();
    let scene = other.next("last", &event);
    let mut settings = scene.settings();
    settings.cache = Some(cache);
    let before = inputs.gets();
    Session::open(settings, scene.plane.clone()).await.unwrap().ready().await.unwrap();
    assert_eq!(inputs.gets(), before);
    assert_eq!(fs::metadata(scene.path("in/data/tool")).unwrap().permissions().mode() & 0o111, 0o111);
}

/// Each puts something else in the place of what was kept.
#[tokio::test]
async fn what_is_not_what_it_should_be_is_fetched() {
    type Damage = (&'static str, fn(&Path));
    let damage: [Damage; 7] = [
        ("other bytes", |path| fs::write(path, large(8)).unwrap()),
        ("fewer bytes", |path| fs::write(path, "x").unwrap()),
        ("more bytes", |path| fs::write(path, vec![7; 9_000_000]).unwrap()),
        ("a link", |path| symlink("/etc/passwd", path).unwrap()),
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("a pipe", |path| {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                path,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o644),
                0,
            )
            .unwrap();
        }),
        ("nothing", |_| ()),
    ];
    for (what, damage) in damage {
        let inputs = Inputs::new(&[("large", large(7))]).await;
        inputs.ready("m1", &inputs.cache(10_000_000)).await;
        let [kept] = &inputs.kept()[..] else { panic!("{:?}", inputs.kept()) };
        fs::remove_file(kept).unwrap();
        damage(kept);
        let before = inputs.gets();
        let (scene, _) = inputs.ready("m2", &inputs.cache(10_000_000)).await;
        assert_eq!(fs::read(scene.path("in/data/large")).unwrap(), large(7), "{what}");
        assert_eq!(inputs.gets(), before + 1, "{what}");
    }
}

#[tokio::test]
async fn a_cache_that_cannot_be_used_is_left_out() {
    let inputs = Inputs::new(&[("a", b"a".to_vec()), ("large", large(7))]).await;
    let place = inputs.dir.path().join("file");
    fs::write(&place, "").unwrap();
    for (module, dir) in [("m1", place.clone()), ("m2", place.join("below")), ("m3", "/proc/cache".into())] {
        let (scene, _) = inputs.ready(module, &Cache::new(dir, 1 << 30)).await;
        assert_eq!(scene.read("in/data/a"), "a");
    }
    // One that is removed while it is used is made again.
    let cache = inputs.cache(1 << 30);
    inputs.ready("m4", &cache).await;
    fs::remove_dir_all(cache.dir()).unwrap();
    inputs.ready("m5", &cache).await;
    assert_eq!(inputs.kept().len(), 2);
}

#[tokio::test]
async fn what_was_used_longest_ago_goes_first() {
    let contents: Vec<_> = (0..4u8).map(|n| (["a", "b", "c", "d"][usize::from(n)], large(n))).collect();
    let cached = TempDir::new().unwrap();
    let cache = || Cache::new(cached.path(), 7 * large(0).len() as u64 / 2);
    let of = |path: &str| u64::from(fs::read(cached.path().join(path)).unwrap()[0]);
    for content in &contents[..3] {
        Inputs::new(std::slice::from_ref(content)).await.ready("m", &cache()).await;
    }
    for name in files(cached.path()) {
        let file = fs::File::open(cached.path().join(&name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(100 - of(&name))).unwrap();
    }
    // The oldest is used again, and so the second one goes.
    Inputs::new(&contents[..1]).await.ready("m", &cache()).await;
    Inputs::new(&contents[3..]).await.ready("m", &cache()).await;
    let mut left: Vec<_> = files(cached.path()).iter().map(|name| of(name)).collect();
    left.sort_unstable();
    assert_eq!(left, [0, 2, 3]);
    // What is larger than the whole cache is not kept, and removes nothing.
    Inputs::new(&[("huge", vec![9; 9_000_000])]).await.ready("m", &cache()).await;
    assert_eq!(files(cached.path()).len(), 3);
    // What a process that was killed has left is removed in the end, and what another one is at work on stays.
    let dir = cached.path().join("00");
    fs::create_dir_all(&dir).unwrap();
    // What is not the cache's own stays, whatever its name and age.
    let (left, working) = (format!(".{}.tmp", "0".repeat(32)), format!(".{}.tmp", "1".repeat(32)));
    let foreign = cached.path().join("documents");
    fs::create_dir_all(&foreign).unwrap();
    let others = [dir.join("notes.txt"), foreign.join("a".repeat(64)), foreign.join("x.lock")];
    for path in [dir.join(&left), dir.join(&working)].iter().chain(&others) {
        fs::write(path, "x").unwrap();
        if !path.ends_with(&working) {
            let file = fs::File::open(path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(3 * 24 * 3600)).unwrap();
        }
    }
    Inputs::new(&contents[1..2]).await.ready("m", &cache()).await;
    assert!(!dir.join(&left).exists() && dir.join(&working).exists());
    assert!(others.iter().all(|path| path.exists()), "files of others were removed");
}

#[tokio::test]
async fn attempts_that_begin_together_fetch_a_large_file_once() {
    let inputs = Inputs::new(&[("large", large(7))]).await;
    let modules = ["m1", "m2", "m3", "m4", "m5"];
    let caches = modules.map(|_| inputs.cache(10_000_000));
    join_all(modules.iter().zip(&caches).map(|(module, cache)| inputs.ready(module, cache))).await;
    assert_eq!(inputs.gets(), 1);
    assert_eq!(inputs.kept().len(), 1, "a lock is left: {:?}", inputs.kept());
}

/// Time passes as fast as nothing happens.
#[tokio::test(start_paused = true)]
async fn whoever_fetches_and_is_paused_keeps_nobody_for_ever() {
    let inputs = Inputs::new(&[("large", large(7))]).await;
    inputs.ready("m1", &inputs.cache(10_000_000)).await;
    let [kept] = &inputs.kept()[..] else { panic!() };
    fs::remove_file(kept).unwrap();
    let lock = fs::File::create(kept.with_extension("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (scene, _) = inputs.ready("m2", &inputs.cache(10_000_000)).await;
    assert_eq!(fs::read(scene.path("in/data/large")).unwrap(), large(7));
}
