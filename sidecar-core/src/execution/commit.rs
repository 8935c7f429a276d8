//! What `done` does before the decision and after it.
//!
//! Before: blobs, outbox and contexts are stored under names of a proposal that nobody else uses, so that a write
//! which arrives late, or an attempt on another machine, changes nothing that anybody reads. After: see `record`.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::{Instrument, warn};

use super::journal::{Step, StoredFile, StoredFiles};
use super::memo::stored_by;
use super::outputs::{self, Outputs};
use super::problems::Problems;
use super::record::{AT_ONCE, contents_of, last_committed};
use super::upload::upload;
use super::{Execution, gc, ids, now, stores};
use crate::blob::Source;
use crate::contract::{
    Blob, BlobKey, Committed, Contents, Context, Digest, Event, EventContext, EventHeader, EventId,
    ExecutionId, ExecutionRecord, FileName, Insight, KeyOwner, KeyValuePairs, Layout, OutboxChunk, Outcome,
    OutputEvent, Prepared, PrivateId, Problem, Producer, Published, RecordedFile,
};
use crate::documents::{Documents as _, Kind};
use crate::error::{Error, Result};
use crate::fault;
use crate::plane::DataPlane;
use crate::telemetry::step;
use crate::{blocking, brief};

/// What a record holds itself, and each part of a larger one, in bytes of JSON: every store takes as much.
const OUTBOX_PART: usize = 1024 * 1024;

impl Execution {
    /// Stores the outputs as a new proposal; the journal holds its record when this returns.
    pub(super) async fn propose(self: &Arc<Self>, prepared: Prepared) -> Result<(ExecutionRecord, Contents)> {
        let done = now();
        let (this, execution) = (self.clone(), self.id());
        let proposal = match fault::is_broken("proposal") {
            true => ids::of_release_0_1(&execution),
            false => PrivateId::random(),
        };
        let reading = proposal.clone();
        let validating = brief(move || outputs::read(&this, &reading)).instrument(step!("validate"));
        let Outputs { files, insights, events } = validating.await?;
        self.refuse_what_no_store_takes(&execution, &proposal, &files, &insights, &events)?;
        let bytes = files.values().map(Source::size).sum();
        if let Some(disk) = &self.spec.disk
            && let Err(error) = disk.check("outputs", bytes)
        {
            return Err(Error::Invalid(vec![Problem::of(Layout::OUTPUT_DATA, error.to_string())]));
        }
        self.progress.start(files.len() as u64, bytes);

        let known = self.stored_before().await?;
        let stored = self.store_files(&execution, &proposal, &prepared, files, known).await?;

        let published = events.iter().map(|(file, event)| Published {
            event_id: ids::event(&execution, &proposal, file),
            event_type: event.event_type.clone(),
            file: file.clone(),
        });
        let published: Vec<Published> = published.collect();
        let mut committed = Committed {
            stores: stores(&self.plane),
            started: self.journal.entry().started.clone(),
            ready: self.journal.entry().ready.clone(),
            done,
            exit: *self.exit.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
            files: stored.len() as u64,
            bytes,
            insight_id: (!insights.is_empty()).then(|| ids::insight(&execution)),
            outbox: Vec::new(),
            contents: Contents::default(),
            memoized: self.inputs().memoized(),
            proposal: proposal.clone(),
            traceparent: self.traceparent(),
        };
        let contents = Contents {
            inputs: self.recorded_inputs().await?,
            outputs: stored.iter().map(|file| recorded(&execution, &proposal, file)).collect(),
            insight: insights,
            events: published,
        };
        let storing = self.store_documents(&execution, &mut committed, &contents, events, &stored);
        storing.instrument(step!("store documents")).await?;
        let outcome = Outcome::Committed(Box::new(committed));
        let mut record = ExecutionRecord::new(self.context(), execution.run, self.attempt(), outcome);
        record.supersedes = last_committed(&self.plane, &execution).await?;
        let step = Step::Deciding { prepared: Some(prepared), record: Box::new(record.clone()) };
        self.advance(step).await?;
        Ok((record, contents))
    }

