//! What `done` does: validate everything, then blobs → insight → event contexts → events → clear.
//!
//! Before `Step::Publishing` nothing has been seen by anybody, so a repeat reads the outputs anew and
//! overwrites under the same ids; from there on a repeat only needs the journal.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::warn;

use super::data_plane::DataPlane;
use super::journal::{Journal, Step, StoredFile, StoredFiles};
use super::outputs::{self, Outputs};
use super::spec::Settings;
use super::transfer::{Progress, groups, move_groups};
use super::{directories, ids};
use crate::blob::{Descriptor, Source};
use crate::blocking;
use crate::contract::{
    Blob, Event, EventContext, FileName, Insight, KeyValuePairs, Lineage, OutputEvent, Prepared, Published,
    Receipt,
};
use crate::documents::Documents as _;
use crate::error::{Error, Result};
use crate::fault;

/// Documents or events of one call: a store that is slow or throttles gets through it within a deadline.
const AT_ONCE: usize = 500;

/// Brings the execution from whatever step it is at to `Step::Done`.
pub(super) async fn commit(
    settings: &Settings,
    plane: &DataPlane,
    journal: &Arc<Mutex<Journal>>,
    progress: &Progress,
) -> Result<Receipt> {
    loop {
        let step = journal.lock().unwrap_or_else(PoisonError::into_inner).step().clone();
        let next = match step {
            Step::Ready { prepared } => {
                store(settings, plane, journal, progress, prepared, StoredFiles::default()).await?
            }
            Step::Stored { prepared, files } => {
                store(settings, plane, journal, progress, prepared, files).await?
            }
            Step::Publishing { prepared, events, receipt } => {
                for events in events.chunks(AT_ONCE) {
                    plane.events.publish(events).await?;
                    fault::point("events.publish");
                }
                Step::Published { prepared, receipt }
            }
            Step::Published { prepared, receipt } => {
                let (layout, trash) = (settings.layout.clone(), settings.trash());
                // Everything was published: what cannot be cleared is untidy, not a failure.
                if let Err(error) = blocking(move || directories::clear_outputs(&layout, &trash)).await {
                    warn!(error = error.chain(), "the outputs could not be cleared");
                }
                fault::point("outputs.clear");
                Step::Done { prepared, receipt }
            }
            Step::Done { receipt, .. } => return Ok(receipt),
            Step::New | Step::Failed { .. } => return Err(Error::Internal("a commit without inputs".into())),
        };
        advance(journal, next).await?;
    }
}

pub(super) async fn advance(journal: &Arc<Mutex<Journal>>, step: Step) -> Result<()> {
    let journal = journal.clone();
    blocking(move || journal.lock().unwrap_or_else(PoisonError::into_inner).advance(step)).await
}

/// Makes blobs, insight and event contexts durable; files that `known` holds unchanged are not sent again.
async fn store(
    settings: &Settings,
    plane: &DataPlane,
    journal: &Arc<Mutex<Journal>>,
    progress: &Progress,
    prepared: Prepared,
    known: StoredFiles,
) -> Result<Step> {
    let (cloned, blobs) = (settings.clone(), plane.blobs.clone());
    let Outputs { files, insights, events } = blocking(move || outputs::read(&cloned, &*blobs)).await?;
    let bytes = files.values().map(Source::size).sum();
    progress.start(files.len() as u64, bytes);
    let receipt = Receipt {
        files: files.len() as u64,
        bytes,
        insight: (!insights.is_empty()).then(|| ids::insight(&settings.context)),
        events: events.iter().map(|(file, event)| published(settings, file, event)).collect(),
    };

    let groups = groups(files.into_iter().collect(), settings.parallel, |(_, source)| source.size());
    let put = |group| put(settings, plane, progress, &known, group);
    let (stored, failed) = move_groups(groups, settings.parallel, put).await;
    let stored = StoredFiles::from(stored.into_iter().flatten().collect::<Vec<_>>());
    if stored.len() > 0 {
        if let Err(error) = plane.blobs.flush().await {
            return Err(failed.unwrap_or(error));
        }
        fault::point("blobs.flush");
        // What was stored need not be sent again when this commit is repeated.
        advance(journal, Step::Stored { prepared: prepared.clone(), files: stored.clone() }).await?;
    }
    if let Some(error) = failed {
        return Err(error);
    }

    if let Some(id) = receipt.insight.clone() {
        plane.documents.store(&[Insight { context: settings.context.clone(), id, data: insights }]).await?;
    }
    let contexts: Vec<EventContext> = receipt
        .events
        .iter()
        .zip(events)
        .map(|(published, (_, event))| event_context(settings, published, event, &stored))
        .collect();
    if contexts.is_empty() {
        return Ok(Step::Published { prepared, receipt });
    }
    for contexts in contexts.chunks(AT_ONCE) {
        plane.documents.store(contexts).await?;
        fault::point("documents.put_event_contexts");
    }
    let events =
        contexts.into_iter().zip(&receipt.events).map(|(context, published)| event(context, published));
    Ok(Step::Publishing { events: events.collect(), prepared, receipt })
}

