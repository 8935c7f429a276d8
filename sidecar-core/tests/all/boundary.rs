//! A module that may write its base directory reads, writes and deletes nothing else through the sidecar.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, mkdirat, openat, renameat_with};
use sidecar_core::blob::{AzureConfig, Bucket, DEFAULT_EXPIRY, S3Config, Source, Target};
use sidecar_core::documents::{Mongo, MongoConfig, Postgres};
use sidecar_core::events::{Amqp, AmqpConfig, Memory, Nats, NatsConfig};
use sidecar_core::{
    Blob, BlobKey, BlobProvider, DataPlane, DocumentProvider, Documents, Error, Event, EventContext,
    EventProvider, FileName, Session, documents::Document,
};

use crate::scene::Scene;

/// Exchanges two names over and over until it is dropped.
struct Swapping {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Swapping {
    fn start(one: std::path::PathBuf, other: std::path::PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // One of them may just be made or removed.
                let _ = renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Swapping {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

const RACES: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_swapped_for_a_link_during_done_gives_nothing_away() {
    for race in 0..RACES {
        let plane = DataPlane::memory();
        let scene = Scene::new(plane.clone());
        let outside = tempfile::TempDir::new().unwrap();
        let session = scene.ready().await;
        for i in 0..20 {
            scene.write(&format!("out/data/d/f{i}"), "mine");
            fs::write(outside.path().join(format!("f{i}")), "secret").unwrap();
        }
        symlink(outside.path(), scene.path("out/swap")).unwrap();
        let swapping = Swapping::start(scene.path("out/data/d"), scene.path("out/swap"));
        // It may be refused: then the files were not there, or were swapped.
        let _ = session.done().await;
        drop(swapping);
        for listed in plane.blobs.list("", None).await.unwrap() {
            let fetched = outside.path().join("fetched");
            plane.blobs.get(&listed.key, &Target::file(&fetched)).await.unwrap();
            assert_eq!(fs::read_to_string(&fetched).unwrap(), "mine", "race {race}: {}", listed.key);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_that_are_swapped_for_links_during_ready_lead_nowhere() {
    for name in ["in", "in/data", "out"] {
        let scene = Scene::new(DataPlane::memory());
        let outside = tempfile::TempDir::new().unwrap();
        for below in ["data", "events"] {
            fs::create_dir(outside.path().join(below)).unwrap();
            fs::write(outside.path().join(below).join("precious"), "precious").unwrap();
        }
        let session = scene.ready().await;
        symlink(outside.path(), scene.path("swap")).unwrap();
        let swapping = Swapping::start(scene.path(name), scene.path("swap"));
        for _ in 0..RACES {
            let _ = fs::remove_file(scene.path("in/meta.json"));
            let _ = session.ready().await;
            let mut settings = scene.settings();
            settings.start = sidecar_core::Start::Restart;
            drop(Session::open(settings, DataPlane::memory()).await);
        }
        drop(swapping);
        for below in ["data", "events"] {
            let left: Vec<_> =
                fs::read_dir(outside.path().join(below)).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(left, ["precious"], "{name}");
        }
        assert!(
            !outside.path().join("meta.json").exists() && !outside.path().join(".previous").exists(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_state_directory_of_somebody_else_is_refused() {
    let scene = Scene::new(DataPlane::memory());
    let refused = async |why: &str| {
        let error = Session::open(scene.settings(), scene.plane.clone()).await.unwrap_err().chain();
        assert!(error.contains(why), "{error}");
    };
    let state = scene.path(".sidecar");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    refused("other users may write it").await;
    fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    if std::os::unix::fs::chown(&state, Some(12345), None).is_ok() {
        refused("it belongs to the user 12345").await;
    }
    fs::remove_dir(&state).unwrap();
    fs::create_dir(scene.path("elsewhere")).unwrap();
    symlink(scene.path("elsewhere"), &state).unwrap();
    refused("it is a link or a file").await;
    assert_eq!(fs::read_dir(scene.path("elsewhere")).unwrap().count(), 0);
}

/// Makes directories in one another, deeper than any path can name.
fn deep(at: &std::path::Path, depth: usize) {
    let mut dir = std::os::fd::OwnedFd::from(File::open(at).unwrap());
    for _ in 0..depth {
        mkdirat(&dir, "d", Mode::RWXU).unwrap();
        dir = openat(&dir, "d", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    }
}

#[tokio::test]
async fn no_depth_of_directories_is_too_much() {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.ready().await;
    deep(&scene.path("out/data"), 1400);
    let error = session.done().await.unwrap_err();
    assert!(error.chain().contains("the name is longer than 1024 bytes"), "{error}");
    fs::create_dir(scene.path("out/stray")).unwrap();
    deep(&scene.path("out/stray"), 15_000);
    deep(&scene.path("in"), 15_000);
    drop(session);
    let mut settings = scene.settings();
    settings.start = sidecar_core::Start::Restart;
    let session = Session::open(settings, scene.plane.clone()).await.unwrap();
    session.ready().await.unwrap();
    scene.write("out/data/a", "a");
    assert_eq!(session.done().await.unwrap().files, 1);
    // The scene's directory is removed by something that recurses.
    drop(session);
    let removed =
        std::process::Command::new("rm").arg("-rf").arg(scene.path("out")).arg(scene.path("in")).status();
    assert!(removed.unwrap().success());
}

#[tokio::test]
async fn events_are_bounded_by_their_sum() {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.ready().await;
    let event =
        format!(r#"[{{"key":"eventType","value":"t"}},{{"key":"k","value":"{}"}}]"#, "x".repeat(250_000));
    scene.write("out/events/0.json", event);
    for i in 1..1200 {
        fs::hard_link(scene.path("out/events/0.json"), scene.path(&format!("out/events/{i}.json"))).unwrap();
    }
    let error = session.done().await.unwrap_err();
    assert!(error.chain().contains("holds more than 268435456 bytes of events"), "{error}");
}

/// A bus that takes short types only.
#[derive(Debug)]
struct Picky(Memory);

impl std::fmt::Display for Picky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("picky")
    }
}

#[async_trait]
impl EventProvider for Picky {
    async fn publish(&self, events: &[Event]) -> sidecar_core::Result<()> {
        self.0.publish(events).await
    }
    fn refuses(&self, event: &Event) -> Option<String> {
        (event.event_type.len() > 3).then(|| "takes short types only".into())
    }
}

#[tokio::test]
async fn what_no_store_takes_is_found_before_the_first_byte_is_stored() {
    let plane = DataPlane { events: Arc::new(Picky(Memory::default())), ..DataPlane::memory() };
    let scene = Scene::new(plane.clone());
    let session = scene.ready().await;
    scene.write("out/data/a", "a");
    scene.write_event("1.json", "long type", "a");
    let error = session.done().await.unwrap_err();
    let Error::Invalid(problems) = &*error else { panic!("{error:?}") };
    assert_eq!(problems[0].to_string(), "out/events/1.json: picky takes short types only");
    assert_eq!(plane.blobs.list("", None).await.unwrap(), []);
    fs::remove_file(scene.path("out/events/1.json")).unwrap();
    scene.write_event("1.json", "ok", "a");
    assert_eq!(session.done().await.unwrap().events.len(), 1);
}

fn event(event_type: String) -> Event {
    let context = serde_json::json!({"name": "", "eventId": "e", "correlationId": "c", "parentEventId": ""});
    serde_json::from_value(
        serde_json::json!({"context": context, "type": event_type, "previousStages": [], "data": []}),
    )
    .unwrap()
}

#[test]
fn each_provider_says_what_it_can_never_take() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _in = runtime.enter();
    let amqp = Amqp::open(&"amqp://h".parse().unwrap(), AmqpConfig::new("x"));
    assert!(
        amqp.refuses(&event("t".repeat(255))).is_none() && amqp.refuses(&event("t".repeat(256))).is_some()
    );
    let nats = Nats::open(&"nats://h".parse().unwrap(), NatsConfig::new("s", "s"));
    assert!(nats.refuses(&event("t".repeat(1000))).is_none());
    assert!(nats.refuses(&event("t".repeat(1 << 20))).is_some());

    let document = |json: String| Document { id: "i".into(), correlation_id: String::new(), json };
    let postgres = Postgres::open(&"postgres://u@h/d".parse().unwrap(), None).unwrap();
    assert!(postgres.refuses(&document(r#"{"a":"\u0000"}"#.into())).is_some());
    // A backslash and the letters that follow it are no NUL.
    assert!(postgres.refuses(&document(r#"{"a":"\\u0000"}"#.into())).is_none());
    assert!(postgres.refuses(&document(r#"{"a":"\\\u0000"}"#.into())).is_some());
    let config = MongoConfig::new("d", "c");
    let mongo = Mongo::open("mongodb://h", config);
    assert!(mongo.refuses(&document(format!(r#"{{"a":"{}"}}"#, "x".repeat(15 << 20)))).is_none());
    assert!(mongo.refuses(&document(format!(r#"{{"a":"{}"}}"#, "x".repeat(17 << 20)))).is_some());

    let key = |name: &str| BlobKey::parse(name).unwrap();
    let s3 = S3Config::default().access_key_id("i").secret_access_key("s").region("r");
    let long = format!("s3://b/{}", "p".repeat(600));
    let s3 = Bucket::s3(&long.parse().unwrap(), &s3, DEFAULT_EXPIRY).unwrap();
    assert!(s3.refuses(&key("e/m/x")).is_none() && s3.refuses(&key("e/m/a\nb")).is_some());
    assert!(s3.refuses(&key(&format!("e/m/{}", "x".repeat(600)))).is_some());
    let azure = AzureConfig::default().account("a").key("a2V5");
    let azure = Bucket::azure(&"az://c".parse().unwrap(), &azure, DEFAULT_EXPIRY).unwrap();
    assert!(azure.refuses(&key("e/m/a\u{7}b")).is_some());
}

/// What a consumer of a context meets.
async fn consumed(change: impl FnOnce(&mut EventContext)) -> Arc<Error> {
    let plane = DataPlane::memory();
    let scene = Scene::new(plane.clone());
    let key = BlobKey::parse("e1/m/x").unwrap();
    fs::write(scene.path("x"), [0; 1000]).unwrap();
    let stored = plane.blobs.put(&key, &Source::file(scene.path("x")).unwrap()).await.unwrap();
    let name = FileName::parse("x").unwrap();
    let blob = Blob { name: name.clone(), key, size: stored.size, digest: stored.digest, executable: false };
    let mut context: EventContext = serde_json::from_value(
        serde_json::json!({"eventId": scene.event, "correlationId": "c", "files": ["x"], "data": []}),
    )
    .unwrap();
    context.blobs = vec![blob];
    change(&mut context);
    plane.documents.store(&[context]).await.unwrap();
    let session = scene.open().await;
    let error = session.ready().await.unwrap_err();
    assert_eq!(fs::read_dir(scene.path("in/data")).unwrap().count(), 0);
    error
}

#[tokio::test]
async fn what_a_store_sends_beyond_the_context_is_not_written() {
    let error = consumed(|context| context.blobs[0].size = 5).await;
    assert!(matches!(&*error, Error::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn a_context_with_a_file_that_is_also_a_directory_is_damaged() {
    let error = consumed(|context| {
        let mut below = context.blobs[0].clone();
        below.name = FileName::parse("x/y").unwrap();
        context.files.push(below.name.clone());
        context.blobs.push(below);
    })
    .await;
    assert!(matches!(&*error, Error::Corrupt { .. }), "{error:?}");
}
