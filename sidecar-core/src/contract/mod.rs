//! The contract between module, sidecar and data plane: names, documents, directories and wire bodies.
//!
//! Nothing in here does I/O, and nothing in here needs more than serde: a module's SDK depends on this
//! part of the crate alone.

mod api;
mod context;
mod documents;
mod layout;
mod names;
mod outputs;
mod pairs;
mod record;
mod reference;
mod trace;

pub use api::{
    ErrorBody, LONGEST_REASON, NextAnswer, Phase, Prepared, Published, ReadyAnswer, Receipt, Status,
};
pub use context::Context;
pub use documents::{
    Attempts, Blob, Culprit, DeadLetter, Digest, Event, EventContext, EventHeader, Failure, Insight, Producer,
};
pub use layout::Layout;
#[cfg(any(feature = "bucket", feature = "engine"))]
pub(crate) use names::MAX_KEY;
pub use names::{
    BlobKey, EventId, ExecutionId, FailureId, FileName, InsightId, InvalidName, KeyOwner, ModuleName,
    PrivateId,
};
pub use outputs::{EVENT_TYPE, EventTypes, FILES, OutputEvent, Problem, parse_event, parse_pairs};
pub use pairs::{KeyValuePair, KeyValuePairs};
pub use record::{
    Committed, Contents, ExecutionRecord, Memo, Memoized, OutboxChunk, Outcome, Publication, RecordedFile,
    Stores,
};
pub use reference::{ObjectDigest, Pinned, Reference};
pub use trace::TraceParent;

/// The greatest size of one file in `out/events`, in bytes.
///
/// An event is a message, not a payload: the strictest bus this contract is carried by (Service Bus,
/// standard tier) takes 256 KiB a message, and files travel through the blob provider.
pub const MAX_EVENT_FILE: u64 = 256 * 1024;

/// The greatest size of `out/meta.json`, in bytes: what MongoDB takes as one document.
pub const MAX_META_FILE: u64 = 16 * 1024 * 1024;
