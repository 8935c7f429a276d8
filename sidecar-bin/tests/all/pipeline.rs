//! `sidecar pipeline`, `trace` and `replay`: a chain of modules on one machine, what became of it, and any step again.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{ended, output, sidecar};

/// Splits a text into its lines; each becomes a file of its own, and the line `bad` is too much for the next module.
const CHAIN: &str = r#"
[modules.split]
command = ["sh", "split.sh"]
subscribes = "text"
publishes = ["line"]
wrap = true

[modules.upper]
command = "sh upper.sh"
subscribes = ["line"]
publishes = ["upper"]
wrap = true
concurrency = 2
max-deliveries = 2
environment = { SUFFIX = "!" }

[modules.count]
command = ["sh", "-c", "ls $SIDECAR_BASE_DIR/in/data | wc -l > $SIDECAR_BASE_DIR/out/data/count"]
subscribes = ["upper"]
publishes = []
wrap = true
"#;

const SPLIT: &str = r#"cd $SIDECAR_BASE_DIR; n=0
while read -r line; do
    n=$((n + 1)); echo "$line" > out/data/$n.txt
    echo '[{"key":"eventType","value":"line"},{"key":"files","value":"'$n'.txt"},{"key":"n","value":"'$n'"}]' > out/events/$n.json
done < in/data/a.txt
echo '[{"key":"lines","value":"'$n'"}]' > out/meta.json
"#;

const UPPER: &str = r#"cd $SIDECAR_BASE_DIR; file=$(ls in/data); echo "working on $file"
if grep -q bad in/data/$file; then echo "this line is bad" >&2; exit 3; fi
{ tr a-z A-Z < in/data/$file; echo "$SUFFIX"; } > out/data/$file
echo '[{"key":"eventType","value":"upper"},{"key":"files","value":"'$file'"}]' > out/events/1.json
"#;

