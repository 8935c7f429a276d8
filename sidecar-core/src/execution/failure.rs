//! What is left of an attempt that failed: a document, and its outputs where that was asked for.
//!
//! It decides nothing: an execution whose attempt failed is open for the next one.

use std::sync::Arc;

use tracing::warn;

use super::problems::Problems;
use super::record::latest;
use super::spec::OnFailure;
use super::upload::upload;
use super::{Execution, ids, outputs, tree};
use crate::contract::{
    Attempts, Blob, BlobKey, Context, Culprit, ExecutionRecord, Failure, Layout, Phase, Publication,
};
use crate::documents::Documents as _;
use crate::error::{Error, Result};
use crate::fault;
use crate::plane::DataPlane;

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
            Error::Unavailable { .. } | Error::Refused { .. } | Error::Settings { .. } => Culprit::Provider,
            Error::NotFound { .. }
            | Error::Absent { .. }
            | Error::NoEventYet { .. }
            | Error::Corrupt { .. }
            | Error::UnknownEvent { .. }
            | Error::Reference { .. }
            | Error::Submission(_)
            | Error::TooLarge { .. } => Culprit::Inputs,
            Error::Invalid(_) => Culprit::Outputs,
            Error::OutOfOrder { .. } | Error::Finished | Error::NotLoaded { .. } => Culprit::Module,
            Error::DiskFull { .. }
            | Error::Io { .. }
            | Error::Busy(_)
            | Error::RunNotOpen { .. }
            | Error::Abandoned { .. }
            | Error::NotHeld { .. }
            | Error::Internal(_) => Culprit::Sidecar,
        };
        Self { text: error.chain(), culprit, retryable: error.is_retryable() }
    }
}

/// A failure, and whether it still matters.
#[derive(Debug, Clone)]
pub struct ShownFailure {
    /// As the attempt left it; it never changes.
    pub failure: Failure,
    /// Who decided the outcome that the execution has got since, if it has, or that its event was dropped: then the
    /// failure is overcome.
    pub overcome_by: Option<String>,
    /// Whether that outcome is decided and its events are not published yet.
    pub unpublished: bool,
}

/// The next failures that attempts left, after the one with the id `after`; an empty page is the end.
///
/// # Errors
/// What the document store reports.
pub async fn failures(plane: &DataPlane, after: Option<&str>) -> Result<Vec<(String, ShownFailure)>> {
    let mut shown = Vec::new();
    for (id, failure) in plane.documents.page::<Failure>(after).await? {
        let record = latest(plane, &ids::execution(&failure.context, 0)).await?;
        let record = record.filter(|record| overcomes(record, &failure));
        let unpublished = match &record {
            Some(record) => {
                let id = ids::record(&record.execution());
                plane.documents.find::<Publication>(&id).await?.is_none()
            }
            None => false,
        };
        let mut overcome_by = record.map(|record| record.decided_by());
        if overcome_by.is_none() && is_dropped(plane, &failure.context).await? {
            overcome_by = Some("dropped by sidecar dead drop".into());
        }
        shown.push((id, ShownFailure { failure, overcome_by, unpublished }));
    }
    Ok(shown)
}

/// Whether a person has decided that the event is not tried again.
async fn is_dropped(plane: &DataPlane, context: &Context) -> Result<bool> {
    let attempts = plane.documents.find::<Attempts>(&ids::attempts(context)).await?;
    Ok(attempts.is_some_and(|attempts| attempts.attempts == Attempts::DROPPED))
}

/// Whether an outcome is one that came after a failure, or that the failed attempt has got itself.
fn overcomes(record: &ExecutionRecord, failure: &Failure) -> bool {
    let decided = record.committed().and_then(|committed| humantime::parse_rfc3339(&committed.done).ok());
    let failed = humantime::parse_rfc3339(&failure.time).ok();
    // In older releases a failure's time had no fraction.
    failure.attempt.as_ref() == Some(&record.attempt)
        || decided.zip(failed).is_none_or(|(one, other)| one >= other)
}

impl Execution {
    /// Leaves the failure's document, after the outputs where they are kept in the store.
    ///
    /// The attempt has failed whatever happens here: what cannot be stored is logged.
    pub(super) async fn record_failure(self: &Arc<Self>, phase: Phase, reason: &Reason) {
        let mut blobs = Vec::new();
        if self.spec.on_failure == OnFailure::Upload {
            match self.keep_outputs().await {
                Ok(stored) => blobs = stored,
                Err(error) => {
                    warn!(error = error.chain(), "the outputs of the failed module could not be kept")
                }
            }
        }
        let (context, attempt) = (self.context(), self.attempt());
        let failure = Failure {
            id: ids::failure(&context, &attempt),
            context,
            attempt: Some(attempt),
            reason: reason.text.clone(),
            phase,
            culprit: reason.culprit,
            retryable: reason.retryable,
            time: super::now(),
            blobs,
        };
        if let Err(error) = self.plane.documents.store(&[failure]).await {
            warn!(error = error.chain(), "the failure could not be recorded");
        }
        fault::point("documents.put_failure");
    }

    /// Stores the files of `out/data`, as far as they can be; what cannot be read is left out, and logged.
    async fn keep_outputs(self: &Arc<Self>) -> Result<Vec<Blob>> {
        let (files, problems) = self
            .on_disk(|this| {
                let mut problems = Problems::default();
                let data = outputs::directory(&this.slot.base(), Layout::OUTPUT_DATA, &mut problems);
                let walk = |data| tree::walk(&Arc::new(data), Layout::OUTPUT_DATA, &mut problems);
                Ok((data.map(walk).unwrap_or_default(), problems))
            })
            .await?;
        problems.iter().for_each(|problem| warn!("not kept: {problem}"));
        let (context, attempt) = (self.context(), self.attempt());
        let keyed = files.into_iter().filter_map(|(name, source)| {
            let key = BlobKey::of_failed(&context.event_id, &context.name, &attempt, &name);
            key.map_err(|invalid| warn!("not kept: {invalid}")).ok().map(|key| (name, key, source))
        });
        let (stored, failed) =
            upload(&*self.plane.blobs, keyed.collect(), self.spec.parallel, &self.progress).await;
        failed.map_or_else(|| Ok(stored.into_iter().map(|(blob, _)| blob).collect()), Err)
    }
}
