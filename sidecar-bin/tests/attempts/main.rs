//! Several attempts of one execution, on different directories, over real stores:
//! `cargo test -p sidecar-bin --all-features --test attempts`.
//!
//! One attempt is brought to every place that an execution passes, and is killed, stopped or held there while others
//! run. Without arguments the seed chooses a part. `-- --full` tries everything, `-- --seed N` repeats a choice, and
//! `-- --write docs/reliability.md` puts the table there. `--only TEXT` takes the rows and places with this text.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures_util::StreamExt;

mod attempt;
mod audit;
#[path = "../reliability/bus.rs"]
#[allow(dead_code, reason = "the reliability test uses all of it")]
mod bus;
#[path = "../reliability/plane.rs"]
#[allow(dead_code, reason = "the reliability test uses all of it")]
mod plane;
#[path = "../all/program.rs"]
mod program;
mod proxy;
#[path = "../../../sidecar-core/tests/all/servers.rs"]
mod servers;
#[path = "../all/table.rs"]
mod table;
mod trial;

use attempt::{Attempt, Place};
use plane::{Kind, Plane};
use trial::{Row, play};

/// The columns of the table.
const KINDS: [Kind; 3] = [Kind::Local, Kind::Cluster, Kind::Azure];
/// Trials at once.
const PARALLEL: usize = 4;
/// Where the table begins and ends in the page.
const MARKS: [&str; 2] = ["<!-- attempts -->", "<!-- /attempts -->"];

struct Arguments {
    full: bool,
    seed: u64,
    write: Option<String>,
    only: String,
}

fn arguments() -> Arguments {
    let mut parsed = Arguments { full: false, seed: 1, write: None, only: String::new() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--full" => parsed.full = true,
            "--seed" => parsed.seed = arguments.next().and_then(|n| n.parse().ok()).expect("--seed N"),
            "--write" => parsed.write = Some(arguments.next().expect("--write FILE")),
            "--only" => parsed.only = arguments.next().expect("--only TEXT"),
            // What `cargo test` passes on to every test program.
            _ => {}
        }
    }
    parsed
}

#[tokio::main]
async fn main() {
    let _program = program::keep();
    let arguments = arguments();
    let started = Instant::now();
    let mut table = Table::default();
    for kind in KINDS {
        let Some(reference) = Plane::new(kind, number()).await else { continue };
        let places = places(&reference).await;
        if kind == Kind::Local && arguments.only.is_empty() {
            for (broken, row) in BROKEN {
                notice(broken, row, &places).await;
            }
        }
        let chosen = choose(places, kind, &arguments);
        println!("{}: {} trials", kind.name(), chosen.len());
        let run = async |(row, place)| (run(kind, row, &place).await, row, place);
        let mut running = futures_util::stream::iter(chosen).map(run).buffer_unordered(PARALLEL);
        while let Some((result, row, place)) = running.next().await {
            table.add(kind, row, &place, result);
        }
        println!("{}: after {} s", kind.name(), started.elapsed().as_secs());
    }
    let text = table.text(arguments.seed, started.elapsed().as_secs());
    println!("{text}");
    assert!(
        table.failures.is_empty(),
        "{} of the trials failed:\n{}",
        table.failures.len(),
        table.failures.join("\n")
    );
    if let Some(path) = arguments.write {
        table::write(&path, MARKS, &text);
    }
}

fn number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Runs one attempt undisturbed, and learns from its trace where it can be held.
async fn places(plane: &Plane) -> Vec<Place> {
    let attempt = Attempt::start(plane, "A", None, &[]);
    let ended = attempt.end().await.expect("the undisturbed attempt");
    let ended = ended.committed().expect("the undisturbed attempt");
    let outcomes = audit::audit(plane, 1).await.expect("the undisturbed attempt");
    audit::agree(&[ended], &outcomes).expect("the undisturbed attempt");
    audit::nothing_is_left(plane, &outcomes).await.expect("the undisturbed attempt");
    Place::all(&std::fs::read_to_string(attempt::directory(plane, "A").join("trace")).unwrap())
}

/// All of them, or those that the seed chooses.
fn choose(places: Vec<Place>, kind: Kind, arguments: &Arguments) -> Vec<(Row, Place)> {
    let rows = Row::ALL.into_iter().filter(|row| kind != Kind::Local || row.is_local());
    let trials = rows.flat_map(|row| places.iter().map(move |place| (row, place.clone())));
    let share = match kind {
        Kind::Local => 12,
        Kind::Cluster | Kind::Azure => 24,
    };
    let is_chosen = |(row, place): &(Row, Place)| {
        let mut hasher = DefaultHasher::new();
        (arguments.seed, kind.name(), row, place.to_string()).hash(&mut hasher);
        let by_seed = arguments.full || hasher.finish().is_multiple_of(share);
        by_seed && format!("{}: {} at {place}", kind.name(), row.name()).contains(&arguments.only)
    };
    trials.filter(is_chosen).collect()
}

async fn run(kind: Kind, row: Row, place: &Place) -> Result<(), String> {
    let plane = Plane::new(kind, number()).await.ok_or("the servers are gone")?;
    play(plane, row, place).await
}

/// Ways to break the engine, each of which some trial must notice: a programme that survives them proves nothing.
const BROKEN: [(&str, Row); 4] =
    [("decide", Row::Two), ("proposal", Row::Stopped), ("loser", Row::Two), ("gc", Row::Collected)];

/// Plays trials with a broken engine until one fails.
async fn notice(broken: &str, row: Row, places: &[Place]) {
    // Wherever an attempt can be held, some places are harmless.
    for place in places.iter().rev() {
        let mut plane = Plane::new(Kind::Local, number()).await.expect("local stores need no server");
        plane.env.push(("SIDECAR_FAULT_BREAK", broken.to_owned()));
        if let Err(problem) = play(plane, row, place).await {
            let problem = problem.lines().next().unwrap_or_default().chars().take(150).collect::<String>();
            return println!("an engine broken at {broken:?} is noticed at {place}: {problem}");
        }
    }
    panic!("no trial notices an engine that is broken at {broken:?}");
}

/// How often each row was tried over each data plane, and survived.
#[derive(Default)]
struct Table {
    counts: BTreeMap<(Row, &'static str), [usize; 2]>,
    failures: Vec<String>,
}

impl Table {
    fn add(&mut self, kind: Kind, row: Row, place: &Place, result: Result<(), String>) {
        let [tried, survived] = self.counts.entry((row, kind.name())).or_default();
        *tried += 1;
        match result {
            Ok(()) => *survived += 1,
            Err(problem) => {
                let failure = format!("{}: {} at {place}: {problem}", kind.name(), row.name());
                // The others may take a long time yet.
                println!("failed: {failure}");
                self.failures.push(failure);
            }
        }
    }

    fn text(&self, seed: u64, seconds: u64) -> String {
        let count = |row, plane: usize| self.counts.get(&(row, KINDS[plane].name())).copied();
        let held = proxy::Proxy::held();
        let end = format!("{held} parts of requests arrived late. Seed {seed}, {seconds} s.");
        table::table(KINDS.map(Kind::name), Row::ALL, |row| row.name(), count, &end)
    }
}
