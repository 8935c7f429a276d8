//! Every fault at every place, over real stores: `cargo test -p sidecar-bin --all-features --test reliability`.
//!
//! Without arguments it is bounded: over local files every kill, and of the other faults, and of those over the
//! cluster, a part that the seed chooses. `-- --full` tries everything, `-- --seed N` repeats a choice, and
//! `-- --write docs/reliability.md` puts the table there.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;

mod bus;
mod execution;
#[path = "../../../sidecar-core/tests/all/fault_proxy.rs"]
mod fault_proxy;
#[path = "../all/fleet.rs"]
mod fleet;
#[path = "../all/normal.rs"]
mod normal;
mod plane;
#[path = "../all/program.rs"]
mod program;
#[path = "../../../sidecar-core/tests/all/servers.rs"]
mod servers;
#[path = "../all/table.rs"]
mod table;

use execution::{Module, NO_MOUNT, Outcome, PATIENCE, Trial, execute};
use fleet::{Fleet, every_event_has_one_outcome};
use normal::{normal, normal_files};
use plane::{Kind, Plane};

/// The columns of the table.
const KINDS: [Kind; 3] = [Kind::Local, Kind::Cluster, Kind::Azure];
/// Trials at once.
const PARALLEL: usize = 4;
/// Trials at once that wait for most of their time.
const WAITING: usize = 16;
/// Events for each place at which a worker is killed.
const EACH: usize = 42;
/// Tried with `--full` alone: each trial is an event.
const WORKERS: &str = "three workers: one killed in each phase, one stopped past its lock; bus restarted, stores away for a minute";
/// Tried with `--full` alone.
const MINUTE: &str = "provider is away for a minute";
/// Where the table begins and ends in the page.
const MARKS: [&str; 2] = ["<!-- table -->", "<!-- end of table -->"];

struct Arguments {
    full: bool,
    seed: u64,
    write: Option<String>,
}

fn arguments() -> Arguments {
    let mut parsed = Arguments { full: false, seed: 1, write: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--full" => parsed.full = true,
            "--seed" => parsed.seed = arguments.next().and_then(|n| n.parse().ok()).expect("--seed N"),
            "--write" => parsed.write = arguments.next(),
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
    let mut rows = Rows::default();
    for kind in KINDS {
        let Some(reference) = Plane::new(kind, number()).await else { continue };
        let (expected, trials) = trials(reference).await;
        let chosen = choose(trials, kind, &arguments);
        println!("{}: {} trials", kind.name(), chosen.len());
        let (waiting, busy): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|trial| trial.fault == MINUTE);
        for (trials, at_once) in [(busy, PARALLEL), (waiting, WAITING)] {
            let run = async |trial| (outcome(kind, &trial, &expected).await, trial);
            let mut running = futures_util::stream::iter(trials).map(run).buffer_unordered(at_once);
            while let Some((result, trial)) = running.next().await {
                rows.add(kind, &trial, result);
            }
        }
    }
    if arguments.full {
        for kind in KINDS {
            rows.fleet(kind).await;
        }
    }
    let table = rows.table(arguments.seed, started.elapsed().as_secs());
    println!("{table}");
    assert!(
        rows.failures.is_empty(),
        "{} of the trials failed:\n{}",
        rows.failures.len(),
        rows.failures.join("\n")
    );
    if let Some(path) = arguments.write {
        table::write(&path, MARKS, &table);
    }
}

fn number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Runs once undisturbed, and learns from its trace where something can fail.
async fn trials(plane: Plane) -> (Outcome, Vec<Trial>) {
    let dir = tempfile::TempDir::new().unwrap();
    let trace = dir.path().join("trace");
    let trial = Trial {
        fault: "none",
        place: String::new(),
        env: vec![("SIDECAR_FAULT_TRACE", trace.display().to_string())],
        grace: "30s",
        patience: PATIENCE,
        module: Module::Patient,
    };
    let expected = execute(Arc::new(plane), &trial).await.expect("the undisturbed execution");
    let (mut counts, mut trials) = (HashMap::<String, usize>::new(), Vec::new());
    for line in std::fs::read_to_string(&trace).unwrap().lines() {
        let count = counts.entry(line.to_owned()).or_default();
        *count += 1;
        let trial = |fault, place: &str, env, grace| Trial {
            fault,
            place: place.to_owned(),
            env,
            grace,
            patience: if fault == MINUTE { 2 * Duration::from_secs(60) } else { PATIENCE },
            module: Module::Patient,
        };
        if let Some(call) = line.strip_prefix("call ") {
            let place = format!("{call} {count}");
            for (fault, inject, lasts) in [
                ("provider answers an error once", "unavailable", None),
                ("provider is away for three seconds", "unavailable", Some("3000")),
                (MINUTE, "unavailable", Some("60000")),
                ("provider is away until the sidecar is started again", "unavailable", Some("3600000")),
                ("provider refuses once", "refused", None),
                ("provider hangs once", "hang", None),
                ("provider's answer is lost", "answer-lost", None),
            ] {
                let mut env =
                    vec![("SIDECAR_FAULT_CALL", place.clone()), ("SIDECAR_FAULT_INJECT", inject.to_owned())];
                env.extend(lasts.map(|lasts| ("SIDECAR_FAULT_FOR", lasts.to_owned())));
                trials.push(trial(fault, &place, env, "30s"));
            }
            continue;
        }
        let place = format!("{line} {count}");
        let at = ("SIDECAR_FAULT_AT", place.clone());
        let term = ("SIDECAR_FAULT_SIGNAL", "TERM".to_owned());
        let kill =
            if line == "transfer.part" { "killed in the middle of a file" } else { "killed (SIGKILL)" };
        trials.push(trial(kill, &place, vec![at.clone()], "30s"));
        trials.push(trial("SIGTERM, no grace", &place, vec![at.clone(), term.clone()], "0s"));
        trials.push(trial("SIGTERM, enough grace", &place, vec![at, term], "30s"));
    }
    for (fault, module) in [
        ("module disconnects while it waits", Module::Disconnects),
        ("module dies while it waits", Module::Dies),
        ("module wipes the base directory", Module::Wipes),
        ("disk full under the store", Module::FullStore),
        ("disk full under the module", Module::FullBase),
    ] {
        let (place, env) = (String::new(), Vec::new());
        trials.push(Trial { fault, place, env, grace: "30s", patience: PATIENCE, module });
    }
    (expected, trials)
}

