//! Outputs that no honest module writes: each is refused by name, within a bound, and nothing is lost.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use sidecar_core::{DataPlane, Documents, Error, EventContext, EventId, Session, documents};

use crate::scene::{Scene, Scripted, files};

/// A bound on everything here; two million names take a debug build half a minute on a quiet machine.
const BOUND: Duration = Duration::from_secs(180);

/// The problems that `done` reports.
async fn problems(session: &Session) -> Vec<String> {
    let started = Instant::now();
    let error = session.done().await.unwrap_err();
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    let Error::Invalid(problems) = &*error else { panic!("{error:?}") };
    problems.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn an_event_file_of_a_hundred_megabytes_is_refused_unread() {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.ready().await;
    let file = fs::File::create(scene.path("out/events/1.json")).unwrap();
    file.set_len(100 << 20).unwrap();
    let found = problems(&session).await;
    assert!(found.len() == 1 && found[0].contains("1.json"), "{found:?}");
}

#[tokio::test]
async fn deep_nesting_is_refused() {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.ready().await;
    scene.write("out/meta.json", "[".repeat(100_000));
    scene.write("out/events/1.json", format!("{}{}", "[{\"key\":".repeat(20_000), "}]".repeat(20_000)));
    let found = problems(&session).await;
    assert!(found.iter().any(|p| p.contains("meta.json")) && found.iter().any(|p| p.contains("1.json")));
}

#[tokio::test]
async fn names_of_an_event_that_lead_outside_are_refused() {
    for name in ["../x", "/etc/passwd", "a/../../x", "a\u{0}b", "..", "data/../../meta.json"] {
        let scene = Scene::new(DataPlane::memory());
        let session = scene.ready().await;
        scene.write("out/data/a", "a");
        scene.write_event("1.json", "t", name);
        let found = problems(&session).await;
        assert!(found.iter().any(|problem| problem.contains("1.json")), "{name:?}: {found:?}");
    }
}

#[tokio::test]
async fn a_stored_context_that_leads_outside_stages_nothing() {
    let scripted = Scripted::default();
    for name in ["../x", "/etc/passwd", "a/../../x"] {
        let json = serde_json::json!({"eventId": "e1", "correlationId": "c", "files": [name], "blobs": []});
        assert!(serde_json::from_value::<EventContext>(json).is_err(), "{name}");
    }
    // A name is honest and its manifest is not there.
    let json = serde_json::json!({"eventId": "e1", "correlationId": "c", "files": ["a"], "blobs": []});
    scripted.documents.store::<EventContext>(&[serde_json::from_value(json).unwrap()]).await.unwrap();
    let scene = Scene::new(scripted.plane());
    let error = scene.open().await.ready().await.unwrap_err();
    assert!(matches!(*error, Error::Corrupt { .. }), "{error:?}");
    assert!(!scene.path("in/meta.json").exists());
}

/// Each directory links twice to the next: the names double with every level.
#[tokio::test]
async fn names_that_links_multiply_end_at_the_limit() {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.ready().await;
    let root = scene.path("out/data");
    for level in 0..40 {
        let dir = root.join(format!("d{level}"));
        fs::create_dir(&dir).unwrap();
        for link in ["x", "y"] {
            symlink(format!("../d{}", level + 1), dir.join(link)).unwrap();
        }
    }
    fs::create_dir(root.join("d40")).unwrap();
    fs::write(root.join("d40/f"), "f").unwrap();
    let found = problems(&session).await;
    assert!(found.iter().any(|problem| problem.contains("more than 2000000 names")), "{:?}", found.last());
}

#[tokio::test]
async fn a_hundred_thousand_files_are_one_commit() {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.ready().await;
    for dir in 0..100 {
        let dir = scene.path(&format!("out/data/d{dir}"));
        fs::create_dir(&dir).unwrap();
        (0..1000).for_each(|n| fs::write(dir.join(n.to_string()), []).unwrap());
    }
    assert_eq!(session.done().await.unwrap().files, 100_000);
}

#[tokio::test]
async fn what_is_no_file_is_named_and_never_waited_for() {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.ready().await;
    let data = scene.path("out/data");
    let made =
        std::process::Command::new("mkfifo").arg(data.join("fifo")).arg(scene.path("out/meta.json")).status();
    assert!(made.unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(data.join("socket")).unwrap();
    fs::write(data.join(std::ffi::OsStr::new("ok")), "ok").unwrap();
    let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"not-utf8-\xff");
    fs::write(data.join(name), "x").unwrap();
    let found = problems(&session).await.join("\n");
    for name in ["fifo", "socket", "meta.json", "not-utf8"] {
        assert!(found.contains(name), "{name} is not in\n{found}");
    }
}

#[tokio::test]
async fn a_document_of_a_store_with_foreign_content_is_an_error() {
    let provider = documents::Memory::default();
    assert!(
        provider.find::<EventContext>(EventId::parse("absent").unwrap().as_str()).await.unwrap().is_none()
    );
    for json in ["[]", "null", "{\"eventId\":1}", "{\"eventId\":\"../e\",\"correlationId\":\"c\"}"] {
        assert!(serde_json::from_str::<EventContext>(json).is_err(), "{json}");
    }
}

/// Whoever can write into a local store can put a pipe where a file was: nobody waits for it.
#[tokio::test]
async fn a_pipe_in_place_of_a_stored_file_keeps_nobody_waiting() {
    let dir = tempfile::TempDir::new().unwrap();
    let plane = DataPlane::local(dir.path()).unwrap();
    std::fs::write(dir.path().join("f"), "f").unwrap();
    let submission = sidecar_core::Submission::new("t").path(dir.path().join("f")).unwrap();
    let event = submission.submit(&plane).await.unwrap();
    let pipe = |below: &str| {
        let path = dir.path().join(below).join(&files(dir.path().join(below))[0]);
        std::fs::remove_file(&path).unwrap();
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    let to = dir.path().join("copy");
    let get = || {
        let copy = sidecar_core::copy_out(&plane, event.as_str(), &to);
        tokio::time::timeout(std::time::Duration::from_secs(10), copy)
    };
    let trace = sidecar_core::lineage::Trace::of(&plane, event.as_str()).await.unwrap();
    pipe("blobs");
    let verified = trace.verify(&plane);
    let verified = tokio::time::timeout(std::time::Duration::from_secs(10), verified).await.unwrap().unwrap();
    assert!(matches!(verified.damaged[0].error, Error::NotFound { .. }), "{verified:?}");
    pipe("contexts");
    let error = get().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
}
