//! The state machine: what each call does in each phase, and what a restart remembers.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use sidecar_core::layers::{Fault, Injected, Retry, Timeout};
use sidecar_core::{DataPlane, Error, EventTypes, Phase, Session, Start, documents};
use tempfile::TempDir;

use crate::scene::{Scene, Scripted, files};

#[tokio::test]
async fn two_modules_chain_over_memory() {
    chain(DataPlane::memory()).await;
}

#[tokio::test]
async fn two_modules_chain_over_local() {
    let dir = TempDir::new().unwrap();
    chain(DataPlane::local(dir.path()).unwrap()).await;
}

async fn chain(plane: DataPlane) {
    let first = Scene::new(plane);
    let session = first.ready().await;
    assert_eq!(first.read("in/meta.json"), "[]\n");
    first.write_outputs();
    let receipt = session.done().await.unwrap();
    assert_eq!((receipt.files, receipt.bytes, receipt.events.len()), (2, 4, 2));
    assert_eq!(receipt.events[0].event_type, "one");

    let second = first.next("second", &receipt.events[0].event_id);
    let session = second.open().await;
    let prepared = session.ready().await.unwrap();
    assert_eq!((prepared.files, prepared.bytes, prepared.values), (2, 4, 3));
    assert_eq!(second.read("in/data/a/x"), "ax");
    assert_eq!(second.read("in/data/b/x"), "bx");
    let values: sidecar_core::KeyValuePairs = serde_json::from_str(&second.read("in/meta.json")).unwrap();
    let keys: Vec<&str> = values.iter().map(|pair| pair.key.as_str()).collect();
    assert_eq!(keys, ["note", "a/x", "b/x"]);
    assert!(values.get("a/x").unwrap().contains("e1/first/~0-"), "{values:?}");
}

#[tokio::test]
async fn calls_can_be_repeated_and_joined() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.open().await;
    let (one, two) = tokio::join!(session.ready(), session.ready());
    assert_eq!(one.unwrap(), two.unwrap());
    session.ready().await.unwrap();
    assert_eq!(scripted.script.calls_after_open(), ["event_context"]);
    scene.write_outputs();
    let (one, two) = tokio::join!(session.done(), session.done());
    let receipt = one.unwrap();
    assert_eq!(receipt, two.unwrap());
    let calls = scripted.script.calls();
    assert_eq!(
        scripted.script.calls_after_open(),
        [
            "event_context",
            "put",
            "put",
            "flush",
            "put_event_contexts",
            "decide",
            "put_insight",
            "publish",
            "put_published"
        ]
    );
    scene.write("out/data/late", "not part of it");
    assert_eq!(session.done().await.unwrap(), receipt);
    session.ready().await.unwrap();
    assert_eq!(scripted.script.calls(), calls);
}

#[tokio::test]
async fn a_dropped_caller_does_not_cancel_the_run() {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.ready().await;
    scene.write_outputs();
    {
        let done = session.done();
        tokio::pin!(done);
        assert!(futures_util::poll!(&mut done).is_pending());
    }
    assert_eq!(session.ended().await, Phase::Done);
}

#[tokio::test]
async fn a_failing_ready_leaves_no_inputs_and_can_be_repeated() {
    let scripted = Scripted::default();
    let first = Scene::new(scripted.plane());
    let session = first.ready().await;
    first.write_outputs();
    let receipt = session.done().await.unwrap();

    let second = first.next("second", &receipt.events[0].event_id);
    let session = second.open().await;
    scripted.script.fail("get", 1);
    assert!(matches!(*session.ready().await.unwrap_err(), Error::Unavailable { .. }));
    assert_eq!(session.phase(), Phase::New);
    assert_eq!(files(second.path("in")), Vec::<String>::new());
    session.ready().await.unwrap();
    assert_eq!(files(second.path("in")), ["data/a/x", "data/b/x", "meta.json"]);
}

