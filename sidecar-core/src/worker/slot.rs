//! One slot of a worker: a directory, and one delivery after another.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug, error, error_span, info, warn};
use uuid::Uuid;

use super::counters::Count;
use super::runner::{Assignment, Slot};
use super::settlement::{Outcome, Settlement, delay, is_outage};
#[cfg(feature = "process")]
use super::warm;
use super::{Shared, WorkerSettings, attempts, dead};
#[cfg(feature = "process")]
use crate::blocking;
use crate::contract::{Attempts, Context, FailureId, Layout, Phase};
use crate::error::{Error, Result};
use crate::events::Delivery;
use crate::execution::{ELSEWHERE, Session, Settings, Start};
use crate::fault;
use crate::plane::counted;
use crate::telemetry::{self, step};

/// After how long a store that a module's own call waits for counts as away.
const AWAY: Duration = Duration::from_secs(2);

/// When it is tried again to publish an outcome whose events the bus does not take.
const PUBLISH_AGAIN: Duration = Duration::from_secs(60);

/// How long one call waits for an event.
const WAIT: Duration = Duration::from_secs(30);
/// After so long without an event none waits.
const QUIET: Duration = Duration::from_secs(1);
/// How long a call that waits is given to bring what is on its way already when the worker drains.
const LAST_CALL: Duration = Duration::from_millis(200);
/// The longest wait between two looks at a store that is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a worker that would end when nothing comes waits for a bus that is away.
const PATIENCE: Duration = Duration::from_secs(60);
/// A module that asks for an event only after so long had something to load.
const LOADED: Duration = Duration::from_millis(100);
/// How long the bus has to answer.
pub(super) const ANSWER: Duration = Duration::from_secs(30);
/// How long a slot rests after this machine was in the way.
const REST: Duration = Duration::from_secs(5);

