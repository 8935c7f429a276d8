//! An attempt as its callers see it: the async shell around `state` and `Execution`.
//!
//! A call that does work runs as a task of its own, so that a dropped connection does not cancel it and a repeat
//! joins it.

use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::watch;
use tracing::{Instrument, debug, error, info, warn};

use super::failure::Reason;
use super::open::{self, Opened};
use super::record::{Decision, abandon, roll_forward};
use super::state::{Move, Rest, State, Turn};
use super::{Execution, Journaling, Settings, Step, ids, journal};
use crate::contract::{
    Contents, Context, Culprit, ExecutionRecord, FailureId, Layout, Phase, Prepared, Receipt, Status,
    TraceParent,
};
use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::plane::{DataPlane, counted};
use crate::telemetry::{self, step};
use crate::{blocking, spawn};

/// One attempt at an execution: one module, one event; clones share it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sidecar_core::{Context, DataPlane, EventId, First, Layout, ModuleName, Session, Settings};
///
/// let base = tempfile::tempdir()?;
/// let context = Context {
///     name: ModuleName::parse("thumbnail")?,
///     event_id: EventId::parse("e1")?,
///     correlation_id: "c1".into(),
///     parent_event_id: String::new(),
/// };
/// let mut settings = Settings::new(context, Layout::new(base.path()));
/// settings.first = First::Yes;
/// let session = Session::open(settings, DataPlane::memory()).await?;
/// session.ready().await?;
/// std::fs::write(base.path().join("out/data/a.txt"), "hello")?;
/// let receipt = session.done().await?;
/// assert_eq!(receipt.files, 1);
/// assert_eq!(session.done().await?, receipt);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

/// The result of a call that others may have joined.
type Outcome<T> = Result<T, Arc<Error>>;

/// A call at work, which any number of callers wait for.
type Running<T> = Shared<BoxFuture<'static, Outcome<T>>>;

#[derive(Debug)]
struct Inner {
    execution: Arc<Execution>,
    /// Where it stands, for callers to change and to wait for.
    shared: watch::Sender<Progressing>,
    /// Whether somebody was answered how the execution ended.
    delivered: watch::Sender<bool>,
    /// How many callers of `done` wait for their answer.
    awaiting: AtomicUsize,
    /// When the module last gave a sign of life.
    heartbeat: Mutex<Instant>,
    /// The outcome, once it is known.
    decided: Mutex<Option<Box<Decided>>>,
    decisions: Decisions,
    timings: Mutex<(Timings, Option<Instant>)>,
}

/// A caller of `done` that waits for its answer.
struct Awaiting<'s>(&'s AtomicUsize);

impl<'s> Awaiting<'s> {
    fn new(count: &'s AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long the parts of an attempt took; zero where they did not end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// To stage the inputs.
    pub staging: Duration,
    /// From then on to the call of `done` that succeeded.
    pub module: Duration,
    /// To commit the outputs.
    pub commit: Duration,
}

/// What a journal tells of the execution that was last in its place.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// The execution.
    pub context: Context,
    /// Whether its outputs are whole, so that they can be committed without the module: it had called `done`, or they
    /// were left to others.
    pub is_committable: bool,
    /// Whether they are committed.
    pub is_committed: bool,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// The state, and the calls at work on it.
#[derive(Debug)]
struct Progressing {
    state: State,
    staging: Option<Running<Prepared>>,
    committing: Option<Running<Receipt>>,
    failing: Option<Running<()>>,
    /// Whether what only the sidecar can finish is about to be tried again.
    scheduled: bool,
    /// Since when an outcome is decided and not published.
    decided_since: Option<Instant>,
    /// Which process the module is, as it said when it last called `ready`.
    module_start: Option<String>,
    /// Why the inputs could not be staged, where no repeat helps.
    inputs_refused: Option<Arc<Error>>,
    /// Whether a process of the module has called `ready` that did not say who it is.
    anonymous: bool,
    /// Whether a sidecar before this one refused `done`: then another process may be there to fix the outputs.
    refused_before: bool,
    /// Whether the sidecar ends once the outcome was answered.
    ends: bool,
    /// Whether `done` was called by a process that never called `ready` here: what it wrote is of another execution.
    stray: bool,
    /// Whether it was said that outputs came after the commit.
    warned_of_late: bool,
    /// Whether it was warned of outputs that two processes of the module may have written.
    warned_of_mixture: bool,
}

/// How a decision can come out, for the metrics.
#[cfg_attr(not(feature = "server"), allow(dead_code))]
pub(crate) const DECISIONS: [&str; 3] = ["won", "lost", "abandoned"];

/// Whether an input was in the cache, for the metrics.
#[cfg_attr(not(feature = "server"), allow(dead_code))]
pub(crate) const CACHED: [&str; 2] = ["hit", "miss"];

/// What happened in a session, for the metrics.
#[cfg_attr(not(feature = "server"), allow(dead_code))]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// In the order of [`DECISIONS`].
    pub(crate) decisions: [u64; 3],
    /// In the order of [`CACHED`].
    pub(crate) cached: [u64; 2],
}

/// How decisions came out, for the metrics.
#[derive(Debug, Default)]
struct Decisions {
    won: AtomicU64,
    lost: AtomicU64,
    abandoned: AtomicU64,
}

/// What a commit works on.
enum Work {
    /// Outputs that are to be stored first.
    Outputs(Prepared),
    /// A proposal that the journal holds.
    Proposal(Box<ExecutionRecord>),
    /// An outcome, and the proposal of this session that was decided with it, if there was one.
    Decided(Box<Decided>),
}

/// An outcome that is to be published.
#[derive(Debug, Clone)]
struct Decided {
    own: Option<ExecutionRecord>,
    record: ExecutionRecord,
}

impl Session {
    /// Opens an execution: where it has an outcome, that is published; otherwise an attempt begins, or the one that
    /// the journal remembers goes on.
    ///
    /// Outputs of an earlier, unfinished execution in the same base directory are moved to `out/.previous`.
    ///
    /// # Errors
    /// [`Error::Busy`] when another sidecar or a module holds the directory, or when it holds the unfinished
    /// commit of another execution; [`Error::Io`] when a directory cannot be made or the journal not be read; and
    /// what the document store reports.
    pub async fn open(settings: Settings, plane: DataPlane) -> Result<Self> {
        open::check_places(&settings, &plane)?;
        Self::open_in(settings, plane).await
    }