    /// Asks each store whether it takes what it is to be given, before the first byte is stored.
    fn refuse_what_no_store_takes(
        &self,
        execution: &ExecutionId,
        proposal: &PrivateId,
        files: &outputs::Files,
        insights: &KeyValuePairs,
        events: &[(String, OutputEvent)],
    ) -> Result<()> {
        let DataPlane { blobs, documents, events: bus, .. } = &self.plane;
        let (context, mut problems) = (self.context(), Problems::default());
        for name in files.keys() {
            let key = BlobKey::of_output(execution, proposal, name).ok();
            if let Some(why) = key.and_then(|key| blobs.refuses(&key)) {
                problems.add(&format!("{}/{name}", Layout::OUTPUT_DATA), format!("{blobs} {why}"));
            }
        }
        let insight =
            Insight { id: ids::insight(execution), context: context.clone(), data: insights.clone() };
        if let Some(why) = documents.cannot_take(&insight)? {
            problems.add(Layout::OUTPUT_META, format!("{documents} {why}"));
        }
        let named = |name: &FileName| {
            let (source, key) = (files.get(name)?, BlobKey::of_output(execution, proposal, name).ok()?);
            // Every digest is as long.
            let (digest, executable) = (Digest([0; 32]), source.is_executable());
            Some(Blob { name: name.clone(), key, size: source.size(), digest, executable })
        };
        for (file, event) in events {
            let header = self.header(&ids::event(execution, proposal, file), &context);
            let message = Event {
                context: header.clone(),
                event_type: event.event_type.clone(),
                previous_stages: Vec::new(),
                data: KeyValuePairs::default(),
                traceparent: self.traceparent(),
            };
            let blobs = event.files.iter().filter_map(named).collect();
            let document = self.context_of(header, event.clone(), blobs, execution, proposal);
            let file = format!("{}/{file}", Layout::OUTPUT_EVENTS);
            if let Some(why) = documents.cannot_take(&document)? {
                problems.add(&file, format!("{documents} {why}"));
            }
            if let Some(why) = bus.refuses(&message) {
                problems.add(&file, format!("{bus} {why}"));
            }
        }
        problems.check()
    }

    fn header(&self, event_id: &EventId, context: &Context) -> EventHeader {
        EventHeader {
            name: String::new(),
            event_id: event_id.clone(),
            correlation_id: context.correlation_id.clone(),
            parent_event_id: context.event_id.to_string(),
        }
    }

    fn context_of(
        &self,
        context: EventHeader,
        event: OutputEvent,
        blobs: Vec<Blob>,
        execution: &ExecutionId,
        proposal: &PrivateId,
    ) -> EventContext {
        let (name, run) = (execution.name.clone(), execution.run);
        EventContext {
            context,
            files: event.files,
            data: event.data,
            blobs,
            references: Vec::new(),
            event_type: None,
            producer: Some(Producer { name, run, proposal: proposal.clone() }),
            traceparent: self.traceparent(),
        }
    }

    /// Files of earlier proposals of this run, as far as the store still has them with the right size.
    async fn stored_before(&self) -> Result<StoredFiles> {
        let Step::Committing { files, .. } = self.journal.entry().step.clone() else {
            return Ok(StoredFiles::default());
        };
        let (store, execution) = (&self.plane.blobs, self.id());
        // A key of another run would be deleted with it.
        let is_own = |owner: &KeyOwner| matches!(owner, KeyOwner::Proposal(of, _) if *of == execution);
        let owners = files.iter().filter_map(|file| file.blob.key.owner()).filter(is_own);
        let there = stored_by(&**store, owners.collect::<BTreeSet<_>>()).await?;
        let is_there =
            |file: &&StoredFile| there.get(&*store.folded(&file.blob.key)) == Some(&file.blob.size);
        let (found, all) = (files.iter().filter(is_there).cloned().collect::<Vec<_>>(), files.len());
        if found.len() < all {
            warn!(
                "{} files that were stored are not in {store} any more: they are stored again",
                all - found.len()
            );
        }
        Ok(found.into())
    }

    /// Makes the files durable; those that are known and unchanged keep their keys.
    async fn store_files(
        self: &Arc<Self>,
        execution: &ExecutionId,
        proposal: &PrivateId,
        prepared: &Prepared,
        files: outputs::Files,
        known: StoredFiles,
    ) -> Result<StoredFiles> {
        let (mut kept, mut changed) = (Vec::new(), Vec::new());
        for (name, source) in files {
            match known.get(&name) {
                Some(file) if is_unchanged(file, &source).await? => {
                    self.progress.file_moved();
                    kept.push(file.clone());
                }
                _ => changed.push((name, source)),
            }
        }
        let committing = |files: StoredFiles| Step::Committing {
            prepared: prepared.clone(),
            proposal: proposal.clone(),
            files,
        };
        if changed.is_empty() {
            return Ok(kept.into());
        }
        // Before the first byte is stored under it: no other attempt on this disk takes the name again.
        self.advance(committing(kept.clone().into())).await?;
        let key = |(name, source): (FileName, Source)| match BlobKey::of_output(execution, proposal, &name) {
            Ok(key) => Ok((name, key, source)),
            Err(invalid) => Err(outputs::too_long(&name, &invalid)),
        };
        let uploads = changed.into_iter().map(key).collect::<Result<Vec<_>, _>>();
        let uploads = uploads.map_err(|problem| Error::Invalid(vec![problem]))?;
        let (stored, failed) = upload(&*self.plane.blobs, uploads, self.spec.parallel, &self.progress).await;
        let some = !stored.is_empty();
        kept.extend(stored.into_iter().map(|(blob, source)| {
            let identity = source.identity();
            StoredFile { blob, identity, settled: identity.is_settled() }
        }));
        let stored = StoredFiles::from(kept);
        if some {
            // What was stored need not be sent again when this commit is repeated.
            self.advance(committing(stored.clone())).await?;
        }
        failed.map_or(Ok(stored), |error| Err(self.named_by_the_contract(error)))
    }

