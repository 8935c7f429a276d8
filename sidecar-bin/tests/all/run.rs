//! `sidecar run`: sidecar and module as one process to the outside.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::examples::available;
use crate::process::{
    CONTEXT, DEADLINE, Serving, as_nobody, base, blobs, committed, ended, files, output, sidecar, skip,
};

fn run(dir: &TempDir, flags: &[&str], script: &str) -> (i32, String, String) {
    let mut command = sidecar(dir, &["run"]);
    ended(&command.args(CONTEXT).args(flags).args(["--", "sh", "-c", script]).output().unwrap())
}

const WRITE: &str = "cd $SIDECAR_BASE_DIR && test -f in/meta.json && echo hello > out/data/a &&
    echo '[{\"key\":\"eventType\",\"value\":\"t\"},{\"key\":\"files\",\"value\":\"a\"}]' > out/events/1.json";

#[test]
fn wrap_needs_no_code_in_the_module() {
    let dir = TempDir::new().unwrap();
    let (code, _, log) = run(&dir, &["--wrap"], WRITE);
    assert_eq!(code, 0, "{log}");
    assert_eq!(files(dir.path().join("dev/events")).len(), 1);
    assert_eq!(committed(&dir, "e1/m"), [("a".to_owned(), "hello\n".to_owned())]);
}

#[test]
fn inputs_come_from_the_cache_once_they_were_fetched() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("input"), "content").unwrap();
    let (code, event, log) = output(&dir, &["submit", "--development", "input"]);
    assert_eq!(code, 0, "{log}");
    for (name, said) in [("m1", false), ("m2", true)] {
        let (code, _, log) = output(
            &dir,
            &[
                "run",
                "--wrap",
                "--development",
                "--cache=kept",
                &format!("--context.eventid={}", event.trim()),
                &format!("--context.name={name}"),
                "--",
                "sh",
                "-c",
                "grep content $SIDECAR_BASE_DIR/in/data/input",
            ],
        );
        assert_eq!(code, 0, "{log}");
        assert_eq!(log.contains("from the cache: 1"), said, "{log}");
    }
}

#[test]
fn an_event_refers_to_files_where_they_lie() {
    let dir = TempDir::new().unwrap();
    let lake = dir.path().join("lake");
    fs::create_dir(&lake).unwrap();
    fs::write(lake.join("a b"), "content").unwrap();
    let references = format!("--references=file://{}", lake.display());
    let url = format!("file://{}/a b", lake.display());
    let submit = ["submit", "--development", &references, "--reference", &format!("x/y={url}")];
    let (code, event, log) = output(&dir, &submit);
    assert_eq!(code, 0, "{log}");
    assert!(!dir.path().join("dev/blobs/").join(event.trim()).exists());
    let stage = |flags: &[&str]| {
        let event = format!("--context.eventid={}", event.trim());
        let script = "grep content $SIDECAR_BASE_DIR/in/data/x/y";
        let run = ["run", "--wrap", "--development", "--rerun", &event, "--context.name=m"];
        output(&dir, &[&run[..], flags, &["--", "sh", "-c", script]].concat())
    };
    let (code, _, log) = stage(&[]);
    assert_eq!(code, 66, "{log}");
    assert!(log.contains("say --references file:///directory"), "{log}");
    let (code, _, log) = stage(&[&references]);
    assert_eq!(code, 0, "{log}");
    let (code, tree, _) = output(&dir, &["trace", "--development", event.trim()]);
    assert!(code == 0 && tree.contains("1 file, 7 B"), "{tree}");
    // A worker that may not read it gives the event up, and works on others.
    let worker =
        ["worker", "--development", "--subscribe=submitted", "--once", "--max-deliveries=1", "--wrap"];
    let (_, _, log) = output(&dir, &[&worker[..], &["--context.name=w", "--", "true"]].concat());
    assert!(log.contains("which cannot be fetched"), "{log}");
    assert!(output(&dir, &["dead", "list", "--development"]).1.contains("/w"));
    fs::write(lake.join("a b"), "another content").unwrap();
    let (code, _, log) = stage(&[&references]);
    assert_eq!(code, 66, "{log}");
    assert!(log.contains("it was changed or replaced after the event was submitted"), "{log}");
    for (reference, code, says) in [
        (format!("file://{}/none", lake.display()), 66, "none"),
        ("s3://bucket/key".to_owned(), 66, "add it to --references"),
    ] {
        let (found, out, log) =
            output(&dir, &["submit", "--development", &references, "--reference", &reference]);
        assert!(found == code && log.contains(says) && out.is_empty(), "{log}");
    }
}

