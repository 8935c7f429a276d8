//! The receiving side: a durable pull consumer for each group.
//!
//! The server accepts an acknowledgement that comes too late, even when another member has the message by then. So
//! each delivery keeps its own deadline, and settles nothing after it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::connection;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::{AckKind, Message};
use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::sync::Mutex as AsyncMutex;

use super::super::source::{Delivery, EventSource, Subscription, not_held};
use super::{Nats, listens, token};
use crate::contract::Event;
use crate::error::{Error, Result};

/// What a consumer keeps the types of its group under.
const TYPES: &str = "sidecar.types";

/// What a consumer keeps the stores of its group under.
const STORES: &str = "sidecar.stores";

/// How long one request for a message waits on the server: so long a restarted server is taken for one without events.
const PULL: Duration = Duration::from_secs(10);

/// What is left of a lock when nothing is settled any more: as long as a settlement may be on its way.
const MARGIN: u32 = 10;

/// What is done to a group that is joined.
const MAKE: &str = "find or make the group";

/// A second of what is left of `patience`.
async fn pause(patience: &mut Duration) {
    let pause = Duration::from_secs(1).min(*patience);
    tokio::time::sleep(pause).await;
    *patience -= pause;
}

/// A member of a group.
#[derive(Debug)]
pub(super) struct Source {
    bus: Nats,
    subscription: Subscription,
    /// The group's consumer; found or made again after an error.
    consumer: AsyncMutex<Option<PullConsumer>>,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bus.fmt(f)
    }
}

impl Source {
    /// Joins a group, whose consumer is made when it is absent.
    pub(super) async fn open(bus: &Nats, subscription: &Subscription) -> Result<Self> {
        let source =
            Self { bus: bus.clone(), subscription: subscription.clone(), consumer: AsyncMutex::default() };
        source.consumer().await?;
        Ok(source)
    }

    async fn consumer(&self) -> Result<PullConsumer> {
        let mut consumer = self.consumer.lock().await;
        if let Some(consumer) = &*consumer {
            return Ok(consumer.clone());
        }
        let found = self.find().await?;
        *consumer = Some(found.clone());
        Ok(found)
    }

    async fn forget(&self) {
        *self.consumer.lock().await = None;
    }

