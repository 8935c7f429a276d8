//! Modules that stay: one process for each slot, which asks for one event after another.
//!
//! No event is received before a module asks for one, so that a model that is still loading keeps none waiting.

use std::collections::HashMap;
use std::fs::{self, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::watch;
use tracing::{Instrument, error_span, info, warn};

use super::runner::{Assignment, Runner, Slot};
use super::settlement::Outcome;
use crate::contract::{Context, EventId, ModuleName, NextAnswer, Phase, Prepared, TraceParent};
use crate::dir::Dir;
use crate::error::Error;
use crate::execution::Session;
use crate::lock::Locked;
use crate::process::{Child, Module, how, silence};
use crate::server::{Answered, Feed, Secret, Sessions};
use crate::telemetry;

/// How long a module that was silent for too long may take to end.
const ENDING: Duration = Duration::from_secs(10);

/// The wait before a module that has ended is started again; it doubles each time, as long as none asks for an event.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How often a module is started that never asks for an event, by a worker that would end if there were none.
const MOST_STARTS: u32 = 5;
/// After so long a module that loads is said to be waited for.
const SLOW: Duration = Duration::from_secs(60);
/// How often a module is given one event, whose answer may have been lost; more than that it does not understand.
const MOST_ANSWERS: u32 = 20;
/// The longest such wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Starts one process for each slot, and again when it has ended; each calls `POST /next` for its events.
#[derive(Debug)]
pub struct WarmProcesses {
    module: Module,
    name: ModuleName,
    /// Holds a directory for each slot.
    base: PathBuf,
    sessions: Sessions,
    address: SocketAddr,
    slots: Mutex<HashMap<usize, Arc<Warm>>>,
}

/// The process of a slot, and what it is given.
#[derive(Debug)]
struct Warm {
    secret: String,
    lease: Option<Duration>,
    state: watch::Sender<State>,
    process: tokio::sync::Mutex<Process>,
    /// When the module last made a call.
    heard: Mutex<Instant>,
}

#[derive(Debug, Default)]
struct Process {
    child: Option<Child>,
    /// How often in a row it was started without asking for an event.
    starts: u32,
}

#[derive(Debug, Default)]
struct State {
    /// Calls that wait for an event.
    waiting: usize,
    current: Option<Current>,
    /// The event that was committed last, and whose outputs count for it where they are not the module's own.
    last: Option<(EventId, Option<String>)>,
    /// What the module was answered in the end, or should have been.
    answer: Option<Answered>,
    /// There will be no more.
    ended: bool,
}

/// The event that the module works on.
#[derive(Debug, Clone)]
struct Current {
    session: Session,
    context: Context,
    prepared: Prepared,
    assignment: Assignment,
    traceparent: Option<TraceParent>,
    /// How often the module was given it.
    given: Arc<AtomicU32>,
}

/// A call that waits, until it is dropped.
struct Waiting<'w>(&'w Warm);

impl<'w> Waiting<'w> {
    fn new(warm: &'w Warm) -> Self {
        warm.state.send_modify(|state| state.waiting += 1);
        Self(warm)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.waiting -= 1);
    }
}

#[async_trait]
impl Feed for Warm {
    fn heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn answered(&self) -> Option<Answered> {
        self.state.borrow().answer.clone()
    }