/// A module that has done its part, and does not end.
#[test]
fn a_process_that_stays_after_its_last_call_falls_under_the_timeout() {
    let client = "call() { python3 -c \"import urllib.request, os, sys
request = urllib.request.Request('http://127.0.0.1:' + os.environ['SIDECAR_PORT'] + sys.argv[1], method=sys.argv[2])
request.add_header('secret', os.environ['SHARED_SECRET'])
urllib.request.urlopen(request).read()\" $1 $2; }";
    for (call, code, says) in
        [("/done GET", 0, "after its outcome was decided"), ("/fail POST", 1, "after it had given up")]
    {
        let dir = TempDir::new().unwrap();
        let script = format!("{client}; call /ready GET && call {call} && sleep 60");
        let (ended_with, _, log) = run(&dir, &["--module-timeout=3s"], &script);
        assert!(ended_with == code && log.contains(says), "{ended_with} {log}");
    }
}

#[test]
fn what_the_collector_is_asked_with_is_none_of_the_modules_business() {
    let dir = TempDir::new().unwrap();
    let mut command = sidecar(&dir, &["run", "--wrap"]);
    command.args(CONTEXT).args(["--", "sh", "-c", "env > $SIDECAR_BASE_DIR/out/data/env"]);
    command
        .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic TOPSECRET99")
        .env("OTEL_SERVICE_NAME", "own");
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:TOPSECRET99@127.0.0.1:1");
    let (code, _, log) = ended(&command.output().unwrap());
    assert_eq!(code, 0, "{log}");
    assert!(!log.contains("TOPSECRET99") && log.contains("spans are lost"), "{log}");
    let committed = committed(&dir, "e1/m");
    assert!(
        !committed[0].1.contains("HEADERS") && committed[0].1.contains("OTEL_SERVICE_NAME=own"),
        "{committed:?}"
    );
}

/// A graph whose first event has no document: only the earlier run knows its correlation id.
#[test]
fn another_run_stays_in_the_graph_of_the_first_one() {
    let dir = TempDir::new().unwrap();
    let script = &["run", "--wrap", "--development", "--context.eventid=e", "--context.name=m"];
    let first = [&script[..], &["--context.correlationid=graph", "--", "true"]].concat();
    assert_eq!(output(&dir, &first).0, 0);
    assert_eq!(output(&dir, &[&script[..], &["--rerun", "--", "true"]].concat()).0, 0);
    let (_, trace, _) = output(&dir, &["trace", "--development", "--format=json", "graph"]);
    let trace: Value = serde_json::from_str(&trace).unwrap();
    assert_eq!(trace["executions"].as_array().unwrap().len(), 2, "{trace}");
}

#[test]
fn it_exits_with_the_code_of_the_module() {
    let dir = TempDir::new().unwrap();
    for flags in [&["--wrap"][..], &[]] {
        let (code, _, log) = run(&dir, flags, &format!("{WRITE}; exit 3"));
        assert_eq!(code, 3, "{log}");
        assert_eq!(files(dir.path().join("dev/events")), []);
    }
    assert_eq!(run(&dir, &["--wrap"], "kill -9 $$").0, 128 + 9);
}

#[test]
fn a_module_that_never_calls_done_is_told_so() {
    let dir = TempDir::new().unwrap();
    let (code, _, log) = run(&dir, &[], "true");
    assert_eq!(code, 1);
    assert!(log.contains("without calling done") && log.contains("--wrap"), "{log}");
}

#[test]
fn invalid_outputs_and_unknown_commands_have_their_codes() {
    let dir = TempDir::new().unwrap();
    let (code, _, log) = run(&dir, &["--wrap"], "echo '[]' > $SIDECAR_BASE_DIR/out/events/1.json");
    assert_eq!(code, 65);
    assert!(log.contains("out/events/1.json:1:1"), "{log}");
    let mut command = sidecar(&dir, &["run"]);
    let (code, _, log) = ended(&command.args(CONTEXT).args(["--", "/no/such/command"]).output().unwrap());
    assert_eq!(code, 127);
    assert!(log.contains("cannot start /no/such/command"), "{log}");
}

#[test]
fn outputs_in_the_wrong_place_are_named() {
    let dir = TempDir::new().unwrap();
    let (code, _, log) = run(&dir, &["--wrap"], "cd $SIDECAR_BASE_DIR/out && touch result.txt .hidden");
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("WARN not committed") && log.contains(": out/result.txt\n"), "{log}");
    let (code, _, log) = run(&dir, &["--wrap", "--rerun"], "test ! -e $SIDECAR_BASE_DIR/out/result.txt");
    assert!(code == 0 && !log.contains("not committed"), "{log}");
    assert!(base(&dir).join("out/.previous/1/result.txt").exists());
}