    /// The same in places that were checked before.
    pub(crate) async fn open_in(settings: Settings, plane: DataPlane) -> Result<Self> {
        let Opened { execution, state, decided } = open::open(settings, plane).await?;
        let begin = state.is_at_work();
        let entry = execution.journal.entry();
        // Who has called `ready` before the sidecar ended is known only as far as it was written down.
        let anonymous = entry.module_start.is_none() && matches!(state, State::Rest(Rest::Ready { .. }));
        let shared = Progressing {
            state,
            staging: None,
            committing: None,
            failing: None,
            scheduled: false,
            decided_since: None,
            module_start: entry.module_start.clone(),
            anonymous,
            inputs_refused: None,
            refused_before: entry.complete && entry.module_start.is_some(),
            ends: false,
            stray: false,
            warned_of_late: false,
            warned_of_mixture: false,
        };
        let session = Self {
            inner: Arc::new(Inner {
                execution,
                shared: watch::Sender::new(shared),
                delivered: watch::Sender::new(false),
                awaiting: AtomicUsize::new(0),
                heartbeat: Mutex::new(Instant::now()),
                decided: Mutex::new(None),
                decisions: Decisions::default(),
                timings: Mutex::default(),
            }),
        };
        if begin {
            let own = session.inner.proposal();
            let work = match (decided, own) {
                (Some(record), own) => Work::Decided(Box::new(Decided { own, record: *record })),
                (None, Some(own)) => Work::Proposal(Box::new(own)),
                (None, None) => return Err(Error::Internal("a commit without a proposal".into())),
            };
            // Nobody waits for it yet; it runs on its own.
            session.inner.change(|shared| drop(session.inner.begin_commit(shared, work)));
        }
        Ok(session)
    }

    /// What the journal in the state directory remembers, if there is one.
    ///
    /// # Errors
    /// [`Error::Io`] when there is a journal that cannot be read.
    pub async fn remembered(settings: &Settings) -> Result<Option<Remembered>> {
        let (dir, journaling) = (settings.state_dir.clone(), settings.journal);
        blocking(move || match Dir::open(&dir) {
            Ok(dir) => {
                let remembered = |entry: journal::Entry| {
                    let is_committable = entry.is_committable();
                    let is_committed = matches!(entry.step, Step::Done { .. });
                    let failure = match entry.step {
                        Step::Failed { reason } => Some(reason),
                        _ => None,
                    };
                    Remembered { context: entry.context, is_committable, is_committed, failure }
                };
                Ok(journal::read(&dir, journaling)?.map(remembered))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("open", &dir)(error)),
        })
        .await
    }

    /// Around everything that this attempt does.
    #[cfg(feature = "process")]
    pub(crate) fn span(&self) -> tracing::Span {
        self.inner.execution.span.clone()
    }

    /// A span for the module at work.
    #[cfg(any(feature = "process", feature = "worker"))]
    pub(crate) fn module_span(&self) -> tracing::Span {
        step!(parent: &self.inner.execution.span, "module", exit_code = tracing::field::Empty)
    }

    /// The span that the module's own spans belong to, where there is one: that of this attempt if it is recorded,
    /// otherwise the one that came with the event.
    pub fn traceparent(&self) -> Option<TraceParent> {
        self.inner.execution.traceparent()
    }

    /// Says that somebody else starts the module, and that the outputs may be committed whenever that is asked for.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written down.
    pub async fn leave_to_others(&self) -> Result<()> {
        self.inner.execution.change(|entry| entry.complete = true).await
    }

    /// Stages the inputs, or answers again what it answered before.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] after [`fail`](Self::fail); otherwise what the providers and the disk report.
    /// After an error `in/` is empty and the call can be repeated.
    pub async fn ready(&self) -> Outcome<Prepared> {
        self.stage(None, false).await
    }

    /// The same for a module that says which process it is, by a text that is random for each.
    ///
    /// Another process than the one that called before began again: what the earlier one wrote is moved to
    /// `out/.previous`, unless its `done` was refused; then it may be fixing its outputs, and nothing moves. The same holds
    /// for the first process that says who it is, after calls that did not. Nothing moves for a call that does not.
    ///
    /// # Errors
    /// Those of [`ready`](Self::ready).
    pub async fn ready_for(&self, module_start: Option<&str>) -> Outcome<Prepared> {
        if self.is_another(module_start) {
            // What it wrote while the outputs of another one are committed would be cleared with them.
            self.idle().await;
        }
        self.stage(module_start, true).await
    }

    /// Stages the inputs, for a process of the module or for whoever runs it.
    async fn stage(&self, module_start: Option<&str>, is_the_module: bool) -> Outcome<Prepared> {
        let inner = &self.inner;
        loop {
            // Also after each wait: the outcome may have been answered meanwhile.
            if is_the_module && self.is_over_for(module_start) {
                return Err(Arc::new(Error::Finished));
            }
            let gone = inner.execution.slot.inputs_are_gone();
            let running = inner.change(|shared| {
                let again = is_the_module && inner.began_again(shared, module_start);
                if is_the_module && matches!(shared.state, State::Rest(Rest::New | Rest::Ready { .. })) {
                    // Of two processes only this one may commit from now on.
                    shared.anonymous |= module_start.is_none();
                    shared.module_start = module_start.map(str::to_owned).or(shared.module_start.take());
                }
                match shared.state.ready(gone || again) {
                    Move::Answer(prepared) => Ok(Some(std::future::ready(Ok(prepared)).boxed().shared())),
                    Move::Join => Ok(shared.staging.clone()),
                    Move::Begin => {
                        let known = shared.module_start.clone();
                        Ok(Some(inner.begin_staging(shared, known, again)))
                    }
                    Move::Wait => Ok(None),
                    Move::Refuse(hint) => Err(out_of_order("prepare", shared, hint)),
                }
            })?;
            match running {
                Some(running) => {
                    let staged = running.await;
                    if is_the_module && self.phase() == Phase::Ready {
                        // It may have joined a call of one that did not say who it is.
                        inner.change(|shared| {
                            if shared.module_start.is_none() {
                                shared.module_start = module_start.map(str::to_owned);
                            }
                        });
                        inner.execution.known_as(module_start).await.map_err(Arc::new)?;
                    }
                    return staged;
                }
                None => drop(self.idle().await),
            }
        }
    }

