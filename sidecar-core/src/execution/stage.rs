//! What `ready` does: stage the inputs of the event.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use tracing::Instrument;

use super::reference::referenced;
use super::transfer::{groups, move_groups};
use super::{Execution, First, Step, conflicts, now};
use crate::blob::{Descriptor, Target};
use crate::contract::{Blob, EventContext, FileName, KeyValuePairs, Prepared, RecordedFile, Reference};
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
        let (blobs, references, mut values) = match self.event_context().await? {
            None => (Vec::new(), Vec::new(), KeyValuePairs::default()),
            Some(context) => {
                let (blobs, references) = self.manifest(&context)?;
                self.inherit(&context).await?;
                (blobs, references, context.data)
            }
        };
        // A foreign document may claim any sizes.
        let sizes = blobs.iter().map(|blob| blob.size).chain(references.iter().map(|of| of.pinned.size));
        let bytes = sizes.fold(0, u64::saturating_add);
        let files = (blobs.len() + references.len()) as u64;
        self.inputs().room = None;
        if let Some(disk) = &self.spec.disk {
            let room = disk.reserve("inputs", bytes).await?;
            self.inputs().room = Some(room);
        }
        self.progress.start(files, bytes);
        let mut staged: Vec<_> = blobs.iter().map(recorded).collect();
        if files > 0 {
            let groups = groups(blobs.clone(), self.spec.parallel, |blob| blob.size);
            let data = self.on_disk(|this| this.slot.input_data()).await?;
            let (_, failed) = move_groups(groups, self.spec.parallel, |group| self.fetch(&data, group)).await;
            if let Some(error) = failed {
                return Err(error);
            }
            staged.extend(self.fetch_referenced(&data, &references).await?);
        }
        self.remember_staged(&staged).await?;
        self.inputs().staged = Some(staged);
        // To sign may take a call each.
        let store = &self.plane.blobs;
        let mut uris = stream::iter(blobs)
            .map(|blob| async move { Result::Ok((store.uri(&blob.key).await?, blob.name)) })
            .buffered(self.spec.parallel.get());
        while let Some((uri, name)) = uris.try_next().await? {
            values.push(name.as_str(), uri);
        }
        for Reference { name, url, .. } in references {
            values.push(name.as_str(), url);
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
        let Some(context) = self.plane.documents.find::<EventContext>(event.as_str()).await? else {
            return Ok(Vec::new());
        };
        self.inputs_of(&context).await
    }

    /// The same as the event names them.
    pub(super) async fn inputs_of(&self, context: &EventContext) -> Result<Vec<RecordedFile>> {
        let mut files: Vec<_> = context.blobs.iter().map(recorded).collect();
        files.extend(referenced(&self.plane, &context.references).await?);
        Ok(files)
    }

    /// What the event's files are, in their order: blobs, and references to what lies elsewhere.
    fn manifest(&self, context: &EventContext) -> Result<(Vec<Blob>, Vec<Reference>)> {
        let corrupt = |problem: String| Error::Corrupt {
            provider: self.plane.documents.to_string(),
            what: format!("the context of event {:?}", context.context.event_id.as_str()),
            problem,
        };
        let blobs: HashMap<&FileName, &Blob> = context.blobs.iter().map(|blob| (&blob.name, blob)).collect();
        let references: HashMap<&FileName, &Reference> =
            context.references.iter().map(|of| (&of.name, of)).collect();
        let mut seen = HashSet::new();
        let (mut stored, mut referenced) = (Vec::new(), Vec::new());
        if let Some(problem) = conflicts::nested("", context.files.iter()).pop() {
            return Err(corrupt(format!("{}: {}", problem.file, problem.message)));
        }
        for name in &context.files {
            if !seen.insert(name) {
                return Err(corrupt(format!("file {:?} is named twice", name.as_str())));
            }
            match (blobs.get(name), references.get(name)) {
                (Some(blob), None) => stored.push((*blob).clone()),
                (None, Some(reference)) => referenced.push((*reference).clone()),
                (Some(_), Some(_)) => {
                    return Err(corrupt(format!("file {:?} is a blob and a reference", name.as_str())));
                }
                (None, None) => {
                    return Err(corrupt(format!("no blob is listed for file {:?}", name.as_str())));
                }
            }
        }
        Ok((stored, referenced))
    }

    async fn fetch(&self, data: &Arc<Dir>, blobs: Vec<Blob>) -> Result<()> {
        let target = |blob: &Blob| {
            Target::below(data.clone(), blob.name.below(Path::new("")))
                .counted_by(self.progress.bytes_moved())
        };
        let (store, files) = (&*self.plane.blobs, blobs.len());
        let bytes = blobs.iter().map(|blob| blob.size).sum::<u64>();
        let step = step!("get", otel.kind = "client", store = %store, files, bytes);
        let get = async {
            let Some(cache) = &self.spec.cache else { return fetch(store, &blobs, target).await };
            let wanted = |blob: &Blob| {
                (
                    Descriptor { size: blob.size, digest: blob.digest },
                    target(blob).executable(blob.executable),
                )
            };
            let missing = cache.take(blobs.iter().map(wanted).collect()).await?;
            let rest: Vec<_> = missing.places().map(|at| blobs[at].clone()).collect();
            self.progress.cached((files - rest.len()) as u64, rest.len() as u64);
            if !rest.is_empty() {
                fetch(store, &rest, target).await?;
                cache.keep(missing).await?;
            }
            Ok(())
        };
        get.instrument(step).await?;
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