#[test]
fn a_file_in_place_of_a_directory_is_a_problem_of_this_execution_alone() {
    let dir = TempDir::new().unwrap();
    for place in ["data", "events"] {
        let script = format!("cd $SIDECAR_BASE_DIR/out && rmdir {place} && echo x > {place}");
        let (code, _, log) = run(&dir, &["--wrap"], &script);
        assert!(code == 65 && log.contains(&format!("out/{place}")), "{log}");
        let (code, _, log) = ended(&sidecar(&dir, &CONTEXT).arg("commit").output().unwrap());
        assert!(code == 65 && log.contains(&format!("out/{place}")), "{log}");
    }
    assert_eq!(run(&dir, &["--wrap"], WRITE).0, 0);
}

/// Some programs make the directories that they write read-only; what they hold is removed all the same.
#[test]
fn directories_that_cannot_be_written_hinder_nobody() {
    let dir = TempDir::new().unwrap();
    let Some(as_nobody) = as_nobody(&dir) else { return };
    let script = "cd $SIDECAR_BASE_DIR/out && mkdir -p data/d/e stray && echo x > data/d/e/x &&
        chmod 555 data/d/e data/d data stray";
    let run = |event: &str, script: &str| {
        let event = format!("--context.eventid={event}");
        let run =
            ["run", "--wrap", "--development=true", "--context.name=m", &event, "--", "sh", "-c", script];
        ended(&as_nobody(&mut sidecar(&dir, &run)))
    };
    let (code, _, log) = run("e1", script);
    assert!(code == 0 && !log.contains("could not be"), "{log}");
    assert_eq!(run("e2", &format!("{script}; exit 1")).0, 1);
    let (code, _, log) = run("e3", script);
    assert!(code == 0 && !log.contains("could not be"), "{log}");
    assert_eq!(files(dir.path().join("dev/blobs")).len(), 2);
    assert!(!base(&dir).join(".sidecar/trash").exists());
}

#[test]
fn what_is_committed_is_not_run_again_unless_told() {
    let dir = TempDir::new().unwrap();
    run(&dir, &["--wrap"], WRITE);
    let count = "echo ran >> $SIDECAR_BASE_DIR/../../../count";
    assert_eq!(run(&dir, &["--wrap"], count).0, 0);
    assert!(!dir.path().join("count").exists());
    assert_eq!(run(&dir, &["--wrap", "--rerun"], count).0, 0);
    assert_eq!(fs::read_to_string(dir.path().join("count")).unwrap(), "ran\n");
}

#[test]
fn an_attempt_does_not_inherit_what_a_failed_one_wrote() {
    let dir = TempDir::new().unwrap();
    assert_eq!(
        run(
            &dir,
            &["--wrap"],
            "echo '[]' > $SIDECAR_BASE_DIR/out/events/bad.json; echo x > $SIDECAR_BASE_DIR/out/data/stale"
        )
        .0,
        65
    );
    assert_eq!(run(&dir, &[], "true").0, 1);
    let (code, _, log) = run(&dir, &["--wrap"], WRITE);
    assert_eq!(code, 0, "{log}");
    assert_eq!(blobs(&dir), ["e1/m/~0-ID/a"]);
    assert!(base(&dir).join("out/.previous/1/data/stale").exists());
}

#[test]
fn the_settings_of_the_sidecar_are_not_the_modules() {
    let dir = TempDir::new().unwrap();
    let mut command = sidecar(&dir, &["run", "--wrap"]);
    command.args(CONTEXT).env("SIDECAR_GRACE", "7s").args(["--", "env"]);
    let (code, out, log) = ended(&command.output().unwrap());
    assert_eq!(code, 0, "{log}");
    assert!(out.contains("SIDECAR_PORT=") && !out.contains("SIDECAR_GRACE"), "{out}");
}

#[test]
fn a_value_is_not_taken_for_the_command() {
    let dir = TempDir::new().unwrap();
    let mut command = sidecar(&dir, &["run", "--wrap", "--development", "true", "--", "echo", "hi"]);
    assert_eq!(ended(&command.output().unwrap()).0, 64);
}

/// A run whose module is at work, and the first line that it prints.
fn until_it_prints(mut command: Command) -> (Serving, String) {
    let (mut stdout, mut line) = (None, String::new());
    command.stdout(Stdio::piped());
    let serving = Serving::spawn_with(command, |child| stdout = child.stdout.take());
    BufReader::new(stdout.unwrap()).read_line(&mut line).unwrap();
    (serving, line)
}

