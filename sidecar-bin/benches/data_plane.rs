//! What a commit costs beside a copy: `cargo bench -p sidecar-bin`.
//!
//! Each figure stands beside its yardstick, taken in turn on the same tree in the same run, durability
//! included on both sides: `done` and `ready` of the next module through the local data plane, against
//! `cp -r` and `sync -f` of the same tree; and since those are two copies, the first of them durable, also
//! against a second `cp -r` after that. Needs about 12 GiB of disk below the target directory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::blocking::Client;
use tempfile::TempDir;

/// Odd, so that the median is one of them.
const ROUNDS: usize = 5;

fn main() {
    // `cargo test` builds benches too and asks them to do nothing.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    start();
    transfer("10,000 files of 4 KiB", |out| {
        for i in 0..10_000 {
            let dir = out.join(format!("d{:02}", i % 100));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(format!("f{i:04}")), [i as u8; 4096]).unwrap();
        }
    });
    transfer("one file of 2 GiB", |out| {
        let mut file = fs::File::create(out.join("large")).unwrap();
        let block: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        (0..2048).for_each(|_| file.write_all(&block).unwrap());
    });
}

/// A sidecar that serves module `name` for `event` on the data plane in `dir`.
struct Sidecar {
    child: Child,
    url: String,
    client: Client,
}

impl Sidecar {
    fn start(dir: &Path, name: &str, event: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sidecar"))
            .current_dir(dir)
            .args([
                "--development=true",
                "--sharedsecret=dev",
                "--serverport=0",
                "--exit-on-done=false",
                "--valideventtypes=t",
            ])
            .args([format!("--context.name={name}"), format!("--context.eventid={event}")])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("listening on http")).unwrap();
        let url = line.split_once("http").map(|(_, rest)| format!("http{rest}")).unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, url, client: Client::builder().timeout(None).build().unwrap() }
    }

    fn call(&self, path: &str) -> (Duration, serde_json::Value) {
        let started = Instant::now();
        let response =
            self.client.get(format!("{}/{path}", self.url)).header("secret", "dev").send().unwrap();
        assert!(response.status().is_success(), "{}", response.text().unwrap());
        let body = response.json().unwrap();
        (started.elapsed(), body)
    }

    /// Peak resident memory so far, in MiB.
    fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn start() {
    let dir = scratch();
    let (mut starts, mut calls) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS * 4 {
        let started = Instant::now();
        let sidecar = Sidecar::start(dir.path(), "m", &format!("start{round}"));
        starts.push(started.elapsed());
        // The first call pays for the connection.
        sidecar.call("status");
        calls.push(sidecar.call("ready").0 + sidecar.call("done").0);
    }
    println!("process start to listening             {:>8.1?}", median(starts));
    println!("ready + done with nothing to move      {:>8.1?}", median(calls));
}

fn transfer(what: &str, write: impl Fn(&Path)) {
    let dir = scratch();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    write(&tree);
    let names = names(&tree).join(",");
    let event = format!(r#"[{{"key":"eventType","value":"t"}},{{"key":"files","value":"{names}"}}]"#);

    let (mut copies, mut twice, mut peak) = (Vec::new(), Vec::new(), 0);
    let (mut dones, mut readies) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let scratch = dir.path().join(format!("round{round}"));
        fs::create_dir(&scratch).unwrap();
        // In turn, since whoever comes second finds warmer memory.
        for side in [round % 2, 1 - round % 2] {
            if side == 0 {
                let (first, second) = copy(&tree, &scratch);
                copies.push(first);
                twice.push(first + second);
                continue;
            }
            let (done, ready, memory) = commit(&tree, &scratch, &event);
            dones.push(done);
            readies.push(ready);
            peak = peak.max(memory);
        }
        // ext4 is slow to make files where many were just deleted, so a tree of many stays until the end.
        if !names.contains(',') {
            fs::remove_dir_all(&scratch).unwrap();
        }
    }
    let sums = dones.iter().zip(&readies).map(|(done, ready)| *done + *ready).collect();
    let (once, twice, both) = (median(copies), median(twice), median(sums));
    println!("\n{what}");
    println!("  cp -r and sync -f                    {once:>8.2?}");
    println!("  cp -r, sync -f and cp -r             {twice:>8.2?}");
    println!("  done {:.2?} and ready {:.2?}{:>15.2?}", median(dones), median(readies), both);
    println!("  ratio to the one copy                {:>8.2}", both.as_secs_f64() / once.as_secs_f64());
    println!("  ratio to the two                     {:>8.2}", both.as_secs_f64() / twice.as_secs_f64());
    println!("  peak memory of a sidecar             {peak:>4} MiB");
}

/// The yardstick: the time of `cp -r` and `sync -f`, and of another `cp -r` from the copy.
fn copy(tree: &Path, scratch: &Path) -> (Duration, Duration) {
    let (copy, second) = (scratch.join("copy"), scratch.join("second"));
    settle();
    let started = Instant::now();
    run(Command::new("cp").arg("-r").args([tree, &copy]));
    run(Command::new("sync").arg("-f").arg(&copy));
    let first = started.elapsed();
    run(Command::new("cp").arg("-r").args([&copy, &second]));
    (first, started.elapsed() - first)
}

/// The time of `done` and of the next module's `ready`, and the greater peak memory in MiB.
fn commit(tree: &Path, scratch: &Path, event: &str) -> (Duration, Duration, u64) {
    let first = Sidecar::start(scratch, "first", "e");
    first.call("ready");
    let out = scratch.join("dev/modules/first/out");
    fs::remove_dir(out.join("data")).unwrap();
    run(Command::new("cp").arg("-r").arg(tree).arg(out.join("data")));
    fs::write(out.join("events/1.json"), event).unwrap();
    settle();
    let (done, receipt) = first.call("done");
    let second = Sidecar::start(scratch, "second", receipt["events"][0]["eventId"].as_str().unwrap());
    let (ready, _) = second.call("ready");
    run(Command::new("diff").arg("-r").arg(tree).arg(scratch.join("dev/modules/second/in/data")));
    (done, ready, first.peak().max(second.peak()))
}

fn scratch() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// What was written before must not be paid for by what is measured next.
fn settle() {
    run(&mut Command::new("sync"));
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

fn names(tree: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for path in fs::read_dir(tree).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            names.extend(self::names(&path).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            names.push(name.to_owned());
        }
    }
    names
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort();
    values[values.len() / 2]
}
