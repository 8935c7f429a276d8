//! Whether the files that a trace names are there, and are what they were.

use std::collections::BTreeMap;

use futures_util::stream::{self, StreamExt};

use super::Trace;
use crate::blob::Target;
use crate::contract::{
    Blob, Context, EventContext, EventId, ExecutionId, ExecutionRecord, Publication, Published, RecordedFile,
    Reference,
};
use crate::documents::Documents as _;
use crate::error::{Error, Result};
use crate::execution::{fetch, fetch_object, object_id, record_id, referenced};
use crate::plane::DataPlane;

/// Files that are read at the same time.
const AT_ONCE: usize = 4;

/// What was found.
#[derive(Debug)]
pub struct Verified {
    /// How many files were read.
    pub files: u64,
    /// Their sizes together, in bytes.
    pub bytes: u64,
    /// Those that are gone or not what they were.
    pub damaged: Vec<Damaged>,
}

/// A file that is gone or not what it was, or a record that is gone.
#[derive(Debug)]
pub struct Damaged {
    /// The key of the file, the URL of one that was referred to, the event, or the execution.
    pub what: String,
    /// What is wrong.
    pub error: Error,
}

impl Trace {
    /// Reads every file that is named, and compares it with every digest that is named for it: by events, as outputs, and as
    /// the inputs of records. Finds published events whose context is gone, and outcomes whose record is. Nothing is written.
    ///
    /// # Errors
    /// When a store cannot be asked.
    pub async fn verify(&self, plane: &DataPlane) -> Result<Verified> {
        let inputs: Vec<Blob> = self
            .executions
            .iter()
            .flat_map(|execution| &execution.inputs)
            .filter_map(|file| {
                let RecordedFile { name, size, digest, executable, key } = file.clone();
                Some(Blob { name, key: key?, size, digest, executable })
            })
            .collect();
        let outputs = self.executions.iter().flat_map(|execution| &execution.outputs);
        let named = self.events.iter().flat_map(|event| &event.files).chain(outputs).chain(&inputs);
        let blobs: BTreeMap<_, &Blob> =
            named.map(|blob| ((&blob.key, blob.digest.0, blob.size), blob)).collect();
        let mut verified = Verified { files: 0, bytes: 0, damaged: Vec::new() };
        let references: BTreeMap<_, _> =
            self.events.iter().flat_map(|event| &event.references).map(|of| (object_id(of), of)).collect();
        let files = blobs.into_values().map(Named::Blob).chain(references.into_values().map(Named::Object));
        let reading: Vec<_> = files.map(|file| read(plane, file)).collect();
        let mut reading = stream::iter(reading).buffer_unordered(AT_ONCE);
        let mut failed = None;
        while let Some((file, read)) = reading.next().await {
            let (what, size) = match file {
                Named::Blob(blob) => (blob.key.as_str(), blob.size),
                Named::Object(of) => (&*of.url, of.pinned.size),
            };
            verified.files += 1;
            match read {
                Ok(()) => verified.bytes += size,
                Err(error @ (Error::NotFound { .. } | Error::Corrupt { .. })) => {
                    verified.damaged.push(Damaged { what: what.to_owned(), error });
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        drop(reading);
        if let Some(error) = failed {
            return Err(error);
        }
        verified.damaged.extend(self.other_digests(plane).await?);
        verified.damaged.extend(self.missing_contexts(plane).await?);
        verified.damaged.extend(self.missing_records(plane).await?);
        verified.damaged.sort_by(|one, other| one.what.cmp(&other.what));
        Ok(verified)
    }
}

impl Trace {
    /// Records that have another digest for what was referred to than was found when it was staged for the first time.
    async fn other_digests(&self, plane: &DataPlane) -> Result<Vec<Damaged>> {
        let mut other = Vec::new();
        for event in self.events.iter().filter(|event| !event.references.is_empty()) {
            let known = referenced(plane, &event.references).await?;
            for execution in self.executions.iter().filter(|of| of.event_id == event.event_id) {
                let differs = |input: &&RecordedFile| {
                    known.iter().any(|known| known.name == input.name && known.digest != input.digest)
                };
                other.extend(execution.inputs.iter().filter(differs).map(|input| {
                    let what = format!("{}/{}/{}", execution.event_id, execution.module, execution.run);
                    let error = Error::Corrupt {
                        provider: plane.documents.to_string(),
                        what: format!("the record of {what}"),
                        problem: format!(
                            "its input {:?} has another digest than the object",
                            input.name.as_str()
                        ),
                    };
                    Damaged { what, error }
                }));
            }
        }
        Ok(other)
    }

    /// Events that an outcome has published, and whose context is gone: their consumers cannot begin.
    async fn missing_contexts(&self, plane: &DataPlane) -> Result<Vec<Damaged>> {
        let mut missing = Vec::new();
        let published = self.executions.iter().flat_map(|execution| &execution.events);
        let is_known = |id: &EventId| self.event(id).is_some_and(|event| event.module.is_some());
        for Published { event_id, .. } in published.filter(|published| !is_known(&published.event_id)) {
            if plane.documents.find::<EventContext>(event_id.as_str()).await?.is_none() {
                let error = Error::Corrupt {
                    provider: plane.documents.to_string(),
                    what: format!("the context of event {event_id}"),
                    problem: "the event was published, and this is gone".into(),
                };
                missing.push(Damaged { what: event_id.to_string(), error });
            }
        }
        Ok(missing)
    }

    /// Outcomes that were published, and have no record any more.
    async fn missing_records(&self, plane: &DataPlane) -> Result<Vec<Damaged>> {
        let published: Vec<Publication> = plane.documents.graph(&self.correlation_id).await?;
        let mut missing = Vec::new();
        for note in published {
            let is_there =
                self.execution(&note.context.event_id, &note.context.name, Some(note.run)).is_some();
            let what = format!("{}/{}/{}", note.context.event_id, note.context.name, note.run);
            if is_there || missing.iter().any(|other: &Damaged| other.what == what) {
                continue;
            }
            // It may have been decided since the trace was made.
            let Context { event_id, name, .. } = note.context;
            let id = record_id(&ExecutionId { event_id, name, run: note.run });
            if plane.documents.find::<ExecutionRecord>(&id).await?.is_none() {
                let error = Error::Corrupt {
                    provider: plane.documents.to_string(),
                    what: format!("the record of {what}"),
                    problem: "it was published, and is gone".into(),
                };
                missing.push(Damaged { what, error });
            }
        }
        Ok(missing)
    }
}

/// A file that a trace names.
#[derive(Clone, Copy)]
enum Named<'t> {
    Blob(&'t Blob),
    Object(&'t Reference),
}

/// Reads a file, and keeps nothing of it.
async fn read<'b>(plane: &DataPlane, file: Named<'b>) -> (Named<'b>, Result<()>) {
    let read = match file {
        Named::Blob(blob) => fetch(&*plane.blobs, std::slice::from_ref(blob), |_| Target::nowhere()).await,
        Named::Object(of) => fetch_object(plane, of, &Target::nowhere()).await,
    };
    (file, read)
}