    /// Finds the group's consumer, or makes it; one that wants something else is changed.
    async fn find(&self) -> Result<PullConsumer> {
        let context = self.bus.context().await?;
        let stream = context.get_stream(&self.bus.config.stream);
        let stream = self.bus.allowed("find the stream", stream).await?;
        let stream = stream.map_err(|error| self.bus.failed("find the stream", error))?;
        let name = token(self.subscription.group.as_str());
        let subjects = self.subjects(&stream.cached_info().config.subjects);
        let mut types = self.subscription.types.clone();
        types.sort();
        let types = types.join(",");
        let config = pull::Config {
            durable_name: Some(name.clone()),
            description: Some("a group of sidecar workers".into()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.subscription.lock,
            // Attempts are counted where they are made, and nobody pulls more than he can work on.
            max_deliver: -1,
            max_ack_pending: -1,
            filter_subjects: subjects,
            metadata: HashMap::from([
                (TYPES.to_owned(), types.clone()),
                (STORES.to_owned(), self.subscription.stores.clone()),
            ]),
            ..pull::Config::default()
        };
        let join = format!("join group {}", self.subscription.group);
        let mut patience = PULL + Duration::from_secs(2);
        let mut is_idle = false;
        loop {
            let Ok(found) = stream.get_consumer::<pull::Config>(&name).await else {
                use async_nats::jetstream::stream::ConsumerCreateStrictErrorKind as Kind;
                let made = self.bus.allowed(MAKE, stream.create_consumer_strict(config.clone())).await?;
                match made.map_err(|error| (error.kind(), error)) {
                    Ok(made) => return Ok(made),
                    // Another member was faster: what it wants is looked at.
                    Err((Kind::AlreadyExists, error)) if patience.is_zero() => {
                        return Err(self.bus.failed(MAKE, error));
                    }
                    Err((Kind::AlreadyExists, _)) => pause(&mut patience).await,
                    Err((Kind::TimedOut | Kind::Request, error)) => return Err(self.bus.failed(MAKE, error)),
                    Err((_, error)) => return Err(Error::refused(&self.bus, MAKE, error)),
                }
                continue;
            };
            let known = &found.cached_info().config;
            let theirs = known.metadata.get(TYPES).unwrap_or(&types);
            let busy = found.cached_info().num_waiting > 0 || found.cached_info().num_ack_pending > 0;
            if *theirs != types && busy {
                // A member that has just ended is still waited for by the server.
                if !patience.is_zero() {
                    pause(&mut patience).await;
                    continue;
                }
                let why = format!(
                    "its members receive {theirs:?}, and all members of a group receive the same types: stop them \
                     first, or take another --group"
                );
                return Err(Error::refused(&self.bus, join, why));
            }
            let theirs_in = known.metadata.get(STORES).map_or("", String::as_str);
            let ours_in = &*self.subscription.stores;
            if !theirs_in.is_empty() && !ours_in.is_empty() && theirs_in != ours_in {
                let why = format!(
                    "its stores are {theirs_in}, and not {ours_in}: check the URLs, or take another --group; if the stores \
                     have really moved, remove the consumer {name} of stream {}",
                    self.bus.config.stream
                );
                return Err(Error::refused(&self.bus, join, why));
            }
            let same_types = *theirs == types && known.metadata.contains_key(TYPES);
            let filters = match known.filter_subject.as_str() {
                "" => known.filter_subjects.clone(),
                one => vec![one.to_owned()],
            };
            if same_types && filters == config.filter_subjects {
                if known.ack_wait == config.ack_wait {
                    return Ok(found);
                }
                // Shorter it would take away what its members are at work on.
                if busy {
                    tracing::warn!(
                        "group {} has members with a lock of {:?}, which is kept: --lock of {:?} does not count",
                        self.subscription.group,
                        known.ack_wait,
                        config.ack_wait
                    );
                    return Ok(found);
                }
            }
            // A member that has just joined, or is between two events, would not learn of a change.
            if !busy && !std::mem::replace(&mut is_idle, true) {
                pause(&mut patience).await;
                continue;
            }
            break;
        }
        use async_nats::jetstream::stream::ConsumerErrorKind as Kind;
        let changed = self.bus.allowed(MAKE, stream.create_consumer(config)).await?;
        changed.map_err(|error| match error.kind() {
            Kind::TimedOut | Kind::Request => self.bus.failed(MAKE, error),
            _ => Error::refused(&self.bus, MAKE, error),
        })
    }

    /// The subjects that the server filters by: of those that the stream listens to.
    fn subjects(&self, stream: &[String]) -> Vec<String> {
        let subject = &self.bus.config.subject;
        let mut wanted = vec![subject.clone()];
        match &*self.subscription.types {
            [] => wanted.push(format!("{subject}.>")),
            types => wanted.extend(types.iter().map(|name| format!("{subject}.{}", token(name)))),
        }
        // Publishers of both kinds may be at work; a stream that listens to one kind alone refuses the other.
        wanted.retain(|subject| {
            let example = subject.replace('>', "x");
            stream.iter().any(|pattern| listens(pattern, &example))
        });
        wanted
    }

    /// The next message, of whatever type.
    async fn pull(&self, wait: Duration) -> Result<Option<(Message, Instant, Duration)>> {
        let consumer = self.consumer().await?;
        let lock = consumer.cached_info().config.ack_wait;
        // The lock begins when the server sends it, which is after this.
        let asked = Instant::now();
        let failed = |error: crate::Cause| self.bus.failed("receive an event", error);
        let pulled = consumer.batch().max_messages(1).expires(wait).messages().await;
        let mut batch = match pulled {
            Ok(batch) => batch,
            Err(error) => {
                self.forget().await;
                return Err(failed(error.into()));
            }
        };
        match batch.next().await {
            Some(Ok(message)) => {
                // What waited on the server was sent no earlier than it came, less the way.
                Ok(Some((message, asked.max(Instant::now() - ON_ITS_WAY.min(asked.elapsed())), lock)))
            }
            Some(Err(error)) => {
                // The consumer may be gone, or the server about to end.
                self.forget().await;
                Err(failed(error))
            }
            None => match self.bus.context().await?.client().connection_state() {
                connection::State::Connected => Ok(None),
                state => Err(failed(format!("the connection is {state:?}").into())),
            },
        }
    }
}

/// How long a message may have been on its way.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

#[async_trait]
impl EventSource for Source {
    async fn receive(&self, wait: Duration) -> Result<Option<Box<dyn Delivery>>> {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // To wait for nothing is to be told whether there is something.
            let pulled = self.pull(left.clamp(Duration::from_millis(100), PULL)).await?;
            let Some((message, sent, lock)) = pulled else {
                if Instant::now() >= until {
                    return Ok(None);
                }
                continue;
            };
            let traceparent = message.headers.as_ref().and_then(|headers| headers.get("traceparent"));
            let traceparent = traceparent.map(|value| value.as_str());
            let event = match self.bus.config.format.decode_traced(&message.payload, traceparent) {
                Ok(event) => event,
                Err(error) => {
                    tracing::error!(
                        "a message of {} is not an event and is not delivered again: {error}",
                        self.bus
                    );
                    let _ = message.ack_with(AckKind::Term).await;
                    continue;
                }
            };
            if !self.subscription.wants(&event.event_type) {
                // If that is lost, it comes again, and is passed over again.
                let _ = message.ack().await;
                continue;
            }
            let held = Mutex::new(Some(sent + lock - lock / MARGIN));
            return Ok(Some(Box::new(Held { bus: self.bus.clone(), message, event, lock, held })));
        }
    }
}