    async fn next(
        &self,
        finished: Option<EventId>,
        module_start: Option<&str>,
    ) -> Result<Option<NextAnswer>, Arc<Error>> {
        let current = self.state.borrow().current.clone();
        if let Some(finished) = &finished {
            match current {
                // One that it was not given it cannot have finished, even if an earlier attempt had the same name.
                Some(current)
                    if current.context.event_id == *finished
                        && current.given.load(Ordering::Relaxed) > 0
                        && current.session.phase() != Phase::Failed =>
                {
                    current.session.refuse_another("commit", module_start)?;
                    let receipt = match current.session.commit().await {
                        Ok(receipt) => receipt,
                        Err(error) => {
                            // One that does not understand the answer would call again and again.
                            if matches!(*error, Error::Invalid(_))
                                && current.given.fetch_add(1, Ordering::Relaxed) >= MOST_ANSWERS
                            {
                                let reason = format!(
                                    "its outputs were refused {MOST_ANSWERS} times: {}",
                                    error.chain()
                                );
                                current.session.fail(reason).await?;
                            }
                            return Err(error);
                        }
                    };
                    let last = (finished.clone(), receipt.committed_by);
                    self.state.send_modify(|state| state.last = Some(last));
                }
                // A repeat after an answer that was lost.
                _ if self.state.borrow().last.as_ref().is_some_and(|(last, _)| last == finished) => {}
                current => {
                    let phase = current.as_ref().map_or(Phase::New, |current| current.session.phase());
                    let given = current.map(|current| format!("that is {}", current.context.event_id));
                    let given = given.unwrap_or_else(|| "it was given none".into());
                    return Err(Arc::new(Error::OutOfOrder {
                        call: "commit",
                        phase,
                        hint: format!(
                            "event {finished} is not the one that this module was given ({given}); after /fail the body \
                             is null"
                        ),
                    }));
                }
            }
        }
        let _waiting = Waiting::new(self);
        let mut state = self.state.subscribe();
        let is_next = |current: &Current| {
            let ended = matches!(current.session.phase(), Phase::Done | Phase::Failed);
            Some(&current.context.event_id) != finished.as_ref() && !ended
        };
        // The sender lives as long as this call.
        let is_there = |state: &State| state.ended || state.current.as_ref().is_some_and(is_next);
        let (current, last) = loop {
            if state.wait_for(is_there).await.is_err() {
                return Ok(None);
            }
            let now = self.state.borrow();
            match now.current.clone().filter(is_next) {
                Some(current) => break (current, now.last.clone()),
                None if now.ended => return Ok(None),
                // It was taken back at this very moment.
                None => {}
            }
        };
        let Current { context, prepared, assignment, session, given, traceparent } = current;
        let given = given.fetch_add(1, Ordering::Relaxed) + 1;
        match given {
            2 if finished.is_none() => warn!(
                "the module was given event {} and asked for the next one without naming it: it is given the same \
                 again (the body of /next is the id of the finished event)",
                context.event_id
            ),
            MOST_ANSWERS.. => {
                let reason =
                    format!("the module was given this event {MOST_ANSWERS} times and never named it");
                session.fail(reason).await?;
                return Err(Arc::new(Error::OutOfOrder {
                    call: "give the next event",
                    phase: Phase::Failed,
                    hint: format!(
                        "event {} was given {MOST_ANSWERS} times and not finished",
                        context.event_id
                    ),
                }));
            }
            _ => {}
        }
        if given > 1 && finished.is_none() {
            session.begin_again().await?;
        }
        session.given_to(module_start);
        // From now on it may be silent for so long.
        session.heartbeat();
        let committed_by = last.filter(|(last, _)| Some(last) == finished.as_ref());
        Ok(Some(NextAnswer {
            event_id: context.event_id.clone(),
            event_type: assignment.event_type,
            attempt: assignment.attempt,
            deadline: self.lease.map(|lease| lease.as_secs()),
            files: prepared.files,
            bytes: prepared.bytes,
            values: prepared.values,
            committed_by: committed_by.and_then(|(_, by)| by),
            context,
            traceparent,
        }))
    }
}

impl WarmProcesses {
    /// Runs `module` in the directories below `base`; its sessions are added to those of the server at `address`.
    pub fn new(
        mut module: Module,
        name: ModuleName,
        base: impl Into<PathBuf>,
        sessions: Sessions,
        address: SocketAddr,
    ) -> Self {
        module.service.grace = super::ending(module.service.grace);
        module.surroundings.background = true;
        Self { module, name, base: base.into(), sessions, address, slots: Mutex::default() }
    }

    fn warm(&self, slot: &Slot) -> Arc<Warm> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let warm = Arc::new(Warm {
                secret: slot.secret.clone(),
                lease: self.module.service.lease,
                state: watch::Sender::default(),
                process: tokio::sync::Mutex::default(),
                heard: Mutex::new(Instant::now()),
            });
            self.sessions.feed(Secret::new(&slot.secret), warm.clone());
            warm
        };
        slots.entry(slot.number).or_insert_with(make).clone()
    }

    fn start(&self, slot: &Slot, warm: &Warm) -> io::Result<Child> {
        let base = self.base.join(slot.number.to_string());
        fs::create_dir_all(&base)?;
        // One that outlived its worker still writes where this one would.
        let path = base.join(LOCK);
        let lock = Dir::open(&base)?.open_lock(LOCK)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let why = format!(
                    "something that an earlier one has started still works here: wait for it or end it (fuser {} finds it)",
                    path.display()
                );
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut module = self.module.clone();
        module.service.secret.clone_from(&warm.secret);
        let span = error_span!("process", module = %self.name, slot = slot.number);
        module.start(&base, &self.name, None, self.address, lock, &span)
    }
}

