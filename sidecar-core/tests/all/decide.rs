//! One outcome, whatever several attempts do.

use std::fs;
use std::sync::Arc;

use sidecar_core::blob::{Source, Target};
use sidecar_core::documents::Kind;
use sidecar_core::layers::{Fault, Injected};
use sidecar_core::{
    BlobKey, BlobProvider, DataPlane, DocumentProvider, Documents, Error, EventContext, EventId,
    ExecutionRecord, Phase, Publication, Receipt, Session, Start, Submission, collect_garbage, copy_out,
    recover,
};
use tempfile::TempDir;

use crate::scene::{Scene, Scripted, files};

const NO_AGE: std::time::Duration = std::time::Duration::ZERO;

/// One file whose content tells the attempt, and an event that names it.
fn write(scene: &Scene, attempt: &str) {
    scene.write("out/data/x", attempt);
    scene.write("out/meta.json", format!(r#"[{{"key":"attempt","value":"{attempt}"}}]"#));
    scene.write_event("1.json", attempt, "x");
}

/// Another machine: another base and state directory.
fn elsewhere(scene: &Scene) -> Scene {
    scene.next(scene.module, &scene.event)
}

async fn records(plane: &DataPlane) -> Vec<ExecutionRecord> {
    let page = plane.documents.page::<ExecutionRecord>(None).await.unwrap();
    let mut records: Vec<_> = page.into_iter().map(|(_, record)| record).collect();
    records.sort_by_key(|record| record.run);
    records
}

/// What a consumer of the event reads.
async fn consumed(scene: &Scene, event: &EventId) -> String {
    let next = scene.next("second", event);
    next.ready().await;
    next.read("in/data/x")
}

/// The names of all blobs of the first module.
async fn blobs(plane: &DataPlane) -> Vec<BlobKey> {
    plane.blobs.list("e1/first/", None).await.unwrap().into_iter().map(|listed| listed.key).collect()
}

fn own(mut receipt: Receipt) -> Receipt {
    receipt.committed_by = None;
    receipt
}

#[tokio::test]
async fn attempts_at_once_have_one_outcome() {
    let scripted = Scripted::default();
    let scenes = [Scene::new(scripted.plane()), Scene::new(scripted.plane()), Scene::new(scripted.plane())];
    let mut sessions = Vec::new();
    for (scene, attempt) in scenes.iter().zip(["a", "b", "c"]) {
        let session = scene.ready().await;
        write(scene, attempt);
        sessions.push(session);
    }
    let done = futures_util::future::join_all(sessions.iter().map(Session::done)).await;
    let receipts: Vec<Receipt> = done.into_iter().map(Result::unwrap).collect();
    assert_eq!(receipts.iter().filter(|receipt| receipt.committed_by.is_none()).count(), 1);
    assert!(receipts.iter().all(|receipt| own(receipt.clone()) == own(receipts[0].clone())));
    let winner = &receipts[0].events[0];
    assert_eq!(scripted.events.published().len(), 1);
    assert_eq!(consumed(&scenes[0], &winner.event_id).await, winner.event_type);
    for (scene, receipt) in scenes.iter().zip(&receipts) {
        assert_eq!(scene.path("out/.previous/1/data/x").exists(), receipt.committed_by.is_some());
        assert_eq!(files(scene.path("out/data")), Vec::<String>::new());
    }
    // What the others had stored is gone again.
    assert_eq!(blobs(&scenes[0].plane).await.len(), 1);
    assert_eq!(collect_garbage(&scenes[0].plane, NO_AGE, false).await.unwrap(), Default::default());
}

#[tokio::test]
async fn an_outcome_is_found_on_any_machine_and_starts_no_module() {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.ready().await;
    write(&scene, "a");
    let receipt = session.done().await.unwrap();
    let other = elsewhere(&scene);
    let session = other.open().await;
    assert_eq!(session.ended().await, Phase::Done);
    let found = session.done().await.unwrap();
    assert!(found.committed_by.is_some());
    assert_eq!(own(found), receipt);
    session.ready().await.unwrap();
    assert_eq!(other.read("in/meta.json"), "[]\n");
}

#[tokio::test]
async fn what_is_decided_is_published_by_anybody() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    write(&scene, "a");
    scripted.script.fail("publish", 1);
    session.done().await.unwrap_err();
    assert_eq!(session.phase(), Phase::Publishing);
    drop(session);
    let recovered = recover(&scene.plane).await.unwrap();
    assert_eq!((recovered.published, recovered.failed), (1, 0));
    assert_eq!(scripted.events.published().len(), 1);
    assert_eq!(recover(&scene.plane).await.unwrap().published, 0);
    // The same disk then only clears.
    let session = scene.open().await;
    assert_eq!(session.ended().await, Phase::Done);
    assert_eq!(session.done().await.unwrap().committed_by, None);
    assert_eq!(files(scene.path("out")), Vec::<String>::new());
}

#[tokio::test]
async fn a_write_that_arrives_late_changes_nothing_that_is_read() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    write(&scene, "a");
    scripted.script.fail("put_event_contexts", 1);
    session.done().await.unwrap_err();
    let first = blobs(&scene.plane).await;
    let held = scene.path("held");
    fs::copy(scene.path("out/data/x"), &held).unwrap();
    scene.write("out/data/x", "fixed");
    let receipt = session.done().await.unwrap();
    // The first PUT was only slow.
    scripted.blobs.put(&first[0], &Source::file(held).unwrap()).await.unwrap();
    assert_eq!(consumed(&scene, &receipt.events[0].event_id).await, "fixed");
    assert_eq!(collect_garbage(&scene.plane, NO_AGE, false).await.unwrap().blobs, 1);
    assert_eq!(consumed(&scene, &receipt.events[0].event_id).await, "fixed");
}

