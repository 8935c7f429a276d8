//! Documents in memory, for tests and for embedders that need no store.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;

use super::DocumentProvider;
use crate::contract::{EventContext, EventId, Failure, FailureId, Insight, InsightId};
use crate::error::Result;

/// Documents as long as the process lives; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    contexts: Arc<RwLock<HashMap<EventId, EventContext>>>,
    insights: Arc<RwLock<HashMap<InsightId, Insight>>>,
    failures: Arc<RwLock<HashMap<FailureId, Failure>>>,
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("documents in memory")
    }
}

#[async_trait]
impl DocumentProvider for Memory {
    async fn event_context(&self, id: &EventId) -> Result<Option<EventContext>> {
        Ok(self.contexts.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned())
    }

    async fn put_event_contexts(&self, contexts: &[EventContext]) -> Result<()> {
        let mut stored = self.contexts.write().unwrap_or_else(PoisonError::into_inner);
        stored.extend(contexts.iter().map(|context| (context.context.event_id.clone(), context.clone())));
        Ok(())
    }

    async fn insight(&self, id: &InsightId) -> Result<Option<Insight>> {
        Ok(self.insights.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned())
    }

    async fn put_insight(&self, insight: &Insight) -> Result<()> {
        let mut stored = self.insights.write().unwrap_or_else(PoisonError::into_inner);
        stored.insert(insight.id.clone(), insight.clone());
        Ok(())
    }

    async fn failure(&self, id: &FailureId) -> Result<Option<Failure>> {
        Ok(self.failures.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned())
    }

    async fn put_failure(&self, failure: &Failure) -> Result<()> {
        let mut stored = self.failures.write().unwrap_or_else(PoisonError::into_inner);
        stored.insert(failure.id.clone(), failure.clone());
        Ok(())
    }
}
