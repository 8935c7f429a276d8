//! Whether the files that a trace names are there, and are what they were.

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures_util::stream::{self, StreamExt};

use super::Trace;
use crate::blob::Target;
use crate::contract::{Blob, BlobKey, Context, ExecutionId, ExecutionRecord, Publication, Reference};
use crate::documents::Documents as _;
use crate::error::{Error, Result};
use crate::execution::{fetch, fetch_object, object_id, record_id};
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
    /// The key of the file, the URL of one that was referred to, or the execution.
    pub what: String,
    /// What is wrong.
    pub error: Error,
}

impl Trace {
    /// Reads every file that is named, once, and compares its digest; and finds outcomes whose record is gone. The files pass through the directory for temporary
    /// files, a few at a time.
    ///
    /// # Errors
    /// When a store cannot be asked, or there is no room for a file.
    pub async fn verify(&self, plane: &DataPlane) -> Result<Verified> {
        let mut blobs: BTreeMap<&BlobKey, &Blob> = BTreeMap::new();
        let outputs = self.executions.iter().flat_map(|execution| &execution.outputs);
        for blob in self.events.iter().flat_map(|event| &event.files).chain(outputs) {
            blobs.insert(&blob.key, blob);
        }
        let dir = std::env::temp_dir().join(format!("sidecar-verify-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&dir).map_err(Error::io("create", &dir))?;
        let mut verified = Verified { files: 0, bytes: 0, damaged: Vec::new() };
        let references: BTreeMap<_, _> =
            self.events.iter().flat_map(|event| &event.references).map(|of| (object_id(of), of)).collect();
        let files = blobs.into_values().map(Named::Blob).chain(references.into_values().map(Named::Object));
        let paths = (0..).map(|number: u64| dir.join(number.to_string()));
        let reading: Vec<_> = files.zip(paths).map(|(file, path)| read(plane, file, path)).collect();
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
        let _ = std::fs::remove_dir_all(&dir);
        if let Some(error) = failed {
            return Err(error);
        }
        verified.damaged.extend(self.missing_records(plane).await?);
        verified.damaged.sort_by(|one, other| one.what.cmp(&other.what));
        Ok(verified)
    }
}

impl Trace {
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

/// Reads a file, and removes it again.
async fn read<'b>(plane: &DataPlane, file: Named<'b>, path: PathBuf) -> (Named<'b>, Result<()>) {
    let read = match file {
        Named::Blob(blob) => fetch(&*plane.blobs, std::slice::from_ref(blob), |_| Target::file(&path)).await,
        Named::Object(of) => fetch_object(plane, of, &Target::file(&path)).await,
    };
    // It may never have been made.
    let _ = std::fs::remove_file(&path);
    (file, read)
}
