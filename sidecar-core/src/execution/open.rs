//! How an attempt begins: with the record, if there is one; then with the journal, as far as it fits.

use std::sync::{Arc, Mutex};

use tracing::field::Empty;
use tracing::{Span, error_span, info, warn};

use super::commit::outbox;
use super::journal::{self, Entry, Journal, Legacy, Step};
use super::record::{
    Found, abandon, close_earlier, contents_of, decide, earlier_are_closed, first_open, look, roll_forward,
};
use super::slot::Slot;
use super::state::{Rest, State, Turn};
use super::transfer::Progress;
use super::{Execution, First, Inputs, Journaling, Settings, Start, ids, now, stores};
use crate::brief;
use crate::contract::{
    Committed, Contents, Context, EventContext, ExecutionRecord, Insight, KeyOwner, Outcome, Publication,
    Receipt, RecordedFile, Stores, TraceParent,
};
use crate::documents::Documents as _;
use crate::error::{Error, Result};
use crate::plane::{self, DataPlane};
use crate::telemetry;

/// An attempt that is about to begin or to go on.
pub(super) struct Opened {
    pub(super) execution: Arc<Execution>,
    pub(super) state: State,
    /// The outcome that is there already, to be rolled forward.
    pub(super) decided: Option<Box<ExecutionRecord>>,
}

/// Refuses directories that the module, the sidecar and the stores would take for theirs at the same time.
///
/// # Errors
/// [`Error::Busy`] with every such pair.
pub(crate) fn check_places(spec: &Settings, plane: &DataPlane) -> Result<()> {
    let mut private = vec![("the state directory", &*spec.state_dir)];
    private.extend(spec.cache.as_ref().map(|cache| ("the cache", cache.dir())));
    match plane::overlaps(Some(&spec.layout), &private, &plane.directories()) {
        overlaps if overlaps.is_empty() => Ok(()),
        overlaps => Err(Error::Busy(overlaps.join("; "))),
    }
}

/// Opens the slot, whose places were checked, and finds out where its execution stands.
pub(super) async fn open(spec: Settings, plane: DataPlane) -> Result<Opened> {
    if !plane.documents.decides() {
        warn!("{} cannot decide between attempts: they must not overlap", plane.documents);
    }
    let (layout, state_dir, user) = (spec.layout.clone(), spec.state_dir.clone(), spec.module_user);
    let journaling = spec.journal;
    let (slot, entry) = brief(move || {
        let slot = Slot::open(layout, state_dir, user)?;
        let entry = journal::read(&slot.state(), journaling)?;
        Ok((Arc::new(slot), entry))
    })
    .await?;
    let mut opening = Opening { here: stores(&plane), spec, plane, slot };
    let entry = match entry {
        Some(entry) => Some(opening.undecided(entry).await?),
        None => None,
    };
    opening.find(entry).await
}

struct Opening {
    spec: Settings,
    plane: DataPlane,
    slot: Arc<Slot>,
    here: Stores,
}

/// What is said of a commit that only another data plane can finish.
pub(crate) const ELSEWHERE: &str = "that was begun on another data plane";

