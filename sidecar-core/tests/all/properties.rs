//! What holds for every tree, every way to write pairs and every order of calls, tried on random ones.
//!
//! A failure is shrunk, and printed with its input and the seed that repeats it; `PROPTEST_CASES` tries more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use proptest::collection::{btree_set, vec};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngSeed, TestRunner, contextualize_config};
use serde_json::json;
use sidecar_core::blob::{self, Descriptor, Source};
use sidecar_core::layers::{Fault, Injected};
use sidecar_core::{
    BlobKey, BlobProvider, DataPlane, Documents, EVENT_TYPE, Error, Event, EventContext, EventProvider,
    EventTypes, FILES, FileName, KeyValuePairs, OutputEvent, Phase, Prepared, Receipt, Result, Session,
    Start, documents, parse_event, parse_pairs,
};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

use crate::scene::{Scene, files};

/// Runs `test` on so many random values.
fn check<S: Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value)) {
    let seed = match Config::default().rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => uuid::Uuid::new_v4().as_u64_pair().0,
    };
    let config = Config {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        max_shrink_iters: 500,
        max_shrink_time: 60_000,
        ..Config::default()
    };
    let mut runner = TestRunner::new(contextualize_config(config));
    let run = runner.run(&strategy, |value| {
        test(value);
        Ok(())
    });
    if let Err(error) = run {
        panic!("{error}\nPROPTEST_RNG_SEED={seed} repeats it");
    }
}

/// A process to be killed by dropping it; its clock moves only when nothing else does.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

// Names and texts.

/// The longest name of a file of `Scene::new` that leaves room for its key, in bytes.
const LONGEST: usize = 1024 - "e1/first/~0-00112233445566778899aabbccddeeff/".len();

fn odd() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..8).prop_map(|chars| chars.into_iter().collect::<String>())
}

/// One name between two slashes: plain, odd, or as long as a file system takes.
fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-c]{1,2}",
        3 => "[ .,äé語\u{301}-]{1,5}",
        3 => odd(),
        1 => select(vec!["n".repeat(255), "語".repeat(85), "é".repeat(127)]),
    ]
    .prop_filter("no name of a file", |name| {
        !matches!(name.as_str(), "" | "." | "..") && !name.contains(['/', '\0'])
    })
}

fn name() -> impl Strategy<Value = String> {
    let (dir, file) = ("d".repeat(255), "f".repeat(LONGEST - 3 * 256));
    let longest = format!("{dir}/{dir}/{dir}/{file}");
    prop_oneof![
        20 => vec(segment(), 1..=5).prop_map(|segments| segments.join("/")),
        1 => Just(longest),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c ]{0,3}", odd()]
}

/// A key that means nothing to the sidecar, however much it looks as if it did.
fn key() -> impl Strategy<Value = String> {
    let alike = select(vec!["Files", "eventtype", "files ", "event_type"]).prop_map(str::to_owned);
    prop_oneof![3 => text(), 1 => alike]
}

// Trees.

/// A file by what it is made of, so that a failure prints it in a line.
#[derive(Debug, Clone, Copy)]
struct Content {
    size: usize,
    seed: usize,
    mode: u32,
}

fn content() -> impl Strategy<Value = Content> {
    // Above 64 KiB a file travels alone, and above 1 MiB it takes more than one buffer.
    let size = prop_oneof![
        2 => Just(0usize),
        10 => 1..500usize,
        4 => 500..200 * 1024usize,
        3 => 65_535..=65_537usize,
        1 => 1_048_575..=1_048_577usize,
    ];
    let mode = select(vec![0o600u32, 0o644, 0o654, 0o700, 0o755]);
    (size, 0..1000usize, mode).prop_map(|(size, seed, mode)| Content { size, seed, mode })
}

impl Content {
    fn bytes(self) -> Vec<u8> {
        (self.seed..self.seed + self.size).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
    }

    fn is_executable(self) -> bool {
        self.mode & 0o100 != 0
    }
}

/// A symbolic link to one of the files or directories that are there before it.
#[derive(Debug, Clone)]
struct Link {
    name: String,
    to: Index,
    absolute: bool,
}

