//! Events in memory, for tests and for embedders that dispatch them themselves.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::EventProvider;
use crate::contract::Event;
use crate::error::Result;

/// Events as long as the process lives; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    published: Arc<Mutex<Vec<Event>>>,
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("events in memory")
    }
}

#[async_trait]
impl EventProvider for Memory {
    async fn publish(&self, events: &[Event]) -> Result<()> {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            match published.iter_mut().find(|known| known.context.event_id == event.context.event_id) {
                Some(known) => known.clone_from(event),
                None => published.push(event.clone()),
            }
        }
        Ok(())
    }
}

impl Memory {
    /// All events so far, repeats dropped.
    pub fn published(&self) -> Vec<Event> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