#[tokio::test]
async fn a_damaged_blob_is_never_staged() {
    let dir = TempDir::new().unwrap();
    let first = Scene::new(DataPlane::local(dir.path()).unwrap());
    let session = first.ready().await;
    first.write_outputs();
    let receipt = session.done().await.unwrap();
    let blobs = dir.path().join("blobs");
    let name = files(&blobs).into_iter().find(|name| name.ends_with("/a/x")).unwrap();
    let stored = blobs.join(&name);
    for (content, problem) in
        [("AX", "digest"), ("truncated not", "more than its 2 bytes"), ("A", "1 bytes instead of 2")]
    {
        std::fs::write(&stored, content).unwrap();
        let second = first.next("second", &receipt.events[0].event_id);
        let error = second.open().await.ready().await.unwrap_err();
        assert!(matches!(*error, Error::Corrupt { .. }), "{error:?}");
        assert!(error.to_string().contains(&name) && error.to_string().contains(problem), "{error}");
        assert_eq!(files(second.path("in")), Vec::<String>::new());
    }
    std::fs::remove_file(&stored).unwrap();
    let second = first.next("second", &receipt.events[0].event_id);
    assert!(matches!(*second.open().await.ready().await.unwrap_err(), Error::NotFound { .. }));
}

#[tokio::test]
async fn invalid_outputs_commit_nothing_and_can_be_mended() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let mut settings = scene.settings();
    settings.event_types = EventTypes::parse("one");
    let session = Session::open(settings, scene.plane.clone()).await.unwrap();
    session.ready().await.unwrap();
    scene.write("out/data/a", "a");
    scene.write("out/meta.json", "{");
    scene.write_event("1.json", "two", "a");
    scene.write_event("2.json", "one", "b,../../etc/passwd,/etc/passwd");
    scene.write("out/events/3.json", "[");
    scene.write("out/events/4.txt", "");
    let error = session.done().await.unwrap_err();
    let Error::Invalid(problems) = &*error else { panic!("{error:?}") };
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 7, "{problems:#?}");
    assert_eq!(scripted.script.calls_after_open(), ["event_context"]);
    assert_eq!(session.phase(), Phase::Ready);

    scene.write("out/meta.json", "[]");
    for name in ["2.json", "3.json", "4.txt"] {
        std::fs::remove_file(scene.path(&format!("out/events/{name}"))).unwrap();
    }
    scene.write_event("1.json", "one", "./a");
    assert_eq!(session.done().await.unwrap().events.len(), 1);
}

#[tokio::test]
async fn fail_ends_the_execution_without_a_commit() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    scene.write_outputs();
    session.fail("no faces").await.unwrap();
    session.fail("again").await.unwrap();
    assert_eq!(session.status().reason.as_deref(), Some("no faces"));
    for error in [session.ready().await.unwrap_err(), session.done().await.unwrap_err()] {
        assert!(matches!(*error, Error::OutOfOrder { phase: Phase::Failed, .. }));
        assert!(error.to_string().contains("no faces"), "{error}");
    }
    assert_eq!(scripted.script.calls_after_open(), ["event_context", "put_failure"]);
    assert_eq!(scene.read("out/data/a/x"), "ax");
}

#[tokio::test]
async fn a_failed_execution_starts_anew_with_its_outputs_set_aside() {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.ready().await;
    scene.write_outputs();
    session.fail("first try").await.unwrap();
    drop(session);
    let session = scene.ready().await;
    assert_eq!(session.done().await.unwrap().files, 0);
    assert_eq!(scene.read("out/.previous/1/data/a/x"), "ax");
}

#[tokio::test]
async fn a_restart_remembers() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    drop(scene.ready().await);
    // The module goes on while the sidecar is away.
    scene.write_outputs();
    let session = scene.open().await;
    assert_eq!(session.phase(), Phase::Ready);
    let receipt = session.done().await.unwrap();
    drop(session);
    let session = scene.open().await;
    assert_eq!(session.phase(), Phase::Done);
    assert_eq!(session.done().await.unwrap(), receipt);
    assert_eq!(scripted.events.published().len(), 2);
}