#[tokio::test]
async fn a_stored_blob_that_is_gone_is_stored_again() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    write(&scene, "a");
    scripted.script.fail("put_event_contexts", 1);
    session.done().await.unwrap_err();
    scripted.blobs.delete(&blobs(&scene.plane).await).await.unwrap();
    let receipt = session.done().await.unwrap();
    assert_eq!(consumed(&scene, &receipt.events[0].event_id).await, "a");
}

#[tokio::test]
async fn an_unchanged_file_keeps_its_key_in_the_next_proposal() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    write(&scene, "a");
    scripted.script.fail("put_event_contexts", 1);
    session.done().await.unwrap_err();
    let before = blobs(&scene.plane).await;
    session.done().await.unwrap();
    assert_eq!(blobs(&scene.plane).await, before);
    let record = &records(&scene.plane).await[0];
    let committed = record.committed().unwrap();
    assert_eq!(committed.contents.outputs[0].key.as_ref(), Some(&before[0]));
    assert_eq!(record.output_key(committed, &committed.contents.outputs[0]).unwrap(), before[0]);
    assert_eq!(collect_garbage(&scene.plane, NO_AGE, false).await.unwrap().blobs, 0);
}

#[tokio::test]
async fn a_decision_without_an_answer_is_asked_for_again_and_never_reads_the_outputs() {
    let scripted = Scripted::default();
    let lost = Fault::new(scripted.documents.clone(), |call, _| match call {
        "decide an execution record" => Injected::AnswerLost,
        _ => Injected::Nothing,
    });
    let plane = DataPlane { documents: Arc::new(lost), ..scripted.plane() };
    let scene = Scene::new(plane);
    let session = scene.ready().await;
    write(&scene, "a");
    session.done().await.unwrap_err();
    assert_eq!(session.phase(), Phase::Deciding);
    drop(session);
    write(&scene, "changed since");
    let again = Scene {
        plane: DataPlane { documents: Arc::new(scripted.documents.clone()), ..scripted.plane() },
        ..scene
    };
    let session = again.open().await;
    assert_eq!(session.ended().await, Phase::Done);
    let receipt = session.done().await.unwrap();
    assert_eq!((receipt.events[0].event_type.as_str(), receipt.committed_by), ("a", None));
    assert_eq!(consumed(&again, &receipt.events[0].event_id).await, "a");
}

#[tokio::test]
async fn giving_up_an_undecided_commit_closes_its_run_and_the_next_one_commits() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    write(&scene, "a");
    scripted.script.fail("decide", 1);
    session.done().await.unwrap_err();
    session.fail("changed my mind").await.unwrap();
    assert!(records(&scene.plane).await[0].committed().is_none());
    drop(session);
    let session = scene.ready().await;
    write(&scene, "b");
    let receipt = session.done().await.unwrap();
    let found = records(&scene.plane).await;
    assert_eq!((found.len(), found[1].run, found[1].supersedes), (2, 1, None));
    assert_eq!(consumed(&scene, &receipt.events[0].event_id).await, "b");
    collect_garbage(&scene.plane, NO_AGE, false).await.unwrap();
    assert_eq!(blobs(&scene.plane).await.len(), 1);
}

