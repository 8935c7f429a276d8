//! One execution of one module for one event, from ready to done.
//!
//! `session` is the shell that callers see, and `state` what each call does in each state. An `Execution` is the
//! value that they work on: what is executed (`spec`), where (`slot`), on which data plane, and how far (`journal`,
//! `transfer`). Its methods are the steps: `stage`, then `outputs` → `upload` → `commit` → `record`, or `failure`.
//! `record` decides once, and rolls forward whatever was decided.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use tracing::Span;

use crate::brief;
use crate::contract::{Context, EventContext, ExecutionId, PrivateId, RecordedFile, Stores, TraceParent};
use crate::error::Result;
use crate::plane::DataPlane;
use crate::telemetry;

mod cache;
mod commit;
mod conflicts;
mod directories;
mod disk;
mod failure;
mod gc;
mod get;
mod ids;
mod journal;
mod memo;
mod one_shot;
mod open;
mod outputs;
mod problems;
mod record;
mod reference;
mod session;
mod slot;
mod spec;
mod stage;
mod state;
mod submit;
mod transfer;
mod tree;
mod upload;

use journal::{Entry, Journal, Step};
use slot::Slot;
use transfer::Progress;

pub(crate) use gc::remove_unnamed;
#[cfg(feature = "worker")]
pub(crate) use ids::dead_letter as dead_letter_id;
pub(crate) use ids::{attempts as attempts_id, insight as insight_id, record as record_id};
pub(crate) use memo::VALID as MEMO_VALID;
#[cfg(feature = "worker")]
pub(crate) use open::{ELSEWHERE, check_places};
pub(crate) use record::{contents_of, find as find_record, is_half_removed, remove as remove_record};
pub(crate) use reference::{fetch as fetch_object, id as object_id, referenced};
#[cfg(feature = "server")]
pub(crate) use session::{CACHED, Counts, DECISIONS};
pub(crate) use stage::fetch;

pub use cache::Cache;
pub use disk::DiskBudget;
pub use failure::{ShownFailure, failures};
pub use gc::{Collected, collect_garbage};
pub(crate) use get::copy;
pub use get::{Copied, copy_out};
pub use record::{Recovered, publish_outcome, recover};
pub use session::{Remembered, Session, Timings};
pub use spec::{First, Journaling, ModuleUser, OnFailure, Settings, Start};
pub use submit::Submission;

/// One attempt at an execution.
#[derive(Debug)]
struct Execution {
    spec: Settings,
    slot: Arc<Slot>,
    plane: DataPlane,
    progress: Progress,
    journal: Journal,
    /// What is known of the inputs; found again in the document store where it is not.
    inputs: Mutex<Inputs>,
    /// The module's exit code, where it has ended before `done`.
    exit: Mutex<Option<i32>>,
    /// Around everything that this attempt does.
    span: Span,
    /// What came with the event, or with whoever started this.
    passed_on: Option<TraceParent>,
}

/// What is known of the inputs in this process.
#[derive(Debug, Default)]
struct Inputs {
    /// The event's context, if it was found before it was needed.
    context: Option<EventContext>,
    /// Since when the context is missing.
    missing_since: Option<Instant>,
    /// Whether it was told that the context is missing.
    told_missing: bool,
    staged: Option<Vec<RecordedFile>>,
    /// What equal work finds the outcome by, where it is to.
    memo: Option<memo::Key>,
    /// The same where that needs to know what is staged.
    pending: Option<memo::Pending>,
    /// What they take of the disk that executions share.
    room: Option<disk::Room>,
}

impl Execution {
    /// What whoever works on its events continues, and the module itself: this attempt's span, or else what came with
    /// the event.
    fn traceparent(&self) -> Option<TraceParent> {
        telemetry::traceparent(&self.span).or_else(|| self.passed_on.clone())
    }

    /// Which execution it is, in the graph of its event.
    fn context(&self) -> Context {
        self.journal.entry().context.clone()
    }

    fn id(&self) -> ExecutionId {
        let entry = self.journal.entry();
        ids::execution(&entry.context, entry.run)
    }

    fn attempt(&self) -> PrivateId {
        self.journal.entry().attempt.clone()
    }

    fn inputs(&self) -> MutexGuard<'_, Inputs> {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs blocking work on the slot and the journal.
    async fn on_disk<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let this = self.clone();
        brief(move || work(&this)).await
    }

    async fn advance(self: &Arc<Self>, step: Step) -> Result<()> {
        self.on_disk(move |this| this.journal.advance(step)).await
    }

    async fn change(self: &Arc<Self>, change: impl FnOnce(&mut Entry) + Send + 'static) -> Result<()> {
        self.on_disk(move |this| this.journal.change(change)).await
    }
}

/// The ids of the three stores.
fn stores(plane: &DataPlane) -> Stores {
    Stores { blobs: plane.blobs.id(), documents: plane.documents.id(), events: plane.events.id() }
}

/// Now, as records tell it: RFC 3339, UTC.
fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// This machine, as records tell it.
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