#[tokio::test]
async fn a_module_restarted_with_its_sidecar_gets_its_inputs_again() {
    let plane = DataPlane::memory();
    let first = Scene::new(plane);
    let session = first.ready().await;
    first.write_outputs();
    let receipt = session.done().await.unwrap();
    let second = first.next("second", &receipt.events[0].event_id);
    drop(second.ready().await);
    second.write("in/data/a/x", "scribbled over");
    let session = second.ready().await;
    assert_eq!(second.read("in/data/a/x"), "ax");
    session.done().await.unwrap();
}

#[tokio::test]
async fn files_that_are_stored_already_are_not_sent_again() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    scene.write_outputs();
    scripted.script.fail("put_event_contexts", 1);
    assert!(session.done().await.unwrap_err().is_retryable());
    scene.write("out/data/a/x", "another content");
    drop(session);
    let session = scene.open().await;
    session.done().await.unwrap();
    let puts = scripted.script.calls().iter().filter(|call| *call == "put").count();
    assert_eq!(puts, 3);
    let second = scene.next("second", &scripted.events.published()[0].context.event_id);
    second.ready().await;
    assert_eq!(second.read("in/data/a/x"), "another content");
}

#[tokio::test]
async fn a_change_that_the_clock_of_the_file_system_missed_is_seen() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    scene.write_outputs();
    scripted.script.fail("put_event_contexts", 1);
    assert!(session.done().await.unwrap_err().is_retryable());
    drop(session);
    scene.write("out/data/a/x", "xa");
    // As if both changes had been within one tick: the journal has the times of the second.
    let path = scene.path(".sidecar/journal.json");
    let mut journal: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let stored = journal["step"]["committing"]["files"].as_array_mut().unwrap();
    let stored = stored.iter_mut().find(|file| file["blob"]["name"] == "a/x").unwrap();
    stored["settled"] = false.into();
    let identity = &mut stored["identity"];
    let found = std::fs::metadata(scene.path("out/data/a/x")).unwrap();
    identity["inode"] = found.ino().into();
    identity["modified"] = serde_json::json!([found.mtime(), found.mtime_nsec()]);
    identity["changed"] = serde_json::json!([found.ctime(), found.ctime_nsec()]);
    std::fs::write(&path, journal.to_string()).unwrap();
    let session = scene.open().await;
    session.done().await.unwrap();
    let second = scene.next("second", &scripted.events.published()[0].context.event_id);
    second.ready().await;
    assert_eq!(second.read("in/data/a/x"), "xa");
}

#[tokio::test]
async fn a_second_sidecar_on_the_same_directory_is_refused() {
    let scene = Scene::new(DataPlane::memory());
    let _first = scene.open().await;
    let error = Session::open(scene.settings(), scene.plane.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Busy(_)) && error.to_string().contains("--basedir"), "{error}");
}

#[tokio::test]
async fn a_base_directory_wiped_before_ready_is_made_again() {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.open().await;
    std::fs::remove_dir_all(scene.base.path()).unwrap();
    scene.write("out/data/early", "written before ready");
    session.ready().await.unwrap();
    assert_eq!(scene.read("in/meta.json"), "[]\n");
    assert!(Session::open(scene.settings(), scene.plane.clone()).await.is_err(), "the lock was lost");
    assert_eq!(session.done().await.unwrap().files, 1);
}

#[tokio::test]
async fn another_event_does_not_inherit_outputs() {
    let scene = Scene::new(DataPlane::memory());
    drop(scene.ready().await);
    scene.write_outputs();
    let mut other = scene.settings();
    other.context.event_id = sidecar_core::EventId::parse("e2").unwrap();
    let session = Session::open(other, scene.plane.clone()).await.unwrap();
    session.ready().await.unwrap();
    assert_eq!(session.done().await.unwrap().files, 0);
}

