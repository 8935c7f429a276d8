//! Receiving from Azure Service Bus: peek-lock, renew, unlock and complete of its REST interface.
//!
//! Experimental: there is no emulator that runs as a plain process, so this was only tried against a double that keeps
//! the documented rules.
//!
//! A group is a subscription of the topic. The interface can neither delay nor dead-letter a message: one that waits
//! for its next attempt is held and renewed until then, and one that is given up is completed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use serde::Deserialize;
use tokio::time::Instant;
use tracing::{debug, error, warn};
use url::Url;

use super::ServiceBus;
use crate::contract::Event;
use crate::error::{Error, Result};
use crate::events::source::{Delivery, EventSource, Subscription, not_held};

/// The lock durations that a subscription can have, in seconds.
const LOCKS: std::ops::RangeInclusive<u64> = 5..=300;
/// The most deliveries of a message that a subscription can be set to, after which the service puts it away itself.
const MOST_DELIVERIES: u32 = 2000;
/// Fewer than this are warned of.
const FEW_DELIVERIES: u32 = 100;
/// The longest name of a subscription.
const LONGEST_NAME: usize = 50;
/// The longest wait of one request.
const LONGEST_WAIT: Duration = Duration::from_secs(55);
/// How long an answer may take beyond the wait that was asked for.
const ANSWER: Duration = Duration::from_secs(15);

/// One member of a group.
#[derive(Debug)]
pub(super) struct Source {
    bus: ServiceBus,
    subscription: Subscription,
    /// The subscription's address.
    entity: Url,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/subscriptions/{}", self.bus, self.subscription.group)
    }
}

impl Source {
    /// Makes the subscription when it is absent and the rule may.
    pub(super) async fn open(bus: ServiceBus, subscription: Subscription) -> Result<Self> {
        let group = subscription.group.as_str();
        let is_taken = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if group.len() > LONGEST_NAME || !group.chars().all(is_taken) {
            let why = format!(
                "a group is a subscription: at most {LONGEST_NAME} letters, digits and ._- (say --group NAME)"
            );
            return Err(Error::refused(&bus, "be subscribed to", why));
        }
        let mut entity = bus.topic.clone();
        entity.set_path(&format!("{}/subscriptions/{group}", bus.topic.path()));
        let source = Self { bus, subscription, entity };
        source.make().await?;
        Ok(source)
    }

