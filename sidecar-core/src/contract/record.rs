//! The record of an execution: its outcome, decided once.

use serde::{Deserialize, Serialize};

use super::{
    BlobKey, Context, Digest, ExecutionId, FileName, InsightId, InvalidName, KeyValuePairs, PrivateId,
    Published, Receipt, TraceParent,
};

/// The outcome of an execution. It is stored once and never changes: whether it is published is another document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionRecord {
    /// The format of this document.
    pub format: u32,
    /// The oldest reader that can roll it forward: one that knows no format so young publishes nothing.
    pub min_reader: u32,
    /// The execution, but for its run.
    #[serde(flatten)]
    pub context: Context,
    /// Its run.
    pub run: u32,
    /// What was decided.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The attempt that decided it.
    pub attempt: PrivateId,
    /// The machine it ran on.
    pub host: String,
    /// The version of the sidecar.
    pub version: String,
    /// The run whose outcome this one replaces for people, where the module ran again on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<u32>,
}

/// What an execution ended in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase")]
pub enum Outcome {
    /// This run has no outcome and never will: the next attempt is another run.
    Abandoned,
    /// These outputs.
    Committed(Box<Committed>),
}

/// The outputs that were decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Committed {
    /// The proposal that won.
    pub proposal: PrivateId,
    /// The ids of the three stores that hold everything the record names.
    pub stores: Stores,
    /// When the attempt began: RFC 3339, UTC.
    pub started: String,
    /// When its inputs were staged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// When `done` was called.
    pub done: String,
    /// The module's exit code, where it had ended before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
    /// How many files were committed.
    pub files: u64,
    /// Their sizes together, in bytes.
    pub bytes: u64,
    /// The id of the insight document, if the module wrote one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insight_id: Option<InsightId>,
    /// How it stands to equal work, where the module is memoized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memoized: Option<Memoized>,
    /// The span that its events belong to, where there is one.
    #[serde(default, deserialize_with = "TraceParent::lenient", skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceParent>,
    /// The documents that hold `contents` where they are large, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outbox: Vec<String>,
    /// Everything that a roll-forward needs, and every file.
    #[serde(flatten)]
    pub contents: Contents,
}

/// How an outcome stands to that of equal work: of the same version of the module, on equal inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memoized {
    /// The version of the module, as whoever runs it says.
    pub version: String,
    /// The execution whose outcome was taken over; absent where the module ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused: Option<ExecutionId>,
    /// Why the module ran although it had an outcome in the same place: what differs. Empty where it had none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<String>,
}

/// Which outcome stands for some work: a hint, which is checked before it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memo {
    /// The document's id, made of what the work is.
    pub id: String,
    /// The execution with the outcome, but for its run.
    #[serde(flatten)]
    pub context: Context,
    /// Its run.
    pub run: u32,
    /// The version of the module.
    pub version: String,
}

impl Memo {
    /// The execution with the outcome.
    pub fn execution(&self) -> ExecutionId {
        let Context { event_id, name, .. } = &self.context;
        ExecutionId { event_id: event_id.clone(), name: name.clone(), run: self.run }
    }
}

/// The lists of a record, which may be cut into several documents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Contents {
    /// The files that were staged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<RecordedFile>,
    /// The files that were committed, also those that no event names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<RecordedFile>,
    /// The pairs of the insight.
    #[serde(skip_serializing_if = "KeyValuePairs::is_empty")]
    pub insight: KeyValuePairs,
    /// The events, in the order in which they are published.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Published>,
}

/// A file of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedFile {
    /// Its name below `in/data` or `out/data`.
    pub name: FileName,
    /// Its size in bytes.
    pub size: u64,
    /// The digest of its content.
    pub digest: Digest,
    /// Whether its owner may execute it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
    /// Where it is stored; an output without a key lies under the record's own proposal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<BlobKey>,
}

/// The ids of the three stores of a data plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stores {
    /// Where the files are.
    pub blobs: String,
    /// Where the documents are.
    pub documents: String,
    /// Where the events go.
    pub events: String,
}

/// A part of a record that is too large for one document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboxChunk {
    /// The document's id.
    pub id: String,
    /// The execution, but for its run.
    #[serde(flatten)]
    pub context: Context,
    /// Its run.
    pub run: u32,
    /// The proposal that stored it.
    pub proposal: PrivateId,
    /// The part.
    #[serde(flatten)]
    pub contents: Contents,
}

/// How far the events of a record are published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Publication {
    /// The document's id: the record's where every event was accepted, and another one on the way there.
    pub id: String,
    /// The execution, but for its run.
    #[serde(flatten)]
    pub context: Context,
    /// Its run.
    pub run: u32,
    /// How many events the bus has accepted, from the first on.
    pub published: u64,
    /// When: RFC 3339, UTC.
    pub time: String,
}

impl ExecutionRecord {
    /// The format that this release writes.
    pub const FORMAT: u32 = 1;

    /// Which execution it is of.
    pub fn execution(&self) -> ExecutionId {
        let Context { event_id, name, .. } = &self.context;
        ExecutionId { event_id: event_id.clone(), name: name.clone(), run: self.run }
    }

    /// What was committed; `None` when the run was abandoned.
    pub fn committed(&self) -> Option<&Committed> {
        match &self.outcome {
            Outcome::Committed(committed) => Some(committed),
            Outcome::Abandoned => None,
        }
    }

    /// Where an output is stored.
    ///
    /// # Errors
    /// [`InvalidName`] for a key that is too long, which no record has that this release wrote.
    pub fn output_key(&self, committed: &Committed, file: &RecordedFile) -> Result<BlobKey, InvalidName> {
        match &file.key {
            Some(key) => Ok(key.clone()),
            None => BlobKey::of_output(&self.execution(), &committed.proposal, &file.name),
        }
    }
}

impl Committed {
    /// The receipt of the commit, from the record and its `contents`.
    pub fn receipt(&self, contents: &Contents) -> Receipt {
        Receipt {
            files: self.files,
            bytes: self.bytes,
            insight: self.insight_id.clone(),
            events: contents.events.clone(),
            committed_by: None,
        }
    }
}