#[tokio::test]
async fn what_is_written_after_a_commit_is_not_the_next_events() {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.ready().await;
    scene.write_outputs();
    session.done().await.unwrap();
    scene.write("out/data/late", "by a module that was not told, and began anew");
    drop(session);
    let next = Scene { event: sidecar_core::EventId::parse("e2").unwrap(), ..scene };
    let session = next.ready().await;
    assert_eq!(session.done().await.unwrap().files, 0);
    assert!(next.path("out/.previous/1/data/late").exists());
}

#[tokio::test]
async fn a_commit_on_another_data_plane_is_not_this_one() {
    let dir = TempDir::new().unwrap();
    let mut scene = Scene::new(DataPlane::local(dir.path()).unwrap());
    let session = scene.ready().await;
    session.done().await.unwrap();
    drop(session);
    scene.plane = DataPlane::memory();
    let error = Session::open(scene.settings(), scene.plane.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Busy(_)) && error.to_string().contains("--rerun"), "{error}");
    let mut settings = scene.settings();
    settings.start = Start::Rerun;
    Session::open(settings, scene.plane.clone()).await.unwrap();
}

#[tokio::test]
async fn a_module_that_lost_its_inputs_after_the_commit_gets_them_again() {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.ready().await;
    scene.write_outputs();
    let receipt = session.done().await.unwrap();
    fs::remove_dir_all(scene.path("in")).unwrap();
    session.ready().await.unwrap();
    assert_eq!(scene.read("in/meta.json"), "[]\n");
    assert_eq!(session.phase(), Phase::Done);
    assert_eq!(session.done().await.unwrap(), receipt);
}

#[tokio::test]
async fn inputs_that_are_gone_while_events_are_published_are_out_of_order() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    scene.write_outputs();
    scripted.script.fail("publish", 1);
    session.done().await.unwrap_err();
    fs::remove_dir_all(scene.path("in")).unwrap();
    let error = session.ready().await.unwrap_err();
    assert!(matches!(*error, Error::OutOfOrder { .. }), "{error:?}");
    session.done().await.unwrap();
}

#[tokio::test]
async fn the_sidecars_own_work_is_no_silence_of_the_module() {
    let once = std::sync::atomic::AtomicBool::new(true);
    let hang = move |_: &str, _: usize| match once.swap(false, std::sync::atomic::Ordering::Relaxed) {
        true => Injected::Hang,
        false => Injected::Nothing,
    };
    let documents = Fault::new(documents::Memory::default(), hang);
    let documents = Retry::new(Timeout::new(documents, Duration::from_millis(600)), Duration::from_secs(60));
    let scene = Scene::new(DataPlane { documents: std::sync::Arc::new(documents), ..DataPlane::memory() });
    let session = scene.open().await;
    let lease = Duration::from_millis(500);
    let waiting = session.clone();
    let abandoned = tokio::spawn(async move { waiting.lease_expired(lease).await });
    session.ready().await.unwrap();
    let ready = std::time::Instant::now();
    abandoned.await.unwrap();
    assert!(ready.elapsed() >= lease * 9 / 10, "{:?}", ready.elapsed());
}

#[tokio::test]
async fn an_unfinished_commit_is_not_forgotten_for_another_event() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    scene.write_outputs();
    scripted.script.fail("publish", 1);
    session.done().await.unwrap_err();
    drop(session);
    let mut other = scene.settings();
    other.context.event_id = sidecar_core::EventId::parse("e2").unwrap();
    let error = Session::open(other, scene.plane.clone()).await.unwrap_err();
    assert!(error.to_string().contains("e1"), "{error}");
    // The same context finishes it without being asked.
    let session = scene.open().await;
    assert_eq!(session.ended().await, Phase::Done);
    assert_eq!(scripted.events.published().len(), 2);
    assert_eq!(files(scene.path("out")), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_is_half_published_is_finished_whatever_is_called() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    scene.write_outputs();
    scripted.script.fail("publish", 2);
    session.done().await.unwrap_err();
    assert!(session.is_publishing());
    // The module gives up, or starts again: neither may forget the events.
    let error = session.fail("gave up").await.unwrap_err();
    assert!(matches!(*error, Error::OutOfOrder { .. }) && error.to_string().contains("published"), "{error}");
    session.ready().await.unwrap();
    assert_eq!(session.ended().await, Phase::Done);
    assert_eq!(scripted.events.published().len(), 2);

    let again = Scene { event: sidecar_core::EventId::parse("e2").unwrap(), ..Scene::new(scripted.plane()) };
    let session = again.ready().await;
    again.write_outputs();
    scripted.script.fail("publish", 3);
    session.done().await.unwrap_err();
    drop(session);
    let session = again.open().await;
    session.idle().await;
    session.ready().await.unwrap();
    assert_eq!(session.ended().await, Phase::Done);
    assert_eq!(scripted.events.published().len(), 4);
}

