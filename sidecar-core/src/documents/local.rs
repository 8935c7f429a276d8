//! Documents as readable JSON files in one directory.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::DocumentProvider;
use crate::blocking;
use crate::contract::{EventContext, EventId, Failure, FailureId, Insight, InsightId};
use crate::error::{Error, Result};
use crate::local_dir;

/// Event contexts under `ROOT/contexts/{event id}.json`, insights and failures likewise.
#[derive(Debug, Clone)]
pub struct Local {
    /// The absolute directory that was opened.
    home: PathBuf,
    contexts: PathBuf,
    insights: PathBuf,
    failures: PathBuf,
}

impl std::fmt::Display for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "local documents in {}", self.contexts.parent().unwrap_or(&self.contexts).display())
    }
}

#[async_trait]
impl DocumentProvider for Local {
    async fn event_context(&self, id: &EventId) -> Result<Option<EventContext>> {
        self.read(local_dir::path(&self.contexts, id.as_str())).await
    }

    async fn put_event_contexts(&self, contexts: &[EventContext]) -> Result<()> {
        let named = contexts.iter().map(|context| (context.context.event_id.as_str(), context));
        self.write(&self.contexts, named).await
    }

    async fn insight(&self, id: &InsightId) -> Result<Option<Insight>> {
        self.read(local_dir::path(&self.insights, id.as_str())).await
    }

    async fn put_insight(&self, insight: &Insight) -> Result<()> {
        self.write(&self.insights, [(insight.id.as_str(), insight)]).await
    }

    async fn failure(&self, id: &FailureId) -> Result<Option<Failure>> {
        self.read(local_dir::path(&self.failures, id.as_str())).await
    }

    async fn put_failure(&self, failure: &Failure) -> Result<()> {
        self.write(&self.failures, [(failure.id.as_str(), failure)]).await
    }

    fn id(&self) -> String {
        local_dir::id(&self.home)
    }

    fn directories(&self) -> Vec<PathBuf> {
        vec![self.contexts.clone(), self.insights.clone(), self.failures.clone()]
    }
}

impl Local {
    /// Where below its root it keeps data.
    pub(crate) const DIRECTORIES: [&str; 3] = ["contexts", "insights", "failures"];

    /// Opens the store below `root`, making its directories when they are absent.
    ///
    /// # Errors
    /// [`Error::Io`] when a directory cannot be made.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let (home, [contexts, insights, failures]) = local_dir::open(root.as_ref(), Self::DIRECTORIES)?;
        Ok(Self { home, contexts, insights, failures })
    }

    async fn read<T: DeserializeOwned + Send + 'static>(&self, path: PathBuf) -> Result<Option<T>> {
        let provider = self.to_string();
        blocking(move || {
            local_dir::read(&provider, &path)?
                .map(|bytes| {
                    serde_json::from_slice(&bytes).map_err(|error| Error::Corrupt {
                        provider,
                        what: path.display().to_string(),
                        problem: error.to_string(),
                    })
                })
                .transpose()
        })
        .await
    }

    async fn write<'a, T: Serialize + 'a>(
        &self,
        dir: &Path,
        documents: impl IntoIterator<Item = (&'a str, &'a T)>,
    ) -> Result<()> {
        let files = local_dir::encode(dir, documents)?;
        let (provider, dir) = (self.to_string(), dir.to_owned());
        blocking(move || local_dir::write(&provider, &dir, &files)).await
    }
}
