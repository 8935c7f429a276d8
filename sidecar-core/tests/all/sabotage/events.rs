//! Event providers that break one guarantee each.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use sidecar_core::conformance::events::Consumer;
use sidecar_core::{Error, Event, EventId, EventProvider, KeyValuePairs, Result};

sabotages! {
    events Broken
    always {
        DropsTheFirst => every_event_arrives,
        LosesData => every_event_arrives,
        PublishesTwice => every_event_arrives,
        /// It answers before the bus has accepted anything.
        PublishesLater => every_event_arrives,
        /// So the bus cannot tell a repeat.
        NewMessageIds => a_repeat_is_seen_once,
        RemembersTheFirst => a_repeat_is_seen_once,
        OneCallAtATime => many_at_once,
        /// It says that all are accepted.
        AcceptsAPart => many_in_one_call,
        NoneIsAnError => none_in_one_call,
        TakesOnlyAscii => hostile_values_survive,
        TakesNoLargeEvents => what_is_not_refused_arrives,
        RefusesWhatItPublishes => hostile_values_survive,
        ChecksConflict => checks_at_once_succeed,
        CheckClears => checks_at_once_succeed,
        DirectoryElsewhere => the_directories_are_there,
        LongDisplay => the_display_is_short,
    }
    reopen {
        /// The provider drops repeats that it knows of, and the bus none.
        DropsItsOwnRepeats => a_repeat_by_another_process_is_seen_once,
        IdOfAProcess => the_id_is_stable,
    }
    away {
        OutageIsSilent => an_outage_is_unavailable,
        OutageIsRefused => an_outage_is_unavailable,
        CheckAlwaysSucceeds => a_check_finds_an_outage,
    }
}

/// A bus in memory that drops repeats, and a provider with one thing wrong or none.
#[derive(Debug, Default)]
struct Broken {
    /// Messages, each with its id.
    bus: Arc<Mutex<Vec<(String, Event)>>>,
    sabotage: Option<Sabotage>,
    is_away: bool,
    /// Calls under way.
    calls: AtomicUsize,
    later: Mutex<Vec<Event>>,
    own: Mutex<HashSet<EventId>>,
}

mod honest {
    use super::Broken;
    sidecar_core::conformance_events!(
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
        Self { bus: self.bus.clone(), sabotage: self.sabotage, ..Self::default() }
    }

    fn away(self) -> Self {
        Self { is_away: true, ..self }
    }

    fn is(&self, sabotage: Sabotage) -> bool {
        self.sabotage == Some(sabotage)
    }

    /// Fails while the bus is away, unless it lies with this sabotage; says whether the call goes on.
    fn reach(&self, sabotage: Sabotage) -> Result<bool> {
        match self.sabotage {
            _ if !self.is_away => Ok(true),
            Some(lies) if lies == sabotage => Ok(false),
            Some(Sabotage::OutageIsRefused) => Err(Error::refused(self, "answer", "nobody listens")),
            _ => Err(Error::unavailable(self, "answer", "nobody listens")),
        }
    }

    /// The bus takes a message.
    fn accept(&self, mut event: Event) {
        let mut id = event.context.event_id.to_string();
        match self.sabotage {
            Some(Sabotage::LosesData) => event.data = KeyValuePairs::default(),
            Some(Sabotage::TakesOnlyAscii) => event.event_type.retain(|c| c.is_ascii()),
            Some(Sabotage::NewMessageIds | Sabotage::DropsItsOwnRepeats) => {
                id = uuid::Uuid::new_v4().to_string()
            }
            _ => {}
        }
        let mut bus = self.bus.lock().unwrap();
        if self.is(Sabotage::PublishesTwice) || !bus.iter().any(|(known, _)| *known == id) {
            bus.push((id, event));
        }
    }

    async fn publish_all(&self, events: &[Event]) -> Result<()> {
        let mut events = events.to_vec();
        match self.sabotage {
            Some(Sabotage::NoneIsAnError) if events.is_empty() => {
                return Err(Error::refused(self, "publish", "there are none"));
            }
            Some(Sabotage::TakesNoLargeEvents) if events.iter().any(|event| event.event_type.len() > 255) => {
                return Err(Error::refused(self, "publish", "a long type"));
            }
            Some(Sabotage::DropsTheFirst) => drop(events.drain(..1)),
            Some(Sabotage::AcceptsAPart) => events.truncate(100),
            Some(Sabotage::PublishesTwice) => events.extend(events.clone()),
            Some(Sabotage::PublishesLater) => std::mem::swap(&mut *self.later.lock().unwrap(), &mut events),
            Some(Sabotage::RemembersTheFirst) if !self.own.lock().unwrap().is_empty() => return Ok(()),
            _ => {}
        }
        for event in events {
            let is_new = self.own.lock().unwrap().insert(event.context.event_id.clone());
            if is_new || !self.is(Sabotage::DropsItsOwnRepeats) {
                self.accept(event);
            }
        }
        Ok(())
    }

    /// Runs a call, unless there may be only one.
    async fn alone<T>(&self, sabotage: Sabotage, call: impl Future<Output = Result<T>>) -> Result<T> {
        let others = self.calls.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let answer = match others > 0 && self.is(sabotage) {
            true => Err(Error::refused(self, "answer", "one at a time")),
            false => call.await,
        };
        self.calls.fetch_sub(1, Ordering::SeqCst);
        answer
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is(Sabotage::LongDisplay) { "broken\nevents" } else { "broken events" })
    }
}

#[async_trait]
impl EventProvider for Broken {
    async fn publish(&self, events: &[Event]) -> Result<()> {
        if !self.reach(Sabotage::OutageIsSilent)? {
            return Ok(());
        }
        self.alone(Sabotage::OneCallAtATime, self.publish_all(events)).await
    }

    fn refuses(&self, event: &Event) -> Option<String> {
        (self.is(Sabotage::RefusesWhatItPublishes) && event.event_type.contains('$'))
            .then(|| "takes no dollars".into())
    }

    fn id(&self) -> String {
        if self.is(Sabotage::IdOfAProcess) { format!("{self:p}") } else { self.to_string() }
    }

    fn directories(&self) -> Vec<PathBuf> {
        if self.is(Sabotage::DirectoryElsewhere) { vec!["/nowhere".into()] } else { Vec::new() }
    }

    async fn check(&self) -> Result<()> {
        if !self.reach(Sabotage::CheckAlwaysSucceeds)? {
            return Ok(());
        }
        if self.is(Sabotage::CheckClears) {
            self.bus.lock().unwrap().clear();
        }
        self.alone(Sabotage::ChecksConflict, async { Ok(()) }).await
    }
}

#[async_trait]
impl Consumer for Broken {
    fn provider(&self) -> &dyn EventProvider {
        self
    }

    async fn arrived(&self) -> Vec<Event> {
        self.bus.lock().unwrap().iter().map(|(_, event)| event.clone()).collect()
    }

    fn drops_repeats(&self) -> bool {
        true
    }
}