/// A run as soon as no earlier module is at work any more.
fn run_when_free(dir: &TempDir, deadline: Instant) -> (i32, String, String) {
    loop {
        let ended = run(dir, &["--wrap"], WRITE);
        if ended.0 != 71 || Instant::now() > deadline {
            return ended;
        }
    }
}

#[test]
fn signals_reach_the_module() {
    let dir = TempDir::new().unwrap();
    let mut command = sidecar(&dir, &["run"]);
    let script = "trap 'exit 7' TERM; echo started; for i in $(seq 600); do sleep 0.05; done";
    command.args(CONTEXT).args(["--", "sh", "-c", script]);
    let (serving, line) = until_it_prints(command);
    assert_eq!(line, "started\n");
    serving.signal("TERM");
    let (code, log) = serving.end();
    assert_eq!(code, 7, "{log}");
    // Whoever ends a job does not say that it failed.
    assert!(log.contains("nothing is lost") && !log.contains("failed"), "{log}");
    assert_eq!(files(dir.path().join("dev/failures")), []);
    assert_eq!(run(&dir, &["--wrap"], WRITE).0, 0);
}

/// Two modules at once would write into the same outputs.
#[test]
fn a_run_that_was_killed_is_not_begun_anew_beside_its_module() {
    let dir = TempDir::new().unwrap();
    let mut command = sidecar(&dir, &["run", "--wrap"]);
    // What holds the lock in the end is not even the module, but what it started.
    let script = "(i=0; until test -e end || test $i -gt 600; do i=$((i+1)); sleep 0.05; done; echo late > $SIDECAR_BASE_DIR/out/data/late;
        rm end) & echo $$; wait";
    command.args(CONTEXT).args(["--", "sh", "-c", script]);
    let (serving, module) = until_it_prints(command);
    let (code, _, log) = run(&dir, &["--wrap"], WRITE);
    assert!(code == 71 && log.contains("another sidecar works"), "{code}: {log}");
    serving.signal("KILL");
    drop(serving);
    for attempt in 0..2 {
        let (code, _, log) = run(&dir, &["--wrap"], WRITE);
        assert!(code == 71 && log.contains("the module of an earlier run"), "{attempt}: {code}: {log}");
        if attempt == 0 {
            let killed = Command::new("kill").arg(module.trim()).status();
            assert!(killed.unwrap().success());
        }
    }
    // Nothing that it may still need was touched.
    assert!(base(&dir).join("in/meta.json").exists() && !base(&dir).join("out/.previous").exists());

    fs::write(dir.path().join("end"), "").unwrap();
    let deadline = Instant::now() + DEADLINE;
    while dir.path().join("end").exists() {
        assert!(Instant::now() < deadline, "the module does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    // It removed the file and is about to exit.
    let (code, _, log) = run_when_free(&dir, deadline);
    assert_eq!(code, 0, "{log}");
    assert!(base(&dir).join("out/.previous/1/data/late").exists());
    assert_eq!(blobs(&dir), ["e1/m/~0-ID/a"]);
}

/// A shell dies of a signal at once, and what it was waiting for would work on.
#[test]
fn what_a_module_started_ends_with_it_when_it_is_told_to() {
    for (script, grace) in [
        ("sleep 60 & echo started; wait", "30s"),
        ("trap '' TERM; sleep 60 & echo started; wait; wait", "200ms"),
    ] {
        let dir = TempDir::new().unwrap();
        let mut command = sidecar(&dir, &["run", "--grace", grace]);
        command.args(CONTEXT).args(["--", "sh", "-c", script]);
        let (serving, _) = until_it_prints(command);
        let started = Instant::now();
        serving.signal("TERM");
        let (code, log) = serving.end();
        assert!(started.elapsed() < Duration::from_secs(10), "{log}");
        assert_eq!(code, if grace == "30s" { 143 } else { 137 }, "{log}");
        let (code, _, log) = run(&dir, &["--wrap"], WRITE);
        assert_eq!(code, 0, "{log}");
    }
}

#[test]
fn a_command_that_cannot_be_started_is_found_before_anything_is_staged() {
    for (command, code) in [("no-such-command", 127), ("./no/such/command", 127), ("/etc/passwd", 126)] {
        let dir = TempDir::new().unwrap();
        let (ended_with, _, log) =
            ended(&sidecar(&dir, &["run", "--wrap"]).args(CONTEXT).args(["--", command]).output().unwrap());
        assert!(ended_with == code && log.contains("cannot start"), "{ended_with}: {log}");
        assert!(!base(&dir).join("in/meta.json").exists());
    }
}

#[test]
fn what_the_sidecar_was_started_with_does_not_cost_the_exit_code() {
    let dir = TempDir::new().unwrap();
    let started = |begin: &str, script: &str| {
        let line =
            format!("{begin}; exec \"$0\" run --development=true --context.name=m -- sh -c '{script}'");
        let mut command = Command::new("bash");
        command.args(["-c", &line, env!("CARGO_BIN_EXE_sidecar")]).current_dir(dir.path());
        ended(&command.stdin(std::process::Stdio::null()).output().unwrap())
    };
    // SIGCHLD ignored, as some supervisors leave it.
    assert_eq!(started("trap '' CHLD", "exit 7").0, 7);
    // The limit of open files is what it was.
    let (_, out, _) = started("ulimit -Sn 321", "ulimit -Sn");
    assert_eq!(out, "321\n");
    // Under nohup a hang-up is nothing.
    let (code, _, log) = started("trap '' HUP", "kill -HUP $PPID; sleep 0.2; exit 5");
    assert_eq!(code, 5, "{log}");
}

#[test]
fn what_a_module_leaves_running_on_purpose_hinders_nobody() {
    let dir = TempDir::new().unwrap();
    let started = Instant::now();
    // Its streams closed, so that nobody waits for their end.
    assert_eq!(run(&dir, &["--wrap"], "sleep 5 > /dev/null 2>&1 < /dev/null &").0, 0);
    assert_eq!(run(&dir, &["--wrap", "--rerun"], WRITE).0, 0);
    assert!(started.elapsed() < Duration::from_secs(5));
}

/// Whoever makes a link in place of a directory would choose what is moved, made and written.
#[test]
fn links_of_the_module_lead_the_sidecar_nowhere() {
    // The last one is removed when the module has ended.
    for (link, code) in
        [("out", 71), ("out/.previous", 71), (".sidecar/lock", 71), (".sidecar/module.lock", 0)]
    {
        let dir = TempDir::new().unwrap();
        let victim = dir.path().join("victim");
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("file"), "precious").unwrap();
        let target = if link.ends_with("lock") { victim.join("file") } else { victim.clone() };
        let target = target.display();
        let script = format!(
            "cd $SIDECAR_BASE_DIR && echo x > out/data/x && rm -rf {link} && ln -s {target} {link}; exit 1"
        );
        run(&dir, &["--wrap"], &script);
        let (ended, _, log) = run(&dir, &["--wrap"], WRITE);
        assert_eq!(ended, code, "{link}: {log}");
        assert_eq!(files(victim), [("file".to_owned(), "precious".to_owned())], "{link}: {log}");
    }
}