/// A message that this member holds.
#[derive(Debug)]
struct Held {
    bus: Nats,
    message: Message,
    event: Event,
    lock: Duration,
    /// Until when it is held; `None` once it was settled.
    held: Mutex<Option<Instant>>,
}

impl Held {
    fn held(&self) -> MutexGuard<'_, Option<Instant>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the server, which answers.
    async fn tell(&self, action: &str, kind: AckKind) -> Result<()> {
        if self.held().is_none_or(|until| Instant::now() >= until) {
            return Err(not_held(&self.bus, &self.event));
        }
        let reply = self.message.reply.clone().ok_or_else(|| not_held(&self.bus, &self.event))?;
        let client = self.bus.context().await?.client();
        let answered = client.request(reply, kind.into()).await;
        answered.map(drop).map_err(|error| self.bus.failed(action, error))
    }

    async fn settle(&self, kind: AckKind) -> Result<()> {
        self.tell("settle an event", kind).await?;
        *self.held() = None;
        Ok(())
    }
}

#[async_trait]
impl Delivery for Held {
    fn event(&self) -> &Event {
        &self.event
    }

    fn message_id(&self) -> Option<&str> {
        Some(self.message.headers.as_ref()?.get("Nats-Msg-Id")?.as_str())
    }

    fn redelivered(&self) -> Option<bool> {
        self.message.info().ok().map(|info| info.delivered > 1)
    }

    fn published(&self) -> Option<SystemTime> {
        let nanoseconds = self.message.info().ok()?.published.unix_timestamp_nanos();
        Some(UNIX_EPOCH + Duration::from_nanos(u64::try_from(nanoseconds).ok()?))
    }

    fn lock(&self) -> Option<Duration> {
        Some(self.lock)
    }

    async fn renew(&self) -> Result<()> {
        let asked = Instant::now();
        self.tell("keep an event", AckKind::Progress).await?;
        if let Some(until) = &mut *self.held() {
            *until = asked + self.lock - self.lock / MARGIN;
        }
        Ok(())
    }

    async fn ack(&self) -> Result<()> {
        self.settle(AckKind::Ack).await
    }

    async fn retry(&self, after: Duration) -> Result<()> {
        self.settle(AckKind::Nak((!after.is_zero()).then_some(after))).await
    }

    async fn dead_letter(&self, _: &str) -> Result<()> {
        self.settle(AckKind::Term).await
    }
}

impl Nats {
    pub(super) async fn source(&self, subscription: &Subscription) -> Result<Arc<dyn EventSource>> {
        Ok(Arc::new(Source::open(self, subscription).await?))
    }
}
