//! The guarantees of [`EventProvider`].
//!
//! A provider only publishes, so each test also takes a [`Consumer`] that tells what has arrived.

use std::collections::HashMap;

use async_trait::async_trait;
use uuid::Uuid;

use super::documents::HOSTILE;
use crate::{Event, EventHeader, EventId, EventProvider, KeyValuePairs};

/// A provider beside something that reads its bus.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// The provider under test.
    fn provider(&self) -> &dyn EventProvider;

    /// Every event on the bus by now, repeats that were not dropped included.
    async fn arrived(&self) -> Vec<Event>;

    /// Whether the bus itself drops repeats.
    fn drops_repeats(&self) -> bool;
}

fn event() -> Event {
    Event {
        context: EventHeader {
            name: String::new(),
            event_id: EventId::from(Uuid::new_v4()),
            correlation_id: Uuid::new_v4().to_string(),
            parent_event_id: Uuid::new_v4().to_string(),
        },
        event_type: "thumbnail_created".into(),
        previous_stages: Vec::new(),
        data: KeyValuePairs::default(),
    }
}

/// How often each of `events` has arrived, unchanged.
async fn arrivals(consumer: &dyn Consumer, events: &[Event]) -> Vec<usize> {
    let mut counts: HashMap<EventId, usize> = HashMap::new();
    for event in consumer.arrived().await {
        if let Some(sent) = events.iter().find(|sent| sent.context.event_id == event.context.event_id) {
            assert_eq!(&event, sent);
            *counts.entry(event.context.event_id).or_default() += 1;
        }
    }
    events.iter().map(|event| counts.get(&event.context.event_id).copied().unwrap_or_default()).collect()
}

/// Every event is accepted when the call returns, and arrives as it was published.
pub async fn every_event_arrives(consumer: &dyn Consumer) {
    let events = [event(), event(), event()];
    consumer.provider().publish(&events).await.unwrap();
    assert_eq!(arrivals(consumer, &events).await, [1, 1, 1]);
}

/// Where the bus drops repeats, a repeated slice is seen once; elsewhere the ids are equal.
pub async fn a_repeat_is_seen_once(consumer: &dyn Consumer) {
    let events = [event(), event()];
    for part in [&events[..1], &events, &events] {
        consumer.provider().publish(part).await.unwrap();
    }
    let expected = if consumer.drops_repeats() { [1, 1] } else { [3, 2] };
    assert_eq!(arrivals(consumer, &events).await, expected);
}

/// A thousand events fit into one call.
pub async fn many_in_one_call(consumer: &dyn Consumer) {
    let events: Vec<Event> = (0..1000).map(|_| event()).collect();
    consumer.provider().publish(&events).await.unwrap();
    assert!(arrivals(consumer, &events).await.iter().all(|count| *count == 1));
}

/// An empty slice is no error.
pub async fn none_in_one_call(consumer: &dyn Consumer) {
    consumer.provider().publish(&[]).await.unwrap();
}

/// Types and ids are only ever data.
pub async fn hostile_values_survive(consumer: &dyn Consumer) {
    let with_type = |text: &str| Event { event_type: format!("t{text}"), ..event() };
    let mut events: Vec<Event> = HOSTILE.iter().map(|text| with_type(text)).collect();
    events[0].context.correlation_id = "größe".into();
    consumer.provider().publish(&events).await.unwrap();
    assert!(arrivals(consumer, &events).await.iter().all(|count| *count == 1));
}
