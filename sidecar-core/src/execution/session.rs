//! One execution as a state machine: `New → Preparing → Ready → Committing → Done`, and `Failed`.
//!
//! A call that does work runs as a task of its own, so that a dropped connection does not cancel it and a
//! repeat joins it.

use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::data_plane::DataPlane;
use super::failure::Reason;
use super::journal::{Journal, Step};
use super::spec::Settings;
use super::transfer::Progress;
use super::{commit, directories, failure, stage};
use crate::blocking;
use crate::contract::{Context, Layout, Phase, Prepared, Receipt, Status};
use crate::error::{Error, Result};

/// One execution of one module for one event; clones share it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sidecar_core::{Context, DataPlane, EventId, Layout, ModuleName, Session, Settings};
///
/// let base = tempfile::tempdir()?;
/// let context = Context {
///     name: ModuleName::parse("thumbnail")?,
///     event_id: EventId::parse("e1")?,
///     correlation_id: "c1".into(),
///     parent_event_id: String::new(),
/// };
/// let session = Session::open(Settings::new(context, Layout::new(base.path())), DataPlane::memory()).await?;
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

#[derive(Debug)]
struct Inner {
    settings: Settings,
    plane: DataPlane,
    progress: Progress,
    journal: Arc<Mutex<Journal>>,
    state: Mutex<State>,
    phase: watch::Sender<Phase>,
    /// Whether somebody was told how the execution ended.
    told: watch::Sender<bool>,
    /// When the module was last heard.
    heard: Mutex<Instant>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Whether this process staged the inputs itself; a restarted sidecar stages them again when asked.
    staged: bool,
    prepared: Option<Prepared>,
    receipt: Option<Receipt>,
    reason: Option<String>,
    /// Why the last commit was refused.
    refusal: Option<Arc<Error>>,
    /// Whether events may have been seen, so that only finishing is left.
    publishing: bool,
    preparing: Option<Shared<BoxFuture<'static, Outcome<Prepared>>>>,
    committing: Option<Shared<BoxFuture<'static, Outcome<Receipt>>>>,
    failing: Option<Shared<BoxFuture<'static, Outcome<()>>>>,
    /// Whether a commit that has begun to publish is about to be tried again.
    finish_scheduled: bool,
}

impl Session {
    /// Opens an execution: a new one, or the one that the journal remembers.
    ///
    /// A commit that had begun to publish when the sidecar was killed goes on at once.
    /// Outputs of an earlier, unfinished execution in the same base directory are moved to `out/.previous`.
    ///
    /// # Errors
    /// [`Error::Busy`] when another sidecar or a module holds the directory, or when it holds the unfinished
    /// commit of another execution; [`Error::Io`] when a directory cannot be made or the journal not be read.
    pub async fn open(settings: Settings, plane: DataPlane) -> Result<Self> {
        let (opened, place) = (settings.clone(), plane.to_string());
        let (journal, aside) = blocking(move || {
            let (mut journal, earlier) = Journal::open(&opened, place)?;
            let mut aside = None;
            if let Some(earlier) = earlier {
                if earlier.worked {
                    aside =
                        directories::set_outputs_aside(&opened.layout)?.map(|path| (earlier.context, path));
                }
                // From here on the outputs are this execution's, also for whoever starts next.
                journal.advance(Step::New)?;
            }
            if let Err(error) = directories::remove(&opened.trash()) {
                warn!(error = error.chain(), "cleared outputs could not be removed");
            }
            directories::make(&opened.layout)?;
            Ok((journal, aside))
        })
        .await?;
        if let Some((context, path)) = aside {
            let (event, module) = (&context.event_id, &context.name);
            warn!(%event, %module, path = %path.display(), "outputs of an earlier execution were set aside");
        }
        let state = State::of(journal.step());
        if state.phase != Phase::New {
            info!(phase = %state.phase, "resuming");
        }
        let session = Self {
            inner: Arc::new(Inner {
                phase: watch::Sender::new(state.phase),
                told: watch::Sender::new(false),
                heard: Mutex::new(Instant::now()),
                state: Mutex::new(state),
                journal: Arc::new(Mutex::new(journal)),
                progress: Progress::default(),
                settings,
                plane,
            }),
        };
        if session.phase() == Phase::Committing {
            let mut state = session.inner.state();
            // Nobody waits for it yet; it runs on its own.
            drop(session.start_commit(&mut state));
        }
        Ok(session)
    }

