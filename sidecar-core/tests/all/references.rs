//! Files that events refer to where they lie: exactly what was submitted, or an error.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use sidecar_core::blob::{
    Bucket, DEFAULT_EXPIRY, Descriptor, Directory, Hasher, ReferenceStore, References, Source, Target,
};
use sidecar_core::lineage::{Retention, Scope, Trace, expire};
use sidecar_core::{
    BlobKey, BlobProvider, Cache, DataPlane, Digest, Documents as _, Error, EventId, First, ObjectDigest,
    Pinned, Result, Session, Settings, Submission, copy_out,
};
use tempfile::TempDir;
use url::Url;

use crate::buckets;
use crate::scene::{Scene, files};

/// A store and somebody who writes into it.
#[derive(Debug, Clone)]
enum Store {
    Directory(PathBuf),
    Bucket(Box<Bucket>),
}

impl Store {
    fn references(&self) -> Arc<dyn ReferenceStore> {
        match self {
            Self::Directory(root) => Arc::new(Directory::new(root)),
            Self::Bucket(bucket) => Arc::new((**bucket).clone()),
        }
    }

    async fn write(&self, object: &str, content: &[u8]) {
        match self {
            Self::Directory(root) => {
                let path = root.join(object);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                // As whoever replaces a file does it.
                let new = path.with_extension("new");
                fs::write(&new, content).unwrap();
                fs::rename(new, path).unwrap();
            }
            Self::Bucket(bucket) => {
                let dir = TempDir::new().unwrap();
                let path = dir.path().join("content");
                fs::write(&path, content).unwrap();
                let source = Source::file(path).unwrap();
                bucket.put(&BlobKey::parse(object).unwrap(), &source).await.unwrap();
            }
        }
    }

    async fn remove(&self, object: &str) {
        match self {
            Self::Directory(root) => fs::remove_file(root.join(object)).unwrap(),
            Self::Bucket(bucket) => bucket.delete(&[BlobKey::parse(object).unwrap()]).await.unwrap(),
        }
    }
}

/// What every store promises.
async fn holds(store: Store) {
    let references = store.references();
    let dir = TempDir::new().unwrap();
    let target = dir.path().join("fetched");
    let get = async |object: &str, pinned: &Pinned| {
        references.get_pinned(object, pinned, &Target::file(&target)).await
    };
    let large: Vec<u8> = (0..20_000_000_u32).flat_map(|n| n.to_le_bytes()).take(20_000_000).collect();
    for (object, content) in [("a/b c.bin", &b"some content"[..]), ("a/ü", b""), ("large", &large)] {
        store.write(object, content).await;
        let pinned = references.pin(object, None).await.unwrap();
        assert_eq!(pinned.size, content.len() as u64);
        assert!(pinned.etag.is_some(), "{object}");
        assert_eq!(references.pin(object, None).await.unwrap(), pinned, "another tag without a change");
        let mut hasher = Hasher::default();
        hasher.update(content);
        assert_eq!(get(object, &pinned).await.unwrap(), hasher.finish());
        assert!(fs::read(&target).unwrap() == content);

        let mut other = content.to_vec();
        match other.last_mut() {
            Some(last) => *last ^= 1,
            None => other.push(0),
        }
        store.write(object, &other).await;
        let error = get(object, &pinned).await.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
        assert!(error.chain().contains("under another id"), "{error:?}");
        assert_ne!(references.pin(object, None).await.unwrap(), pinned);
        store.remove(object).await;
        for error in
            [get(object, &pinned).await.unwrap_err(), references.pin(object, None).await.unwrap_err()]
        {
            assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
        }
    }
}

fn in_memory(store: impl ObjectStore) -> Store {
    let root = "s3://bucket/pre%20fix".parse().unwrap();
    Store::Bucket(Box::new(Bucket::new(Arc::new(store), None, root, DEFAULT_EXPIRY)))
}

#[tokio::test]
async fn a_directory_keeps_the_promise() {
    let dir = TempDir::new().unwrap();
    holds(Store::Directory(dir.path().into())).await;
}

#[tokio::test]
async fn an_object_store_keeps_the_promise() {
    holds(in_memory(InMemory::new())).await;
}