#[derive(Debug, Clone)]
struct Tree {
    files: Vec<(String, Content)>,
    to_files: Vec<Link>,
    to_directories: Vec<Link>,
    /// Whether the event names the files in one list, as far as their names allow it.
    listed: bool,
}

fn tree() -> impl Strategy<Value = Tree> {
    let link = || {
        (name(), any::<Index>(), any::<bool>()).prop_map(|(name, to, absolute)| Link { name, to, absolute })
    };
    let links = || vec(link(), 0..3);
    (vec((name(), content()), 1..10), links(), links(), any::<bool>()).prop_map(
        |(files, to_files, to_directories, listed)| Tree { files, to_files, to_directories, listed },
    )
}

/// The files that a consumer finds, by name.
type Found = BTreeMap<String, Content>;

/// The most files of one tree: links to directories multiply them.
const MOST: usize = 60;

impl Tree {
    /// Writes the tree below `out/data` and says what is found there when links are followed.
    ///
    /// What cannot be written beside the rest, such as a file in place of a directory, is left out.
    fn plant(&self, scene: &Scene) -> Found {
        let mut found = Found::new();
        for (name, content) in &self.files {
            if is_free(&found, name) {
                let path = format!("out/data/{name}");
                scene.write(&path, content.bytes());
                fs::set_permissions(scene.path(&path), fs::Permissions::from_mode(content.mode)).unwrap();
                found.insert(name.clone(), *content);
            }
        }
        for link in &self.to_files {
            let names: Vec<String> = found.keys().cloned().collect();
            if is_free(&found, &link.name) && !names.is_empty() {
                let target = link.to.get(&names);
                link.plant(scene, target);
                let content = found[target];
                found.insert(link.name.clone(), content);
            }
        }
        for link in &self.to_directories {
            // Inside a directory that another link leads to, it would appear there too, or never end.
            let apart = found.keys().all(|name| first(name) != first(&link.name));
            let above = |name: &String| -> Vec<String> {
                name.match_indices('/').map(|(end, _)| name[..end].to_owned()).collect()
            };
            let directories: Vec<String> = found.keys().flat_map(above).collect();
            if !apart || directories.is_empty() {
                continue;
            }
            let target = link.to.get(&directories);
            let inside = |name: &str| Some(name.strip_prefix(target.as_str())?.strip_prefix('/')?.to_owned());
            let through: Found = found
                .iter()
                .filter_map(|(name, content)| Some((format!("{}/{}", link.name, inside(name)?), *content)))
                .collect();
            if found.len() + through.len() <= MOST && through.keys().all(|name| name.len() <= LONGEST) {
                link.plant(scene, target);
                found.extend(through);
            }
        }
        found
    }

    /// An event file that names everything that was found.
    fn event(&self, found: &Found) -> String {
        let listable = |name: &&str| self.listed && !name.contains(',');
        let (listed, mut values): (Vec<&str>, Vec<&str>) =
            found.keys().map(String::as_str).partition(listable);
        let list = listed.join(",");
        match found.contains_key(&list) {
            // A list that is itself the name of a file is that file.
            true => values.extend(listed),
            false => values.push(&list),
        }
        let mut pairs = vec![json!({"key": EVENT_TYPE, "value": "t"})];
        pairs.extend(values.into_iter().map(|value| json!({"key": FILES, "value": value})));
        serde_json::Value::from(pairs).to_string()
    }
}

fn first(name: &str) -> Option<&str> {
    name.split('/').next()
}

/// Whether a file can have this name beside those that are there.
fn is_free(found: &Found, name: &str) -> bool {
    let is_in = |name: &str, dir: &str| name.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    let meets = |other: &String| other == name || is_in(name, other) || is_in(other, name);
    name.len() <= LONGEST && !found.keys().any(meets)
}

