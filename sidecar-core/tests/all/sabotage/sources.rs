//! Buses whose receiving side breaks one guarantee each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sidecar_core::events::{Delivery, EventSource, Subscription};
use sidecar_core::{Error, Event, EventProvider, Result};
use tokio::time::Instant;

sabotages! {
    sources Broken
    always {
        LosesTheCorrelation => an_event_is_delivered_unchanged,
        /// A group begins with what is published after its first member came to receive.
        ForgetsWhatCameBefore => what_came_before_is_not_lost,
        LooksEverySoOften => a_waiting_member_is_woken,
        DeliversEveryType => other_types_do_not_come,
        /// As a database may compare texts.
        FoldsTypes => other_types_do_not_come,
        LockEndsUnseen => a_renewed_lock_holds,
        ForgetsThatItCameBefore => a_retry_waits,
        TellsTheEventsId => a_republished_event_comes_again,
        OneGroupForAll => groups_are_independent,
        EveryMemberGetsAll => members_compete_without_doubles,
        HoldsOne => several_are_held_at_once,
        KeepsTheDeadsDeliveries => a_dead_members_delivery_comes_back,
        RenewsNothing => a_renewed_lock_holds,
        RetriesAtOnce => a_retry_waits,
        NeverRetries => a_retry_waits,
        SettlesTwice => settling_twice_is_an_error,
        TakesLateSettlements => a_late_settlement_is_an_error,
        DeadLettersComeBack => a_dead_letter_stays_away,
        DropsRepublished => a_republished_event_comes_again,
    }
    reopen {
        GroupOfAProcess => another_process_joins_the_group,
    }
    away {
        OutageIsEmpty => an_outage_is_unavailable,
    }
}

/// Where a message stands for a group.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stand {
    /// From this time on anybody may have it.
    Free(Instant),
    /// The holder's number, and until when.
    Held(usize, Instant),
    Settled,
}

#[derive(Debug, Default)]
struct Inner {
    messages: Vec<(String, Event)>,
    groups: HashMap<String, Vec<Stand>>,
}

/// A bus in memory with locks that end, and one thing wrong or none.
#[derive(Debug, Clone, Default)]
struct Broken {
    inner: Arc<Mutex<Inner>>,
    numbers: Arc<AtomicUsize>,
    process: usize,
    sabotage: Option<Sabotage>,
    is_away: bool,
}

mod honest {
    use super::Broken;
    sidecar_core::conformance_sources!(
        Broken::default(),
        reopen: async |bus| Broken::reopened(bus),
        away: Broken::default().away(),
    );
}

impl Broken {
    fn with(sabotage: Sabotage) -> Self {
        Self { sabotage: Some(sabotage), ..Self::default() }
    }

    fn reopened(&self) -> Self {
        Self { process: self.process + 1, ..self.clone() }
    }

    fn away(self) -> Self {
        Self { is_away: true, ..self }
    }

    fn is(&self, sabotage: Sabotage) -> bool {
        self.sabotage == Some(sabotage)
    }

    fn accept(&self, id: &str, event: &Event) {
        let mut inner = self.inner.lock().unwrap();
        if !inner.messages.iter().any(|(known, _)| known == id) {
            inner.messages.push((id.to_owned(), event.clone()));
        }
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken events")
    }
}

#[async_trait]
impl EventProvider for Broken {
    async fn publish(&self, events: &[Event]) -> Result<()> {
        events.iter().for_each(|event| self.accept(event.context.event_id.as_str(), event));
        Ok(())
    }

    async fn republish(&self, event: &Event, id: &str) -> Result<()> {
        let id = if self.is(Sabotage::DropsRepublished) { event.context.event_id.as_str() } else { id };
        self.accept(id, event);
        Ok(())
    }

    async fn subscribe(&self, subscription: &Subscription) -> Result<Arc<dyn EventSource>> {
        if self.is_away && !self.is(Sabotage::OutageIsEmpty) {
            return Err(Error::unavailable(self, "be subscribed to", "nobody listens"));
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let group = match self.sabotage {
            Some(Sabotage::OneGroupForAll) => "all".to_owned(),
            Some(Sabotage::EveryMemberGetsAll) => format!("{} {number}", subscription.group),
            Some(Sabotage::GroupOfAProcess) => format!("{} {}", subscription.group, self.process),
            _ => subscription.group.to_string(),
        };
        let before = self.inner.lock().unwrap().messages.len();
        if self.is(Sabotage::ForgetsWhatCameBefore) {
            let stands = &mut self.inner.lock().unwrap().groups;
            stands.entry(format!("{group} {number}")).or_insert_with(|| vec![Stand::Settled; before]);
        }
        let group =
            if self.is(Sabotage::ForgetsWhatCameBefore) { format!("{group} {number}") } else { group };
        Ok(Arc::new(Source { bus: self.clone(), subscription: subscription.clone(), group }))
    }
}

#[derive(Debug)]
struct Source {
    bus: Broken,
    subscription: Subscription,
    group: String,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bus.fmt(f)
    }
}