    async fn make(&self) -> Result<()> {
        let action = "make the subscription";
        let lock = self.subscription.lock.as_secs().clamp(*LOCKS.start(), *LOCKS.end());
        let description = format!(
            "<entry xmlns=\"http://www.w3.org/2005/Atom\"><content type=\"application/xml\">\
             <SubscriptionDescription xmlns=\"http://schemas.microsoft.com/netservices/2010/10/servicebus/connect\">\
             <LockDuration>PT{lock}S</LockDuration><MaxDeliveryCount>{MOST_DELIVERIES}</MaxDeliveryCount>\
             </SubscriptionDescription></content></entry>"
        );
        let mut url = self.entity.clone();
        url.set_query(Some("api-version=2021-05"));
        let request = self.bus.client.put(url.clone()).body(description);
        let request = request.header(header::CONTENT_TYPE, "application/atom+xml;type=entry;charset=utf-8");
        let response = self.send(action, request).await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            // It is there. Its description shows whether it will do.
            StatusCode::CONFLICT => {
                let response = self.send(action, self.bus.client.get(url)).await?;
                if !response.status().is_success() {
                    return Err(self.bus.error("look at the subscription", response).await);
                }
                let text = response.text().await.unwrap_or_default();
                let most = element(&text, "MaxDeliveryCount").and_then(|count| count.parse().ok());
                if let Some(most) = most.filter(|most: &u32| *most < FEW_DELIVERIES) {
                    warn!(
                        "{self} puts an event away by itself after {most} deliveries, also those that were only handed \
                         back: set its MaxDeliveryCount to {MOST_DELIVERIES}"
                    );
                }
                match element(&text, "RequiresSession") {
                    Some("true") => {
                        let why = "the subscription requires sessions, which this interface does not have";
                        Err(Error::refused(self, "be subscribed to", why))
                    }
                    _ => Ok(()),
                }
            }
            _ => match self.bus.error(action, response).await {
                // A rule that may only listen: whether it is there shows when an event is asked for.
                Error::Refused { source, .. } if source.to_string().contains("Manage") => Ok(()),
                error => Err(error),
            },
        }
    }

    async fn send(&self, action: &str, request: RequestBuilder) -> Result<Response> {
        self.bus.exchange(action, request.timeout(ANSWER)).await
    }

    /// Asks once.
    async fn ask(&self, wait: Duration) -> Result<Option<(Lock, Vec<u8>)>> {
        let action = "receive events";
        let wait = Duration::from_secs(wait.min(LONGEST_WAIT).as_secs_f64().ceil().max(1.0) as u64);
        let mut url = self.entity.clone();
        url.set_path(&format!("{}/messages/head", self.entity.path()));
        url.set_query(Some(&format!("timeout={}", wait.as_secs())));
        let request = self.bus.client.post(url).header(header::CONTENT_LENGTH, 0).timeout(wait + ANSWER);
        let response = self.bus.exchange(action, request).await?;
        match response.status() {
            StatusCode::NO_CONTENT => return Ok(None),
            status if status.is_success() => {}
            StatusCode::GONE | StatusCode::NOT_FOUND => {
                let why = format!(
                    "there is no subscription {:?}, and the rule may not make it: make it first, or use a rule that \
                     may manage the topic",
                    self.subscription.group.as_str()
                );
                return Err(Error::refused(self, action, why));
            }
            _ => return Err(self.bus.error(action, response).await),
        }
        let lock = self.lock_of(&response).map_err(|why| Error::refused(self, action, why))?;
        let body = response.bytes().await.map_err(|error| Error::unavailable(self, action, error))?;
        Ok(Some((lock, body.to_vec())))
    }

    fn lock_of(&self, response: &Response) -> std::result::Result<Lock, String> {
        let text = |name: &str| {
            let value = response.headers().get(name).and_then(|value| value.to_str().ok());
            value.ok_or_else(|| format!("the answer has no header {name}"))
        };
        let location = self.entity.join(text("location")?).map_err(|error| error.to_string())?;
        // Its address is shown the token.
        if location.origin() != self.entity.origin() {
            return Err(format!(
                "the lock is at another server, {}",
                location.origin().ascii_serialization()
            ));
        }
        let properties: Properties =
            serde_json::from_str(text("brokerproperties")?).map_err(|error| error.to_string())?;
        let date = |text: &str| httpdate::parse_http_date(text).ok();
        let until = date(&properties.locked_until_utc).ok_or("the lock has no end")?;
        // By the service's clock: this machine's may be off.
        let now = text("date").ok().and_then(date).unwrap_or_else(SystemTime::now);
        let lasts = until.duration_since(now).unwrap_or_default().max(Duration::from_secs(1));
        Ok(Lock { location, lasts, properties })
    }
}

/// The text of the first element of this name, which has no children.
fn element<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once("</").map(|(text, _)| text.trim())
}

/// How a message is held.
#[derive(Debug, Clone)]
struct Lock {
    location: Url,
    lasts: Duration,
    properties: Properties,
}

/// What the service says of a message, in its names.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Properties {
    #[serde(default)]
    message_id: Option<String>,
    #[serde(default)]
    delivery_count: u32,
    locked_until_utc: String,
    #[serde(default)]
    enqueued_time_utc: Option<String>,
}

#[async_trait]
impl EventSource for Source {
    async fn receive(&self, wait: Duration) -> Result<Option<Box<dyn Delivery>>> {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Some((lock, body)) = self.ask(left).await? else {
                match Instant::now() < until {
                    true => continue,
                    false => return Ok(None),
                }
            };
            let holder = Holder { bus: self.bus.clone(), lock };
            match self.bus.config.format.decode(&body) {
                Ok(event) if self.subscription.wants(&event.event_type) => {
                    return Ok(Some(Box::new(Held { holder, event, settled: AtomicBool::new(false) })));
                }
                // All members of a group want the same types: nobody else does.
                Ok(_) => {}
                Err(why) => {
                    // After as many deliveries as the subscription allows, the bus makes it a dead letter.
                    error!("a message of {} is not an event and is given back: {why}", self.bus);
                    holder.unlock().await?;
                    continue;
                }
            }
            holder.complete().await?;
        }
    }
}