    /// Sets aside what the module has written since it was ready, and stages the inputs anew, for one that begins again
    /// without a word.
    #[cfg(all(feature = "worker", feature = "process"))]
    pub(crate) async fn begin_again(&self) -> Outcome<()> {
        let inner = &self.inner;
        let staging = inner.change(|shared| match &shared.state {
            State::Rest(Rest::Ready { .. }) => match shared.state.ready(true) {
                Move::Begin => Some(inner.begin_staging(shared, None, true)),
                _ => None,
            },
            _ => None,
        });
        match staging {
            Some(staging) => staging.await.map(drop),
            None => Ok(()),
        }
    }

    /// Takes over the outcome of an equal execution instead of running the module, where [`Settings::memoize`] says that
    /// it may, and there is one; says whether it did.
    ///
    /// Equal are executions of the same module in the same version, for events of the same type with the same values,
    /// and files with the same names, digests and execute bits. Whether the files are still there is looked at before the
    /// outcome is proposed, and the record names the execution that it was taken over from.
    ///
    /// # Errors
    /// What the stores report; then, and where there is none, `ready` can be called as ever.
    pub async fn reuse(&self, event_type: &str) -> Outcome<bool> {
        let inner = &self.inner;
        if !matches!(inner.shared.borrow().state, State::Rest(Rest::New)) {
            return Ok(false);
        }
        let proposed =
            inner.execution.propose_equal(event_type).instrument(inner.execution.span.clone()).await;
        let Some(record) = proposed.map_err(Arc::new)? else { return Ok(false) };
        let running = inner.change(|shared| inner.begin_commit(shared, Work::Proposal(Box::new(record))));
        running.await.map(|_| true)
    }

    /// The same for a process of the module that says who it is: one that another has taken the place of by calling
    /// [`ready_for`](Self::ready_for) commits nothing.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] for such a process; otherwise those of [`done`](Self::done).
    pub async fn done_for(&self, module_start: Option<&str>) -> Outcome<Receipt> {
        self.refuse_another("commit", module_start)?;
        // One that came after the outcome was there wrote nothing of it.
        let came_after = self.phase() == Phase::Done && self.is_another(module_start);
        let mut receipt = self.done().await?;
        let execution = &self.inner.execution;
        if came_after {
            let attempt = execution.attempt();
            receipt
                .committed_by
                .get_or_insert_with(|| format!("attempt {attempt}, by an earlier process of the module"));
        }
        if receipt.committed_by.is_some() && execution.slot.has_outputs() {
            match execution.on_disk(|this| this.slot.set_outputs_aside()).await {
                Ok(Some(path)) => {
                    warn!(path = %path.display(), "the outcome was there already: these outputs were set aside");
                }
                Ok(None) => {}
                Err(error) => warn!(error = error.chain(), "the outputs could not be set aside"),
            }
        }
        Ok(receipt)
    }

    /// Says that the sidecar ends once somebody was answered the outcome: whoever calls `ready` after that is another
    /// process, for another execution.
    #[cfg(feature = "process")]
    pub(crate) fn ends_with_its_outcome(&self) {
        self.inner.change(|shared| shared.ends = true);
    }

    /// Whether this process of the module comes for the next execution.
    fn is_over_for(&self, module_start: Option<&str>) -> bool {
        let shared = self.inner.shared.borrow();
        let is_known = module_start.is_some() && shared.module_start.as_deref() == module_start;
        shared.ends
            && matches!(shared.state, State::Rest(Rest::Done { .. }))
            && (*self.inner.delivered.borrow() || self.inner.awaiting.load(Ordering::Relaxed) > 0)
            && !is_known
    }

    /// Whether a process of the module is another one than the one that called `ready` last.
    fn is_another(&self, module_start: Option<&str>) -> bool {
        let shared = self.inner.shared.borrow();
        shared.module_start.as_deref().zip(module_start).is_some_and(|(known, this)| known != this)
    }

    /// Refuses the call of a process of the module in whose place another one works.
    pub(crate) fn refuse_another(&self, call: &'static str, module_start: Option<&str>) -> Outcome<()> {
        if !self.is_another(module_start) || self.phase() != Phase::Ready {
            return Ok(());
        }
        let hint = "another process of the module called ready last, and its outputs count (module-start stays the same for all \
                    calls of one process)";
        Err(Arc::new(Error::OutOfOrder { call, phase: Phase::Ready, hint: hint.into() }))
    }

    /// Says which process of the module is at work from now on.
    #[cfg(all(feature = "worker", feature = "process"))]
    pub(crate) fn given_to(&self, module_start: Option<&str>) {
        self.inner.change(|shared| {
            if let Some(start) = module_start {
                shared.module_start = Some(start.to_owned());
            }
        });
    }

    /// Commits the outputs, or answers again what it answered before.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] before `ready`, [`Error::Invalid`] when the outputs need fixing,
    /// [`Error::Abandoned`] when this run was closed without an outcome; otherwise what the providers and the disk
    /// report. After an error the call can be repeated.
    pub async fn done(&self) -> Outcome<Receipt> {
        let inner = &self.inner;
        let late = matches!(inner.shared.borrow().state, State::Rest(Rest::Done { .. }))
            && inner.execution.slot.has_outputs();
        let running = inner.change(|shared| match shared.state.done() {
            Move::Answer(receipt) => {
                if late && !std::mem::replace(&mut shared.warned_of_late, true) {
                    let when = if *inner.delivered.borrow() {
                        "again, with"
                    } else {
                        "when the outcome was there, with"
                    };
                    warn!("done was called {when} outputs written after the commit: they are not part of it");
                }
                Ok(std::future::ready(Ok(receipt)).boxed().shared())
            }
            Move::Join | Move::Wait => {
                shared.committing.clone().ok_or_else(|| internal("a commit nobody runs"))
            }
            Move::Begin => {
                let work = inner.work(&shared.state).ok_or_else(|| internal("a commit without outputs"))?;
                Ok(inner.begin_commit(shared, work))
            }
            Move::Refuse(hint) => {
                shared.stray |= matches!(shared.state, State::Rest(Rest::New));
                Err(out_of_order("commit", shared, hint))
            }
        })?;
        let awaiting = Awaiting::new(&inner.awaiting);
        let outcome = running.await;
        if outcome.is_ok() {
            inner.delivered.send_replace(true);
        }
        drop(awaiting);
        outcome
    }

