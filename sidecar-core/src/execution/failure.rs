//! What is left of an execution that failed: a document, and its outputs where that was asked for.

use std::time::SystemTime;

use tracing::warn;

use super::data_plane::DataPlane;
use super::spec::Settings;
use super::transfer::{groups, move_groups};
use super::{ids, tree};
use crate::blob::Source;
use crate::blocking;
use crate::contract::{Blob, BlobKey, Context, Culprit, Failure, FileName, Layout, Phase};
use crate::documents::Documents as _;
use crate::error::{Error, Result};
use crate::fault;

/// What becomes of the outputs of an execution that failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// They stay where they are.
    #[default]
    Keep,
    /// They stay, and the files are stored under keys that no consumer reads as outputs.
    Upload,
}

/// Why an execution ends without a commit.
#[derive(Debug, Clone)]
pub(super) struct Reason {
    pub(super) text: String,
    pub(super) culprit: Culprit,
    pub(super) retryable: bool,
}

impl Reason {
    /// The module gave up.
    pub(super) fn module(text: String) -> Self {
        Self { text, culprit: Culprit::Module, retryable: false }
    }

    /// A call failed, and nobody will repeat it.
    pub(super) fn error(error: &Error) -> Self {
        let culprit = match error {
            Error::Unavailable { .. } | Error::Refused { .. } => Culprit::Provider,
            Error::NotFound { .. } | Error::Corrupt { .. } => Culprit::Inputs,
            Error::Invalid(_) => Culprit::Outputs,
            Error::OutOfOrder { .. } => Culprit::Module,
            Error::DiskFull { .. } | Error::Io { .. } | Error::Busy(_) | Error::Internal(_) => {
                Culprit::Sidecar
            }
        };
        Self { text: error.chain(), culprit, retryable: error.is_retryable() }
    }
}

/// Leaves the failure's document, after the outputs where they are kept in the store.
///
/// The execution has failed whatever happens here: what cannot be stored is told in the log.
pub(super) async fn record(settings: &Settings, plane: &DataPlane, phase: Phase, reason: &Reason) {
    let mut blobs = Vec::new();
    if settings.on_failure == OnFailure::Upload {
        match upload(settings, plane).await {
            Ok(stored) => blobs = stored,
            Err(error) => warn!(error = error.chain(), "the outputs of the failed module could not be kept"),
        }
    }
    let failure = Failure {
        context: settings.context.clone(),
        id: ids::failure(&settings.context),
        reason: reason.text.clone(),
        phase,
        culprit: reason.culprit,
        retryable: reason.retryable,
        time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        blobs,
    };
    if let Err(error) = plane.documents.store(&[failure]).await {
        warn!(error = error.chain(), "the failure could not be recorded");
    }
    fault::point("documents.put_failure");
}

/// Stores the files of `out/data`, as far as they can be; what cannot be read is left out, and told.
async fn upload(settings: &Settings, plane: &DataPlane) -> Result<Vec<Blob>> {
    let root = settings.layout.output_data();
    let (files, problems) = blocking(move || {
        let mut problems = Vec::new();
        Ok((tree::walk(&root, Layout::OUTPUT_DATA, &mut problems)?, problems))
    })
    .await?;
    problems.iter().for_each(|problem| warn!("not kept: {problem}"));
    let groups = groups(files.into_iter().collect(), settings.parallel, |(_, source)| source.size());
    let (stored, failed) = move_groups(groups, settings.parallel, |group| put(settings, plane, group)).await;
    plane.blobs.flush().await?;
    failed.map_or(Ok(stored.into_iter().flatten().collect()), Err)
}

async fn put(settings: &Settings, plane: &DataPlane, group: Vec<(FileName, Source)>) -> Result<Vec<Blob>> {
    let Context { event_id, name: module, .. } = &settings.context;
    let keyed = group.into_iter().filter_map(|(name, source)| {
        let key = BlobKey::of_failed(event_id, module, &name);
        key.map_err(|invalid| warn!("not kept: {invalid}")).ok().map(|key| (name, key, source))
    });
    let (names, files): (Vec<_>, Vec<_>) = keyed.map(|(name, key, source)| (name, (key, source))).unzip();
    let stored = plane.blobs.put_all(&files).await?;
    fault::point("blobs.put_failed");
    let blob = |((name, (key, source)), stored): ((FileName, (BlobKey, Source)), crate::blob::Descriptor)| {
        Blob { name, key, size: stored.size, digest: stored.digest, executable: source.is_executable() }
    };
    Ok(names.into_iter().zip(files).zip(stored).map(blob).collect())
}