/// Works until the worker drains.
pub(super) async fn work(shared: Arc<Shared>, number: usize) {
    let WorkerSettings { idle_exit, max_events, gives_up, .. } = &shared.settings;
    let is_bounded = idle_exit.is_some() || max_events.is_some() || *gives_up;
    let secret = Uuid::new_v4().to_string();
    let slot = Slot { number, secret, stop: shared.stop.subscribe(), is_bounded };
    let worker = Work { shared, slot, unfinished: AtomicBool::new(true) };
    worker.refuse_beside_a_warm_module().await;
    let group = worker.shared.settings.group.clone();
    loop {
        // A commit in this directory that may be decided comes before everything else.
        if worker.unfinished.swap(false, Ordering::Relaxed) {
            // Whoever waits for the worker to have nothing to do waits for this.
            let _at_work = Loading::begin(&worker.shared);
            worker.finish_what_was_begun().await;
        }
        let Some(delivery) = worker.next().await else { break };
        let context = worker.context_of(&*delivery);
        let (event_type, correlation) = (&delivery.event().event_type, &context.correlation_id);
        // Of the highest level, so that errors name it whatever is logged.
        let span = error_span!(
            "delivery",
            slot = number,
            r#type = event_type,
            correlation = correlation,
            event = %context.event_id,
            module = %context.name,
            trace_id = Empty
        );
        let event = &context.event_id;
        let receive =
            span.in_scope(|| step!("receive", otel.kind = "consumer", r#type = event_type, %event, %group));
        let parent = delivery.event().traceparent.clone();
        telemetry::continues(&receive, parent.as_ref());
        telemetry::name_trace(&span, telemetry::traceparent(&receive).or(parent));
        worker
            .deliver(Arc::from(delivery), context, &span)
            .instrument(receive)
            .instrument(span.clone())
            .await;
    }
    worker.shared.runner.end(&worker.slot).await;
}

struct Work {
    shared: Arc<Shared>,
    slot: Slot,
    /// Whether the journal may hold a commit that is not finished.
    unfinished: AtomicBool,
}

/// A slot that waits for its module, or for what was begun in it.
struct Loading<'s>(&'s Shared);

impl<'s> Loading<'s> {
    fn begin(shared: &'s Shared) -> Self {
        shared.loading.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        self.0.loading.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How an attempt came out, and what is known of it.
struct Attempt {
    outcome: Outcome,
    /// How many attempts were begun, this one included; 0 where none was counted.
    number: u32,
    /// Whether the count is in the document store.
    written: bool,
    failure: Option<FailureId>,
}

impl Attempt {
    fn uncounted(outcome: Outcome) -> Self {
        Self { outcome, number: 0, written: false, failure: None }
    }
}

impl Work {
    fn is_draining(&self) -> bool {
        *self.shared.draining.borrow()
    }

    /// Waits for a module that has outlived the worker that kept it warm in this directory.
    #[cfg(feature = "process")]
    async fn refuse_beside_a_warm_module(&self) {
        let base = self.settings(self.shared.settings.module.context.clone(), Start::Resume).layout;
        let path = base.base().join(warm::LOCK);
        let is_held = async || {
            let base = base.base().to_owned();
            // What cannot be looked at is found out when the slot is used.
            blocking(move || Ok(warm::is_held(&base))).await.unwrap_or(false)
        };
        let began = Instant::now();
        while !self.is_draining() && is_held().await {
            let why = format!(
                "the module of an earlier worker, or something that it started, still works in {}: wait for it or end it \
                 (fuser {} finds it)",
                base.base().display(),
                path.display()
            );
            if self.slot.is_bounded && began.elapsed() >= PATIENCE {
                return self.shared.give_up(Arc::new(Error::Busy(why)));
            }
            warn!("slot {} waits: {why}", self.slot.number);
            self.rest(LONGEST_PAUSE).await;
        }
    }

    #[cfg(not(feature = "process"))]
    async fn refuse_beside_a_warm_module(&self) {}

    async fn draining(&self) {
        // The sender lives as long as the worker.
        let _ = self.shared.draining.subscribe().wait_for(|draining| *draining).await;
    }

    /// The next delivery; `None` once the worker drains.
    async fn next(&self) -> Option<Box<dyn Delivery>> {
        let Shared { settings, counters, active, outages, .. } = &*self.shared;
        let mut pause = Duration::from_millis(100);
        loop {
            tokio::select! {
                biased;
                () = self.draining() => return None,
                // A store that is away would only keep more events waiting here.
                _ = async { outages.subscribe().wait_for(|outages| *outages == 0).await.is_ok() } => {}
            }
            let asked = Instant::now();
            let loading = Loading::begin(&self.shared);
            tokio::select! {
                biased;
                () = self.draining() => return None,
                available = self.shared.runner.available(&self.slot) => if let Err(error) = available {
                    self.shared.give_up(Arc::new(error));
                    return None;
                },
            }
            if asked.elapsed() > LOADED {
                // While its module was loading it was not idle.
                self.active_until(Instant::now());
            }
            drop(loading);
            let most = settings.max_events.unwrap_or(u64::MAX);
            let taking = |taken: u64| (taken < most).then_some(taken + 1);
            if self.shared.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taking).is_err() {
                // Another slot may still be waiting for the last one; nobody waits for more.
                return None;
            }
            let idle_for = || active.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
            let wait = match settings.idle_exit {
                Some(limit) => limit.saturating_sub(idle_for()).clamp(Duration::from_millis(20), WAIT),
                None => WAIT,
            };
            let asked = Instant::now();
            let received = self.receive(wait).await;
            counters.answered(received.is_ok());
            // One that was cut short was answered nothing.
            let answered = matches!(received, Ok(Some(_))) || received.is_ok() && asked.elapsed() >= wait;
            if answered && self.shared.bus_away.swap(false, Ordering::Relaxed) {
                info!("{} answers again", self.shared.plane.events);
            }
            match received {
                Ok(Some(delivery)) => {
                    counters.count(Count::Received, &delivery.event().event_type);
                    if delivery.redelivered() != Some(true) {
                        counters.next_was(delivery.published());
                    }
                    self.shared.busy.fetch_add(1, Ordering::Relaxed);
                    return Some(delivery);
                }
                Ok(None) => {
                    counters.next_was(None);
                    pause = Duration::from_millis(100);
                    self.shared.taken.fetch_sub(1, Ordering::Relaxed);
                    let idle = self.shared.busy.load(Ordering::Relaxed) == 0;
                    // It may have asked for a retry, for which it waits.
                    let since = *active.lock().unwrap_or_else(PoisonError::into_inner);
                    if idle && settings.idle_exit.is_some_and(|limit| Instant::now() >= since + limit) {
                        self.shared.draining.send_replace(true);
                    }
                }
                Err(failed) => {
                    self.shared.taken.fetch_sub(1, Ordering::Relaxed);
                    warn!("no event can be received: {}", failed.chain());
                    self.shared.bus_away.store(true, Ordering::Relaxed);
                    let idle = self.shared.busy.load(Ordering::Relaxed) == 0;
                    if idle && settings.idle_exit.is_some_and(|limit| idle_for() >= limit + PATIENCE) {
                        self.shared.give_up(Arc::new(failed));
                        return None;
                    }
                    self.rest(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn receive(&self, wait: Duration) -> Result<Option<Box<dyn Delivery>>> {
        let mut replaced = self.shared.source.subscribe();
        let source = self.shared.source()?;
        let mut receive = Box::pin(async {
            match tokio::time::timeout(2 * wait + ANSWER, source.receive(wait)).await {
                Ok(received) => received,
                Err(_) => {
                    Err(Error::unavailable(&source, "give an event", format!("no answer within {ANSWER:?}")))
                }
            }
        });
        let quiet = async {
            tokio::time::sleep(QUIET).await;
            self.shared.counters.next_was(None);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = self.draining() => {}
            received = &mut receive => return received,
            // A connection by credentials that are not valid any more may never answer.
            _ = replaced.changed() => {}
            () = quiet => {}
        }
        if let Ok(Ok(Some(late))) = tokio::time::timeout(LAST_CALL, receive).await {
            if late.redelivered() == Some(false) {
                self.uncounted(&self.context_of(&*late)).await;
            }
            self.give_back(&*late, Duration::ZERO).await;
        }
        Ok(None)
    }

    /// Writes down that a delivery was none of an attempt, where the next one would otherwise count it.
    async fn uncounted(&self, context: &Context) {
        if let Err(error) = attempts::write(&self.shared.plane, context, 0).await {
            warn!("the attempt counts although it was none: {}", error.chain());
        }
    }

    fn active_until(&self, when: Instant) {
        let mut active = self.shared.active.lock().unwrap_or_else(PoisonError::into_inner);
        *active = (*active).max(when);
    }

    async fn rest(&self, time: Duration) {
        let _ = tokio::time::timeout(time, self.draining()).await;
    }

    fn context_of(&self, delivery: &dyn Delivery) -> Context {
        let header = &delivery.event().context;
        Context {
            name: self.shared.settings.module.context.name.clone(),
            event_id: header.event_id.clone(),
            correlation_id: header.correlation_id.clone(),
            parent_event_id: header.parent_event_id.clone(),
        }
    }

    fn settings(&self, context: Context, start: Start) -> Settings {
        let mut settings = self.shared.settings.module.clone();
        let number = self.slot.number.to_string();
        settings.layout = Layout::new(settings.layout.base().join(&number));
        settings.state_dir = match settings.state_dir.strip_prefix(self.shared.settings.module.layout.base())
        {
            Ok(below) => settings.layout.base().join(below),
            Err(_) => settings.state_dir.join(&number),
        };
        settings.context = context;
        settings.start = start;
        // Each event brings its own.
        settings.traceparent = None;
        settings
    }

    /// From receiving to settling.
    async fn deliver(&self, delivery: Arc<dyn Delivery>, context: Context, span: &Span) {
        let Shared { counters, busy, .. } = &*self.shared;
        counters.begin();
        // A task of its own: a module that is a function may keep this one busy.
        // In the span that the log shows: beneath one that only traces have, a task of its own would be in none.
        let keep =
            |lock| tokio::spawn(keep(self.shared.clone(), delivery.clone(), lock).instrument(span.clone()));
        let keeping = delivery.lock().map(keep).map(Keeping);
        fault::point("worker.received");
        let attempt = match dead::is_for_another(delivery.message_id(), &self.shared.settings.group) {
            true => Attempt::uncounted(Outcome::Committed),
            false => self.attempt(&context, &*delivery).await,
        };
        fault::point("worker.settling");
        self.settle(&*delivery, &context, attempt, keeping).await;
        counters.end();
        self.active_until(Instant::now());
        busy.fetch_sub(1, Ordering::Relaxed);
    }

    /// One attempt at the execution of an event.
    async fn attempt(&self, context: &Context, delivery: &dyn Delivery) -> Attempt {
        let (event_type, redelivered) = (&*delivery.event().event_type, delivery.redelivered());
        let most = self.shared.settings.max_deliveries.get();
        // Where there is only one, whether it was begun cannot be told from the bus.
        let written = redelivered != Some(false) || most == 1;
        let redelivered = redelivered.filter(|again| !again || most > 1);
        let plane = &self.shared.plane;
        let open = || self.open(context.clone(), Start::Restart);
        let session = match self.patiently(open).await {
            Ok(session) => session,
            Err(outcome) => return Attempt::uncounted(outcome),
        };
        if session.idle().await == Phase::Done || session.is_publishing() {
            // It has its outcome: what is missing is published, and the module does not run.
            let published = self.patiently(|| commit(&session)).await;
            let outcome = published.err().unwrap_or(Outcome::Committed);
            if matches!(outcome, Outcome::Committed) {
                info!(
                    "event {} has its outcome already: module {} does not run",
                    context.event_id, context.name
                );
            }
            self.leave(session, &outcome).await;
            return Attempt { written, ..Attempt::uncounted(outcome) };
        }
        let begun = match self.patiently(|| attempts::begun(plane, context, redelivered)).await {
            Ok(begun) => begun,
            Err(outcome) => return Attempt::uncounted(outcome),
        };
        let (group, known) = (&self.shared.settings.group, begun >= most);
        if begun == Attempts::DROPPED
            || known && dead::is_dead(plane, context, group, delivery.message_id()).await.unwrap_or(false)
        {
            info!("event {} was given up before", context.event_id);
            return Attempt::uncounted(Outcome::Committed);
        }
        match self.patiently(|| reuse(&session, event_type)).await {
            Ok(false) => {}
            reused => {
                let outcome = reused.err().unwrap_or(Outcome::Committed);
                self.leave(session, &outcome).await;
                return Attempt { written, ..Attempt::uncounted(outcome) };
            }
        }
        if known {
            let reason = format!(
                "{} started, and {most} allowed: the last one has failed, or its worker has ended or lost it",
                counted(begun, "attempt")
            );
            // A worker that was gone has left no failure, and people look for one.
            let failure = session.fail(reason.clone()).await.is_ok().then(|| session.failure_id());
            let outcome = Outcome::Failed(reason);
            self.leave(session, &outcome).await;
            return Attempt { outcome, number: begun, written, failure };
        }
        let number = begun + 1;
        if written && let Err(outcome) = self.patiently(|| attempts::write(plane, context, number)).await {
            return Attempt::uncounted(outcome);
        }
        fault::point("worker.counted");
        if number > 1 {
            info!("event {}: attempt {number} of {most}", context.event_id);
        }
        let _shown = self.shared.exposed.get().map(|sessions| sessions.watch(&session));
        let outcome =
            self.run(&session, &Assignment { event_type: event_type.to_owned(), attempt: number }).await;
        let failure = match outcome {
            Outcome::Committed | Outcome::Stopped => None,
            _ => Some(session.failure_id()),
        };
        self.shared.counters.observe(event_type, session.timings());
        self.leave(session, &outcome).await;
        Attempt { outcome, number, written, failure }
    }

    /// Lets the module run; a store that is away is waited for.
    async fn run(&self, session: &Session, assignment: &Assignment) -> Outcome {
        loop {
            let run =
                AssertUnwindSafe(self.shared.runner.run(session, &self.slot, assignment)).catch_unwind();
            // A module that calls `done` itself waits for the store itself.
            let away = async {
                loop {
                    let error = session.store_is_away().await;
                    if tokio::time::timeout(AWAY, session.store_is_back()).await.is_err() {
                        let _waiting = Outage::begin(&self.shared, &error);
                        session.store_is_back().await;
                    }
                }
            };
            let ended = tokio::select! {
                ended = run => ended,
                never = away => never,
            };
            let outcome = match ended {
                Ok(outcome) => outcome,
                Err(panic) => {
                    let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
                    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                    self.panicked(session, &text.unwrap_or_else(|| "without a text".into())).await
                }
            };
            let waited = match &outcome {
                Outcome::NotPrepared(error) if is_outage(error) => self.patiently(|| ready(session)).await,
                Outcome::NotCommitted(error) if is_outage(error) => {
                    return match self.patiently(|| commit(session)).await {
                        Ok(()) => Outcome::Committed,
                        // Either the worker stops, or now it is something else that is wrong.
                        Err(outcome) => outcome,
                    };
                }
                _ => return outcome,
            };
            if let Err(outcome) = waited {
                return outcome;
            }
        }
    }

    /// A defect of the runner, or of the function that is the module, costs an attempt and not the slot.
    async fn panicked(&self, session: &Session, text: &str) -> Outcome {
        let reason = format!("the module panicked: {text}");
        match session.fail(reason.clone()).await {
            Err(_) if session.phase() == Phase::Done => Outcome::Committed,
            _ => Outcome::Failed(reason),
        }
    }

    /// Repeats a call as long as a store is away, unless the worker drains; then the delivery is handed back.
    async fn patiently<T, E, C>(&self, call: impl Fn() -> C) -> Result<T, Outcome>
    where
        E: Into<Failed>,
        C: Future<Output = Result<T, E>> + Send,
    {
        let (mut pause, mut waiting) = (Duration::from_secs(1), None);
        loop {
            let failed: Failed = match call().await {
                Ok(done) => return Ok(done),
                Err(failed) => failed.into(),
            };
            if !failed.is_outage {
                return Err(failed.outcome());
            }
            if self.is_draining() {
                return Err(Outcome::Stopped);
            }
            if waiting.is_none() {
                waiting = Some(Outage::begin(&self.shared, &failed.error));
            }
            self.rest(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn open(&self, context: Context, start: Start) -> Result<Session> {
        let began = Instant::now();
        loop {
            match Session::open_in(self.settings(context.clone(), start), self.shared.plane.clone()).await {
                // A call of the last module may still be answered.
                Err(Error::Busy(why)) if began.elapsed() < REST && !why.contains(ELSEWHERE) => {
                    debug!("{why}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                opened => return opened,
            }
        }
    }

    /// Leaves the directory as it was found: empty.
    async fn leave(&self, session: Session, outcome: &Outcome) {
        let left = match outcome {
            Outcome::Committed => session.empty_trash().await,
            // It is decided, and whoever has the event next publishes it.
            Outcome::NotPublished(_) => match session.leave_decided().await {
                Ok(()) => session.discard().await,
                failed => failed,
            },
            // The proposal may be the outcome: the next start of this slot finds out.
            _ if session.is_publishing() => {
                self.unfinished.store(true, Ordering::Relaxed);
                Ok(())
            }
            _ => session.discard().await,
        };
        if let Err(error) = left {
            warn!("the slot could not be emptied: {}", error.chain());
        }
    }

    /// Finishes a commit that this slot had begun when its worker ended, and empties its directory.
    async fn finish_what_was_begun(&self) {
        let Shared { settings, .. } = &*self.shared;
        let context =
            match Session::remembered(&self.settings(settings.module.context.clone(), Start::Resume)).await {
                Ok(None) => return,
                Ok(Some(remembered)) => remembered.context,
                Err(error) => return warn!("the journal cannot be read: {}", error.chain()),
            };
        let finished = self.patiently(|| self.finish(context.clone())).await;
        if let Err(outcome) = finished {
            if let Outcome::NotPrepared(error) = &outcome
                && matches!(&**error, Error::Busy(why) if why.contains(ELSEWHERE))
            {
                // This slot can work on nothing before, and neither time nor another event changes that.
                return self.shared.give_up(error.clone());
            }
            warn!("what was begun in slot {} could not be finished: {}", self.slot.number, outcome.reason());
        }
    }

    async fn finish(&self, context: Context) -> Result<(), Failed> {
        let session = self.open(context, Start::Resume).await?;
        if session.idle().await != Phase::Done && session.is_publishing() {
            info!("finishing the commit of event {} that was begun here", session.status().context.event_id);
            match commit(&session).await {
                // Whoever has the event next publishes it.
                Err(failed) if !failed.is_outage && session.phase() == Phase::Publishing => {
                    warn!(
                        "the events of {} cannot be published: {}",
                        session.status().context.event_id,
                        failed.error.chain()
                    );
                    session.leave_decided().await?;
                }
                done => done?,
            }
        }
        Ok(session.discard().await?)
    }

    async fn settle(
        &self,
        delivery: &dyn Delivery,
        context: &Context,
        attempt: Attempt,
        keeping: Option<Keeping>,
    ) {
        let Shared { counters, settings, plane, .. } = &*self.shared;
        let Attempt { outcome, number, written, failure } = attempt;
        let event_type = &*delivery.event().event_type;
        let (most, event) = (settings.max_deliveries.get(), &context.event_id);
        let settled = match outcome.settlement(number, most) {
            Settlement::Ack => {
                counters.count(Count::Committed, event_type);
                if written && let Err(error) = attempts::forget(plane, context).await {
                    debug!("the count of attempts is left: {}", error.chain());
                }
                answer(delivery.ack()).await
            }
            Settlement::Retry => {
                counters.count(Count::Retried, event_type);
                if !written && let Err(error) = attempts::write(plane, context, number).await {
                    debug!("that the event is delivered again tells of the attempt: {}", error.chain());
                }
                let after = delivery.delay(delay(number));
                // Whoever ends when there is nothing to do has something to do then.
                self.active_until(Instant::now() + after);
                warn!(
                    "event {event}: attempt {number} of {most} failed, the next one in {after:.1?}: {}",
                    outcome.reason()
                );
                answer(delivery.retry(after)).await
            }
            Settlement::DeadLetter => {
                let reason = outcome.reason();
                let write = || {
                    dead::write(
                        plane,
                        context,
                        &settings.group,
                        delivery,
                        reason.clone(),
                        failure.clone(),
                        number,
                    )
                };
                match self.patiently(write).await {
                    Ok(id) => {
                        counters.count(Count::DeadLettered, event_type);
                        error!(
                            "event {event} is given up after {}, as dead letter {id}: {reason}",
                            counted(number, "attempt")
                        );
                        answer(delivery.dead_letter(&reason)).await
                    }
                    // Without its letter it would be lost.
                    Err(_) => answer(delivery.retry(Duration::ZERO)).await,
                }
            }
            Settlement::HandBack => {
                counters.count(Count::HandedBack, event_type);
                if number > 0
                    && let Err(error) = attempts::write(plane, context, number - 1).await
                {
                    warn!("the attempt counts although it was none: {}", error.chain());
                }
                if number == 0 && delivery.redelivered() == Some(false) {
                    self.uncounted(context).await;
                }
                let rest = match &outcome {
                    Outcome::Stopped | Outcome::NotPublished(_) => Duration::ZERO,
                    _ => REST,
                };
                match &outcome {
                    Outcome::Stopped => info!("event {event} is handed back: the worker stops"),
                    other => warn!("event {event} is handed back: {}", other.reason()),
                }
                let after = match &outcome {
                    // This worker ends.
                    Outcome::Unusable(_) => Duration::ZERO,
                    Outcome::NotPublished(_) => delivery.delay(PUBLISH_AGAIN),
                    // The others come first.
                    _ => rest * 3,
                };
                if !after.is_zero() && !matches!(outcome, Outcome::NotPublished(_)) {
                    // Whoever ends when there is nothing to do has something to do then.
                    self.active_until(Instant::now() + after);
                }
                self.give_back(delivery, after).await;
                // What was given back is not kept from others while this slot rests.
                drop(keeping);
                if let Outcome::Unusable(error) = outcome {
                    self.shared.give_up(error);
                }
                self.rest(rest).await;
                Ok(())
            }
        };
        match settled {
            Ok(()) => {}
            Err(error @ Error::NotHeld { .. }) => info!("{error}; whoever has it finds the outcome"),
            Err(error) => warn!("event {event} will come again: {}", error.chain()),
        }
    }

    async fn give_back(&self, delivery: &dyn Delivery, after: Duration) {
        if let Err(error) = answer(delivery.retry(after)).await {
            debug!("it comes back by itself: {}", error.chain());
        }
    }
}

/// The answer of a bus to a call, or that there was none.
async fn answer(call: impl Future<Output = Result<()>>) -> Result<()> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(answered) => answered,
        Err(_) => {
            Err(Error::unavailable(&"the bus", "settle the event", format!("no answer within {ANSWER:?}")))
        }
    }
}

/// The renewal of a lock, which ends with this.
struct Keeping(JoinHandle<()>);

impl Drop for Keeping {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Renews the lock of a delivery until it is lost.
async fn keep(shared: Arc<Shared>, delivery: Arc<dyn Delivery>, lock: Duration) {
    loop {
        tokio::time::sleep(lock / 3).await;
        match answer(delivery.renew()).await {
            Ok(()) => shared.counters.answered(true),
            Err(Error::NotHeld { .. }) => {
                // Nothing but the record decides: the module goes on.
                warn!("the lock was lost: another worker may run the same execution, and one of them wins");
                return;
            }
            Err(error) => {
                shared.counters.answered(false);
                warn!("the lock could not be renewed: {}", error.chain());
            }
        }
    }
}

/// Why a call failed, and what that means where nothing can be waited for.
struct Failed {
    error: Arc<Error>,
    /// Whether a store is away, which is waited for.
    is_outage: bool,
    outcome: fn(Arc<Error>) -> Outcome,
}

impl Failed {
    fn of(error: Arc<Error>, outcome: fn(Arc<Error>) -> Outcome) -> Self {
        Self { is_outage: is_outage(&error), error, outcome }
    }

    fn outcome(self) -> Outcome {
        (self.outcome)(self.error)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::of(Arc::new(error), Outcome::NotPrepared)
    }
}

async fn ready(session: &Session) -> Result<(), Failed> {
    session.ready().await.map(drop).map_err(|error| Failed::of(error, Outcome::NotPrepared))
}

/// Whether the outcome of equal work was taken over. Only a store that is away is waited for: what else hinders it does not
/// keep the module from running.
async fn reuse(session: &Session, event_type: &str) -> Result<bool, Failed> {
    // From the proposal on it can only be finished, by this call or by the session itself.
    let has_begun = || session.is_publishing() || session.phase() == Phase::Done;
    if has_begun() {
        return commit(session).await.map(|()| true);
    }
    match session.reuse(event_type).await {
        Err(error) if has_begun() => Err(Failed::of(error, Outcome::NotCommitted)),
        Err(error) if !matches!(*error, Error::Unavailable { .. } | Error::NoEventYet { .. }) => {
            debug!("no outcome is taken over: {}", error.chain());
            Ok(false)
        }
        Err(error) => Err(Failed::of(error, Outcome::NotPrepared)),
        Ok(reused) => Ok(reused),
    }
}

async fn commit(session: &Session) -> Result<(), Failed> {
    session.commit().await.map(drop).map_err(|error| match *error {
        // Nothing is wrong with the bus: it will not have these events, and others have their turn.
        Error::Refused { .. } if session.phase() == Phase::Publishing => {
            Failed { error, is_outage: false, outcome: Outcome::NotPublished }
        }
        _ => Failed::of(error, Outcome::NotCommitted),
    })
}

/// A slot that waits for a store: meanwhile the worker receives nothing.
struct Outage<'s>(&'s Shared);

impl<'s> Outage<'s> {
    fn begin(shared: &'s Shared, error: &Error) -> Self {
        // One line for all slots: they wait for the same stores.
        match Self::note(shared, |slots| slots + 1) {
            1 => warn!("waiting, and receiving no events meanwhile: {}", error.chain()),
            _ => debug!("waiting for a store: {}", error.chain()),
        }
        Self(shared)
    }

    /// Changes how many slots wait, and returns how many do.
    fn note(shared: &Shared, change: fn(usize) -> usize) -> usize {
        let mut slots = 0;
        shared.outages.send_modify(|outages| {
            *outages = change(*outages);
            slots = *outages;
            shared.counters.waiting(slots);
        });
        slots
    }
}

impl Drop for Outage<'_> {
    fn drop(&mut self) {
        if Self::note(self.0, |slots| slots - 1) == 0 && !*self.0.draining.borrow() {
            info!("what was away is back: receiving events again");
        }
    }
}