    /// The execution that the journal in this state directory remembers, if there is one.
    ///
    /// # Errors
    /// [`Error::Io`] when there is a journal that cannot be read.
    pub async fn context_in(state_dir: impl Into<PathBuf>) -> Result<Option<Context>> {
        let dir = state_dir.into();
        blocking(move || Journal::context_in(&dir)).await
    }

    /// Stages the inputs, or answers again what it answered before.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] after [`fail`](Self::fail); otherwise what the providers and the disk report.
    /// After an error `in/` is empty and the call can be repeated.
    pub async fn ready(&self) -> Outcome<Prepared> {
        let running = {
            let mut state = self.inner.state();
            match (state.phase, &state.preparing, &state.prepared) {
                _ if state.failing.is_some() => return Err(state.out_of_order("prepare")),
                (Phase::Failed, ..) => return Err(state.out_of_order("prepare")),
                (_, Some(running), _) => running.clone(),
                // A module that starts again meets the commit of its predecessor.
                (Phase::Committing, ..) if self.inner.inputs_are_gone() => {
                    return Err(state.out_of_order("prepare"));
                }
                (Phase::Ready, ..) if state.publishing && self.inner.inputs_are_gone() => {
                    return Err(state.out_of_order("prepare"));
                }
                (Phase::New, ..) => self.start_prepare(&mut state),
                (Phase::Ready, ..) if !state.staged => self.start_prepare(&mut state),
                (Phase::Ready | Phase::Done, ..) if self.inner.inputs_are_gone() => {
                    self.start_prepare(&mut state)
                }
                (_, None, Some(prepared)) => return Ok(prepared.clone()),
                (_, None, None) => return Err(state.out_of_order("prepare")),
            }
        };
        running.await
    }

    /// Commits the outputs, or answers again what it answered before.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] before `ready`, [`Error::Invalid`] when the outputs need mending; otherwise what
    /// the providers and the disk report. After an error the call can be repeated.
    pub async fn done(&self) -> Outcome<Receipt> {
        let running = {
            let mut state = self.inner.state();
            match (state.phase, &state.committing, &state.receipt) {
                _ if state.failing.is_some() => return Err(state.out_of_order("commit")),
                // The inputs may be staged once more.
                (Phase::Done | Phase::Preparing, _, Some(receipt)) => {
                    self.inner.told.send_replace(true);
                    return Ok(receipt.clone());
                }
                (_, Some(running), _) => running.clone(),
                (Phase::Ready, ..) => self.start_commit(&mut state),
                _ => return Err(state.out_of_order("commit")),
            }
        };
        let outcome = running.await;
        if outcome.is_ok() {
            self.inner.told.send_replace(true);
        }
        outcome
    }

    /// Finishes a commit that has begun to publish, without anybody having asked.
    async fn finish(&self) {
        let running = {
            let mut state = self.inner.state();
            state.finish_scheduled = false;
            match (state.phase, &state.committing) {
                (_, Some(running)) => running.clone(),
                (Phase::Ready, None) if state.publishing => self.start_commit(&mut state),
                _ => return,
            }
        };
        // It reports itself, and schedules the next attempt if it fails.
        let _ = running.await;
    }

    /// Ends the execution without a commit, for this reason of the module; a running call is waited for.
    ///
    /// A [`Failure`](crate::Failure) is left in the document store.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] when the outputs are committed already.
    pub async fn fail(&self, reason: impl Into<String>) -> Outcome<()> {
        self.end(Reason::module(reason.into())).await
    }

    /// Leaves a [`Failure`](crate::Failure) for an error of `ready` or `done` that nobody will repeat by himself.
    ///
    /// The execution does not end by it: whoever mends the cause can still commit.
    pub async fn report(&self, error: &Error) {
        let Inner { settings, plane, .. } = &*self.inner;
        failure::record(settings, plane, self.phase(), &Reason::error(error)).await;
    }

