//! Nothing is computed twice: the outcome of a decided execution stands for that of an equal one.
//!
//! What is found is only a hint. The record that it leads to is read, its files are looked at, and a proposal that names
//! them goes through the same decision as every other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::journal::Step;
use super::record::{AT_ONCE, contents_of, find};
use super::{Execution, Inputs, ids, now, stores};
use crate::blob::BlobProvider;
use crate::contract::{
    BlobKey, Committed, Contents, Digest, EventContext, ExecutionId, ExecutionRecord, FileName, KeyOwner,
    KeyValuePairs, Memo, Memoized, Outcome, PrivateId, Published, RecordedFile,
};
use crate::documents::Documents as _;
use crate::error::{Error, Result};
use crate::fault;

/// How long a memo may be followed after it was read: from twice this time on, what it named may be removed.
pub(crate) const VALID: Duration = Duration::from_secs(30);

/// The most differences that a record tells.
const DIFFERENCES: usize = 5;

/// What an execution is remembered by.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// Equal work has an equal one.
    work: String,
    /// The same place in other work: this module, for an event of this type with files of these names; the first with the
    /// same values too.
    places: [String; 2],
    pub(super) memoized: Memoized,
}

impl Key {
    fn new(
        execution: &Execution,
        version: &str,
        event_type: &str,
        context: &EventContext,
        inputs: &[RecordedFile],
    ) -> Self {
        let module = execution.context().name;
        // Each part with its length, so that they cannot run into each other.
        let (mut work, mut place) = (blake3::Hasher::new(), blake3::Hasher::new());
        let mut near = blake3::Hasher::new();
        let add = |hash: &mut blake3::Hasher, part: &[u8]| {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        };
        for hash in [&mut work, &mut place, &mut near] {
            add(hash, module.as_str().as_bytes());
            add(hash, event_type.as_bytes());
        }
        add(&mut work, version.as_bytes());
        for hash in [&mut work, &mut near] {
            add(hash, &(context.data.len() as u64).to_le_bytes());
            for pair in &context.data {
                add(hash, pair.key.as_bytes());
                add(hash, pair.value.as_bytes());
            }
        }
        for (name, content) in files(inputs) {
            add(&mut place, name.as_str().as_bytes());
            add(&mut near, name.as_str().as_bytes());
            add(&mut work, name.as_str().as_bytes());
            add(&mut work, &content.0.0);
            add(&mut work, &[u8::from(content.1)]);
        }
        let memoized = Memoized { version: version.to_owned(), reused: None, because: Vec::new() };
        let id = |kind: &str, hash: &blake3::Hasher| format!("{kind}-{}", hash.finalize().to_hex());
        Self { work: id("work", &work), places: [id("place", &near), id("place", &place)], memoized }
    }
}

/// The files that a module gets, by name: what they hold, and whether they can be executed.
fn files(inputs: &[RecordedFile]) -> BTreeMap<&FileName, (Digest, bool)> {
    inputs.iter().map(|file| (&file.name, (file.digest, file.executable))).collect()
}

/// What is remembered once it is known what the inputs hold.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    version: String,
    event_type: String,
    context: EventContext,
}

impl Inputs {
    /// What the record says of the memory, if there is one.
    pub(super) fn memoized(&self) -> Option<Memoized> {
        self.memo.as_ref().map(|key| key.memoized.clone())
    }
}

impl Execution {
    /// A proposal to take over the outcome of equal work, which the journal holds when this returns; `None` where the
    /// module has to run.
    pub(super) async fn propose_equal(self: &Arc<Self>, event_type: &str) -> Result<Option<ExecutionRecord>> {
        let Some(version) = self.spec.memoize.clone() else { return Ok(None) };
        // Without a context it begins a graph: then there is nothing to compare.
        let Some(context) = self.event_context().await? else { return Ok(None) };
        self.inherit(&context).await?;
        let inputs = self.named_inputs(&context).await?;
        if inputs.len() < context.files.len() {
            // What nobody has staged yet, nobody has worked on.
            let pending = Pending { version, event_type: event_type.to_owned(), context: context.clone() };
            let mut inputs = self.inputs();
            (inputs.context, inputs.pending) = (Some(context), Some(pending));
            return Ok(None);
        }
        let mut key = Key::new(self, &version, event_type, &context, &inputs);
        let found = Instant::now();
        let memo: Option<Memo> = self.plane.documents.find(&key.work).await?;
        let proposal = match memo {
            Some(memo) => self.take_over(&memo.execution(), &key, &context, found).await?,
            None => None,
        };
        if proposal.is_none() {
            key.memoized.because = self.why_again(&key, &context, &inputs).await?;
            let mut inputs = self.inputs();
            (inputs.context, inputs.memo) = (Some(context), Some(key));
        }
        Ok(proposal)
    }

