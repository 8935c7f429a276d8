//! `prepare`, `commit` and `submit`: the halves of an execution as steps of their own.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{CONTEXT, base, blobs, committed, ended, files, output, sidecar, write_outputs};

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

/// A step that is repeated, as by a build, is for a module that starts from the beginning.
#[test]
fn what_an_earlier_attempt_wrote_is_not_committed() {
    let dir = TempDir::new().unwrap();
    assert_eq!(step(&dir, "prepare").0, 0);
    write_outputs(&dir);
    fs::write(base(&dir).join("out/data/old"), "old").unwrap();
    assert_eq!(step(&dir, "prepare").0, 0);
    assert!(!base(&dir).join("out/data/old").exists());
    fs::write(base(&dir).join("out/data/new"), "new").unwrap();
    assert_eq!(step(&dir, "commit").0, 0);
    let names: Vec<_> = committed(&dir, "e1/m").into_iter().map(|(name, _)| name).collect();
    assert!(names.iter().all(|name| name.ends_with("new")) && names.len() == 1, "{names:?}");
    assert_eq!(files(dir.path().join("dev/events")).len(), 0);
}

#[test]
fn what_is_committed_is_prepared_again_only_when_told() {
    let dir = TempDir::new().unwrap();
    let again = |flags: &[&str], content: &str| {
        let (code, _, log) = ended(&sidecar(&dir, &CONTEXT).arg("prepare").args(flags).output().unwrap());
        assert_eq!(code, 0, "{log}");
        fs::write(base(&dir).join("out/data/a"), content).unwrap();
        assert_eq!(step(&dir, "commit").0, 0);
        (log, committed(&dir, "e1/m")[0].1.clone())
    };
    assert_eq!(again(&[], "one").1, "one");
    let (log, committed) = again(&[], "two");
    assert!(log.contains("WARN module m committed event e1 before"), "{log}");
    assert_eq!(committed, "one");
    assert_eq!(again(&["--rerun"], "three").1, "three");
}

#[test]
fn commit_needs_prepare() {
    let dir = TempDir::new().unwrap();
    write_outputs(&dir);
    let (code, log) = step(&dir, "commit");
    assert_eq!(code, 64);
    assert!(
        log.contains("nothing was prepared in") && log.contains("prepare it first: sidecar prepare "),
        "{log}"
    );
}

/// What a module has left that failed may be the half of something: it is not touched, and nobody failed once more.
#[test]
fn commit_leaves_what_a_failed_module_wrote() {
    let dir = TempDir::new().unwrap();
    let script = "echo half > $SIDECAR_BASE_DIR/out/data/half; exit 5";
    let mut run = sidecar(&dir, &CONTEXT);
    run.args(["run", "--wrap", "--", "sh", "-c", script]);
    assert_eq!(run.output().unwrap().status.code(), Some(5));
    let failures = files(dir.path().join("dev/failures"));
    let (code, log) = step(&dir, "commit");
    assert!(code == 64 && log.contains("it failed in") && log.contains("exit code 5"), "{code}: {log}");
    assert!(base(&dir).join("out/data/half").exists());
    assert_eq!(files(dir.path().join("dev/failures")), failures);
}

/// A repeated last step of a job succeeds, and says that it was done before.
#[test]
fn commit_of_what_is_committed_succeeds() {
    let dir = TempDir::new().unwrap();
    assert_eq!(step(&dir, "prepare").0, 0);
    write_outputs(&dir);
    assert_eq!(step(&dir, "commit").0, 0);
    let mut other = sidecar(&dir, &CONTEXT);
    let (code, _, log) = ended(&other.args(["--context.eventid=e2", "prepare"]).output().unwrap());
    assert_eq!(code, 0, "{log}");
    for flags in [&["commit"][..], &["--basedir=elsewhere", "commit"]] {
        let (code, _, log) = ended(&sidecar(&dir, &CONTEXT).args(flags).output().unwrap());
        assert!(code == 0 && log.contains("has committed event e1 already"), "{log}");
    }
    // Two jobs in one directory: nothing keeps them apart, and somebody should know.
    let (code, log) = step(&dir, "prepare");
    assert!(code == 0 && log.contains("event e2 of module m was prepared in"), "{log}");
}

