//! What a thousand events cost beside the bus's own client: `cargo bench -p sidecar-core --all-features`.
//!
//! Each figure stands beside its yardstick, taken in turn against the same server: the client publishes the same
//! messages, with as many acknowledgements awaited at once. Needs nats-server and rabbitmq-server on PATH.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use futures_util::{StreamExt, TryStreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use sidecar_core::events::{Amqp, AmqpConfig, Nats, NatsConfig};
use sidecar_core::{Event, EventProvider};

#[path = "../tests/all/servers.rs"]
mod servers;

const ROUNDS: usize = 9;
const EVENTS: usize = 1000;
/// The window of the providers.
const WINDOW: usize = 256;

#[tokio::main]
async fn main() {
    // `cargo test` builds benches too and asks them to do nothing.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    nats().await;
    rabbitmq().await;
}

fn events() -> Vec<Event> {
    let event = |_| {
        let id = uuid::Uuid::new_v4().to_string();
        let event = serde_json::json!({"context": {"eventId": id, "correlationId": id}, "type": "t"});
        serde_json::from_value(event).unwrap()
    };
    (0..EVENTS).map(event).collect()
}

async fn nats() {
    let Some(server) = servers::nats() else { return };
    let provider = Nats::open(&server.parse().unwrap(), NatsConfig::new("bench", "bench"));
    provider.check().await.unwrap();
    let client = jetstream::new(async_nats::connect(&server).await.unwrap());
    let config =
        stream::Config { name: "own".into(), subjects: vec!["own".into()], ..stream::Config::default() };
    client.create_stream(config).await.unwrap();
    let mut times = Times::default();
    for _ in 0..ROUNDS {
        let events = events();
        let started = Instant::now();
        provider.publish(&events).await.unwrap();
        times.ours.push(started.elapsed());
        let bodies: Vec<Vec<u8>> = events.iter().map(|event| serde_json::to_vec(event).unwrap()).collect();
        let started = Instant::now();
        let acks = futures_util::stream::iter(bodies)
            .map(async |body| client.publish("own", body.into()).await.unwrap().await.map(drop));
        acks.buffered(WINDOW).try_for_each(|()| std::future::ready(Ok(()))).await.unwrap();
        times.own.push(started.elapsed());
    }
    times.print("NATS JetStream");
}

async fn rabbitmq() {
    let Some(server) = servers::rabbitmq() else { return };
    let config = AmqpConfig::new("bench").queue("bench");
    let provider = Amqp::open(&server.parse().unwrap(), config);
    servers::answering(|| provider.check()).await;
    let connection = Connection::connect(&server, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let mut times = Times::default();
    for _ in 0..ROUNDS {
        let events = events();
        let started = Instant::now();
        provider.publish(&events).await.unwrap();
        times.ours.push(started.elapsed());
        let bodies: Vec<Vec<u8>> = events.iter().map(|event| serde_json::to_vec(event).unwrap()).collect();
        let started = Instant::now();
        let acks = futures_util::stream::iter(bodies).map(async |body| {
            let persistent = BasicProperties::default().with_delivery_mode(2);
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let sent = channel.basic_publish("bench".into(), "t".into(), options, &body, persistent).await;
            sent.unwrap().await.map(drop)
        });
        acks.buffered(WINDOW).try_for_each(|()| std::future::ready(Ok(()))).await.unwrap();
        times.own.push(started.elapsed());
    }
    times.print("RabbitMQ");
}

#[derive(Default)]
struct Times {
    ours: Vec<Duration>,
    own: Vec<Duration>,
}

impl Times {
    fn print(mut self, name: &str) {
        let median = |times: &mut Vec<Duration>| {
            times.sort();
            times[times.len() / 2].as_secs_f64() * 1000.0
        };
        let (ours, own) = (median(&mut self.ours), median(&mut self.own));
        println!(
            "{name}: {EVENTS} events in {ours:.0} ms, the client alone {own:.0} ms, ratio {:.2}",
            ours / own
        );
    }
}
