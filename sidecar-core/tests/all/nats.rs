//! NATS JetStream, against a real server.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer::pull};
use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt};
use sidecar_core::conformance::events::Consumer;
use sidecar_core::events::{EventFormat, Nats, NatsConfig, Subscription};
use sidecar_core::{Error, Event, EventProvider, ModuleName};

use crate::servers;

/// A stream of its own for every test.
struct Stream {
    provider: Nats,
    server: String,
    name: String,
    format: EventFormat,
}

/// Where nobody listens.
const AWAY: &str = "nats://user:swordfish@127.0.0.1:1";

fn open(server: &str, name: &str, format: EventFormat) -> Nats {
    let config = NatsConfig::new(format!("events.{name}"), name).format(format);
    Nats::open(&server.parse().unwrap(), config)
}

async fn stream() -> Option<Stream> {
    stream_with(EventFormat::Ion).await
}

async fn stream_with(format: EventFormat) -> Option<Stream> {
    let server = servers::nats()?;
    let name = format!("test-{}", uuid::Uuid::new_v4().simple());
    let provider = open(&server, &name, format);
    provider.check().await.unwrap();
    provider.check().await.unwrap();
    Some(Stream { provider, server, name, format })
}

#[async_trait]
impl Consumer for Stream {
    fn provider(&self) -> &dyn EventProvider {
        &self.provider
    }

    async fn arrived(&self) -> Vec<Event> {
        let context = jetstream::new(async_nats::connect(&self.server).await.unwrap());
        let stream = context.get_stream(&self.name).await.unwrap();
        let consumer = stream.create_consumer(pull::Config::default()).await.unwrap();
        let messages = consumer.fetch().max_messages(10_000).messages().await.unwrap();
        let parse = |message: jetstream::Message| {
            let event: Event = self.format.decode(&message.payload).unwrap();
            let headers = message.headers.as_ref().unwrap();
            assert_eq!(headers.get("Nats-Msg-Id").unwrap().as_str(), event.context.event_id.as_str());
            event
        };
        messages.map_ok(parse).collect::<Vec<_>>().await.into_iter().map(Result::unwrap).collect()
    }

    fn drops_repeats(&self) -> bool {
        true
    }
}

mod jetstream_cloudevents {
    use super::*;
    sidecar_core::conformance_events!(
        optional: stream_with(EventFormat::CloudEvents).await,
        reopen: async |stream| open(&stream.server, &stream.name, stream.format),
        away: open(AWAY, "s", EventFormat::Ion),
    );
}

mod jetstream_server {
    use super::*;
    sidecar_core::conformance_events!(
        optional: stream().await,
        reopen: async |stream| open(&stream.server, &stream.name, stream.format),
        away: open(AWAY, "s", EventFormat::Ion),
    );
}

/// A stream of its own that is subscribed to.
async fn bus(subject_per_type: bool) -> Option<Nats> {
    let server = servers::nats()?;
    let name = format!("test-{}", uuid::Uuid::new_v4().simple());
    let config = NatsConfig::new(format!("events.{name}"), name).subject_per_type(subject_per_type);
    let provider = Nats::open(&server.parse().unwrap(), config);
    provider.check().await.unwrap();
    Some(provider)
}

/// The same bus by a connection of its own, as of another process.
fn reopened(bus: &Nats, subject_per_type: bool) -> Nats {
    let id = bus.id();
    let (rest, stream) = id.split_once("?stream=").unwrap();
    let (server, subject) = rest.rsplit_once('/').unwrap();
    let config = NatsConfig::new(subject, stream).subject_per_type(subject_per_type);
    Nats::open(&server.parse().unwrap(), config)
}

mod sources_on_one_subject {
    use super::*;
    sidecar_core::conformance_sources!(
        optional: bus(false).await,
        reopen: async |bus| reopened(bus, false),
        away: open(AWAY, "s", EventFormat::Ion),
    );
}

mod sources_by_type {
    use super::*;
    sidecar_core::conformance_sources!(
        optional: bus(true).await,
        reopen: async |bus| reopened(bus, true),
        away: open(AWAY, "s", EventFormat::Ion),
    );
}