/// Held by the process of a slot, in its base directory.
pub(super) const LOCK: &str = ".warm.lock";

/// Whether somebody holds the lock of the slot in this directory. Blocks, but on nothing that a module may have left there.
pub(super) fn is_held(base: &Path) -> bool {
    let lock = Dir::open(base).and_then(|base| base.open_file(Path::new(LOCK)));
    lock.and_then(Locked::new).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

#[async_trait]
impl Runner for WarmProcesses {
    async fn run(&self, session: &Session, slot: &Slot, assignment: &Assignment) -> Outcome {
        let prepared = match session.ready().await {
            Ok(prepared) => prepared,
            Err(error) => return Outcome::NotPrepared(error),
        };
        let warm = self.warm(slot);
        let secret = Secret::new(&slot.secret);
        self.sessions.insert(secret.clone(), session.clone());
        session.heartbeat();
        let step = session.module_span();
        let current = Current {
            traceparent: telemetry::traceparent(&step).or_else(|| session.traceparent()),
            session: session.clone(),
            context: session.status().context,
            prepared,
            assignment: assignment.clone(),
            given: Arc::default(),
        };
        warm.state.send_modify(|state| state.current = Some(current));
        let outcome = self.watch(session, slot, &warm).instrument(step).await;
        // Its answer may have been lost, and then the module asks for it again.
        let answer = match (&outcome, session.phase()) {
            (Outcome::Committed, Phase::Done) => session.done().await.ok().map(Answered::Done),
            (Outcome::Failed(_), Phase::Failed) => Some(Answered::Failed(session.status())),
            _ => None,
        };
        warm.state.send_modify(|state| state.answer = answer);
        self.sessions.remove(&secret);
        let committed = matches!(outcome, Outcome::Committed);
        warm.state.send_modify(|state| {
            let Some(Current { context, .. }) = state.current.take() else { return };
            // Also one that was finished by `done` may be named by the next call. One that failed may not: it may be
            // given again, and its name would commit what nobody worked on.
            if committed && state.last.as_ref().is_none_or(|(last, _)| *last != context.event_id) {
                state.last = Some((context.event_id, None));
            }
        });
        outcome
    }

    async fn available(&self, slot: &Slot) -> Result<(), Error> {
        let warm = self.warm(slot);
        let mut process = warm.process.lock().await;
        // While the sidecar committed it was not the module's turn.
        warm.heard();
        let mut last = String::new();
        loop {
            let Process { child, starts } = &mut *process;
            let Some(running) = child else {
                if slot.is_bounded && *starts >= MOST_STARTS {
                    return Err(Error::NotLoaded { starts: *starts, last });
                }
                if *starts > 0 {
                    let pause = (FIRST_PAUSE * (1 << (*starts - 1).min(6))).min(LONGEST_PAUSE);
                    info!("the module is started again in {pause:?}");
                    tokio::time::sleep(pause).await;
                }
                *starts += 1;
                match self.start(slot, &warm) {
                    Ok(started) => {
                        // What another process was answered is no answer to this one.
                        warm.state.send_modify(|state| state.answer = None);
                        *child = Some(started);
                    }
                    // Another one that is still at work will end.
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                        warn!("the module of slot {} is not started: {error}", slot.number);
                    }
                    Err(error) => {
                        let program = self.module.command.first().map(PathBuf::from).unwrap_or_default();
                        return Err(Error::io("start", program)(error));
                    }
                }
                continue;
            };
            let mut state = warm.state.subscribe();
            let slow = async {
                tokio::time::sleep(SLOW).await;
                info!(
                    "the module of slot {} has not asked for an event (POST /next) for {SLOW:?}: it is waited for, however \
                     long it loads",
                    slot.number
                );
                std::future::pending::<()>().await;
            };
            // It has loaded before: from its last call on the limit counts, until it asks for the next event.
            let silent = async {
                let Some(lease) = self.module.service.lease.filter(|_| *starts == 0) else {
                    return std::future::pending().await;
                };
                loop {
                    let silence = warm.heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
                    if silence >= lease {
                        return;
                    }
                    tokio::time::sleep(lease - silence).await;
                }
            };
            let status = tokio::select! {
                _ = state.wait_for(|state| state.waiting > 0) => {
                    *starts = 0;
                    return Ok(());
                }
                status = running.wait() => Some(status),
                () = silent => None,
                () = slow, if *starts > 0 || self.module.service.lease.is_none() => continue,
            };
            let line = self.last_line(slot);
            let Some(status) = status else {
                let reason = silence(self.module.service.lease.unwrap_or_default(), false);
                warn!("{reason} after its last event{line}: it is started again");
                running.end(self.module.service.grace.min(ENDING)).await;
                running.end_descendants(self.module.service.grace.min(ENDING)).await;
                *child = None;
                continue;
            };
            match status {
                Ok(status) => {
                    let when = match *starts {
                        0 => "between two events",
                        _ => "without asking for an event (POST /next)",
                    };
                    last = format!("; the last time with {}{line}", how(status));
                    warn!("the module of slot {} ended with {} {when}{line}", slot.number, how(status));
                }
                Err(error) => warn!("the module of slot {} cannot be waited for: {error}", slot.number),
            }
            running.end_descendants(self.module.service.grace).await;
            *child = None;
        }
    }

    async fn end(&self, slot: &Slot) {
        let warm = self.warm(slot);
        warm.state.send_modify(|state| state.ended = true);
        let mut process = warm.process.lock().await;
        let Some(child) = &mut process.child else { return };
        // It is told by its call for the next event; one that does not end by that is asked to.
        if tokio::time::timeout(self.module.service.grace, child.wait()).await.is_err() {
            child.end(self.module.service.grace).await;
        }
        child.end_descendants(Duration::from_secs(1)).await;
        process.child = None;
    }
}