pub fn chain(text: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, content) in [("chain.toml", CHAIN), ("split.sh", SPLIT), ("upper.sh", UPPER), ("a.txt", text)]
    {
        fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

/// The id of the only submission.
fn graph(dir: &TempDir) -> String {
    let graphs = fs::read_dir(dir.path().join("dev/graphs")).unwrap();
    let names = graphs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    names.into_iter().next().unwrap()
}

fn trace(dir: &TempDir, id: &str) -> Value {
    let (code, json, log) = output(dir, &["trace", "--development=true", id, "--format=json"]);
    assert_eq!(code, 0, "{log}");
    serde_json::from_str(&json).unwrap()
}

/// What is the same whenever and wherever the same chain has run.
fn shape(trace: &Value) -> Vec<String> {
    let event = |id: &Value| {
        trace["events"].as_array().unwrap().iter().find(|event| event["eventId"] == *id).unwrap()
    };
    let mut lines: Vec<String> = trace["executions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|execution| {
            let outputs: Vec<_> = execution["outputs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|file| format!("{} {}", file["name"], file["digest"]))
                .collect();
            format!(
                "{} {} {} {outputs:?}",
                execution["module"],
                event(&execution["eventId"])["type"],
                event(&execution["eventId"])["data"]
            )
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn one_command_runs_a_chain_and_tells_what_became_of_it() {
    let dir = chain("one\ntwo\nthree\n");
    let (code, out, log) = output(&dir, &["pipeline", "chain.toml", "--input", "a.txt"]);
    assert_eq!(code, 0, "{out}{log}");
    for expected in
        ["7 events, 7 outcomes", "split  ", "upper ×3  ", "count ×3  ", "page: dev/modules/pipeline/pages/"]
    {
        assert!(out.contains(expected), "no {expected:?} in {out}");
    }
    // All of it is copied out with one command.
    let id = graph(&dir);
    let (code, _, log) = output(&dir, &["get", "--development=true", "--all", &id, "all"]);
    assert_eq!(code, 0, "{log}");
    let copied = crate::process::files(dir.path().join("all"));
    let names: Vec<_> = copied
        .iter()
        .filter_map(|(name, _)| Some((name.split('/').next()?, name.rsplit('/').next()?)))
        .collect();
    for expected in [("submitted", "a.txt"), ("split", "3.txt"), ("upper", "2.txt"), ("count", "count")] {
        assert!(names.contains(&expected), "no {expected:?} in {names:?}");
    }
    assert_eq!(copied.len(), 1 + 3 + 3 + 3);
    // What is done stays done, and there is nothing left to do.
    let (code, again, log) = output(&dir, &["pipeline", "chain.toml"]);
    assert_eq!((code, &*again), (0, ""), "{log}");
    // The modules' output is kept.
    let logs = fs::read_dir(dir.path().join("dev/modules/pipeline/logs/upper")).unwrap();
    let logs: Vec<_> = logs.map(|log| fs::read_to_string(log.unwrap().path()).unwrap()).collect();
    assert_eq!((logs.len(), logs.iter().all(|log| log.starts_with("working on "))), (3, true));
    // What somebody else has submitted is shown like what was submitted here.
    assert_eq!(output(&dir, &["submit", "--development=true", "--type=text", "--id=late", "a.txt"]).0, 0);
    let (code, late, log) = output(&dir, &["pipeline", "chain.toml"]);
    assert!(
        code == 0 && late.contains("late: 7 events, 7 outcomes") && late.contains("late.html"),
        "{late}{log}"
    );
}

/// Events that a collapsed line stands for may have failed for several reasons.
#[test]
fn several_reasons_are_counted() {
    let dir = TempDir::new().unwrap();
    let file = r#"
[modules.split]
subscribes = ["submitted"]
wrap = true
command = ["sh", "-c", "cd $SIDECAR_BASE_DIR; for n in 1 2 3; do printf '[{\"key\":\"eventType\",\"value\":\"n\"},{\"key\":\"n\",\"value\":\"%s\"}]' $n > out/events/$n.json; done"]
[modules.fails]
subscribes = ["n"]
max-deliveries = 1
wrap = true
command = ["sh", "-c", "cd $SIDECAR_BASE_DIR; grep -q '\"3\"' in/meta.json && exit 3; exit 4"]
"#;
    fs::write(dir.path().join("chain.toml"), file).unwrap();
    fs::write(dir.path().join("a.txt"), "a").unwrap();
    let (code, out, log) = output(&dir, &["pipeline", "chain.toml", "--input", "a.txt", "--type=submitted"]);
    assert_eq!(code, 1, "{out}{log}");
    let (_, trace, _) = output(&dir, &["trace", "--development=true", &graph(&dir)]);
    assert!(trace.contains("(×2), 1 other reason"), "{trace}");
}

#[test]
fn a_failed_event_is_named_with_its_output_and_the_way_to_repeat_it() {
    let dir = chain("one\nbad\n");
    let (code, out, log) = output(&dir, &["pipeline", "chain.toml", "--input", "a.txt"]);
    assert_eq!(code, 1, "{out}{log}");
    assert!(out.contains("upper ×2, 1 given up"), "{out}");
    assert!(
        out.contains("\nfailed: module upper, event ") && out.contains("exit code 3: this line is bad"),
        "{out}"
    );
    assert!(out.contains("  | this line is bad\n"), "{out}");
    // The commands that it prints work as they are.
    let commands = out.lines().filter_map(|line| line.split_once(": sidecar ").map(|(_, command)| command));
    let commands: Vec<_> = commands.collect();
    assert_eq!(commands.len(), 2, "{out}");
    let run = |command: &str| output(&dir, &command.split(' ').collect::<Vec<_>>());
    let (code, _, log) = run(commands[0]);
    assert!(code == 1 && log.contains("the module failed (exit code 3)"), "{log}");
    // The module is corrected, and the event comes again.
    fs::write(dir.path().join("upper.sh"), UPPER.replace("exit 3", "true")).unwrap();
    assert_eq!(run(commands[1]).0, 0);
    let (code, out, log) = output(&dir, &["pipeline", "chain.toml"]);
    assert_eq!(code, 0, "{out}{log}");
    let (_, tree, _) = output(&dir, &["trace", "--development=true", &graph(&dir)]);
    assert!(tree.contains("5 events, 5 outcomes\n"), "{tree}");
}

#[test]
fn everything_wrong_with_a_file_is_told_at_once_and_nothing_is_made() {
    let dir = TempDir::new().unwrap();
    let wrong = "[modules.a]\ncomand = \"x\"\nsubscribes = [\"t\"]\nconcurrency = 0\n[modules.b]\ncommand = [\"no-such-command\"]\nsubscribes = []\nwrap = \"yes\"\ntimeout = \"soon\"\n[modul.c]\n";
    fs::write(dir.path().join("p.toml"), wrong).unwrap();
    let (code, _, log) = output(&dir, &["pipeline", "p.toml", "--input", "nothing"]);
    assert_eq!(code, 64, "{log}");
    for expected in [
        "p.toml:2: \"comand\" is not known here; did you mean \"command\"?",
        "p.toml:1: module a has no command",
        "p.toml:4: concurrency is a whole number from 1 on",
        "p.toml:5: module b: the command \"no-such-command\" is not on PATH",
        "p.toml:5: module b subscribes to nothing",
        "p.toml:8: wrap is true or false",
        "p.toml:9: timeout: ",
        "p.toml:10: \"modul\" is not known here; did you mean \"modules\"?",
    ] {
        assert!(log.contains(expected), "no {expected:?} in {log}");
    }
    assert!(!dir.path().join("dev").exists());
}

/// The schema and the parser know the same keys, and agree on the example.
#[test]
fn the_schema_is_that_of_the_parser() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let schema = fs::read_to_string(root.join("docs/pipeline.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let module = &schema["properties"]["modules"]["additionalProperties"];
    let keys: Vec<&String> = module["properties"].as_object().unwrap().keys().collect();
    let dir = TempDir::new().unwrap();
    let check = |text: &str| {
        fs::write(dir.path().join("p.toml"), text).unwrap();
        output(&dir, &["pipeline", "p.toml", "--check"])
    };
    // The parser tells all that it knows of one that is like none of them.
    let (_, _, log) = check("[modules.a]\nqqqqqqqqqqqq = 1\n");
    let (_, known) = log.split_once("the keys are ").unwrap();
    let mut known: Vec<&str> = known.lines().next().unwrap().split(", ").collect();
    known.sort_unstable();
    assert_eq!(known, keys);
    for key in module["required"].as_array().unwrap() {
        let all = [("command", "\"true\""), ("subscribes", "\"t\"")];
        let others =
            all.iter().filter(|(name, _)| key != name).map(|(name, value)| format!("{name} = {value}\n"));
        assert_eq!(check(&format!("[modules.a]\n{}", others.collect::<String>())).0, 64, "{key}");
    }
    // A value of the wrong kind for each key.
    for key in &keys {
        let wrong = format!("[modules.a]\ncommand = \"true\"\nsubscribes = \"t\"\n{key} = 1.5\n");
        let wrong = match key.as_str() {
            key @ ("command" | "subscribes") => {
                wrong.replacen(&format!("{key} = \""), &format!("_{key} = \""), 1)
            }
            _ => wrong,
        };
        assert_eq!(check(&wrong).0, 64, "{key}");
    }
}

#[test]
fn a_file_is_only_checked_or_drawn_where_that_is_asked_for() {
    let dir = chain("");
    let (code, _, log) = output(&dir, &["pipeline", "chain.toml", "--check"]);
    assert!(code == 0 && log.contains("3 modules; it begins with events of type text"), "{log}");
    let (code, graph, _) = output(&dir, &["pipeline", "chain.toml", "--graph"]);
    assert!(code == 0 && graph.starts_with("flowchart LR\n") && graph.contains("m1[\"upper\"]"), "{graph}");
    // What may be meant otherwise.
    let odd = CHAIN.replace("publishes = [\"upper\"]", "publishes = [\"uper\", \"text\"]");
    fs::write(dir.path().join("chain.toml"), odd).unwrap();
    let (code, _, log) = output(&dir, &["pipeline", "chain.toml", "--check"]);
    assert_eq!(code, 0, "{log}");
    for expected in [
        "publishes \"uper\", and no module subscribes to it; did you mean \"upper\"?",
        "start each other in a circle",
    ] {
        assert!(log.contains(expected), "no {expected:?} in {log}");
    }
    assert!(!dir.path().join("dev").exists());
}

/// How many events there are.
fn published(dir: &TempDir) -> usize {
    let events = fs::read_dir(dir.path().join("dev/events")).into_iter().flatten();
    events.filter(|entry| !entry.as_ref().unwrap().file_name().as_encoded_bytes().starts_with(b".")).count()
}

/// Killed anywhere and started again, a chain ends in the same trace.
#[test]
fn a_chain_that_is_killed_goes_on_where_it_was() {
    let text: String = (0..12).map(|n| format!("line {n}\n")).collect();
    let whole = chain(&text);
    assert_eq!(output(&whole, &["pipeline", "chain.toml", "--input", "a.txt"]).0, 0);
    let expected = shape(&trace(&whole, &graph(&whole)));
    let dir = chain(&text);
    // A kill costs the attempts that are under way.
    fs::write(
        dir.path().join("chain.toml"),
        CHAIN
            .replace("deliveries = 2", "deliveries = 50")
            .replace("wrap = true\n\n[modules.upper]", "wrap = true\nmax-deliveries = 50\n\n[modules.upper]"),
    )
    .unwrap();
    let (mut kills, mut wait) = (0, 60);
    while kills < 4 {
        let input: &[&str] = if published(&dir) == 0 { &["--input", "a.txt"] } else { &[] };
        let mut command = sidecar(&dir, &[&["pipeline", "chain.toml"], input].concat());
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        wait += 30;
        let works = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        // A module that outlived it keeps its slot.
        std::thread::sleep(Duration::from_millis(300));
        match (published(&dir), works) {
            // It was killed while it submitted. The next one submits another.
            (0, _) => _ = fs::remove_dir_all(dir.path().join("dev")),
            (_, true) => kills += 1,
            (_, false) => break,
        }
    }
    assert!(kills > 1, "a test that kills nothing shows nothing");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (code, out, log) = ended(&sidecar(&dir, &["pipeline", "chain.toml"]).output().unwrap());
        assert_eq!(code, 0, "{out}{log}");
        let found = shape(&trace(&dir, &graph(&dir)));
        if found == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{found:#?}\ninstead of\n{expected:#?}");
    }
}

#[test]
fn a_folder_is_watched() {
    let dir = chain("");
    fs::create_dir(dir.path().join("folder")).unwrap();
    let mut command = sidecar(&dir, &["pipeline", "chain.toml", "--watch", "folder"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    fs::write(dir.path().join("folder/a.txt"), "one\n").unwrap();
    let count = || fs::read_dir(dir.path().join("dev/published")).map_or(0, Iterator::count);
    let deadline = Instant::now() + Duration::from_secs(30);
    while count() < 3 {
        assert!(Instant::now() < deadline, "{} outcomes", count());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let (code, out, log) = ended(&child.wait_with_output().unwrap());
    assert!(out.contains("a.txt:\n"), "{out}");
    assert!(code == 0 && log.contains("submitted ") && log.contains("no more events are received"), "{log}");
}

/// Two files of one name lie in two folders, and a module sees in which.
#[test]
fn a_watched_file_says_where_it_lies_below_the_folder() {
    let dir = TempDir::new().unwrap();
    let list = "cd $SIDECAR_BASE_DIR; ls in/data > out/data/names; grep -o \\\"[a-z]*/wall in/meta.json >> out/data/names";
    let file = format!(
        "[modules.m]\ncommand = ['sh', '-c', '{list}']\nwrap = true\nsubscribes = 't'\npublishes = []\n"
    );
    fs::write(dir.path().join("c.toml"), file).unwrap();
    for name in ["castle", "forest"] {
        fs::create_dir_all(dir.path().join("drop").join(name)).unwrap();
        fs::write(dir.path().join("drop").join(name).join("wall"), "same").unwrap();
    }
    let mut command = sidecar(&dir, &["pipeline", "c.toml", "--watch", "drop"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let names = || {
        let blobs = crate::process::files(dir.path().join("dev/blobs"));
        let mut names: Vec<_> = blobs.into_iter().filter(|(name, _)| name.ends_with("names")).collect();
        names.sort_by(|one, other| one.1.cmp(&other.1));
        names.into_iter().map(|(_, content)| content).collect::<Vec<_>>()
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while names().len() < 2 {
        assert!(Instant::now() < deadline, "{:?}", names());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let (_, _, log) = ended(&child.wait_with_output().unwrap());
    assert_eq!(names(), ["wall\n\"castle/wall\n", "wall\n\"forest/wall\n"], "{log}");
}

#[test]
fn a_trace_shows_every_run_and_a_failure_after_an_outcome() {
    let dir = TempDir::new().unwrap();
    let run = |flags: &[&str], script: &str| {
        let all = ["run", "--wrap", "--development=true", "--context.eventid=e1", "--context.name=m"];
        output(&dir, &[&all[..], flags, &["--", "sh", "-c", script]].concat()).0
    };
    let publish = "echo '[{\"key\":\"eventType\",\"value\":\"t\"}]' > $SIDECAR_BASE_DIR/out/events/1.json";
    assert_eq!((run(&[], publish), run(&["--rerun"], publish)), (0, 0));
    let (_, tree, _) = output(&dir, &["trace", "--development=true", "e1"]);
    assert!(tree.contains("m, 1 earlier run") && tree.contains("t ×2  (1 of an earlier run)"), "{tree}");
    assert_eq!(run(&["--rerun"], "exit 4"), 4);
    let (_, tree, _) = output(&dir, &["trace", "--development=true", "e1"]);
    assert!(tree.contains("1 failed") && tree.contains("exit code 4"), "{tree}");
    let (code, shown, _) = output(&dir, &["failures", "--development=true", "--open", "e1"]);
    assert!(code == 1 && shown.contains("exit code 4"), "{shown}");
    // An id that nobody knows is not one without failures.
    for command in ["failures", "trace", "get"] {
        let (code, _, log) = output(&dir, &[command, "--development=true", "e2"]);
        assert_eq!(code, 66, "{command}: {log}");
    }
}

/// What is old is shown, and deleted only where that is asked for.
#[test]
fn old_outcomes_are_shown_and_then_deleted() {
    let dir = chain("one\ntwo\n");
    assert_eq!(output(&dir, &["pipeline", "chain.toml", "--input", "a.txt", "--id=a"]).0, 0);
    let gc = |flags: &[&str]| output(&dir, &[&["gc", "--development=true", "--outcomes"], flags].concat());
    let (code, out, log) = gc(&["--older-than=1h"]);
    assert!(code == 0 && out.is_empty() && log.contains("no outcome is to be deleted"), "{out}{log}");
    let (code, out, log) = gc(&["--older-than=1h", "--older-than", "module:count=0s"]);
    assert!(code == 0 && out.contains("count") && !out.contains("upper"), "{out}{log}");
    let (code, out, log) = gc(&["--older-than=0s", "--older-than", "type:upper=1h"]);
    assert!(code == 0 && out.is_empty() && log.contains("depends on them: 3 older outcomes"), "{out}{log}");
    for mistake in ["--older-than=1", "--older-than=team:x=1d", "--older-than=module:a/b=1d"] {
        assert_eq!(gc(&[mistake]).0, 64, "{mistake}");
    }
    for flags in [
        &["gc", "--outcomes"][..],
        &["gc", "--older-than=1d", "--delete"],
        &["gc", "--older-than=module:m=1d"],
    ] {
        assert_eq!(output(&dir, &[flags, &["--development=true"]].concat()).0, 64, "{flags:?}");
    }
    let (code, shown, log) = gc(&["--older-than=0s"]);
    assert!(code == 0 && log.contains("would be deleted"), "{shown}{log}");
    assert_eq!(output(&dir, &["trace", "--development=true", "a"]).0, 0);
    let (code, deleted, log) = gc(&["--older-than=0s", "--delete"]);
    assert_eq!((code, &deleted), (0, &shown), "{log}");
    assert_eq!(output(&dir, &["trace", "--development=true", "a"]).0, 66);
    assert!(crate::process::files(dir.path().join("dev/blobs")).is_empty());
    let events = crate::process::files(dir.path().join("dev/events"));
    assert!(events.is_empty(), "events of nobody are kept: {events:?}");
    // Nothing remembers that it was worked on: submitted once more, it is a new event.
    let (code, out, log) = output(&dir, &["pipeline", "chain.toml", "--input", "a.txt", "--id=a"]);
    assert!(code == 0 && out.contains("a: 5 events, 5 outcomes"), "{out}{log}");
}

/// What was replaced is not mixed with what replaced it, and a failure before an outcome is no secret.
#[test]
fn what_an_earlier_run_led_to_is_not_copied() {
    let dir = TempDir::new().unwrap();
    let run = |event: &str, module: &str, flags: &[&str], script: &str| {
        let ids = [format!("--context.eventid={event}"), format!("--context.name={module}")];
        let all = ["run", "--wrap", "--development=true", &ids[0], &ids[1]];
        output(
            &dir,
            &[&all[..], flags, &["--", "sh", "-c", &format!("cd $SIDECAR_BASE_DIR; {script}")]].concat(),
        )
    };
    let publish = |text: &str| {
        format!(
            "echo {text} > out/data/a; echo '[{{\"key\":\"eventType\",\"value\":\"t\"}},{{\"key\":\"files\",\"value\":\"a\"}}]' > out/events/1.json"
        )
    };
    let published = |log: &str| {
        log.lines()
            .find_map(|line| Some(line.split_once("published 1.json as event ")?.1[..36].to_owned()))
            .unwrap()
    };
    assert_eq!(run("e1", "first", &[], "exit 5").0, 5);
    let (code, _, log) = run("e1", "first", &[], &publish("old"));
    assert_eq!(code, 0, "{log}");
    assert_eq!(run(&published(&log), "next", &[], "cp in/data/a out/data/b").0, 0);
    let (code, _, log) = run("e1", "first", &["--rerun"], &publish("new"));
    assert!(code == 0 && log.contains("run 1: its outcome replaces"), "{log}");
    assert_eq!(run(&published(&log), "next", &[], "cp in/data/a out/data/b").0, 0);
    let (_, tree, _) = output(&dir, &["trace", "--development=true", "e1"]);
    assert!(tree.contains("first, 1 earlier run, 1 attempt failed at first"), "{tree}");
    let (code, _, log) = output(&dir, &["get", "--development=true", "--all", "e1", "all"]);
    assert!(code == 0 && log.contains("not copied, ") && log.contains("1 execution"), "{log}");
    let copied = crate::process::files(dir.path().join("all"));
    assert!(copied.len() == 2 && copied.iter().all(|(_, content)| content == "new\n"), "{copied:?}");
}

#[test]
fn every_format_of_a_trace_can_be_read() {
    let dir = chain("one\nbad\n");
    assert_eq!(
        output(&dir, &["pipeline", "chain.toml", "--input", "a.txt", "--value", "k=\"<x> & 'y'\""]).0,
        1
    );
    let id = graph(&dir);
    let format = |name: &str| {
        let (code, out, log) =
            output(&dir, &["trace", "--development=true", &id, "--format", name, "--verify"]);
        assert_eq!(code, 0, "{log}");
        assert!(log.contains("compared its digest"), "{log}");
        out
    };
    let trace: Value = serde_json::from_str(&format("json")).unwrap();
    assert_eq!(trace["format"], 1);
    assert!(format("dot").starts_with("digraph trace {"));
    assert!(format("mermaid").contains(":::failed"));
    assert!(format("html").contains("\\u003cx>"));
    // What the schema of OpenLineage 2.0.2 requires of a RunEvent: its time, its producer, its schema, a run with a
    // UUID, and a job with a namespace and a name; datasets have a namespace and a name, and facets say who made them.
    let lines = format("openlineage");
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 2 * 3 + 2, "{lines}");
    for event in &events {
        humantime_like(event["eventTime"].as_str().unwrap());
        assert!(event["producer"].as_str().unwrap().starts_with("https://"));
        assert!(event["schemaURL"].as_str().unwrap().ends_with("#/$defs/RunEvent"));
        assert!(["START", "COMPLETE", "FAIL"].contains(&event["eventType"].as_str().unwrap()));
        assert_eq!(event["run"]["runId"].as_str().unwrap().len(), 36);
        for named in [&event["job"]]
            .into_iter()
            .chain(event["inputs"].as_array().unwrap())
            .chain(event["outputs"].as_array().unwrap())
        {
            assert!(named["namespace"].is_string() && named["name"].is_string(), "{event}");
        }
        if let Some(facet) = event["run"]["facets"].get("errorMessage") {
            assert!(
                facet["_producer"].is_string()
                    && facet["_schemaURL"].is_string()
                    && facet["message"].is_string()
            );
        }
    }
    // A file that is gone is found.
    fs::remove_dir_all(dir.path().join("dev/blobs")).unwrap();
    fs::create_dir(dir.path().join("dev/blobs")).unwrap();
    let (code, _, log) = output(&dir, &["trace", "--development=true", &id, "--verify"]);
    assert!(code == 66 && log.contains("damaged: "), "{log}");
}

/// RFC 3339 in UTC, as far as a look tells.
fn humantime_like(text: &str) {
    assert!(text.ends_with('Z') && text.len() >= 20 && text.as_bytes()[10] == b'T', "{text}");
}

#[test]
fn a_replay_of_an_unchanged_module_differs_in_nothing_and_of_a_changed_one_in_what_was_changed() {
    let dir = chain("one\ntwo\n");
    assert_eq!(output(&dir, &["pipeline", "chain.toml", "--input", "a.txt"]).0, 0);
    let id = graph(&dir);
    let before = crate::process::files(dir.path().join("dev"));
    let replay = |flags: &[&str]| output(&dir, &[&["replay", "--development=true"], flags].concat());
    let (code, out, log) = replay(&[&id, "--context.name=split", "--pipeline", "chain.toml"]);
    assert!(
        code == 0 && out.is_empty() && log.contains("the outputs are the same: 2 files, 2 events"),
        "{out}{log}"
    );
    // Another module: a file, a value, an insight and an event are other than they were.
    let other = SPLIT.replace("\"n\"", "\"number\"").replace("echo \"$line\"", "echo \"$line?\"")
        + "echo x > out/data/new; chmod +x out/data/1.txt; rm out/events/2.json; echo '[]' > out/meta.json";
    fs::write(dir.path().join("split.sh"), other).unwrap();
    let (code, out, log) = replay(&[
        &id,
        "--context.name=split",
        "--pipeline",
        "chain.toml",
        "--report",
        "r.html",
        "--keep",
        "kept",
    ]);
    assert_eq!(code, 1, "{log}");
    for expected in [
        "out/data/1.txt is executable\n",
        "out/data/1.txt has other content: 5 bytes instead of 4\n",
        "-one\n",
        "+one?\n",
        "out/data/new is new\n",
        "out/meta.json:lines is nothing instead of \"2\"\n",
        "out/events/1.json:n is nothing instead of \"1\"\n",
        "out/events/1.json:number is \"1\" instead of nothing\n",
        "out/events/2.json is missing: an event of type \"line\"\n",
    ] {
        assert!(out.contains(expected), "no {expected:?} in {out}");
    }
    assert!(fs::read_to_string(dir.path().join("r.html")).unwrap().contains("+one?"));
    assert_eq!(fs::read_to_string(dir.path().join("kept/1.txt")).unwrap(), "one?\n");
    let (code, out, _) = replay(&[
        &id,
        "--context.name=split",
        "--pipeline",
        "chain.toml",
        "--ignore",
        "out/data/*",
        "--ignore",
        "out/events/*",
        "--ignore",
        "out/meta.json:*",
    ]);
    assert_eq!((code, &*out), (0, ""));
    // Nothing was published or stored, and it works without the documents too.
    assert_eq!(crate::process::files(dir.path().join("dev")), before);
    let (_, json, _) = output(&dir, &["trace", "--development=true", &id, "--format=json"]);
    fs::write(dir.path().join("trace.json"), json).unwrap();
    for kind in ["executions", "contexts"] {
        fs::remove_dir_all(dir.path().join("dev").join(kind)).unwrap();
    }
    fs::write(dir.path().join("split.sh"), SPLIT).unwrap();
    let (code, out, log) =
        replay(&[&id, "--from", "trace.json", "--context.name=split", "--wrap", "--", "sh", "split.sh"]);
    assert_eq!((code, &*out), (0, ""), "{log}");
}

#[test]
fn what_cannot_be_replayed_is_told_why() {
    let dir = chain("one\n");
    assert_eq!(output(&dir, &["pipeline", "chain.toml", "--input", "a.txt"]).0, 0);
    let id = graph(&dir);
    let replay = |flags: &[&str]| {
        output(&dir, &[&["replay", "--development=true"], flags, &["--wrap", "--", "true"]].concat())
    };
    for (flags, expected) in [
        (&[&*id, "--context.name=nobody"][..], "--context.name may be split"),
        (&[&*id, "--context.name=split", "--run=7"], "no outcome of run 7"),
        (&[&*id, "--context.name=split", "--from=a.txt"], "it is no trace"),
    ] {
        let (code, _, log) = replay(flags);
        assert!(code == 2 && log.contains(expected), "{flags:?}: {log}");
    }
    assert_eq!(replay(&["nonsense", "--context.name=split"]).0, 66);
    // Inputs that are not what they were.
    damage(&dir.path().join("dev/blobs"), "a.txt");
    let (code, _, log) = replay(&[&id, "--context.name=split"]);
    assert!(code == 2 && log.contains("cannot be replayed") && log.contains("is damaged"), "{log}");
}

fn damage(dir: &Path, name: &str) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => damage(&path, name),
            false if path.file_name().unwrap() == name => fs::write(&path, "onf\n").unwrap(),
            false => {}
        }
    }
}

/// Work that was done before is taken over, with its files, events and insights, and the trace says from where; or else
/// why the module ran again.
#[test]
fn nothing_is_computed_twice_where_a_module_is_memoized() {
    let dir = chain("one\ntwo\n");
    let ran = || fs::read_to_string(dir.path().join("ran")).unwrap_or_default().lines().count();
    let memoized = |version: &str| {
        let text = CHAIN
            .replace("wrap = true\n", &format!("wrap = true\nmemoize = true\nversion = \"{version}\"\n"))
            .replace("ls $SIDECAR", "echo >> $RAN; ls $SIDECAR")
            .replace(
                "publishes = []",
                &format!(
                    "publishes = []\nenvironment = {{ RAN = \"{}\" }}",
                    dir.path().join("ran").display()
                ),
            );
        fs::write(dir.path().join("chain.toml"), text).unwrap();
    };
    let run = |id: &str| {
        let (code, trace, log) =
            output(&dir, &["pipeline", "chain.toml", "--input", "a.txt", "--type", "text", "--id", id]);
        assert_eq!(code, 0, "{log}");
        trace
    };
    memoized("1");
    // The lines of one file are neighbours: none of them has run before.
    let trace = run("first");
    assert!(!trace.contains("ran again"), "{trace}");
    assert_eq!(ran(), 2);
    let trace = run("second");
    assert_eq!(ran(), 2, "{trace}");
    assert!(trace.contains("split: outcome of first/split"), "{trace}");
    assert!(trace.contains("upper ×2, 2 reused"), "{trace}");
    let (code, _, log) = output(&dir, &["trace", "--development=true", "second", "--verify"]);
    assert_eq!(code, 0, "{log}");
    let (code, _, log) = output(&dir, &["get", "--development=true", "--all", "second", "copy"]);
    assert_eq!(code, 0, "{log}");
    assert!(dir.path().join("copy").join("split").exists() && log.contains("files"), "{log}");

    // Another line, another version: what differs is said, and the rest is not done again.
    fs::write(dir.path().join("a.txt"), "one\nthree\n").unwrap();
    let trace = run("third");
    assert_eq!(ran(), 3, "{trace}");
    assert!(
        trace.contains("split  ran again: input a.txt differs")
            || trace.contains("ran again: input a.txt differs"),
        "{trace}"
    );
    assert!(trace.contains("upper ×2, 1 reused"), "{trace}");
    memoized("2");
    let trace = run("fourth");
    assert_eq!(ran(), 5, "{trace}");
    assert!(trace.contains("ran again: version 2 instead of 1"), "{trace}");

    // Files that are gone are made again.
    let (_, blobs) = ("", dir.path().join("dev/blobs"));
    for event in fs::read_dir(&blobs).unwrap().flatten() {
        if event.file_name() != "fourth" {
            continue;
        }
        fs::remove_dir_all(event.path().join("split")).unwrap();
    }
    let trace = run("fifth");
    assert!(trace.contains("the outcome of fourth/split/0 could not be taken over"), "{trace}");
}

/// A script that repeats a pipeline is not told that all is well, and what it prints can be pasted whatever the id.
#[test]
fn a_repeated_pipeline_still_fails_where_an_event_was_given_up() {
    let dir = chain("one\nbad\n");
    let run = || output(&dir, &["pipeline", "chain.toml", "--input", "a.txt", "--id", "it's; 1"]);
    let (first, again) = (run(), run());
    for (code, out, log) in [&first, &again] {
        assert!(*code == 1 && out.contains("\nfailed: module upper, event "), "{out}{log}");
    }
    // What was submitted before is not stored again.
    let stored = crate::process::files(dir.path().join("dev/blobs"));
    assert_eq!(stored.iter().filter(|(name, _)| name.ends_with("a.txt")).count(), 1, "{stored:?}");
    let paste = |command: &str| {
        let bin = env!("CARGO_BIN_EXE_sidecar");
        let script = format!("sidecar() {{ {bin} \"$@\"; }}; {command}");
        ended(&Command::new("sh").args(["-c", &script]).current_dir(dir.path()).output().unwrap())
    };
    let (code, _, log) = output(&dir, &["get", "--development=true", "--all", "it's; 1", "all"]);
    assert_eq!(code, 1, "{log}");
    let hint = log.lines().find_map(|line| line.split_once("; sidecar ")).unwrap().1;
    let (code, trace, log) = paste(&format!("sidecar {}", hint.strip_suffix(" names them").unwrap()));
    assert!(code == 0 && trace.contains("given up"), "{trace}{log}");
    // The event of the file itself has the id that has to be quoted.
    let text = CHAIN.replace("command = [\"sh\", \"split.sh\"]", "command = \"false\"");
    fs::write(dir.path().join("chain.toml"), text).unwrap();
    let (code, out, log) = output(&dir, &["pipeline", "chain.toml", "--input", "a.txt", "--id", "it's 2"]);
    assert_eq!(code, 1, "{log}");
    let alone = out.lines().find_map(|line| line.strip_prefix("  again, alone: ")).unwrap();
    let (code, _, log) = paste(alone);
    assert!(code == 1 && log.contains("the module failed (exit code 1)"), "{log}");
}

/// It ends within the grace period, says what is left, and a script that goes on after it is not misled.
#[test]
fn an_interrupted_pipeline_says_so() {
    let dir = TempDir::new().unwrap();
    let file = "[modules.slow]\ncommand = 'sleep 30'\nwrap = true\nsubscribes = 't'\npublishes = []\n";
    fs::write(dir.path().join("my c.toml"), file).unwrap();
    fs::write(dir.path().join("a.txt"), "a").unwrap();
    let stores = ["--blobs=file:s", "--documents=file:s", "--events=file:s"];
    // Also the one that goes on with what is left.
    for input in [&["--input=a.txt"][..], &[]] {
        let mut command = sidecar(&dir, &[&["pipeline", "my c.toml", "--grace=2s"], input].concat());
        let child = command.args(stores).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let began = Instant::now();
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        let (code, out, log) = ended(&child.wait_with_output().unwrap());
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}: {log}", began.elapsed());
        assert!(code == 143 && log.contains("without --input"), "{code}: {out}{log}");
    }
}

/// Whatever is left is left, whoever has begun it; and what a person has dropped is not.
#[test]
fn a_pipeline_that_goes_on_knows_what_is_left() {
    let dir = TempDir::new().unwrap();
    let file = "[modules.split]\ncommand = ['sh', 'split.sh']\nwrap = true\nsubscribes = 't'\npublishes = ['n']\n\
                [modules.slow]\ncommand = ['sh', '-c', 'sleep 1; exit $(cat $SIDECAR_BASE_DIR/in/data/*)']\nwrap = true\n\
                subscribes = 'n'\npublishes = []\nmax-deliveries = 1\n";
    let split = "cd $SIDECAR_BASE_DIR; for n in 0 0 0 0 1; do i=$((i + 1)); echo $n > out/data/$i; \
                 echo '[{\"key\":\"eventType\",\"value\":\"n\"},{\"key\":\"files\",\"value\":\"'$i'\"}]' > out/events/$i.json; done";
    fs::write(dir.path().join("c.toml"), file).unwrap();
    fs::write(dir.path().join("split.sh"), split).unwrap();
    fs::write(dir.path().join("a.txt"), "a").unwrap();
    for flags in [&["--input=a.txt", "--id=g"][..], &[]] {
        let mut command = sidecar(&dir, &[&["pipeline", "c.toml"], flags].concat());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let (code, out, log) = ended(&child.wait_with_output().unwrap());
        assert!(code == 130 && log.contains("goes on with what is left"), "{code}: {out}{log}");
    }
    assert_eq!(output(&dir, &["pipeline", "c.toml"]).0, 1);
    assert_eq!(output(&dir, &["dead", "drop", "--development=true", "g"]).0, 0);
    let began = Instant::now();
    let (code, out, log) = output(&dir, &["pipeline", "c.toml", "--input=a.txt", "--id=g"]);
    // It is not waited for, and whoever submits it learns why nothing comes of it.
    assert!(code == 1 && began.elapsed() < Duration::from_secs(20), "{code}: {out}{log}");
    assert!(log.contains("was dropped by `sidecar dead drop`"), "{log}");
}

/// An event that failed waits for its next attempt, also for a pipeline that is started in the meantime.
#[test]
fn a_pipeline_waits_for_the_next_attempt_of_an_earlier_start() {
    let dir = TempDir::new().unwrap();
    let file = "[modules.m]\ncommand = ['test', '-e', 'ok']\nwrap = true\nsubscribes = 't'\npublishes = []\n";
    fs::write(dir.path().join("c.toml"), file).unwrap();
    let mut command = sidecar(&dir, &["pipeline", "c.toml", "--value=k=v", "--id=g"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    // The third one is late enough for another start to come before it.
    assert_eq!(
        log.lines().map_while(Result::ok).filter(|line| line.contains("the next one in")).take(3).count(),
        3
    );
    // What is said is written down right after.
    std::thread::sleep(Duration::from_millis(200));
    child.kill().unwrap();
    child.wait().unwrap();
    fs::write(dir.path().join("ok"), "").unwrap();
    let (code, out, log) = output(&dir, &["pipeline", "c.toml"]);
    assert!(code == 0 && out.contains("g: 1 event, 1 outcome"), "{out}{log}");
    assert!(log.contains("an event waits for its next attempt in module m"), "{log}");
}

/// What a module has left undone that the file does not have is counted, and is no failure of this pipeline.
#[test]
fn failures_of_other_modules_are_others() {
    let dir = TempDir::new().unwrap();
    for (name, command) in [("bad", "false"), ("good", "true")] {
        let file = format!(
            "[modules.{name}]\ncommand = '{command}'\nwrap = true\nsubscribes = 't'\npublishes = []\nmax-deliveries = 1\n"
        );
        fs::write(dir.path().join(format!("{name}.toml")), file).unwrap();
    }
    assert_eq!(output(&dir, &["pipeline", "bad.toml", "--value=k=v", "--id=g"]).0, 1);
    let (code, out, log) = output(&dir, &["pipeline", "good.toml"]);
    assert!(
        code == 0 && out.contains("1 event failed in modules that good.toml does not have (bad)"),
        "{out}{log}"
    );
    assert!(!out.contains("sidecar replay"), "{out}");
}

/// A type that nobody subscribes to, and that looks like one somebody does.
#[test]
fn a_misspelt_type_is_noticed_when_it_is_published() {
    let dir = TempDir::new().unwrap();
    let file = "[modules.a]\ncommand = ['sh', '-c', 'echo \"$EVENT\" > $SIDECAR_BASE_DIR/out/events/1.json']\n\
                environment = { EVENT = '[{\"key\":\"eventType\",\"value\":\"cleand\"}]' }\n\
                wrap = true\nsubscribes = 't'\n[modules.b]\ncommand = 'true'\nwrap = true\n\
                subscribes = 'cleaned'\npublishes = []\n";
    fs::write(dir.path().join("c.toml"), file).unwrap();
    let (code, _, log) = output(&dir, &["pipeline", "c.toml", "--value=k=v", "--type=t"]);
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("subscribes to \"cleand\"; did you mean \"cleaned\"?"), "{log}");
}

/// A mistake on the command line is no success without work.
#[test]
fn options_without_effect_are_mistakes() {
    let dir = chain("one\n");
    fs::create_dir(dir.path().join("folder")).unwrap();
    for flags in [
        &["--id=x"][..],
        &["--type=text"],
        &["--watch=folder", "--id=x", "--value=k=v"],
        &["--watch=folder", "--watch", "."],
        &["--input=a.txt", "--id=x", "--id=y"],
    ] {
        let (code, _, log) = output(&dir, &[&["pipeline", "chain.toml"], flags].concat());
        assert_eq!(code, 64, "{flags:?}: {log}");
    }
}

/// The report shows what the other modules have done, also if one cannot be started at all.
#[test]
fn a_module_that_cannot_be_started_does_not_hide_the_others() {
    let dir = TempDir::new().unwrap();
    let script = dir.path().join("bad");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, executable).unwrap();
    let file = "[modules.bad]\ncommand = './bad'\nwrap = true\nsubscribes = 'u'\npublishes = []\n\
                [modules.good]\ncommand = 'sh good.sh'\nwrap = true\nsubscribes = 't'\npublishes = ['u']\n";
    let good = "echo text > bad; echo '[{\"key\":\"eventType\",\"value\":\"u\"}]' > $SIDECAR_BASE_DIR/out/events/1.json";
    fs::write(dir.path().join("c.toml"), file).unwrap();
    fs::write(dir.path().join("good.sh"), good).unwrap();
    fs::write(dir.path().join("a.txt"), "a").unwrap();
    let (code, out, log) = output(&dir, &["pipeline", "c.toml", "--input=a.txt", "--type=t"]);
    assert!(
        code == 126 && out.contains("good") && log.contains("name its interpreter"),
        "{code}: {out}{log}"
    );
    // Before anything is submitted it is seen too.
    let (code, _, log) = output(&dir, &["pipeline", "c.toml", "--check"]);
    assert!(code == 64 && log.contains("name its interpreter"), "{log}");
}

/// What a pipeline refuses its replay refuses too.
#[test]
fn a_replay_may_publish_what_its_pipeline_may() {
    let dir = TempDir::new().unwrap();
    let file = r#"
[modules.m]
subscribes = "t"
publishes = ["known"]
wrap = true
max-deliveries = 1
command = ["sh", "-c", "echo '[{\"key\":\"eventType\",\"value\":\"other\"}]' > $SIDECAR_BASE_DIR/out/events/1.json"]
"#;
    fs::write(dir.path().join("p.toml"), file).unwrap();
    assert_eq!(output(&dir, &["pipeline", "p.toml", "--value=a=b", "--id=e1"]).0, 1);
    let replay = ["replay", "--development=true", "e1", "--context.name=m", "--pipeline", "p.toml"];
    let (code, _, log) = output(&dir, &replay);
    assert!(code == 1 && log.contains("event type \"other\" is not allowed"), "{code} {log}");
}

/// What is printed is pasted: it names this data plane and this file.
#[test]
fn the_commands_for_a_failed_event_work_as_they_are() {
    let dir = TempDir::new().unwrap();
    let file = "[modules.bad]\ncommand = 'false'\nwrap = true\nsubscribes = 't'\nmax-deliveries = 1\n";
    fs::write(dir.path().join("my c.toml"), file).unwrap();
    let stores = ["--blobs=file:s", "--documents", "file:s", "--events=file:s"];
    let flags = [&["pipeline", "my c.toml", "--value=a=b", "--id=e1"][..], &stores].concat();
    let (code, out, log) = output(&dir, &flags);
    assert_eq!(code, 1, "{out}{log}");
    let again = |what: &str| {
        let line = out.lines().find_map(|line| line.trim().strip_prefix(what)).unwrap().trim();
        let words = shlex::split(line).unwrap();
        let words: Vec<_> = words[1..].iter().map(String::as_str).collect();
        output(&dir, &words)
    };
    let (code, _, log) = again("again, for good:");
    assert_eq!(code, 0, "{log}");
    let (_, _, log) = again("again, alone:");
    assert!(log.contains("the module failed (exit code 1)"), "{log}");
    // The failures of everything that was submitted together, and what is missing of it.
    let (code, _, log) = output(&dir, &[&["failures", "--open", "e1"][..], &stores].concat());
    assert_eq!(code, 1, "{log}");
    let (code, _, log) = output(&dir, &[&["get", "--all", "e1", "all"][..], &stores].concat());
    assert!(code == 1 && log.contains("executions without an outcome, and so without files: 1"), "{log}");
}

#[test]
fn a_command_that_may_not_be_executed_is_found_before_anything_is_submitted() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("s.sh"), "#!/bin/sh\n").unwrap();
    let file = "[modules.m]\ncommand = './s.sh'\nwrap = true\nsubscribes = 't'\n";
    fs::write(dir.path().join("c.toml"), file).unwrap();
    let (code, _, log) = output(&dir, &["pipeline", "c.toml", "--check"]);
    assert!(code == 64 && log.contains("s.sh is not executable"), "{log}");
}

#[test]
fn a_memoized_module_says_its_version() {
    let dir = chain("");
    fs::write(dir.path().join("chain.toml"), CHAIN.replacen("wrap = true", "wrap = true\nmemoize = true", 1))
        .unwrap();
    let (code, _, log) = output(&dir, &["pipeline", "chain.toml", "--check"]);
    assert!(code == 64 && log.contains("say its version, as in version = \"1\""), "{log}");
}

const COPY: &str = "[modules.copy]\ncommand = ['sh', '-c', 'cp $SIDECAR_BASE_DIR/in/data/* $SIDECAR_BASE_DIR/out/data/; SLEEP']\n\
     wrap = true\nsubscribes = 'f'\npublishes = []\n";

/// Each content of each file once, wherever in the folder; and what could not be submitted at first is submitted later.
#[test]
fn a_watched_folder_loses_nothing_and_computes_nothing_twice() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("c.toml"), COPY.replace("; SLEEP", "")).unwrap();
    let folder = dir.path().join("folder");
    fs::create_dir_all(folder.join("below")).unwrap();
    let time = "2026-01-01T00:00:00Z";
    let put = |name: &str, content: &str| {
        let staged = dir.path().join("staged");
        fs::write(&staged, content).unwrap();
        assert!(Command::new("touch").args(["-d", time]).arg(&staged).status().unwrap().success());
        fs::rename(staged, folder.join(name)).unwrap();
    };
    put("a.txt", "AAAA");
    put("below/b.txt", "b");
    std::os::unix::fs::symlink("a.txt", folder.join("link.txt")).unwrap();
    let start = |away: bool| {
        let mut command = sidecar(&dir, &["pipeline", "c.toml", "--watch", "folder", "--retry-for=1s"]);
        if away {
            command.env("SIDECAR_FAULT_CALL", "store blobs 1").env("SIDECAR_FAULT_INJECT", "unavailable");
            command.env("SIDECAR_FAULT_FOR", "3000");
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let published = || fs::read_dir(dir.path().join("dev/published")).map_or(0, Iterator::count);
    let until = |count: usize| {
        let deadline = Instant::now() + Duration::from_secs(40);
        while published() < count {
            assert!(Instant::now() < deadline, "{} of {count}", published());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let stop = |child: std::process::Child| {
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        ended(&child.wait_with_output().unwrap())
    };
    let child = start(true);
    until(2);
    // As many bytes, and as old.
    put("a.txt", "BBBB");
    until(3);
    let (code, out, log) = stop(child);
    assert!(
        code == 0 && log.contains("is not submitted yet") && log.contains("link.txt is passed over"),
        "{log}"
    );
    assert!(log.contains("3 events") && out.contains("copy"), "{out}{log}");
    assert!(out.contains("a.txt:\n") && out.contains("below/b.txt:\n"), "{out}");
    // The same content is no new event, however old it looks.
    fs::write(folder.join("a.txt"), "BBBB").unwrap();
    let child = start(false);
    std::thread::sleep(Duration::from_secs(3));
    let (code, _, log) = stop(child);
    assert!(code == 0 && log.contains(": 0 events"), "{log}");
    assert_eq!(published(), 3);
}

/// Whoever cannot begin has not submitted anything.
#[test]
fn nothing_is_submitted_by_a_pipeline_that_cannot_begin() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("c.toml"), COPY.replace("SLEEP", "sleep 3")).unwrap();
    fs::write(dir.path().join("a.txt"), "a").unwrap();
    let (code, _, log) = output(&dir, &["pipeline", "c.toml", "--input", "a.txt", "--type", "g"]);
    assert!(code == 64 && log.contains("no module of c.toml subscribes to it, only to f"), "{log}");
    let (code, _, log) = output(&dir, &["pipeline", "c.toml", "--input", "a.txt", "--watch", "absent"]);
    assert!(code == 71 && log.contains("--watch absent"), "{log}");
    // It would feed itself.
    let (code, _, log) = output(&dir, &["pipeline", "c.toml", "--input", "a.txt", "--watch", "."]);
    assert!(code == 64 && log.contains("watch a folder beside it"), "{log}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, log) = output(&dir, &["pipeline", "c.toml", "--input", "a.txt", "--ui", &address]);
    assert!(code == 71 && log.contains(&address), "{log}");
    assert!(
        !dir.path().join("dev/contexts").exists()
            || fs::read_dir(dir.path().join("dev/contexts")).unwrap().count() == 0
    );
    let first =
        sidecar(&dir, &["pipeline", "c.toml", "--input", "a.txt"]).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while fs::read_dir(dir.path().join("dev/contexts")).map_or(0, Iterator::count) == 0 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    }
    let (code, _, log) = output(&dir, &["pipeline", "c.toml", "--input", "a.txt"]);
    assert!(code == 71 && log.contains("another pipeline works in"), "{log}");
    assert_eq!(ended(&first.wait_with_output().unwrap()).0, 0);
    assert_eq!(fs::read_dir(dir.path().join("dev/contexts")).unwrap().count(), 1);
}

/// A record that is damaged or gone is no outcome that never was.
#[test]
fn a_trace_notices_a_record_that_is_damaged_or_gone() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("c.toml"), COPY.replace("; SLEEP", "")).unwrap();
    fs::write(dir.path().join("a.txt"), "a").unwrap();
    assert_eq!(output(&dir, &["pipeline", "c.toml", "--input", "a.txt", "--id", "e"]).0, 0);
    let trace = |flags: &[&str]| output(&dir, &[&["trace", "--development=true", "e"], flags].concat());
    assert_eq!(trace(&["--verify"]).0, 0);
    let record = fs::read_dir(dir.path().join("dev/executions")).unwrap().next().unwrap().unwrap().path();
    for damage in [&b""[..], b"{\"format\":1"] {
        fs::write(&record, damage).unwrap();
        let (code, _, log) = trace(&[]);
        assert!(code == 66 && log.contains("is damaged"), "{log}");
        assert_eq!(output(&dir, &["get", "--development=true", "--all", "e", "copy"]).0, 66);
    }
    fs::remove_file(&record).unwrap();
    let (code, _, log) = trace(&["--verify"]);
    assert!(code == 66 && log.contains("it was published, and is gone"), "{log}");
}

/// Ctrl-C on a terminal is for the pipeline: its modules go on.
#[test]
fn a_module_does_not_notice_the_ctrl_c_that_stops_its_pipeline() {
    let has_script =
        Command::new("script").arg("--version").output().is_ok_and(|found| found.status.success());
    if !has_script {
        eprintln!("skipped: a terminal needs the program script: apt install bsdutils");
        return;
    }
    let dir = TempDir::new().unwrap();
    fs::write(
        dir.path().join("c.toml"),
        COPY.replace("SLEEP", "touch begun; sleep 3; echo whole > $SIDECAR_BASE_DIR/out/data/whole"),
    )
    .unwrap();
    fs::write(dir.path().join("a.txt"), "a").unwrap();
    let sidecar = env!("CARGO_BIN_EXE_sidecar");
    // Printed by the shell: the code of `script` is not only that of what it runs.
    let line = format!("trap : INT; {sidecar} pipeline c.toml --input a.txt --id e; echo the code is $?");
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &line, "/dev/null"]).current_dir(dir.path()).env("SHELL", "/bin/sh");
    let mut terminal = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !dir.path().join("begun").exists() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut keys = terminal.stdin.take().unwrap();
    std::io::Write::write_all(&mut keys, b"\x03").unwrap();
    let ended = terminal.wait_with_output().unwrap();
    drop(keys);
    let shown = String::from_utf8_lossy(&ended.stdout);
    let is_drained = shown.contains("no more events are received");
    assert!(is_drained && shown.contains("the code is 0"), "{} {shown}", ended.status);
    let files = crate::process::committed(&dir, "e/copy");
    assert!(files.contains(&("whole".to_owned(), "whole\n".to_owned())), "{files:?} {shown}");
}

const WARM: &str = r#"
import json, os, time, urllib.request as http
time.sleep(1.5)
event = None
while True:
    request = http.Request("http://127.0.0.1:%s/next" % os.environ["SIDECAR_PORT"], json.dumps(event).encode(),
                           {"secret": os.environ["SHARED_SECRET"]}, method="POST")
    answer = http.urlopen(request)
    if answer.status == 204:
        break
    event = json.load(answer)["eventId"]
"#;

/// While a module is loading a pipeline is not done with what is queued for it.
#[test]
fn a_pipeline_waits_for_modules_that_are_loading() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("warm.py"), WARM).unwrap();
    let file = "[modules.warm]\ncommand = \"python3 warm.py\"\nsubscribes = \"t\"\nwarm = true\n";
    fs::write(dir.path().join("p.toml"), file).unwrap();
    let submit = ["submit", "--development=true", "--type=t", "--value=k=v", "--id=e"];
    assert_eq!(output(&dir, &submit).0, 0);
    let (code, _, log) = output(&dir, &["pipeline", "p.toml"]);
    assert_eq!(code, 0, "{log}");
    let (_, tree, _) = output(&dir, &["trace", "--development=true", "e"]);
    assert!(tree.contains("1 event, 1 outcome"), "{tree}{log}");
}

