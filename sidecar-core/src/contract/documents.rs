//! What goes into the stores: events for the bus, event contexts and insights for the document store.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::{
    BlobKey, Context, EventId, FailureId, FileName, InsightId, KeyValuePairs, ModuleName, Phase, PrivateId,
    Reference, TraceParent,
};

/// The message on the bus; it starts the next modules.
///
/// It carries no files and no values: the consumer looks the [`EventContext`] up by `context.eventId`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Where the event stands in its graph; `name` is empty, since the bus decides who consumes it.
    pub context: EventHeader,
    /// The type that consumers subscribe to.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Kept for Ion's dispatcher, which fills it.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub previous_stages: Vec<String>,
    /// Kept for Ion's dispatcher; values travel in the event context.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub data: KeyValuePairs,
    /// The trace that it belongs to, and the span that caused it, where there is one.
    #[serde(default, deserialize_with = "TraceParent::lenient", skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceParent>,
}

/// The context of an event that no module processes yet: a [`Context`] whose module may be unnamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventHeader {
    /// The processing module; empty until one is chosen.
    #[serde(default)]
    pub name: String,
    /// The event.
    pub event_id: EventId,
    /// Shared by all events that descend from one first event.
    pub correlation_id: String,
    /// The event whose processing published this one; empty for the first event of a graph.
    #[serde(default)]
    pub parent_event_id: String,
}

/// The document a consumer looks up by event id: the event's files and values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventContext {
    /// Where the event stands in its graph.
    #[serde(flatten)]
    pub context: EventHeader,
    /// The names of the event's files, in the order in which the module named them.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub files: Vec<FileName>,
    /// The values that the consumer finds in `in/meta.json`.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub data: KeyValuePairs,
    /// The manifest: one entry for each of `files` that the blob store has.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub blobs: Vec<Blob>,
    /// The others of `files`, which lie elsewhere; only a submitted event has any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<Reference>,
    /// The event's type, where the event was submitted: the context and its event are stored as one.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// The proposal that stored it; absent for a submitted event, and in documents of release 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub producer: Option<Producer>,
    /// The trace that it belongs to, and the span that caused it, where there is one.
    #[serde(default, deserialize_with = "TraceParent::lenient", skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceParent>,
}

/// Which proposal of which execution stored a document. The execution's event is the document's parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Producer {
    /// The module.
    pub name: ModuleName,
    /// Its run.
    pub run: u32,
    /// The proposal.
    pub proposal: PrivateId,
}

/// One file in the blob store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// The file's name below `out/data` of its producer and `in/data` of its consumers.
    pub name: FileName,
    /// Where the blob provider keeps it.
    pub key: BlobKey,
    /// Its size in bytes.
    pub size: u64,
    /// The digest of its content.
    pub digest: Digest,
    /// Whether its owner may execute it.
    #[serde(default)]
    pub executable: bool,
}

/// A BLAKE3 digest of 256 bits, written `blake3:` and 64 lower-case hexadecimal digits.
///
/// ```
/// use sidecar_core::Digest;
/// let digest = Digest([0xab; 32]);
/// assert_eq!(digest.to_string(), format!("blake3:{}", "ab".repeat(32)));
/// assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
/// assert_eq!(Digest::parse("md5:900150983cd24fb0d6963f7d28e17f72"), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Parses the written form; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("blake3:")?;
        if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("blake3:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl TryFrom<String> for Digest {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is no BLAKE3 digest"))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// What a module found out, kept for later analysis; it does not travel to consumers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Insight {
    /// The execution that found it.
    #[serde(flatten)]
    pub context: Context,
    /// The document's id; the same for every commit of the same execution.
    pub id: InsightId,
    /// The pairs of `out/meta.json`.
    pub data: KeyValuePairs,
}

/// Why an execution ended without a commit, kept for whoever looks into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The execution that failed.
    #[serde(flatten)]
    pub context: Context,
    /// The document's id; the same for every failure of the same attempt.
    pub id: FailureId,
    /// The attempt that failed; absent in documents of release 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<PrivateId>,
    /// What went wrong, for a person.
    pub reason: String,
    /// Where the execution stood.
    pub phase: Phase,
    /// Whose turn it is to mend it.
    pub culprit: Culprit,
    /// Whether the same execution can succeed later without a change.
    pub retryable: bool,
    /// When it ended: RFC 3339, UTC.
    pub time: String,
    /// What was kept of its outputs; empty unless that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<Blob>,
}

/// Whose turn it is after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Culprit {
    /// The module gave up, or ended in an error.
    Module,
    /// What the event names is not there, or damaged.
    Inputs,
    /// What the module wrote cannot be committed.
    Outputs,
    /// A store or a bus.
    Provider,
    /// This machine, or the sidecar itself.
    Sidecar,
}

/// How often workers have begun an execution that has no outcome yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempts {
    /// The execution.
    #[serde(flatten)]
    pub context: Context,
    /// The document's id; the same for every attempt at the execution.
    pub id: String,
    /// How many attempts were begun, those that were handed back left out.
    pub attempts: u32,
    /// When the last of them began: RFC 3339, UTC, in seconds.
    pub time: String,
    /// Its span, where it was traced.
    #[serde(default, deserialize_with = "TraceParent::lenient", skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceParent>,
}

impl Attempts {
    /// More attempts than anybody allows: the event was given up, and its dead letter was dropped.
    pub const DROPPED: u32 = u32::MAX;
}

/// An event that no worker of a group will try again, until a person sends it once more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// The execution that did not come about.
    #[serde(flatten)]
    pub context: Context,
    /// The document's id; the same whenever this event is given up for this module.
    pub id: String,
    /// The consumer group that gave it up.
    pub group: String,
    /// The event as it was received.
    pub event: Event,
    /// Why it was given up, for a person.
    pub reason: String,
    /// The document of the last attempt's failure; absent where the attempt could leave none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureId>,
    /// How many attempts were begun.
    pub attempts: u32,
    /// When it was given up: RFC 3339, UTC.
    pub time: String,
}

/// Ion writes an absent list as `null`.
fn null_as_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
