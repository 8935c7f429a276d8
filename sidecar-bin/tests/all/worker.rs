//! `sidecar worker` as processes: every event has one outcome, whichever worker is killed or stopped.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::{DEADLINE, ended, files, output, sidecar};
use crate::servers;

/// Takes a number and publishes it.
const MODULE: &str = "cd $SIDECAR_BASE_DIR && sleep 0.05 && cp in/data/f out/data/f &&
    echo '[{\"key\":\"eventType\",\"value\":\"worked\"},{\"key\":\"files\",\"value\":\"f\"}]' > out/events/1.json";

/// Places at which a worker is killed: in each phase of a delivery.
const PLACES: [&str; 12] = [
    "worker.received",
    "worker.counted",
    "inputs.clear",
    "blobs.get",
    "inputs.meta",
    "blobs.put",
    "documents.put_event_contexts",
    "decide.before",
    "decide.after",
    "events.publish",
    "documents.put_published",
    "worker.settling",
];

/// Events for each of them.
const EACH: usize = 6;

/// Workers that share a data plane, each with a directory of its own.
struct Fleet {
    dir: TempDir,
    plane: Vec<String>,
    env: Vec<(&'static str, String)>,
    /// Whether the bus itself drops repeats.
    drops_repeats: bool,
}

impl Fleet {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = sidecar(&self.dir, arguments);
        command.args(&self.plane).envs(self.env.iter().map(|(name, value)| (*name, value)));
        command
    }

    fn submit(&self, count: usize) {
        fs::write(self.dir.path().join("f"), "1").unwrap();
        for _ in 0..count {
            let (code, _, log) = ended(&self.command(&["submit", "--type=work", "f"]).output().unwrap());
            assert_eq!(code, 0, "{log}");
        }
    }

