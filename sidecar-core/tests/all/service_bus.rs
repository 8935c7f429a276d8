//! Azure Service Bus, against a double that verifies the signature: not the service itself.

use std::time::Duration;

use async_trait::async_trait;
use sidecar_core::conformance::events::Consumer;
use sidecar_core::events::{EventFormat, ServiceBus, ServiceBusConfig, Subscription};
use sidecar_core::layers::Retry;
use sidecar_core::{Error, Event, EventProvider, ModuleName};

use crate::service_bus_double::{Double, KEY, RULE, TOPIC};

struct Topic {
    provider: ServiceBus,
    double: Double,
    format: EventFormat,
}

fn config(double: &Double) -> ServiceBusConfig {
    ServiceBusConfig::new("ns", TOPIC, RULE, KEY).endpoint(double.endpoint.clone())
}

fn topic_with(format: EventFormat) -> Topic {
    let double = Double::start();
    let provider = ServiceBus::open(config(&double).format(format)).unwrap();
    Topic { provider, double, format }
}

/// Where nobody listens.
fn away() -> ServiceBus {
    let nowhere = config(&Double::start()).endpoint("http://127.0.0.1:1");
    ServiceBus::open(nowhere).unwrap()
}

fn topic() -> Topic {
    topic_with(EventFormat::Ion)
}

#[async_trait]
impl Consumer for Topic {
    fn provider(&self) -> &dyn EventProvider {
        &self.provider
    }

    async fn arrived(&self) -> Vec<Event> {
        let parse = |message: serde_json::Value| {
            let event = self.format.decode(message["Body"].as_str().unwrap().as_bytes()).unwrap();
            let properties = &message["BrokerProperties"];
            assert_eq!(properties["MessageId"], event.context.event_id.as_str());
            assert_eq!(properties["CorrelationId"], event.context.correlation_id.as_str());
            assert_eq!(properties["Label"], event.event_type.as_str());
            event
        };
        self.double.messages().into_iter().map(parse).collect()
    }

    fn drops_repeats(&self) -> bool {
        false
    }
}

mod servicebus_double {
    use super::*;
    sidecar_core::conformance_events!(
        topic(),
        reopen: async |topic| ServiceBus::open(config(&topic.double)).unwrap(),
        away: away(),
    );
}

mod servicebus_double_cloudevents {
    use super::*;

    fn open(double: &Double) -> ServiceBus {
        ServiceBus::open(config(double).format(EventFormat::CloudEvents)).unwrap()
    }

    sidecar_core::conformance_events!(
        topic_with(EventFormat::CloudEvents),
        reopen: async |topic| open(&topic.double),
        away: away(),
    );
}

mod sources_servicebus_double {
    use super::*;

    fn bus() -> ServiceBus {
        topic().provider
    }

    sidecar_core::conformance_sources!(
        bus(),
        reopen: async |bus: &ServiceBus| {
            let host = bus.id();
            let host = host.strip_prefix("servicebus://").unwrap().split('/').next().unwrap();
            let endpoint = Some(format!("http://{host}"));
            ServiceBus::open({ let mut config = config(&Double::start()); config.endpoint = endpoint; config }).unwrap()
        },
        away: away(),
    );
}

fn group(name: &str) -> Subscription {
    Subscription {
        lock: Duration::from_secs(5),
        ..Subscription::new(ModuleName::parse(name).unwrap(), ["t"])
    }
}