impl Opening {
    /// Deals with a commit in this directory that may have been decided: it goes on, or is given up, or is in the
    /// way.
    async fn undecided(&mut self, mut entry: Entry) -> Result<Entry> {
        if let Step::Committing { prepared, .. } = &entry.step
            && !self.is_here(&entry)
        {
            // Another data plane has none of these files.
            entry.step = Step::Ready { prepared: prepared.clone() };
        }
        let legacy = matches!(entry.legacy, Some(Legacy::Publishing(_)));
        if !legacy && !matches!(entry.step, Step::Deciding { .. }) {
            return Ok(entry);
        }
        let (place, of) = (self.slot.state_path().display(), ids::execution(&entry.context, entry.run));
        if !self.is_here(&entry) {
            return Err(Error::Busy(format!(
                "{place} holds a commit {ELSEWHERE} ({}; {}; {}): finish it there first (stores that were moved are \
                 others: move them back, or mount them where they were)",
                entry.stores.blobs, entry.stores.documents, entry.stores.events,
            )));
        }
        if self.spec.give_up && !legacy {
            let stored = abandon(&self.plane, &entry.context, entry.run, &entry.attempt).await?;
            match stored.committed() {
                Some(committed) => {
                    roll_forward(&self.plane, &stored, committed, None).await?;
                    warn!("{of} could not be given up: it was decided, and is published now");
                }
                None => warn!("{of} is given up"),
            }
            entry.step = Step::Failed { reason: "given up".into() };
            return Ok(entry);
        }
        if !entry.is_of(&self.spec.context) {
            let way_out = if legacy { "" } else { ", or give it up with --give-up" };
            return Err(Error::Busy(format!(
                "{place} holds the unfinished commit of event {:?} by module {:?}: start the sidecar with that \
                 context first{way_out}",
                entry.context.event_id.as_str(),
                entry.context.name.as_str(),
            )));
        }
        let prepared = entry.step.prepared().cloned();
        if let Some(Legacy::Publishing(receipt)) = entry.legacy.take() {
            let record = self.legacy_record(&mut entry, receipt).await?;
            // Decided before the journal of 0.1 is replaced: until then it cannot be given up.
            decide(&self.plane, &record).await?;
            entry.step = Step::Deciding { prepared, record: Box::new(record) };
            entry.stores = self.here.clone();
            return Ok(entry);
        }
        if let Step::Deciding { record, .. } = &entry.step {
            if !self.is_proposal_of(&entry, record) {
                // One that takes over an outcome names keys of another execution, and is proposed again.
                let memoized = record.committed().and_then(|committed| committed.memoized.as_ref());
                if memoized.is_none_or(|memoized| memoized.reused.is_none()) {
                    warn!("{place} holds a proposal that is not of {of}: it is not decided");
                }
                entry.step = prepared.map_or(Step::New, |prepared| Step::Ready { prepared });
                return Ok(entry);
            }
            let another = match self.spec.start {
                Start::Rerun => true,
                Start::Run(run) => run != entry.run,
                Start::Resume | Start::Restart => false,
            };
            if another {
                // What another run is asked for comes after it.
                let stored = decide(&self.plane, record).await?;
                if let Some(committed) = stored.committed() {
                    roll_forward(&self.plane, &stored, committed, None).await?;
                }
                entry.step = Step::Failed { reason: "finished for another run".into() };
            }
        }
        Ok(entry)
    }

    /// Whether a record may be decided as this attempt's: of its execution, for these stores, with keys of its own.
    fn is_proposal_of(&self, entry: &Entry, record: &ExecutionRecord) -> bool {
        let execution = ids::execution(&entry.context, entry.run);
        let Some(committed) = record.committed() else { return false };
        let own = |key: &crate::BlobKey| match key.owner() {
            Some(KeyOwner::Proposal(of, _)) => of == execution,
            // Release 0.1 had keys without an owner, below its execution all the same.
            Some(KeyOwner::Submission(..)) => false,
            None => key.as_str().starts_with(&format!("{}/{}/", execution.event_id, execution.name)),
        };
        let mut keys = committed.contents.outputs.iter().filter_map(|file| file.key.as_ref());
        // What was validated then is what may be published now, unless it was not the sidecar that wrote it.
        let mut types = committed.contents.events.iter().map(|event| event.event_type.as_str());
        types.all(|event_type| self.spec.event_types.allow(event_type))
            && record.execution() == execution
            && committed.stores == self.here
            && keys.all(own)
    }