#[tokio::test]
async fn a_decided_commit_cannot_be_given_up() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    write(&scene, "a");
    scripted.script.fail("decide", 1);
    session.done().await.unwrap_err();
    let other = elsewhere(&scene);
    let second = other.ready().await;
    write(&other, "b");
    second.done().await.unwrap();
    let error = session.fail("too late").await.unwrap_err();
    assert!(matches!(*error, Error::OutOfOrder { .. }), "{error:?}");
    let receipt = session.done().await.unwrap();
    assert_eq!(receipt.events[0].event_type, "b");
    assert!(receipt.committed_by.is_some());
}

#[tokio::test]
async fn an_attempt_whose_run_was_closed_beside_it_commits_in_the_next_one() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    Submission::new("t").event_id(scene.event.clone()).submit(&scene.plane).await.unwrap();
    let session = scene.ready().await;
    write(&scene, "a");
    scripted.script.fail("put_event_contexts", 1);
    session.done().await.unwrap_err();
    let collected = collect_garbage(&scene.plane, NO_AGE, false).await.unwrap();
    assert_eq!((collected.abandoned, collected.blobs), (1, 1));
    let error = session.done().await.unwrap_err();
    assert!(matches!(*error, Error::Abandoned { run: 0 }) && error.is_retryable(), "{error:?}");
    assert_eq!(scene.read("out/data/x"), "a");
    let receipt = session.done().await.unwrap();
    assert_eq!(consumed(&scene, &receipt.events[0].event_id).await, "a");
    assert_eq!(collect_garbage(&scene.plane, NO_AGE, false).await.unwrap().abandoned, 0);
    assert_eq!(consumed(&scene, &receipt.events[0].event_id).await, "a");
}

/// The same, where the sidecar is started again between the two.
#[tokio::test]
async fn a_restart_after_its_run_was_closed_keeps_the_outputs() {
    for call in ["put_event_contexts", "decide"] {
        let scripted = Scripted::default();
        let scene = Scene::new(scripted.plane());
        Submission::new("t").event_id(scene.event.clone()).submit(&scene.plane).await.unwrap();
        let session = scene.ready().await;
        write(&scene, "a");
        scripted.script.fail(call, 1);
        session.done().await.unwrap_err();
        drop(session);
        assert_eq!(collect_garbage(&scene.plane, NO_AGE, false).await.unwrap().abandoned, 1);
        let session = scene.open().await;
        assert_eq!(session.phase(), Phase::Ready, "{call}");
        let receipt = session.done().await.unwrap();
        assert_eq!(consumed(&scene, &receipt.events[0].event_id).await, "a");
        assert_eq!(records(&scene.plane).await[1].supersedes, None);
    }
}

#[tokio::test]
async fn a_journal_of_a_run_that_cannot_have_begun_is_not_believed() {
    let scene = Scene::new(DataPlane::memory());
    drop(scene.ready().await);
    write(&scene, "a");
    let journal = scene.read(".sidecar/journal.json").replace(r#""run":0"#, r#""run":1"#);
    scene.write(".sidecar/journal.json", journal);
    scene.open().await.done().await.unwrap();
    assert_eq!(records(&scene.plane).await[0].run, 0);
}

#[tokio::test]
async fn a_forged_proposal_is_not_decided() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    write(&scene, "a");
    scripted.script.fail("decide", 1);
    session.done().await.unwrap_err();
    drop(session);
    let mut journal: serde_json::Value = serde_json::from_str(&scene.read(".sidecar/journal.json")).unwrap();
    journal["step"]["deciding"]["record"]["eventId"] = "another".into();
    scene.write(".sidecar/journal.json", journal.to_string());
    let session = scene.open().await;
    assert_eq!(session.phase(), Phase::Ready);
    session.done().await.unwrap();
    let found = records(&scene.plane).await;
    assert_eq!((found.len(), found[0].context.event_id.as_str()), (1, "e1"));
}