/// What is committed to a store that is not the one the inputs came from is found by nobody.
#[test]
fn commit_stays_on_the_data_plane_of_prepare() {
    let dir = TempDir::new().unwrap();
    let stores = |root: &str| ["blobs", "documents", "events"].map(|of| format!("--{of}=file:{root}"));
    let run = |root: &str, words: &[&str]| {
        let ids = ["--context.eventid=e1", "--context.name=m", "--basedir=base", "--retry-for=1s"];
        let mut command = sidecar(&dir, words);
        if words != ["submit", "--id=e1", "a"] {
            command.args(ids);
        }
        ended(&command.args(stores(root)).output().unwrap())
    };
    fs::write(dir.path().join("a"), "a").unwrap();
    assert_eq!(run("store", &["submit", "--id=e1", "a"]).0, 0);
    assert_eq!(run("store", &["prepare"]).0, 0);
    fs::write(dir.path().join("base/out/data/b"), "b").unwrap();
    let (code, _, log) = run("typo", &["commit"]);
    assert!(code == 71 && log.contains("were staged from another data plane"), "{log}");
    // A file system that is not mounted any more looks like an empty store in the same place.
    fs::rename(dir.path().join("store"), dir.path().join("away")).unwrap();
    let (code, _, log) = run("store", &["commit"]);
    assert!(code == 69 && log.contains("has no context of event \"e1\""), "{code}: {log}");
    fs::remove_dir_all(dir.path().join("store")).unwrap();
    fs::rename(dir.path().join("away"), dir.path().join("store")).unwrap();
    assert_eq!(run("store", &["commit"]).0, 0);
    let (code, _, log) =
        ended(&sidecar(&dir, &["get", "e1/m", "got"]).args(stores("store")).output().unwrap());
    assert!(code == 0 && dir.path().join("got/b").exists(), "{log}");
}

/// Where nothing tells whose they are, outputs that lie there are nobody's.
#[test]
fn outputs_without_a_journal_are_set_aside() {
    let dir = TempDir::new().unwrap();
    let run = |state: &str, event: &str, script: &str| {
        let flags =
            ["run", "--wrap", "--development=true", "--context.name=m", state, event, "--", "sh", "-c"];
        let script = format!("cd $SIDECAR_BASE_DIR; {script}");
        output(&dir, &[&flags[..], &[&script]].concat())
    };
    assert_eq!(run("--statedir=one", "--context.eventid=e1", "echo 1 > out/data/old; exit 3").0, 3);
    let (code, _, log) = run("--statedir=two", "--context.eventid=e2", "echo 2 > out/data/new");
    assert!(code == 0 && log.contains("outputs that were there before the event were set aside"), "{log}");
    let names: Vec<_> = committed(&dir, "e2/m").into_iter().map(|(name, _)| name).collect();
    assert!(names.len() == 1 && names[0].ends_with("new"), "{names:?}");
    // A journal that cannot be read says what to do about it.
    fs::write(dir.path().join("two/journal.json"), "").unwrap();
    let (code, _, log) = run("--statedir=two", "--context.eventid=e3", "true");
    assert!(code == 71 && log.contains("delete it to start over"), "{log}");
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
    assert!(log.contains("context \"e1\"") && log.contains("eventId"), "{log}");
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

/// It is an input that is wrong, and each is named.
#[test]
fn submit_names_everything_that_is_wrong_with_a_folder() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for (name, target) in [("a", "/etc/passwd"), ("b", "nowhere")] {
        std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
    }
    let (code, _, log) = output(&dir, &["submit", "--development=true", "folder"]);
    assert_eq!(code, 66, "{log}");
    assert!(log.contains("nothing was submitted:") && !log.contains("module's outputs"), "{log}");
    assert!(log.contains("folder/a: ") && log.contains("folder/b: "), "{log}");
}

