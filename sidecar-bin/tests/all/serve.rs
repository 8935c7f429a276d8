//! Serving, and how it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use reqwest::blocking::Client;
use tempfile::TempDir;

use crate::process::{CONTEXT, DEADLINE, Serving, base, ended, files, sidecar, write_outputs};

#[test]
fn it_ends_by_itself_after_done_and_leaves_the_base_directory() {
    let dir = TempDir::new().unwrap();
    let serving = Serving::start(&dir, &[]);
    assert_eq!(serving.call("ready").unwrap().0, 200);
    write_outputs(&dir);
    assert_eq!(serving.call("done").unwrap().0, 200);
    let (code, log) = serving.end();
    assert_eq!(code, 0, "{log}");
    assert!(base(&dir).join("in/meta.json").exists());
    assert_eq!(files(base(&dir).join("out")), []);
}

#[test]
fn it_stays_when_told_so() {
    let dir = TempDir::new().unwrap();
    let serving = Serving::start(&dir, &["--exit-on-done=false"]);
    serving.call("ready").unwrap();
    let receipt = serving.call("done").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(serving.call("done").unwrap(), receipt);
    serving.signal("TERM");
    assert_eq!(serving.end().0, 0);
}

#[test]
fn a_signal_ends_it_and_says_that_nothing_was_committed() {
    for signal in ["TERM", "INT"] {
        let dir = TempDir::new().unwrap();
        let serving = Serving::start(&dir, &[]);
        serving.call("ready").unwrap();
        write_outputs(&dir);
        serving.signal(signal);
        let (code, log) = serving.end();
        assert_eq!(code, 143);
        assert!(log.contains("ended before the outputs were committed"), "{log}");
        assert!(base(&dir).join("out/data/a/x").exists());
    }
}

#[test]
fn a_module_that_fails_ends_it_with_its_code() {
    let dir = TempDir::new().unwrap();
    let serving = Serving::start(&dir, &[]);
    serving.call("fail").unwrap();
    assert_eq!(serving.end().0, 1);
}

#[test]
fn a_second_sidecar_on_one_base_directory_refuses_to_start() {
    let dir = TempDir::new().unwrap();
    let _first = Serving::start(&dir, &[]);
    let (code, _, log) = ended(&sidecar(&dir, &CONTEXT).arg("--serverport=0").output().unwrap());
    assert_eq!(code, 71);
    assert!(log.contains("another sidecar works in"), "{log}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let dir = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("--serverport={}", taken.local_addr().unwrap().port());
    let (code, _, log) = ended(&sidecar(&dir, &CONTEXT).arg(&port).output().unwrap());
    assert_eq!(code, 71);
    assert!(log.contains("cannot listen on 127.0.0.1:") && log.contains("--serverport"), "{log}");
}

#[test]
fn it_speaks_http_1_and_http_2_and_over_a_unix_socket() {
    let dir = TempDir::new().unwrap();
    let serving = Serving::start(&dir, &["--socket=sidecar.sock"]);
    let client = Client::builder().timeout(DEADLINE).http2_prior_knowledge().build().unwrap();
    let response = client.get(serving.url("healthz")).send().unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    let socket = dir.path().join("sidecar.sock");
    let client = Client::builder().timeout(DEADLINE).unix_socket(&*socket).build().unwrap();
    assert!(client.get("http://sidecar/healthz").send().unwrap().status().is_success());
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    serving.signal("TERM");
    serving.end();
    assert!(!socket.exists());
}

#[test]
fn the_log_can_go_to_a_file() {
    let dir = TempDir::new().unwrap();
    let mut command = sidecar(&dir, &CONTEXT);
    let (code, _, stderr) = ended(&command.args(["commit", "--logfile=log.txt"]).output().unwrap());
    assert_eq!((code, stderr.as_str()), (1, ""));
    assert!(fs::read_to_string(dir.path().join("log.txt")).unwrap().contains("call ready first"));
}
