//! `prepare`, `commit` and `submit`: the halves of an execution as steps of their own.

use std::fs;

use tempfile::TempDir;

use crate::process::{CONTEXT, base, ended, files, output, sidecar, write_outputs};

fn step(dir: &TempDir, name: &str) -> (i32, String) {
    let (code, _, log) = ended(&sidecar(dir, &CONTEXT).arg(name).output().unwrap());
    (code, log)
}

#[test]
fn prepare_then_commit_is_one_execution() {
    let dir = TempDir::new().unwrap();
    assert_eq!(step(&dir, "prepare").0, 0);
    assert_eq!(fs::read_to_string(base(&dir).join("in/meta.json")).unwrap(), "[]\n");
    write_outputs(&dir);
    assert_eq!(step(&dir, "commit").0, 0);
    assert_eq!(files(dir.path().join("dev/events")).len(), 2);
    assert_eq!(step(&dir, "commit").0, 0);
    assert_eq!(files(dir.path().join("dev/events")).len(), 2);
}

#[test]
fn commit_needs_prepare() {
    let dir = TempDir::new().unwrap();
    write_outputs(&dir);
    let (code, log) = step(&dir, "commit");
    assert_eq!(code, 64);
    assert!(log.contains("was not prepared") && log.contains("run sidecar prepare first"), "{log}");
}

#[test]
fn commit_does_not_touch_what_was_prepared_for_another_event() {
    let dir = TempDir::new().unwrap();
    step(&dir, "prepare");
    write_outputs(&dir);
    let mut typo = sidecar(&dir, &CONTEXT);
    let (code, _, log) = ended(&typo.args(["--context.eventid=typo", "commit"]).output().unwrap());
    assert_eq!(code, 64);
    assert!(log.contains("was prepared for event e1 of module m"), "{log}");
    assert_eq!(step(&dir, "commit").0, 0);
    assert_eq!(files(dir.path().join("dev/events")).len(), 2);
}

#[test]
fn invalid_outputs_have_a_code_and_every_problem_a_line() {
    let dir = TempDir::new().unwrap();
    step(&dir, "prepare");
    fs::write(base(&dir).join("out/events/1.json"), "[]").unwrap();
    fs::write(base(&dir).join("out/meta.json"), "{}").unwrap();
    let (code, log) = step(&dir, "commit");
    assert_eq!(code, 65);
    assert!(
        log.contains("out/events/1.json:1:1: no pair") && log.contains("out/meta.json:1:1: expected"),
        "{log}"
    );
}

#[test]
fn a_damaged_store_fails_prepare() {
    let dir = TempDir::new().unwrap();
    fs::create_dir_all(dir.path().join("dev/contexts")).unwrap();
    fs::write(dir.path().join("dev/contexts/e1.json"), "{}").unwrap();
    let (code, log) = step(&dir, "prepare");
    assert_eq!(code, 66);
    assert!(log.contains("contexts/e1.json") && log.contains("eventId"), "{log}");
    assert_eq!(files(base(&dir).join("in")), []);
}

#[test]
fn submit_prints_the_id_of_an_event_that_can_be_processed() {
    let dir = TempDir::new().unwrap();
    fs::create_dir_all(dir.path().join("pictures/sub")).unwrap();
    fs::write(dir.path().join("pictures/sub/a b.png"), "picture").unwrap();
    fs::write(dir.path().join("note.txt"), "note").unwrap();
    let (code, id, _) = output(
        &dir,
        &["submit", "--development=true", "--type=album", "--value", "k=a=b", "pictures", "note.txt"],
    );
    assert_eq!(code, 0);
    let context = format!("--context.eventid={}", id.trim());
    let mut prepare = sidecar(&dir, &CONTEXT);
    assert!(prepare.args(["prepare", &context]).output().unwrap().status.success());
    let names: Vec<_> = files(base(&dir).join("in")).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["data/note.txt", "data/sub/a b.png", "meta.json"]);
    let event = fs::read_to_string(dir.path().join(format!("dev/events/{}.json", id.trim()))).unwrap();
    assert!(event.contains("\"type\": \"album\""));
}

#[test]
fn submit_says_what_it_cannot_read() {
    let dir = TempDir::new().unwrap();
    let (code, _, log) = output(&dir, &["submit", "--development=true", "absent.png"]);
    assert_eq!(code, 66);
    assert!(log.contains("cannot read absent.png"), "{log}");
    assert_eq!(output(&dir, &["submit", "--development=true", "--value", "novalue"]).0, 64);
}