/// A member passes over, for its whole group, what it does not want.
#[tokio::test]
async fn the_members_of_a_group_want_the_same_types() {
    let Some(first) = bus(true).await else { return };
    let group = |types: &[&str]| {
        Subscription::new(ModuleName::parse("g").unwrap(), types.iter().map(|name| (*name).to_owned()))
    };
    let second = reopened(&first, true);
    let member = first.subscribe(&group(&["a"])).await.unwrap();
    let waiting = tokio::spawn({
        let member = member.clone();
        async move { while member.receive(Duration::from_secs(30)).await.is_ok() {} }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    second.subscribe(&group(&["a"])).await.unwrap();
    let error = second.subscribe(&group(&["a", "b"])).await.unwrap_err();
    assert!(error.chain().contains("all members of a group receive the same types"), "{error:?}");
    // Where none is at work, the group changes.
    waiting.abort();
    drop((waiting, member, first));
    let member = second.subscribe(&group(&["a", "b"])).await.unwrap();
    let event = Event { event_type: "b".into(), ..sample() };
    second.publish(std::slice::from_ref(&event)).await.unwrap();
    assert_eq!(*member.receive(Duration::from_secs(10)).await.unwrap().unwrap().event(), event);
}

fn sample() -> Event {
    let header = sidecar_core::EventHeader {
        name: String::new(),
        event_id: sidecar_core::EventId::from(uuid::Uuid::new_v4()),
        correlation_id: "c".into(),
        parent_event_id: String::new(),
    };
    let (event_type, data) = ("t".into(), sidecar_core::KeyValuePairs::default());
    Event { context: header, event_type, previous_stages: Vec::new(), data, traceparent: None }
}

#[tokio::test]
async fn a_stream_that_listens_elsewhere_is_refused() {
    let Some(stream) = stream().await else { return };
    let config = NatsConfig::new("elsewhere", stream.name);
    let error = Nats::open(&stream.server.parse().unwrap(), config).check().await.unwrap_err();
    assert!(
        matches!(error, Error::Refused { .. }) && error.chain().contains("not to elsewhere"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_subject_of_another_stream_is_refused_with_that_streams_name() {
    let Some(stream) = stream().await else { return };
    let config = NatsConfig::new(format!("events.{}", stream.name), "another");
    let error = Nats::open(&stream.server.parse().unwrap(), config).check().await.unwrap_err();
    let hint = format!("add ?stream={}", stream.name);
    assert!(matches!(error, Error::Refused { .. }) && error.chain().contains(&hint), "{error:?}");
}

#[tokio::test]
async fn a_user_of_the_url_is_the_one_that_connects() {
    let Some(server) = servers::nats_with_users() else { return };
    let name = format!("users-{}", std::process::id());
    let open = |user: &str| {
        let url = server.replace("nats://", &format!("nats://{user}@"));
        Nats::open(&url.parse().unwrap(), NatsConfig::new(&name, &name))
    };
    open("sidecar:p%40ss").check().await.unwrap();
    let error = open("sidecar:wrong").check().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    // One without rights gets no answer at all, which is no outage.
    let error = open("guest:guest").check().await.unwrap_err();
    let said = error.chain().to_lowercase();
    assert!(matches!(error, Error::Refused { .. }) && said.contains("permissions violation"), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable() {
    let away = open(AWAY, "s", EventFormat::Ion);
    assert!(matches!(away.check().await.unwrap_err(), Error::Unavailable { .. }));
    let error = away.publish(&[]).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(!format!("{away:?} {away} {}", error.chain()).contains("swordfish"));
}

/// A subscription of group `g` whose locks last so many seconds.
fn with_lock(seconds: u64) -> Subscription {
    let group = Subscription::new(ModuleName::parse("g").unwrap(), ["a".to_owned()]);
    Subscription { lock: Duration::from_secs(seconds), ..group }
}

/// A lock that ends sooner would take away what the members of a group are at work on.
#[tokio::test]
async fn whoever_joins_a_group_does_not_change_the_lock_of_its_members() {
    let Some(first) = bus(true).await else { return };
    let member = first.subscribe(&with_lock(30)).await.unwrap();
    let event = Event { event_type: "a".into(), ..sample() };
    first.publish(std::slice::from_ref(&event)).await.unwrap();
    let held = member.receive(Duration::from_secs(10)).await.unwrap().unwrap();
    let second = reopened(&first, true);
    let other = second.subscribe(&with_lock(1)).await.unwrap();
    assert!(other.receive(Duration::from_millis(2500)).await.unwrap().is_none(), "it was taken away");
    second
        .publish(&[Event {
            context: sidecar_core::EventHeader {
                event_id: sidecar_core::EventId::parse("second").unwrap(),
                ..event.context.clone()
            },
            ..event
        }])
        .await
        .unwrap();
    let next = other.receive(Duration::from_secs(10)).await.unwrap().unwrap();
    assert_eq!(next.lock(), Some(Duration::from_secs(30)));
    held.ack().await.unwrap();
    next.ack().await.unwrap();
}

/// Of members that begin a group at the same moment, one decides, and the others know.
#[tokio::test]
async fn members_that_begin_a_group_together_agree() {
    let Some(first) = bus(true).await else { return };
    let second = reopened(&first, true);
    second.check().await.unwrap();
    // Both wait for events all the time, as workers do.
    let locks = async |bus: &dyn EventProvider, lock: u64| {
        let member = bus.subscribe(&with_lock(lock)).await.unwrap();
        let (mut locks, until) = (Vec::new(), Instant::now() + Duration::from_secs(4));
        while Instant::now() < until {
            if let Some(held) = member.receive(Duration::from_secs(1)).await.unwrap() {
                held.ack().await.unwrap();
                locks.push(held.lock().unwrap().as_secs());
            }
        }
        locks
    };
    let publish = async {
        for _ in 0..20 {
            first.publish(&[Event { event_type: "a".into(), ..sample() }]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    };
    let (mut all, short, ()) = tokio::join!(locks(&first, 60), locks(&second, 5), publish);
    assert!(!all.is_empty() && !short.is_empty(), "{all:?} {short:?}");
    all.extend(short);
    assert!(all.iter().all(|lock| *lock == all[0]), "{all:?}");
}

/// Credentials that are not valid any more are not tried again once nobody uses them.
#[tokio::test]
async fn a_connection_that_nobody_uses_ends() {
    use std::io::{BufRead, BufReader, Write};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (url, tries) =
        (format!("nats://u:p@{}", listener.local_addr().unwrap()), Arc::new(AtomicUsize::new(0)));
    let counted = tries.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, number) = (client.unwrap(), counted.fetch_add(1, Ordering::SeqCst));
            let info = r#"INFO {"server_id":"s","version":"2.10.0","go":"go","host":"h","port":4222,"max_payload":1048576,"headers":true,"jetstream":true,"auth_required":true}"#;
            let _ = client.write_all(format!("{info}\r\n").as_bytes());
            let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
            let _ = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with("PING"));
            let answer = if number == 0 { "PONG\r\n" } else { "-ERR 'Authorization Violation'\r\n" };
            let _ = client.write_all(answer.as_bytes());
            // The first user is there until it has asked for something.
            if number == 0 {
                let _ = lines.next();
            }
        }
    });
    let bus = Nats::open(&url.parse().unwrap(), NatsConfig::new("s", "s"));
    let error = tokio::time::timeout(Duration::from_secs(20), bus.check()).await.unwrap().unwrap_err();
    assert!(error.chain().to_lowercase().contains("authorization violation"), "{}", error.chain());
    assert!(tries.load(Ordering::SeqCst) > 1);
    drop(bus);
    // Whatever is under way is the last.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = tries.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(tries.load(Ordering::SeqCst), before);
}

/// Whoever looks for the files elsewhere would give up every event.
#[tokio::test]
async fn a_member_with_other_stores_is_refused() {
    let Some(bus) = bus(true).await else { return };
    let group = |stores: &str| {
        let group = Subscription::new(ModuleName::parse("g").unwrap(), ["a".to_owned()]);
        Subscription { stores: stores.into(), ..group }
    };
    bus.subscribe(&group("s3://prod")).await.unwrap();
    let error = bus.subscribe(&group("s3://prdo")).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }) && error.chain().contains("check the URLs"), "{error:?}");
    bus.subscribe(&group("s3://prod")).await.unwrap();
}