#[tokio::test]
async fn s3_keeps_the_promise() {
    if let Some(bucket) = buckets::s3() {
        holds(Store::Bucket(Box::new(bucket))).await;
    }
}

#[tokio::test]
async fn azure_keeps_the_promise() {
    if let Some(bucket) = buckets::azure().await {
        bucket.check().await.unwrap();
        holds(Store::Bucket(Box::new(bucket))).await;
    }
}

#[tokio::test]
async fn gcs_keeps_the_promise() {
    if let Some(bucket) = buckets::gcs().await {
        holds(Store::Bucket(Box::new(bucket))).await;
    }
}

/// A store that does not know conditions, as some that are compatible with S3.
#[derive(Debug)]
struct Careless(InMemory);

impl std::fmt::Display for Careless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("careless")
    }
}

#[async_trait]
impl ObjectStore for Careless {
    async fn put_opts(
        &self,
        at: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.0.put_opts(at, payload, options).await
    }
    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(at, options).await
    }
    async fn get_opts(&self, at: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.0.get_opts(at, GetOptions { if_match: None, ..options }).await
    }
    fn delete_stream(
        &self,
        at: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.0.delete_stream(at)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.0.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_store_without_conditions_keeps_the_promise_too() {
    holds(in_memory(Careless(InMemory::new()))).await;
}

/// Files of somebody else, and a data plane whose events may refer to them.
struct Lake {
    dir: TempDir,
    plane: DataPlane,
}

impl Lake {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let store: Arc<dyn ReferenceStore> = Arc::new(Directory::new(dir.path()));
        let references = References::new([(Url::from_directory_path(dir.path()).unwrap(), store)]);
        Self { dir, plane: DataPlane { references, ..DataPlane::memory() } }
    }

    fn url(&self, name: &str) -> String {
        Url::from_file_path(self.dir.path().join(name)).unwrap().into()
    }

    async fn pin(&self, name: &str) -> Result<sidecar_core::Reference> {
        self.plane.references.pin(None, &self.url(name)).await
    }

    /// Submits one event that refers to this file.
    async fn submit(&self, name: &str) -> EventId {
        let reference = self.pin(name).await.unwrap();
        Submission::new("t").value("k", "v").reference(reference).unwrap().submit(&self.plane).await.unwrap()
    }

    fn settings(&self, module: &'static str, event: &EventId) -> (Scene, Settings) {
        let scene = Scene::new(self.plane.clone()).next(module, event);
        let mut settings = scene.settings();
        settings.first = First::No;
        settings.context.correlation_id = String::new();
        (scene, settings)
    }

    async fn open(&self, module: &'static str, event: &EventId) -> (Scene, Session) {
        let (scene, settings) = self.settings(module, event);
        let session = Session::open(settings, scene.plane.clone()).await.unwrap();
        (scene, session)
    }
}