#[tokio::test]
async fn a_rule_that_may_only_listen_needs_a_subscription_that_is_there() {
    let topic = topic();
    topic.double.forbid_managing();
    let source = topic.provider.subscribe(&group("absent")).await.unwrap();
    let error = source.receive(Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert!(error.chain().contains("make it first"), "{}", error.chain());
    topic.double.make("there", "<LockDuration>PT5S</LockDuration>");
    let source = topic.provider.subscribe(&group("there")).await.unwrap();
    topic.provider.publish(&events(1)).await.unwrap();
    source.receive(Duration::from_secs(5)).await.unwrap().unwrap().ack().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_a_subscription_is_refused() {
    let topic = topic();
    for name in ["x".repeat(51), "größe".into(), "a b".into()] {
        let error = topic.provider.subscribe(&group(&name)).await.unwrap_err();
        assert!(error.chain().contains("--group"), "{}", error.chain());
    }
    topic.double.make("sessions", "<RequiresSession>true</RequiresSession>");
    let error = topic.provider.subscribe(&group("sessions")).await.unwrap_err();
    assert!(error.chain().contains("sessions"), "{}", error.chain());
}

/// An outage that hands events back again and again must not burn them into the service's own dead letters.
#[tokio::test]
async fn handing_back_does_not_use_deliveries_up() {
    let topic = topic();
    let source = topic.provider.subscribe(&group("g")).await.unwrap();
    topic.provider.publish(&events(1)).await.unwrap();
    for _ in 0..50 {
        let delivery = source.receive(Duration::from_secs(5)).await.unwrap().unwrap();
        delivery.retry(Duration::ZERO).await.unwrap();
    }
    assert_eq!(topic.double.put_away("g"), 0);
}

/// A message that waits for its next attempt is held for longer than one lock lasts.
#[tokio::test]
async fn a_retry_outlives_the_lock() {
    let topic = topic();
    let (source, other) = (
        topic.provider.subscribe(&group("g")).await.unwrap(),
        topic.provider.subscribe(&group("g")).await.unwrap(),
    );
    topic.provider.publish(&events(1)).await.unwrap();
    let delivery = source.receive(Duration::from_secs(5)).await.unwrap().unwrap();
    let began = std::time::Instant::now();
    delivery.retry(Duration::from_secs(7)).await.unwrap();
    drop((delivery, source));
    other.receive(Duration::from_secs(20)).await.unwrap().unwrap().ack().await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(7), "{:?}", began.elapsed());
}

/// The answer names the lock's address; the token is shown to no other server.
#[tokio::test]
async fn a_lock_elsewhere_is_refused() {
    let app = axum::Router::new().fallback(async |method: axum::http::Method| {
        let headers = [
            ("location", "http://127.0.0.2:9/events/subscriptions/g/messages/1/x"),
            ("brokerproperties", r#"{"LockedUntilUtc":"Sat, 01 Jan 2050 00:00:00 GMT"}"#),
        ];
        let status = if method == "PUT" { 201 } else { 200 };
        (axum::http::StatusCode::from_u16(status).unwrap(), headers, "{}")
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
    tokio::spawn(async { axum::serve(listener, app).await });
    let provider = ServiceBus::open({
        let mut config = config(&Double::start());
        config.endpoint = endpoint;
        config
    })
    .unwrap();
    let source = provider.subscribe(&group("g")).await.unwrap();
    let error = source.receive(Duration::ZERO).await.unwrap_err();
    assert!(error.chain().contains("another server"), "{}", error.chain());
}

fn events(count: usize) -> Vec<Event> {
    let event =
        |n| serde_json::json!({"context": {"eventId": format!("e{n}"), "correlationId": "c"}, "type": "t"});
    (0..count).map(|n| serde_json::from_value(event(n)).unwrap()).collect()
}

#[tokio::test]
async fn events_travel_in_batches() {
    let topic = topic();
    topic.provider.publish(&events(1000)).await.unwrap();
    assert_eq!(topic.double.messages().len(), 1000);
    assert_eq!(topic.double.requests(), 10);
}

#[tokio::test]
async fn a_rule_that_may_only_send_passes_the_check() {
    topic().provider.check().await.unwrap();
}

#[tokio::test]
async fn a_wrong_key_or_rule_is_refused_and_not_shown() {
    let double = Double::start();
    let wrong = config(&double).key("swordfish");
    let unknown = config(&double).rule("other");
    for config in [wrong, unknown] {
        let provider = ServiceBus::open(config).unwrap();
        for error in [provider.check().await.unwrap_err(), provider.publish(&events(1)).await.unwrap_err()] {
            assert!(matches!(error, Error::Refused { .. }), "{error:?}");
            assert!(error.chain().contains("InvalidSignature"), "{}", error.chain());
            assert!(!format!("{error:?} {provider:?} {}", error.chain()).contains("swordfish"));
        }
    }
}

#[tokio::test]
async fn a_topic_that_is_not_there_is_refused() {
    let double = Double::start();
    let provider = ServiceBus::open(config(&double).topic("absent")).unwrap();
    for error in [provider.check().await.unwrap_err(), provider.publish(&events(1)).await.unwrap_err()] {
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        assert!(error.chain().contains("make the topic first"), "{}", error.chain());
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused() {
    let topic = topic();
    let mut event = events(1).remove(0);
    event.event_type = "t".repeat(300 * 1024);
    let error = topic.provider.publish(&[event]).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }) && error.chain().contains("too large"), "{error:?}");
}

#[tokio::test]
async fn throttling_is_waited_out_as_long_as_the_service_asks() {
    let topic = topic();
    topic.double.fail(&[(429, Some("1")), (503, None), (500, None)]);
    let error = topic.provider.publish(&events(1)).await.unwrap_err();
    let asked = Some(Duration::from_secs(1));
    assert!(matches!(error, Error::Unavailable { retry_after, .. } if retry_after == asked), "{error:?}");
    let started = std::time::Instant::now();
    topic.double.fail(&[(429, Some("1")), (503, None), (500, None)]);
    Retry::new(topic.provider, Duration::from_secs(30)).publish(&events(1)).await.unwrap();
    assert!(started.elapsed() > Duration::from_secs(1));
    assert_eq!(topic.double.messages().len(), 1);
}

/// A token made by a clock that is hours slow has expired when it arrives; the answer's date tells why.
#[tokio::test]
async fn a_clock_that_is_off_is_told() {
    let date = "Sat, 01 Jan 2000 00:00:00 GMT";
    let app = axum::Router::new()
        .fallback(async move || (axum::http::StatusCode::UNAUTHORIZED, [("date", date)], "ExpiredToken"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
    tokio::spawn(async { axum::serve(listener, app).await });
    let provider = ServiceBus::open({
        let mut config = config(&Double::start());
        config.endpoint = endpoint;
        config
    })
    .unwrap();
    let error = provider.publish(&events(1)).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }) && error.chain().contains("clock is"), "{error:?}");
}