#[test]
fn a_module_that_ends_well_when_it_is_told_to_has_neither_failed_nor_finished() {
    for flags in [&["run"][..], &["run", "--wrap"]] {
        told_to_end(flags);
    }
}

fn told_to_end(flags: &[&str]) {
    let dir = TempDir::new().unwrap();
    let mut command = sidecar(&dir, flags);
    let script = "echo half > $SIDECAR_BASE_DIR/out/data/half; trap 'exit 0' TERM; echo started;
        for i in $(seq 600); do sleep 0.05; done";
    command.args(CONTEXT).args(["--", "sh", "-c", script]);
    let (serving, _) = until_it_prints(command);
    serving.signal("TERM");
    let (code, log) = serving.end();
    assert_eq!(code, 143, "{log}");
    assert_eq!(files(dir.path().join("dev/failures")), []);
    assert_eq!(files(dir.path().join("dev/blobs")), []);
}

#[test]
fn the_module_finds_its_sidecar_in_the_environment() {
    let dir = TempDir::new().unwrap();
    let script = "test \"$SIDECAR_BASE_DIR\" = \"$PWD/dev/modules/m\" && test -n \"$SIDECAR_PORT\" && echo \"$SHARED_SECRET\"";
    let (_, out, log) = run(&dir, &["--wrap", "--sharedsecret=swordfish"], script);
    assert_eq!(out, "swordfish\n", "{log}");
    assert!(!log.contains("swordfish"));
    assert!(base(&dir).join("in/meta.json").exists());
}

/// A call of the sidecar from bash.
fn call(path: &str) -> String {
    format!(
        "exec 3<>/dev/tcp/127.0.0.1/$SIDECAR_PORT && printf 'GET /{path} HTTP/1.1\\r\\nHost: localhost\\r\\nsecret: %s\\r\\nConnection: close\\r\\n\\r\\n' \"$SHARED_SECRET\" >&3 && cat <&3"
    )
}