#[tokio::test]
async fn garbage_of_another_store_is_left_alone() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    write(&scene, "a");
    let receipt = session.done().await.unwrap();
    // These documents do not belong to these blobs.
    let wrong = DataPlane { documents: DataPlane::memory().documents, ..scene.plane.clone() };
    let collected = collect_garbage(&wrong, NO_AGE, false).await.unwrap();
    assert_eq!((collected.blobs, collected.abandoned, collected.unknown), (0, 0, 1));
    assert_eq!(consumed(&scene, &receipt.events[0].event_id).await, "a");
    assert_eq!(collect_garbage(&wrong, NO_AGE, true).await.unwrap().blobs, 1);
}

#[tokio::test]
async fn a_named_run_has_one_outcome_and_a_bare_rerun_takes_the_next() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let run = async |start: Start, attempt: &str| {
        let mut settings = elsewhere(&scene).settings();
        settings.start = start;
        let session = Session::open(settings, scene.plane.clone()).await?;
        let place = session.layout().base().to_owned();
        session.ready().await.unwrap();
        if session.phase() == Phase::Ready {
            fs::write(place.join("out/data/x"), attempt).unwrap();
        }
        Ok::<_, Error>(session.done().await.unwrap())
    };
    let early = run(Start::Run(1), "early").await.unwrap_err();
    assert!(early.chain().contains("run 0 of this execution has no outcome yet"), "{}", early.chain());
    run(Start::Restart, "zero").await.unwrap();
    let one = run(Start::Run(1), "one").await.unwrap();
    let again = run(Start::Run(1), "not run").await.unwrap();
    assert_eq!(own(again), one);
    run(Start::Rerun, "two").await.unwrap();
    let found = records(&scene.plane).await;
    let runs: Vec<_> = found.iter().map(|record| (record.run, record.supersedes)).collect();
    assert_eq!(runs, [(0, None), (1, Some(0)), (2, Some(1))]);
    let dir = TempDir::new().unwrap();
    for (id, content) in [("e1/first", "two"), ("e1/first/0", "zero"), ("e1/first/1", "one")] {
        let to = dir.path().join(id.replace('/', "-"));
        assert_eq!(copy_out(&scene.plane, id, &to).await.unwrap().files, 1);
        assert_eq!(fs::read_to_string(to.join("x")).unwrap(), content);
    }
    assert!(copy_out(&scene.plane, "e1/first/7", &dir.path().join("none")).await.is_err());
    assert!(copy_out(&scene.plane, "e1/first", &dir.path().join("e1-first")).await.is_err());
}

#[tokio::test]
async fn another_data_plane_rolls_nothing_forward() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    write(&scene, "a");
    scripted.script.fail("publish", 1);
    session.done().await.unwrap_err();
    drop(session);
    // The same documents beside other blobs and another bus.
    let plane = DataPlane { documents: scene.plane.documents.clone(), ..DataPlane::memory() };
    assert_eq!(recover(&plane).await.unwrap().failed, 1);
    assert_eq!(scripted.events.published(), []);
}

#[tokio::test]
async fn a_reader_that_is_too_old_publishes_nothing() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    write(&scene, "a");
    scripted.script.fail("publish", 1);
    session.done().await.unwrap_err();
    drop(session);
    let mut record = records(&scene.plane).await.remove(0);
    record.min_reader = ExecutionRecord::FORMAT + 1;
    scene.plane.documents.store(&[record]).await.unwrap();
    let session = elsewhere(&scene).open().await;
    let error = session.done().await.unwrap_err();
    assert!(error.is_retryable() && error.chain().contains("newer sidecar"), "{}", error.chain());
    assert_eq!(scripted.events.published(), []);
}

#[tokio::test]
async fn a_large_record_is_cut_and_rolls_forward_whole() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    for i in 0..6000 {
        scene.write(&format!("out/data/{:02}/{i}", i % 50), "x");
    }
    let pairs: Vec<_> =
        (0..30_000).map(|i| serde_json::json!({"key": format!("k{i}"), "value": "v"})).collect();
    scene.write("out/meta.json", serde_json::Value::from(pairs).to_string());
    write_many(&scene, 1200);
    scripted.script.fail("publish", 1);
    session.done().await.unwrap_err();
    drop(session);
    let record = &records(&scene.plane).await[0];
    let committed = record.committed().unwrap();
    assert!(
        committed.outbox.len() > 2 && committed.contents.outputs.is_empty(),
        "{}",
        committed.outbox.len()
    );
    assert_eq!(committed.files, 6000);
    recover(&scene.plane).await.unwrap();
    assert_eq!(scripted.events.published().len(), 1200);
    let session = elsewhere(&scene).open().await;
    assert_eq!(session.done().await.unwrap().events.len(), 1200);
    let published = scene.plane.documents.page::<Publication>(None).await.unwrap();
    assert_eq!(published.iter().map(|(_, publication)| publication.published).collect::<Vec<_>>(), [1200]);
    assert_eq!(collect_garbage(&scene.plane, NO_AGE, false).await.unwrap(), Default::default());
}