#[tokio::test]
async fn another_data_plane_gets_everything_anew_or_nothing() {
    let [one, other] = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let scripted = Scripted::default();
    let plane = |dir: &TempDir| {
        let local = DataPlane::local(dir.path()).unwrap();
        DataPlane { documents: std::sync::Arc::new(scripted.clone()), ..local }
    };
    let mut scene = Scene::new(plane(&one));
    let session = scene.ready().await;
    scene.write_outputs();
    scripted.script.fail("put_event_contexts", 1);
    session.done().await.unwrap_err();
    drop(session);
    scene.plane = plane(&other);
    scene.open().await.done().await.unwrap();
    assert_eq!(files(other.path().join("blobs")).len(), 2);
    drop(one);
}

#[tokio::test]
async fn a_commit_that_began_to_publish_stays_on_its_data_plane() {
    let scripted = Scripted::default();
    let mut scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    scene.write_outputs();
    scripted.script.fail("publish", 1);
    session.done().await.unwrap_err();
    drop(session);
    scene.plane = DataPlane::memory();
    let error = Session::open(scene.settings(), scene.plane.clone()).await.unwrap_err();
    assert!(error.to_string().contains("another data plane"), "{error}");
}

#[tokio::test]
async fn a_module_that_wipes_everything_and_starts_again_gets_its_inputs() {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.ready().await;
    std::fs::remove_dir_all(scene.base.path()).unwrap();
    std::fs::create_dir(scene.base.path()).unwrap();
    session.ready().await.unwrap();
    assert_eq!(scene.read("in/meta.json"), "[]\n");
    scene.write_outputs();
    assert_eq!(session.done().await.unwrap().files, 2);
}

#[tokio::test]
async fn a_module_that_is_started_anew_does_not_inherit_its_dead_attempt() {
    let scene = Scene::new(DataPlane::memory());
    drop(scene.ready().await);
    scene.write_outputs();
    let mut settings = scene.settings();
    settings.start = Start::Restart;
    for attempt in 1..3 {
        let session = Session::open(settings.clone(), scene.plane.clone()).await.unwrap();
        session.ready().await.unwrap();
        assert_eq!(scene.read("out/.previous/1/data/a/x"), "ax");
        scene.write("out/data/new", format!("attempt {attempt}"));
    }
    let session = scene.open().await;
    assert_eq!(session.done().await.unwrap().files, 1);
    assert_eq!(scene.read("out/.previous/2/data/new"), "attempt 1");
}

