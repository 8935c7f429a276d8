//! What is left of an execution that failed: a document, the outputs, and a line that says what was saved.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{CONTEXT, Serving, base, ended, files, output, sidecar, write_outputs};

/// The one failure document in the data plane of `dir`.
fn failure(dir: &TempDir) -> Value {
    let failures = files(dir.path().join("dev/failures"));
    assert_eq!(failures.len(), 1, "{failures:?}");
    serde_json::from_str(&failures[0].1).unwrap()
}

#[test]
fn a_module_that_gives_up_leaves_a_failure_and_its_outputs() {
    let dir = TempDir::new().unwrap();
    let serving = Serving::start(&dir, &[]);
    assert_eq!(serving.call("ready").unwrap().0, 200);
    write_outputs(&dir);
    assert_eq!(serving.call("fail").unwrap().0, 200);
    assert_eq!(serving.end().0, 1);
    let failure = failure(&dir);
    for (key, value) in
        [("eventId", "e1"), ("name", "m"), ("correlationId", "c1"), ("culprit", "module"), ("phase", "ready")]
    {
        assert_eq!(failure[key], value, "{failure}");
    }
    assert_eq!(failure["reason"], "no reason given");
    assert_eq!(failure["retryable"], false);
    assert!(failure["time"].as_str().unwrap().ends_with('Z'));
    assert!(failure.get("blobs").is_none());
    assert!(base(&dir).join("out/data/a/x").exists());
    assert!(files(dir.path().join("dev/blobs")).is_empty());
}

#[test]
fn the_outputs_of_a_failed_module_can_be_kept_where_no_consumer_looks() {
    let dir = TempDir::new().unwrap();
    write_outputs(&dir);
    let flags = [
        "run",
        "--on-failure=upload",
        "--",
        "sh",
        "-c",
        "echo late > $SIDECAR_BASE_DIR/out/data/late; exit 7",
    ];
    let (code, _, log) = ended(&sidecar(&dir, &CONTEXT).args(flags).output().unwrap());
    assert_eq!(code, 7, "{log}");
    let failure = failure(&dir);
    assert!(failure["reason"].as_str().unwrap().contains("exit code 7"), "{failure}");
    let blobs: Vec<&str> =
        failure["blobs"].as_array().unwrap().iter().map(|blob| blob["key"].as_str().unwrap()).collect();
    let prefix = format!("e1/.failed/m/~{}/", failure["attempt"].as_str().unwrap());
    assert!(blobs.contains(&&*format!("{prefix}late")) && blobs.iter().all(|key| key.starts_with(&prefix)));
    let kept = files(dir.path().join("dev/blobs").join(prefix));
    assert!(kept.contains(&("late".into(), "late\n".into())), "{kept:?}");
    assert!(!dir.path().join("dev/blobs/e1/m").exists());
    assert!(files(dir.path().join("dev/events")).is_empty());
}

#[test]
fn a_module_that_never_called_done_and_one_with_invalid_outputs_leave_a_failure() {
    for (flags, culprit, code) in [
        (vec!["run", "--", "true"], "module", 1),
        (
            vec!["run", "--wrap", "--", "sh", "-c", "echo '[{]' > $SIDECAR_BASE_DIR/out/meta.json"],
            "outputs",
            65,
        ),
    ] {
        let dir = TempDir::new().unwrap();
        let (ended_with, _, log) = ended(&sidecar(&dir, &CONTEXT).args(flags).output().unwrap());
        assert_eq!(ended_with, code, "{log}");
        assert_eq!(failure(&dir)["culprit"], culprit);
    }
}

#[test]
fn a_module_that_falls_silent_loses_its_lease() {
    let dir = TempDir::new().unwrap();
    let started = Instant::now();
    let serving = Serving::start(&dir, &["--module-timeout=1s"]);
    assert_eq!(serving.call("ready").unwrap().0, 200);
    // A module that asks how things stand is alive.
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(serving.call("status").unwrap().0, 200);
    }
    let (code, log) = serving.end();
    assert_eq!(code, 1, "{log}");
    assert!(started.elapsed() > Duration::from_millis(2500), "it was cut off while it was alive");
    assert!(log.contains("the module was not heard for its timeout of 1s"), "{log}");
    assert_eq!(failure(&dir)["culprit"], "module");
}