/// Where a message is held.
#[derive(Debug, Clone)]
struct Holder {
    bus: ServiceBus,
    lock: Lock,
}

impl Holder {
    /// One of the calls on a lock; whether it was still held.
    async fn call(&self, method: Method, action: &str) -> Result<bool> {
        let request = self.bus.client.request(method, self.lock.location.clone());
        let request = request.header(header::CONTENT_LENGTH, 0).timeout(ANSWER);
        let response = self.bus.exchange(action, request).await?;
        match response.status() {
            status if status.is_success() => Ok(true),
            // The lock has ended, or an earlier call settled it whose answer was lost.
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(false),
            _ => Err(self.bus.error(action, response).await),
        }
    }

    async fn complete(&self) -> Result<bool> {
        self.call(Method::DELETE, "complete a message").await
    }

    async fn unlock(&self) -> Result<bool> {
        self.call(Method::PUT, "give an event back").await
    }

    /// Keeps it until then, and gives it back.
    async fn unlock_at(self, when: Instant) {
        loop {
            let next = Instant::now() + self.lock.lasts / 3;
            tokio::time::sleep_until(when.min(next)).await;
            let held = match Instant::now() >= when {
                true => self.unlock().await.map(|_| false),
                false => self.call(Method::POST, "renew the lock").await,
            };
            match held {
                Ok(true) => {}
                Ok(false) => return,
                // It comes back by itself at the latest when its lock ends.
                Err(error) => debug!("{}", error.chain()),
            }
            if Instant::now() >= when {
                return;
            }
        }
    }
}

/// A message that this member holds until its lock ends.
#[derive(Debug)]
struct Held {
    holder: Holder,
    event: Event,
    settled: AtomicBool,
}

impl Held {
    fn check(&self) -> Result<()> {
        match self.settled.load(Ordering::Relaxed) {
            true => Err(not_held(&self.holder.bus, &self.event)),
            false => Ok(()),
        }
    }

    fn settled(&self, was_held: bool) -> Result<()> {
        self.settled.store(true, Ordering::Relaxed);
        match was_held {
            true => Ok(()),
            false => Err(not_held(&self.holder.bus, &self.event)),
        }
    }
}

#[async_trait]
impl Delivery for Held {
    fn event(&self) -> &Event {
        &self.event
    }

    fn message_id(&self) -> Option<&str> {
        self.holder.lock.properties.message_id.as_deref()
    }

    fn redelivered(&self) -> Option<bool> {
        Some(self.holder.lock.properties.delivery_count > 1)
    }

    fn published(&self) -> Option<SystemTime> {
        httpdate::parse_http_date(self.holder.lock.properties.enqueued_time_utc.as_deref()?).ok()
    }

    fn lock(&self) -> Option<Duration> {
        Some(self.holder.lock.lasts)
    }

    async fn renew(&self) -> Result<()> {
        self.check()?;
        match self.holder.call(Method::POST, "renew the lock").await? {
            true => Ok(()),
            false => self.settled(false),
        }
    }

    async fn ack(&self) -> Result<()> {
        self.check()?;
        let held = self.holder.complete().await?;
        self.settled(held)
    }

    async fn retry(&self, after: Duration) -> Result<()> {
        self.check()?;
        if after.is_zero() {
            let held = self.holder.unlock().await?;
            return self.settled(held);
        }
        self.renew().await?;
        tokio::spawn(self.holder.clone().unlock_at(Instant::now() + after));
        self.settled(true)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.settled.load(Ordering::Relaxed) {
            return;
        }
        // Otherwise it would wait for the end of its lock.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let holder = self.holder.clone();
            runtime.spawn(async move { holder.unlock().await });
        }
    }
}

/// A member of a group.
pub(super) async fn subscribe(bus: &ServiceBus, subscription: &Subscription) -> Result<Arc<dyn EventSource>> {
    Ok(Arc::new(Source::open(bus.clone(), subscription.clone()).await?))
}
