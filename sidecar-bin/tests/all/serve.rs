//! Serving, and how it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use reqwest::blocking::Client;
use tempfile::TempDir;

use crate::process::{
    CONTEXT, DEADLINE, Serving, as_nobody, base, ended, files, output, sidecar, skip, write_outputs,
};

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

/// The next process of the module is quicker than the end of the sidecar: it must not take the receipt for its own.
#[test]
fn whoever_comes_after_the_end_is_sent_to_the_next_sidecar() {
    let dir = TempDir::new().unwrap();
    let serving = Serving::start(&dir, &["--linger=3s"]);
    let call = |path: &str, start: &str| {
        let request = Client::new().get(serving.url(path)).header("secret", serving.secret());
        request.header("module-start", start).send().unwrap().status().as_u16()
    };
    assert_eq!(call("ready", "one"), 200);
    assert_eq!(call("done", "one"), 200);
    let (status, body) = serving.call("ready").unwrap();
    assert_eq!((status, body["retryable"].as_bool()), (503, Some(true)), "{body}");
    assert_eq!(call("ready", "two"), 503);
    // What is repeated is answered as before.
    assert_eq!(call("done", "one"), 200);
    assert_eq!(call("ready", "one"), 200);
    write_outputs(&dir);
    assert_eq!(call("done", "one"), 200);
    let (code, log) = serving.end();
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("outputs written after the commit"), "{log}");
}

/// A process that worked for an earlier sidecar calls `done` here: what it wrote is of another event.
#[test]
fn outputs_of_a_process_that_was_never_ready_here_are_set_aside() {
    let dir = TempDir::new().unwrap();
    let serving = Serving::start(&dir, &[]);
    write_outputs(&dir);
    assert_eq!(serving.call("done").unwrap().0, 409);
    assert_eq!(serving.call("ready").unwrap().0, 200);
    let done = serving.call("done").unwrap();
    assert_eq!((done.0, done.1["files"].as_u64()), (200, Some(0)), "{done:?}");
    let (_, log) = serving.end();
    assert!(log.contains("was set aside"), "{log}");
    assert!(base(&dir).join("out/.previous/1/data/a/x").exists());
}

#[test]
fn a_signal_ends_it_and_says_that_nothing_was_committed() {
    for (signal, number) in [("TERM", 15), ("INT", 2)] {
        if ignored_here(number) {
            // A script's `&` ignores SIGINT for its children, and the sidecar keeps to that.
            continue;
        }
        let dir = TempDir::new().unwrap();
        let serving = Serving::start(&dir, &[]);
        serving.call("ready").unwrap();
        write_outputs(&dir);
        serving.signal(signal);
        let (code, log) = serving.end();
        assert_eq!(code, 128 + number);
        // Whoever is beyond its sight may have crashed.
        let failures = files(dir.path().join("dev/failures"));
        assert!(
            failures.len() == 1 && failures[0].1.contains("before the module called done"),
            "{failures:?}"
        );
        assert!(
            log.contains("ended by a signal: nothing is committed; the outputs are left where they are"),
            "{log}"
        );
        assert!(base(&dir).join("out/data/a/x").exists());
    }
}

/// Whether this process, and so whatever it starts, ignores a signal.
fn ignored_here(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (signal - 1)) != 0
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
fn a_person_can_ask_what_a_sidecar_is_doing() {
    let dir = TempDir::new().unwrap();
    let serving = Serving::start(&dir, &["--socket=sidecar.sock"]);
    let url = url::Url::parse(&serving.url("status")).unwrap();
    let port = format!("--serverport={}", url.port().unwrap());
    for place in [&*port, "--socket=sidecar.sock"] {
        let (code, out, log) = output(&dir, &["status", "--development", place]);
        assert_eq!(
            (code, &*out),
            (0, "new: waits for the module to call ready (module m, event e1)\n"),
            "{log}"
        );
    }
    let (code, _, log) = output(&dir, &["status", "--sharedsecret=another", &port]);
    assert!(code == 64 && log.contains("secret"), "{log}");
    let (code, _, log) = output(&dir, &["status", "--development", "--serverport=1"]);
    assert!(code == 71 && log.contains("is that its --serverport?"), "{log}");
    let (code, _, log) = output(&dir, &["status", &port]);
    assert!(code == 64 && log.contains("--sharedsecret: is required"), "{log}");
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
    let (code, _, stderr) = ended(&command.args(["prepare", "--logfile=log.txt"]).output().unwrap());
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(fs::read_to_string(dir.path().join("log.txt")).unwrap().contains("ready"));
}