#[test]
fn files_are_readable_and_state_is_private() {
    let dir = TempDir::new().unwrap();
    let serving = Serving::start(&dir, &["--socket=socket"]);
    let socket = fs::metadata(dir.path().join("socket")).unwrap().permissions().mode();
    write_outputs(&dir);
    assert_eq!(serving.call("ready").unwrap().0, 200);
    assert_eq!(serving.call("done").unwrap().0, 200);
    let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(socket & 0o777, 0o600);
    assert_eq!(mode("dev/modules/m/.sidecar"), 0o700);
    assert_eq!(mode("dev/modules/m/.sidecar/journal.json") & 0o077, 0);
    let blobs = files(dir.path().join("dev/blobs"));
    let blob = &blobs.iter().find(|(name, _)| name.ends_with("/a/x")).unwrap().0;
    assert_eq!(mode(&format!("dev/blobs/{blob}")), 0o644);
    assert_eq!(mode(&format!("dev/blobs/{}", blob.trim_end_matches("/x"))), 0o755);
    assert_eq!(mode("dev/modules/m/in/meta.json"), 0o640);
    for kind in ["contexts", "events", "insights"] {
        for entry in fs::read_dir(dir.path().join("dev").join(kind)).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o644);
        }
    }
}

#[test]
fn the_socket_asks_who_is_there() {
    // Only root can be somebody else.
    if !fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0) {
        return;
    }
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let serving = Serving::start(&dir, &["--socket=socket", "--socket-uid=12345"]);
    let secret = format!("secret: {}", serving.secret());
    let as_user = |uid: &str| {
        let mut command = std::process::Command::new("setpriv");
        command.args([&format!("--reuid={uid}"), "--clear-groups", "curl", "-sS", "-H", &secret]);
        command.arg("--unix-socket").arg(dir.path().join("socket")).arg("http://localhost/status");
        command.output().unwrap().status.success()
    };
    assert!(as_user("12345") && as_user("0"));
    assert!(!as_user("54321"));
}

/// A whole execution with everything logged, over stores that take secrets, and an execution that fails.
#[test]
fn no_secret_is_printed_or_stored() {
    let (Some(s3), Some(postgres), Some(nats)) =
        (crate::servers::seaweedfs(), crate::servers::postgres(), crate::servers::nats_with_users())
    else {
        return;
    };
    let secrets = ["swordfish-api", crate::servers::S3_SECRET, "p%40ss", "p@ss", "swordfish-postgres"];
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("secret"), secrets[0]).unwrap();
    let with_password = postgres.replace("postgres://postgres@", "postgres://postgres:swordfish-postgres@");
    assert_ne!(with_password, postgres);
    fs::write(dir.path().join("documents"), format!("{with_password}?table=hygiene")).unwrap();
    fs::write(dir.path().join("events"), nats.replace("nats://", "nats://sidecar:p%40ss@") + "/hygiene")
        .unwrap();
    let mut printed = String::new();
    for (event, module) in [
        (
            "h1",
            "echo x > $SIDECAR_BASE_DIR/out/data/x; echo '[{\"key\":\"eventType\",\"value\":\"t\"},{\"key\":\"files\",\"value\":\"x\"}]' > $SIDECAR_BASE_DIR/out/events/1.json",
        ),
        ("h2", "env; exit 3"),
    ] {
        let flags =
            ["--basedir=base", "--statedir=state", "--loglevel=trace", "--printconfig", "--context.name=m"];
        let files =
            ["--sharedsecret-file=../secret", "--documents-file=../documents", "--events-file=../events"];
        fs::create_dir_all(dir.path().join("work")).unwrap();
        let mut command = sidecar(&dir, &["run", "--wrap", "--rerun", "--first"]);
        command.current_dir(dir.path().join("work")).args(flags).args(files);
        command.args([&format!("--context.eventid={event}"), "--", "sh", "-c", module]);
        command.env("SIDECAR_BLOBS", format!("s3://test/hygiene?endpoint={s3}&region=us-east-1"));
        command.env("AWS_ACCESS_KEY_ID", crate::servers::S3_KEY).env("AWS_SECRET_ACCESS_KEY", secrets[1]);
        let (code, out, log) = ended(&command.output().unwrap());
        assert_eq!(code, if event == "h1" { 0 } else { 3 }, "{log}");
        // The module is told the secret that it must send, and nothing else.
        let told = out.replace(&format!("SHARED_SECRET={}", secrets[0]), "");
        printed += &(told + &log);
    }
    for secret in secrets {
        let line = printed.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} was printed: {line:?}");
        for (name, content) in files(dir.path().join("work")) {
            assert!(!content.contains(secret), "{secret} is in {name}");
        }
    }
}

