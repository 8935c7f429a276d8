//! The receiving side of events in memory.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::super::source::{Delivery, EventSource, Subscription, not_held};
use super::{Group, Memory};
use crate::contract::Event;
use crate::error::Result;

/// A member of a group.
#[derive(Debug)]
pub(super) struct Source {
    bus: Memory,
    subscription: Subscription,
}

impl Source {
    pub(super) fn new(bus: &Memory, subscription: &Subscription) -> Self {
        Self { bus: bus.clone(), subscription: subscription.clone() }
    }

    /// The next message that is due, or when the next will be.
    fn take(&self) -> Result<Box<dyn Delivery>, Option<Instant>> {
        let mut bus = self.bus.inner();
        let super::Inner { messages, groups, .. } = &mut *bus;
        let group = groups.entry(self.subscription.group.to_string()).or_default();
        let now = Instant::now();
        let due = group.returned.iter().position(|(when, _)| *when <= now);
        let (number, again) = match due.and_then(|at| group.returned.remove(at)) {
            Some((_, number)) => (number, true),
            None => {
                group.new.extend(group.next..messages.len());
                group.next = messages.len();
                // What this member does not want, another one may.
                let wanted =
                    group.new.iter().position(|n| self.subscription.wants(&messages[*n].1.event_type));
                match wanted.and_then(|at| group.new.remove(at)) {
                    Some(number) => (number, false),
                    None => return Err(group.returned.iter().map(|(when, _)| *when).min()),
                }
            }
        };
        let (message_id, event) = messages[number].clone();
        Ok(Box::new(Taken {
            bus: self.bus.clone(),
            group: self.subscription.group.to_string(),
            number: Mutex::new(Some(number)),
            event,
            message_id,
            again,
        }))
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bus.fmt(f)
    }
}

#[async_trait]
impl EventSource for Source {
    async fn receive(&self, wait: Duration) -> Result<Option<Box<dyn Delivery>>> {
        let deadline = Instant::now() + wait;
        loop {
            let changed = self.bus.changed.notified();
            tokio::pin!(changed);
            // From here on: what changes between the look and the wait is not missed.
            changed.as_mut().enable();
            let due = match self.take() {
                Ok(delivery) => return Ok(Some(delivery)),
                Err(due) => due.unwrap_or(deadline),
            };
            if Instant::now() >= deadline {
                return Ok(None);
            }
            let _ = tokio::time::timeout_at(due.min(deadline), changed).await;
        }
    }

    fn due_in(&self) -> Option<Duration> {
        let bus = self.bus.inner();
        let returned = bus.groups.get(self.subscription.group.as_str())?.returned.iter();
        returned.map(|(when, _)| when.saturating_duration_since(Instant::now())).min()
    }
}

#[derive(Debug)]
struct Taken {
    bus: Memory,
    group: String,
    number: Mutex<Option<usize>>,
    event: Event,
    message_id: String,
    /// Whether it was given back before.
    again: bool,
}

impl Taken {
    fn end(&self) -> Option<usize> {
        self.number.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn give_back(&self, number: usize, after: Duration) {
        let mut bus = self.bus.inner();
        let Group { returned, .. } = bus.groups.entry(self.group.clone()).or_default();
        returned.push_back((Instant::now() + after, number));
        drop(bus);
        self.bus.changed.notify_waiters();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(number) = self.end() {
            self.give_back(number, Duration::ZERO);
        }
    }
}

#[async_trait]
impl Delivery for Taken {
    fn event(&self) -> &Event {
        &self.event
    }

    fn message_id(&self) -> Option<&str> {
        Some(&self.message_id)
    }

    fn redelivered(&self) -> Option<bool> {
        Some(self.again)
    }

    fn lock(&self) -> Option<Duration> {
        None
    }

    async fn renew(&self) -> Result<()> {
        match *self.number.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(_) => Ok(()),
            None => Err(not_held(&self.bus, &self.event)),
        }
    }

    async fn ack(&self) -> Result<()> {
        self.end().map(drop).ok_or_else(|| not_held(&self.bus, &self.event))
    }

    async fn retry(&self, after: Duration) -> Result<()> {
        let number = self.end().ok_or_else(|| not_held(&self.bus, &self.event))?;
        self.give_back(number, after);
        Ok(())
    }
}

/// Messages that were given back, each with the time from which on it is due.
pub(super) type Returned = VecDeque<(Instant, usize)>;