    /// The error with names as the contract has them, where it tells of a file by its path.
    fn named_by_the_contract(&self, error: Error) -> Error {
        let Error::Invalid(mut problems) = error else { return error };
        let base = format!("{}/", self.slot.base().path().display());
        for problem in &mut problems {
            if let Some(name) = problem.file.strip_prefix(&base) {
                problem.file = name.to_owned();
            }
        }
        Error::Invalid(problems)
    }

    /// Stores what is too large for the record, and the contexts of the events.
    async fn store_documents(
        &self,
        execution: &ExecutionId,
        committed: &mut Committed,
        contents: &Contents,
        events: Vec<(String, OutputEvent)>,
        stored: &StoredFiles,
    ) -> Result<()> {
        self.store_outbox(execution, committed, contents.clone()).await?;
        let context = self.context();
        let event_context = |(published, (_, event)): (&Published, (String, OutputEvent))| {
            // Validation saw every named file, and every file was stored.
            let blobs = event.files.iter().filter_map(|name| Some(stored.get(name)?.blob.clone())).collect();
            let header = self.header(&published.event_id, &context);
            self.context_of(header, event, blobs, execution, &committed.proposal)
        };
        let contexts: Vec<_> = contents.events.iter().zip(events).map(event_context).collect();
        for contexts in contexts.chunks(AT_ONCE) {
            self.plane.documents.store(contexts).await?;
            fault::point("documents.put_event_contexts");
        }
        Ok(())
    }

    /// Puts the lists into the record, or into documents of their own where they are too large for it.
    pub(super) async fn store_outbox(
        &self,
        execution: &ExecutionId,
        committed: &mut Committed,
        contents: Contents,
    ) -> Result<()> {
        let (inside, chunks) = outbox(execution, &self.context(), &committed.proposal, contents);
        committed.contents = inside;
        for chunk in &chunks {
            self.plane.documents.store(std::slice::from_ref(chunk)).await?;
            fault::point("documents.put_outbox");
        }
        committed.outbox = chunks.into_iter().map(|chunk| chunk.id).collect();
        Ok(())
    }

    /// The context of an event of another execution, as one of this.
    pub(super) fn context_taken_over(
        &self,
        other: EventContext,
        event_id: EventId,
        execution: &ExecutionId,
        proposal: &PrivateId,
    ) -> EventContext {
        let header = self.header(&event_id, &self.context());
        let (name, run) = (execution.name.clone(), execution.run);
        let producer = Some(Producer { name, run, proposal: proposal.clone() });
        EventContext { context: header, producer, traceparent: self.traceparent(), ..other }
    }

    /// Ends an attempt whose outcome is published: its own outputs are cleared, others are set aside.
    pub(super) async fn settle(
        self: &Arc<Self>,
        own: Option<&ExecutionRecord>,
        record: &ExecutionRecord,
        mut receipt: crate::contract::Receipt,
    ) -> Result<crate::contract::Receipt> {
        let is_own = |own: &ExecutionRecord| {
            own.committed().map(|c| &c.proposal) == record.committed().map(|c| &c.proposal)
        };
        let won = own.is_some_and(is_own);
        if !won && record.attempt != self.attempt() {
            receipt.committed_by = Some(record.decided_by());
        }
        let prepared = self.journal.entry().step.prepared().cloned();
        let cleared = self.on_disk(move |this| match won {
            true => this.slot.clear_outputs().map(|()| None),
            false => this.slot.set_outputs_aside(),
        });
        match cleared.await {
            // Everything was published: what cannot be cleared is untidy, not a failure.
            Err(error) => warn!(error = error.chain(), "the outputs could not be cleared"),
            Ok(None) => {}
            Ok(Some(path)) => {
                warn!(path = %path.display(), "another attempt was first: these outputs were set aside")
            }
        }
        fault::point("outputs.clear");
        if let Some(own) = own.filter(|_| !won)
            && let Err(error) = self.remove_own(own, record).await
        {
            warn!(error = error.chain(), "what this attempt had stored is left for sidecar gc");
        }
        let step = Step::Done { prepared, receipt: receipt.clone() };
        self.change(move |entry| entry.step = step).await?;
        Ok(receipt)
    }

