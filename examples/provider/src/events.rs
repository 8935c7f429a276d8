//! Events: the server is a bus that keeps one message for each id.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use sidecar_core::events::{EventFormat, EventProvider, EventSource, Subscription};
use sidecar_core::{Error, Event, Result};

use crate::error;
use crate::server::{Failed, Page, Server};
use crate::source::Source;

/// Events on a server.
#[derive(Debug, Clone)]
pub struct Events {
    server: Server,
    topic: String,
}

impl Events {
    /// The events of this topic.
    pub fn open(server: &Server, topic: &str) -> Self {
        Self { server: server.clone(), topic: topic.to_owned() }
    }

    /// The messages on the bus with their ids, for a consumer.
    ///
    /// # Errors
    /// When the server is down.
    pub fn messages(&self) -> Result<Page, Failed> {
        let prefix = format!("{}/", self.topic);
        let messages = self.server.list(&prefix, "", usize::MAX)?;
        Ok(messages.into_iter().map(|(key, message)| (key[prefix.len()..].to_owned(), message)).collect())
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    fn put(&self, event: &Event, message_id: &str) -> Result<()> {
        let unusable =
            |problem: serde_json::Error| Error::refused(self, format!("encode {message_id}"), problem);
        let message = EventFormat::Ion.encode(event).map_err(unusable)?;
        let put = self.server.put(&format!("{}/{message_id}", self.topic), &message);
        put.map_err(error(self, format!("publish {message_id}")))
    }
}

impl fmt::Display for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "example events {}", self.topic)
    }
}

#[async_trait]
impl EventProvider for Events {
    async fn publish(&self, events: &[Event]) -> Result<()> {
        // The event's id is the message's: a repeat replaces the message instead of adding one.
        events.iter().try_for_each(|event| self.put(event, event.context.event_id.as_str()))
    }

    async fn republish(&self, event: &Event, message_id: &str) -> Result<()> {
        self.put(event, message_id)
    }

    async fn subscribe(&self, subscription: &Subscription) -> Result<Arc<dyn EventSource>> {
        Ok(Arc::new(Source::new(self.clone(), subscription)))
    }

    async fn check(&self) -> Result<()> {
        self.server.ping().map_err(error(self, "connect"))
    }
}
