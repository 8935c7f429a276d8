//! How many events of each type were published here, for the line that tells how many wait, and which submissions
//! are worked on.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sidecar_core::events::{Delivery, EventSource, Subscription};
use sidecar_core::{DataPlane, Event, EventId, EventProvider, Result};

/// What has passed.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts(Arc<Mutex<Passed>>);

#[derive(Debug, Default)]
struct Passed {
    /// How many events of each type were published.
    published: HashMap<String, u64>,
    /// The correlation ids of what was published or received, the latest last.
    graphs: VecDeque<String>,
}

/// So many submissions are remembered.
const GRAPHS: usize = 1000;

impl Counts {
    pub(super) fn of(&self, types: &[String]) -> u64 {
        let passed = self.passed();
        types.iter().filter_map(|name| passed.published.get(name)).sum()
    }

    /// The correlation ids of the submissions that are or were worked on, the latest last.
    pub(super) fn graphs(&self) -> Vec<String> {
        self.passed().graphs.iter().cloned().collect()
    }

    fn passed(&self) -> MutexGuard<'_, Passed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passed {
    fn graph_of(&mut self, event: &Event) {
        let graph = &event.context.correlation_id;
        if self.graphs.back() != Some(graph) && !self.graphs.contains(graph) {
            self.graphs.push_back(graph.clone());
            if self.graphs.len() > GRAPHS {
                self.graphs.pop_front();
            }
        }
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
        let mut passed = self.counts.passed();
        for event in events {
            *passed.published.entry(event.event_type.clone()).or_default() += 1;
            passed.graph_of(event);
        }
        Ok(())
    }
    async fn republish(&self, event: &Event, message_id: &str) -> Result<()> {
        self.inner.republish(event, message_id).await
    }
    async fn subscribe(&self, subscription: &Subscription) -> Result<Arc<dyn EventSource>> {
        let (inner, counts) = (self.inner.subscribe(subscription).await?, self.counts.clone());
        Ok(Arc::new(CountedSource { inner, counts }))
    }
    async fn forget(&self, ids: &[EventId]) -> Result<()> {
        self.inner.forget(ids).await
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

#[derive(Debug)]
struct CountedSource {
    inner: Arc<dyn EventSource>,
    counts: Counts,
}

impl fmt::Display for CountedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl EventSource for CountedSource {
    async fn receive(&self, wait: Duration) -> Result<Option<Box<dyn Delivery>>> {
        let delivery = self.inner.receive(wait).await?;
        delivery.iter().for_each(|delivery| self.counts.passed().graph_of(delivery.event()));
        Ok(delivery)
    }
    fn due_in(&self) -> Option<Duration> {
        self.inner.due_in()
    }
    fn has_settled(&self, event: &EventId) -> bool {
        self.inner.has_settled(event)
    }
}