    fn worker(&self, number: usize, fault: Option<&str>) -> Running {
        let mut command = self.command(&[
            "worker",
            "--subscribe=work",
            "--wrap",
            "--context.name=m",
            "--idle-exit=6s",
            "--concurrency=2",
            "--lock=3s",
            "--max-deliveries=50",
        ]);
        command.arg(format!("--basedir=w{number}"));
        if let Some(place) = fault {
            command.env("SIDECAR_FAULT_AT", format!("{place} 1"));
        }
        let log =
            fs::File::options().create(true).append(true).open(self.dir.path().join(format!("log{number}")));
        command
            .args(["--", "sh", "-c", MODULE])
            .stderr(log.unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let before = self.log(number).len();
        let child = Running(command.spawn().unwrap());
        let until = Instant::now() + DEADLINE;
        while !self.log(number)[before..].contains(" receives ") {
            assert!(Instant::now() < until, "the worker does not begin: {}", self.logs());
            std::thread::sleep(Duration::from_millis(10));
        }
        child
    }

    fn log(&self, number: usize) -> String {
        fs::read_to_string(self.dir.path().join(format!("log{number}"))).unwrap_or_default()
    }

    /// The workers' logs, for a test that has failed.
    fn logs(&self) -> String {
        (0..3).map(|number| self.log(number)).collect()
    }
}

/// A worker that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait(Running(child): &mut Running) -> Option<i32> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return status.code(),
            None if Instant::now() > deadline => panic!("a worker did not end"),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn signal(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// The next module, for what is there.
fn next(fleet: &Fleet) -> (i32, String, String) {
    let check = [
        "worker",
        "--subscribe=worked",
        "--wrap",
        "--context.name=next",
        "--idle-exit=2s",
        "--basedir=next",
        "--concurrency=4",
        "--",
        "sh",
        "-c",
        "test 1 = $(cat $SIDECAR_BASE_DIR/in/data/f)",
    ];
    let mut command = fleet.command(&check[..7]);
    command.stdin(Stdio::null());
    ended(&command.args(&check[7..]).output().unwrap())
}

/// Three workers; one is killed in each phase in turn, another is stopped past its lock and goes on.
fn every_event_has_one_outcome(fleet: &Fleet) {
    let (code, _, log) = ended(&fleet.command(&["check"]).output().unwrap());
    assert_eq!(code, 0, "{log}");
    // Some buses keep for a group only what comes when it is there.
    assert_eq!(next(fleet).0, 0);
    let (mut events, mut died) = (0, Vec::new());
    let (mut steady, mut stopped) = (fleet.worker(0, None), fleet.worker(1, None));
    for (round, place) in PLACES.iter().enumerate() {
        let mut killed = fleet.worker(2, Some(place));
        if round == 4 {
            signal(&stopped.0, "STOP");
        }
        if round == 8 {
            signal(&stopped.0, "CONT");
        }
        fleet.submit(EACH);
        events += EACH;
        // It may find nothing to do; then it lives on, and is killed where it is.
        let until = Instant::now() + Duration::from_millis(700);
        while killed.0.try_wait().unwrap().is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        if killed.0.try_wait().unwrap().is_some() {
            died.push(*place);
        }
    }
    // The others may have been faster now and then; a test that kills nobody shows nothing.
    assert!(died.len() >= PLACES.len() / 2, "only these places were reached: {died:?}");
    let mut last = fleet.worker(2, None);
    for worker in [&mut steady, &mut stopped, &mut last] {
        assert_eq!(wait(worker), Some(0), "{}", fleet.logs());
    }
    // Every outcome reaches the next module, whole and once.
    let (code, _, log) = next(fleet);
    let (_, summary) = log.rsplit_once("events received: ").unwrap_or_default();
    let (received, rest) = summary.split_once(", ").unwrap_or_default();
    let rest_expected = format!("committed: {received}, retried: 0, given up: 0, handed back: 0");
    assert!(code == 0 && rest.trim() == rest_expected, "{events} events: {log}\n{}", fleet.logs());
    // A bus that drops no repeats may deliver what was published when a worker died twice: it is one outcome.
    let received: usize = received.parse().unwrap();
    let as_expected = if fleet.drops_repeats { received == events } else { received >= events };
    let ids = log.lines().filter(|line| line.contains("ready: "));
    let ids: HashSet<_> = ids.filter_map(|line| line.split("event=").nth(1)?.split(' ').next()).collect();
    assert!(as_expected && ids.len() == events, "{received} received, {} of {events}: {log}", ids.len());
    let (_, dead, log) = ended(&fleet.command(&["dead", "list"]).output().unwrap());
    assert!(dead.is_empty(), "{dead}{log}");
}

#[test]
fn every_event_has_one_outcome_over_local_files() {
    let dir = TempDir::new().unwrap();
    let fleet = Fleet { dir, plane: vec!["--development=true".into()], env: Vec::new(), drops_repeats: true };
    every_event_has_one_outcome(&fleet);
    // Nothing was published under two ids: what was submitted, and one event for each.
    let published = files(fleet.dir.path().join("dev/events"));
    let worked = published.iter().filter(|(_, event)| event.contains("\"worked\"")).count();
    assert_eq!((published.len(), worked), (2 * EACH * PLACES.len(), EACH * PLACES.len()));
}

#[test]
fn every_event_has_one_outcome_over_nats_s3_and_postgres() {
    let (Some(s3), Some(postgres), Some(nats)) = (servers::seaweedfs(), servers::postgres(), servers::nats())
    else {
        return;
    };
    let unique = format!("fleet{}", std::process::id());
    let plane = vec![
        format!("--blobs=s3://test/{unique}?endpoint={s3}&region=us-east-1"),
        format!("--documents={postgres}?table={unique}"),
        format!("--events={nats}/{unique}?stream={unique}&subjects=type"),
    ];
    let env = vec![
        ("AWS_ACCESS_KEY_ID", servers::S3_KEY.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", servers::S3_SECRET.to_owned()),
    ];
    every_event_has_one_outcome(&Fleet { dir: TempDir::new().unwrap(), plane, env, drops_repeats: true });
}

#[test]
fn every_event_has_one_outcome_over_rabbitmq_and_postgres() {
    let (Some(postgres), Some(rabbitmq)) = (servers::postgres(), servers::rabbitmq()) else { return };
    let unique = format!("rabbits{}", std::process::id());
    let plane = vec![
        "--blobs=file:blobs".into(),
        format!("--documents={postgres}?table={unique}"),
        format!("--events={rabbitmq}/{unique}"),
    ];
    let dir = TempDir::new().unwrap();
    every_event_has_one_outcome(&Fleet { dir, plane, env: Vec::new(), drops_repeats: false });
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
    assert!(code == 0 && lines.len() == 2 && lines[1].contains("e1/m\tt\tm\t1\t"), "{list}");
    let id = lines[1].split('\t').nth(1).unwrap();
    let (_, shown, _) = development(&["dead", "show", id]);
    let letter: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(letter["reason"], "the module ended with exit code 3");
    assert_eq!(development(&["dead", "show", "nonsense"]).0, 69);
    assert_eq!(development(&["dead", "redrive", id]).0, 0);
    let (code, _, log) = worker("true");
    assert!(code == 0 && log.contains("committed: 1"), "{log}");
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
    assert!(code == 71 && log.contains("5 times before it asked"), "{log}");
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