#[test]
fn a_module_that_hangs_under_run_loses_its_lease_too() {
    for wrap in [&["run", "--wrap"][..], &["run"]] {
        let dir = TempDir::new().unwrap();
        let flags = ["--module-timeout=500ms", "--", "sleep", "60"];
        let started = Instant::now();
        let (code, _, log) = ended(&sidecar(&dir, &CONTEXT).args(wrap).args(flags).output().unwrap());
        assert_eq!(code, 1, "{log}");
        assert!(log.contains("its timeout of 500ms"), "{log}");
        assert!(started.elapsed() < Duration::from_secs(20));
        assert_eq!(failure(&dir)["culprit"], "module");
    }
}

#[test]
fn a_failure_that_an_outcome_followed_is_shown_as_overcome() {
    let dir = TempDir::new().unwrap();
    let attempt = |script: &str| {
        let mut command = sidecar(&dir, &["run", "--wrap"]);
        command.args(CONTEXT).args(["--", "sh", "-c", script]).output().unwrap()
    };
    let failures = |flags: &[&str]| output(&dir, &[&["failures", "--development=true"], flags].concat());
    let open = || failures(&["--open"]).0;
    // In the wrong directory nothing is made, and nothing is well.
    let (code, _, log) = failures(&[]);
    assert!(code == 66 && log.contains("there is no data plane"), "{log}");
    assert!(!dir.path().join("dev").exists());
    attempt("exit 3");
    let (code, shown, _) = failures(&["e1"]);
    assert_eq!((code, shown.lines().count(), open()), (0, 2, 1));
    assert!(shown.contains("\te1/m\tready\tmodule\t-\tthe module ended with exit code 3"), "{shown}");
    assert_eq!(failures(&["e2"]).0, 66);
    attempt("true");
    let (_, shown, _) = failures(&[]);
    assert!(shown.contains("\tattempt ") && shown.lines().count() == 2 && open() == 0, "{shown}");
    // One that came after the outcome is not overcome by it.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let mut again = sidecar(&dir, &["run", "--wrap", "--rerun"]);
    again.args(CONTEXT).args(["--", "false"]).output().unwrap();
    assert_eq!(open(), 1);
    let full = std::fs::File::create("/dev/full").unwrap();
    let mut command = sidecar(&dir, &["failures", "--development=true"]);
    assert_eq!(command.stdout(full).status().unwrap().code(), Some(71));
}

#[test]
fn who_only_reads_needs_no_bus() {
    let dir = TempDir::new().unwrap();
    let (code, _, log) = output(&dir, &["submit", "--development=true", "--id=e1", "--value=a=b"]);
    assert_eq!(code, 0, "{log}");
    let away = "--events=nats://127.0.0.1:1/s?stream=x";
    for command in [&["failures"][..], &["get", "e1", "copy"]] {
        let flags = [command, &["--blobs=file:dev", "--documents=file:dev", away, "--retry-for=1s"]].concat();
        let (code, _, log) = output(&dir, &flags);
        assert_eq!(code, 0, "{log}");
    }
}
