//! The kinds of documents, and which type is of which kind.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::contract::{
    Attempts, DeadLetter, EventContext, ExecutionRecord, Failure, Insight, Memo, ObjectDigest, OutboxChunk,
    Publication,
};

/// A set of documents: a directory, a table, or a prefix of ids, as the store likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// What a consumer looks up by event id.
    Context,
    /// What modules found out.
    Insight,
    /// Why executions ended without an outcome.
    Failure,
    /// The outcomes of executions.
    Execution,
    /// Parts of outcomes that are too large for one document.
    Outbox,
    /// How far the events of outcomes are published.
    Published,
    /// How often workers have begun an execution that has no outcome yet.
    Attempts,
    /// Events that workers gave up.
    DeadLetter,
    /// Which outcomes stand for equal work.
    Memo,
    /// What objects that events refer to hold.
    Digest,
}

impl Kind {
    /// Every kind, for a store that prepares a place for each.
    pub const ALL: [Self; 10] = [
        Self::Context,
        Self::Insight,
        Self::Failure,
        Self::Execution,
        Self::Outbox,
        Self::Published,
        Self::Attempts,
        Self::DeadLetter,
        Self::Memo,
        Self::Digest,
    ];

    /// The name of one document of this kind.
    pub fn name(self) -> &'static str {
        match self {
            Self::Context => "context",
            Self::Insight => "insight",
            Self::Failure => "failure",
            Self::Execution => "execution",
            Self::Outbox => "outbox",
            Self::Published => "published",
            Self::Attempts => "attempts",
            Self::DeadLetter => "dead_letter",
            Self::Memo => "memo",
            Self::Digest => "digest",
        }
    }

    /// The name of the set: of a directory or a table.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Context => "contexts",
            Self::Insight => "insights",
            Self::Failure => "failures",
            Self::Execution => "executions",
            Self::Outbox => "outbox",
            Self::Published => "published",
            Self::Attempts => "attempts",
            Self::DeadLetter => "dead_letters",
            Self::Memo => "memos",
            Self::Digest => "digests",
        }
    }

    /// One of them in a sentence, with its article.
    pub fn one(self) -> &'static str {
        match self {
            Self::Context => "an event context",
            Self::Insight => "an insight",
            Self::Failure => "a failure",
            Self::Execution => "an execution record",
            Self::Outbox => "a part of an outbox",
            Self::Published => "a note of what is published",
            Self::Attempts => "a count of attempts",
            Self::DeadLetter => "a dead letter",
            Self::Memo => "a memo of equal work",
            Self::Digest => "the digest of an object",
        }
    }

    /// Several of them in a sentence.
    pub fn many(self) -> &'static str {
        match self {
            Self::Context => "event contexts",
            Self::Insight => "insights",
            Self::Failure => "failures",
            Self::Execution => "execution records",
            Self::Outbox => "parts of an outbox",
            Self::Published => "notes of what is published",
            Self::Attempts => "counts of attempts",
            Self::DeadLetter => "dead letters",
            Self::Memo => "memos of equal work",
            Self::Digest => "digests of objects",
        }
    }
}

/// A type whose values are documents of one kind.
pub trait Stored: Serialize + DeserializeOwned + Send + Sync {
    /// The kind.
    const KIND: Kind;

    /// What it is found by.
    fn id(&self) -> String;

    /// The graph that it belongs to.
    fn correlation_id(&self) -> &str;
}

impl Stored for EventContext {
    const KIND: Kind = Kind::Context;

    fn id(&self) -> String {
        self.context.event_id.to_string()
    }

    fn correlation_id(&self) -> &str {
        &self.context.correlation_id
    }
}

impl Stored for Insight {
    const KIND: Kind = Kind::Insight;

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn correlation_id(&self) -> &str {
        &self.context.correlation_id
    }
}

impl Stored for Failure {
    const KIND: Kind = Kind::Failure;

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn correlation_id(&self) -> &str {
        &self.context.correlation_id
    }
}

impl Stored for ExecutionRecord {
    const KIND: Kind = Kind::Execution;

    fn id(&self) -> String {
        crate::execution::record_id(&self.execution())
    }

    fn correlation_id(&self) -> &str {
        &self.context.correlation_id
    }
}

impl Stored for OutboxChunk {
    const KIND: Kind = Kind::Outbox;

    fn id(&self) -> String {
        self.id.clone()
    }

    fn correlation_id(&self) -> &str {
        &self.context.correlation_id
    }
}

impl Stored for Publication {
    const KIND: Kind = Kind::Published;

    fn id(&self) -> String {
        self.id.clone()
    }

    fn correlation_id(&self) -> &str {
        &self.context.correlation_id
    }
}

impl Stored for Attempts {
    const KIND: Kind = Kind::Attempts;

    fn id(&self) -> String {
        self.id.clone()
    }

    fn correlation_id(&self) -> &str {
        &self.context.correlation_id
    }
}

impl Stored for DeadLetter {
    const KIND: Kind = Kind::DeadLetter;

    fn id(&self) -> String {
        self.id.clone()
    }

    fn correlation_id(&self) -> &str {
        &self.context.correlation_id
    }
}

impl Stored for Memo {
    const KIND: Kind = Kind::Memo;

    fn id(&self) -> String {
        self.id.clone()
    }

    fn correlation_id(&self) -> &str {
        &self.context.correlation_id
    }
}

impl Stored for ObjectDigest {
    const KIND: Kind = Kind::Digest;

    fn id(&self) -> String {
        self.id.clone()
    }

    fn correlation_id(&self) -> &str {
        &self.correlation_id
    }
}
