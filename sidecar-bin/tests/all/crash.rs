//! The sidecar is killed at every place that a whole execution passes, started again, and ends the same.

use std::collections::HashMap;
use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::normal::{normal, normal_files};
use crate::process::{CONTEXT, Serving, base, files, output, sidecar, write_outputs};

/// An event with an input file and a value for the module of `CONTEXT`, in the data plane of `dir`.
fn submit_input(dir: &TempDir) -> String {
    fs::write(dir.path().join("input.txt"), "input").unwrap();
    let submitted =
        sidecar(dir, &["submit", "--development=true", "--value", "k=v", "input.txt"]).output().unwrap();
    assert!(submitted.status.success());
    String::from_utf8(submitted.stdout).unwrap().trim().to_owned()
}

/// Runs ready and done, starting the sidecar again whenever it dies; the first start gets `fault`.
fn execute(dir: &TempDir, event: &str, fault: &[(&str, &str)]) -> (Value, usize) {
    let start = |fault: &[(&str, &str)]| {
        let mut command = sidecar(dir, &CONTEXT);
        command.args([&format!("--context.eventid={event}"), "--serverport=0", "--linger=0s"]);
        command.envs(fault.iter().copied());
        Serving::spawn(command)
    };
    let mut serving = start(fault);
    let mut deaths = 0;
    write_outputs(dir);
    let mut answers = Vec::new();
    for call in ["ready", "done"] {
        let answer = loop {
            if let Some((status, body)) = serving.call(call) {
                assert_eq!(status, 200, "{call}: {body}");
                break body;
            }
            deaths += 1;
            assert!(deaths < 3, "it dies again and again");
            serving = start(&[]);
        };
        if call == "ready" {
            let names: Vec<_> = files(base(dir).join("in")).into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["data/input.txt", "meta.json"]);
        }
        answers.push(answer);
    }
    // The answer may have been given before the process was killed.
    let code = serving.end().0;
    if code != 0 {
        deaths += 1;
        serving = start(&[]);
        assert_eq!(serving.call("done").unwrap().1, answers[1]);
        assert_eq!(serving.end().0, 0);
    }
    (answers.remove(1), deaths)
}

#[test]
fn killed_anywhere_it_ends_in_the_same_receipt_without_a_duplicate() {
    let dir = TempDir::new().unwrap();
    let trace = dir.path().join("trace");
    let event = submit_input(&dir);
    let (receipt, deaths) = execute(&dir, &event, &[("SIDECAR_FAULT_TRACE", trace.to_str().unwrap())]);
    assert_eq!(deaths, 0);
    let committed = left_behind(&dir);
    let mut passed: HashMap<String, usize> = HashMap::new();
    let mut places = Vec::new();
    let trace = fs::read_to_string(&trace).unwrap();
    // Calls are no places where it can be killed.
    for place in trace.lines().filter(|line| !line.starts_with("call ")) {
        let times = passed.entry(place.to_owned()).or_default();
        *times += 1;
        places.push(format!("{place} {times}"));
    }
    for step in ["ready", "committing", "stored", "deciding", "done"] {
        for side in ["before", "after"] {
            assert!(places.contains(&format!("journal.{step}.{side} 1")), "{places:?}");
        }
    }

    for place in &places {
        // The same data plane from the beginning: only the submitted event, whose id names everything else.
        for kind in ["events", "contexts"] {
            for (name, _) in files(dir.path().join("dev").join(kind)) {
                if name != format!("{event}.json") {
                    fs::remove_file(dir.path().join("dev").join(kind).join(name)).unwrap();
                }
            }
        }
        for gone in ["insights", "modules", "executions", "published"] {
            fs::remove_dir_all(dir.path().join("dev").join(gone)).unwrap();
        }
        fs::remove_dir_all(dir.path().join("dev/blobs").join(&event).join("m")).unwrap();

        let (again, deaths) = execute(&dir, &event, &[("SIDECAR_FAULT_AT", place)]);
        assert_eq!(deaths, 1, "{place}");
        assert_eq!(normal(&again.to_string()), normal(&receipt.to_string()), "{place}");
        // What died before its outcome was decided may have left a proposal that nobody names.
        assert_eq!(output(&dir, &["gc", "--development=true"]).0, 0);
        // Not one file more, fewer or other than without a death: no duplicate, no loss, no temporary file.
        assert_eq!(left_behind(&dir), committed, "{place}");
    }
    println!("killed at {} places, the same end each time", places.len());
}

/// Everything but locks, journals and the secret, which are no promise.
fn left_behind(dir: &TempDir) -> Vec<(String, String)> {
    let left = files(dir.path().join("dev"));
    normal_files(left.into_iter().filter(|(name, _)| !name.contains("/.sidecar/") && name != "secret"))
}