    /// What release 0.1 had begun to publish, as a proposal: its ids and keys stay as they are.
    async fn legacy_record(&self, entry: &mut Entry, receipt: Receipt) -> Result<ExecutionRecord> {
        let documents = &self.plane.documents;
        let execution = ids::execution(&entry.context, entry.run);
        // However often this is repeated, it is one proposal of one attempt.
        let proposal = ids::of_release_0_1(&execution);
        entry.attempt = proposal.clone();
        let mut contents = Contents { events: receipt.events, ..Contents::default() };
        if let Some(id) = &receipt.insight {
            let found: Option<Insight> = documents.find(id.as_str()).await?;
            contents.insight = found.map(|found| found.data).unwrap_or_default();
        }
        let mut outputs = std::collections::BTreeMap::new();
        for event in &contents.events {
            let found: Option<EventContext> = documents.find(event.event_id.as_str()).await?;
            for blob in found.into_iter().flat_map(|context| context.blobs) {
                let (name, size, digest, executable) = (blob.name, blob.size, blob.digest, blob.executable);
                let file = RecordedFile { name: name.clone(), size, digest, executable, key: Some(blob.key) };
                outputs.insert(name, file);
            }
        }
        contents.outputs = outputs.into_values().collect();
        let (contents, chunks) = outbox(&execution, &entry.context, &proposal, contents);
        for chunk in &chunks {
            documents.store(std::slice::from_ref(chunk)).await?;
        }
        let committed = Committed {
            proposal,
            stores: self.here.clone(),
            started: entry.started.clone(),
            ready: None,
            done: now(),
            exit: None,
            files: receipt.files,
            bytes: receipt.bytes,
            insight_id: receipt.insight,
            memoized: None,
            traceparent: None,
            outbox: chunks.into_iter().map(|chunk| chunk.id).collect(),
            contents,
        };
        let outcome = Outcome::Committed(Box::new(committed));
        Ok(ExecutionRecord::new(entry.context.clone(), entry.run, entry.attempt.clone(), outcome))
    }

    /// Whether the entry was written on this data plane; release 0.1 knew it by its names for the log.
    fn is_here(&self, entry: &Entry) -> bool {
        let Stores { blobs, documents, events } = &entry.stores;
        let plane = &self.plane;
        let names = [plane.blobs.to_string(), plane.documents.to_string(), plane.events.to_string()];
        entry.stores == self.here || [blobs, documents, events] == names.each_ref()
    }

    /// The record first, then the journal.
    async fn find(self, entry: Option<Entry>) -> Result<Opened> {
        let (own, foreign) = match entry {
            Some(entry) if entry.is_of(&self.spec.context) => (Some(entry), None),
            other => (None, other),
        };
        let deciding = own.as_ref().is_some_and(|own| matches!(own.step, Step::Deciding { .. }));
        let failed = own.as_ref().is_some_and(|own| matches!(own.step, Step::Failed { .. }));
        let id = |run| ids::execution(&self.spec.context, run);
        let begins = matches!(self.spec.start, Start::Resume | Start::Restart);
        if let Some(own) = own.as_ref().filter(|own| begins && !self.is_here(own))
            && matches!(own.step, Step::Done { .. })
        {
            return Err(Error::Busy(format!(
                "{} holds the commit of this event by this module on another data plane ({}; {}; {}): take \
                 another --basedir and --statedir, or run it again with --rerun",
                self.slot.state_path().display(),
                own.stores.blobs,
                own.stores.documents,
                own.stores.events,
            )));
        }
        let from = match (&own, self.spec.start) {
            (Some(own), start) if deciding || start == Start::Resume && !failed => match own.run {
                run if earlier_are_closed(&self.plane, &id(run)).await? => run,
                // The journal tells of a run that cannot have begun on this data plane.
                _ => 0,
            },
            (_, Start::Resume | Start::Restart) => 0,
            (_, Start::Rerun) => first_open(&self.plane, &id(0)).await?,
            (_, Start::Run(run)) => {
                close_earlier(&self.plane, &id(run)).await?;
                run
            }
        };
        let from = id(from);
        let (found, context) =
            futures_util::future::try_join(look(&self.plane, &from), self.event_context()).await?;
        if let (Found::Open(_), Some(own)) = (&found, &own)
            && self.spec.start == Start::Resume
        {
            self.refuse_elsewhere(own, context.as_ref())?;
        }
        let again = own.as_ref().filter(|own| self.is_here(own) || !is_bound(&own.step));
        match (found, again) {
            (Found::Decided(record), Some(own)) if deciding => {
                let (own, state) =
                    (own.clone(), State::Publishing(own.step.prepared().cloned(), Turn::AtWork));
                self.with(own, context, state, Some(record)).await
            }
            (Found::Decided(record), Some(own)) if self.is_outcome(own, &record).await? => {
                let state = State::after(&own.step);
                self.with(own.clone(), context, state, None).await
            }
            (Found::Decided(record), _) => {
                // What it was working on is no outcome.
                if own.as_ref().is_some_and(|own| worked(&own.step) && own.attempt != record.attempt) {
                    warn!("{} was first: its outcome counts", record.decided_by());
                }
                let state = State::Publishing(None, Turn::AtWork);
                let run = record.run;
                self.begin(own.or(foreign), run, context, state, Some(record)).await
            }
            (Found::Open(run), Some(own)) if self.goes_on(own, run) => {
                let state = State::after(&own.step);
                self.with(own.clone(), context, state, None).await
            }
            (Found::Open(run), Some(own)) if self.spec.start == Start::Resume && is_unfinished(&own.step) => {
                // Its run was closed, or is not open yet: what it wrote is proposed in the one that is.
                let mut own = own.clone();
                own.run = run;
                own.step =
                    own.step.prepared().cloned().map_or(Step::New, |prepared| Step::Ready { prepared });
                let state = State::after(&own.step);
                self.with(own, context, state, None).await
            }
            (Found::Open(run), again) => {
                let lost = again.is_some_and(|own| matches!(own.step, Step::Done { .. }));
                if lost && begins {
                    warn!(
                        "this directory remembers that {} was committed, and {} has no record of it: it runs again",
                        id(run),
                        self.plane.documents
                    );
                }
                self.begin(own.or(foreign), run, context, State::Rest(Rest::New), None).await
            }
        }
    }