/// One that can never load ends the pipeline, with what it said last.
#[test]
fn a_pipeline_gives_up_a_module_that_cannot_load() {
    let dir = TempDir::new().unwrap();
    let file = "[modules.warm]\ncommand = [\"sh\", \"-c\", \"echo no such model; exit 3\"]\nsubscribes = \"t\"\nwarm = true\n";
    fs::write(dir.path().join("p.toml"), file).unwrap();
    let (code, _, log) = output(&dir, &["pipeline", "p.toml", "--type=t", "--value=k=v"]);
    assert_ne!(code, 0, "{log}");
    assert!(log.contains("ended 5 times before it asked for an event"), "{log}");
    assert!(log.contains("exit code 3: no such model"), "{log}");
}

/// Whoever changes what a record, a context or a file says of another is found out.
#[test]
fn a_trace_compares_what_is_said_of_one_file_in_several_places() {
    type Change = fn(&Path);
    let replace = |path: &Path, from: &str, to: &str| {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    };
    // The context of an event that `split` published, and the record of `count`.
    let context = |dir: &Path| published_context(dir);
    let changes: [(&str, Change, &str); 3] = [
        ("the context is gone", |dir| fs::remove_file(published_context(dir)).unwrap(), "this is gone"),
        ("the context has another digest", |_| {}, "instead of"),
        ("the record has another digest", |_| {}, "instead of"),
    ];
    for (what, change, says) in changes {
        let dir = chain("one\n");
        assert_eq!(output(&dir, &["pipeline", "chain.toml", "--input", "a.txt", "--id=a"]).0, 0);
        let verify = || output(&dir, &["trace", "--development=true", "a", "--verify"]);
        assert_eq!(verify().0, 0, "{what}");
        change(dir.path());
        if what == "the context has another digest" {
            replace(&context(dir.path()), "blake3:", "blake3:00000000");
            let text = fs::read_to_string(context(dir.path())).unwrap();
            let at = text.find("blake3:").unwrap() + "blake3:".len() + 64;
            fs::write(context(dir.path()), format!("{}{}", &text[..at], &text[at + 8..])).unwrap();
        }
        if what == "the record has another digest" {
            let records = crate::process::files(dir.path().join("dev/executions"));
            let (name, text) = records.iter().find(|(_, text)| text.contains("\"upper\"")).unwrap();
            let mut record: Value = serde_json::from_str(text).unwrap();
            record["inputs"][0]["digest"] = format!("blake3:{}", "0".repeat(64)).into();
            fs::write(dir.path().join("dev/executions").join(name), record.to_string()).unwrap();
        }
        let (code, _, log) = verify();
        assert!(code == 66 && log.contains(says), "{what}: {log}");
        if what == "the record has another digest" {
            let trace = trace(&dir, "a");
            let event =
                trace["executions"].as_array().unwrap().iter().find(|of| of["module"] == "upper").unwrap();
            let event = event["eventId"].as_str().unwrap();
            let (code, _, log) = output(
                &dir,
                &["replay", "--development=true", event, "--context.name=upper", "--pipeline=chain.toml"],
            );
            assert!(code == 2 && log.contains("instead of"), "{code} {log}");
        }
    }
}