#[tokio::test]
async fn a_directory_may_take_the_place_of_a_file_in_the_next_attempt() {
    let dir = TempDir::new().unwrap();
    let scripted = Scripted::default();
    let local = DataPlane::local(dir.path()).unwrap();
    let scene = Scene::new(DataPlane { documents: std::sync::Arc::new(scripted.clone()), ..local });
    let session = scene.ready().await;
    scene.write("out/data/a", "file");
    scene.write("out/data/b/c", "directory");
    scene.write("out/meta.json", r#"[{"key":"k","value":"v"}]"#);
    scripted.script.fail("decide", 1);
    session.done().await.unwrap_err();
    // A decision that was not answered is asked for again: whoever wants other outputs gives this one up.
    session.fail("other outputs").await.unwrap();
    drop(session);
    let session = scene.ready().await;
    std::fs::remove_dir_all(scene.path("out/data")).unwrap();
    scene.write("out/data/a/b", "directory");
    scene.write("out/data/b", "file");
    assert_eq!(session.done().await.unwrap().files, 2);
    let found = files(dir.path().join("blobs/e1/first"));
    assert_eq!(found.iter().filter(|name| name.starts_with("~1-")).count(), 2, "{found:?}");
}

#[tokio::test]
async fn one_base_directory_has_one_sidecar_whatever_its_state_directory() {
    let scene = Scene::new(DataPlane::memory());
    let _first = scene.open().await;
    let mut settings = scene.settings();
    settings.state_dir = TempDir::new().unwrap().path().join("state");
    assert!(matches!(Session::open(settings, scene.plane.clone()).await.unwrap_err(), Error::Busy(_)));
}

#[tokio::test]
async fn outputs_that_cannot_be_cleared_do_not_undo_a_commit() {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.ready().await;
    scene.write_outputs();
    // A mount point can be neither renamed nor removed; a file in its place cannot be made a directory.
    std::fs::create_dir_all(scene.path(".sidecar/trash")).unwrap();
    std::fs::remove_dir(scene.path(".sidecar/trash")).unwrap();
    std::fs::write(scene.path(".sidecar/trash"), "in the way").unwrap();
    session.done().await.unwrap();
    drop(session);
    scene.open().await;
}

#[tokio::test]
async fn a_submission_is_a_first_event() {
    let dir = TempDir::new().unwrap();
    let scene = Scene::new(DataPlane::local(dir.path()).unwrap());
    scene.write("pictures/a/1.png", "one");
    scene.write("pictures/2.png", "two");
    scene.write("note.txt", "three");
    let submission = sidecar_core::Submission::new("album")
        .value("k", "v")
        .path(scene.path("pictures"))
        .unwrap()
        .path(scene.path("note.txt"))
        .unwrap();
    assert!(submission.clone().path(scene.path("note.txt")).is_err());
    let id = submission.submit(&scene.plane).await.unwrap();
    let module = scene.next("first", &id);
    let prepared = module.open().await.ready().await.unwrap();
    assert_eq!((prepared.files, prepared.values), (3, 4));
    assert_eq!(files(module.path("in/data")), ["2.png", "a/1.png", "note.txt"]);
}

#[tokio::test]
async fn a_base_directory_that_was_wiped_beside_its_state_is_no_other_sidecars() {
    let scene = Scene::new(DataPlane::memory());
    let state = TempDir::new().unwrap();
    let mut settings = scene.settings();
    settings.state_dir = state.path().join("state");
    let session = Session::open(settings, scene.plane.clone()).await.unwrap();
    for _ in 0..2 {
        fs::remove_dir_all(scene.base.path()).unwrap();
        fs::create_dir(scene.base.path()).unwrap();
        session.ready().await.unwrap();
    }
    scene.write_outputs();
    assert_eq!(session.done().await.unwrap().files, 2);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_is_finished_unasked_has_told_nobody() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    scene.write_outputs();
    scripted.script.fail("publish", 2);
    session.done().await.unwrap_err();
    assert_eq!(session.ended().await, Phase::Done);
    let told = tokio::time::timeout(std::time::Duration::from_secs(3600), session.result_delivered()).await;
    assert!(told.is_err(), "nobody asked");
    session.done().await.unwrap();
    session.result_delivered().await;
}

#[tokio::test]
async fn a_start_removes_what_a_death_left_beside_the_journal() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    drop(scene.ready().await);
    let left = scene.path(".sidecar/.0123456789abcdef0123456789abcdef.tmp");
    std::fs::write(&left, "half a journal").unwrap();
    let session = scene.open().await;
    assert!(!left.exists());
    assert_eq!(session.phase(), Phase::Ready);
}