fn write_many(scene: &Scene, events: usize) {
    for i in 0..events {
        scene.write_event(&format!("{i:05}.json"), "t", "00/0");
    }
}

#[tokio::test]
async fn a_journal_of_release_0_1_is_rolled_forward_under_its_own_ids() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let key = BlobKey::parse("e1/first/x").unwrap();
    scene.write("x", "old");
    let stored = scripted.blobs.put(&key, &Source::file(scene.path("x")).unwrap()).await.unwrap();
    let context = serde_json::json!({
        "eventId": "old-event", "correlationId": "c1", "parentEventId": "e1", "files": ["x"],
        "blobs": [{"name": "x", "key": key, "size": 3, "digest": stored.digest}]
    });
    let context: EventContext = serde_json::from_value(context).unwrap();
    scripted.documents.store(&[context]).await.unwrap();
    let receipt = serde_json::json!({
        "files": 1, "bytes": 3, "insight": null, "events": [{"eventId": "old-event", "type": "t", "file": "1.json"}]
    });
    let journal = serde_json::json!({
        "version": 2,
        "context": {"name": "first", "eventId": "e1", "correlationId": "c1", "parentEventId": ""},
        "plane": "script; script; script",
        "step": {"publishing": {"prepared": {"files": 0, "bytes": 0, "values": 0}, "events": [], "receipt": receipt}}
    });
    scene.write(".sidecar/journal.json", journal.to_string());
    scene.write("out/data/x", "left from 0.1");
    let mut other = scene.next("other", &scene.event).settings();
    (other.give_up, other.state_dir, other.layout) = (true, scene.path(".sidecar"), scene.settings().layout);
    let error = Session::open(other, scene.plane.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Busy(_)), "it cannot be given up: {error:?}");
    let session = scene.open().await;
    assert_eq!(session.ended().await, Phase::Done);
    let receipt = session.done().await.unwrap();
    assert_eq!(receipt.events[0].event_id.as_str(), "old-event");
    assert_eq!(scripted.events.published()[0].context.event_id.as_str(), "old-event");
    assert_eq!(consumed(&scene, &receipt.events[0].event_id).await, "old");
    collect_garbage(&scene.plane, NO_AGE, false).await.unwrap();
    let target = Target::file(scene.path("fetched"));
    scripted.blobs.get(&key, &target).await.unwrap();
}

#[tokio::test]
async fn files_that_release_0_1_had_stored_are_uploaded_again() {
    let scene = Scene::new(DataPlane::memory());
    let journal = serde_json::json!({
        "version": 2,
        "context": {"name": "first", "eventId": "e1", "correlationId": "c1", "parentEventId": ""},
        "plane": scene.plane.to_string(),
        "step": {"stored": {"prepared": {"files": 0, "bytes": 0, "values": 0}, "files": [{"anything": 1}]}}
    });
    scene.write(".sidecar/journal.json", journal.to_string());
    write(&scene, "a");
    let session = scene.open().await;
    assert_eq!(session.phase(), Phase::Ready);
    let receipt = session.done().await.unwrap();
    assert_eq!(consumed(&scene, &receipt.events[0].event_id).await, "a");
    assert!(blobs(&scene.plane).await[0].owner().is_some());
}

#[tokio::test]
async fn a_journal_is_no_authority() {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let session = scene.ready().await;
    write(&scene, "a");
    session.done().await.unwrap();
    drop(session);
    // The store has lost everything, and the journal says it is done.
    for (id, _) in scripted.documents.list(Kind::Execution, None).await.unwrap() {
        scripted.documents.delete(Kind::Execution, &[id]).await.unwrap();
    }
    let session = scene.open().await;
    assert_eq!(session.phase(), Phase::New);
}