#[tokio::test]
async fn a_module_gets_the_file_where_it_lies() {
    let lake = Lake::new();
    let (large, own) = (lake.dir.path().join("l ä.bin"), lake.dir.path().join("own.txt"));
    fs::write(&large, "large").unwrap();
    fs::write(&own, "own").unwrap();
    let reference = lake.pin("l ä.bin").await.unwrap();
    let renamed = lake.plane.references.pin(Some("sub/other"), &lake.url("own.txt")).await.unwrap();
    let submission = || {
        let submission = Submission::new("t").event_id(EventId::parse("e7").unwrap()).path(&own).unwrap();
        submission.reference(reference.clone()).unwrap().reference(renamed.clone()).unwrap()
    };
    assert_eq!(submission().files(), 3);
    let event = submission().submit(&lake.plane).await.unwrap();
    // The same again is the same.
    assert_eq!(submission().submit(&lake.plane).await.unwrap(), event);

    let (scene, session) = lake.open("m", &event).await;
    let prepared = session.ready().await.unwrap();
    assert_eq!((prepared.files, prepared.bytes), (3, 11));
    assert_eq!(files(scene.path("in/data")), ["l ä.bin", "own.txt", "sub/other"]);
    assert_eq!(scene.read("in/data/l ä.bin"), "large");
    assert!(scene.read("in/meta.json").contains(&lake.url("l ä.bin")));
    session.done().await.unwrap();

    // What it was is in the record, and verified as everything else.
    let trace = Trace::of(&lake.plane, event.as_str()).await.unwrap();
    let inputs = &trace.executions[0].inputs;
    let names: Vec<_> = inputs.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["own.txt", "l ä.bin", "sub/other"]);
    assert_eq!(inputs[1].digest, Digest(*blake3::hash(b"large").as_bytes()));
    assert_eq!(trace.events[0].references.len(), 2);
    assert_eq!(trace.verify(&lake.plane).await.unwrap().damaged.len(), 0);
    let copied = lake.dir.path().join("copied");
    assert_eq!(copy_out(&lake.plane, event.as_str(), &copied).await.unwrap().files, 3);
    assert_eq!(files(&copied), ["l ä.bin", "own.txt", "sub/other"]);

    fs::write(&large, "LARGE").unwrap();
    let verified = trace.verify(&lake.plane).await.unwrap();
    assert_eq!(verified.damaged.len(), 1);
    assert_eq!(verified.damaged[0].what, lake.url("l ä.bin"));
    let error = copy_out(&lake.plane, event.as_str(), &lake.dir.path().join("again")).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
    // To submit it as it is now is another event.
    let now = lake.pin("l ä.bin").await.unwrap();
    let other = Submission::new("t").event_id(event).path(&own).unwrap().reference(now).unwrap();
    let error = other.reference(renamed.clone()).unwrap().submit(&lake.plane).await.unwrap_err();
    assert!(error.chain().contains("is another object now"), "{error:?}");
}

#[tokio::test]
async fn a_changed_file_is_an_error_and_never_other_data() {
    let lake = Lake::new();
    let path = lake.dir.path().join("f");
    type Change = fn(&std::path::Path);
    let changes: [(&str, Change); 5] = [
        ("rewritten", |path| fs::write(path, "after!").unwrap()),
        ("longer", |path| fs::write(path, "before and after").unwrap()),
        ("replaced", |path| {
            let new = path.with_extension("new");
            fs::write(&new, "after!").unwrap();
            let time = fs::metadata(path).unwrap().modified().unwrap();
            fs::File::options().write(true).open(&new).unwrap().set_modified(time).unwrap();
            fs::rename(new, path).unwrap();
        }),
        ("gone", |path| fs::remove_file(path).unwrap()),
        ("a link", |path| {
            fs::rename(path, path.with_extension("old")).unwrap();
            symlink(path.with_extension("old"), path).unwrap();
        }),
    ];
    for staged_before in [false, true] {
        for (how, change) in changes {
            let _ = fs::remove_file(&path);
            fs::write(&path, "before").unwrap();
            let event = lake.submit("f").await;
            if staged_before {
                let (_scene, session) = lake.open("earlier", &event).await;
                session.ready().await.unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
            change(&path);
            let (scene, session) = lake.open("m", &event).await;
            let error = session.ready().await.unwrap_err();
            assert!(!error.is_retryable(), "{how}: {error:?}");
            assert_eq!(files(scene.path("in")), Vec::<String>::new(), "{how}");
        }
    }
}

/// A store whose objects change, and that does not notice.
#[derive(Debug)]
struct Blind(TempDir);

impl std::fmt::Display for Blind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("blind")
    }
}

#[async_trait]
impl ReferenceStore for Blind {
    async fn pin(&self, _: &str, _: Option<&str>) -> Result<Pinned> {
        Ok(Pinned { size: 3, etag: Some("always".into()), version: None })
    }
    async fn get_pinned(&self, object: &str, _: &Pinned, target: &Target) -> Result<Descriptor> {
        let directory = Directory::new(self.0.path());
        let now = directory.pin(object, None).await?;
        directory.get_pinned(object, &now, target).await
    }
}