#[test]
fn a_module_that_ends_though_done_was_refused_is_told_why() {
    if !available("bash") {
        return;
    }
    let broken = "echo '{' > $SIDECAR_BASE_DIR/out/meta.json";
    let script = format!("{}; {broken}; {}", call("ready"), call("done"));
    for (exit, code, culprit) in [("", 65, "outputs"), ("; exit 3", 3, "module")] {
        let dir = TempDir::new().unwrap();
        let mut command = sidecar(&dir, &["run"]);
        command.args(CONTEXT).args(["--", "bash", "-c", &format!("{script}{exit}")]);
        let (ended_with, out, log) = ended(&command.output().unwrap());
        assert!(out.contains("422 Unprocessable Entity"), "{out}\n{log}");
        assert_eq!(ended_with, code, "{log}");
        assert!(!log.contains("without calling done"), "{log}");
        let failure: Value = serde_json::from_str(&files(dir.path().join("dev/failures"))[0].1).unwrap();
        assert_eq!(failure["culprit"], culprit);
        assert!(failure["reason"].as_str().unwrap().contains("out/meta.json"), "{failure}");
    }
}

/// The module is told that the bus is away, does not look, and ends well.
#[test]
fn what_began_to_publish_is_finished_though_the_module_does_not_ask_again() {
    if !available("bash") {
        return;
    }
    let script = format!("{}; {WRITE}; {}", call("ready"), call("done"));
    for (exit, code) in [("", 0), ("; exit 3", 3)] {
        let dir = TempDir::new().unwrap();
        let mut command = sidecar(&dir, &["run"]);
        command.args(CONTEXT).args(["--", "bash", "-c", &format!("{script}{exit}")]);
        command.env("SIDECAR_FAULT_CALL", "publish events 1").env("SIDECAR_FAULT_INJECT", "unavailable");
        let (ended_with, out, log) = ended(&command.output().unwrap());
        assert!(out.contains("503 Service Unavailable"), "{out}\n{log}");

        assert_eq!(ended_with, code, "{log}");
        assert_eq!(files(dir.path().join("dev/events")).len(), 1);
        assert_eq!(files(base(&dir).join("out")), []);
    }
}

/// The trace says why nothing follows: the outcome is decided, and the bus was away.
#[test]
fn a_trace_says_what_is_not_published() {
    let dir = TempDir::new().unwrap();
    let mut command = sidecar(&dir, &["run"]);
    command.args(CONTEXT).args(["--wrap", "--retry-for=1s", "--", "sh", "-c", WRITE]);
    command.env("SIDECAR_FAULT_CALL", "publish events 1").env("SIDECAR_FAULT_INJECT", "unavailable");
    let (code, _, log) = ended(&command.env("SIDECAR_FAULT_FOR", "600000").output().unwrap());
    assert_eq!(code, 69, "{log}");
    let trace = || output(&dir, &["trace", "--development=true", "c1"]).2;
    assert!(
        trace().contains("the outcome of e1/m is decided, and its events are not published"),
        "{}",
        trace()
    );
    assert_eq!(output(&dir, &["recover", "--development=true"]).0, 0);
    assert!(!trace().contains("not published"), "{}", trace());
}

