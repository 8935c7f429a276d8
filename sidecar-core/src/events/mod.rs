//! Event providers: how the next modules are started.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use crate::contract::{Event, EventId};
use crate::error::{Error, Result};
use crate::replaceable::Replaceable;

#[cfg(feature = "amqp")]
mod amqp;
mod format;
#[cfg(feature = "local")]
mod local;
#[cfg(feature = "memory")]
mod memory;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "servicebus")]
mod service_bus;
mod source;

#[cfg(feature = "amqp")]
pub use amqp::{Amqp, AmqpConfig};
pub use format::EventFormat;
#[cfg(feature = "local")]
pub use local::Local;
#[cfg(feature = "memory")]
pub use memory::Memory;
#[cfg(feature = "nats")]
pub use nats::{Nats, NatsConfig};
#[cfg(feature = "servicebus")]
pub use service_bus::{ServiceBus, ServiceBusConfig};
pub use source::{Delivery, EventSource, Subscription};

/// A bus that carries events to their consumers.
///
/// # Contract
/// - Every event of the slice is accepted, durably, when the call returns.
/// - The event's id is the message's id, so that the bus or the consumer can drop a repeat.
/// - An event arrives as it was published.
///
/// # Retrying
/// A slice can be repeated safely; after an error any part of it may have been accepted.
/// Where the bus itself drops repeats, a repeat within its window is seen once.
///
/// # Errors
/// [`Error::Unavailable`] when the same call can succeed later, [`Error::Refused`] when it cannot.
///
/// # Implementing
/// `Display` is the bus's short name for logs and errors; it never contains a secret.
/// The suite [`conformance::events`](crate::conformance::events) holds one test for each guarantee.
///
/// [`Error::Unavailable`]: crate::Error::Unavailable
/// [`Error::Refused`]: crate::Error::Refused
#[async_trait]
pub trait EventProvider: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Publishes events.
    async fn publish(&self, events: &[Event]) -> Result<()>;

    /// Publishes an event that was published before as another message, so that a bus that drops repeats takes it.
    ///
    /// By default as [`publish`](Self::publish) does, for a bus that drops none.
    async fn republish(&self, event: &Event, message_id: &str) -> Result<()> {
        let _ = message_id;
        self.publish(std::slice::from_ref(event)).await
    }

    /// The receiving side: a new member of a group, which is made when it is absent.
    ///
    /// By default refused, for a bus that is only published to.
    async fn subscribe(&self, subscription: &Subscription) -> Result<Arc<dyn EventSource>> {
        let _ = subscription;
        Err(Error::refused(&self.to_string(), "be subscribed to", "this provider only publishes"))
    }

    /// Forgets events that nobody will ask for again, and that groups have settled them, as far as the bus keeps either;
    /// an event that is published under one of these ids later is a new one.
    ///
    /// By default nothing: most buses keep messages for a time of their own.
    async fn forget(&self, ids: &[EventId]) -> Result<()> {
        let _ = ids;
        Ok(())
    }

    /// Why the bus can never take this event, if it cannot; asked before anything is stored.
    fn refuses(&self, event: &Event) -> Option<String> {
        let _ = event;
        None
    }

    /// The bus's stable identity, which records and journals compare: two different buses never have the
    /// same, and one has the same in every process, whatever its credentials. It never contains a secret.
    ///
    /// By default `Display`, which is the short name for logs.
    fn id(&self) -> String {
        self.to_string()
    }

    /// The directories of this machine in which it keeps data.
    fn directories(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Checks that the bus can be used: reachable, authorised, its stream there or made.
    async fn check(&self) -> Result<()> {
        Ok(())
    }
}

macro_rules! forward {
    ($($pointer:ident: $this:ident => $inner:expr),* $(,)?) => {$(
        #[async_trait]
        impl<P: EventProvider + ?Sized> EventProvider for $pointer<P> {
            async fn publish(&self, events: &[Event]) -> Result<()> {
                let $this = self;
                $inner.publish(events).await
            }
            async fn republish(&self, event: &Event, message_id: &str) -> Result<()> {
                let $this = self;
                $inner.republish(event, message_id).await
            }
            async fn subscribe(&self, subscription: &Subscription) -> Result<Arc<dyn EventSource>> {
                let $this = self;
                $inner.subscribe(subscription).await
            }
            async fn forget(&self, ids: &[EventId]) -> Result<()> {
                let $this = self;
                $inner.forget(ids).await
            }
            async fn check(&self) -> Result<()> {
                let $this = self;
                $inner.check().await
            }
            fn refuses(&self, event: &Event) -> Option<String> {
                let $this = self;
                $inner.refuses(event)
            }
            fn id(&self) -> String {
                let $this = self;
                $inner.id()
            }
            fn directories(&self) -> Vec<PathBuf> {
                let $this = self;
                $inner.directories()
            }
        }
    )*};
}

forward! {
    Arc: this => (**this),
    Box: this => (**this),
    Replaceable: this => this.current(),
}
