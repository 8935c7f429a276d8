//! The defects of the original, one test each.
//!
//! Two more are the binary's: that the base directory stays, and that signals are handled.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use sidecar_core::{DataPlane, Documents, Error, EventContext, Phase, Session, server::Secret};
use tempfile::TempDir;

use crate::scene::{Scene, Scripted, files};

#[tokio::test]
async fn done_does_not_commit_before_ready() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.open().await;
    scene.write_outputs();
    let error = session.done().await.unwrap_err();
    assert!(matches!(*error, Error::OutOfOrder { phase: Phase::New, .. }));
    assert_eq!(scripted.script.calls_after_open(), Vec::<String>::new());
}

#[tokio::test]
async fn outputs_stay_until_the_last_event_is_accepted() {
    for call in ["put", "flush", "put_event_contexts", "decide", "put_insight", "publish", "put_published"] {
        let scripted = Scripted::default();
        let scene = Scene::new(scripted.plane());
        let session = scene.ready().await;
        scene.write_outputs();
        let before = files(scene.path("out"));
        // Both files are on their way at once.
        scripted.script.fail(call, if call == "put" { 4 } else { 2 });
        for _ in 0..2 {
            assert!(session.done().await.unwrap_err().is_retryable());
            assert_eq!(files(scene.path("out")), before, "{call}");
            assert_eq!(scripted.events.published().is_empty(), call != "put_published");
        }
        let receipt = session.done().await.unwrap();
        assert_eq!(files(scene.path("out")), Vec::<String>::new());
        let next = scene.next("second", &receipt.events[0].event_id);
        next.ready().await;
        assert_eq!(next.read("in/data/a/x"), "ax");
    }
}

#[tokio::test]
async fn inputs_are_not_staged_empty() {
    let dir = TempDir::new().unwrap();
    let scene = Scene::new(DataPlane::local(dir.path()).unwrap());
    let session = scene.ready().await;
    scene.write("out/data/large", vec![7; 1 << 20]);
    scene.write_event("1.json", "t", "large");
    let receipt = session.done().await.unwrap();
    let next = scene.next("second", &receipt.events[0].event_id);
    next.ready().await;
    assert_eq!(fs::read(next.path("in/data/large")).unwrap(), vec![7; 1 << 20]);
}

#[tokio::test]
async fn equal_names_in_two_directories_do_not_collide() {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.ready().await;
    scene.write_outputs();
    let receipt = session.done().await.unwrap();
    let next = scene.next("second", &receipt.events[0].event_id);
    next.ready().await;
    assert_eq!((next.read("in/data/a/x"), next.read("in/data/b/x")), ("ax".into(), "bx".into()));
}

#[tokio::test]
async fn an_event_means_the_same_in_any_order() {
    let order = |pairs: [&str; 3]| format!("[{}]", pairs.join(","));
    let kind = r#"{"key":"eventType","value":"t"}"#;
    let named = r#"{"value":"a","key":"files"}"#;
    let other = r#"{"key":"k","value":"v"}"#;
    let mut contexts = Vec::new();
    for pairs in [[kind, named, other], [other, named, kind], [named, kind, other]] {
        let scripted = Scripted::default();
        let scene = Scene::new(scripted.plane());
        let session = scene.ready().await;
        scene.write("out/data/a", "a");
        scene.write("out/events/1.json", order(pairs));
        let receipt = session.done().await.unwrap();
        let id = &receipt.events[0].event_id;
        let context = scripted.documents.find::<EventContext>(id.as_str()).await.unwrap().unwrap();
        contexts.push((context.files, context.data, context.blobs[0].digest));
    }
    assert_eq!(contexts[0], contexts[1]);
    assert_eq!(contexts[0], contexts[2]);
}

#[tokio::test]
async fn a_store_that_is_away_is_not_no_input() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.open().await;
    scripted.script.fail("event_context", 1);
    assert!(matches!(*session.ready().await.unwrap_err(), Error::Unavailable { .. }));
    // Nor is it when the attempt begins.
    drop(session);
    scripted.script.fail("event_context", 1);
    let error = Session::open(scene.settings(), scene.plane.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(!scene.path("in/meta.json").exists());
}

#[tokio::test]
async fn a_retry_publishes_under_the_same_ids() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    scene.write_outputs();
    let receipt = session.done().await.unwrap();
    // Another machine, which has no journal, runs the same event again.
    let again = scene.next(scene.module, &scene.event);
    let session = again.ready().await;
    again.write_outputs();
    let mut found = session.done().await.unwrap();
    assert!(found.committed_by.take().is_some());
    assert_eq!(found, receipt);
    assert_eq!(scripted.events.published().len(), 2);
}

#[test]
fn the_secret_is_not_printed() {
    let secret = Secret::new("swordfish");
    assert!(!format!("{secret:?}").contains("swordfish"));
    assert!(secret.matches(b"swordfish"));
    for wrong in [&b""[..], b"swordfis", b"swordfish ", b"Swordfish"] {
        assert!(!secret.matches(wrong));
    }
}

#[tokio::test]
async fn signed_uris_are_not_stored() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    scene.write_outputs();
    let receipt = session.done().await.unwrap();
    for event in &receipt.events {
        let context = scripted.documents.find::<EventContext>(event.event_id.as_str()).await.unwrap();
        assert!(!serde_json::to_string(&context).unwrap().contains("sig="));
    }
    assert!(!scene.read(".sidecar/journal.json").contains("sig="));
    // The consumer gets them, minted for it.
    let next = scene.next("second", &receipt.events[0].event_id);
    next.ready().await;
    assert!(next.read("in/meta.json").contains("sig=signature"));
}

#[tokio::test]
async fn not_everything_is_writable_by_everybody() {
    let dir = TempDir::new().unwrap();
    let scene = Scene::new(DataPlane::local(dir.path()).unwrap());
    let session = scene.ready().await;
    scene.write_outputs();
    let receipt = session.done().await.unwrap();
    let next = scene.next("second", &receipt.events[0].event_id);
    next.ready().await;
    fn check(dir: &std::path::Path) {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o022, 0, "{} is {mode:o}", path.display());
            if path.is_dir() {
                check(&path);
            }
        }
    }
    check(dir.path());
    check(next.base.path());
    assert_eq!(next.path(".sidecar").metadata().unwrap().permissions().mode() & 0o777, 0o700);
}
