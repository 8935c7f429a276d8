//! Workers that share a data plane: every event has one outcome, whichever worker is killed or stopped, and whichever
//! store is away.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::fault_proxy::{self, Fault, Proxy};
use crate::servers::{self, OwnNats};

/// How long anything here may take before it fails.
const DEADLINE: Duration = Duration::from_secs(180);

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

/// Workers that share a data plane, each with a directory of its own.
pub struct Fleet {
    pub program: PathBuf,
    pub dir: TempDir,
    pub plane: Vec<String>,
    pub env: Vec<(&'static str, String)>,
    /// Whether the bus itself drops repeats.
    pub drops_repeats: bool,
    /// The events of each round; there is one for each place.
    pub each: usize,
    /// In front of stores, which are all away for this time in the middle.
    pub stores: Vec<Proxy>,
    pub away: Duration,
    /// A bus that is restarted in the middle.
    pub bus: Option<OwnNats>,
}

impl Fleet {
    /// Over local files below a directory of its own.
    pub fn local(program: PathBuf, each: usize) -> Self {
        Self {
            program,
            dir: TempDir::new().unwrap(),
            plane: vec!["--development=true".into()],
            env: Vec::new(),
            drops_repeats: true,
            each,
            stores: Vec::new(),
            away: Duration::ZERO,
            bus: None,
        }
    }

    /// Over NATS, which is restarted, and over SeaweedFS and PostgreSQL, which are away for a time; `None` where a
    /// server is missing.
    pub async fn cluster(program: PathBuf, each: usize, away: Duration) -> Option<Self> {
        let (s3, postgres) = (servers::seaweedfs()?, servers::postgres()?);
        let nats = OwnNats::start("")?;
        let unique = format!("fleet{}", std::process::id());
        let proxy = async |server: &str| Proxy::start(fault_proxy::address(server), |_| Fault::None).await;
        let (blobs, documents) = (proxy(&s3).await, proxy(&postgres).await);
        let plane = vec![
            format!("--blobs=s3://test/{unique}?endpoint={}&region=us-east-1", blobs.url(&s3)),
            format!("--documents={}?table={unique}", documents.url(&postgres)),
            format!("--events={}/{unique}?stream={unique}&subjects=type", nats.url()),
        ];
        let env = vec![
            ("AWS_ACCESS_KEY_ID", servers::S3_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", servers::S3_SECRET.to_owned()),
        ];
        let stores = vec![blobs, documents];
        Some(Self { plane, env, stores, away, bus: Some(nats), ..Self::local(program, each) })
    }

    /// Over RabbitMQ, which drops no repeats, with Azurite and SecantusDB.
    pub fn azure(program: PathBuf, each: usize) -> Option<Self> {
        let (azurite, mongodb, broker) = (servers::azurite()?, servers::secantusdb()?, servers::rabbitmq()?);
        let unique = format!("rabbits{}", std::process::id());
        let (server, query) = mongodb.split_once('?').unwrap_or((&mongodb, ""));
        let plane = vec![
            format!("--blobs=az://fleet/{unique}?account=devstoreaccount1&endpoint={azurite}"),
            format!("--documents={}/fleet.{unique}?{query}", server.trim_end_matches('/')),
            format!("--events={broker}/{unique}"),
        ];
        let env = vec![("SIDECAR_AZUREBLOBPROVIDER_BLOBACCOUNTKEY", servers::AZURITE_KEY.to_owned())];
        Some(Self { plane, env, drops_repeats: false, ..Self::local(program, each) })
    }

    /// How many events there are in all.
    pub fn events(&self) -> usize {
        self.each * PLACES.len()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        let of_tests = |name: &String| name.starts_with("SIDECAR_") || name == "SHARED_SECRET";
        for (name, _) in std::env::vars().filter(|(name, _)| of_tests(name)) {
            command.env_remove(name);
        }
        command.current_dir(self.dir.path()).args(arguments).stdin(Stdio::null());
        command.args(&self.plane).envs(self.env.iter().map(|(name, value)| (*name, value)));
        command
    }

    fn submit(&self, count: usize) {
        fs::write(self.dir.path().join("f"), "1").unwrap();
        for _ in 0..count {
            let submit = ["submit", "--type=work", "--retry-for=5m", "f"];
            let (code, _, log) = ended(self.command(&submit));
            assert_eq!(code, 0, "{log}");
        }
    }

    fn worker(&self, number: usize, fault: Option<&str>) -> Running {
        let mut command = self.command(&[
            "worker",
            "--subscribe=work",
            "--wrap",
            "--context.name=m",
            "--concurrency=2",
            "--lock=3s",
            "--max-deliveries=50",
        ]);
        command.arg(format!("--idle-exit={}s", 6 + self.away.as_secs())).arg(format!("--basedir=w{number}"));
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
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn wait(Running(child): &mut Running) -> Option<i32> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return status.code(),
            None if Instant::now() > deadline => panic!("a worker did not end"),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

pub fn signal(child: &Child, signal: &str) {
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
    command.args(&check[7..]);
    ended(command)
}

fn ended(mut command: Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Three workers; one is killed in each phase in turn, another is stopped past its lock and goes on. In the middle the
/// stores are away and the bus is restarted.
pub fn every_event_has_one_outcome(fleet: &mut Fleet) {
    let (code, _, log) = ended(fleet.command(&["check"]));
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
        if round == 6 && !fleet.stores.is_empty() {
            let (stores, away) = (fleet.stores.clone(), fleet.away);
            stores.iter().for_each(|store| store.away(true));
            std::thread::spawn(move || {
                std::thread::sleep(away);
                stores.iter().for_each(|store| store.away(false));
            });
        }
        fleet.submit(fleet.each);
        events += fleet.each;
        if round == 7
            && let Some(bus) = &mut fleet.bus
        {
            bus.restart();
        }
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
    let (_, dead, log) = ended(fleet.command(&["dead", "list"]));
    assert!(dead.is_empty(), "{dead}{log}");
}
