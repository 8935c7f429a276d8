//! A module that is ready.

use std::ops::Deref;
use std::sync::Arc;

use reqwest::Method;
use sidecar_core::Receipt;

use crate::api::Api;
use crate::error::Error;
use crate::refused::Refused;
use crate::workspace::Workspace;

/// A module whose inputs are staged; its files are those of the [`Workspace`] it dereferences to.
#[derive(Debug)]
pub struct Module {
    workspace: Workspace,
    api: Arc<Api>,
}

impl Module {
    pub(crate) fn new(workspace: Workspace, api: Arc<Api>) -> Self {
        Self { workspace, api }
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
    ///         // … fix or remove the file again.layout().base().join(&problem.file) …
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
            Ok(receipt) => Ok(receipt),
            Err(error) => Err(Refused::new(self, error)),
        }
    }

    /// Gives up: nothing is committed, and the reason is recorded.
    ///
    /// # Errors
    /// [`Refused`] with [`Error::Call`]; its status is 409 when the outputs are committed already, and then
    /// `done` of the module that it holds returns the receipt.
    pub async fn fail(self, reason: impl AsRef<str>) -> Result<(), Refused<Self>> {
        match self.api.call("fail", Method::POST, Some(reason.as_ref())).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Refused::new(self, error)),
        }
    }

    async fn commit(&self) -> Result<Option<Receipt>, Error> {
        self.workspace.write_insights()?;
        let answer = self.api.call("done", Method::GET, None).await?;
        Ok(serde_json::from_value(answer).ok())
    }
}

impl Deref for Module {
    type Target = Workspace;
    fn deref(&self) -> &Workspace {
        &self.workspace
    }
}