    async fn end(&self, reason: Reason) -> Outcome<()> {
        loop {
            let running = {
                let mut state = self.inner.state();
                match state.phase {
                    _ if state.failing.is_some() => state.failing.clone(),
                    Phase::Failed => return Ok(()),
                    Phase::Done => return Err(state.out_of_order("fail")),
                    _ if state.publishing => return Err(state.out_of_order("fail")),
                    Phase::New | Phase::Ready => {
                        // The journal is small and local: writing it under the lock keeps other calls out.
                        let failed = Step::Failed { reason: reason.text.clone() };
                        self.inner.journal().advance(failed).map_err(Arc::new)?;
                        Some(self.start_fail(&mut state, reason.clone()))
                    }
                    Phase::Preparing | Phase::Committing => {
                        // Its result is its caller's; here only its end matters.
                        let preparing = state.preparing.clone().map(|running| running.map(drop).boxed());
                        let committing = state.committing.clone().map(|running| running.map(drop).boxed());
                        preparing.or(committing).map(|ended| ended.map(|()| Ok(())).boxed().shared())
                    }
                }
            };
            if let Some(running) = running {
                running.await?;
            }
        }
    }

    /// The directories that it shares with the module.
    pub fn layout(&self) -> &Layout {
        &self.inner.settings.layout
    }

    /// Where the execution stands, and how far its transfer is.
    pub fn status(&self) -> Status {
        let state = self.inner.state();
        let [files, files_total, bytes, bytes_total] = self.inner.progress.read();
        Status {
            phase: state.phase,
            context: self.inner.settings.context.clone(),
            files,
            files_total,
            bytes,
            bytes_total,
            reason: state.reason.clone(),
        }
    }

    /// Whether a commit has begun to publish and is not finished yet; then nothing else can be done.
    pub fn is_publishing(&self) -> bool {
        let state = self.inner.state();
        state.publishing && state.phase != Phase::Done
    }

    /// Why the last call of [`done`](Self::done) failed, unless another has succeeded since.
    pub fn refusal(&self) -> Option<Arc<Error>> {
        self.inner.state().refusal.clone()
    }

    /// Where the execution stands.
    pub fn phase(&self) -> Phase {
        self.inner.state().phase
    }

    /// A lock for whoever starts the module: to be inherited by it, so that it is held by the module and all that
    /// it starts. As long as any of them lives, no other module is begun in this directory: see [`Session::open`].
    ///
    /// Not seen is what closes the files that it inherits, and a module that removed the state directory.
    ///
    /// # Errors
    /// [`Error::Busy`] when such a module is at work, [`Error::Io`] when the lock cannot be made.
    pub async fn lock_module(&self) -> Result<File> {
        let journal = self.inner.journal.clone();
        blocking(move || journal.lock().unwrap_or_else(PoisonError::into_inner).lock_module()).await
    }

    /// Gives that lock up once the module has ended, whatever it left running.
    pub async fn forget_module(&self) {
        let journal = self.inner.journal.clone();
        let forget = move || {
            journal.lock().unwrap_or_else(PoisonError::into_inner).forget_module();
            Ok(())
        };
        // It cannot fail.
        let _ = blocking(forget).await;
    }

    /// Waits until the execution has ended, and says how: [`Phase::Done`] or [`Phase::Failed`].
    pub async fn ended(&self) -> Phase {
        self.wait_for(|phase| matches!(phase, Phase::Done | Phase::Failed)).await
    }

    /// Removes the outputs that a commit cleared; what is not removed now is when the directory is used next.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be removed.
    pub async fn tidy(&self) -> Result<()> {
        let trash = self.inner.settings.trash();
        blocking(move || directories::remove(&trash)).await
    }

    /// Waits until a caller was told in this process how the execution ended.
    ///
    /// A restarted sidecar may finish a commit that nobody has asked it for yet.
    pub async fn told(&self) {
        // The sender lives as long as this session.
        let _ = self.inner.told.subscribe().wait_for(|told| *told).await;
    }

    /// Notes that the module is alive; the router does so for each of its calls.
    pub fn hear(&self) {
        self.inner.hear();
    }

