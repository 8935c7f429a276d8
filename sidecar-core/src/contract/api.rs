//! The bodies of the HTTP API.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Context, EventId, InsightId, Problem, TraceParent};

/// What `ready` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// How many files lie in `in/data`.
    pub files: u64,
    /// Their sizes together, in bytes.
    pub bytes: u64,
    /// How many pairs `in/meta.json` holds.
    pub values: u64,
}

/// The body of the answer to `/ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyAnswer {
    /// What was staged.
    #[serde(flatten)]
    pub prepared: Prepared,
    /// The execution that the module works for; absent where the sidecar is one of release 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Context>,
    /// The span that the module's own spans belong to, where there is one.
    #[serde(default, deserialize_with = "TraceParent::lenient", skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceParent>,
}

/// What `done` answers: everything that one commit made durable.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// How many files were committed.
    pub files: u64,
    /// Their sizes together, in bytes.
    pub bytes: u64,
    /// The id of the insight document, if the module wrote one.
    pub insight: Option<InsightId>,
    /// The events, in the order of their file names.
    pub events: Vec<Published>,
    /// Which attempt's outputs these are, where they are not the caller's own: another one was first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_by: Option<String>,
}

impl Receipt {
    /// Whether nothing was committed but that the module has run: no file, no event, no insight.
    pub fn is_empty(&self) -> bool {
        self.files == 0 && self.events.is_empty() && self.insight.is_none()
    }
}

/// One published event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// The event's id.
    pub event_id: EventId,
    /// The event's type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The file in `out/events` that it was made of.
    pub file: String,
}

/// Where an execution stands.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nothing happened yet.
    New,
    /// `ready` is staging the inputs.
    #[serde(alias = "preparing")]
    Staging,
    /// The inputs are staged; the module works.
    Ready,
    /// `done` is storing the outputs.
    Committing,
    /// The outputs are stored, and the document store is asked whether they are the outcome.
    Deciding,
    /// The outcome is decided, and its events are being published.
    Publishing,
    /// The outcome is published.
    Done,
    /// The module gave up.
    Failed,
}

impl Phase {
    /// Every phase, in their order.
    pub const ALL: [Self; 8] = [
        Self::New,
        Self::Staging,
        Self::Ready,
        Self::Committing,
        Self::Deciding,
        Self::Publishing,
        Self::Done,
        Self::Failed,
    ];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Staging => "staging",
            Self::Ready => "ready",
            Self::Committing => "committing",
            Self::Deciding => "deciding",
            Self::Publishing => "publishing",
            Self::Done => "done",
            Self::Failed => "failed",
        })
    }
}

/// What `next` answers: the event that a warm module works on next, staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NextAnswer {
    /// The sizes of the files together, in bytes.
    #[serde(default)]
    pub bytes: u64,
    /// The event, which is named when the module has finished it.
    pub event_id: EventId,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Which attempt at it this is, from 1 on.
    pub attempt: u32,
    /// How long the module may be silent, in seconds; absent where it may be for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
    /// How many files are in `in/data`.
    pub files: u64,
    /// How many values are in `in/meta.json`.
    pub values: u64,
    /// Which attempt's outputs count for the event that was finished, where they are not the caller's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_by: Option<String>,
    /// Which execution it is.
    pub context: Context,
    /// The span that the module's own spans belong to, where there is one.
    #[serde(default, deserialize_with = "TraceParent::lenient", skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceParent>,
}

/// What `status` answers.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Where the execution stands.
    pub phase: Phase,
    /// Which execution it is.
    pub context: Context,
    /// Files moved by the running or last transfer.
    pub files: u64,
    /// Files that transfer moves in all.
    pub files_total: u64,
    /// Bytes moved by the running or last transfer.
    pub bytes: u64,
    /// Bytes that transfer moves in all.
    pub bytes_total: u64,
    /// Why the module gave up, when it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// The HTTP status code.
    pub status_code: u16,
    /// What went wrong and what to do.
    pub message: String,
    /// Whether the same call can succeed later without a change by the caller.
    #[serde(default)]
    pub retryable: bool,
    /// Everything that is wrong with the module's outputs.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// The longest reason that `/fail` takes, in bytes.
pub const LONGEST_REASON: usize = 64 * 1024;