/// The context of an event that a module published.
fn published_context(dir: &Path) -> std::path::PathBuf {
    let contexts = crate::process::files(dir.join("dev/contexts"));
    let (name, _) = contexts.iter().find(|(_, text)| text.contains("\"split\"")).unwrap();
    dir.join("dev/contexts").join(name)
}

/// Nobody works on an event whose message was settled: to wait for it would never end.
#[test]
fn an_event_whose_outcome_was_deleted_does_not_keep_a_pipeline() {
    let dir = chain("one\n");
    let pipeline = || output(&dir, &["pipeline", "chain.toml", "--input", "a.txt", "--id=a"]);
    assert_eq!(pipeline().0, 0);
    std::thread::sleep(Duration::from_millis(1100));
    let gc = ["gc", "--development=true", "--outcomes", "--delete", "--older-than=module:count=1s"];
    assert_eq!(output(&dir, &gc).0, 0);
    let (code, _, log) = pipeline();
    assert!(code == 1 && log.contains("its message was settled before"), "{log}");
    assert!(log.contains("event a was submitted before"), "{log}");
}

#[test]
fn a_copy_of_everything_says_what_is_missing() {
    let dir = chain("one\ntwo\n");
    assert_eq!(output(&dir, &["pipeline", "chain.toml", "--input", "a.txt", "--id=a"]).0, 0);
    let get = |to: &str| output(&dir, &["get", "--development=true", "--all", "a", to]);
    assert_eq!(get("whole").0, 0);
    let records = crate::process::files(dir.path().join("dev/executions"));
    let (name, _) = records.iter().find(|(_, text)| text.contains("\"count\"")).unwrap();
    // As if the machine had died before it was decided.
    for kind in ["executions", "published"] {
        fs::remove_file(dir.path().join("dev").join(kind).join(name)).unwrap();
    }
    let (code, _, log) = get("part");
    assert!(code == 1 && log.contains("executions without an outcome, and so without files: 1"), "{log}");
    // What is decided is not yet with its consumers.
    for (name, _) in crate::process::files(dir.path().join("dev/published")) {
        fs::remove_file(dir.path().join("dev/published").join(name)).unwrap();
    }
    let (code, _, log) = get("unpublished");
    assert!(code == 1 && log.contains("decided and not published yet, and so have no consumers: 1"), "{log}");
}