/// Of a file that somebody is still writing no half is submitted.
#[test]
fn submit_names_the_file_that_changes() {
    use std::io::Write;
    let dir = TempDir::new().unwrap();
    let mut growing = fs::File::create(dir.path().join("grow.csv")).unwrap();
    growing.write_all(&vec![b'x'; 60_000_000]).unwrap();
    let submit = sidecar(&dir, &["submit", "--development=true", "grow.csv"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let id = submit.id();
    while fs::metadata(format!("/proc/{id}")).is_ok() && growing.write_all(b"more").is_ok() {
        if fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| stat.contains(") Z")) {
            break;
        }
    }
    let (code, _, log) = ended(&submit.wait_with_output().unwrap());
    assert_eq!(code, 66, "{log}");
    assert!(log.contains("grow.csv: it was changed while it was being read"), "{log}");
}

#[test]
fn the_data_plane_is_not_submitted_to_itself() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a"), "a").unwrap();
    let (code, _, log) = output(&dir, &["submit", "--development=true", "."]);
    assert!(code == 66 && log.contains(". holds the data plane itself"), "{log}");
    assert_eq!(files(dir.path().join("dev/blobs")), []);
}

/// The only context below `dev/contexts` whose event was made by processing `parent`.
fn child_of(dir: &TempDir, parent: &str) -> Value {
    let contexts = files(dir.path().join("dev/contexts"));
    let contexts = contexts.into_iter().map(|(_, text)| serde_json::from_str::<Value>(&text).unwrap());
    let mut children = contexts.filter(|found| found["parentEventId"] == parent);
    let child = children.next().unwrap();
    assert!(children.next().is_none());
    child
}

const EMIT: &str = r#"echo '[{"key":"eventType","value":"t"}]' > $SIDECAR_BASE_DIR/out/events/1.json"#;

#[test]
fn a_consumer_belongs_to_the_graph_of_its_event() {
    let dir = TempDir::new().unwrap();
    let (code, root, log) = output(&dir, &["submit", "--development=true"]);
    assert_eq!(code, 0, "{log}");
    let mut event = root.trim().to_owned();
    let mut parent = String::new();
    for (module, graph) in [("first", Some("--context.correlationid=graph")), ("second", None)] {
        let (name, id) = (format!("--context.name={module}"), format!("--context.eventid={event}"));
        let mut run = vec!["run", "--wrap", "--development=true", &name, &id];
        run.extend(graph);
        let (code, _, log) = output(&dir, &[&run[..], &["--", "sh", "-c", EMIT]].concat());
        assert_eq!(code, 0, "{log}");
        let child = child_of(&dir, &event);
        assert_eq!(child["correlationId"], "graph");
        parent = std::mem::replace(&mut event, child["eventId"].as_str().unwrap().to_owned());
    }
    // The insight names the event that led to the one that was processed.
    let note = "echo '[{\"key\":\"k\",\"value\":\"v\"}]' > $SIDECAR_BASE_DIR/out/meta.json";
    let id = format!("--context.eventid={event}");
    output(
        &dir,
        &["run", "--wrap", "--development=true", "--context.name=third", &id, "--", "sh", "-c", note],
    );
    let insight: Value = serde_json::from_str(&files(dir.path().join("dev/insights"))[0].1).unwrap();
    assert_eq!(insight["correlationId"], "graph");
    assert_eq!(insight["parentEventId"], parent);
}

#[test]
fn commit_needs_no_more_than_event_and_module() {
    let dir = TempDir::new().unwrap();
    let context = ["--development=true", "--context.eventid=e1", "--context.name=m"];
    let lineage = ["--context.correlationid=graph", "--context.parenteventid=e0", "prepare"];
    assert!(sidecar(&dir, &context).args(lineage).output().unwrap().status.success());
    write_outputs(&dir);
    assert!(sidecar(&dir, &context).arg("commit").output().unwrap().status.success());
    for (_, text) in files(dir.path().join("dev/contexts")) {
        let found: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(found["correlationId"], "graph");
    }
    let insight: Value = serde_json::from_str(&files(dir.path().join("dev/insights"))[0].1).unwrap();
    assert_eq!(insight["parentEventId"], "e0");
}

