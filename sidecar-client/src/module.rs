//! A module that is ready.

use std::ops::Deref;
use std::sync::Arc;

use reqwest::Method;
use sidecar_core::Receipt;

use crate::api::Api;
use crate::error::Error;
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
    /// # Errors
    /// [`Error::Call`]; its [`problems`](Error::problems) say what is wrong with the outputs. To mend them
    /// and try again, call `ready` of a new client, which answers at once.
    pub async fn done(self) -> Result<Option<Receipt>, Error> {
        self.workspace.write_insights()?;
        let answer = self.api.call("done", Method::GET, None).await?;
        Ok(serde_json::from_value(answer).ok())
    }

    /// Gives up: nothing is committed, and the reason is recorded.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn fail(self, reason: impl AsRef<str>) -> Result<(), Error> {
        self.api.call("fail", Method::POST, Some(reason.as_ref())).await.map(drop)
    }
}

impl Deref for Module {
    type Target = Workspace;
    fn deref(&self) -> &Workspace {
        &self.workspace
    }
}