    /// The same as [`fail`](Self::fail) for a module that says which process it is, as in
    /// [`ready_for`](Self::ready_for).
    ///
    /// # Errors
    /// Those of [`fail`](Self::fail), and [`Error::OutOfOrder`] when another process has called `ready` since.
    pub async fn fail_for(&self, module_start: Option<&str>, reason: impl Into<String>) -> Outcome<()> {
        self.refuse_another("fail", module_start)?;
        self.fail(reason).await
    }

    /// Ends the attempt without a commit, for this reason of the module; a running call is waited for.
    ///
    /// A [`Failure`](crate::Failure) is left in the document store. Where the outcome may have been decided already,
    /// the run is closed instead, unless it has been decided.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] when the outputs are committed already; where the decision is unknown, what the
    /// document store reports.
    pub async fn fail(&self, reason: impl Into<String>) -> Outcome<()> {
        let (inner, reason) = (&self.inner, Reason::module(reason.into()));
        loop {
            let running = inner.change(|shared| match shared.state.fail() {
                Move::Answer(()) => Ok(Some(std::future::ready(Ok(())).boxed().shared())),
                Move::Join => Ok(shared.failing.clone()),
                Move::Begin => Ok(Some(inner.begin_failing(shared, reason.clone()))),
                Move::Wait => Ok(None),
                Move::Refuse(hint) => Err(out_of_order("fail", shared, hint)),
            })?;
            match running {
                Some(running) => return running.await,
                None => drop(self.idle().await),
            }
        }
    }

    /// Leaves a [`Failure`](crate::Failure) for an error of `ready` or `done` that nobody will repeat by himself.
    ///
    /// The attempt does not end by it: whoever fixes the cause can still commit.
    pub async fn report(&self, error: &Error) {
        self.inner.execution.record_failure(self.phase(), &Reason::error(error)).await;
    }

    /// The same, unless whoever began the execution repeats the call when the store is back.
    #[cfg(any(feature = "process", feature = "worker"))]
    #[cfg_attr(not(feature = "process"), allow(dead_code))]
    pub(crate) async fn report_unless_repeated(&self, error: &Error) {
        if !self.inner.is_repeated(error) {
            self.report(error).await;
        }
    }

    /// Leaves a [`Failure`](crate::Failure) for an attempt that a signal has ended before `done`; its module may have
    /// crashed, or may never have called.
    ///
    /// The attempt does not end by it: the next start goes on with it.
    pub async fn report_stop(&self, signal: i32) {
        let reason = Reason {
            text: format!("ended by signal {signal} before the module called done"),
            culprit: Culprit::Sidecar,
            retryable: true,
        };
        self.inner.execution.record_failure(self.phase(), &reason).await;
    }

    /// The id of the document that a failure of this attempt is told by.
    pub fn failure_id(&self) -> FailureId {
        let execution = &self.inner.execution;
        ids::failure(&execution.context(), &execution.attempt())
    }

    /// Forgets in this directory what is decided, so that the next execution can use it: whoever opens this one again
    /// finds the outcome, and publishes it.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] unless it is decided and not published, [`Error::Io`] when it cannot be written down.
    #[cfg_attr(not(feature = "worker"), allow(dead_code))]
    pub(crate) async fn leave_decided(&self) -> Result<()> {
        if self.phase() != Phase::Publishing {
            let hint = "only what is decided is anybody's to publish".to_owned();
            return Err(Error::OutOfOrder { call: "leave", phase: self.phase(), hint });
        }
        self.inner.execution.change(|entry| entry.step = Step::New).await
    }

    /// Removes what lies in `in/` and `out/`, for an attempt that nobody goes on with.
    ///
    /// # Errors
    /// [`Error::Io`] when something cannot be removed.
    pub async fn discard(&self) -> Result<()> {
        self.inner
            .execution
            .on_disk(|this| {
                this.slot.clear_inputs()?;
                this.slot.clear_outputs()?;
                this.slot.empty_trash()
            })
            .await
    }

    /// How long its parts took.
    pub fn timings(&self) -> Timings {
        self.inner.timings.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Notes the exit code of a module that has ended before `done`.
    pub fn module_exited(&self, code: i32) {
        *self.inner.execution.exit.lock().unwrap_or_else(PoisonError::into_inner) = Some(code);
    }

    /// Whether nothing more fits on the disk of the module's directories.
    #[cfg_attr(not(feature = "process"), allow(dead_code))]
    pub(crate) async fn is_disk_full(&self) -> bool {
        /// Less than what a file and its directory take.
        const NOTHING: u64 = 64 * 1024;
        let base = self.layout().base().to_owned();
        let free = blocking(move || {
            let found =
                rustix::fs::statvfs(&base).map_err(|error| Error::io("look at", &base)(error.into()))?;
            // One that does not count its blocks is never full.
            Ok((found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize)))
        });
        free.await.is_ok_and(|free| free.is_some_and(|free| free < NOTHING))
    }

    /// Whether they are clones of one.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The directories that it shares with the module.
    pub fn layout(&self) -> &Layout {
        self.inner.execution.slot.layout()
    }

    /// Where the execution stands, and how far its transfer is.
    pub fn status(&self) -> Status {
        let shared = self.inner.shared.borrow();
        let [files, files_total, bytes, bytes_total] = self.inner.execution.progress.read();
        Status {
            phase: shared.state.phase(),
            context: self.inner.execution.context(),
            files,
            files_total,
            bytes,
            bytes_total,
            reason: shared.state.reason().map(str::to_owned),
        }
    }

    /// Whether the outcome is decided, or may be, and not published yet; then the module can do nothing more.
    pub fn is_publishing(&self) -> bool {
        self.inner.shared.borrow().state.is_beyond_the_module()
    }

    /// Waits until a call of [`done`](Self::done) has failed since a store is away.
    #[cfg_attr(not(feature = "worker"), allow(dead_code))]
    pub(crate) async fn store_is_away(&self) -> Arc<Error> {
        let away = |shared: &Progressing| {
            shared.state.last_error().filter(|error| matches!(***error, Error::Unavailable { .. })).cloned()
        };
        let mut shared = self.inner.shared.subscribe();
        loop {
            if let Some(error) = away(&shared.borrow_and_update()) {
                return error;
            }
            // The sender lives as long as this session.
            let _ = shared.changed().await;
        }
    }