#[test]
fn a_rule_for_a_misspelt_module_deletes_nothing() {
    let dir = chain("one\n");
    assert_eq!(output(&dir, &["pipeline", "chain.toml", "--input", "a.txt", "--id=a"]).0, 0);
    let gc = |rule: &str| {
        let flags =
            ["gc", "--development=true", "--outcomes", "--delete", "--older-than=0s", "--older-than", rule];
        output(&dir, &flags)
    };
    let gc_shown = |rule: &str| {
        output(&dir, &["gc", "--development=true", "--outcomes", "--older-than=0s", "--older-than", rule])
    };
    for (rule, meant) in [("module:coumt=9d", "count"), ("type:upperr=9d", "upper")] {
        let (code, _, log) = gc(rule);
        assert!(code == 64 && log.contains(&format!("did you mean {meant}? Nothing was deleted")), "{log}");
    }
    assert_eq!(output(&dir, &["trace", "--development=true", "a"]).0, 0);
    // One that differs in a digit, or in more than a slip, is another module.
    for rule in ["module:count2=9d", "module:counter-of-lines=9d"] {
        let (code, _, log) = gc_shown(rule);
        assert!(code == 0 && log.contains("there is no outcome of it"), "{log}");
    }
    let (code, _, log) = gc("module:something-else=9d");
    assert!(code == 0 && log.contains("there is no outcome of it"), "{log}");
}

/// A slot that holds a commit of stores that were moved can work on nothing else.
#[test]
fn a_commit_of_a_moved_data_plane_ends_the_pipeline() {
    let dir = chain("one\n");
    let pipeline = ["pipeline", "chain.toml"];
    let mut first = sidecar(&dir, &pipeline);
    first.args(["--input", "a.txt", "--id=a"]);
    first.env("SIDECAR_FAULT_AT", "journal.deciding.after 1").env("SIDECAR_FAULT_SIGNAL", "KILL");
    assert_eq!(first.output().unwrap().status.code(), None);
    let (plane, moved) = (dir.path().join("dev"), dir.path().join("moved"));
    fs::rename(&plane, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &plane).unwrap();
    let (code, _, log) = output(&dir, &pipeline);
    assert!(code == 71 && log.contains("move them back"), "{code} {log}");
    fs::remove_file(&plane).unwrap();
    fs::rename(&moved, &plane).unwrap();
    let (code, out, log) = output(&dir, &pipeline);
    assert!(code == 0 && out.contains("a: 3 events, 3 outcomes"), "{out}{log}");
}
