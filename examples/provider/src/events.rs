//! Events: the server is a bus that keeps one message for each id.

use std::fmt;

use async_trait::async_trait;
use sidecar_core::events::{EventFormat, EventProvider};
use sidecar_core::{Error, Event, Result};

use crate::error;
use crate::server::{Failed, Server};

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

    /// The messages on the bus, for a consumer.
    ///
    /// # Errors
    /// When the server is down.
    pub fn messages(&self) -> Result<Vec<Vec<u8>>, Failed> {
        let messages = self.server.list(&format!("{}/", self.topic), "", usize::MAX)?;
        Ok(messages.into_iter().map(|(_, message)| message.to_vec()).collect())
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
        for event in events {
            let id = &event.context.event_id;
            // The event's id is the message's: a repeat replaces the message instead of adding one.
            let unusable = |problem: serde_json::Error| Error::refused(self, format!("encode {id}"), problem);
            let message = EventFormat::Ion.encode(event).map_err(unusable)?;
            let put = self.server.put(&format!("{}/{id}", self.topic), &message);
            put.map_err(error(self, format!("publish {id}")))?;
        }
        Ok(())
    }

    async fn check(&self) -> Result<()> {
        self.server.ping().map_err(error(self, "connect"))
    }
}