    /// Waits until a call of [`done`](Self::done) has succeeded since, or failed for another reason.
    #[cfg_attr(not(feature = "worker"), allow(dead_code))]
    pub(crate) async fn store_is_back(&self) {
        let is_back = |shared: &Progressing| {
            let is_away = |error: &Arc<Error>| matches!(**error, Error::Unavailable { .. });
            !shared.state.is_at_work() && !shared.state.last_error().is_some_and(is_away)
        };
        // The sender lives as long as this session.
        let _ = self.inner.shared.subscribe().wait_for(is_back).await;
    }

    /// Why the inputs could not be staged, where that cannot change, and nothing was staged since.
    #[cfg_attr(not(feature = "process"), allow(dead_code))]
    pub(crate) fn inputs_refused(&self) -> Option<Arc<Error>> {
        self.inner.shared.borrow().inputs_refused.clone()
    }

    /// Why the last call of [`done`](Self::done) failed, unless another has succeeded since.
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.inner.shared.borrow().state.last_error().cloned()
    }

    /// Where the execution stands.
    pub fn phase(&self) -> Phase {
        self.inner.shared.borrow().state.phase()
    }

    /// A lock for whoever starts the module: to be inherited by it, so that it is held by the module and all that
    /// it starts. As long as any of them lives, no other module is begun in this directory: see [`Session::open`].
    ///
    /// A process that closes inherited descriptors is not detected, nor is a module that removed the state
    /// directory.
    ///
    /// # Errors
    /// [`Error::Busy`] when such a module is at work, [`Error::Io`] when the lock cannot be made.
    pub async fn lock_module(&self) -> Result<File> {
        self.inner
            .execution
            .on_disk(|execution| {
                let lock = execution.slot.lock_module()?;
                if execution.journal.entry().step == Step::New {
                    // It may have begun: what it wrote is set aside by whoever starts after it.
                    execution.journal.advance(Step::New)?;
                }
                Ok(lock)
            })
            .await
    }

    /// Whether somebody holds that lock: the module, or what it has left running.
    #[cfg(feature = "process")]
    pub(crate) async fn module_is_at_work(&self) -> bool {
        let look = |execution: &Execution| Ok(execution.slot.refuse_beside_a_module().is_err());
        // What cannot be looked at is found out by the next start.
        self.inner.execution.on_disk(look).await.unwrap_or(false)
    }

    /// Gives that lock up once the module has ended, whatever it left running.
    pub async fn forget_module(&self) {
        let forget = |execution: &Execution| {
            execution.slot.forget_module();
            Ok(())
        };
        // It cannot fail.
        let _ = self.inner.execution.on_disk(forget).await;
    }

    /// Waits until the execution has ended, and says how: [`Phase::Done`] or [`Phase::Failed`].
    pub async fn ended(&self) -> Phase {
        self.wait_for(|shared| matches!(shared.state, State::Rest(Rest::Done { .. }) | State::Failed(_)))
            .await
    }

    /// Removes the outputs that a commit cleared; leftovers are removed at the next start.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be removed.
    pub async fn empty_trash(&self) -> Result<()> {
        self.inner.execution.on_disk(|execution| execution.slot.empty_trash()).await
    }

    /// Waits until a caller of this process has its answer on how the execution ended.
    ///
    /// A restarted sidecar may finish a commit that nobody has asked it for yet.
    pub async fn result_delivered(&self) {
        // The sender lives as long as this session.
        let _ = self.inner.delivered.subscribe().wait_for(|delivered| *delivered).await;
    }

    /// Notes that the module is alive; the router does so for each of its calls.
    pub fn heartbeat(&self) {
        self.inner.beat();
    }

    /// Waits until the module has been silent for `lease` while the sidecar waited for its next call.
    pub async fn lease_expired(&self, lease: Duration) {
        self.silent_for(lease, false).await;
    }

    /// The same for a module whose process is waited for: with its last call it has not ended yet.
    #[cfg(feature = "process")]
    pub(crate) async fn process_silent_for(&self, lease: Duration) {
        self.silent_for(lease, true).await;
    }

    async fn silent_for(&self, lease: Duration, also_after: bool) {
        loop {
            self.idle().await;
            let silence = self.inner.heartbeat.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
            let its_turn = match self.inner.shared.borrow().state {
                State::Rest(Rest::New | Rest::Ready { .. }) | State::Deciding(_, Turn::Waiting(_)) => true,
                State::Rest(Rest::Done { .. }) | State::Failed(_) => also_after,
                _ => false,
            };
            if silence >= lease && its_turn {
                return;
            }
            tokio::time::sleep(lease.saturating_sub(silence).max(lease / 10)).await;
        }
    }

    /// One-line durability summary for the shutdown log.
    pub fn saved(&self) -> String {
        let [files, all, ..] = self.inner.execution.progress.read();
        match &self.inner.shared.borrow().state {
            State::Rest(Rest::Done { receipt, .. }) | State::Staging(Rest::Done { receipt, .. }) => {
                let Receipt { files, events, .. } = receipt;
                format!("everything is committed: {}, {}", counted(*files, "file"), counted(events.len(), "event"))
            }
            State::Publishing(..) => {
                "the outcome is decided and everything it names is saved; of its events any number may be \
                 published; the next start, or sidecar recover on any machine, finishes it"
                    .to_owned()
            }
            State::Deciding(..) => {
                "everything is saved, and the document store has not answered whether it is the outcome; the next \
                 start finds out"
                    .to_owned()
            }
            State::Committing(_) => format!(
                "{files} of {all} files were sent and no event is published; the next done sends what is missing"
            ),
            State::Rest(Rest::Ready { .. }) => match &self.inner.execution.journal.entry().step {
                Step::Committing { files, .. } => format!(
                    "{} saved and no event published; the next done sends only what is missing",
                    counted(files.len(), "file")
                ),
                // The next event takes the slot of a worker.
                _ if self.inner.execution.spec.journal == Journaling::Unsynced => "nothing is committed".to_owned(),
                _ => "nothing is committed; the outputs are left where they are".to_owned(),
            },
            State::Failing { .. } | State::Failed(_) => "the execution failed; nothing was published".to_owned(),
            State::Rest(Rest::New) | State::Staging(_) => "the module has not begun; nothing is lost".to_owned(),
        }
    }

    /// Waits until no call is at work, and says where the execution stands.
    pub async fn idle(&self) -> Phase {
        self.wait_for(|shared| !shared.state.is_at_work()).await
    }

    /// What this session adds to the counters of its process.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) fn counts(&self) -> Counts {
        let Decisions { won, lost, abandoned } = &self.inner.decisions;
        Counts {
            decisions: [won, lost, abandoned].map(|count| count.load(Ordering::Relaxed)),
            cached: self.inner.execution.progress.read_cached(),
        }
    }

    /// How long an outcome of this session has been decided and not published.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) fn unpublished_for(&self) -> Duration {
        self.inner.shared.borrow().decided_since.map(|since| since.elapsed()).unwrap_or_default()
    }

    async fn wait_for(&self, wanted: impl FnMut(&Progressing) -> bool) -> Phase {
        let mut shared = self.inner.shared.subscribe();
        match shared.wait_for(wanted).await {
            Ok(shared) => shared.state.phase(),
            // The sender lives as long as this session.
            Err(_) => self.phase(),
        }
    }
}

