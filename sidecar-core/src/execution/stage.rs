//! What `ready` does: stage the inputs of the event.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use tracing::Instrument;

use super::transfer::{groups, move_groups};
use super::{Execution, First, Step, conflicts, now};
use crate::blob::Target;
use crate::contract::{Blob, EventContext, FileName, KeyValuePairs, Prepared, RecordedFile};
use crate::dir::Dir;
use crate::documents::Documents as _;
use crate::error::{Error, Result};
use crate::fault;
use crate::telemetry::step;

impl Execution {
    /// Fills `in/`; on failure it is left empty.
    pub(super) async fn stage(self: &Arc<Self>) -> Result<Prepared> {
        self.on_disk(|this| {
            this.slot.survive_wipe()?;
            this.slot.clear_inputs()
        })
        .await?;
        fault::point("inputs.clear");
        if self.journal.entry().complete {
            // The module begins again.
            self.change(|entry| entry.complete = false).await?;
        }
        let staged = match self.fill().await {
            Ok(prepared) => self.staged(prepared).await,
            failed => failed,
        };
        if staged.is_err()
            && let Err(error) = self.on_disk(|this| this.slot.clear_inputs()).await
        {
            tracing::error!(error = error.chain(), "the inputs could not be cleared");
        }
        staged
    }

    /// The same for a process of the module, which is written down; where it began `again`, what an earlier one wrote
    /// is set aside first.
    pub(super) async fn stage_for(
        self: &Arc<Self>,
        module_start: Option<String>,
        again: bool,
    ) -> Result<Prepared> {
        if again && let Some(path) = self.on_disk(|this| this.slot.set_outputs_aside()).await? {
            tracing::warn!(path = %path.display(), "the module began again: what it wrote before was set aside");
        }
        fault::point("outputs.set_aside");
        self.known_as(module_start.as_deref()).await?;
        self.stage().await
    }

    /// Writes down which process of the module is at work, where it says so.
    pub(super) async fn known_as(self: &Arc<Self>, module_start: Option<&str>) -> Result<()> {
        let Some(start) =
            module_start.filter(|_| self.journal.entry().module_start.as_deref() != module_start)
        else {
            return Ok(());
        };
        let start = Some(start.to_owned());
        self.change(move |entry| entry.module_start = start).await
    }

    async fn staged(self: &Arc<Self>, prepared: Prepared) -> Result<Prepared> {
        // Later steps know more: staging the inputs again must not make the journal forget it.
        if self.journal.entry().step == Step::New {
            let step = Step::Ready { prepared: prepared.clone() };
            self.change(move |entry| (entry.step, entry.ready) = (step, Some(now()))).await?;
        }
        Ok(prepared)
    }

    /// The event's context; `None` for one that begins a graph.
    pub(super) async fn event_context(self: &Arc<Self>) -> Result<Option<EventContext>> {
        if self.spec.first == First::Yes {
            return Ok(None);
        }
        let early = self.inputs().context.take();
        let event = self.context().event_id;
        let found = match early {
            Some(context) => Some(context),
            None => self.plane.documents.find::<EventContext>(event.as_str()).await?,
        };
        let documents = &self.plane.documents;
        let Some(context) = found else {
            if self.spec.first == First::Allowed {
                tracing::warn!(
                    "event {event} has no event context in {documents}: this is right only for the first event of a graph"
                );
                return Ok(None);
            }
            let since = *self.inputs().missing_since.get_or_insert_with(Instant::now);
            let (provider, event) = (documents.to_string(), event.to_string());
            if since.elapsed() >= self.spec.patience {
                return Err(Error::UnknownEvent { provider, event });
            }
            return Err(Error::NoEventYet { provider, event });
        };
        if context.context.event_id != event {
            let (provider, what) = (documents.to_string(), format!("the context of event {event}"));
            let problem = format!("it is that of event {}", context.context.event_id);
            return Err(Error::Corrupt { provider, what, problem });
        }
        Ok(Some(context))
    }

    async fn fill(self: &Arc<Self>) -> Result<Prepared> {
        let (blobs, mut values) = match self.event_context().await? {
            None => (Vec::new(), KeyValuePairs::default()),
            Some(context) => {
                let blobs = self.manifest(&context)?;
                self.inherit(&context).await?;
                (blobs, context.data)
            }
        };
        // A foreign document may claim any sizes.
        let bytes = blobs.iter().fold(0, |sum: u64, blob| sum.saturating_add(blob.size));
        self.inputs().room = None;
        if let Some(disk) = &self.spec.disk {
            let room = disk.reserve("inputs", bytes).await?;
            self.inputs().room = Some(room);
        }
        self.progress.start(blobs.len() as u64, bytes);
        if !blobs.is_empty() {
            let groups = groups(blobs.clone(), self.spec.parallel, |blob| blob.size);
            let data = self.on_disk(|this| this.slot.input_data()).await?;
            let (_, failed) = move_groups(groups, self.spec.parallel, |group| self.fetch(&data, group)).await;
            if let Some(error) = failed {
                return Err(error);
            }
        }
        let files = blobs.len() as u64;
        self.inputs().staged = Some(blobs.iter().map(recorded).collect());
        // To sign may take a call each.
        let store = &self.plane.blobs;
        let mut uris = stream::iter(blobs)
            .map(|blob| async move { Result::Ok((store.uri(&blob.key).await?, blob.name)) })
            .buffered(self.spec.parallel.get());
        while let Some((uri, name)) = uris.try_next().await? {
            values.push(name.as_str(), uri);
        }
        let prepared = Prepared { files, bytes, values: values.len() as u64 };
        self.on_disk(move |this| {
            let mut json = serde_json::to_vec_pretty(&values).map_err(|e| {
                Error::io("encode", this.slot.layout().input_meta())(std::io::Error::other(e))
            })?;
            json.push(b'\n');
            this.slot.write_meta(&json)
        })
        .await?;
        fault::point("inputs.meta");
        Ok(prepared)
    }