/// Whoever embeds the library calls it from tasks.
#[test]
fn every_call_can_be_spawned() {
    fn can_be_spawned<T: Send>(_: impl Fn(DataPlane) -> T) {}
    use sidecar_core::lineage::{Retention, Trace, copy_graph, expire};
    use sidecar_core::worker::{dead_letter, dead_letters, drop_letter, redrive};
    use sidecar_core::{Submission, collect_garbage, copy_out, failures, recover};
    use std::path::Path;
    can_be_spawned(|plane| async move { drop(Trace::of(&plane, "e").await) });
    can_be_spawned(|plane| async move {
        let trace = Trace::of_graph(&plane, "e").await.unwrap();
        drop(trace.verify(&plane).await);
    });
    can_be_spawned(|plane| async move {
        let trace = Trace::of_graph(&plane, "e").await.unwrap();
        drop(copy_graph(&plane, &trace, Path::new("d")).await);
    });
    can_be_spawned(|plane| async move { drop(expire(&plane, &Retention::default(), false).await) });
    can_be_spawned(|plane| async move { drop(copy_out(&plane, "e", Path::new("d")).await) });
    can_be_spawned(|plane| async move { drop(collect_garbage(&plane, Duration::ZERO, false).await) });
    can_be_spawned(|plane| async move { drop(recover(&plane).await) });
    can_be_spawned(|plane| async move { drop(failures(&plane, None).await) });
    can_be_spawned(|plane| async move { drop(dead_letters(&plane, None).await) });
    can_be_spawned(|plane| async move {
        let letter = dead_letter(&plane, "e").await.unwrap();
        drop((redrive(&plane, &letter).await, drop_letter(&plane, &letter).await));
    });
    can_be_spawned(|plane| async move { drop(Submission::new("t").submit(&plane).await) });
}

/// Another process may be there to fix what was refused, also where the sidecar has begun again meanwhile.
#[tokio::test]
async fn outputs_that_were_refused_are_there_for_another_process_after_a_restart() {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.open().await;
    session.ready_for(Some("A")).await.unwrap();
    scene.write("out/data/r", "r");
    scene.write("out/events/1.json", "[]");
    let error = session.done_for(Some("A")).await.unwrap_err();
    assert!(matches!(*error, Error::Invalid(_)), "{error:?}");
    drop(session);
    let session = scene.open().await;
    session.ready_for(Some("B")).await.unwrap();
    assert_eq!(scene.read("out/data/r"), "r");
    scene.write_event("1.json", "t", "r");
    let receipt = session.done_for(Some("B")).await.unwrap();
    assert_eq!((receipt.files, receipt.committed_by), (1, None));
}

/// What a process writes that comes after the outcome is part of nothing, and the receipt says so.
#[tokio::test]
async fn a_process_that_comes_after_the_outcome_is_told_whose_it_is() {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.open().await;
    session.ready_for(Some("A")).await.unwrap();
    scene.write("out/data/r", "A");
    session.done_for(Some("A")).await.unwrap();
    drop(session);
    let session = scene.open().await;
    assert_eq!(session.done_for(Some("A")).await.unwrap().committed_by, None);
    session.ready_for(Some("B")).await.unwrap();
    scene.write("out/data/r", "BBBB");
    let receipt = session.done_for(Some("B")).await.unwrap();
    assert_eq!((receipt.files, receipt.bytes), (1, 1));
    assert!(receipt.committed_by.unwrap().contains("an earlier process"));
    assert_eq!(scene.read("out/.previous/1/data/r"), "BBBB");
    assert_eq!(files(scene.path("out/data")), Vec::<String>::new());
    drop(session);
    // Elsewhere the outcome is found, and its outputs are not this one's either.
    let other = Scene { base: tempfile::TempDir::new().unwrap(), ..scene };
    let session = other.ready().await;
    other.write("out/data/r", "C");
    assert!(session.done_for(Some("C")).await.unwrap().committed_by.is_some());
    assert_eq!(other.read("out/.previous/1/data/r"), "C");
}