/// All of them, or those that the seed chooses.
fn choose(mut trials: Vec<Trial>, kind: Kind, arguments: &Arguments) -> Vec<Trial> {
    if kind != Kind::Local {
        trials.retain(|trial| !matches!(trial.module, Module::FullStore));
    }
    if arguments.full {
        return trials;
    }
    trials.retain(|trial| trial.fault != MINUTE);
    let share = |trial: &Trial| match (kind, trial.env.is_empty(), trial.fault.starts_with("killed")) {
        (Kind::Local, _, true) | (Kind::Local, true, _) => 1,
        (Kind::Local, ..) => 6,
        (.., true) => 4,
        _ => 10,
    };
    trials.retain(|trial| {
        let mut hasher = DefaultHasher::new();
        (arguments.seed, kind.name(), trial.fault, &trial.place).hash(&mut hasher);
        hasher.finish().is_multiple_of(share(trial))
    });
    trials
}

async fn outcome(kind: Kind, trial: &Trial, expected: &Outcome) -> Result<(), String> {
    let plane = Plane::new(kind, number()).await.ok_or("the servers are gone")?;
    let found = execute(Arc::new(plane), trial).await?;
    if normal(&found.receipt.to_string()) != normal(&expected.receipt.to_string()) {
        return Err(format!("the receipt is {} instead of {}", found.receipt, expected.receipt));
    }
    let events = |outcome: &Outcome| {
        let texts = outcome.events.iter().map(|event| normal(&serde_json::to_string(event).unwrap()));
        let mut texts: Vec<String> = texts.collect();
        texts.sort();
        texts
    };
    if events(&found) != events(expected) {
        return Err("the events are other than without the fault".into());
    }
    // Not one file more, fewer or other: no duplicate, no loss, nothing temporary.
    let names = |files: &BTreeMap<_, Vec<u8>>| files.keys().cloned().collect::<Vec<std::path::PathBuf>>();
    if left_behind(&found.files) != left_behind(&expected.files) {
        return Err(format!(
            "the store holds {:?} instead of {:?}",
            names(&found.files),
            names(&expected.files)
        ));
    }
    Ok(())
}

/// The files of a local plane without what is private to an attempt.
fn left_behind(files: &BTreeMap<std::path::PathBuf, Vec<u8>>) -> Vec<(String, String)> {
    let text = |content: &Vec<u8>| String::from_utf8_lossy(content).into_owned();
    normal_files(files.iter().map(|(name, content)| (name.display().to_string(), text(content))))
}

/// How often each fault was tried over each data plane, and survived.
#[derive(Default)]
struct Rows {
    counts: BTreeMap<(&'static str, &'static str), [usize; 2]>,
    failures: Vec<String>,
}

impl Rows {
    fn add(&mut self, kind: Kind, trial: &Trial, result: Result<(), String>) {
        if result.as_ref().is_err_and(|problem| problem == NO_MOUNT) {
            println!("skipped: {}: {NO_MOUNT}", trial.fault);
            return;
        }
        let [tried, survived] = self.counts.entry((trial.fault, kind.name())).or_default();
        *tried += 1;
        match result {
            Ok(()) => *survived += 1,
            Err(problem) => {
                self.failures.push(format!("{}: {} at {}: {problem}", kind.name(), trial.fault, trial.place))
            }
        }
    }

    /// Workers over one data plane, for 504 events; a sample of it runs with the tests.
    async fn fleet(&mut self, kind: Kind) {
        let fleet = match kind {
            Kind::Local => Some(Fleet::local(program::path().to_owned(), EACH)),
            Kind::Azure => Fleet::azure(program::path().to_owned(), EACH),
            Kind::Cluster => Fleet::cluster(program::path().to_owned(), EACH, Duration::from_secs(60)).await,
        };
        let Some(mut fleet) = fleet else { return };
        println!("{}: workers", kind.name());
        let events = fleet.events();
        let result = tokio::task::spawn_blocking(move || every_event_has_one_outcome(&mut fleet)).await;
        let survived = if result.is_ok() { events } else { 0 };
        self.counts.insert((WORKERS, kind.name()), [events, survived]);
        if let Err(panic) = result {
            self.failures.push(format!("{}: {WORKERS}: {panic}", kind.name()));
        }
    }

    fn table(&self, seed: u64, seconds: u64) -> String {
        let faults: BTreeSet<_> = self.counts.keys().map(|(fault, _)| *fault).collect();
        let count = |fault, plane: usize| self.counts.get(&(fault, KINDS[plane].name())).copied();
        let end = format!("Seed {seed}, {seconds} s.");
        table::table(KINDS.map(Kind::name), faults, |fault| fault, count, &end)
    }
}
