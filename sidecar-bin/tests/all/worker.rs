//! `sidecar worker` as processes: every event has one outcome, whichever worker is killed or stopped.

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::fleet::{Fleet, Running, every_event_has_one_outcome, signal, wait};
use crate::process::{ended, files, output, sidecar};
use crate::servers::OwnNats;

/// Events for each place at which a worker is killed.
const EACH: usize = 6;

fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_sidecar").into()
}

#[test]
fn every_event_has_one_outcome_over_local_files() {
    let mut fleet = Fleet::local(program(), EACH);
    every_event_has_one_outcome(&mut fleet);
    // Nothing was published under two ids: what was submitted, and one event for each.
    let published = files(fleet.dir.path().join("dev/events"));
    let worked = published.iter().filter(|(_, event)| event.contains("\"worked\"")).count();
    assert_eq!((published.len(), worked), (2 * fleet.events(), fleet.events()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_has_one_outcome_over_nats_s3_and_postgres() {
    if let Some(mut fleet) = Fleet::cluster(program(), EACH, Duration::from_secs(8)).await {
        every_event_has_one_outcome(&mut fleet);
    }
}

#[test]
fn every_event_has_one_outcome_over_rabbitmq_azurite_and_secantusdb() {
    if let Some(mut fleet) = Fleet::azure(program(), EACH) {
        every_event_has_one_outcome(&mut fleet);
    }
}

#[test]
fn what_a_worker_gives_up_can_be_shown_and_sent_again() {
    let dir = TempDir::new().unwrap();
    let development = |flags: &[&str]| output(&dir, &[flags, &["--development=true"]].concat());
    let worker = |script: &str| {
        let flags =
            ["worker", "--development=true", "--subscribe=t,u", "--wrap", "--context.name=m", "--once"];
        ended(&sidecar(&dir, &flags).args(["--max-deliveries=1", "--", "sh", "-c", script]).output().unwrap())
    };
    assert_eq!(development(&["submit", "--type=t", "--id=e1", "--value=a=b"]).0, 0);
    let (code, _, log) = worker("exit 3");
    assert!(code == 0 && log.contains("given up: 1"), "{log}");
    let (code, list, _) = development(&["dead", "list"]);
    let lines: Vec<_> = list.lines().collect();
    assert!(code == 0 && lines.len() == 2 && lines[1].contains("e1/m\te1\tt\tm\t1\t"), "{list}");
    let id = lines[1].split('\t').nth(1).unwrap();
    let (_, shown, _) = development(&["dead", "show", id]);
    let letter: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(letter["reason"], "the module ended with exit code 3");
    assert_eq!(development(&["dead", "show", "nonsense"]).0, 66);
    assert_eq!(development(&["dead", "redrive", id]).0, 0);
    let (code, _, log) = worker("true");
    assert!(code == 0 && log.contains("committed: 1"), "{log}");
    assert_eq!(development(&["dead", "list"]).1, "");
    // All of a group at once.
    for id in ["e2", "e3"] {
        assert_eq!(development(&["submit", "--type=u", &format!("--id={id}"), "--value=a=b"]).0, 0);
        assert!(worker("exit 3").2.contains("given up: 1"));
    }
    assert_ne!(development(&["dead", "drop", "--all", "--group=other"]).0, 0);
    assert_eq!(development(&["dead", "drop", "--all", "--group=m"]).0, 0);
    assert_eq!(development(&["dead", "list"]).1, "");
    // Nothing is left, and nothing to do is no failure.
    let (code, _, log) = worker("exit 3");
    assert!(code == 0 && log.contains("events received: 0"), "{log}");
}

#[test]
fn several_modules_call_the_same_server() {
    let dir = TempDir::new().unwrap();
    for number in 0..6 {
        let id = format!("--id=e{number}");
        assert_eq!(output(&dir, &["submit", "--development=true", "--type=t", &id, "--value=a=b"]).0, 0);
    }
    // Each learns of its own event alone, by its own secret.
    let module = r#"
        call() { curl -fsS -H "secret: $SHARED_SECRET" "http://127.0.0.1:$SIDECAR_PORT/$1"; }
        call ready | grep -q "\"eventId\":\"$SIDECAR_EVENT_ID\"" || exit 3
        sleep 0.2; echo "$SIDECAR_EVENT_ID" > "$SIDECAR_BASE_DIR/out/data/id"; call done
        curl -fsS "http://127.0.0.1:$SIDECAR_PORT/metrics" > "metrics-$SIDECAR_EVENT_ID""#;
    let flags = ["worker", "--development=true", "--subscribe=t", "--context.name=m", "--concurrency=3"];
    let mut command = sidecar(&dir, &flags);
    let (code, _, log) = ended(&command.args(["--idle-exit=1s", "--", "sh", "-c", module]).output().unwrap());
    assert!(code == 0 && log.contains("committed: 6"), "{log}");
    let ids: HashSet<_> =
        (0..6).map(|number| crate::process::committed(&dir, &format!("e{number}/m"))[0].1.clone()).collect();
    assert_eq!(ids.len(), 6);
    // As the last of them saw it.
    let metrics = files(dir.path().to_owned()).into_iter().filter(|(name, _)| name.starts_with("metrics-"));
    let received = r#"sidecar_worker_events_total{module="m",type="t",outcome="received"} 6"#;
    let (_, metrics) = metrics.into_iter().find(|(_, text)| text.contains(received)).unwrap();
    assert!(metrics.contains("sidecar_worker_running ") && metrics.contains("sidecar_decisions_total"));
    assert!(metrics.ends_with("# EOF\n") && metrics.matches("# EOF").count() == 1, "{metrics}");
}

#[test]
fn a_worker_that_is_told_to_stop_hands_back_what_is_not_done() {
    let dir = TempDir::new().unwrap();
    assert_eq!(output(&dir, &["submit", "--development=true", "--type=t", "--value=a=b"]).0, 0);
    let flags = ["worker", "--development=true", "--subscribe=t", "--context.name=m", "--wrap", "--grace=1s"];
    let mut command = sidecar(&dir, &flags);
    command.args(["--max-deliveries=1", "--", "sh", "-c", "echo begun; sleep 30"]).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    signal(&child, "TERM");
    let began = Instant::now();
    let (code, _, log) = ended(&child.wait_with_output().unwrap());
    assert!(
        code == 0 && log.contains("handed back: 1") && began.elapsed() < Duration::from_secs(10),
        "{log}"
    );
    // It cost no attempt.
    let mut again = sidecar(&dir, &flags);
    let (_, _, log) = ended(&again.args(["--max-deliveries=1", "--once", "--", "true"]).output().unwrap());
    assert!(log.contains("committed: 1"), "{log}");
}

#[test]
fn a_worker_whose_command_does_not_exist_ends_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    assert_eq!(output(&dir, &["submit", "--development=true", "--type=t", "--value=a=b"]).0, 0);
    let worker = |command: &str| {
        let flags = ["worker", "--development=true", "--subscribe=t", "--context.name=m", "--wrap", "--once"];
        output(&dir, &[&flags[..], &["--max-deliveries=1", "--idle-exit=8s", "--", command]].concat())
    };
    let (code, _, log) = worker("no-such-command");
    assert!(code == 127 && log.contains("no-such-command"), "{log}");
    let (code, _, log) = worker("true");
    assert!(code == 0 && log.contains("committed: 1"), "{log}");
}

/// Before an event is taken, and not as a fault of the command.
#[test]
fn a_directory_for_logs_that_cannot_be_used_is_found_at_the_start() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let flags = ["worker", "--development=true", "--subscribe=t", "--once", "--logs=file/x", "--", "true"];
    let (code, _, log) = output(&dir, &flags);
    assert!(code == 71 && log.contains("--logs: file/x cannot be written"), "{code}: {log}");
}

/// Who stops a worker whose stores are not there yet has stopped it.
#[test]
fn a_worker_that_waits_for_its_stores_can_be_stopped() {
    let dir = TempDir::new().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let documents = format!("--documents=mongodb://{free}/d.c");
    let flags = [
        "worker",
        "--blobs=memory:",
        "--events=memory:",
        &documents,
        "--subscribe=t",
        "--basedir=b",
        "--",
        "true",
    ];
    let worker = sidecar(&dir, &flags).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(Command::new("kill").args(["-TERM", &worker.id().to_string()]).status().unwrap().success());
    let (code, _, log) = ended(&worker.wait_with_output().unwrap());
    assert!(code == 0 && log.contains("before the data plane could be used"), "{code}: {log}");
}

/// A module that loads something first, and then works on one event after another with two lines of HTTP.
const WARM: &str = r#"
    echo load >> "$SIDECAR_BASE_DIR/../loads"
    id=null
    while true; do
        next=$(curl -sS -X POST -H "secret: $SHARED_SECRET" --data "$id" "http://127.0.0.1:$SIDECAR_PORT/next") || exit 4
        test -n "$next" || exit 0
        id=$(echo "$next" | sed 's/.*"eventId":"\([^"]*\)".*/\1/')
        WORK
    done"#;

fn warm(dir: &TempDir, work: &str, flags: &[&str]) -> (i32, String, String) {
    let all = ["worker", "--development=true", "--subscribe=t", "--context.name=m", "--warm"];
    let mut command = sidecar(dir, &all);
    command.args(flags).args(["--idle-exit=3s", "--", "sh", "-c", &WARM.replace("WORK", work)]);
    ended(&command.stdin(Stdio::null()).output().unwrap())
}

fn submitted(dir: &TempDir, count: usize) {
    for number in 0..count {
        let id = format!("--id=e{number}");
        assert_eq!(output(dir, &["submit", "--development=true", "--type=t", &id, "--value=a=b"]).0, 0);
    }
}

#[test]
fn a_warm_module_loads_once_and_works_on_many_events() {
    let dir = TempDir::new().unwrap();
    submitted(&dir, 8);
    let work = "test ! -e $SIDECAR_BASE_DIR/out/data/id; echo $id > $SIDECAR_BASE_DIR/out/data/id";
    let (code, _, log) = warm(&dir, work, &["--concurrency=2"]);
    assert!(code == 0 && log.contains("committed: 8, retried: 0"), "{log}");
    for number in 0..8 {
        let outputs = crate::process::committed(&dir, &format!("e{number}/m"));
        assert_eq!(outputs, [("id".to_owned(), format!("e{number}\n"))]);
    }
    // One process a slot, which has ended by itself.
    let loads = fs::read_to_string(dir.path().join("dev/modules/m/loads")).unwrap();
    assert_eq!(loads.lines().count(), 2, "{log}");
}

#[test]
fn a_warm_module_that_dies_is_started_again_and_its_event_retried() {
    let dir = TempDir::new().unwrap();
    submitted(&dir, 3);
    let work = "echo $id > $SIDECAR_BASE_DIR/out/data/id; test -e died || { touch died; exit 9; }";
    let (code, _, log) = warm(&dir, work, &[]);
    assert!(code == 0 && log.contains("committed: 3, retried: 1"), "{log}");
    let loads = fs::read_to_string(dir.path().join("dev/modules/m/loads")).unwrap();
    assert_eq!(loads.lines().count(), 2, "{log}");
}

#[test]
fn a_warm_module_that_never_names_its_event_does_not_keep_it() {
    let dir = TempDir::new().unwrap();
    submitted(&dir, 1);
    let work = "echo $id > $SIDECAR_BASE_DIR/out/data/id; id=null";
    let (code, _, log) = warm(&dir, work, &["--max-deliveries=1"]);
    assert!(code == 0 && log.contains("given up: 1"), "{log}");
    assert!(log.contains("without naming it") && log.contains("20 times"), "{log}");
}

/// The very next event may be the same one again: nothing that the module was not given is committed.
#[test]
fn a_warm_module_that_fails_is_given_the_event_again() {
    let dir = TempDir::new().unwrap();
    submitted(&dir, 1);
    let work = r#"
        if test -e failed; then
            echo $id > $SIDECAR_BASE_DIR/out/data/id
        else
            touch failed
            curl -sS -X POST -H "secret: $SHARED_SECRET" --data no "http://127.0.0.1:$SIDECAR_PORT/fail" > /dev/null
            id=null
        fi"#;
    let (code, _, log) = warm(&dir, work, &[]);
    assert!(code == 0 && log.contains("committed: 1, retried: 1"), "{log}");
    assert_eq!(crate::process::committed(&dir, "e0/m"), [("id".to_owned(), "e0\n".to_owned())]);
}

#[test]
fn a_warm_module_that_cannot_be_started_ends_its_worker() {
    let dir = TempDir::new().unwrap();
    submitted(&dir, 1);
    let flags = ["worker", "--development=true", "--subscribe=t", "--context.name=m", "--warm"];
    let (code, _, log) = output(&dir, &[&flags[..], &["--", "no-such-command"]].concat());
    assert!(code == 127 && log.contains("cannot start no-such-command"), "{log}");
    // One that always ends before it asks keeps no batch job waiting.
    let (code, _, log) = output(&dir, &[&flags[..], &["--once", "--", "false"]].concat());
    assert!(code == 1 && log.contains("5 times before it asked"), "{log}");
}

#[test]
fn no_event_is_taken_for_a_warm_module_that_does_not_begin() {
    let dir = TempDir::new().unwrap();
    submitted(&dir, 1);
    let flags =
        ["worker", "--development=true", "--subscribe=t", "--context.name=m", "--warm", "--max-deliveries=1"];
    let mut command = sidecar(&dir, &flags);
    let mut worker =
        Running(command.args(["--", "false"]).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    std::thread::sleep(Duration::from_secs(3));
    signal(&worker.0, "TERM");
    assert_eq!(wait(&mut worker), Some(0));
    let mut log = String::new();
    std::io::Read::read_to_string(worker.0.stderr.as_mut().unwrap(), &mut log).unwrap();
    assert!(log.contains("started again in") && log.contains("events received: 0"), "{log}");
}

/// A module asks again with the same id when it got no answer: it must get the same event, and no other is committed.
#[test]
fn a_call_for_the_next_event_can_be_repeated_whenever_it_was_cut() {
    let dir = TempDir::new().unwrap();
    submitted(&dir, 40);
    let work = r#"
        echo $id > $SIDECAR_BASE_DIR/out/data/id
        for cut in 0.001 0.003 0.006 0.01 0.02; do
            curl -s -m $cut -X POST -H "secret: $SHARED_SECRET" --data "$id" "http://127.0.0.1:$SIDECAR_PORT/next" > /dev/null
        done"#;
    let (code, _, log) = warm(&dir, work, &[]);
    assert!(code == 0 && log.contains("committed: 40, retried: 0"), "{log}");
    for number in 0..40 {
        let outputs = crate::process::committed(&dir, &format!("e{number}/m"));
        assert_eq!(outputs, [("id".to_owned(), format!("e{number}\n"))]);
    }
}

/// The module of the test below, which is this very program; without a worker it is nothing.
#[test]
fn the_module_of_the_sdk() {
    if std::env::var_os("SIDECAR_MODULE_NAME").is_none() {
        return;
    }
    let mut failed = false;
    let code = sidecar_client::blocking::serve(|module| {
        let work = module.workspace();
        let id = module.context().unwrap().event_id.to_string();
        let mut output = work.output("id")?;
        output.write_all(id.as_bytes())?;
        output.finish()?;
        // The third of them fails once, and nothing of that attempt is committed.
        if id == "e2" && !std::mem::replace(&mut failed, true) {
            return Err("not yet".into());
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    });
    assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::SUCCESS));
}

#[test]
fn the_sdk_works_on_one_event_after_another() {
    let dir = TempDir::new().unwrap();
    submitted(&dir, 6);
    let flags =
        ["worker", "--development=true", "--subscribe=t", "--context.name=m", "--warm", "--idle-exit=3s"];
    let mut command = sidecar(&dir, &flags);
    let module = std::env::current_exe().unwrap();
    command.arg("--").arg(module).args(["--exact", "worker::the_module_of_the_sdk", "--nocapture"]);
    let (code, out, log) = ended(&command.output().unwrap());
    assert!(code == 0 && log.contains("committed: 6, retried: 1"), "{out}{log}");
    assert!(out.contains("1 passed"), "{out}");
    assert_eq!(crate::process::committed(&dir, "e5/m"), [("id".to_owned(), "e5".to_owned())]);
}

/// Whoever rotates a credential replaces its file; the worker goes on with it, and no event is lost.
#[test]
fn secrets_are_read_again_when_their_files_change() {
    let users =
        |password: &str| format!("authorization {{ users = [ {{ user: me, password: {password:?} }} ] }}");
    let Some(mut nats) = OwnNats::start(&users("swordfish-one")) else { return };
    let dir = TempDir::new().unwrap();
    let url = |password: &str| nats.url().replacen("nats://", &format!("nats://me:{password}@"), 1);
    let file = dir.path().join("events");
    let write = |password: &str| fs::write(&file, format!("{}/e?stream=e\n", url(password))).unwrap();
    write("swordfish-one");
    let flags = ["--blobs=file:plane", "--documents=file:plane", "--events-file=events"];
    let submit = |id: &str| {
        let id = format!("--id={id}");
        let (code, _, log) =
            output(&dir, &[&["submit", "--type=t", "--value=a=b", &id], &flags[..]].concat());
        assert_eq!(code, 0, "{log}");
    };
    assert_eq!(output(&dir, &[&["check"], &flags[..]].concat()).0, 0);
    let mut command =
        sidecar(&dir, &["worker", "--subscribe=t", "--context.name=m", "--wrap", "--max-events=2"]);
    command.args(flags).args(["--basedir=w", "--", "true"]);
    let mut worker =
        Running(command.stderr(fs::File::create(dir.path().join("log")).unwrap()).spawn().unwrap());
    let log = || fs::read_to_string(dir.path().join("log")).unwrap();
    let until = |text: &str| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !log().contains(text) {
            assert!(Instant::now() < deadline, "no {text:?}: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    submit("before");
    until("event=before");
    // The old password is gone before the new one is in the file.
    nats.configure(&users("swordfish-two"));
    until("authorization violation");
    let plane = nats.url();
    fs::write(&file, format!("{}/e?stream=e\n", plane.replacen("nats://", "nats://me:swordfish-two@", 1)))
        .unwrap();
    submit("after");
    assert_eq!(wait(&mut worker), Some(0), "{}", log());
    assert!(log().contains("their new contents are used") && log().contains("committed: 2"), "{}", log());
    assert!(!log().contains("swordfish"), "{}", log());
}

/// Cuts of an answer for each event; a module that is given one more often is taken for one that does not understand.
const CUTS: usize = 12;

/// A call of `/next` as its bytes; `cut` says after how many of the request, or of the answer, the connection ends.
/// Answers what was read.
fn next_in_bytes(id: &str, cut: Option<Cut>) -> String {
    let variable = |name| std::env::var(name).unwrap();
    let address = format!("127.0.0.1:{}", variable("SIDECAR_PORT"));
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    let request = format!(
        "POST /next HTTP/1.1\r\nhost: {address}\r\nsecret: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{id}",
        variable("SHARED_SECRET"),
        id.len()
    );
    let mut answer = Vec::new();
    match cut {
        Some(Cut::Request(bytes)) => {
            stream.write_all(&request.as_bytes()[..bytes.min(request.len())]).unwrap()
        }
        Some(Cut::Answer(bytes)) => {
            stream.write_all(request.as_bytes()).unwrap();
            answer = vec![0; bytes];
            stream.read_exact(&mut answer).unwrap();
        }
        None => {
            stream.write_all(request.as_bytes()).unwrap();
            stream.read_to_end(&mut answer).unwrap();
        }
    }
    String::from_utf8(answer).unwrap()
}

enum Cut {
    Request(usize),
    Answer(usize),
}

/// The module of the test below.
#[test]
fn the_module_that_is_cut_off() {
    if std::env::var_os("SIDECAR_MODULE_NAME").is_none() {
        return;
    }
    let base = PathBuf::from(std::env::var_os("SIDECAR_BASE_DIR").unwrap());
    let id_in = |answer: &str| Some(answer.split("\"eventId\":\"").nth(1)?.split('"').next()?.to_owned());
    let first = next_in_bytes("null", None);
    let (mut id, length) = (id_in(&first).expect(&first), first.len());
    let mut answers = 0..length;
    let mut is_first = true;
    loop {
        fs::write(base.join("out/data/id"), &id).unwrap();
        if std::mem::take(&mut is_first) {
            // What is not a whole request does nothing.
            for bytes in 0..150 {
                next_in_bytes(&id, Some(Cut::Request(bytes)));
            }
        }
        let cuts: Vec<_> = answers.by_ref().take(CUTS).collect();
        let are_all = cuts.is_empty();
        for bytes in cuts {
            next_in_bytes(&id, Some(Cut::Answer(bytes)));
        }
        if are_all {
            fs::write("cut", format!("{length}")).unwrap();
        }
        let answer = next_in_bytes(&id, None);
        match id_in(&answer) {
            Some(next) => assert_ne!(std::mem::replace(&mut id, next), id, "the same event again"),
            None => return assert!(answer.starts_with("HTTP/1.1 204"), "{answer}"),
        }
    }
}

/// Wherever the connection is cut, in the request or in the answer, the call can be repeated.
#[test]
fn a_call_for_the_next_event_is_cut_at_every_byte() {
    let dir = TempDir::new().unwrap();
    let ids: Vec<String> = (100..180).map(|number| format!("e{number}")).collect();
    for id in &ids {
        let id = format!("--id={id}");
        assert_eq!(output(&dir, &["submit", "--development=true", "--type=t", &id, "--value=a=b"]).0, 0);
    }
    let flags =
        ["worker", "--development=true", "--subscribe=t", "--context.name=m", "--warm", "--idle-exit=3s"];
    let mut command = sidecar(&dir, &flags);
    let module = std::env::current_exe().unwrap();
    command.arg("--").arg(module).args(["--exact", "worker::the_module_that_is_cut_off", "--nocapture"]);
    let (code, out, log) = ended(&command.output().unwrap());
    assert!(code == 0 && log.contains("committed: 80, retried: 0, given up: 0"), "{out}{log}");
    // The answer was cut at each of its bytes before the events were used up.
    let length: usize = fs::read_to_string(dir.path().join("cut")).unwrap().parse().unwrap();
    assert!(length > 200, "{length}");
    for id in &ids {
        assert_eq!(crate::process::committed(&dir, &format!("{id}/m")), [("id".to_owned(), id.clone())]);
    }
}

/// A process that gave up its event and does not end: a thread of it may go on.
#[test]
fn a_warm_module_that_is_silent_after_its_event_is_started_again() {
    let dir = TempDir::new().unwrap();
    submitted(&dir, 2);
    let module = r#"
        call() { curl -sS --fail -X POST -d "$2" -H "secret: $SHARED_SECRET" "http://127.0.0.1:$SIDECAR_PORT/$1" > /dev/null; }
        call next null && call fail broken; exec sleep 60"#;
    let flags = ["worker", "--development=true", "--subscribe=t", "--context.name=m", "--warm"];
    let mut command = sidecar(&dir, &flags);
    command.args(["--module-timeout=2s", "--max-deliveries=1", "--max-events=2", "--", "sh", "-c", module]);
    let (_, _, log) = ended(&command.output().unwrap());
    assert!(log.contains("after its last event") && log.contains("given up: 2"), "{log}");
}

/// The module had done its work when the store was away: that it gives up then costs no attempt.
#[test]
fn a_store_that_is_away_when_the_module_calls_done_costs_no_attempt() {
    let dir = TempDir::new().unwrap();
    submitted(&dir, 1);
    let module = r#"
        call() { curl -sS --fail -H "secret: $SHARED_SECRET" "http://127.0.0.1:$SIDECAR_PORT/$1" > /dev/null; }
        echo run >> "$SIDECAR_BASE_DIR/../runs"
        call ready || exit 3
        echo done > "$SIDECAR_BASE_DIR/out/data/f"
        call done || exit 4"#;
    let flags =
        ["worker", "--development=true", "--subscribe=t", "--context.name=m", "--max-deliveries=1", "--once"];
    let mut command = sidecar(&dir, &flags);
    command.args(["--retry-for=1s", "--", "sh", "-c", module]);
    command.env("SIDECAR_FAULT_CALL", "store blobs 1").env("SIDECAR_FAULT_INJECT", "unavailable");
    let (code, _, log) = ended(&command.env("SIDECAR_FAULT_FOR", "4000").output().unwrap());
    assert!(code == 0 && log.contains("committed: 1, retried: 0, given up: 0"), "{log}");
    assert_eq!(crate::process::committed(&dir, "e0/m"), [("f".to_owned(), "done\n".to_owned())]);
    assert_eq!(fs::read_to_string(dir.path().join("dev/modules/m/runs")).unwrap(), "run\n");
}

/// What a module wrote before it had an event, and died, is nobody's output; what died is started again beside others.
#[test]
fn outputs_of_a_warm_module_that_died_while_loading_are_not_committed() {
    let dir = TempDir::new().unwrap();
    submitted(&dir, 2);
    let module = format!(
        "mkdir -p $SIDECAR_BASE_DIR/out/data
         case $SIDECAR_BASE_DIR in */0) test -e crashed || {{ touch crashed; echo half > $SIDECAR_BASE_DIR/out/data/half; exit 9; }};; esac
         {}",
        WARM.replace("WORK", "sleep 1")
    );
    let all =
        ["worker", "--development=true", "--subscribe=t", "--context.name=m", "--warm", "--concurrency=2"];
    let mut command = sidecar(&dir, &all);
    let (code, _, log) =
        ended(&command.args(["--idle-exit=4s", "--", "sh", "-c", &module]).output().unwrap());
    assert!(code == 0 && log.contains("committed: 2, retried: 0"), "{log}");
    assert!(!log.contains("is not started"), "another module had inherited its lock: {log}");
    for id in ["e0/m", "e1/m"] {
        assert_eq!(crate::process::committed(&dir, id), [], "{log}");
    }
}

/// The answer of `done` may be lost.
#[test]
fn a_warm_module_may_repeat_done_and_fail() {
    let dir = TempDir::new().unwrap();
    submitted(&dir, 1);
    let call = r#"call() { curl -sS --fail -X POST -H "secret: $SHARED_SECRET" --data no "http://127.0.0.1:$SIDECAR_PORT/$1" >> answers || exit 7; echo >> answers; }"#;
    let work = format!(
        "{call}\n test -e failed || {{ touch failed; call fail; call fail; id=null; continue; }}; call done; sleep 0.5; call done; call done"
    );
    let (code, _, log) = warm(&dir, &work, &[]);
    assert!(code == 0 && log.contains("committed: 1, retried: 1"), "{log}");
    let answers = fs::read_to_string(dir.path().join("answers")).unwrap();
    let answers: Vec<&str> = answers.lines().collect();
    assert!(answers.len() == 5 && answers[0] == answers[1] && answers[2] == answers[4], "{answers:?}");
}

/// A process that another one has taken the place of commits nothing, also where events follow one another.
#[test]
fn a_warm_module_is_the_process_that_was_given_the_event_last() {
    let dir = TempDir::new().unwrap();
    submitted(&dir, 1);
    let flags =
        ["worker", "--development=true", "--subscribe=t", "--context.name=m", "--warm", "--max-events=1"];
    let mut worker = sidecar(&dir, &flags);
    let script = "echo $SIDECAR_PORT $SHARED_SECRET > at; while ! test -e end; do sleep 0.1; done";
    let mut worker = worker.args(["--", "sh", "-c", script]).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let at = loop {
        match fs::read_to_string(dir.path().join("at")) {
            Ok(at) if at.ends_with('\n') => break at,
            _ => assert!(Instant::now() < deadline),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let (port, secret) = at.trim().split_once(' ').unwrap();
    let client = reqwest::blocking::Client::new();
    let call = |path: &str, start: &str, body: &'static str| {
        let request = client.post(format!("http://127.0.0.1:{port}/{path}")).header("secret", secret);
        let answer = request.header("module-start", start).body(body).send().unwrap();
        (answer.status().as_u16(), answer.text().unwrap())
    };
    for wrong in ["{}", "[1]", "{bad", "\"a\" \"b\"", "{\"eventId\": 1}"] {
        let (status, text) = call("next", "one", wrong);
        assert!(status == 400 && text.contains("the body is no event id"), "{wrong}: {status} {text}");
    }
    let (status, text) = call("next", "one", "null");
    assert!(status == 200 && text.contains("\"eventId\":\"e0\""), "{text}");
    assert_eq!(call("next", "two", "null").0, 200);
    for (path, body) in [("done", ""), ("fail", "one"), ("next", "\"e0\"")] {
        let (status, text) = call(path, "one", body);
        assert!(status == 409 && text.contains("another process of the module"), "{path}: {status} {text}");
    }
    // Nothing follows: the worker takes one event.
    assert_eq!(call("next", "two", "{\"eventId\": \"e0\"}").0, 204);
    fs::write(dir.path().join("end"), "").unwrap();
    assert!(worker.wait().unwrap().success());
}

/// A module that has outlived its worker is not beside the next one, of whichever kind that is.
#[test]
fn no_module_is_started_beside_a_warm_one_that_lives_on() {
    let dir = TempDir::new().unwrap();
    submitted(&dir, 1);
    let all = ["worker", "--development=true", "--subscribe=t", "--context.name=m"];
    let mut first = sidecar(&dir, &all);
    first.args(["--warm", "--", "sh", "-c", "echo $$ > pid; exec sleep 60"]);
    let mut first = first.stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !fs::read_to_string(dir.path().join("pid")).is_ok_and(|pid| pid.ends_with('\n')) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    let mut second = sidecar(&dir, &all);
    second.args(["--wrap", "--max-events=1", "--", "true"]).stderr(Stdio::piped());
    let second = second.spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let pid = fs::read_to_string(dir.path().join("pid")).unwrap();
    assert!(std::process::Command::new("kill").arg(pid.trim()).status().unwrap().success());
    let (code, _, log) = ended(&second.wait_with_output().unwrap());
    assert!(code == 0 && log.contains("still works in") && log.contains("committed: 1"), "{log}");
}

/// Whoever collects logs finds each record on a line, with what it is about under names of its own.
#[test]
fn the_log_can_be_read_by_programs() {
    let dir = TempDir::new().unwrap();
    submitted(&dir, 1);
    let flags =
        ["worker", "--development=true", "--subscribe=t", "--context.name=m", "--log-format=json", "--wrap"];
    let mut command = sidecar(&dir, &flags);
    command.args(["--once", "--max-deliveries=1", "--", "sh", "-c", "exit 3"]);
    let (code, _, log) = ended(&command.output().unwrap());
    assert_eq!(code, 0, "{log}");
    let records: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let failed = records
        .iter()
        .find(|record| record["message"].as_str().unwrap().contains("exit code 3"))
        .unwrap_or_else(|| panic!("{log}"));
    assert_eq!(
        (&failed["level"], &failed["module"], &failed["event"]),
        (&"error".into(), &"m".into(), &"e0".into())
    );
    assert_eq!(
        (&failed["type"], &failed["correlation"], &failed["slot"]),
        (&"t".into(), &"e0".into(), &0.into())
    );
    assert!(records.iter().all(|record| record["time"].as_str().unwrap().ends_with('Z')), "{log}");
}
