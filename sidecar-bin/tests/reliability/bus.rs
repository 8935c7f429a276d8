//! What an event provider let through, seen from outside.

use async_nats::jetstream::{self, consumer::pull};
use futures_util::TryStreamExt;
use lapin::options::BasicGetOptions;
use lapin::{Connection, ConnectionProperties};
use sidecar_core::events::{Amqp, AmqpConfig};
use sidecar_core::{Event, EventProvider, events};
use tokio::sync::Mutex;

use crate::servers;

/// The events of one execution.
pub enum Bus {
    Local(events::Local),
    Nats { server: String, stream: String },
    Amqp { connection: Box<Connection>, queue: String, taken: Mutex<Vec<Event>> },
}

impl Bus {
    pub fn nats(server: String, stream: &str) -> Self {
        Self::Nats { server, stream: stream.into() }
    }

    /// Makes exchange and queue, both called `name`.
    pub async fn amqp(broker: &str, name: &str) -> Self {
        let config = AmqpConfig::new(name).queue(name);
        let provider = Amqp::open(&broker.parse().unwrap(), config);
        servers::answering(|| provider.check()).await;
        let connection = Connection::connect(broker, ConnectionProperties::default()).await.unwrap();
        Self::Amqp { connection: Box::new(connection), queue: name.into(), taken: Mutex::default() }
    }

    /// Every event so far, each id once where the bus does not drop repeats.
    ///
    /// # Panics
    /// When two events of one id differ.
    pub async fn published(&self) -> Vec<Event> {
        match self {
            Self::Local(bus) => bus.published().unwrap(),
            Self::Nats { server, stream } => {
                let context = jetstream::new(async_nats::connect(server).await.unwrap());
                // It is made by the sidecar's first check.
                let Ok(stream) = context.get_stream(stream).await else { return Vec::new() };
                let consumer = stream.create_consumer(pull::Config::default()).await.unwrap();
                let messages = consumer.fetch().max_messages(1000).messages().await.unwrap();
                let messages: Vec<_> = messages.try_collect().await.unwrap();
                // A stream has room for so many, and many trials look at it.
                stream.delete_consumer(&consumer.cached_info().name).await.unwrap();
                messages.iter().map(|message| serde_json::from_slice(&message.payload).unwrap()).collect()
            }
            Self::Amqp { connection, queue, taken } => {
                let mut taken = taken.lock().await;
                let channel = connection.create_channel().await.unwrap();
                let options = BasicGetOptions { no_ack: true };
                while let Some(message) = channel.basic_get(queue.as_str().into(), options).await.unwrap() {
                    let event: Event = serde_json::from_slice(&message.data).unwrap();
                    match taken.iter().find(|found| found.context.event_id == event.context.event_id) {
                        Some(found) => assert_eq!(*found, event, "one id stands for two events"),
                        None => taken.push(event),
                    }
                }
                channel.close(200, "done".into()).await.unwrap();
                taken.clone()
            }
        }
    }
}