    /// The proposal of what another execution has come to; `None` where that is not there as a whole.
    async fn take_over(
        self: &Arc<Self>,
        of: &ExecutionId,
        key: &Key,
        event: &EventContext,
        found_at: Instant,
    ) -> Result<Option<ExecutionRecord>> {
        let documents = &self.plane.documents;
        let Some(other) = find(&**documents, of).await? else { return Ok(None) };
        let Some(found) = other.committed().filter(|found| found.stores == stores(&self.plane)) else {
            return Ok(None);
        };
        if self.is_replaced(of).await? {
            info!("the outcome of {of} was replaced by that of a later run, and is not taken over");
            return Ok(None);
        }
        let mut contents = contents_of(&self.plane, &other, found).await?;
        if contents.events.iter().any(|event| !self.spec.event_types.allow(&event.event_type)) {
            return Ok(None);
        }
        // Every key is written down: the files lie under the other's names.
        for file in &mut contents.outputs {
            match other.output_key(found, file) {
                Ok(key) => file.key = Some(key),
                Err(_) => return Ok(None),
            }
        }
        if !self.are_there(&contents.outputs).await? {
            warn!("the files of {of} are not in {} any more: the module runs", self.plane.blobs);
            return Ok(None);
        }
        let (execution, proposal) = (self.id(), PrivateId::random());
        let mut contexts = Vec::with_capacity(contents.events.len());
        for published in &mut contents.events {
            let Some(context) = documents.find::<EventContext>(published.event_id.as_str()).await? else {
                return Ok(None);
            };
            let event_id = ids::event(&execution, &proposal, &published.file);
            contexts.push(self.context_taken_over(context, event_id.clone(), &execution, &proposal));
            *published = Published { event_id, ..published.clone() };
        }
        contents.inputs = self.inputs_of(event).await?;

        let mut committed = Committed {
            stores: stores(&self.plane),
            started: self.journal.entry().started.clone(),
            ready: None,
            done: now(),
            exit: None,
            files: found.files,
            bytes: found.bytes,
            insight_id: found.insight_id.as_ref().map(|_| ids::insight(&execution)),
            outbox: Vec::new(),
            contents: Contents::default(),
            memoized: Some(Memoized { reused: Some(of.clone()), ..key.memoized.clone() }),
            proposal,
            traceparent: self.traceparent(),
        };
        self.store_outbox(&execution, &mut committed, contents).await?;
        for contexts in contexts.chunks(AT_ONCE) {
            documents.store(contexts).await?;
            fault::point("documents.put_event_contexts");
        }
        if found_at.elapsed() > VALID {
            info!("the outcome of {of} is not taken over: it took too long, and may be removed by now");
            return Ok(None);
        }
        let outcome = Outcome::Committed(Box::new(committed));
        let record = ExecutionRecord::new(self.context(), execution.run, self.attempt(), outcome);
        let step = Step::Deciding { prepared: None, record: Box::new(record.clone()) };
        self.advance(step).await?;
        info!("takes over the outcome of {of}: the module, its version and its inputs are equal");
        Ok(Some(record))
    }

    /// Whether a later run of it has an outcome.
    async fn is_replaced(&self, of: &ExecutionId) -> Result<bool> {
        let mut later = of.clone();
        loop {
            later.run += 1;
            match find(&*self.plane.documents, &later).await? {
                Some(record) if record.committed().is_some() => return Ok(true),
                Some(_) => {}
                None => return Ok(false),
            }
        }
    }

    /// Whether the store has all these files, each with its size. What they hold is checked by whoever stages them.
    async fn are_there(&self, files: &[RecordedFile]) -> Result<bool> {
        let keys: Vec<(&BlobKey, u64)> =
            files.iter().filter_map(|file| Some((file.key.as_ref()?, file.size))).collect();
        let owners: Option<BTreeSet<KeyOwner>> = keys.iter().map(|(key, _)| key.owner()).collect();
        // Whatever others may write again is no outcome.
        let Some(owners) = owners else { return Ok(false) };
        let there = stored_by(&*self.plane.blobs, owners).await?;
        Ok(keys.iter().all(|(key, size)| there.get(&*self.plane.blobs.folded(key)) == Some(size)))
    }

