//! A module that is ready.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Method;
use sidecar_core::{
    Context, EventId, LONGEST_REASON, NextAnswer, Prepared, ReadyAnswer, Receipt, Status, TraceParent,
};

use crate::api::Api;
use crate::error::Error;
use crate::refused::Refused;
use crate::workspace::Workspace;

/// The event that a module has finished, which the client is to be told of.
pub(crate) type Finished = Arc<Mutex<Option<EventId>>>;

/// A module whose inputs are staged: its files are in its [`workspace`](Module::workspace).
#[derive(Debug)]
pub struct Module {
    workspace: Workspace,
    api: Arc<Api>,
    /// Absent where the sidecar is the original one.
    answer: Option<ReadyAnswer>,
    /// Where it is told that the event is finished, if it is one of several.
    finished: Option<Finished>,
    /// What a worker says of the event.
    next: Option<NextAnswer>,
}

impl Module {
    pub(crate) fn new(workspace: Workspace, api: Arc<Api>, answer: Option<ReadyAnswer>) -> Self {
        Self { workspace, api, answer, finished: None, next: None }
    }

    pub(crate) fn one_of_several(self, next: NextAnswer, finished: Finished) -> Self {
        Self { next: Some(next), finished: Some(finished), ..self }
    }

    fn tell(&self) {
        if let (Some(finished), Some(context)) = (&self.finished, self.context()) {
            *finished.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.event_id.clone());
        }
    }

    /// The inputs and outputs.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// The execution: event, correlation, parent event and module. The original sidecar does not say.
    pub fn context(&self) -> Option<&Context> {
        self.answer.as_ref()?.context.as_ref()
    }

    /// The span that the module's own spans belong to, where the event is part of a trace.
    pub fn traceparent(&self) -> Option<&TraceParent> {
        self.answer.as_ref()?.traceparent.as_ref()
    }

    /// The event's type, where the module is one of `sidecar worker --warm`.
    pub fn event_type(&self) -> Option<&str> {
        self.next.as_ref().map(|next| &*next.event_type)
    }

    /// Which attempt at the event this is, from 1 on, where the module is one of `sidecar worker --warm`.
    pub fn attempt(&self) -> Option<u32> {
        self.next.as_ref().map(|next| next.attempt)
    }

    /// How long the module may be silent (`--module-timeout`), where it is one of `sidecar worker --warm` and there is a
    /// limit.
    pub fn deadline(&self) -> Option<Duration> {
        self.next.as_ref().and_then(|next| next.deadline).map(Duration::from_secs)
    }

    /// How much was staged. The original sidecar does not say.
    pub fn prepared(&self) -> Option<&Prepared> {
        self.answer.as_ref().map(|answer| &answer.prepared)
    }

    /// Where the execution stands; `None` with the original sidecar.
    ///
    /// Each call is a heartbeat as well: a module that works longer than `--module-timeout` calls this more often
    /// than that, and keeps its lease. It is tried once and not repeated: the next heartbeat is the repeat.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn status(&self) -> Result<Option<Status>, Error> {
        self.api.call_once("status").await
    }

    /// Commits the outputs.
    ///
    /// The receipt is absent when the sidecar is the original one, which answers without a body.
    ///
    /// A module that is refused fixes its outputs and calls again:
    ///
    /// ```no_run
    /// # async fn f(mut module: sidecar_client::Module) -> Result<(), sidecar_client::Error> {
    /// while let Err(refused) = module.done().await {
    ///     if refused.problems().is_empty() {
    ///         return Err(refused.into());
    ///     }
    ///     let (again, error) = refused.into_parts();
    ///     for problem in error.problems() {
    ///         // … fix or remove the file again.workspace().layout().base().join(&problem.file) …
    ///     }
    ///     module = again;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`Workspace::event`] with the name of the wrong event, such as `000001`, replaces it.
    ///
    /// # Errors
    /// [`Refused`] holds the module and the error: [`Error::Call`], whose [`problems`](Error::problems) say
    /// what is wrong with the outputs, or [`Error::Io`] when the insights cannot be written.
    ///
    /// Only an answer with problems says that nothing was committed. After any other [`Error::Call`] the
    /// commit may have happened or may be going on: call again with unchanged outputs, since an event written
    /// in between may be too late for the commit.
    ///
    /// # Cancellation
    /// Dropping the future drops the module, while the sidecar goes on with the commit. To stop waiting for a
    /// sidecar that cannot be reached, set [`Retry::budget`](crate::Retry::budget), which gives the module back.
    pub async fn done(self) -> Result<Option<Receipt>, Refused<Self>> {
        match self.commit().await {
            Ok(receipt) => {
                self.tell();
                Ok(receipt)
            }
            Err(error) => Err(Refused::new(self, error)),
        }
    }

    /// Gives up: nothing is committed, and the reason is recorded; of one above 64 KiB, its beginning and its end.
    ///
    /// # Errors
    /// [`Refused`] with [`Error::Call`]; its status is 409 when the outputs are committed already, and then
    /// `done` of the module that it holds returns the receipt.
    pub async fn fail(self, reason: impl AsRef<str>) -> Result<(), Refused<Self>> {
        match self.api.call::<Status>("fail", Method::POST, Some(&shortened(reason.as_ref()))).await {
            // It may be given again: only what is done is told.
            Ok(_) => Ok(()),
            Err(error) => Err(Refused::new(self, error)),
        }
    }

    async fn commit(&self) -> Result<Option<Receipt>, Error> {
        self.workspace.write_insights()?;
        self.api.call("done", Method::GET, None).await
    }
}

/// Shortens a reason to what the sidecar takes: its beginning says what failed, and its end often says why.
fn shortened(reason: &str) -> Cow<'_, str> {
    const GAP: &str = "\n[…]\n";
    if reason.len() <= LONGEST_REASON {
        return Cow::Borrowed(reason);
    }
    let half = (LONGEST_REASON - GAP.len()) / 2;
    let first = (0..=half).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or_default();
    let last = (reason.len() - half..=reason.len()).find(|at| reason.is_char_boundary(*at));
    Cow::Owned(format!("{}{GAP}{}", &reason[..first], &reason[last.unwrap_or(reason.len())..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_keeps_its_beginning_and_its_end() {
        assert_eq!(shortened("why"), "why");
        let long = format!("first {} last", "ö".repeat(LONGEST_REASON));
        let short = shortened(&long);
        assert!(short.len() <= LONGEST_REASON && short.starts_with("first ö") && short.ends_with("ö last"));
    }
}