    /// Waits until the module was not heard for as long as `lease` while the next call was its turn.
    pub async fn abandoned(&self, lease: Duration) {
        loop {
            let phase = self.idle().await;
            let heard = *self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner);
            let silence = heard.elapsed();
            let its_turn = matches!(phase, Phase::New | Phase::Ready) && !self.is_publishing();
            if silence >= lease && its_turn {
                return;
            }
            tokio::time::sleep(lease.saturating_sub(silence).max(lease / 10)).await;
        }
    }

    /// What is saved and what is not, in one line, for whoever ends the sidecar now.
    pub fn saved(&self) -> String {
        let [files, all, ..] = self.inner.progress.read();
        match (self.phase(), self.inner.journal().step()) {
            (_, Step::Done { receipt, .. }) => {
                let Receipt { files, events, .. } = receipt;
                format!("everything is committed: {files} files, {} events", events.len())
            }
            (_, Step::Published { .. }) => {
                "everything is committed; only the outputs are not cleared yet".to_owned()
            }
            (_, Step::Publishing { events, .. }) => format!(
                "files, insight and event contexts are saved; of {} events any number may be published; the \
                 next start finishes it",
                events.len()
            ),
            (_, Step::Stored { files: stored, .. }) => format!(
                "{} files are saved and no event is published; the next done sends only what is missing",
                stored.len()
            ),
            (Phase::Committing, _) => format!(
                "{files} of {all} files were sent, no event is published, and nothing counts as saved; the \
                 next done begins anew"
            ),
            (Phase::Failed, _) => "the execution failed; nothing was published".to_owned(),
            (Phase::New | Phase::Preparing, _) => "the module has not begun; nothing is lost".to_owned(),
            _ => "nothing is committed; the outputs are left where they are".to_owned(),
        }
    }

    /// Waits until no call is at work, and says where the execution stands.
    pub async fn idle(&self) -> Phase {
        loop {
            let phase = self.wait_for(|phase| !matches!(phase, Phase::Preparing | Phase::Committing)).await;
            let failing = self.inner.state().failing.clone();
            let Some(failing) = failing else { return phase };
            // It always ends well; see `start_fail`.
            let _ = failing.await;
        }
    }

    async fn wait_for(&self, wanted: impl FnMut(&Phase) -> bool) -> Phase {
        let mut phase = self.inner.phase.subscribe();
        match phase.wait_for(wanted).await {
            Ok(phase) => *phase,
            // The sender lives as long as this session.
            Err(_) => self.phase(),
        }
    }

    fn start_prepare(&self, state: &mut State) -> Shared<BoxFuture<'static, Outcome<Prepared>>> {
        let inner = self.inner.clone();
        let task = tokio::spawn(async move {
            info!("preparing the inputs");
            let prepared = caught(inner.prepare()).await.map_err(Arc::new);
            let mut state = inner.state();
            state.preparing = None;
            match &prepared {
                Ok(prepared) => {
                    info!(files = prepared.files, bytes = prepared.bytes, "ready");
                    state.staged = true;
                    state.prepared = Some(prepared.clone());
                }
                Err(failed) => error!(error = failed.chain(), "the inputs could not be prepared"),
            }
            // A module that was ready once may still be done, and one that is done stays so.
            let phase = inner.journal().step().phase();
            inner.enter(&mut state, phase);
            prepared
        });
        let running = joined(task);
        state.preparing = Some(running.clone());
        self.inner.enter(state, Phase::Preparing);
        running
    }

    fn start_fail(&self, state: &mut State, reason: Reason) -> Shared<BoxFuture<'static, Outcome<()>>> {
        warn!(reason = reason.text, "the execution failed");
        state.reason = Some(reason.text.clone());
        let (inner, phase) = (self.inner.clone(), state.phase);
        let task = tokio::spawn(async move {
            let record = failure::record(&inner.settings, &inner.plane, phase, &reason).map(Ok);
            if let Err(panic) = caught(record).await {
                error!(error = panic.chain(), "the failure could not be recorded");
            }
            let mut state = inner.state();
            state.failing = None;
            inner.enter(&mut state, Phase::Failed);
            inner.told.send_replace(true);
            Ok(())
        });
        let running = joined(task);
        state.failing = Some(running.clone());
        running
    }

    fn start_commit(&self, state: &mut State) -> Shared<BoxFuture<'static, Outcome<Receipt>>> {
        let inner = self.inner.clone();
        let task = tokio::spawn(async move {
            info!("committing the outputs");
            let commit = commit::commit(&inner.settings, &inner.plane, &inner.journal, &inner.progress);
            let committed = caught(commit).await.map_err(Arc::new);
            let mut state = inner.state();
            state.committing = None;
            match &committed {
                Ok(receipt) => {
                    let Receipt { files, bytes, events, .. } = receipt;
                    info!(files, bytes, events = events.len(), "done");
                    for event in events.iter().take(EVENTS_TOLD) {
                        info!("published event {} of type {:?}", event.event_id, event.event_type);
                    }
                    if let more @ 1.. = events.len().saturating_sub(EVENTS_TOLD) {
                        info!("and {more} more");
                    }
                    state.receipt = Some(receipt.clone());
                    state.refusal = None;
                    inner.enter(&mut state, Phase::Done);
                }
                Err(failed) => {
                    state.refusal = Some(failed.clone());
                    match &**failed {
                        Error::Invalid(problems) => problems.iter().for_each(|problem| error!("{problem}")),
                        failed => error!(error = failed.chain(), "the outputs could not be committed"),
                    }
                    state.publishing = inner.journal().step().is_publishing();
                    if state.publishing {
                        // The inputs are of no use any more, and what is half published must be finished.
                        state.staged = true;
                        if !std::mem::replace(&mut state.finish_scheduled, true) {
                            tokio::spawn(finish_later(Arc::downgrade(&inner)));
                        }
                    }
                    inner.enter(&mut state, Phase::Ready);
                }
            }
            committed
        });
        let running = joined(task);
        state.committing = Some(running.clone());
        self.inner.enter(state, Phase::Committing);
        running
    }
}