    /// What the record says of the inputs: as they were staged, or, by another process, as the event names them.
    pub(super) async fn recorded_inputs(self: &Arc<Self>) -> Result<Vec<RecordedFile>> {
        if let Some(staged) = self.inputs().staged.clone() {
            return Ok(staged);
        }
        let event = self.context().event_id;
        let context = self.plane.documents.find::<EventContext>(event.as_str()).await?;
        Ok(context.iter().flat_map(|context| &context.blobs).map(recorded).collect())
    }

    /// The blobs of the event's files, in their order.
    fn manifest(&self, context: &EventContext) -> Result<Vec<Blob>> {
        let corrupt = |problem: String| Error::Corrupt {
            provider: self.plane.documents.to_string(),
            what: format!("the context of event {:?}", context.context.event_id.as_str()),
            problem,
        };
        let blobs: HashMap<&FileName, &Blob> = context.blobs.iter().map(|blob| (&blob.name, blob)).collect();
        let mut seen = HashSet::new();
        let find = |name: &FileName| match blobs.get(name) {
            _ if !seen.insert(name.clone()) => {
                Err(corrupt(format!("file {:?} is named twice", name.as_str())))
            }
            Some(blob) => Ok((*blob).clone()),
            None => Err(corrupt(format!("no blob is listed for file {:?}", name.as_str()))),
        };
        if let Some(problem) = conflicts::nested("", context.files.iter()).pop() {
            return Err(corrupt(format!("{}: {}", problem.file, problem.message)));
        }
        context.files.iter().map(find).collect()
    }

    async fn fetch(&self, data: &Arc<Dir>, blobs: Vec<Blob>) -> Result<()> {
        let target = |blob: &Blob| {
            Target::below(data.clone(), blob.name.below(Path::new("")))
                .counted_by(self.progress.bytes_moved())
        };
        let bytes = blobs.iter().map(|blob| blob.size).sum::<u64>();
        let step = step!("get", otel.kind = "client", store = %self.plane.blobs, files = blobs.len(), bytes);
        let files = blobs.len();
        let store = &*self.plane.blobs;
        match &self.spec.cache {
            Some(cache) => {
                let hits = cache.fetch(store, blobs, target).instrument(step).await?;
                self.progress.cached(hits as u64, (files - hits) as u64);
            }
            None => fetch(store, &blobs, target).instrument(step).await?,
        }
        fault::point("blobs.get");
        (0..files).for_each(|_| self.progress.file_moved());
        Ok(())
    }
}

/// Fetches blobs into their targets, and checks that each is what the manifest names. No more is written of one than
/// its size.
pub(crate) async fn fetch(
    store: &dyn crate::BlobProvider,
    blobs: &[Blob],
    target: impl Fn(&Blob) -> Target,
) -> Result<()> {
    let limited = |blob: &Blob| target(blob).executable(blob.executable).at_most(blob.size);
    let targets: Vec<_> = blobs.iter().map(|blob| (blob.key.clone(), limited(blob))).collect();
    let damaged = |blob: &Blob, problem| {
        let what = format!("blob {:?}", blob.key.as_str());
        Error::Corrupt { provider: store.to_string(), what, problem }
    };
    let too_much = |path: &Path| {
        let at = targets.iter().position(|(_, target)| target.path() == path)?;
        Some(damaged(&blobs[at], format!("more than its {} bytes", blobs[at].size)))
    };
    let found = store.get_all(&targets).await.map_err(|error| match &error {
        Error::Io { path, source, .. } if source.kind() == std::io::ErrorKind::FileTooLarge => {
            too_much(path).unwrap_or(error)
        }
        _ => error,
    })?;
    for (blob, found) in blobs.iter().zip(found) {
        if found.size != blob.size {
            return Err(damaged(blob, format!("{} bytes instead of {}", found.size, blob.size)));
        }
        if found.digest != blob.digest {
            return Err(damaged(blob, format!("digest {} instead of {}", found.digest, blob.digest)));
        }
    }
    Ok(())
}

pub(super) fn recorded(blob: &Blob) -> RecordedFile {
    let Blob { name, key, size, digest, executable } = blob.clone();
    RecordedFile { name, size, digest, executable, key: Some(key) }
}
