//! Events in memory, for tests and for embedders whose modules run in one process.

mod source;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{EventProvider, EventSource, Subscription};
use crate::contract::Event;
use crate::error::Result;

/// Events as long as the process lives; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    inner: Arc<Mutex<Inner>>,
    /// Told when something can be received.
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Each message with its id.
    messages: Vec<(String, Event)>,
    /// Where in `messages` an id is.
    numbers: HashMap<String, usize>,
    groups: HashMap<String, Group>,
}

/// What a group has received.
#[derive(Debug, Default)]
struct Group {
    /// The first message that it has not looked at yet.
    next: usize,
    /// Messages that no member has taken yet.
    new: VecDeque<usize>,
    returned: source::Returned,
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("events in memory")
    }
}

#[async_trait]
impl EventProvider for Memory {
    async fn publish(&self, events: &[Event]) -> Result<()> {
        let message = |event: &Event| (event.context.event_id.to_string(), event.clone());
        self.accept(events.iter().map(message));
        Ok(())
    }

    async fn republish(&self, event: &Event, message_id: &str) -> Result<()> {
        self.accept([(message_id.to_owned(), event.clone())]);
        Ok(())
    }

    async fn subscribe(&self, subscription: &Subscription) -> Result<Arc<dyn EventSource>> {
        Ok(Arc::new(source::Source::new(self, subscription)))
    }
}

impl Memory {
    /// All events so far, repeats dropped.
    pub fn published(&self) -> Vec<Event> {
        self.inner().messages.iter().map(|(_, event)| event.clone()).collect()
    }

    fn accept(&self, messages: impl IntoIterator<Item = (String, Event)>) {
        let mut inner = self.inner();
        for (id, event) in messages {
            match inner.numbers.get(&id).copied() {
                Some(number) => inner.messages[number].1 = event,
                None => {
                    let number = inner.messages.len();
                    inner.numbers.insert(id.clone(), number);
                    inner.messages.push((id, event));
                }
            }
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
