//! The receiving side: a quorum queue for each group, and a queue for each delay.
//!
//! The broker requeues what a channel held when that closes, so the lock lasts as long as the connection. It has no
//! delayed return: what is to come again later is published into a queue whose messages expire into the group's own,
//! and only then acknowledged. All messages of one such queue have the same delay, since they expire at its head alone.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::message::Delivery as Message;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use tokio::sync::Mutex;

use super::super::source::{Delivery, EventSource, Subscription, not_held};
use super::{Amqp, PERSISTENT};
use crate::contract::Event;
use crate::error::{Error, Result};

/// After how many returns the broker drops a message: never, as far as anybody waits. Newer brokers say 20 otherwise.
const RETURNS: i64 = 1_000_000_000;

/// How long a module may hold a message, in milliseconds: 30 days. RabbitMQ takes it from 3.12 on; before, that of the
/// node counts.
const LONGEST: i64 = 30 * 24 * 3_600_000;

/// How long a message is held, at most, whose delay the broker does not take.
const LONGEST_HELD: Duration = Duration::from_secs(20);

/// How long a message may be on its way when nobody waits for it any more.
const ON_ITS_WAY: Duration = Duration::from_millis(20);

/// How long a queue for a delay outlives its last message, in milliseconds.
const UNUSED: i64 = 3_600_000;

/// The interval at which the queues for delays are declared again.
const AGAIN_AFTER: Duration = Duration::from_secs(20 * 60);

/// The header that marks a copy of a delivered message.
const AGAIN: &str = "sidecar-again";

/// What the queue for messages that are not events is called, after the group's.
const UNREADABLE: &str = "unreadable";

/// The longest delay for which a queue is made before it is needed, in seconds.
const LONGEST_DELAY: u64 = 512;

/// The delay of a message that another member wants, and this one does not.
const PASSED_OVER: Duration = Duration::from_secs(4);

/// A member of a group; the slots of one process share its channel.
#[derive(Debug)]
pub(super) struct Source {
    bus: Amqp,
    subscription: Subscription,
    queue: ShortString,
    /// The channel, opened again after an error.
    open: Mutex<Option<Channel>>,
    /// When the queues for delays were made last.
    made: std::sync::Mutex<Instant>,
    /// Whether it was said that others' events come.
    passed_over: AtomicBool,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bus.fmt(f)
    }
}

impl Source {
    /// Joins a group, whose queue is made and bound when it is absent.
    pub(super) async fn open(bus: &Amqp, subscription: &Subscription) -> Result<Self> {
        let queue = bus.name(&format!("{}.{}", bus.config.exchange, subscription.group))?;
        let source = Self {
            bus: bus.clone(),
            subscription: subscription.clone(),
            queue,
            open: Mutex::default(),
            made: std::sync::Mutex::new(Instant::now()),
            passed_over: AtomicBool::new(false),
        };
        *source.open.lock().await = Some(source.join().await?);
        Ok(source)
    }

    /// Makes the queues for delays before they are needed, and again before they expire: a broker that dies soon after it
    /// has made a queue may forget it with what is in it (RabbitMQ 3.10).
    async fn make_delays(&self, channel: &Channel) -> Result<()> {
        for seconds in (0..).map(|power| 1 << power).take_while(|seconds| *seconds <= LONGEST_DELAY) {
            declare_delay(&self.bus, channel, &self.queue, seconds).await?;
        }
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Ok(())
    }

    async fn join(&self) -> Result<Channel> {
        let channel = self.bus.channel().await?;
        let failed = |action: &'static str| move |error| self.bus.error(action, error);
        let mut arguments = FieldTable::default();
        arguments.insert("x-consumer-timeout".into(), AMQPValue::LongLongInt(LONGEST));
        declare(&channel, &self.queue, arguments).await.map_err(failed("find or make the group's queue"))?;
        let exchange = self.bus.name(&self.bus.config.exchange)?;
        let every = ["#".to_owned()];
        let keys = if self.subscription.types.is_empty() { &every[..] } else { &self.subscription.types };
        for key in keys {
            let (queue, exchange, key) = (self.queue.clone(), exchange.clone(), self.bus.name(key)?);
            let bound =
                channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default());
            bound.await.map_err(failed("bind the group's queue"))?;
        }
        // For each consumer: none is handed what nobody here can work on yet.
        let limited = channel.basic_qos(1, BasicQosOptions::default()).await;
        limited.map_err(failed("limit what is held"))?;
        self.make_delays(&channel).await?;
        Ok(channel)
    }

    /// The next message, of whatever type.
    async fn next(&self, until: Instant) -> Result<Option<(Message, Channel)>> {
        let until = tokio::time::Instant::from_std(until);
        let Ok(mut open) = tokio::time::timeout_at(until, self.open.lock()).await else { return Ok(None) };
        if open.is_none() {
            *open = Some(self.join().await?);
        }
        let Some(channel) = &*open else { return Ok(None) };
        let made = *self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let again = match made.elapsed() > AGAIN_AFTER {
            true => self.make_delays(channel).await,
            false => Ok(()),
        };
        let received = match again {
            Ok(()) => self.take(channel, until).await,
            Err(error) => Err(error),
        };
        let received = match received {
            Ok(received) => return Ok(received.map(|message| (message, channel.clone()))),
            Err(error) => error,
        };
        // What it held comes again.
        *open = None;
        Err(match received {
            // Whatever closed the channel, another one can be opened.
            Error::Refused { source, .. } => Error::unavailable(&self.bus, "receive events", source),
            other => other,
        })
    }
}

