//! AMQP 0.9.1, against RabbitMQ.

use async_trait::async_trait;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use sidecar_core::conformance::events::Consumer;
use sidecar_core::events::{Amqp, AmqpConfig, EventFormat};
use sidecar_core::{Error, Event, EventProvider};

use crate::servers;

/// An exchange and a queue of its own for every test.
struct Queue {
    provider: Amqp,
    broker: String,
    config: AmqpConfig,
}

/// Where nobody listens.
const AWAY: &str = "amqp://127.0.0.1:1";

async fn queue_with(format: EventFormat) -> Option<Queue> {
    let broker = servers::rabbitmq()?;
    let name = format!("test-{}", uuid::Uuid::new_v4().simple());
    let config = AmqpConfig::new(name.clone()).queue(name).format(format);
    let provider = Amqp::open(&broker.parse().unwrap(), config.clone());
    servers::answering(|| provider.check()).await;
    provider.check().await.unwrap();
    Some(Queue { provider, broker, config })
}

async fn queue() -> Option<Queue> {
    queue_with(EventFormat::Ion).await
}

#[async_trait]
impl Consumer for Queue {
    fn provider(&self) -> &dyn EventProvider {
        &self.provider
    }

    async fn arrived(&self) -> Vec<Event> {
        let connection = Connection::connect(&self.broker, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let mut events = Vec::new();
        let name = self.config.queue.as_deref().unwrap();
        while let Some(message) =
            channel.basic_get(name.into(), BasicGetOptions { no_ack: true }).await.unwrap()
        {
            let event: Event = self.config.format.decode(&message.data).unwrap();
            let properties = &message.properties;
            assert_eq!(properties.message_id().as_ref().unwrap().as_str(), event.context.event_id.as_str());
            assert_eq!(properties.kind().as_ref().unwrap().as_str(), event.event_type);
            assert_eq!(*properties.delivery_mode(), Some(2));
            assert_eq!(message.routing_key.as_str(), event.event_type);
            events.push(event);
        }
        events
    }

    fn drops_repeats(&self) -> bool {
        false
    }
}

mod rabbitmq_server {
    use super::*;
    sidecar_core::conformance_events!(
        optional: queue().await,
        reopen: async |queue| Amqp::open(&queue.broker.parse().unwrap(), queue.config.clone()),
        away: Amqp::open(&AWAY.parse().unwrap(), AmqpConfig::new("x")),
    );
}

mod rabbitmq_cloudevents {
    use super::*;
    sidecar_core::conformance_events!(
        optional: queue_with(EventFormat::CloudEvents).await,
        reopen: async |queue| Amqp::open(&queue.broker.parse().unwrap(), queue.config.clone()),
        away: Amqp::open(&AWAY.parse().unwrap(), AmqpConfig::new("x")),
    );
}

/// A bus that is subscribed to; what no group wants has a queue of its own.
async fn bus() -> Option<Amqp> {
    Some(queue().await?.provider)
}

mod sources_rabbitmq {
    use super::*;
    sidecar_core::conformance_sources!(
        optional: bus().await,
        reopen: async |bus| {
            let id = bus.id();
            let exchange = id.rsplit_once('/').map_or("", |_| id.split('/').nth(3).unwrap().split('?').next().unwrap());
            let config = AmqpConfig::new(exchange).queue(exchange);
            Amqp::open(&servers::rabbitmq().unwrap().parse().unwrap(), config)
        },
        away: Amqp::open(&AWAY.parse().unwrap(), AmqpConfig::new("x")),
    );
}

fn event() -> Event {
    serde_json::from_value(serde_json::json!({
        "context": {"eventId": uuid::Uuid::new_v4().to_string(), "correlationId": "c"}, "type": "t"
    }))
    .unwrap()
}

#[tokio::test]
async fn an_event_that_no_queue_takes_is_an_error_unless_it_may_be_dropped() {
    let Some(queue) = queue().await else { return };
    let name = format!("unbound-{}", uuid::Uuid::new_v4().simple());
    let open = |drop_unroutable| {
        let config = AmqpConfig::new(&name).drop_unroutable(drop_unroutable);
        Amqp::open(&queue.broker.parse().unwrap(), config)
    };
    let strict = open(false);
    strict.check().await.unwrap();
    let error = strict.publish(&[event()]).await.unwrap_err();
    assert!(
        matches!(error, Error::Refused { .. }) && error.chain().contains("no queue is bound"),
        "{error:?}"
    );
    open(true).publish(&[event()]).await.unwrap();
}

#[tokio::test]
async fn a_broken_channel_is_opened_anew() {
    let Some(queue) = queue().await else { return };
    // A message for an exchange that is not there closes the channel.
    let config = AmqpConfig::new(format!("absent-{}", uuid::Uuid::new_v4().simple()));
    let provider = Amqp::open(&queue.broker.parse().unwrap(), config);
    let error = provider.publish(&[event()]).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    provider.check().await.unwrap();
    let error = provider.publish(&[event()]).await.unwrap_err();
    assert!(error.chain().contains("no queue is bound"), "{error:?}");
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_shown() {
    let Some(queue) = queue().await else { return };
    let broker = queue.broker.replace("guest:guest", "guest:swordfish");
    let wrong = Amqp::open(&broker.parse().unwrap(), AmqpConfig::new("x"));
    let error = wrong.check().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert!(!format!("{wrong:?} {wrong} {error:?} {}", error.chain()).contains("swordfish"));
}

#[tokio::test]
async fn a_name_that_the_protocol_cannot_carry_is_refused() {
    let Some(queue) = queue().await else { return };
    let long = Event { event_type: "t".repeat(256), ..event() };
    let error = queue.provider.publish(&[long]).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn a_queue_of_other_settings_is_refused() {
    let Some(queue) = queue().await else { return };
    let connection = Connection::connect(&queue.broker, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let name = format!("exclusive-{}", uuid::Uuid::new_v4().simple());
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.as_str().into(), exclusive, FieldTable::default()).await.unwrap();
    let config = queue.config.queue(name);
    let error = Amqp::open(&queue.broker.parse().unwrap(), config).check().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
}

/// What no release can read is kept, in whichever format somebody publishes; and what a retry needs is there before it.
#[tokio::test]
async fn a_message_that_is_no_event_is_kept_and_one_of_another_format_is_an_event() {
    use sidecar_core::events::Subscription;
    let Some(queue) = queue().await else { return };
    let group = sidecar_core::ModuleName::parse("g").unwrap();
    let source = queue.provider.subscribe(&Subscription::new(group, ["t"])).await.unwrap();
    let connection = Connection::connect(&queue.broker, ConnectionProperties::default()).await.unwrap();
    let exchange = &queue.config.exchange;
    let count = async |name: &str| {
        let channel = connection.create_channel().await.unwrap();
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found = channel.queue_declare(name.into(), passive, FieldTable::default()).await;
        found.map(|queue| queue.message_count()).ok()
    };
    for seconds in [1, 4, 512] {
        assert_eq!(count(&format!("{exchange}.g.retry.{seconds}s")).await, Some(0), "{seconds}");
    }
    let channel = connection.create_channel().await.unwrap();
    let options = lapin::options::BasicPublishOptions::default();
    let properties = lapin::BasicProperties::default();
    channel.basic_publish(exchange.as_str().into(), "t".into(), options, b"[]", properties).await.unwrap();
    let config = queue.config.clone().format(EventFormat::CloudEvents);
    let published = event();
    Amqp::open(&queue.broker.parse().unwrap(), config)
        .publish(std::slice::from_ref(&published))
        .await
        .unwrap();
    let delivery = source.receive(std::time::Duration::from_secs(10)).await.unwrap().unwrap();
    assert_eq!(delivery.event(), &published);
    // What the log says of a delay is what comes.
    assert_eq!(delivery.delay(std::time::Duration::from_millis(10_400)).as_secs(), 16);
    delivery.ack().await.unwrap();
    assert_eq!(count(&format!("{exchange}.g.unreadable")).await, Some(1));
}
