//! Event sources: how events reach the workers that start modules for them.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::contract::{Event, EventId, ModuleName};
use crate::error::{Error, Result};

/// Who receives events, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The consumer group, a durable name: every group gets every event, and the members of one compete for them.
    pub group: ModuleName,
    /// The event types that it wants; none means every type. All members of a group want the same.
    pub types: Vec<String>,
    /// How long a delivery may go without being renewed, where the bus lets its consumers choose.
    pub lock: Duration,
    /// How many deliveries the members of this process hold at most, where the bus hands out more than was asked for.
    pub concurrency: usize,
    /// The stores that belong to the events, as the members of a group agree on; a bus that can keep it refuses a member
    /// with others, who would give up what he does not find. Empty says nothing.
    pub stores: String,
}

impl Subscription {
    /// How long a delivery may go without being renewed by default: a worker that died is noticed so soon.
    pub const DEFAULT_LOCK: Duration = Duration::from_secs(30);

    /// Every event of these types, for a group.
    pub fn new(group: ModuleName, types: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let types = types.into_iter().map(Into::into).collect();
        Self { group, types, lock: Self::DEFAULT_LOCK, concurrency: 1, stores: String::new() }
    }

    /// Whether it wants events of this type.
    pub fn wants(&self, event_type: &str) -> bool {
        self.types.is_empty() || self.types.iter().any(|wanted| wanted == event_type)
    }
}

/// The receiving side of a bus, for one member of a group; made by
/// [`EventProvider::subscribe`](super::EventProvider::subscribe).
///
/// # Contract
/// - Each event that the group wants is delivered to one member at a time, until it is settled.
/// - A delivery that is dropped unsettled, or whose process dies, is delivered again: at once where the bus notices,
///   else when its lock ends.
/// - An event that was published before the group's first member came is delivered, as far as the bus keeps it.
/// - A source that loses its connection connects again by itself.
///
/// # Errors
/// [`Error::Unavailable`] when the same call can succeed later, [`Error::Refused`] when it cannot.
#[async_trait]
pub trait EventSource: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// The next event, waited for as long as `wait`; `None` when none came. Calls may run side by side.
    ///
    /// A call that is dropped may have been given an event; that is delivered again.
    async fn receive(&self, wait: Duration) -> Result<Option<Box<dyn Delivery>>>;

    /// How soon the next event comes that waits for its time, whoever gave it back; `None` where none does, or the bus
    /// does not tell.
    fn due_in(&self) -> Option<Duration> {
        None
    }

    /// Whether it is known that the group has settled the message of this event, and is not given it again. Blocks briefly.
    fn has_settled(&self, event: &EventId) -> bool {
        let _ = event;
        false
    }
}

/// An event that this member holds until it is settled, by exactly one of [`ack`](Self::ack), [`retry`](Self::retry)
/// and [`dead_letter`](Self::dead_letter).
///
/// # Errors
/// [`Error::NotHeld`] once it was settled, or when the lock was lost; [`Error::Unavailable`] when the same call can
/// succeed later.
#[async_trait]
pub trait Delivery: fmt::Debug + Send + Sync {
    /// The event.
    fn event(&self) -> &Event;

    /// The id of its message: the event's, or that with which it was [republished](super::EventProvider::republish).
    fn message_id(&self) -> Option<&str> {
        None
    }

    /// Whether the group was given this message before; `None` where the bus does not tell.
    fn redelivered(&self) -> Option<bool> {
        None
    }

    /// When the event was published, by the bus's clock; `None` where it does not tell.
    fn published(&self) -> Option<SystemTime> {
        None
    }

    /// How long the lock lasts after each renewal; `None` where it lasts as long as this process holds it.
    fn lock(&self) -> Option<Duration>;

    /// Begins the lock anew.
    async fn renew(&self) -> Result<()>;

    /// Ends it: the group is not given this event again.
    async fn ack(&self) -> Result<()>;

    /// The delay that [`retry`](Self::retry) with `after` causes; RabbitMQ rounds it up to a power of two of seconds.
    fn delay(&self, after: Duration) -> Duration {
        after
    }

    /// Gives it back, to be delivered again after a time.
    async fn retry(&self, after: Duration) -> Result<()>;

    /// Ends it for a reason that the bus may note; what was wrong is kept elsewhere.
    async fn dead_letter(&self, reason: &str) -> Result<()> {
        let _ = reason;
        self.ack().await
    }
}

/// What a delivery answers once it was settled or lost.
#[cfg_attr(not(any(feature = "nats", feature = "amqp", feature = "servicebus")), allow(dead_code))]
pub(super) fn not_held(provider: &impl fmt::Display, event: &Event) -> Error {
    Error::NotHeld { provider: provider.to_string(), event: event.context.event_id.to_string() }
}