impl Source {
    /// Moves a message that is not an event into a queue of its own, where somebody can look at it.
    async fn put_away(&self, message: &Message, why: &serde_json::Error) -> Result<()> {
        let failed = |error| self.bus.error("move a message that is not an event", error);
        let queue = self.bus.name(&format!("{}.{UNREADABLE}", self.queue))?;
        // A refusal closes the channel, and the group's holds what other slots work on.
        let channel = self.bus.channel().await?;
        declare(&channel, &queue, FieldTable::default()).await.map_err(failed)?;
        let mut properties = kept(&message.properties);
        if let Some(headers) = message.properties.headers() {
            properties = properties.with_headers(headers.clone());
        }
        self.bus.copy(&queue, &message.data, properties).await?;
        message.acker.ack(BasicAckOptions::default()).await.map_err(failed)?;
        tracing::error!("a message was not an event, and is in the queue {queue} now: {why}");
        Ok(())
    }

    async fn take(&self, channel: &Channel, until: tokio::time::Instant) -> Result<Option<Message>> {
        let failed = |error| self.bus.error("receive events", error);
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(self.queue.clone(), "".into(), options, FieldTable::default());
        let mut consumer = consumer.await.map_err(failed)?;
        match tokio::time::timeout_at(until, consumer.next()).await {
            Err(_) => {
                // What is on its way already is received; from then on nobody waits, and nothing comes.
                let cancelled = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await;
                cancelled.map_err(failed)?;
                match tokio::time::timeout(ON_ITS_WAY, consumer.next()).await {
                    Ok(Some(Ok(message))) => Ok(Some(message)),
                    _ => Ok(None),
                }
            }
            Ok(Some(Ok(message))) => {
                // It is given no second one before this is settled; the next call waits for itself.
                let cancelled = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await;
                if let Err(error) = cancelled {
                    let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
                    // Where the channel is gone, the broker has it already.
                    let _ = message.acker.nack(options).await;
                    return Err(failed(error));
                }
                Ok(Some(message))
            }
            Ok(Some(Err(error))) => Err(failed(error)),
            Ok(None) => {
                Err(Error::unavailable(&self.bus, "receive events", "the broker has ended the subscription"))
            }
        }
    }
}

/// The properties that a copy of a message keeps: what belongs to its sender alone, or would let it expire, it does not.
fn kept(message: &BasicProperties) -> BasicProperties {
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    if let Some(id) = message.message_id() {
        properties = properties.with_message_id(id.clone());
    }
    if let Some(kind) = message.kind() {
        properties = properties.with_type(kind.clone());
    }
    if let Some(content_type) = message.content_type() {
        properties = properties.with_content_type(content_type.clone());
    }
    if let Some(published) = message.timestamp() {
        properties = properties.with_timestamp(*published);
    }
    properties
}

/// The seconds of a delay: powers of two, so that there are few queues.
fn rounded(after: Duration) -> u64 {
    (after.as_secs_f64().ceil().max(1.0) as u64).next_power_of_two()
}

/// A queue whose messages come to the group's queue after so many seconds.
async fn declare_delay(
    bus: &Amqp,
    channel: &Channel,
    queue: &ShortString,
    seconds: u64,
) -> Result<ShortString> {
    let waiting = bus.name(&format!("{queue}.retry.{seconds}s"))?;
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX / UNUSED);
    let mut arguments = FieldTable::default();
    for (name, text) in [
        ("x-dead-letter-exchange", ""),
        ("x-dead-letter-routing-key", queue.as_str()),
        ("x-dead-letter-strategy", "at-least-once"),
        ("x-overflow", "reject-publish"),
    ] {
        arguments.insert(name.into(), AMQPValue::LongString(text.into()));
    }
    for (name, number) in [("x-message-ttl", seconds * 1000), ("x-expires", seconds * 1000 + UNUSED)] {
        arguments.insert(name.into(), AMQPValue::LongLongInt(number));
    }
    let declared = declare(channel, &waiting, arguments).await;
    declared.map_err(|error| bus.error("find or make a queue for retries", error))?;
    Ok(waiting)
}

/// A durable quorum queue, which the broker replicates where it can.
async fn declare(channel: &Channel, queue: &ShortString, mut arguments: FieldTable) -> lapin::Result<()> {
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(RETURNS));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.clone(), options, arguments).await.map(drop)
}