async fn put(
    settings: &Settings,
    plane: &DataPlane,
    progress: &Progress,
    known: &StoredFiles,
    group: Vec<(FileName, Source)>,
) -> Result<Vec<StoredFile>> {
    let mut stored = Vec::with_capacity(group.len());
    let (mut names, mut files) = (Vec::new(), Vec::new());
    for (name, source) in group {
        if let Some(file) = known.get(&name)
            && is_unchanged(file, &source).await?
        {
            progress.file_moved();
            stored.push(file.clone());
            continue;
        }
        let key = outputs::key(settings, &name).map_err(|problem| Error::Invalid(vec![problem]))?;
        names.push(name);
        files.push((key, source.counted_by(progress.bytes_moved())));
    }
    let descriptors = plane.blobs.put_all(&files).await?;
    fault::point("blobs.put");
    for ((name, (key, source)), descriptor) in names.into_iter().zip(files).zip(descriptors) {
        progress.file_moved();
        let Descriptor { size, digest } = descriptor;
        if size != source.size() {
            let problem = format!("{size} bytes were stored instead of {}", source.size());
            return Err(Error::Corrupt { provider: plane.blobs.to_string(), what: key.to_string(), problem });
        }
        let blob = Blob { name, key, size, digest, executable: source.is_executable() };
        let identity = source.identity();
        stored.push(StoredFile { blob, identity, settled: identity.is_settled() });
    }
    Ok(stored)
}

/// Whether the file is the one that was stored.
async fn is_unchanged(stored: &StoredFile, source: &Source) -> Result<bool> {
    if stored.identity != source.identity() || stored.settled {
        return Ok(stored.identity == source.identity());
    }
    let (source, digest) = (source.clone(), stored.blob.digest);
    blocking(move || Ok(source.describe()?.digest == digest)).await
}

fn published(settings: &Settings, file: &str, event: &OutputEvent) -> Published {
    Published {
        event_id: ids::event(&settings.context, file),
        event_type: event.event_type.clone(),
        file: file.to_owned(),
    }
}

fn event_context(
    settings: &Settings,
    published: &Published,
    event: OutputEvent,
    stored: &StoredFiles,
) -> EventContext {
    // Validation saw every named file, and every file was stored.
    let blobs =
        event.files.iter().filter_map(|name| stored.get(name)).map(|file| file.blob.clone()).collect();
    EventContext {
        context: Lineage {
            name: String::new(),
            event_id: published.event_id.clone(),
            correlation_id: settings.context.correlation_id.clone(),
            parent_event_id: settings.context.event_id.to_string(),
        },
        files: event.files,
        data: event.data,
        blobs,
    }
}

fn event(context: EventContext, published: &Published) -> Event {
    Event {
        context: context.context,
        event_type: published.event_type.clone(),
        previous_stages: Vec::new(),
        data: KeyValuePairs::default(),
    }
}