#[test]
fn an_event_that_nobody_made_is_told_of() {
    let dir = TempDir::new().unwrap();
    let run = |id: &str| {
        output(
            &dir,
            &["run", "--wrap", "--development=true", &format!("--context.eventid={id}"), "--", "true"],
        )
    };
    let (code, _, log) = run("typo");
    assert!(code == 0 && log.contains("event typo has no event context in local documents"), "{log}");
    let (code, _, log) = run("");
    assert!(code == 64 && log.contains("--context.eventid: is empty"), "{log}");
    let (code, _, log) = output(&dir, &["run", "--wrap", "--development=true", "--", "true"]);
    assert!(code == 0 && !log.contains("WARN"), "{log}");
}

#[test]
fn to_submit_the_same_again_succeeds_and_something_else_is_refused() {
    let dir = TempDir::new().unwrap();
    let submit = |content: &str, flags: &[&str]| {
        fs::write(dir.path().join("a"), content).unwrap();
        output(&dir, &[&["submit", "--development=true", "--id=mine", "a"], flags].concat())
    };
    for _ in 0..2 {
        let (code, id, log) = submit("one", &[]);
        assert_eq!((code, id.as_str()), (0, "mine\n"), "{log}");
    }
    for (content, flags, problem) in [
        ("two", &[][..], "another \"a\""),
        ("one", &["--type=other"], "the type \"submitted\""),
        ("one", &["--value", "k=v"], "other values"),
    ] {
        let (code, id, log) = submit(content, flags);
        assert_eq!((code, id.as_str()), (66, ""), "{log}");
        assert!(log.contains(problem), "{log}");
    }
    assert_eq!(committed(&dir, "mine"), [("a".to_owned(), "one".to_owned())]);
    assert_eq!(files(dir.path().join("dev/events")).len(), 1);
    // The uploads of those that were not stored are nobody's.
    assert_eq!(output(&dir, &["gc", "--development=true"]).0, 0);
    assert_eq!(blobs(&dir), ["mine/.submit/~ID/a"]);
    assert_eq!(committed(&dir, "mine"), [("a".to_owned(), "one".to_owned())]);
}

#[test]
fn a_missing_context_is_waited_for_and_then_final() {
    let dir = TempDir::new().unwrap();
    let plane = format!("file://{}/plane", dir.path().display());
    let stores = [format!("--blobs={plane}"), format!("--documents={plane}"), format!("--events={plane}")];
    let run = |flags: &[&str]| {
        let mut command =
            sidecar(&dir, &["run", "--wrap", "--basedir=base", "--context.eventid=typo", "--context.name=m"]);
        ended(&command.args(&stores).args(flags).args(["--", "true"]).output().unwrap())
    };
    let started = std::time::Instant::now();
    let (code, _, log) = run(&["--retry-for=1500ms"]);
    assert_eq!(code, 66, "{log}");
    assert!(log.contains("has no context of event \"typo\"") && log.contains("--first"), "{log}");
    assert!(started.elapsed() >= std::time::Duration::from_millis(1500));
    assert_eq!(files(dir.path().join("plane/events")), []);
    for flag in ["--first", "--context.parenteventid="] {
        let (code, _, log) = run(&["--retry-for=1s", "--rerun", flag]);
        assert_eq!(code, 0, "{flag}: {log}");
        assert_eq!(log.matches("event typo has no event context").count(), 1, "{log}");
    }
}

/// What was found out before the event was there must not stick.
#[test]
fn lineage_is_looked_up_again_when_the_module_begins_anew() {
    let dir = TempDir::new().unwrap();
    let run = |script: &str| {
        let context = ["--context.name=m", "--context.eventid=mine", "--", "sh", "-c", script];
        output(&dir, &[&["run", "--wrap", "--development=true"], &context[..]].concat())
    };
    assert_eq!(run("exit 1").0, 1);
    let submitted = output(&dir, &["submit", "--development=true", "--id=mine"]);
    assert_eq!(submitted.0, 0);
    let context = dir.path().join("dev/contexts/mine.json");
    let text = fs::read_to_string(&context).unwrap();
    fs::write(context, text.replace(r#""correlationId": "mine""#, r#""correlationId": "graph""#)).unwrap();
    let (code, _, log) = run(EMIT);
    assert_eq!(code, 0, "{log}");
    assert_eq!(child_of(&dir, "mine")["correlationId"], "graph");
}