impl Inner {
    async fn prepare(&self) -> Result<Prepared> {
        let journal = self.journal.clone();
        blocking(move || journal.lock().unwrap_or_else(PoisonError::into_inner).survive_wipe()).await?;
        let prepared = stage::stage(&self.settings, &self.plane, &self.progress).await?;
        // Later steps know more: staging the inputs again must not make the journal forget it.
        if *self.journal().step() == Step::New {
            let ready = Step::Ready { prepared: prepared.clone() };
            if let Err(error) = commit::advance(&self.journal, ready).await {
                stage::clear(&self.settings).await;
                return Err(error);
            }
        }
        Ok(prepared)
    }

    /// Whether a module wiped the base directory after it was ready, as one that starts again does.
    fn inputs_are_gone(&self) -> bool {
        !self.settings.layout.input_meta().exists()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn enter(&self, state: &mut State, phase: Phase) {
        state.phase = phase;
        // While the sidecar was at work, it was not the module's turn to be heard.
        self.hear();
        self.phase.send_replace(phase);
    }
}

impl State {
    fn of(step: &Step) -> Self {
        let (prepared, receipt) = match step {
            Step::New | Step::Failed { .. } => (None, None),
            Step::Ready { prepared }
            | Step::Stored { prepared, .. }
            | Step::Publishing { prepared, .. }
            | Step::Published { prepared, .. } => (Some(prepared), None),
            Step::Done { prepared, receipt } => (Some(prepared), Some(receipt)),
        };
        Self {
            phase: step.phase(),
            staged: false,
            prepared: prepared.cloned(),
            receipt: receipt.cloned(),
            reason: None,
            refusal: None,
            publishing: step.is_publishing(),
            preparing: None,
            committing: None,
            failing: None,
            finish_scheduled: false,
        }
    }

    fn out_of_order(&self, call: &'static str) -> Arc<Error> {
        let phase = if self.failing.is_some() { Phase::Failed } else { self.phase };
        let hint = match (phase, call) {
            (Phase::New | Phase::Preparing, _) => "call ready first, and wait for its answer".to_owned(),
            (Phase::Done, _) => "the outputs are committed already".to_owned(),
            (Phase::Failed, _) => {
                format!("the execution failed: {}", self.reason.as_deref().unwrap_or("no reason given"))
            }
            (Phase::Committing, "prepare") => {
                "the outputs of an earlier start are being committed".to_owned()
            }
            (Phase::Ready | Phase::Committing, _) => {
                "events were published already, and the commit is finished as soon as it can be".to_owned()
            }
        };
        Arc::new(Error::OutOfOrder { call, phase, hint })
    }
}

/// The most events that are told one by one.
const EVENTS_TOLD: usize = 10;

/// How long a commit that has begun to publish waits before it is tried again without being asked.
const FINISH_AFTER: Duration = Duration::from_secs(5);

async fn finish_later(inner: Weak<Inner>) {
    tokio::time::sleep(FINISH_AFTER).await;
    if let Some(inner) = inner.upgrade() {
        Session { inner }.finish().await;
    }
}

/// The outcome of a call, a panic in a provider included: it must not leave the phase as it was.
async fn caught<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let panicked = |panic: Box<dyn std::any::Any + Send>| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(Error::Internal(text.unwrap_or_else(|| "a panic".into())))
    };
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(panicked)
}

/// A task that any number of callers wait for, and that goes on when none does.
fn joined<T: Clone + Send + 'static>(
    task: tokio::task::JoinHandle<Outcome<T>>,
) -> Shared<BoxFuture<'static, Outcome<T>>> {
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
