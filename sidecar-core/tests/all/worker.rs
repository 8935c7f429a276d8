//! Workers: what becomes of events, whatever happens to modules, stores and workers.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sidecar_core::layers::{Fault, Injected};
use sidecar_core::worker::{
    Function, Summary, Worker, WorkerSettings, dead_letter, dead_letters, drop_letter, redrive,
};
use sidecar_core::{
    DataPlane, DiskBudget, EventProvider, Layout, ModuleName, Session, Settings, Submission, blob, documents,
    events,
};
use tempfile::TempDir;

/// A data plane, and the directory of one worker.
struct Scene {
    base: TempDir,
    plane: DataPlane,
}

impl Scene {
    fn new() -> Self {
        Self { base: TempDir::new().unwrap(), plane: DataPlane::memory() }
    }

    fn settings(&self, event_type: &str) -> WorkerSettings {
        let name = ModuleName::parse("m").unwrap();
        let module = Settings::of_module(name, Layout::new(self.base.path()));
        let mut settings = WorkerSettings::new(module, [event_type]);
        settings.idle_exit = Some(Duration::from_millis(200));
        settings.grace = Duration::from_secs(2);
        settings
    }

    async fn submit(&self, count: usize) {
        for _ in 0..count {
            Submission::new("picture").value("k", "v").submit(&self.plane).await.unwrap();
        }
    }

    fn worker<W, E>(
        &self,
        settings: WorkerSettings,
        work: impl Fn(Session) -> W + Send + Sync + 'static,
    ) -> Worker
    where
        W: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<sidecar_core::Cause> + Send + 'static,
    {
        Worker::new(self.plane.clone(), settings, Function::new(work))
    }
}

/// A bus that takes no events of a type as long as nobody is there for them.
#[derive(Debug)]
struct Unbound {
    inner: events::Memory,
    is_bound: AtomicBool,
}

impl std::fmt::Display for Unbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a bus without a queue")
    }
}

#[async_trait::async_trait]
impl EventProvider for Unbound {
    async fn publish(&self, events: &[sidecar_core::Event]) -> sidecar_core::Result<()> {
        if !self.is_bound.load(Ordering::SeqCst) && events.iter().any(|event| event.event_type == "lost") {
            return Err(sidecar_core::Error::refused(self, "publish an event", "no queue is bound for it"));
        }
        self.inner.publish(events).await
    }
    async fn subscribe(
        &self,
        subscription: &events::Subscription,
    ) -> sidecar_core::Result<Arc<dyn events::EventSource>> {
        self.inner.subscribe(subscription).await
    }
}

/// One event whose own events nobody takes does not keep all others waiting.
#[tokio::test]
async fn an_outcome_that_cannot_be_published_lets_others_have_their_turn() {
    let mut scene = Scene::new();
    let bus = Arc::new(Unbound { inner: events::Memory::default(), is_bound: AtomicBool::new(false) });
    scene.plane.events = bus.clone();
    let runs = Arc::new(AtomicUsize::new(0));
    let work = || {
        let runs = runs.clone();
        scene.worker(scene.settings("picture"), move |session| {
            let number = runs.fetch_add(1, Ordering::SeqCst);
            async move { publish(&session, if number == 0 { "lost" } else { "found" }) }
        })
    };
    scene.submit(4).await;
    let summary = ended(&work()).await;
    assert_eq!((summary.committed, summary.handed_back, summary.dead_lettered), (3, 1, 0), "{summary:?}");
    assert_eq!(sidecar_core::recover(&scene.plane).await.unwrap().failed, 1);
    bus.is_bound.store(true, Ordering::SeqCst);
    assert_eq!(sidecar_core::recover(&scene.plane).await.unwrap().published, 1);
    assert_eq!(runs.load(Ordering::SeqCst), 4);
    // The slot is free, and nothing of it is left.
    scene.submit(1).await;
    assert_eq!(ended(&work()).await.committed, 1);
}

/// It waits for the retries that it has asked for.
#[tokio::test]
async fn a_worker_without_patience_waits_for_its_retries() {
    let scene = Scene::new();
    scene.submit(1).await;
    let mut settings = scene.settings("picture");
    settings.idle_exit = Some(Duration::ZERO);
    let tries = Arc::new(AtomicUsize::new(0));
    let worker = scene.worker(settings, move |_| {
        let number = tries.fetch_add(1, Ordering::Relaxed);
        async move { if number == 0 { Err("the first fails") } else { Ok(()) } }
    });
    let summary = ended(&worker).await;
    assert_eq!((summary.received, summary.retried, summary.committed), (2, 1, 1));
}