    /// Refuses to go on with what was prepared from another data plane, or from one that has lost the event since, as one
    /// does that is not mounted any more: whatever was committed there nobody would find.
    fn refuse_elsewhere(&self, own: &Entry, context: Option<&EventContext>) -> Result<()> {
        if !worked(&own.step) || is_bound(&own.step) {
            return Ok(());
        }
        // Files and events may go elsewhere from now on; whose outcome it is the documents decide.
        let documents = &self.plane.documents;
        // Release 0.1 knew stores by their names.
        if own.stores.documents != self.here.documents && own.stores.documents != documents.to_string() {
            return Err(Error::Busy(format!(
                "the inputs in {} were staged from another data plane, whose documents are {}: name that one, or prepare \
                 the event again on this one",
                self.spec.layout.base().display(),
                own.stores.documents,
            )));
        }
        let had_context = own.step.prepared().is_some_and(|staged| staged.files > 0 || staged.values > 0);
        if had_context && context.is_none() && self.spec.first != First::Yes {
            let (provider, event) = (self.plane.documents.to_string(), own.context.event_id.to_string());
            return Err(Error::UnknownEvent { provider, event });
        }
        Ok(())
    }

    /// Whether the journal tells of the very outcome that was decided, so that nothing is left to do.
    async fn is_outcome(&self, own: &Entry, record: &ExecutionRecord) -> Result<bool> {
        let (Step::Done { receipt, .. }, Some(committed)) = (&own.step, record.committed()) else {
            return Ok(false);
        };
        let published = self.plane.documents.find::<Publication>(&ids::record(&record.execution())).await?;
        if own.run != record.run || !self.is_here(own) || published.is_none() {
            return Ok(false);
        }
        Ok(receipt.events == contents_of(&self.plane, record, committed).await?.events)
    }

    /// Whether the journal's attempt goes on in this run, which has no record.
    fn goes_on(&self, own: &Entry, run: u32) -> bool {
        own.run == run
            && match own.step {
                Step::Deciding { .. } => true,
                // Release 0.1 stored no records.
                Step::Done { .. } => {
                    matches!(own.legacy, Some(Legacy::Done))
                        && matches!(self.spec.start, Start::Resume | Start::Restart)
                }
                Step::New | Step::Ready { .. } | Step::Committing { .. } => self.spec.start == Start::Resume,
                Step::Failed { .. } => false,
            }
    }