#[test]
fn a_low_limit_of_open_files_is_enough() {
    let dir = TempDir::new().unwrap();
    let event = "[{\\\"key\\\":\\\"eventType\\\",\\\"value\\\":\\\"t\\\"}]";
    let script = format!(
        "ulimit -Hn 256; exec \"$0\" run --wrap --development=true --context.name=m -- sh -c \
         'cd $SIDECAR_BASE_DIR/out; for i in $(seq 1000); do echo $i > data/$i; echo \"{event}\" > events/$i.json; done'"
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_sidecar")]).current_dir(dir.path());
    let (code, _, log) = ended(&command.output().unwrap());
    assert_eq!(code, 0, "{log}");
    assert_eq!(files(dir.path().join("dev/events")).len(), 1000);
}

/// As in a container without an init: orphans of the module become the sidecar's children.
#[test]
fn as_process_1_it_leaves_no_zombies() {
    let dir = TempDir::new().unwrap();
    let script =
        "for i in 1 2 3; do (sleep 0.05 & ); done; sleep 0.5; cat /proc/[0-9]*/stat | grep -c ' Z '; exit 9";
    let mut command = Command::new("unshare");
    command.args([
        "--pid",
        "--fork",
        "--mount-proc",
        env!("CARGO_BIN_EXE_sidecar"),
        "run",
        "--development=true",
    ]);
    command.args(["--context.name=m", "--", "sh", "-c", script]).current_dir(dir.path());
    let (code, out, log) = ended(&command.output().unwrap());
    if log.contains("unshare") {
        return skip("process 1", "run as root, where namespaces can be made");
    }
    assert_eq!((code, out.trim()), (9, "0"), "{log}");
}

/// Each slot collects orphans, and none of them the module of another.
#[test]
fn as_process_1_it_leaves_each_module_to_its_slot() {
    let dir = TempDir::new().unwrap();
    for n in 0..40 {
        assert_eq!(output(&dir, &["submit", "--development=true", &format!("--value=n={n}")]).0, 0);
    }
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", env!("CARGO_BIN_EXE_sidecar"), "worker"]);
    command.args([
        "--development=true",
        "--subscribe=submitted",
        "--concurrency=8",
        "--max-events=40",
        "--wrap",
    ]);
    command.args(["--context.name=m", "--", "sh", "-c", "sleep 0.1; date > $SIDECAR_BASE_DIR/out/data/x"]);
    let (code, _, log) = ended(&command.current_dir(dir.path()).output().unwrap());
    if log.contains("unshare") {
        return skip("process 1", "run as root, where namespaces can be made");
    }
    assert_eq!(code, 0, "{log}");
    assert!(!log.contains("No child") && files(dir.path().join("dev/executions")).len() == 40, "{log}");
}

#[test]
fn a_directory_that_may_be_entered_but_not_read_may_lie_above_the_store() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let Some(as_nobody) = as_nobody(&dir) else { return };
    let own = dir.path().join("own");
    fs::create_dir(&own).unwrap();
    std::os::unix::fs::chown(&own, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let flags = ["--blobs=file:own/s", "--documents=file:own/s", "--events=file:own/s", "--basedir=own/b"];
    let mut command = sidecar(&dir, &["run", "--wrap", "--context.name=m", "--context.eventid=e", "--first"]);
    let output = as_nobody(command.args(flags).args(["--", "true"]));
    let (code, _, log) = ended(&output);
    assert_eq!(code, 0, "{log}");
}

/// What it writes on would be committed half, or with the outputs of the next execution.
#[test]
fn what_a_wrapped_module_did_not_wait_for_is_ended_and_told() {
    let dir = TempDir::new().unwrap();
    let script =
        "cd $SIDECAR_BASE_DIR/out/data; (sleep 3; echo late > late) > /dev/null 2>&1 & echo now > now";
    let (code, _, log) = run(&dir, &["--wrap"], script);
    assert!(code == 0 && log.contains("wait for them before the module ends"), "{log}");
    std::thread::sleep(Duration::from_millis(3500));
    assert_eq!(committed(&dir, "e1/m"), [("now".to_owned(), "now\n".to_owned())]);
    assert!(!base(&dir).join("out/data/late").exists());
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_the_module() {
    let dir = TempDir::new().unwrap();
    let mut command = sidecar(&dir, &["run", "--wrap"]);
    command.args(CONTEXT).args(["--", "sh", "-c", "trap '' INT; echo ready; sleep 30; sleep 30"]);
    // A script's `&` would have it ignore the signal.
    let mut shell = Command::new("env");
    shell.arg("--default-signal=INT").arg(command.get_program()).args(command.get_args());
    shell.current_dir(dir.path()).stdin(Stdio::null());
    let (serving, _) = until_it_prints(shell);
    let started = Instant::now();
    serving.signal("INT");
    std::thread::sleep(Duration::from_millis(300));
    serving.signal("INT");
    let (code, log) = serving.end();
    assert!(code == 137 || code == 130, "{code} {log}");
    assert!(started.elapsed() < Duration::from_secs(20) && log.contains("second Ctrl-C"), "{log}");
}

#[test]
fn a_rerun_names_its_event() {
    let dir = TempDir::new().unwrap();
    let (code, _, log) =
        ended(&sidecar(&dir, &["run", "--development", "--rerun", "--", "true"]).output().unwrap());
    assert!(code == 64 && log.contains("--context.eventid"), "{log}");
}

/// What a wrapped module has started in a session of its own writes into no other execution's outputs.
#[test]
fn what_has_left_the_group_of_a_wrapped_module_is_ended_too() {
    let dir = TempDir::new().unwrap();
    let late = "setsid sh -c 'sleep 2; echo late > $SIDECAR_BASE_DIR/out/data/late' </dev/null >/dev/null 2>&1 & sleep 0.3";
    let run = |event: &str, script: &str| {
        let event = format!("--context.eventid={event}");
        output(
            &dir,
            &["run", "--wrap", "--development=true", &event, "--context.name=m", "--", "sh", "-c", script],
        )
    };
    let (code, _, log) = run("one", late);
    assert!(code == 0 && log.contains("processes that it had started were at work: they are ended"), "{log}");
    let (code, _, log) = run("two", "sleep 2.5; echo mine > $SIDECAR_BASE_DIR/out/data/mine");
    assert_eq!(code, 0, "{log}");
    assert_eq!(committed(&dir, "two/m"), [("mine".to_owned(), "mine\n".to_owned())]);
}

/// A module that takes the directory away has no outputs: nobody is advised to commit none.
#[test]
fn a_module_that_removes_its_directory_has_to_run_again() {
    let dir = TempDir::new().unwrap();
    let plane = ["--development=true", "--context.eventid=e", "--context.name=m"];
    let script = "echo t > $SIDECAR_BASE_DIR/out/data/t; rm -rf $SIDECAR_BASE_DIR";
    let (code, _, log) =
        output(&dir, &[&["run", "--wrap"], &plane[..], &["--", "sh", "-c", script]].concat());
    assert!(code == 1 && log.contains("nothing was committed: the module has to run again"), "{log}");
    assert!(!log.contains("sidecar commit"), "{log}");
    assert_eq!(output(&dir, &[&["commit"], &plane[..]].concat()).0, 64);
    let script = "echo t > $SIDECAR_BASE_DIR/out/data/t";
    let (code, _, log) =
        output(&dir, &[&["run", "--wrap"], &plane[..], &["--", "sh", "-c", script]].concat());
    assert_eq!(code, 0, "{log}");
    assert_eq!(committed(&dir, "e/m"), [("t".to_owned(), "t\n".to_owned())]);
}

/// A file that is there and cannot be started is not one that is missing.
#[test]
fn a_script_that_names_no_interpreter_is_told_what_it_lacks() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    for (script, code, why) in [
        ("#!/bin/sh\r\necho\r\n", 127, "the interpreter that its first line names does not exist"),
        ("echo\n", 126, "name its interpreter in its first line"),
    ] {
        let path = dir.path().join("script");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let run = ["run", "--wrap", "--development=true", "--context.eventid=e", "--", "./script"];
        let (found, _, log) = output(&dir, &run);
        assert!(found == code && log.contains(why), "{found}: {log}");
    }
}

/// A variable of the shell that is not set makes no default of a flag.
#[test]
fn an_empty_flag_is_refused_and_an_empty_variable_is_not_set() {
    let dir = TempDir::new().unwrap();
    for flag in ["--config=", "--basedir=", "--blobs=", "--context.name="] {
        let (code, _, log) = output(&dir, &["run", "--wrap", "--development=true", flag, "--", "true"]);
        assert!(code == 64 && log.contains("is empty: give it a value"), "{flag}: {log}");
    }
    let mut command =
        sidecar(&dir, &["run", "--wrap", "--development=true", "--context.eventid=e", "--", "true"]);
    let (code, _, log) = ended(&command.env("SIDECAR_BLOBS", "").env("SIDECAR_CONFIG", "").output().unwrap());
    assert_eq!(code, 0, "{log}");
}

#[test]
fn what_a_module_prints_can_be_part_of_the_log() {
    let dir = TempDir::new().unwrap();
    let script = "echo out; echo err >&2; printf 'a\\nb\\r\\n'; head -c 20000 /dev/zero | tr '\\0' x; printf '\\nlast'";
    let arguments = ["run", "--wrap", "--log-output", "--log-format=json", "--loglevel=warn"];
    let (code, out, log) =
        output(&dir, &[&arguments[..], &CONTEXT[..], &["--", "sh", "-c", script]].concat());
    assert_eq!((code, out.as_str()), (0, ""), "{log}");
    let records: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let printed = |stream: &str| -> Vec<&str> {
        let of = records.iter().filter(|record| record["stream"] == stream);
        of.map(|record| record["message"].as_str().unwrap()).collect()
    };
    assert_eq!(printed("stderr"), ["err"]);
    let told = printed("stdout");
    assert_eq!((&told[..3], told[told.len() - 1]), (&["out", "a", "b"][..], "last"));
    assert_eq!(told[3..told.len() - 1].concat(), "x".repeat(20000));
    for key in ["module", "event", "attempt"] {
        assert!(records.iter().all(|record| record[key].is_string()), "{log}");
    }
    // What it leaves running does not keep it.
    let began = std::time::Instant::now();
    let arguments = ["run", "--log-output", "--development=true", "--context.eventid=e2", "--context.name=m"];
    let (_, _, log) = output(&dir, &[&arguments[..], &["--", "sh", "-c", "sleep 20 & echo first"]].concat());
    assert!(log.contains("first stream=\"stdout\"") && began.elapsed().as_secs() < 10, "{log}");
}