#[test]
fn a_full_disk_is_told_and_can_be_mended() {
    let dir = TempDir::new().unwrap();
    let small = dir.path().join("dev");
    fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "none"]).arg(&small).output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        return skip("a full disk", "run as root, who may mount a tmpfs");
    }
    struct Mounted(std::path::PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            // Lazily, since a failing test may still have files open in it.
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
    let _mounted = Mounted(small.clone());
    let serving = Serving::start(&dir, &[]);
    serving.call("ready").unwrap();
    fs::write(base(&dir).join("out/data/large"), vec![1; 1_200_000]).unwrap();
    let (status, body) = serving.call("done").unwrap();
    assert_eq!((status, &body["retryable"]), (507, &serde_json::json!(true)), "{body}");
    assert!(body["message"].as_str().unwrap().contains("no space left to write"), "{body}");
    assert_eq!(files(dir.path().join("dev/blobs")), []);
    assert!(Command::new("mount").args(["-o", "remount,size=8m"]).arg(&small).status().unwrap().success());
    assert_eq!(serving.call("done").unwrap().0, 200);
    assert_eq!(serving.end().0, 0);
}

#[test]
fn what_cannot_be_read_is_never_left_out_silently() {
    let dir = TempDir::new().unwrap();
    let Some(as_nobody) = as_nobody(&dir) else { return };
    let mut prepare = sidecar(&dir, &CONTEXT);
    assert!(as_nobody(prepare.arg("prepare")).status.success());
    let data = base(&dir).join("out/data");
    fs::write(data.join("readable"), "").unwrap();
    for (name, directory) in [("secret", false), ("locked", true)] {
        let path = data.join(name);
        if directory {
            fs::create_dir(&path).unwrap()
        } else {
            fs::write(&path, "").unwrap()
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    }
    let mut commit = sidecar(&dir, &CONTEXT);
    let (code, _, log) = ended(&as_nobody(commit.arg("commit")));
    assert_eq!(code, 65, "{log}");
    assert!(
        log.contains("out/data/secret: cannot be read") && log.contains("out/data/locked: cannot be read"),
        "{log}"
    );
    assert_eq!(files(dir.path().join("dev/blobs")), []);
}

/// A page that knows the secret of development, and a name that leads to this machine.
#[test]
fn a_browser_is_not_a_module() {
    let dir = TempDir::new().unwrap();
    let serving = Serving::start(&dir, &[]);
    let status = |host: &str| {
        let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
        let request =
            client.get(serving.url("status")).header("secret", serving.secret()).header("host", host);
        request.send().unwrap().status().as_u16()
    };
    for host in
        ["localhost", "localhost:8080", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.1.2.3:80", "[::1]:80"]
    {
        assert_eq!(status(host), 200, "{host}");
    }
    for host in
        ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "10.0.0.1", "localhost.evil.example"]
    {
        assert_eq!(status(host), 403, "{host}");
    }
}

#[test]
fn beyond_this_machine_a_secret_is_long_and_the_host_is_not_judged() {
    let dir = TempDir::new().unwrap();
    let (code, _, log) = ended(
        &sidecar(&dir, &CONTEXT).args(["--serveraddress=0.0.0.0", "--sharedsecret=short"]).output().unwrap(),
    );
    assert!(code == 64 && log.contains("--sharedsecret: has 5 bytes"), "{code}: {log}");
    let serving = Serving::start(&dir, &["--serveraddress=0.0.0.0", "--sharedsecret=sixteen bytes or more"]);
    let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
    let answer =
        client.get(serving.url("status")).header("secret", "sixteen bytes or more").header("host", "sidecar");
    assert_eq!(answer.send().unwrap().status().as_u16(), 200);
}