    async fn event_context(&self) -> Result<Option<EventContext>> {
        if self.spec.first == First::Yes {
            return Ok(None);
        }
        self.plane.documents.find(self.spec.context.event_id.as_str()).await
    }

    /// Goes on with an entry.
    async fn with(
        self,
        entry: Entry,
        context: Option<EventContext>,
        state: State,
        decided: Option<Box<ExecutionRecord>>,
    ) -> Result<Opened> {
        let phase = state.phase();
        if !matches!(phase, crate::Phase::New | crate::Phase::Done) {
            info!("going on where an earlier start stopped: {phase}");
        }
        let stores = self.here.clone();
        self.opened(entry, context, state, decided, move |journal| {
            // The ids of stores, a new run and what came of release 0.1 are written down before they count.
            journal.change(|entry| entry.stores = stores)
        })
        .await
    }

    /// Begins an attempt; what an earlier one left in the directory is set aside.
    async fn begin(
        self,
        earlier: Option<Entry>,
        run: u32,
        context: Option<EventContext>,
        state: State,
        decided: Option<Box<ExecutionRecord>>,
    ) -> Result<Opened> {
        let mut this = self;
        if context.is_none() && run > 0 && this.spec.context.correlation_id.is_empty() {
            // Only the earlier runs know which graph it belongs to; one that was closed for them may not.
            for earlier in (0..run).rev() {
                let earlier = ids::execution(&this.spec.context, earlier);
                let Some(record) = super::record::find(&*this.plane.documents, &earlier).await? else {
                    continue;
                };
                if record.committed().is_some() && !record.context.correlation_id.is_empty() {
                    let Context { correlation_id, parent_event_id, .. } = &mut this.spec.context;
                    correlation_id.clone_from(&record.context.correlation_id);
                    if parent_event_id.is_empty() {
                        parent_event_id.clone_from(&record.context.parent_event_id);
                    }
                    break;
                }
            }
        }
        let (slot, start, journaling) = (this.slot.clone(), this.spec.start, this.spec.journal);
        let new = this.spec.context.clone();
        let beside = decided.is_none();
        let entry = Entry::new(this.spec.context.clone(), run, this.here.clone(), now());
        this.opened(entry, context, state, decided, move |journal| {
            if beside && run > 0 && start == Start::Rerun {
                info!("run {run}: its outcome replaces that of the run before, whose events stay delivered");
            }
            if beside {
                // A module that starts from the beginning must not meet one that was started before.
                slot.refuse_beside_a_module()?;
            }
            let set_aside = || {
                if journaling == Journaling::Unsynced && slot.has_outputs() {
                    // Nobody looks through what a worker's slot has gathered: the last is enough.
                    slot.forget_previous()?;
                }
                slot.set_outputs_aside()
            };
            let Some(earlier) = earlier else {
                // Nothing tells whose they are. For a module that starts from the beginning they are not its own; one that
                // somebody else starts may have been quicker than its sidecar.
                if (journaling == Journaling::Unsynced || start != Start::Resume)
                    && let Some(path) = set_aside()?
                {
                    warn!(path = %path.display(), "outputs that were there before the event were set aside");
                }
                return Ok(());
            };
            // Even after a commit: a module that was not told, and worked once more, leaves its outputs behind.
            let worked = earlier.step != Step::New || start != Start::Resume;
            if let Some(path) = worked.then(set_aside).transpose()?.flatten() {
                let Context { event_id, name, .. } = &earlier.context;
                let path = path.display();
                let of = match earlier.is_of(&new) {
                    true => "of an earlier attempt at this execution",
                    false => "of an earlier execution",
                };
                warn!(event = %event_id, module = %name, %path, "outputs {of} were set aside");
            }
            // From here on the outputs are this attempt's, also for whoever starts next.
            journal.advance(Step::New)
        })
        .await
    }

