//! The guarantees of [`EventProvider`].
//!
//! A provider only publishes, so each test also takes a [`Consumer`] that tells what has arrived.

use std::collections::HashMap;

use async_trait::async_trait;
use futures_util::future::join_all;
use uuid::Uuid;

use super::documents::HOSTILE;
use super::samples;
use super::{assert_directories, assert_short, assert_unavailable};
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

pub(super) fn event() -> Event {
    Event {
        context: EventHeader {
            name: String::new(),
            event_id: EventId::from(Uuid::new_v4()),
            correlation_id: Uuid::new_v4().to_string(),
            parent_event_id: Uuid::new_v4().to_string(),
        },
        event_type: "thumbnail_created".into(),
        previous_stages: vec!["b".into(), "a".into()],
        data: KeyValuePairs::from_iter([("b", "2"), ("a", "1"), ("b", "2"), ("b", "1")]),
        traceparent: samples::traceparent(),
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

/// Calls may run side by side.
pub async fn many_at_once(consumer: &dyn Consumer) {
    let events: Vec<Event> = (0..64).map(|_| event()).collect();
    let published = join_all(events.chunks(2).map(|events| consumer.provider().publish(events))).await;
    assert!(published.iter().all(Result::is_ok), "{published:?}");
    assert!(arrivals(consumer, &events).await.iter().all(|count| *count == 1));
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
    assert!(events.iter().all(|event| consumer.provider().refuses(event).is_none()));
    events[1].data = HOSTILE.iter().flat_map(|text| [(*text, "v"), ("k", *text)]).collect();
    consumer.provider().publish(&events).await.unwrap();
    assert!(arrivals(consumer, &events).await.iter().all(|count| *count == 1));
}

/// An event that `refuses` has nothing against can be published, be it large; no other test has an event that it may
/// refuse.
pub async fn what_is_not_refused_arrives(consumer: &dyn Consumer) {
    let with_type = |length: usize| Event { event_type: "t".repeat(length), ..event() };
    let with_data =
        |length: usize| Event { data: KeyValuePairs::from_iter([("k", "v".repeat(length))]), ..event() };
    let mut events =
        vec![with_type(255), with_type(256), with_data(100 << 10), with_data(255 << 10), with_data(2 << 20)];
    events.retain(|event| consumer.provider().refuses(event).is_none());
    consumer.provider().publish(&events).await.unwrap();
    assert!(arrivals(consumer, &events).await.iter().all(|count| *count == 1));
}

/// A bus that works passes the check, however many make it at once, and keeps what it has.
pub async fn checks_at_once_succeed(consumer: &dyn Consumer) {
    let events = [event()];
    consumer.provider().publish(&events).await.unwrap();
    for check in join_all((0..8).map(|_| consumer.provider().check())).await {
        check.unwrap();
    }
    assert_eq!(arrivals(consumer, &events).await, [1]);
}

/// Where it says that it keeps data on this machine, there is a directory.
pub async fn the_directories_are_there(consumer: &dyn Consumer) {
    assert_directories(&consumer.provider().directories());
}

/// `Display` fits into a log line, and so does the identity.
pub async fn the_display_is_short(consumer: &dyn Consumer) {
    assert_short(&consumer.provider().to_string());
    assert_short(&consumer.provider().id());
}

/// Where the bus drops repeats, it does so whichever process publishes them.
pub async fn a_repeat_by_another_process_is_seen_once<C: Consumer, R: EventProvider>(
    consumer: &C,
    reopen: impl AsyncFn(&C) -> R,
) {
    let other = reopen(consumer).await;
    let events = [event(), event()];
    consumer.provider().publish(&events[..1]).await.unwrap();
    other.publish(&events).await.unwrap();
    let expected = if consumer.drops_repeats() { [1, 1] } else { [2, 1] };
    assert_eq!(arrivals(consumer, &events).await, expected);
}

/// A bus has the same identity in every process.
pub async fn the_id_is_stable<C: Consumer, R: EventProvider>(consumer: &C, reopen: impl AsyncFn(&C) -> R) {
    assert_eq!(reopen(consumer).await.id(), consumer.provider().id());
}

/// A bus that cannot be reached is [`Error::Unavailable`](crate::Error::Unavailable): an event that was not accepted
/// is never taken for one that was.
pub async fn an_outage_is_unavailable(away: &dyn EventProvider) {
    assert_unavailable("publish", away.publish(&[event()]).await);
}

/// The check of a bus that cannot be reached is [`Error::Unavailable`](crate::Error::Unavailable).
pub async fn a_check_finds_an_outage(away: &dyn EventProvider) {
    assert_unavailable("check", away.check().await);
}