impl Inner {
    /// Looks at the state and changes it, with nobody else doing so meanwhile.
    fn change<T>(&self, change: impl FnOnce(&mut Progressing) -> T) -> T {
        let (mut result, mut change) = (None, Some(change));
        self.shared.send_modify(|shared| result = change.take().map(|change| change(shared)));
        match result {
            Some(result) => result,
            None => unreachable!("send_modify calls its closure"),
        }
    }

    /// Enters a state; while the sidecar was at work, it was not the module's turn.
    fn enter(&self, state: State) {
        self.beat();
        self.change(|shared| shared.state = state);
    }

    /// Whether the call that failed so is repeated by whoever began the execution, as a worker does.
    fn is_repeated(&self, error: &Error) -> bool {
        self.execution.spec.journal == Journaling::Unsynced && error.is_retryable()
    }

    fn beat(&self) {
        *self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn spawn<T: Clone + Send + Sync + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = Outcome<T>> + Send + 'static,
    ) -> Running<T> {
        joined(spawn(work.instrument(self.execution.span.clone())))
    }

    /// Whether `ready` is called by another process of the module than before, whose outputs must not be committed
    /// with those of this one.
    fn began_again(&self, shared: &mut Progressing, module_start: Option<&str>) -> bool {
        if matches!(shared.state, State::Rest(Rest::New)) && std::mem::take(&mut shared.stray) {
            return true;
        }
        let State::Rest(Rest::Ready { last_error, .. }) = &shared.state else { return false };
        let refused = last_error.is_some() || shared.refused_before;
        let known = shared.module_start.as_deref();
        let mixture = match (module_start, known) {
            (Some(now), Some(before)) if now == before => return false,
            (Some(_), Some(_)) if !refused => return true,
            (Some(_), Some(_)) => "another process of the module called ready after done was refused",
            // The one that did not say who it is has begun, or only looked whether somebody answers.
            (Some(_), None) if shared.anonymous && !refused => {
                shared.anonymous = false;
                return true;
            }
            (Some(_), None) => return false,
            (None, _) => "ready was called again without the header module-start",
        };
        if !std::mem::replace(&mut shared.warned_of_mixture, true) {
            warn!(
                "{mixture}: if the module began again, what it wrote before is committed with what it writes now"
            );
        }
        false
    }

    /// Stages the inputs for a process of the module; `again` moves the outputs of an earlier one out of its way.
    fn begin_staging(
        self: &Arc<Self>,
        shared: &mut Progressing,
        module_start: Option<String>,
        again: bool,
    ) -> Running<Prepared> {
        let inner = self.clone();
        let running = self.spawn(async move {
            debug!("staging the inputs");
            let (started, [before, _]) = (Instant::now(), inner.execution.progress.read_cached());
            let staging = inner.execution.stage_for(module_start, again).instrument(step!("ready"));
            let staged = caught(staging).await.map_err(Arc::new);
            match &staged {
                Ok(prepared) => {
                    let moved = transferred(prepared.files, prepared.bytes, started.elapsed());
                    match inner.execution.progress.read_cached()[0] - before {
                        0 => info!("ready: {moved}"),
                        cached => info!("ready: {moved}; from the cache: {cached}"),
                    }
                    let (timings, ready) = &mut *inner.timings.lock().unwrap_or_else(PoisonError::into_inner);
                    (timings.staging, *ready) = (started.elapsed(), Some(Instant::now()));
                }
                // Whoever asks again gets it when it is there.
                Err(failed) if failed.is_retryable() => {
                    let event = inner.execution.context().event_id;
                    // It is looked for again and again, by the module or by the sidecar.
                    let patience = inner.execution.spec.patience;
                    let is_missing = inner.execution.inputs().missing_since.is_some() && !patience.is_zero();
                    if is_missing && !std::mem::replace(&mut inner.execution.inputs().told_missing, true) {
                        warn!("event {event} has no context yet: waiting up to {patience:?}; check its id");
                    }
                    debug!("the inputs cannot be staged yet: {}", failed.chain());
                }
                Err(failed) => error!("the inputs could not be staged: {}", failed.chain()),
            }
            inner.beat();
            inner.change(|shared| {
                shared.staging = None;
                shared.inputs_refused = staged.as_ref().err().filter(|error| !error.is_retryable()).cloned();
                shared.state.staged(staged.as_ref().ok());
            });
            staged
        });
        shared.staging = Some(running.clone());
        if let State::Rest(rest) = &shared.state {
            shared.state = State::Staging(rest.clone());
        }
        running
    }

    /// What `done` works on in this state.
    fn work(&self, state: &State) -> Option<Work> {
        match state {
            State::Rest(Rest::Ready { prepared, .. }) => Some(Work::Outputs(prepared.clone())),
            State::Publishing(..) => {
                self.decided.lock().unwrap_or_else(PoisonError::into_inner).clone().map(Work::Decided)
            }
            _ => self.proposal().map(|own| Work::Proposal(Box::new(own))),
        }
    }

    /// The proposal that the journal holds.
    fn proposal(&self) -> Option<ExecutionRecord> {
        match &self.execution.journal.entry().step {
            Step::Deciding { record, .. } => Some((**record).clone()),
            _ => None,
        }
    }

