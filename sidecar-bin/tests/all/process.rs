//! The binary as a process with a directory of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use reqwest::blocking::Client;
use serde_json::Value;
use tempfile::TempDir;

/// How long anything here may take before the test fails.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A command in `dir` without the settings of the environment that the tests run in.
pub fn sidecar(dir: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidecar"));
    for (name, _) in std::env::vars().filter(|(name, _)| {
        name.starts_with("SIDECAR_") || ["SHARED_SECRET", "TRACEPARENT"].contains(&&**name)
    }) {
        command.env_remove(name);
    }
    command.current_dir(dir.path()).args(arguments).stdin(Stdio::null());
    command
}

/// Exit code, stdout and stderr of a command that ends by itself.
pub fn output(dir: &TempDir, arguments: &[&str]) -> (i32, String, String) {
    ended(&sidecar(dir, arguments).output().unwrap())
}

pub fn ended(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// A module `m` processing event `e1` on the data plane in `dir/dev`.
pub const CONTEXT: [&str; 4] =
    ["--development=true", "--context.eventid=e1", "--context.name=m", "--context.correlationid=c1"];

/// The names and contents of the blobs of one module for one event, as `sidecar get` copies them.
pub fn committed(dir: &TempDir, id: &str) -> Vec<(String, String)> {
    let to = TempDir::new().unwrap();
    let place = to.path().join("copy");
    let (code, out, log) = output(dir, &["get", "--development=true", id, place.to_str().unwrap()]);
    assert_eq!((code, out.trim()), (0, place.to_str().unwrap()), "{log}");
    files(place)
}

/// The names of all blobs, without what is private to an attempt.
pub fn blobs(dir: &TempDir) -> Vec<String> {
    files(dir.path().join("dev/blobs")).into_iter().map(|(name, _)| crate::normal::normal(&name)).collect()
}

/// A sidecar that serves.
pub struct Serving {
    child: Child,
    port: u16,
    dir: PathBuf,
    log: mpsc::Receiver<String>,
}

impl Serving {
    pub fn start(dir: &TempDir, arguments: &[&str]) -> Self {
        let mut command = sidecar(dir, &CONTEXT);
        command.args(["--serverport=0", "--linger=0s"]).args(arguments);
        Self::spawn(command)
    }

    pub fn spawn(command: Command) -> Self {
        Self::spawn_with(command, |_| ())
    }

    /// Lets `take` have the child before it is waited for.
    pub fn spawn_with(mut command: Command, take: impl FnOnce(&mut Child)) -> Self {
        let dir = command.get_current_dir().unwrap().to_owned();
        // Under `run` the address is only told to those who look closely.
        command.env("SIDECAR_LOGLEVEL", "debug");
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        take(&mut child);
        let stderr = child.stderr.take().unwrap();
        let (sender, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut serving = Self { child, port: 0, dir, log };
        let line = serving.wait_for("listening on http://");
        serving.port = line.rsplit(':').next().unwrap().parse().unwrap();
        serving
    }

    /// The next line of the log that has this text.
    pub fn wait_for(&self, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.log.recv_timeout(DEADLINE) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("no {text:?} in the log:\n{}", seen.join("\n")),
            }
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// Status and body; `None` when the connection broke.
    pub fn call(&self, path: &str) -> Option<(u16, Value)> {
        let client = Client::builder().timeout(DEADLINE).build().unwrap();
        let response = client.get(self.url(path)).header("secret", self.secret()).send().ok()?;
        let status = response.status().as_u16();
        Some((status, response.json().ok()?))
    }

    /// The secret that development mode has made up.
    pub fn secret(&self) -> String {
        fs::read_to_string(self.dir.join("dev/secret")).unwrap_or_default().trim().to_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        let killed = Command::new("kill").args([format!("-{signal}"), self.pid().to_string()]).status();
        assert!(killed.unwrap().success());
    }

    /// The exit code, and what is left of the log.
    pub fn end(mut self) -> (i32, String) {
        let deadline = std::time::Instant::now() + DEADLINE;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if std::time::Instant::now() > deadline => panic!("it did not end"),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        (status.code().unwrap_or(-1), self.log.iter().collect::<Vec<_>>().join("\n"))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes two files, an insight and two events as the module of `CONTEXT`.
pub fn write_outputs(dir: &TempDir) {
    let event = |kind: &str, files: &str| {
        serde_json::json!([{"key": "eventType", "value": kind}, {"key": "files", "value": files}]).to_string()
    };
    for (name, content) in [
        ("data/a/x", "ax".to_owned()),
        ("data/b/x", "bx".to_owned()),
        ("meta.json", r#"[{"key":"k","value":"v"}]"#.to_owned()),
        ("events/1.json", event("one", "a/x,b/x")),
        ("events/2.json", event("two", "b/x")),
    ] {
        let path = base(dir).join("out").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

pub fn base(dir: &TempDir) -> PathBuf {
    dir.path().join("dev/modules/m")
}

/// Name and content of every file below `path`.
pub fn files(path: PathBuf) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut dirs = vec![path.clone()];
    while let Some(dir) = dirs.pop() {
        for path_found in fs::read_dir(&dir).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            if path_found.is_dir() {
                dirs.push(path_found);
            } else {
                let mut content = String::new();
                fs::File::open(&path_found).unwrap().read_to_string(&mut content).unwrap_or_default();
                let name = path_found.strip_prefix(&path).unwrap().to_string_lossy().into_owned();
                found.push((name, content));
            }
        }
    }
    found.sort();
    found
}

/// Starts a sidecar's command as a user that is not root, which is what most permissions need to be tried.
pub fn as_nobody(dir: &TempDir) -> Option<impl Fn(&mut Command) -> Output> {
    // Another user may start a binary only where every directory above it lets them.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = dir.path().join("sidecar");
    fs::copy(env!("CARGO_BIN_EXE_sidecar"), &program).unwrap();
    let place = dir.path().to_owned();
    let as_nobody = move |command: &mut Command| {
        let mut other = Command::new("setpriv");
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        other.args(command.get_args()).current_dir(&place).output()
    };
    if !as_nobody(&mut sidecar(dir, &["--version"])).is_ok_and(|probe| probe.status.success()) {
        skip("permissions", "run as root with setpriv, in a directory that others may enter");
        return None;
    }
    Some(move |command: &mut Command| as_nobody(command).unwrap())
}

/// Says what is not tested and how to have it; where the environment insists, that is a failure.
pub fn skip(what: &str, how: &str) {
    assert!(std::env::var_os("SIDECAR_TEST_REQUIRE_SERVERS").is_none(), "{what} must be tested: {how}");
    // Not through `eprintln!`, which the test harness keeps to itself.
    std::io::stderr().write_all(format!("skipped: {what}: {how}\n").as_bytes()).unwrap();
}