impl Link {
    fn plant(&self, scene: &Scene, target: &str) {
        let path = scene.path(&format!("out/data/{}", self.name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let up = "../".repeat(self.name.matches('/').count());
        let target = match self.absolute {
            true => scene.path(&format!("out/data/{target}")),
            false => PathBuf::from(format!("{up}{target}")),
        };
        symlink(target, path).unwrap();
    }
}

#[test]
fn every_tree_arrives_as_it_was_written() {
    check(32, tree(), |tree| {
        runtime().block_on(async {
            let store = TempDir::new().unwrap();
            let producer = Scene::new(DataPlane::local(store.path()).unwrap());
            let session = producer.ready().await;
            let found = tree.plant(&producer);
            producer.write("out/events/1.json", tree.event(&found));
            let receipt = session.done().await.unwrap();

            let consumer = producer.next("second", &receipt.events[0].event_id);
            let prepared = consumer.open().await.ready().await.unwrap();
            let bytes: usize = found.values().map(|content| content.size).sum();
            assert_eq!((receipt.files, receipt.bytes), (found.len() as u64, bytes as u64));
            assert_eq!((prepared.files, prepared.bytes), (found.len() as u64, bytes as u64));
            let names: Vec<String> = found.keys().cloned().collect();
            assert_eq!(files(consumer.path("in/data")), names);
            for (name, content) in found {
                let path = consumer.path("in/data").join(&name);
                let metadata = fs::symlink_metadata(&path).unwrap();
                assert!(metadata.is_file(), "{name:?} is no file");
                let executable = metadata.permissions().mode() & 0o100 != 0;
                assert_eq!(executable, content.is_executable(), "{name:?}");
                assert!(fs::read(path).unwrap() == content.bytes(), "{name:?} has another content");
            }
        });
    });
}

// Files of pairs.

/// How a text is written where JSON leaves a choice.
#[derive(Debug, Clone)]
struct Style {
    choices: Vec<u8>,
    next: usize,
}

fn style() -> impl Strategy<Value = Style> {
    vec(any::<u8>(), 1..200).prop_map(|choices| Style { choices, next: 0 })
}

impl Style {
    fn choice(&mut self, of: usize) -> usize {
        let choice = self.choices[self.next % self.choices.len()];
        self.next += 1;
        usize::from(choice) % of
    }

    fn one(&mut self, of: &[&'static str]) -> &'static str {
        of[self.choice(of.len())]
    }

    fn space(&mut self) -> &'static str {
        self.one(&["", "", " ", "\n", "\t", "\r\n  "])
    }

    fn string(&mut self, text: &str) -> String {
        let mut written = String::from("\"");
        for c in text.chars() {
            let short = match c {
                '"' | '\\' | '/' => Some(c),
                '\u{8}' => Some('b'),
                '\u{c}' => Some('f'),
                '\n' => Some('n'),
                '\r' => Some('r'),
                '\t' => Some('t'),
                _ => None,
            };
            match (self.choice(4), short) {
                (0, _) if c >= ' ' && c != '"' && c != '\\' => written.push(c),
                (1, Some(short)) => written.extend(['\\', short]),
                (2, _) => {
                    c.encode_utf16(&mut [0; 2]).iter().for_each(|u| write!(written, "\\u{u:04x}").unwrap());
                }
                _ => {
                    c.encode_utf16(&mut [0; 2]).iter().for_each(|u| write!(written, "\\u{u:04X}").unwrap());
                }
            }
        }
        written + "\""
    }

    fn member(&mut self, name: &str, text: &str) -> String {
        let (before, after) = (self.space(), self.space());
        let name = self.string(name);
        format!("{before}{name}{after}:{}{}{}", self.space(), self.string(text), self.space())
    }

    /// The pairs as a JSON array, with the two members of each in either order.
    fn pairs(&mut self, pairs: &[(String, String)]) -> String {
        let objects: Vec<String> = pairs
            .iter()
            .map(|(key, value)| {
                let mut members = [self.member("key", key), self.member("value", value)];
                members.rotate_left(self.choice(2));
                format!("{}{{{}}}{}", self.space(), members.join(","), self.space())
            })
            .collect();
        format!("{}[{}{}]{}", self.space(), self.space(), objects.join(","), self.space())
    }

    /// Pairs that together name these files: alone, or in lists where neither commas nor spaces forbid it.
    fn naming(&mut self, names: &BTreeSet<String>) -> Vec<(String, String)> {
        let exists = |text: &str| FileName::parse(text).is_ok_and(|name| names.contains(name.as_str()));
        let mut values: Vec<(String, bool)> = Vec::new();
        for name in names {
            let listable = !name.contains(',') && name.trim() == name;
            if listable
                && let Some((last, true)) = values.last_mut()
                && self.choice(3) > 0
            {
                let list = format!("{last}{}{name}", self.one(&[",", ", ", " ,", ",,\n"]));
                // What is itself the name of a file is that file, as a whole and in a list.
                if !exists(&list) && list.split(',').all(|entry| entry == entry.trim() || !exists(entry)) {
                    *last = list;
                    continue;
                }
            }
            values.push((format!("{}{name}", self.one(&["", "", "./", ".//./"])), listable));
        }
        values.into_iter().map(|(value, _)| (FILES.to_owned(), value)).collect()
    }
}

#[test]
fn pairs_mean_the_same_however_they_are_written() {
    check(64, (vec((text(), text()), 0..8), style()), |(pairs, mut style)| {
        let written = style.pairs(&pairs);
        let meant = KeyValuePairs::from_iter(pairs);
        assert_eq!(parse_pairs("out/meta.json", written.as_bytes()), Ok(meant.clone()), "{written}");
        // A consumer reads them with any other parser, and reads what the sidecar wrote.
        assert_eq!(serde_json::from_str::<KeyValuePairs>(&written).unwrap(), meant, "{written}");
        let written = serde_json::to_vec_pretty(&meant).unwrap();
        assert_eq!(parse_pairs("out/meta.json", &written), Ok(meant));
    });
}

#[test]
fn events_mean_the_same_however_they_are_written() {
    let event = (text(), btree_set(name(), 0..6), vec((key(), text()), 0..5));
    check(64, (event, style()), |((kind, names, data), mut style)| {
        let kind = format!("t{kind}");
        let meant = OutputEvent {
            event_type: kind.clone(),
            files: names.iter().map(|name| FileName::parse(name).unwrap()).collect(),
            data: data.iter().cloned().collect(),
        };
        let allowed = EventTypes::Only(vec![kind.clone()]);
        for _ in 0..2 {
            // Files and values may lie between each other; only among themselves do they have an order.
            let mut pairs = data.clone();
            let mut at = 0;
            for naming in style.naming(&names) {
                at += style.choice(pairs.len() - at + 1);
                pairs.insert(at, naming);
                at += 1;
            }
            pairs.insert(style.choice(pairs.len() + 1), (EVENT_TYPE.to_owned(), kind.clone()));
            let written = style.pairs(&pairs);
            let exists = |name: &FileName| names.contains(name.as_str());
            let parsed = parse_event("out/events/1.json", written.as_bytes(), &allowed, exists);
            assert_eq!(parsed, Ok(meant.clone()), "{written}");
        }
    });
}

// Orders of calls.

#[derive(Debug, Clone, Copy, PartialEq)]
enum Call {
    Ready,
    Done,
    Fail,
}

#[derive(Debug)]
enum Answer {
    Ready(Result<Prepared, Arc<Error>>),
    Done(Result<Receipt, Arc<Error>>),
    Fail(Result<(), Arc<Error>>),
}

/// A call that comes a little after others, and whose caller may hang up after so many looks.
#[derive(Debug, Clone)]
struct Caller {
    call: Call,
    late: usize,
    looks: Option<usize>,
}

#[derive(Debug, Clone)]
enum Step {
    /// These call at once.
    Calls(Vec<Caller>),
    /// The module writes its outputs anew.
    Write,
    /// Long enough for a half published commit to be tried again.
    Wait,
}

/// What happens to one process until it is killed.
#[derive(Debug, Clone)]
struct Life {
    start: Start,
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
struct Story {
    /// What happens to the calls of the providers, in their order; the later ones succeed.
    faults: Vec<Injected>,
    lives: Vec<Life>,
}

fn story() -> impl Strategy<Value = Story> {
    let call = prop_oneof![6 => Just(Call::Ready), 8 => Just(Call::Done), 1 => Just(Call::Fail)];
    let caller = (call, 0..4usize, proptest::option::weighted(0.3, 1..8usize))
        .prop_map(|(call, late, looks)| Caller { call, late, looks });
    let step = prop_oneof![
        6 => vec(caller, 1..4).prop_map(Step::Calls),
        2 => Just(Step::Write),
        1 => Just(Step::Wait),
    ];
    let start = prop_oneof![3 => Just(Start::Resume), 1 => Just(Start::Restart)];
    let life = (start, vec(step, 1..8)).prop_map(|(start, steps)| Life { start, steps });
    let fault = prop_oneof![
        10 => Just(Injected::Nothing),
        1 => Just(Injected::Unavailable),
        1 => Just(Injected::Refused),
        1 => Just(Injected::AnswerLost),
        1 => Just(Injected::Hang),
    ];
    (vec(fault, 0..25), vec(life, 1..4)).prop_map(|(faults, lives)| Story { faults, lives })
}

/// Longer than a half published commit waits before it is tried again.
const PATIENCE: Duration = Duration::from_secs(6);

impl Caller {
    /// The answer, unless the caller hung up or the call hangs.
    async fn answer(&self, session: &Session) -> Option<Answer> {
        for _ in 0..self.late {
            tokio::task::yield_now().await;
        }
        let answer = async {
            match self.call {
                Call::Ready => Answer::Ready(session.ready().await),
                Call::Done => Answer::Done(session.done().await),
                Call::Fail => Answer::Fail(session.fail("gave up").await),
            }
        };
        let mut answer = pin!(timeout(PATIENCE, answer));
        let Some(looks) = self.looks else { return answer.await.ok() };
        for _ in 0..looks {
            if let Poll::Ready(answer) = futures_util::poll!(&mut answer) {
                return answer.ok();
            }
            tokio::task::yield_now().await;
        }
        None
    }
}

/// A bus that keeps every call as it came: the one in memory would hide what is published twice.
#[derive(Debug, Clone, Default)]
struct Bus {
    heard: Arc<Mutex<Vec<Heard>>>,
    documents: documents::Memory,
}

#[derive(Debug, Clone)]
struct Heard {
    events: Vec<Event>,
    /// Whether a consumer found the context of each at once.
    known: bool,
}

impl std::fmt::Display for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bus")
    }
}

#[async_trait]
impl EventProvider for Bus {
    async fn publish(&self, events: &[Event]) -> Result<()> {
        let mut known = true;
        for event in events {
            known &= self.documents.find::<EventContext>(event.context.event_id.as_str()).await?.is_some();
        }
        self.heard.lock().unwrap().push(Heard { events: events.to_vec(), known });
        Ok(())
    }
}

/// What outlives a process: the directories and the data plane.
struct World {
    scene: Scene,
    bus: Bus,
    /// How many calls of providers there were.
    calls: Arc<AtomicUsize>,
    /// How often the module wrote its outputs.
    version: usize,
}

impl World {
    /// A module for an event with one file.
    async fn new(faults: Vec<Injected>) -> Self {
        let (blobs, documents) = (blob::Memory::default(), documents::Memory::default());
        let bus = Bus { documents: documents.clone(), ..Bus::default() };
        let calls = Arc::new(AtomicUsize::new(0));
        let (faults, counted) = (Arc::new(faults), calls.clone());
        let script = move |_: &str, _: usize| {
            let n = counted.fetch_add(1, Ordering::Relaxed);
            faults.get(n).copied().unwrap_or(Injected::Nothing)
        };
        let scene = Scene::new(DataPlane::new(
            Fault::new(blobs.clone(), script.clone()),
            Fault::new(documents.clone(), script.clone()),
            Fault::new(bus.clone(), script),
        ));

        scene.write("input", "content");
        let key = BlobKey::parse("e0/zero/input").unwrap();
        let source = Source::file(scene.path("input")).unwrap();
        let Descriptor { size, digest } = blobs.put(&key, &source).await.unwrap();
        let blob = json!({"name": "input", "key": key, "size": size, "digest": digest});
        let context = json!({
            "eventId": scene.event, "correlationId": "c1", "files": ["input"], "blobs": [blob],
        });
        documents.store::<EventContext>(&[serde_json::from_value(context).unwrap()]).await.unwrap();
        Self { scene, bus, calls, version: 0 }
    }

    async fn open(&self, start: Start) -> Session {
        let mut settings = self.scene.settings();
        settings.start = start;
        // Whoever starts a sidecar starts it again while the store that decides is away.
        loop {
            let opened = timeout(PATIENCE, Session::open(settings.clone(), self.scene.plane.clone())).await;
            match opened {
                Ok(Ok(session)) => return session,
                Ok(Err(Error::Unavailable { .. } | Error::Refused { .. })) | Err(_) => {}
                Ok(Err(error)) => panic!("{error:?}"),
            }
        }
    }

    /// Other outputs than before, of which each part tells which ones it belongs to.
    fn write(&mut self) {
        self.version += 1;
        for dir in ["out/data", "out/events"] {
            fs::remove_dir_all(self.scene.path(dir)).unwrap();
            fs::create_dir(self.scene.path(dir)).unwrap();
        }
        self.scene.write("out/data/a", "a".repeat(self.version));
        self.scene.write("out/data/b/c", "c".repeat(self.version));
        self.scene.write("out/meta.json", r#"[{"key":"k","value":"v"}]"#);
        for n in 0..self.version % 3 {
            self.scene.write_event(&format!("{n}.json"), &format!("t{}", self.version), "a,b/c");
        }
    }

    async fn live(&mut self, life: &Life, told: &mut Told) {
        let session = self.open(life.start).await;
        told.opened(life.start, session.phase());
        for step in &life.steps {
            match step {
                Step::Wait => sleep(PATIENCE).await,
                Step::Write => {
                    // Who writes while a commit reads is told so, which is not what is looked at here.
                    if timeout(PATIENCE, session.idle()).await.is_ok() {
                        self.write();
                    }
                }
                Step::Calls(callers) => {
                    let (before, staged) = (session.phase(), self.scene.path("in/meta.json").exists());
                    let answers = join_all(callers.iter().map(|caller| caller.answer(&session))).await;
                    self.check_directories(&session, before, &answers);
                    told.heard(callers.iter().map(|caller| caller.call), answers, staged);
                }
            }
            told.agrees_with(&self.bus);
        }
    }

    /// What the answers to calls, made in the phase `before`, say of the directories.
    fn check_directories(&self, session: &Session, before: Phase, answers: &[Option<Answer>]) {
        let (phase, publishing) = (session.phase(), session.is_publishing());
        if before != Phase::Done && phase == Phase::Done {
            assert_eq!(files(self.scene.path("out/data")), Vec::<String>::new());
            assert_eq!(files(self.scene.path("out/events")), Vec::<String>::new());
        }
        // Nothing but `ready` was at work, from its beginning to its end.
        let staged = answers.iter().map(|answer| match answer {
            Some(Answer::Ready(Ok(_))) => Some(true),
            Some(Answer::Ready(Err(error))) if !out_of_order(error) => Some(false),
            _ => None,
        });
        let waits = |phase| matches!(phase, Phase::New | Phase::Ready);
        if let Some(staged) = staged.collect::<Option<Vec<bool>>>()
            && waits(before)
            && waits(phase)
            && !publishing
        {
            let found = files(self.scene.path("in"));
            if staged.contains(&true) {
                assert_eq!(found, ["data/input", "meta.json"]);
                assert_eq!(self.scene.read("in/data/input"), "content");
            } else {
                assert_eq!(found, Vec::<String>::new());
            }
        }
    }

    /// Nothing fails any more: then one call each brings the execution to its end, whatever was before.
    async fn end(&mut self, told: &mut Told) {
        self.calls.store(usize::MAX / 2, Ordering::Relaxed);
        let session = self.open(Start::Resume).await;
        told.opened(Start::Resume, session.phase());
        session.ready().await.unwrap();
        if session.phase() == Phase::Ready {
            self.write();
        }
        let receipt = session.done().await.unwrap();
        told.heard([Call::Ready, Call::Done], vec![Some(Answer::Done(Ok(receipt.clone())))], true);
        told.agrees_with(&self.bus);

        let Some(published) = receipt.events.first() else { return };
        let version: usize = published.event_type.trim_start_matches('t').parse().unwrap();
        let next = self.scene.next("second", &published.event_id);
        next.ready().await;
        assert_eq!(next.read("in/data/a"), "a".repeat(version));
        assert_eq!(next.read("in/data/b/c"), "c".repeat(version));
    }
}

fn out_of_order(error: &Error) -> bool {
    matches!(error, Error::OutOfOrder { .. })
}

/// What the callers were told, and what must therefore be true of everything that they are told later.
#[derive(Debug, Default)]
struct Told {
    /// The calls since the execution began anew, whether they were answered or not.
    called: Vec<Call>,
    ready: bool,
    failed: bool,
    receipt: Option<Receipt>,
}

impl Told {
    fn was_called(&self, call: Call) -> bool {
        self.called.contains(&call)
    }

    /// A process remembers what the one before it was killed with.
    fn opened(&mut self, start: Start, phase: Phase) {
        assert!(self.receipt.is_none() || phase == Phase::Done, "{phase} after {self:?}");
        assert!(!self.failed || phase == Phase::New, "{phase} after {self:?}");
        assert!(start == Start::Resume || phase != Phase::Ready, "the module did not begin anew");
        if phase == Phase::New {
            let anew = start == Start::Restart || self.was_called(Call::Fail);
            assert!(!self.ready || anew, "forgotten: {self:?}");
            *self = Self::default();
        } else {
            assert!(self.was_called(Call::Ready), "{phase} after {self:?}");
            assert!(phase == Phase::Ready || self.was_called(Call::Done), "{phase} after {self:?}");
        }
    }

    /// Answers to calls that were made at once, when the inputs were `staged` or not.
    fn heard(&mut self, calls: impl IntoIterator<Item = Call>, answers: Vec<Option<Answer>>, staged: bool) {
        self.called.extend(calls);
        let (failed, done) = (self.failed, self.receipt.is_some());
        for answer in answers.into_iter().flatten() {
            match answer {
                Answer::Ready(Ok(_)) => {
                    assert!(!failed, "ready after it failed");
                    self.ready = true;
                }
                Answer::Ready(Err(error)) => {
                    // Inputs that are gone are staged from stores that may be away, whatever was committed.
                    let asked = !staged && !out_of_order(&error);
                    assert!(!done || asked, "{error:?} after it was done");
                    assert!(!failed || out_of_order(&error), "{error:?} after it failed");
                }
                Answer::Done(Ok(receipt)) => {
                    assert!(!failed, "done after it failed");
                    assert!(self.was_called(Call::Ready), "done before it was ready");
                    assert_eq!(*self.receipt.get_or_insert_with(|| receipt.clone()), receipt);
                }
                Answer::Done(Err(error)) => {
                    assert!(!done, "{error:?} after it was done");
                    let early = !self.was_called(Call::Ready);
                    assert!(!(failed || early) || out_of_order(&error), "{error:?} with {self:?}");
                }
                Answer::Fail(Ok(())) => {
                    assert!(!done, "failed after it was done");
                    self.failed = true;
                }
                Answer::Fail(Err(error)) => {
                    // Where the outcome may be decided already, the store is asked, and may be away.
                    assert!(
                        !failed && (out_of_order(&error) || self.was_called(Call::Done)),
                        "{error:?} with {self:?}"
                    );
                    assert!(self.was_called(Call::Done), "{error:?} without a commit");
                }
            }
        }
        assert!(!self.failed || self.receipt.is_none(), "done and failed: {self:?}");
    }

    /// There is one set of events, everything in it is known, and it is what the receipt says.
    fn agrees_with(&self, bus: &Bus) {
        let heard = bus.heard.lock().unwrap().clone();
        assert!(heard.iter().all(|heard| heard.known), "published before its context was stored");
        assert!(heard.iter().all(|other| other.events == heard[0].events), "two sets of events: {heard:#?}");
        assert!(heard.is_empty() || !self.failed, "failed after it was published");
        if let Some(receipt) = &self.receipt {
            let events = heard.first().into_iter().flat_map(|heard| &heard.events);
            let published: Vec<_> =
                events.map(|event| (&event.context.event_id, &event.event_type)).collect();
            let promised: Vec<_> =
                receipt.events.iter().map(|event| (&event.event_id, &event.event_type)).collect();
            assert_eq!(published, promised);
        }
    }
}

#[test]
fn callers_are_told_one_story_whatever_fails() {
    check(48, story(), |Story { faults, lives }| {
        let mut world = runtime().block_on(World::new(faults));
        let mut told = Told::default();
        for life in &lives {
            runtime().block_on(world.live(life, &mut told));
        }
        runtime().block_on(async {
            timeout(PATIENCE, world.end(&mut told)).await.expect("it does not end");
        });
    });
}
