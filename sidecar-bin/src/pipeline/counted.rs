//! How many events of each type were published here, for the line that tells how many wait.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use sidecar_core::events::{EventSource, Subscription};
use sidecar_core::{DataPlane, Event, EventProvider, Result};

/// How many events of each type there were.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts(Arc<Mutex<HashMap<String, u64>>>);

impl Counts {
    pub(super) fn of(&self, types: &[String]) -> u64 {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        types.iter().filter_map(|name| counts.get(name)).sum()
    }
}

/// Counts what is published to the bus of `plane` from now on.
pub(super) fn count(plane: &mut DataPlane) -> Counts {
    let counts = Counts::default();
    plane.events = Arc::new(Counted { inner: plane.events.clone(), counts: counts.clone() });
    counts
}

#[derive(Debug)]
struct Counted {
    inner: Arc<dyn EventProvider>,
    counts: Counts,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl EventProvider for Counted {
    async fn publish(&self, events: &[Event]) -> Result<()> {
        self.inner.publish(events).await?;
        let mut counts = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            *counts.entry(event.event_type.clone()).or_default() += 1;
        }
        Ok(())
    }
    async fn republish(&self, event: &Event, message_id: &str) -> Result<()> {
        self.inner.republish(event, message_id).await
    }
    async fn subscribe(&self, subscription: &Subscription) -> Result<Arc<dyn EventSource>> {
        self.inner.subscribe(subscription).await
    }
    async fn check(&self) -> Result<()> {
        self.inner.check().await
    }
    fn refuses(&self, event: &Event) -> Option<String> {
        self.inner.refuses(event)
    }
    fn id(&self) -> String {
        self.inner.id()
    }
    fn directories(&self) -> Vec<PathBuf> {
        self.inner.directories()
    }
}