    fn begin_commit(self: &Arc<Self>, shared: &mut Progressing, work: Work) -> Running<Receipt> {
        let inner = self.clone();
        shared.state = match &work {
            Work::Outputs(prepared) => State::Committing(prepared.clone()),
            Work::Proposal(_) => State::Deciding(shared.state.prepared().cloned(), Turn::AtWork),
            Work::Decided(_) => State::Publishing(shared.state.prepared().cloned(), Turn::AtWork),
        };
        let running = self.spawn(async move {
            let started = Instant::now();
            let worked = match &work {
                Work::Outputs(_) => {
                    let (_, ready) = *inner.timings.lock().unwrap_or_else(PoisonError::into_inner);
                    ready.map(|ready| started.saturating_duration_since(ready))
                }
                _ => None,
            };
            // Found when the session was opened: whoever decided it has told of it.
            let found = matches!(&work, Work::Decided(decided) if decided.own.is_none());
            let committing = inner.commit(work).instrument(step!("done"));
            let committed = caught(committing).await.map_err(Arc::new);
            if let (Ok(_), Some(worked)) = (&committed, worked) {
                let (timings, _) = &mut *inner.timings.lock().unwrap_or_else(PoisonError::into_inner);
                (timings.module, timings.commit) = (worked, started.elapsed());
            }
            inner.committed(&committed, started.elapsed(), found);
            // The module is done, and whoever repeats the commit need not be it; unless the module took the directory away.
            let can_be_repeated =
                matches!(&committed, Err(error) if !matches!(**error, Error::OutOfOrder { .. }));
            if can_be_repeated && !inner.execution.journal.entry().is_committable() {
                let noted = inner.execution.change(|entry| entry.complete = true).await;
                noted.unwrap_or_else(|error| debug!("{}", error.chain()));
            }
            committed
        });
        shared.committing = Some(running.clone());
        running
    }

    /// Brings the execution to its outcome: the state follows each step.
    async fn commit(self: &Arc<Self>, work: Work) -> Result<Receipt> {
        let execution = &self.execution;
        let prepared = self.shared.borrow().state.prepared().cloned();
        let (own, held) = match work {
            Work::Outputs(prepared) => {
                debug!("committing the outputs");
                let (record, contents) = execution.propose(prepared.clone()).await?;
                self.enter(State::Deciding(Some(prepared), Turn::AtWork));
                (record, Some(contents))
            }
            Work::Proposal(record) => (*record, None),
            Work::Decided(decided) => return self.publish(*decided, None, prepared).await,
        };
        match execution.decide(&own).await? {
            Decision::Won(record) => {
                self.decisions.won.fetch_add(1, Ordering::Relaxed);
                self.publish(Decided { own: Some(own), record: *record }, held, prepared).await
            }
            Decision::Lost(record) => {
                self.decisions.lost.fetch_add(1, Ordering::Relaxed);
                warn!("{} was first: its outcome counts", record.decided_by());
                self.publish(Decided { own: Some(own), record: *record }, None, prepared).await
            }
            Decision::Abandoned { run } => {
                self.decisions.abandoned.fetch_add(1, Ordering::Relaxed);
                let step = prepared.clone().map_or(Step::New, |prepared| Step::Ready { prepared });
                execution.change(move |entry| (entry.step, entry.run) = (step, run)).await?;
                Err(Error::Abandoned { run: own.run })
            }
        }
    }