impl WarmProcesses {
    /// What the module printed last, as the end of a reason.
    fn last_line(&self, slot: &Slot) -> String {
        let line = self.module.surroundings.last_line(&self.base.join(slot.number.to_string()), None);
        line.map(|line| format!(": {line}")).unwrap_or_default()
    }

    /// Waits until the event is finished, or the module can finish it no more.
    async fn watch(&self, session: &Session, slot: &Slot, warm: &Warm) -> Outcome {
        let mut process = warm.process.lock().await;
        let Process { child, starts } = &mut *process;
        let Some(running) = child else {
            return Outcome::Stopped;
        };
        let lease = async {
            match self.module.service.lease {
                Some(lease) => session.lease_expired(lease).await,
                None => std::future::pending().await,
            }
        };
        let reason = tokio::select! {
            phase = session.ended() => {
                return match phase {
                    Phase::Done => Outcome::Committed,
                    _ => Outcome::Failed(session.status().reason.unwrap_or_else(|| "the module failed".into())),
                };
            }
            status = running.wait() => {
                let how = status.map_or_else(|error| error.to_string(), how);
                *starts = 1;
                match session.last_error() {
                    // Its outputs were refused, and it did not ask again.
                    Some(error) => format!("the module ended with {how} when done had failed: {}", error.chain()),
                    None => {
                        let line = self.last_line(slot);
                        format!("the module ended with {how} while it worked on this event{line}")
                    }
                }
            }
            () = lease => {
                running.end(self.module.service.grace).await;
                let reason = silence(self.module.service.lease.unwrap_or_default(), false);
                format!("{reason}{}", self.last_line(slot))
            }
            () = slot.stopped() => {
                running.end(self.module.service.grace).await;
                running.end_descendants(self.module.service.grace).await;
                *child = None;
                return if session.idle().await == Phase::Done { Outcome::Committed } else { Outcome::Stopped };
            }
        };
        running.end_descendants(self.module.service.grace).await;
        *child = None;
        // What it had committed stays so.
        match session.fail(reason.clone()).await {
            Err(_) if session.phase() == Phase::Done || session.is_publishing() => {
                committed(session.commit().await.map(drop))
            }
            _ => Outcome::Failed(reason),
        }
    }
}

/// How a commit came out.
fn committed(done: Result<(), Arc<Error>>) -> Outcome {
    match done {
        Ok(()) => Outcome::Committed,
        Err(error) => Outcome::NotCommitted(error),
    }
}