/// Nothing of it keeps the runtime from ending.
#[test]
fn a_worker_that_was_stopped_leaves_no_thread_waiting() {
    let (dir, base) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let began = Instant::now();
    runtime.block_on(async {
        let plane = DataPlane::local(dir.path()).unwrap();
        let settings = WorkerSettings::new(
            Settings::of_module(ModuleName::parse("m").unwrap(), Layout::new(base.path())),
            ["t"],
        );
        let worker = Worker::new(plane, settings, Function::new(async |_| Ok::<(), String>(())));
        worker.run(tokio::time::sleep(Duration::from_millis(300))).await.unwrap();
    });
    drop(runtime);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// Directories that were removed and made again are watched again.
#[tokio::test]
async fn a_worker_hears_of_events_in_a_data_plane_that_was_made_again() {
    let (dir, base) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let root = dir.path().join("plane");
    let name = ModuleName::parse("m").unwrap();
    let mut settings = WorkerSettings::new(Settings::of_module(name, Layout::new(base.path())), ["t"]);
    settings.max_events = Some(1);
    let plane = DataPlane::local(&root).unwrap();
    plane.check().await.unwrap();
    let worker = Worker::new(plane, settings, Function::new(async |_| Ok::<(), String>(())));
    let running = tokio::spawn({
        let worker = worker.clone();
        async move { ended(&worker).await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    std::fs::remove_dir_all(&root).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let again = DataPlane::local(&root).unwrap();
    again.check().await.unwrap();
    Submission::new("t").value("k", "v").submit(&again).await.unwrap();
    let summary = tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap();
    assert_eq!(summary.committed, 1);
}

async fn ended(worker: &Worker) -> Summary {
    worker.run(std::future::pending()).await.unwrap()
}

/// A module that publishes an event of a type.
fn publish(session: &Session, event_type: &str) -> std::io::Result<()> {
    let event = format!(r#"[{{"key":"eventType","value":"{event_type}"}}]"#);
    std::fs::write(session.layout().output_events().join("1.json"), event)
}

#[tokio::test]
async fn an_event_starts_a_module_whose_events_start_the_next() {
    let scene = Scene::new();
    scene.submit(5).await;
    let first = scene.worker(scene.settings("picture"), async |session| publish(&session, "thumbnail"));
    assert_eq!(ended(&first).await.committed, 5);
    let mut settings = scene.settings("thumbnail");
    settings.module.context.name = ModuleName::parse("next").unwrap();
    settings.group = settings.module.context.name.clone();
    let next = scene.worker(settings.clone(), async |_| Ok::<_, String>(()));
    assert_eq!(ended(&next).await.committed, 5);
    // Nothing is left for the group; another one gets all of it, and finds that it is done.
    let again = scene.worker(settings.clone(), async |_| Err("it must not run"));
    assert_eq!(ended(&again).await.received, 0);
    settings.group = ModuleName::parse("other").unwrap();
    let other = scene.worker(settings, async |_| Err("it must not run"));
    assert_eq!(ended(&other).await.committed, 5);
}

#[tokio::test]
async fn slots_work_side_by_side_in_directories_of_their_own() {
    let scene = Scene::new();
    scene.submit(4).await;
    let mut settings = scene.settings("picture");
    settings.concurrency = NonZeroUsize::new(4).unwrap();
    let barrier = Arc::new(tokio::sync::Barrier::new(4));
    let worker = scene.worker(settings, move |session| {
        let barrier = barrier.clone();
        async move {
            std::fs::write(session.layout().output_data().join("x"), "x")?;
            // All four are at work at once, and each sees its own file alone.
            barrier.wait().await;
            match std::fs::read_dir(session.layout().output_data())?.count() {
                1 => Ok(()),
                more => Err(std::io::Error::other(format!("{more} files"))),
            }
        }
    });
    assert_eq!(ended(&worker).await.committed, 4);
}

#[tokio::test]
async fn a_module_that_fails_is_tried_again_and_then_given_up() {
    let scene = Scene::new();
    scene.submit(1).await;
    let mut settings = scene.settings("picture");
    settings.max_deliveries = NonZeroU32::new(2).unwrap();
    settings.idle_exit = Some(Duration::from_secs(3));
    let broken = scene.worker(settings.clone(), async |session| {
        std::fs::write(session.layout().output_data().join("half"), "half").unwrap();
        Err("no model")
    });
    let Summary { retried, dead_lettered, committed, .. } = ended(&broken).await;
    assert_eq!((retried, dead_lettered, committed), (1, 1, 0));
    let letters = dead_letters(&scene.plane, None).await.unwrap();
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!((letter.attempts, &*letter.reason, &*letter.group), (2, "no model", "m"));
    let failure = letter.failure.clone().unwrap();
    let documents = &scene.plane.documents;
    assert!(documents.get(documents::Kind::Failure, failure.as_str()).await.unwrap().is_some());
    assert_eq!(dead_letter(&scene.plane, &letter.id).await.unwrap(), *letter);

    // Mended and sent again, it counts from one, and nothing of the failed attempts is committed.
    redrive(&scene.plane, letter).await.unwrap();
    assert!(dead_letters(&scene.plane, None).await.unwrap().is_empty());
    let mended = scene.worker(settings, async |session| {
        assert_eq!(std::fs::read_dir(session.layout().output_data()).unwrap().count(), 0);
        publish(&session, "thumbnail")
    });
    let Summary { received, committed, retried, .. } = ended(&mended).await;
    assert_eq!((received, committed, retried), (1, 1, 0));
}

#[tokio::test]
async fn an_event_is_sent_again_for_the_group_that_gave_it_up() {
    let scene = Scene::new();
    scene.submit(1).await;
    let settings = |name: &str| {
        let mut settings = scene.settings("picture");
        settings.max_deliveries = NonZeroU32::MIN;
        settings.module.context.name = ModuleName::parse(name).unwrap();
        settings.group = settings.module.context.name.clone();
        settings
    };
    for name in ["a", "b"] {
        assert_eq!(ended(&scene.worker(settings(name), async |_| Err("no"))).await.dead_lettered, 1);
    }
    let letters = dead_letters(&scene.plane, None).await.unwrap();
    let (of_a, of_b): (Vec<_>, Vec<_>) = letters.into_iter().partition(|letter| letter.group == "a");
    redrive(&scene.plane, &of_a[0]).await.unwrap();
    // The other group receives it too, and leaves its letter as it is.
    let b = ended(&scene.worker(settings("b"), async |_| Err("it must not run"))).await;
    assert_eq!((b.received, b.dead_lettered), (1, 0));
    assert_eq!(dead_letters(&scene.plane, None).await.unwrap(), of_b);
    let a = ended(&scene.worker(settings("a"), async |_| Ok::<_, String>(()))).await;
    assert_eq!((a.received, a.committed), (1, 1));
}

#[tokio::test]
async fn two_workers_need_two_directories() {
    let scene = Scene::new();
    let first = scene.worker(scene.settings("picture"), async |_| Ok::<_, String>(()));
    let second = scene.worker(scene.settings("picture"), async |_| Ok::<_, String>(()));
    let running = tokio::spawn(async move { ended(&first).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = second.run(std::future::pending()).await.unwrap_err();
    assert!(error.chain().contains("another worker works in"), "{error:?}");
    running.await.unwrap();
}

#[tokio::test]
async fn a_dropped_dead_letter_is_gone() {
    let scene = Scene::new();
    scene.submit(1).await;
    let mut settings = scene.settings("picture");
    settings.max_deliveries = NonZeroU32::MIN;
    ended(&scene.worker(settings.clone(), async |_| Err("no"))).await;
    let letter = dead_letters(&scene.plane, None).await.unwrap().remove(0);
    drop_letter(&scene.plane, &letter).await.unwrap();
    assert!(dead_letter(&scene.plane, &letter.id).await.is_err());
    assert_eq!(ended(&scene.worker(settings, async |_| Ok::<_, String>(()))).await.received, 0);
}

#[tokio::test]
async fn outputs_that_are_invalid_cost_an_attempt() {
    let scene = Scene::new();
    scene.submit(1).await;
    let mut settings = scene.settings("picture");
    settings.max_deliveries = NonZeroU32::MIN;
    let worker = scene.worker(settings, async |session| {
        std::fs::write(session.layout().output_events().join("1.json"), "nonsense")
    });
    assert_eq!(ended(&worker).await.dead_lettered, 1);
    let reason = dead_letters(&scene.plane, None).await.unwrap().remove(0).reason;
    assert!(reason.contains("out/events/1.json"), "{reason}");
}

/// A defect of the function costs an attempt, and the slot goes on.
#[tokio::test]
async fn a_module_that_panics_fails_and_the_slot_goes_on() {
    let scene = Scene::new();
    scene.submit(3).await;
    let mut settings = scene.settings("picture");
    settings.max_deliveries = NonZeroU32::MIN;
    let calls = AtomicUsize::new(0);
    let worker = scene.worker(settings, move |_| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        async move {
            assert!(call != 1, "a defect of number {call}");
            Ok::<_, String>(())
        }
    });
    let Summary { committed, dead_lettered, running, .. } = ended(&worker).await;
    assert_eq!((committed, dead_lettered, running), (2, 1, 0));
    let reason = dead_letters(&scene.plane, None).await.unwrap().remove(0).reason;
    assert!(reason.contains("panicked: a defect of number 1"), "{reason}");
}

#[tokio::test]
async fn the_reason_of_a_failure_has_all_causes() {
    let scene = Scene::new();
    scene.submit(1).await;
    let mut settings = scene.settings("picture");
    settings.max_deliveries = NonZeroU32::MIN;
    let worker = scene.worker(settings, async |_| {
        Err(sidecar_core::Error::unavailable(&"the model", "load", std::io::Error::other("not a tensor")))
    });
    assert_eq!(ended(&worker).await.dead_lettered, 1);
    let reason = dead_letters(&scene.plane, None).await.unwrap().remove(0).reason;
    assert_eq!(reason, "the model is unavailable: cannot load: not a tensor");
}

/// The journal of a worker is not synced: a power cut may leave half of it, and the bus brings the event again.
#[tokio::test]
async fn a_journal_that_a_power_cut_has_damaged_is_in_nobodys_way() {
    let scene = Scene::new();
    for damaged in ["", "{\"version\":3,", "\0\0\0\0"] {
        scene.submit(1).await;
        let state = scene.base.path().join("0/.sidecar");
        std::fs::create_dir_all(&state).unwrap();
        std::fs::write(state.join("journal.json"), damaged).unwrap();
        let worker = scene.worker(scene.settings("picture"), async |_| Ok::<_, String>(()));
        assert_eq!(ended(&worker).await.committed, 1, "{damaged:?}");
    }
}

/// Four slots, and a disk that holds the inputs of two.
#[tokio::test]
async fn inputs_wait_for_room_on_the_disk() {
    const MIB: usize = 1024 * 1024;
    let scene = Scene::new();
    let submit = async |bytes: usize| {
        let file = scene.base.path().join("f");
        std::fs::write(&file, vec![0; bytes]).unwrap();
        Submission::new("picture").path(file).unwrap().submit(&scene.plane).await.unwrap();
    };
    for _ in 0..6 {
        submit(2 * MIB).await;
    }
    submit(6 * MIB).await;
    let mut settings = scene.settings("picture");
    settings.module.layout = Layout::new(scene.base.path().join("slots"));
    settings.module.state_dir = scene.base.path().join("slots/.sidecar");
    settings.module.disk = Some(DiskBudget::new(5 * MIB as u64));
    settings.concurrency = NonZeroUsize::new(4).unwrap();
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let worker = scene.worker(settings.clone(), {
        let (running, most) = (running.clone(), most.clone());
        move |_| {
            let (running, most) = (running.clone(), most.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
                running.fetch_sub(1, Ordering::Relaxed);
                Ok::<_, String>(())
            }
        }
    });
    // What never has room is given up, and keeps nobody waiting.
    let Summary { committed, retried, dead_lettered, .. } = ended(&worker).await;
    assert_eq!((committed, retried, dead_lettered), (6, 0, 1));
    assert_eq!(most.load(Ordering::Relaxed), 2);
    let reason = dead_letters(&scene.plane, None).await.unwrap().remove(0).reason;
    assert!(reason.contains("the inputs take 6291456 bytes, and 5242880 are allowed"), "{reason}");
    // Nor may a module write more.
    scene.submit(1).await;
    settings.max_deliveries = NonZeroU32::MIN;
    let wasteful = scene.worker(settings, async |session| {
        std::fs::write(session.layout().output_data().join("large"), vec![0; 6 * MIB])
    });
    assert_eq!(ended(&wasteful).await.dead_lettered, 1);
}

#[tokio::test]
async fn damaged_inputs_are_given_up_at_once() {
    let scene = Scene::new();
    let file = scene.base.path().join("f");
    std::fs::write(&file, "x").unwrap();
    Submission::new("picture").path(file).unwrap().submit(&scene.plane).await.unwrap();
    let keys = scene.plane.blobs.list("", None).await.unwrap();
    scene.plane.blobs.delete(&[keys[0].key.clone()]).await.unwrap();
    let worker = scene.worker(scene.settings("picture"), async |_| Err("it must not run"));
    let Summary { retried, dead_lettered, .. } = ended(&worker).await;
    assert_eq!((retried, dead_lettered), (0, 1));
}

#[tokio::test]
async fn an_event_without_a_context_costs_an_attempt() {
    let scene = Scene::new();
    scene.submit(1).await;
    let documents = &scene.plane.documents;
    let (id, context) = documents.list(documents::Kind::Context, None).await.unwrap().remove(0);
    documents.delete(documents::Kind::Context, std::slice::from_ref(&id)).await.unwrap();
    let mut settings = scene.settings("picture");
    settings.idle_exit = Some(Duration::from_secs(3));
    let worker = scene.worker(settings, async |_| Ok::<_, String>(()));
    let running = tokio::spawn({
        let worker = worker.clone();
        async move { ended(&worker).await }
    });
    while worker.counters().summary().retried == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It appears, as from a secondary that lagged behind.
    let document = documents::Document { id, correlation_id: String::new(), json: context };
    documents.put(documents::Kind::Context, &[document]).await.unwrap();
    let Summary { committed, retried, .. } = running.await.unwrap();
    assert_eq!((committed, retried), (1, 1));
}

#[tokio::test]
async fn an_outage_costs_no_attempt_and_stops_receiving() {
    let (base, away) = (TempDir::new().unwrap(), Arc::new(AtomicBool::new(false)));
    let is_away = away.clone();
    let documents = Fault::new(documents::Memory::default(), move |_, _| {
        if is_away.load(Ordering::Relaxed) { Injected::Unavailable } else { Injected::Nothing }
    });
    let plane = DataPlane::new(blob::Memory::default(), documents, events::Memory::default());
    let scene = Scene { base, plane };
    scene.submit(10).await;
    away.store(true, Ordering::Relaxed);
    let mut settings = scene.settings("picture");
    settings.max_deliveries = NonZeroU32::MIN;
    settings.concurrency = NonZeroUsize::new(2).unwrap();
    let worker = scene.worker(settings, async |_| Ok::<_, String>(()));
    let running = tokio::spawn({
        let worker = worker.clone();
        async move { ended(&worker).await }
    });
    tokio::time::sleep(Duration::from_millis(2500)).await;
    // Each slot holds the one that it has, and takes no other.
    assert!(worker.counters().summary().received <= 2);
    away.store(false, Ordering::Relaxed);
    let Summary { committed, retried, dead_lettered, handed_back, .. } = running.await.unwrap();
    assert_eq!((committed, retried, dead_lettered, handed_back), (10, 0, 0, 0));
}

#[tokio::test]
async fn a_bus_that_is_away_when_a_commit_publishes_is_waited_for() {
    let (base, away) = (TempDir::new().unwrap(), Arc::new(AtomicBool::new(false)));
    let (is_away, ran) = (away.clone(), Arc::new(AtomicUsize::new(0)));
    let bus = Fault::new(events::Memory::default(), move |call, _| {
        let fails = call == "publish events" && is_away.load(Ordering::Relaxed);
        if fails { Injected::Unavailable } else { Injected::Nothing }
    });
    let plane = DataPlane::new(blob::Memory::default(), documents::Memory::default(), bus);
    let scene = Scene { base, plane };
    scene.submit(1).await;
    away.store(true, Ordering::Relaxed);
    let worker = scene.worker(scene.settings("picture"), {
        let ran = ran.clone();
        move |session| {
            ran.fetch_add(1, Ordering::Relaxed);
            std::future::ready(publish(&session, "thumbnail"))
        }
    });
    let running = tokio::spawn({
        let worker = worker.clone();
        async move { ended(&worker).await }
    });
    tokio::time::sleep(Duration::from_millis(1500)).await;
    away.store(false, Ordering::Relaxed);
    assert_eq!(running.await.unwrap().committed, 1);
    assert_eq!(ran.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_worker_that_stops_hands_back_what_is_not_done_without_costing_an_attempt() {
    let scene = Scene::new();
    scene.submit(1).await;
    let mut settings = scene.settings("picture");
    settings.max_deliveries = NonZeroU32::MIN;
    let hanging =
        scene.worker(settings.clone(), async |_| std::future::pending::<Result<(), String>>().await);
    let stopping = hanging.clone();
    let stop = async move {
        while stopping.counters().summary().running == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let began = Instant::now();
    let Summary { handed_back, dead_lettered, .. } = hanging.run(stop).await.unwrap();
    assert_eq!((handed_back, dead_lettered), (1, 0));
    assert!(began.elapsed() < Duration::from_secs(5));
    let Summary { committed, .. } = ended(&scene.worker(settings, async |_| Ok::<_, String>(()))).await;
    assert_eq!(committed, 1);
}

#[tokio::test]
async fn a_worker_that_stops_lets_its_modules_finish() {
    let scene = Scene::new();
    scene.submit(3).await;
    let worker = scene.worker(scene.settings("picture"), async |_| {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok::<_, String>(())
    });
    let stopping = worker.clone();
    let stop = async move {
        while stopping.counters().summary().running == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let Summary { committed, handed_back, .. } = worker.run(stop).await.unwrap();
    assert_eq!((committed, handed_back), (1, 0));
}

#[tokio::test]
async fn a_module_that_takes_its_worker_down_is_given_up_too() {
    let scene = Scene::new();
    scene.submit(1).await;
    let mut settings = scene.settings("picture");
    settings.max_deliveries = NonZeroU32::new(2).unwrap();
    for _ in 0..2 {
        let worker =
            scene.worker(settings.clone(), async |_| std::future::pending::<Result<(), String>>().await);
        let running = tokio::spawn({
            let worker = worker.clone();
            async move { ended(&worker).await }
        });
        while worker.counters().summary().running == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        // All that it was doing is gone with it.
        running.abort();
        let _ = running.await;
        drop(worker);
    }
    let Summary { dead_lettered, .. } =
        ended(&scene.worker(settings, async |_| Err("it must not run"))).await;
    assert_eq!(dead_lettered, 1);
    let letter = dead_letters(&scene.plane, None).await.unwrap().remove(0);
    assert!(
        letter.reason.contains("the last one has failed, or its worker has ended") && letter.attempts == 2,
        "{letter:?}"
    );
    assert!(letter.failure.is_some(), "people look for it among the failures: {letter:?}");
}

#[tokio::test]
async fn a_worker_ends_after_so_many_events() {
    let scene = Scene::new();
    scene.submit(5).await;
    let mut settings = scene.settings("picture");
    settings.max_events = Some(3);
    settings.idle_exit = None;
    settings.concurrency = NonZeroUsize::new(2).unwrap();
    let worker = scene.worker(settings, async |_| Ok::<_, String>(()));
    assert_eq!(ended(&worker).await.committed, 3);
}

#[tokio::test]
async fn a_bus_that_only_publishes_is_refused() {
    #[derive(Debug)]
    struct Deaf;
    impl std::fmt::Display for Deaf {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("deaf")
        }
    }
    #[async_trait::async_trait]
    impl EventProvider for Deaf {
        async fn publish(&self, _: &[sidecar_core::Event]) -> sidecar_core::Result<()> {
            Ok(())
        }
    }
    let plane = DataPlane::new(blob::Memory::default(), documents::Memory::default(), Deaf);
    let scene = Scene { base: TempDir::new().unwrap(), plane };
    let worker = scene.worker(scene.settings("picture"), async |_| Ok::<_, String>(()));
    let error = worker.run(std::future::pending()).await.unwrap_err();
    assert!(error.chain().contains("only publishes"), "{error:?}");
}

/// Equal work takes over what was decided, and everything that follows from it is its own.
#[tokio::test]
async fn an_outcome_stands_for_that_of_equal_work() {
    let scene = Scene::new();
    let runs = Arc::new(AtomicUsize::new(0));
    let work = |settings: WorkerSettings| {
        let runs = runs.clone();
        scene.worker(settings, move |session: Session| {
            runs.fetch_add(1, Ordering::SeqCst);
            async move {
                let out = session.layout().output_data().join("a.txt");
                std::fs::write(out, "content")?;
                std::fs::write(session.layout().output_meta(), r#"[{"key":"k","value":"v"}]"#)?;
                let event = r#"[{"key":"eventType","value":"next"},{"key":"files","value":"a.txt"}]"#;
                std::fs::write(session.layout().output_events().join("1.json"), event)
            }
        })
    };
    let memoized = |version: &str| {
        let mut settings = scene.settings("picture");
        settings.module.memoize = Some(version.into());
        settings
    };
    scene.submit(3).await;
    assert_eq!(ended(&work(memoized("1"))).await.committed, 3);
    assert_eq!(runs.load(Ordering::SeqCst), 1, "equal events of one submission too");
    let recorded = lineage(&scene).await;
    let reused: Vec<_> =
        recorded.iter().filter_map(|trace| trace.executions[0].memoized.as_ref()?.reused.as_ref()).collect();
    assert_eq!(reused.len(), 2);
    // As long as one that took it over is younger, it is not removed.
    let taken = recorded.iter().find(|trace| trace.executions[0].memoized.as_ref().unwrap().reused.is_none());
    let taken = humantime::parse_rfc3339(&taken.unwrap().executions[0].done).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    scene.submit(1).await;
    assert_eq!(ended(&work(memoized("1"))).await.committed, 1);
    let between = taken.elapsed().unwrap() - Duration::from_millis(600);
    let expired = async |age| {
        let rules = sidecar_core::lineage::Retention::from_iter([(sidecar_core::lineage::Scope::All, age)]);
        sidecar_core::lineage::expire(&scene.plane, &rules, false).await.unwrap()
    };
    let (some, all) = (expired(between).await, expired(Duration::ZERO).await);
    assert_eq!((some.needed, some.modules.values().map(|(count, _)| count).sum()), (1, 2), "{some:?}");
    assert_eq!((all.needed, all.modules.values().map(|(count, _)| count).sum()), (0, 4), "{all:?}");
    // Four outcomes with events of their own, and the next module finds the same file with each.
    let mut settings = scene.settings("next");
    settings.module.context.name = ModuleName::parse("next").unwrap();
    settings.group = settings.module.context.name.clone();
    let next = scene.worker(settings, async |session: Session| {
        let content = std::fs::read_to_string(session.layout().input_data().join("a.txt"))?;
        if content == "content" { Ok(()) } else { Err(std::io::Error::other(content)) }
    });
    assert_eq!(ended(&next).await.committed, 4);
    assert!(recorded.iter().all(|trace| trace.executions[0].insight.len() == 1));

    // An outcome that another run has replaced stands for nothing any more.
    let first = recorded.iter().find(|trace| trace.executions[0].memoized.as_ref().unwrap().reused.is_none());
    let replaced = &first.unwrap().executions[0];
    let (base, mut again) = (tempfile::tempdir().unwrap(), memoized("1").module);
    again.layout = sidecar_core::Layout::new(base.path());
    again.state_dir = base.path().join("state");
    again.context.event_id = replaced.event_id.clone();
    (again.start, again.memoize) = (sidecar_core::Start::Rerun, None);
    let session = Session::open(again, scene.plane.clone()).await.unwrap();
    session.ready().await.unwrap();
    session.done().await.unwrap();
    scene.submit(1).await;
    assert_eq!(ended(&work(memoized("1"))).await.committed, 1);
    assert_eq!(runs.swap(1, Ordering::SeqCst), 2, "what was replaced is taken over");

    // Another version, or types that the module may not publish any more: it runs.
    scene.submit(1).await;
    assert_eq!(ended(&work(memoized("2"))).await.committed, 1);
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    let mut strict = memoized("2");
    strict.module.event_types = sidecar_core::EventTypes::parse("other");
    strict.max_deliveries = NonZeroU32::MIN;
    scene.submit(1).await;
    assert_eq!(ended(&work(strict)).await.dead_lettered, 1);
    assert_eq!(runs.load(Ordering::SeqCst), 3);
}

/// The traces of everything that was submitted.
async fn lineage(scene: &Scene) -> Vec<sidecar_core::lineage::Trace> {
    use sidecar_core::documents::Documents as _;
    let contexts = scene.plane.documents.page::<sidecar_core::EventContext>(None).await.unwrap();
    let mut traces = Vec::new();
    for (_, context) in contexts.iter().filter(|(_, context)| context.producer.is_none()) {
        let id = &context.context.correlation_id;
        traces.push(sidecar_core::lineage::Trace::of_graph(&scene.plane, id).await.unwrap());
    }
    traces
}

/// A store that fails while an outcome is taken over costs nothing: it is tried again, and the module does not run.
#[tokio::test]
async fn an_outage_while_an_outcome_is_taken_over_is_waited_for() {
    let mut scene = Scene::new();
    let documents = documents::Memory::default();
    scene.plane.documents = Arc::new(documents.clone());
    let mut settings = scene.settings("picture");
    settings.module.memoize = Some("1".into());
    let runs = Arc::new(AtomicUsize::new(0));
    let module = |runs: &Arc<AtomicUsize>| {
        let runs = runs.clone();
        move |session: Session| {
            runs.fetch_add(1, Ordering::SeqCst);
            async move { publish(&session, "next") }
        }
    };
    scene.submit(1).await;
    assert_eq!(ended(&scene.worker(settings.clone(), module(&runs))).await.committed, 1);
    let whole = scene.plane.clone();
    // Each call that the second one makes fails once, one after the other.
    for failing in 0..24 {
        scene.plane = whole.clone();
        scene.submit(1).await;
        let how = if failing % 2 == 0 { Injected::Unavailable } else { Injected::AnswerLost };
        let broken = Fault::new(documents.clone(), move |_, call| match call == failing / 2 {
            true => how,
            false => Injected::Nothing,
        });
        scene.plane.documents = Arc::new(broken);
        let summary = ended(&scene.worker(settings.clone(), module(&runs))).await;
        assert_eq!((summary.committed, summary.retried), (1, 0), "call {failing}");
        assert_eq!(runs.load(Ordering::SeqCst), 1, "call {failing}");
    }
}

/// A bus with locks that end, which counts renewals, or breaks.
#[derive(Debug, Clone, Default)]
struct Peculiar {
    inner: events::Memory,
    renewed: Arc<AtomicUsize>,
    panics: bool,
    hangs: bool,
}

impl std::fmt::Display for Peculiar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait::async_trait]
impl EventProvider for Peculiar {
    async fn publish(&self, events: &[sidecar_core::Event]) -> sidecar_core::Result<()> {
        self.inner.publish(events).await
    }
    async fn subscribe(
        &self,
        subscription: &events::Subscription,
    ) -> sidecar_core::Result<Arc<dyn events::EventSource>> {
        let (bus, source) = (self.clone(), self.inner.subscribe(subscription).await?);
        Ok(Arc::new(PeculiarSource { bus, source }))
    }
    async fn check(&self) -> sidecar_core::Result<()> {
        self.inner.check().await
    }
    fn id(&self) -> String {
        self.inner.id()
    }
}

#[derive(Debug)]
struct PeculiarSource {
    bus: Peculiar,
    source: Arc<dyn events::EventSource>,
}

impl std::fmt::Display for PeculiarSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.source.fmt(f)
    }
}

#[async_trait::async_trait]
impl events::EventSource for PeculiarSource {
    async fn receive(&self, wait: Duration) -> sidecar_core::Result<Option<Box<dyn events::Delivery>>> {
        assert!(!self.bus.panics, "receive panics");
        if self.bus.hangs {
            std::future::pending::<()>().await;
        }
        let delivery = self.source.receive(wait).await?;
        Ok(delivery.map(|delivery| {
            let delivery: Box<dyn events::Delivery> = Box::new(PeculiarDelivery(delivery, self.bus.clone()));
            delivery
        }))
    }
}

#[derive(Debug)]
struct PeculiarDelivery(Box<dyn events::Delivery>, Peculiar);

#[async_trait::async_trait]
impl events::Delivery for PeculiarDelivery {
    fn event(&self) -> &sidecar_core::Event {
        self.0.event()
    }
    fn redelivered(&self) -> Option<bool> {
        self.0.redelivered()
    }
    fn lock(&self) -> Option<Duration> {
        Some(Duration::from_millis(300))
    }
    async fn renew(&self) -> sidecar_core::Result<()> {
        self.1.renewed.fetch_add(1, Ordering::SeqCst);
        self.0.renew().await
    }
    async fn ack(&self) -> sidecar_core::Result<()> {
        self.0.ack().await
    }
    async fn retry(&self, after: Duration) -> sidecar_core::Result<()> {
        self.0.retry(after).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_blocks_its_thread_does_not_lose_its_lock() {
    let mut scene = Scene::new();
    let bus = Peculiar::default();
    scene.plane.events = Arc::new(bus.clone());
    scene.submit(1).await;
    let worker = scene.worker(scene.settings("picture"), async |_| {
        std::thread::sleep(Duration::from_millis(1200));
        Ok::<_, String>(())
    });
    assert_eq!(ended(&worker).await.committed, 1);
    assert!(bus.renewed.load(Ordering::SeqCst) >= 3, "{bus:?}");
}

/// A connection by credentials that are not valid any more may never answer.
#[tokio::test]
async fn whoever_waits_goes_on_with_the_bus_that_takes_its_place() {
    let mut scene = Scene::new();
    let bus = Peculiar { hangs: true, ..Peculiar::default() };
    scene.plane.events = Arc::new(bus.clone());
    let mut settings = scene.settings("picture");
    (settings.idle_exit, settings.max_events) = (None, Some(1));
    let worker = scene.worker(settings, async |_| Ok::<_, String>(()));
    let running = tokio::spawn({
        let worker = worker.clone();
        async move { ended(&worker).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    scene.plane.events = Arc::new(Peculiar { hangs: false, ..bus });
    scene.submit(1).await;
    worker.renew(scene.plane.clone()).await.unwrap();
    let summary = tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap();
    assert_eq!(summary.committed, 1);
}

#[tokio::test]
async fn a_bus_whose_adapter_panics_ends_the_worker_with_an_error() {
    let mut scene = Scene::new();
    scene.plane.events = Arc::new(Peculiar { panics: true, ..Peculiar::default() });
    let worker = scene.worker(scene.settings("picture"), async |_| Ok::<_, String>(()));
    let error = worker.run(std::future::pending()).await.unwrap_err();
    assert!(error.to_string().contains("a slot has ended"), "{error}");
}

/// What a function has written is not lost with its attempt: it leaves a failure, as a process does.
#[tokio::test]
async fn a_function_with_unusable_outputs_leaves_a_failure_and_what_it_wrote() {
    let scene = Scene::new();
    scene.submit(1).await;
    let mut settings = scene.settings("picture");
    settings.max_deliveries = NonZeroU32::MIN;
    settings.module.on_failure = sidecar_core::OnFailure::Upload;
    let worker = scene.worker(settings, async |session: Session| {
        std::fs::write(session.layout().output_data().join("kept.txt"), "kept")?;
        std::fs::write(session.layout().output_events().join("1.json"), "[]")
    });
    assert_eq!(ended(&worker).await.dead_lettered, 1);
    let letters = dead_letters(&scene.plane, None).await.unwrap();
    let failure = letters[0].failure.clone().unwrap();
    let to = scene.base.path().join("copy");
    let copied = sidecar_core::copy_out(&scene.plane, failure.as_str(), &to).await.unwrap();
    assert_eq!(copied.files, 1);
    assert_eq!(std::fs::read_to_string(to.join("kept.txt")).unwrap(), "kept");
}

/// A member that stopped waiting before its event came has not begun it.
#[tokio::test]
async fn a_receive_that_is_dropped_is_no_attempt() {
    let dir = TempDir::new().unwrap();
    let plane = DataPlane::local(dir.path()).unwrap();
    let subscription = events::Subscription::new(ModuleName::parse("m").unwrap(), ["picture"]);
    let source = plane.events.subscribe(&subscription).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(100), source.receive(Duration::from_secs(2)));
    assert!(waiting.await.is_err());
    Submission::new("picture").submit(&plane).await.unwrap();
    // Whoever still waits in the background takes it, and nobody is there to be told.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let delivery = source.receive(Duration::from_secs(5)).await.unwrap().unwrap();
    assert_eq!(delivery.redelivered(), Some(false));
}