#[async_trait]
impl EventSource for Source {
    async fn receive(&self, wait: Duration) -> Result<Option<Box<dyn Delivery>>> {
        let until = Instant::now() + wait;
        loop {
            let Some((message, channel)) = self.next(until).await? else { return Ok(None) };
            let headers = message.properties.headers().as_ref();
            let traceparent = match headers.and_then(|headers| headers.inner().get("traceparent")) {
                Some(AMQPValue::LongString(text)) => std::str::from_utf8(text.as_bytes()).ok(),
                _ => None,
            };
            let event = match self.bus.config.format.decode_traced(&message.data, traceparent) {
                Ok(event) => event,
                Err(error) => {
                    if let Err(failed) = self.put_away(&message, &error).await {
                        let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
                        // Where the channel is gone, the broker has it already.
                        let _ = message.acker.nack(options).await;
                        return Err(failed);
                    }
                    continue;
                }
            };
            let is_wanted = self.subscription.wants(&event.event_type);
            let (bus, queue) = (self.bus.clone(), self.queue.clone());
            let held = Held { bus, channel, queue, message, event, settled: AtomicBool::new(false) };
            if is_wanted {
                return Ok(Some(Box::new(held)));
            }
            // A binding is a pattern, and another member may have made it: what this one does not want, that one may.
            if !self.passed_over.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "the queue {} brings events of type {:?}, which this worker passes over: if no worker of group {} wants \
                     them, remove that binding of the queue",
                    self.queue,
                    held.event.event_type,
                    self.subscription.group
                );
            }
            held.later(PASSED_OVER, held.is_copy()).await?;
        }
    }
}

/// A message that this member holds as long as its channel is open.
#[derive(Debug)]
struct Held {
    bus: Amqp,
    channel: Channel,
    queue: ShortString,
    message: Message,
    event: Event,
    settled: AtomicBool,
}

impl Held {
    /// Whether it was delivered before, and is a copy.
    fn is_copy(&self) -> bool {
        self.message.properties.headers().as_ref().is_some_and(|headers| headers.inner().contains_key(AGAIN))
    }

    fn check(&self) -> Result<()> {
        match self.settled.load(Ordering::Relaxed) || !self.channel.status().connected() {
            true => Err(not_held(&self.bus, &self.event)),
            false => Ok(()),
        }
    }

    async fn acknowledge(&self) -> Result<()> {
        let acked = self.message.acker.ack(BasicAckOptions::default()).await;
        self.settle(acked)
    }

    /// What came of a settlement: it is `false` where the channel is gone.
    fn settle(&self, settled: lapin::Result<bool>) -> Result<()> {
        match settled {
            Ok(true) => {
                self.settled.store(true, Ordering::Relaxed);
                Ok(())
            }
            Ok(false) => Err(not_held(&self.bus, &self.event)),
            Err(error) => Err(self.bus.error("settle an event", error)),
        }
    }

    /// Publishes a copy that comes to the group after a time, and acknowledges the message.
    async fn later(&self, after: Duration, again: bool) -> Result<()> {
        let channel = self.bus.channel().await?;
        let waiting = declare_delay(&self.bus, &channel, &self.queue, rounded(after)).await?;
        let mut properties = kept(&self.message.properties);
        if again {
            let mut headers = FieldTable::default();
            headers.insert(AGAIN.into(), AMQPValue::Boolean(true));
            properties = properties.with_headers(headers);
        }
        self.bus.copy(&waiting, &self.message.data, properties).await?;
        self.acknowledge().await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.settled.load(Ordering::Relaxed) {
            return;
        }
        let acker = self.message.acker.clone();
        // Otherwise it would stay with this member as long as its channel is open.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
                let _ = acker.nack(options).await;
            });
        }
    }
}

#[async_trait]
impl Delivery for Held {
    fn event(&self) -> &Event {
        &self.event
    }

    fn message_id(&self) -> Option<&str> {
        self.message.properties.message_id().as_ref().map(ShortString::as_str)
    }

    fn redelivered(&self) -> Option<bool> {
        Some(self.message.redelivered || self.is_copy())
    }

    fn published(&self) -> Option<SystemTime> {
        Some(UNIX_EPOCH + Duration::from_secs((*self.message.properties.timestamp())?))
    }

    fn lock(&self) -> Option<Duration> {
        None
    }

    fn delay(&self, after: Duration) -> Duration {
        if after.is_zero() { after } else { Duration::from_secs(rounded(after)) }
    }

    async fn renew(&self) -> Result<()> {
        self.check()
    }

    async fn ack(&self) -> Result<()> {
        self.check()?;
        self.acknowledge().await
    }

    async fn retry(&self, after: Duration) -> Result<()> {
        self.check()?;
        if !after.is_zero() {
            match self.later(after, true).await {
                Err(error) if !matches!(error, Error::NotHeld { .. }) => {
                    // Held so long, so that it is not tried again at once.
                    let held = after.min(LONGEST_HELD);
                    tracing::warn!("an event comes again in {held:?}: {}", error.chain());
                    tokio::time::sleep(held).await;
                }
                given_back => return given_back,
            }
        }
        let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
        let returned = self.message.acker.nack(options).await;
        self.settle(returned)
    }
}