#[tokio::test]
async fn the_first_digest_holds_for_everybody_after() {
    let lake = TempDir::new().unwrap();
    let path = lake.path().join("f");
    let store: Arc<dyn ReferenceStore> = Arc::new(Blind(lake));
    let references = References::new([("s3://blind".parse().unwrap(), store)]);
    let lake = Lake { dir: TempDir::new().unwrap(), plane: DataPlane { references, ..DataPlane::memory() } };
    let cache = Cache::new(lake.dir.path().join("cache"), 1 << 20);
    let submit = async || {
        let reference = lake.plane.references.pin(None, "s3://blind/f").await.unwrap();
        Submission::new("t").reference(reference).unwrap().submit(&lake.plane).await.unwrap()
    };
    fs::write(&path, "one").unwrap();
    let event = submit().await;
    // Several at once find out the same.
    let opened = join_all([lake.open("a", &event), lake.open("b", &event), lake.open("c", &event)]).await;
    for staged in join_all(opened.iter().map(|(_, session)| session.ready())).await {
        assert_eq!(staged.unwrap().files, 1);
    }
    fs::write(&path, "two").unwrap();
    // Another event that refers to the same object gets the same error.
    for event in [event, submit().await] {
        let (scene, session) = lake.open("d", &event).await;
        let error = session.ready().await.unwrap_err();
        assert!(error.chain().contains("which it had the first time"), "{error:?}");
        assert_eq!(files(scene.path("in")), Vec::<String>::new());
    }
    // More than was pinned is not listened to.
    fs::write(&path, "three").unwrap();
    let (_scene, session) = lake.open("e", &submit().await).await;
    session.ready().await.unwrap_err();

    // What a machine has once it need not fetch again.
    fs::write(&path, "one").unwrap();
    for round in 0..2 {
        let (scene, mut settings) = lake.settings("f", &submit().await);
        settings.cache = Some(cache.clone());
        let session = Session::open(settings, scene.plane.clone()).await.unwrap();
        session.ready().await.unwrap();
        assert_eq!(scene.read("in/data/f"), "one", "{round}");
        fs::remove_file(&path).ok();
    }
}

#[tokio::test]
async fn only_what_lies_in_the_named_stores_is_referred_to() {
    let lake = Lake::new();
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    symlink(outside.path().join("secret"), lake.dir.path().join("elsewhere")).unwrap();
    symlink(outside.path(), lake.dir.path().join("dir")).unwrap();
    fs::create_dir(lake.dir.path().join("empty")).unwrap();
    fs::write(lake.dir.path().join("f#1"), "f").unwrap();
    fs::write(lake.dir.path().join("f"), "f").unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        lake.dir.path().join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let (f, root) = (lake.url("f"), Url::from_directory_path(lake.dir.path()).unwrap().to_string());
    for (url, why) in [
        (Url::from_file_path(outside.path().join("secret")).unwrap().to_string(), "--references"),
        (format!("{root}../secret"), "--references"),
        (format!("{root}..%2Fsecret"), "no name of a file"),
        (format!("{root}%2E%2E/secret"), "--references"),
        (format!("{root}elsewhere"), "it is a link"),
        (format!("{root}dir/secret"), "no object"),
        (format!("{root}pipe"), "regular"),
        (format!("{root}empty"), "regular"),
        (root.clone(), "no object"),
        (format!("{root}empty/"), "no object"),
        (format!("{root}none"), "has no object \"none\""),
        (format!("{root}no%6Ee"), "write %25"),
        (format!("{f}#v1"), "versions"),
        (format!("{f}#"), "version"),
        (format!("{f}?x=y"), "?"),
        (format!("{root}%FF"), "UTF-8"),
        (format!("{root}a%00b"), "name"),
        ("file:f".into(), "file:///"),
        ("f".into(), "not a URL"),
        ("s3://user:password@bucket/key".into(), "credentials"),
        ("s3://bucket/key?sig=password".into(), "?"),
        ("s3://bucket/key".into(), "--references"),
        ("https://host/f".into(), "--references"),
    ] {
        let error = lake.plane.references.pin(None, &url).await.unwrap_err();
        assert!(error.chain().contains(why), "{url}: {}", error.chain());
        assert!(!error.is_retryable(), "{url}: {error:?}");
        assert!(!error.chain().contains("password"), "{url}: {}", error.chain());
    }
    assert_eq!(lake.pin("f#1").await.unwrap().name.as_str(), "f#1");
    for name in ["../f", "", "/f", "a\\b/../c"] {
        lake.plane.references.pin(Some(name), &f).await.unwrap_err();
    }

    // One name, one file.
    let (path, reference) = (lake.dir.path().join("f"), lake.pin("f").await.unwrap());
    let one = || Submission::new("t").reference(reference.clone()).unwrap();
    one().reference(reference.clone()).unwrap_err();
    one().path(&path).unwrap_err();
    let below = lake.plane.references.pin(Some("f/g"), &f).await.unwrap();
    one().reference(below).unwrap().submit(&lake.plane).await.unwrap_err();

    // A file in place of an object, and the other way round, is not the same.
    let own = TempDir::new().unwrap();
    fs::write(own.path().join("f"), "other").unwrap();
    let file = || Submission::new("t").path(own.path().join("f")).unwrap();
    for (id, first, second) in [("a", one(), file()), ("b", file(), one())] {
        let id = EventId::parse(id).unwrap();
        first.event_id(id.clone()).submit(&lake.plane).await.unwrap();
        second.event_id(id).submit(&lake.plane).await.unwrap_err();
    }

    // A sidecar that may not fetch from there says so, and how it may.
    let event = lake.submit("f").await;
    let elsewhere =
        Lake { plane: DataPlane { references: References::default(), ..lake.plane.clone() }, ..lake };
    let (scene, session) = elsewhere.open("m", &event).await;
    let error = session.ready().await.unwrap_err();
    assert!(error.chain().contains("say --references file:///directory"), "{}", error.chain());
    assert_eq!(files(scene.path("in")), Vec::<String>::new());
}