    async fn publish(
        self: &Arc<Self>,
        decided: Decided,
        held: Option<Contents>,
        prepared: Option<Prepared>,
    ) -> Result<Receipt> {
        *self.decided.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(decided.clone()));
        let Decided { own, record } = decided;
        self.beat();
        self.change(|shared| {
            shared.state = State::Publishing(prepared, Turn::AtWork);
            shared.decided_since.get_or_insert_with(Instant::now);
        });
        let Some(committed) = record.committed() else {
            return Err(Error::Internal("an outcome without outputs".into()));
        };
        let contents = roll_forward(&self.execution.plane, &record, committed, held).await?;
        if own.as_ref().is_some_and(|own| own.attempt == record.attempt) {
            self.execution.remember(&record).await;
        }
        let receipt = committed.receipt(&contents);
        self.execution.settle(own.as_ref(), &record, receipt).await
    }

    /// What follows from the end of a commit.
    fn committed(self: &Arc<Self>, committed: &Outcome<Receipt>, took: Duration, found: bool) {
        self.beat();
        match committed {
            Ok(Receipt { files, events, .. }) if found => {
                debug!("committed before: {files} files, {} events", events.len());
            }
            Ok(receipt) => {
                let Receipt { files, bytes, events, .. } = receipt;
                info!("done: {}, events: {}", transferred(*files, *bytes, took), events.len());
                let had_inputs = self.shared.borrow().state.prepared().is_some_and(|staged| staged.files > 0);
                if had_inputs && receipt.is_empty() {
                    let out = self.execution.spec.layout.base().join("out");
                    warn!(
                        "the outcome is empty: the module had inputs and left no file, no event and no insight in {}",
                        out.display()
                    );
                }
                if receipt.committed_by.is_some() {
                    // Whoever was first has told of them.
                    return self.after(committed);
                }
                for event in events.iter().take(EVENTS_LOGGED) {
                    info!(
                        "published {} as event {} of type {:?}",
                        event.file, event.event_id, event.event_type
                    );
                }
                if let more @ 1.. = events.len().saturating_sub(EVENTS_LOGGED) {
                    info!("and {more} more");
                }
            }
            Err(failed) => match &**failed {
                Error::Invalid(problems) => problems.iter().for_each(|problem| error!("{problem}")),
                failed if matches!(self.shared.borrow().state, State::Publishing(..)) => {
                    error!("the outputs are committed, but not all events are published: {}", failed.chain());
                }
                failed if self.is_repeated(failed) => {
                    warn!("the outputs cannot be committed yet: {}", failed.chain());
                }
                failed => error!("the outputs could not be committed: {}", failed.chain()),
            },
        }
        self.after(committed);
    }

    /// The state after a commit.
    fn after(self: &Arc<Self>, committed: &Outcome<Receipt>) {
        self.change(|shared| {
            shared.committing = None;
            let prepared = shared.state.prepared().cloned();
            match (committed, &shared.state) {
                (Ok(receipt), _) => {
                    shared.decided_since = None;
                    let receipt = receipt.clone();
                    shared.state = State::Rest(Rest::Done { receipt, prepared });
                }
                (Err(error), State::Committing(prepared)) => {
                    let (prepared, last_error) = (prepared.clone(), Some(error.clone()));
                    shared.state = State::Rest(Rest::Ready { prepared, staged: true, last_error });
                }
                (Err(error), State::Deciding(..)) if matches!(**error, Error::Abandoned { .. }) => {
                    let last_error = Some(error.clone());
                    shared.state = State::Rest(match prepared {
                        Some(prepared) => Rest::Ready { prepared, staged: true, last_error },
                        None => Rest::New,
                    });
                }
                (Err(error), State::Deciding(..)) => {
                    shared.state = State::Deciding(prepared, Turn::Waiting(error.clone()));
                    self.schedule(shared);
                }
                (Err(error), State::Publishing(..)) => {
                    shared.state = State::Publishing(prepared, Turn::Waiting(error.clone()));
                    self.schedule(shared);
                }
                // A commit leaves no other state behind.
                (Err(_), _) => {}
            }
        });
    }

    /// Tries later, without being asked, what only the sidecar can finish.
    fn schedule(self: &Arc<Self>, shared: &mut Progressing) {
        if !std::mem::replace(&mut shared.scheduled, true) {
            tokio::spawn(finish_later(Arc::downgrade(self)).instrument(self.execution.span.clone()));
        }
    }

    fn begin_failing(self: &Arc<Self>, shared: &mut Progressing, reason: Reason) -> Running<()> {
        let (inner, before) = (self.clone(), shared.state.clone());
        let during = before.phase();
        shared.state = State::Failing { during, reason: reason.text.clone() };
        let running = self.spawn(async move {
            let ended = caught(inner.end(&before, during, &reason)).await;
            if let Ok(None) = &ended {
                telemetry::failed(&inner.execution.span, &reason.text);
            }
            let ended = ended.map_err(Arc::new);
            inner.change(|shared| {
                shared.failing = None;
                shared.state = match &ended {
                    Ok(None) => State::Failed(reason.text),
                    Ok(Some(_)) | Err(_) => before,
                };
                // What may be decided is finished without being asked again.
                if shared.state.is_beyond_the_module() {
                    inner.schedule(shared);
                }
            });
            match ended {
                Ok(None) => {
                    inner.delivered.send_replace(true);
                    Ok(())
                }
                Ok(Some(hint)) => {
                    Err(Arc::new(Error::OutOfOrder { call: "fail", phase: Phase::Publishing, hint }))
                }
                Err(error) => Err(error),
            }
        });
        shared.failing = Some(running.clone());
        running
    }

    /// Ends the attempt; says why it cannot, where the outcome is decided.
    async fn end(self: &Arc<Self>, before: &State, during: Phase, reason: &Reason) -> Result<Option<String>> {
        let execution = &self.execution;
        if let (State::Deciding(..), Some(record)) = (before, self.proposal()) {
            let stored = abandon(&execution.plane, &record.context, record.run, &record.attempt).await?;
            if stored.committed().is_some() {
                return Ok(Some("the outcome is decided, and is published as soon as it can be".into()));
            }
            self.decisions.abandoned.fetch_add(1, Ordering::Relaxed);
        }
        error!("the execution failed: {}", reason.text);
        execution.advance(Step::Failed { reason: reason.text.clone() }).await?;
        if let Err(panic) = caught(execution.record_failure(during, reason).map(Ok)).await {
            error!(error = panic.chain(), "the failure could not be recorded");
        }
        Ok(None)
    }
}

fn out_of_order(call: &'static str, shared: &Progressing, hint: String) -> Arc<Error> {
    let phase = match shared.state {
        State::Failing { .. } => Phase::Failed,
        _ => shared.state.phase(),
    };
    Arc::new(Error::OutOfOrder { call, phase, hint })
}

fn internal(what: &str) -> Arc<Error> {
    Arc::new(Error::Internal(what.to_owned()))
}

/// The most events that are logged one by one.
const EVENTS_LOGGED: usize = 10;

/// How long what only the sidecar can finish waits before it is tried again without being asked.
const FINISH_AFTER: Duration = Duration::from_secs(5);

async fn finish_later(inner: Weak<Inner>) {
    tokio::time::sleep(FINISH_AFTER).await;
    let Some(inner) = inner.upgrade() else { return };
    let running = inner.change(|shared| {
        shared.scheduled = false;
        match (&shared.state, &shared.committing) {
            (State::Deciding(_, Turn::Waiting(_)) | State::Publishing(_, Turn::Waiting(_)), None) => {
                let work = inner.work(&shared.state)?;
                Some(inner.begin_commit(shared, work))
            }
            _ => None,
        }
    });
    if let Some(running) = running {
        // It logs what comes of it, and schedules the next attempt if it fails.
        let _ = running.await;
    }
}

/// The outcome of a call, a panic in a provider included: it must not leave the state as it was.
async fn caught<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let panicked = |panic: Box<dyn std::any::Any + Send>| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(Error::Internal(text.unwrap_or_else(|| "a panic".into())))
    };
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(panicked)
}

/// A task that any number of callers wait for, and that goes on when none does.
fn joined<T: Clone + Send + Sync + 'static>(task: tokio::task::JoinHandle<Outcome<T>>) -> Running<T> {
    async move {
        match task.await {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down: nobody is left to take an answer.
                Err(_) => std::future::pending().await,
            },
        }
    }
    .boxed()
    .shared()
}

/// How much was moved, how long that took, and how fast it was.
fn transferred(files: u64, bytes: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    match bytes as f64 / seconds.max(0.001) {
        rate if bytes > 0 => {
            format!("files: {files} ({}), {seconds:.3} s, {}/s", size(bytes as f64), size(rate))
        }
        _ => format!("files: {files}, {seconds:.3} s"),
    }
}

/// Bytes for people, in powers of 1024.
fn size(bytes: f64) -> String {
    let (mut amount, mut units) = (bytes, ["B", "KiB", "MiB", "GiB", "TiB"].iter());
    while amount >= 1024.0 && units.len() > 1 {
        amount /= 1024.0;
        units.next();
    }
    let digits = usize::from(bytes >= 1024.0);
    format!("{amount:.digits$} {}", units.next().copied().unwrap_or_default())
}
