//! The receiving side of the bus: a group's claim on a message is a value that only the server replaces.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use sidecar_core::events::{Delivery, EventFormat, EventSource, Subscription};
use sidecar_core::{Error, Event, Result};
use tokio::time::{Instant, timeout_at};

use crate::error;
use crate::events::Events;
use crate::server::Failed;

/// No claim ends: the message is settled.
const SETTLED: u64 = u64::MAX;

/// A member of a group.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    bus: Events,
    subscription: Subscription,
}

/// Until when a message is nobody else's, and how many claims were made before: no two are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Claim {
    until: u64,
    number: u64,
}

impl Claim {
    fn encode(self) -> Vec<u8> {
        format!("{} {}", self.until, self.number).into_bytes()
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let (until, number) = std::str::from_utf8(value).ok()?.split_once(' ')?;
        Some(Self { until: until.parse().ok()?, number: number.parse().ok()? })
    }
}

/// Milliseconds since 1970 after this time. The members' clocks must not differ by more than a lock; a server with a
/// clock of its own would keep this time itself.
fn after(time: Duration) -> u64 {
    let then = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + time;
    u64::try_from(then.as_millis()).unwrap_or(SETTLED - 1)
}

impl Source {
    pub(crate) fn new(bus: Events, subscription: &Subscription) -> Self {
        Self { bus, subscription: subscription.clone() }
    }

    fn key(&self, message: &str) -> String {
        format!("{} claims/{}/{message}", self.bus.topic(), self.subscription.group)
    }

    /// Claims the next message that is nobody's; else returns how long the next one is still another's.
    fn claim(&self) -> Result<Result<Taken, Duration>, Failed> {
        let mut wait = Duration::MAX;
        for (id, message) in self.bus.messages()? {
            let Some(event) = EventFormat::Ion.decode(&message).ok() else { continue };
            if !self.subscription.wants(&event.event_type) {
                continue;
            }
            let found = self.bus.server().get(&self.key(&id))?;
            let before = found.as_deref().and_then(Claim::decode);
            let (now, until) = (after(Duration::ZERO), before.map_or(0, |claim| claim.until));
            if until > now {
                if until != SETTLED {
                    wait = wait.min(Duration::from_millis(until - now));
                }
                continue;
            }
            let number = before.map_or(1, |claim| claim.number + 1);
            let claim = Claim { until: after(self.subscription.lock), number };
            // Of all members that saw the same claim, the server takes one.
            if self.bus.server().replace(&self.key(&id), found.as_deref(), &claim.encode())? {
                let claim = Mutex::new(Some(claim));
                return Ok(Ok(Taken { source: self.clone(), id, event, again: number > 1, claim }));
            }
            wait = Duration::ZERO;
        }
        Ok(Err(wait))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bus.fmt(f)
    }
}

#[async_trait]
impl EventSource for Source {
    async fn receive(&self, wait: Duration) -> Result<Option<Box<dyn Delivery>>> {
        let deadline = Instant::now() + wait;
        loop {
            // Before the look: a message that comes between the two is not missed.
            let changed = self.bus.server().changed().map_err(error(self, "receive"))?;
            let due = match self.claim().map_err(error(self, "receive"))? {
                Ok(delivery) => return Ok(Some(Box::new(delivery))),
                Err(wait) => Instant::now().checked_add(wait).unwrap_or(deadline),
            };
            if Instant::now() >= deadline {
                return Ok(None);
            }
            let _ = timeout_at(due.min(deadline), changed).await;
        }
    }
}

/// A message that this member holds.
#[derive(Debug)]
struct Taken {
    source: Source,
    id: String,
    event: Event,
    /// Whether the group was given it before.
    again: bool,
    /// `None` once it was settled.
    claim: Mutex<Option<Claim>>,
}

impl Taken {
    /// Replaces the claim, unless another member has claimed the message since.
    fn settle(&self, until: u64, is_held: bool) -> Result<()> {
        let mut held = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
        let not_held = || Error::NotHeld { provider: self.source.to_string(), event: self.id.clone() };
        let claim = held.ok_or_else(not_held)?;
        let next = Claim { until, number: claim.number + 1 };
        let (key, server) = (self.source.key(&self.id), self.source.bus.server());
        let replaced = server.replace(&key, Some(&claim.encode()), &next.encode());
        let is_ours = replaced.map_err(error(&self.source, format!("settle {}", self.id)))?;
        *held = Some(next).filter(|_| is_ours && is_held);
        if is_ours { Ok(()) } else { Err(not_held()) }
    }
}

#[async_trait]
impl Delivery for Taken {
    fn event(&self) -> &Event {
        &self.event
    }

    fn message_id(&self) -> Option<&str> {
        Some(&self.id)
    }

    fn redelivered(&self) -> Option<bool> {
        Some(self.again)
    }

    fn lock(&self) -> Option<Duration> {
        Some(self.source.subscription.lock)
    }

    async fn renew(&self) -> Result<()> {
        self.settle(after(self.source.subscription.lock), true)
    }

    async fn ack(&self) -> Result<()> {
        self.settle(SETTLED, false)
    }

    async fn retry(&self, time: Duration) -> Result<()> {
        self.settle(after(time), false)
    }
}