    async fn opened(
        self,
        mut entry: Entry,
        context: Option<EventContext>,
        state: State,
        decided: Option<Box<ExecutionRecord>>,
        begin: impl FnOnce(&Journal) -> Result<()> + Send + 'static,
    ) -> Result<Opened> {
        let known = (!entry.context.correlation_id.is_empty()).then(|| entry.context.clone());
        let asked = &self.spec.context;
        if let Some(EventContext { context: event, .. }) = &context
            && !asked.correlation_id.is_empty()
            && asked.correlation_id != event.correlation_id
        {
            warn!(
                "event {} has the correlation id {:?}: what it leads to is committed under {:?}, and its trace will \
                 not show it",
                event.event_id, event.correlation_id, asked.correlation_id
            );
        }
        entry.context = lineage(&self.spec.context, context.as_ref(), known.as_ref());
        let (slot, journaling) = (self.slot.clone(), self.spec.journal);
        let journal = brief(move || {
            let journal = Journal::new(slot.clone(), entry, journaling);
            begin(&journal)?;
            if let Err(error) = slot.empty_trash() {
                warn!(error = error.chain(), "cleared outputs could not be removed");
            }
            slot.make()?;
            Ok(journal)
        })
        .await?;
        let of_event = context.as_ref().and_then(|context| context.traceparent.clone());
        let passed_on = self.spec.traceparent.clone().or(of_event);
        let span = span(&journal.entry(), journaling, passed_on.as_ref());
        let execution = Execution {
            span,
            passed_on,
            spec: self.spec,
            slot: self.slot,
            plane: self.plane,
            progress: Progress::default(),
            journal,
            inputs: Mutex::new(Inputs { context, ..Inputs::default() }),
            exit: Mutex::new(None),
        };
        Ok(Opened { execution: Arc::new(execution), state, decided })
    }
}

/// The span around everything that an attempt does.
fn span(entry: &Entry, journaling: Journaling, passed_on: Option<&TraceParent>) -> Span {
    let Context { name: module, event_id: event, .. } = &entry.context;
    let attempt = &entry.attempt.as_str()[..8];
    let span = match journaling {
        Journaling::Synced => {
            error_span!("execution", module = %module, event = %event, attempt, trace_id = Empty)
        }
        // In a worker's log they are said by the delivery that it is part of.
        Journaling::Unsynced => {
            let span = error_span!("execution", attempt, trace_id = Empty);
            telemetry::attribute(&span, "module", module.as_str());
            telemetry::attribute(&span, "event", event.as_str());
            span
        }
    };
    telemetry::continues(&span, passed_on);
    if Span::current().is_none() {
        telemetry::name_trace(&span, telemetry::traceparent(&span).or_else(|| passed_on.cloned()));
    }
    span
}

impl Execution {
    /// Takes the event's place in its graph, where the settings say nothing else.
    pub(super) async fn inherit(self: &Arc<Self>, context: &EventContext) -> Result<()> {
        let found = lineage(&self.spec.context, Some(context), None);
        if found != self.context() {
            self.change(move |entry| entry.context = found).await?;
        }
        Ok(())
    }
}

/// The settings' context, with what they leave open taken from the event, or from how the attempt began.
fn lineage(asked: &Context, event: Option<&EventContext>, known: Option<&Context>) -> Context {
    let mut context = asked.clone();
    let (correlation, parent) = match (event, known) {
        (Some(event), _) => (&*event.context.correlation_id, &*event.context.parent_event_id),
        (None, Some(known)) => (&*known.correlation_id, &*known.parent_event_id),
        (None, None) => ("", ""),
    };
    if context.correlation_id.is_empty() {
        context.correlation_id = match correlation {
            "" => context.event_id.to_string(),
            correlation => correlation.to_owned(),
        };
        if context.parent_event_id.is_empty() {
            parent.clone_into(&mut context.parent_event_id);
        }
    }
    context
}

/// Whether the module may still have a commit before it.
fn is_unfinished(step: &Step) -> bool {
    !matches!(step, Step::Done { .. } | Step::Failed { .. })
}

/// Whether a module has worked on it.
fn worked(step: &Step) -> bool {
    matches!(step, Step::Ready { .. } | Step::Committing { .. } | Step::Deciding { .. })
}

/// Whether the step means anything only on the data plane on which it was taken.
fn is_bound(step: &Step) -> bool {
    matches!(step, Step::Deciding { .. } | Step::Done { .. })
}