    /// Why the module runs although one like it did: what differs from the last outcome in its place.
    async fn why_again(
        self: &Arc<Self>,
        key: &Key,
        context: &EventContext,
        inputs: &[RecordedFile],
    ) -> Result<Vec<String>> {
        let documents = &self.plane.documents;
        let mut memo = None;
        for place in &key.places {
            let found: Option<Memo> = documents.find(place).await?;
            // One of the same submission is its neighbour, and not an earlier one.
            memo = found.filter(|memo| memo.context.correlation_id != context.context.correlation_id);
            if memo.is_some() {
                break;
            }
        }
        let Some(memo) = memo else { return Ok(Vec::new()) };
        if memo.version != key.memoized.version {
            return Ok(vec![format!("version {} instead of {}", key.memoized.version, memo.version)]);
        }
        let Some(before) = documents.find::<EventContext>(memo.context.event_id.as_str()).await? else {
            return Ok(Vec::new());
        };
        let inputs_before = self.named_inputs(&before).await?;
        let (earlier, mut differences) = (files(&inputs_before), Vec::new());
        for (name, content) in files(inputs) {
            match earlier.get(name) {
                Some(other) if *other == content => {}
                _ => differences.push(format!("input {name} differs")),
            }
        }
        differences.extend(differing_values(&before.data, &context.data));
        if differences.is_empty() {
            // The same work: its outcome was not to be had.
            differences.push(format!("the outcome of {} could not be taken over", memo.execution()));
        }
        if let more @ 1.. = differences.len().saturating_sub(DIFFERENCES) {
            differences.truncate(DIFFERENCES);
            differences.push(format!("and {more} more"));
        }
        Ok(differences)
    }

    /// What is known of the files that an event names; a foreign context may list others.
    async fn named_inputs(self: &Arc<Self>, context: &EventContext) -> Result<Vec<RecordedFile>> {
        let mut inputs = self.inputs_of(context).await?;
        let names: BTreeSet<_> = context.files.iter().collect();
        inputs.retain(|file| names.contains(&file.name));
        Ok(inputs)
    }

    /// Makes the key of an execution whose inputs were not known before they were staged.
    pub(super) async fn remember_staged(self: &Arc<Self>, staged: &[RecordedFile]) -> Result<()> {
        let pending = self.inputs().pending.clone();
        let Some(Pending { version, event_type, context }) = pending else { return Ok(()) };
        let mut key = Key::new(self, &version, &event_type, &context, staged);
        key.memoized.because = self.why_again(&key, &context, staged).await?;
        let mut inputs = self.inputs();
        (inputs.memo, inputs.pending) = (Some(key), None);
        Ok(())
    }

    /// Remembers that this outcome stands for equal work. Whoever finds nothing runs the module.
    pub(super) async fn remember(&self, record: &ExecutionRecord) {
        let Some(key) = self.inputs().memo.take() else { return };
        let memo = |id: String| Memo {
            id,
            context: record.context.clone(),
            run: record.run,
            version: key.memoized.version.clone(),
        };
        let [near, place] = &key.places;
        let memos = [key.work.clone(), near.clone(), place.clone()].map(memo);
        if let Err(error) = self.plane.documents.store(&memos).await {
            warn!("equal work will not find this outcome: {}", error.chain());
        }
    }
}

/// The sizes of everything that these writers have stored, by key as the store sees it.
pub(super) async fn stored_by(
    store: &dyn BlobProvider,
    owners: impl IntoIterator<Item = KeyOwner>,
) -> Result<HashMap<String, u64>, Error> {
    let mut there = HashMap::new();
    for owner in owners {
        let (prefix, mut after) = (owner.prefix(), None);
        loop {
            let page = store.list(&prefix, after.as_ref()).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            there.extend(page.iter().map(|listed| (store.folded(&listed.key).into_owned(), listed.size)));
        }
    }
    Ok(there)
}

fn differing_values(before: &KeyValuePairs, now: &KeyValuePairs) -> Vec<String> {
    fn by_key(pairs: &KeyValuePairs) -> BTreeMap<&str, Vec<&str>> {
        let mut all = BTreeMap::<_, Vec<_>>::new();
        pairs.iter().for_each(|pair| all.entry(&*pair.key).or_default().push(&*pair.value));
        all
    }
    let (before, now) = (by_key(before), by_key(now));
    let keys: BTreeSet<_> = before.keys().chain(now.keys()).collect();
    let differing = keys.into_iter().filter(|key| before.get(*key) != now.get(*key));
    differing
        .map(|key| match (before.get(key), now.get(key)) {
            (None, _) => format!("value {key} is new"),
            (_, None) => format!("value {key} is missing"),
            _ => format!("value {key} differs"),
        })
        .collect()
}