#[tokio::test]
async fn equal_references_are_equal_work() {
    let lake = Lake::new();
    fs::write(lake.dir.path().join("f"), "f").unwrap();
    let run = async |event: &EventId| {
        let (scene, mut settings) = lake.settings("m", event);
        settings.memoize = Some("1".into());
        let session = Session::open(settings, scene.plane.clone()).await.unwrap();
        let reused = session.reuse("t").await.unwrap();
        if !reused {
            session.ready().await.unwrap();
            scene.write_outputs();
            session.done().await.unwrap();
        }
        reused
    };
    let first = lake.submit("f").await;
    assert!(!run(&first).await);
    let second = lake.submit("f").await;
    assert!(run(&second).await);
    let trace = Trace::of(&lake.plane, second.as_str()).await.unwrap();
    assert_eq!(trace.executions[0].inputs.len(), 1);
    fs::write(lake.dir.path().join("f"), "g").unwrap();
    let third = lake.submit("f").await;
    assert!(!run(&third).await);
    let trace = Trace::of(&lake.plane, third.as_str()).await.unwrap();
    let because = &trace.executions[0].memoized.as_ref().unwrap().because;
    assert_eq!(because, &["input f differs"]);

    // It is the content that counts, once that is known.
    fs::write(lake.dir.path().join("copy"), "g").unwrap();
    let copy = async || {
        let reference = lake.plane.references.pin(Some("f"), &lake.url("copy")).await.unwrap();
        let submission = Submission::new("t").value("k", "v").reference(reference).unwrap();
        submission.submit(&lake.plane).await.unwrap()
    };
    let (_scene, session) = lake.open("other", &copy().await).await;
    session.ready().await.unwrap();
    assert!(run(&copy().await).await);
}

#[tokio::test]
async fn digests_outlive_the_graph_that_found_them() {
    let lake = Lake::new();
    fs::write(lake.dir.path().join("f"), "f").unwrap();
    let event = lake.submit("f").await;
    let (_scene, session) = lake.open("m", &event).await;
    session.ready().await.unwrap();
    session.done().await.unwrap();
    let digests = async || lake.plane.documents.page::<ObjectDigest>(None).await.unwrap().len();
    assert_eq!(digests().await, 1);
    tokio::time::sleep(Duration::from_millis(5)).await;
    expire(&lake.plane, &Retention::from_iter([(Scope::All, Duration::ZERO)]), true).await.unwrap();
    // Other graphs may refer to the same object.
    assert_eq!(digests().await, 1);
    assert!(lake.dir.path().join("f").exists());
}