impl Source {
    fn take(&self) -> Option<Box<dyn Delivery>> {
        let Inner { messages, groups } = &mut *self.bus.inner.lock().unwrap();
        let stands = groups.entry(self.group.clone()).or_default();
        let now = Instant::now();
        stands.resize(messages.len(), Stand::Free(now));
        let holds = stands.iter().any(|stand| matches!(stand, Stand::Held(..)));
        if self.bus.is(Sabotage::HoldsOne) && holds {
            return None;
        }
        let keeps = self.bus.is(Sabotage::KeepsTheDeadsDeliveries);
        let number = messages.iter().zip(stands.iter()).position(|((_, event), stand)| {
            let folded = event.event_type.to_lowercase();
            let wanted = self.subscription.wants(&event.event_type)
                || self.bus.is(Sabotage::DeliversEveryType)
                || self.bus.is(Sabotage::FoldsTypes) && self.subscription.wants(&folded);
            let free = match stand {
                Stand::Free(from) => *from <= now,
                Stand::Held(_, until) => *until <= now && !keeps,
                Stand::Settled => false,
            };
            wanted && free
        })?;
        let holder = self.bus.numbers.fetch_add(1, Ordering::Relaxed);
        stands[number] = Stand::Held(holder, now + self.subscription.lock);
        let mut event = messages[number].1.clone();
        if self.bus.is(Sabotage::LosesTheCorrelation) {
            event.context.correlation_id.clear();
        }
        let (bus, group, lock) = (self.bus.clone(), self.group.clone(), self.subscription.lock);
        Some(Box::new(Held { bus, group, number, holder, event, lock }))
    }
}

#[async_trait]
impl EventSource for Source {
    async fn receive(&self, wait: Duration) -> Result<Option<Box<dyn Delivery>>> {
        let until = Instant::now() + wait;
        loop {
            if let Some(delivery) = self.take() {
                return Ok(Some(delivery));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            let pause = if self.bus.is(Sabotage::LooksEverySoOften) { 5000 } else { 10 };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }
}

#[derive(Debug)]
struct Held {
    bus: Broken,
    group: String,
    number: usize,
    holder: usize,
    event: Event,
    lock: Duration,
}

impl Held {
    /// Changes where the message stands, for who holds it.
    fn stand(&self, change: impl FnOnce(&mut Stand)) -> Result<()> {
        let mut inner = self.bus.inner.lock().unwrap();
        let stand = &mut inner.groups.get_mut(&self.group).unwrap()[self.number];
        let holds = match *stand {
            Stand::Held(holder, until) if holder == self.holder => {
                until > Instant::now() || self.bus.is(Sabotage::TakesLateSettlements)
            }
            Stand::Held(..) => self.bus.is(Sabotage::TakesLateSettlements),
            _ => self.bus.is(Sabotage::SettlesTwice),
        };
        if !holds {
            let event = self.event.context.event_id.to_string();
            return Err(Error::NotHeld { provider: self.bus.to_string(), event });
        }
        change(stand);
        Ok(())
    }
}

#[async_trait]
impl Delivery for Held {
    fn event(&self) -> &Event {
        &self.event
    }

    fn lock(&self) -> Option<Duration> {
        (!self.bus.is(Sabotage::LockEndsUnseen)).then_some(self.lock)
    }

    fn redelivered(&self) -> Option<bool> {
        self.bus.is(Sabotage::ForgetsThatItCameBefore).then_some(false)
    }

    fn message_id(&self) -> Option<&str> {
        self.bus.is(Sabotage::TellsTheEventsId).then_some(self.event.context.event_id.as_str())
    }

    async fn renew(&self) -> Result<()> {
        let until = Instant::now() + self.lock;
        let renews = !self.bus.is(Sabotage::RenewsNothing);
        self.stand(|stand| {
            if renews {
                *stand = Stand::Held(self.holder, until);
            }
        })
    }

    async fn ack(&self) -> Result<()> {
        self.stand(|stand| *stand = Stand::Settled)
    }

    async fn retry(&self, after: Duration) -> Result<()> {
        let from = match self.bus.sabotage {
            Some(Sabotage::RetriesAtOnce) => Instant::now(),
            Some(Sabotage::NeverRetries) => Instant::now() + Duration::from_secs(3600),
            _ => Instant::now() + after,
        };
        self.stand(|stand| *stand = Stand::Free(from))
    }

    async fn dead_letter(&self, _: &str) -> Result<()> {
        let back = self.bus.is(Sabotage::DeadLettersComeBack);
        self.stand(|stand| *stand = if back { Stand::Free(Instant::now()) } else { Stand::Settled })
    }
}