    /// Removes what a beaten proposal stored, except what the record names.
    async fn remove_own(&self, own: &ExecutionRecord, record: &ExecutionRecord) -> Result<()> {
        let (Some(own_committed), Some(committed)) = (own.committed(), record.committed()) else {
            return Ok(());
        };
        // Its own events are read first: its contexts are known by them.
        let contents = contents_of(&self.plane, own, own_committed).await?;
        let ids: Vec<String> = contents.events.iter().map(|event| event.event_id.to_string()).collect();
        let named = gc::named_keys(&self.plane, record, committed).await?;
        let owner = KeyOwner::Proposal(own.execution(), own_committed.proposal.clone());
        gc::remove_unnamed(&self.plane, &owner.prefix(), |_| true, &named, &mut gc::Collected::default())
            .await?;
        for ids in ids.chunks(AT_ONCE) {
            self.plane.documents.delete(Kind::Context, ids).await?;
        }
        self.plane.documents.delete(Kind::Outbox, &own_committed.outbox).await
    }
}

/// Whether the file is the one that was stored.
async fn is_unchanged(stored: &StoredFile, source: &Source) -> Result<bool> {
    if stored.identity != source.identity() || stored.settled {
        return Ok(stored.identity == source.identity());
    }
    let (source, digest) = (source.clone(), stored.blob.digest);
    blocking(move || Ok(source.describe()?.digest == digest)).await
}

/// A file as the record tells it: without its key, where that follows from its name.
fn recorded(execution: &ExecutionId, proposal: &PrivateId, file: &StoredFile) -> RecordedFile {
    let blob = &file.blob;
    let own = blob.key.owner() == Some(KeyOwner::Proposal(execution.clone(), proposal.clone()));
    RecordedFile {
        name: blob.name.clone(),
        size: blob.size,
        digest: blob.digest,
        executable: blob.executable,
        key: (!own).then(|| blob.key.clone()),
    }
}

/// What the record holds itself, and the documents that hold it instead where it is large.
pub(super) fn outbox(
    execution: &ExecutionId,
    context: &Context,
    proposal: &PrivateId,
    contents: Contents,
) -> (Contents, Vec<OutboxChunk>) {
    let mut parts = cut(&contents);
    if parts.len() == 1 {
        return (parts.remove(0), Vec::new());
    }
    let chunk = |(number, contents)| OutboxChunk {
        id: ids::chunk(execution, proposal, number),
        context: context.clone(),
        run: execution.run,
        proposal: proposal.clone(),
        contents,
    };
    (Contents::default(), parts.into_iter().enumerate().map(chunk).collect())
}

/// Cuts the lists of a record into parts of about [`OUTBOX_PART`] bytes; one alone fits into the record itself.
fn cut(contents: &Contents) -> Vec<Contents> {
    /// More than the punctuation of one entry of any list.
    const ENTRY: usize = 100;
    /// A digest as text, its name and the size's.
    const FILE: usize = 250;
    let mut parts = vec![Contents::default()];
    let mut size = 0;
    let mut part = |bytes: usize, add: &dyn Fn(&mut Contents)| {
        if size + bytes > OUTBOX_PART && size > 0 {
            parts.push(Contents::default());
            size = 0;
        }
        size += bytes;
        if let Some(last) = parts.last_mut() {
            add(last);
        }
    };
    // Text grows by as much when it is escaped; where it grows by more, stores take more than this.
    let text = |text: &str| 2 * text.len();
    let file = |file: &RecordedFile| {
        FILE + text(file.name.as_str()) + file.key.as_ref().map_or(0, |key| text(key.as_str()))
    };
    for input in &contents.inputs {
        part(file(input), &|part| part.inputs.push(input.clone()));
    }
    for output in &contents.outputs {
        part(file(output), &|part| part.outputs.push(output.clone()));
    }
    for pair in &contents.insight {
        part(ENTRY + text(&pair.key) + text(&pair.value), &|part| {
            part.insight.0.push(pair.clone());
        });
    }
    for event in &contents.events {
        part(ENTRY + text(&event.event_type) + text(&event.file), &|part| part.events.push(event.clone()));
    }
    parts
}
