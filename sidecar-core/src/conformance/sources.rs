//! The guarantees of [`EventSource`] and its deliveries, for a provider that can be subscribed to.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use uuid::Uuid;

use super::events::event;
use crate::events::{Delivery, EventSource, Subscription};
use crate::{Error, Event, EventProvider, ModuleName};

/// The lock that the tests ask for: as short as a member may take to renew it on a busy machine.
const LOCK: Duration = Duration::from_secs(2);

/// Within this time what must come has come.
const SOON: Duration = Duration::from_secs(30);

/// For this time what must not come is waited for.
const NEVER: Duration = Duration::from_millis(500);

fn group() -> Subscription {
    let name = ModuleName::parse(&format!("g-{}", Uuid::new_v4().simple())).unwrap();
    Subscription { lock: LOCK, concurrency: 4, ..Subscription::new(name, Vec::<String>::new()) }
}

fn typed(event_type: &str) -> Event {
    Event { event_type: event_type.into(), ..event() }
}

async fn member(bus: &impl EventProvider, subscription: &Subscription) -> Arc<dyn EventSource> {
    bus.subscribe(subscription).await.unwrap()
}

/// The next delivery, which must come soon.
async fn next(source: &dyn EventSource) -> Box<dyn Delivery> {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        if let Some(delivery) = source.receive(Duration::from_secs(5)).await.unwrap() {
            return delivery;
        }
    }
    panic!("nothing was delivered within {SOON:?}");
}

/// Nothing comes.
async fn nothing(source: &dyn EventSource) {
    let came = source.receive(NEVER).await.unwrap();
    assert!(came.is_none(), "{:?}", came.map(|delivery| delivery.event().clone()));
}

fn not_held<T: std::fmt::Debug>(settled: crate::Result<T>) {
    assert!(matches!(settled, Err(Error::NotHeld { .. })), "{settled:?}");
}

/// An event is delivered as it was published.
pub async fn an_event_is_delivered_unchanged(bus: &impl EventProvider) {
    let source = member(bus, &group()).await;
    let sent = event();
    bus.publish(std::slice::from_ref(&sent)).await.unwrap();
    let delivery = next(&*source).await;
    assert_eq!(*delivery.event(), sent);
    if let Some(published) = delivery.published() {
        // A bus may keep time in whole seconds.
        let age = SystemTime::now().duration_since(published).unwrap_or_default();
        assert!(
            age < SOON && published < SystemTime::now() + Duration::from_secs(1),
            "published {age:?} ago"
        );
    }
    delivery.ack().await.unwrap();
    nothing(&*source).await;
}

/// What was published before the first member of a group came is delivered to it.
pub async fn what_came_before_is_not_lost(bus: &impl EventProvider) {
    let group = group();
    // On some buses a group exists from its first member on.
    drop(member(bus, &group).await);
    let sent = [event(), event()];
    bus.publish(&sent).await.unwrap();
    let source = member(bus, &group).await;
    let mut missing: HashSet<_> = sent.iter().map(|event| event.context.event_id.clone()).collect();
    while !missing.is_empty() {
        let delivery = next(&*source).await;
        assert!(missing.remove(&delivery.event().context.event_id), "{delivery:?} came twice");
        delivery.ack().await.unwrap();
    }
}

/// A member that waits is given an event when it is published, not at its next look.
pub async fn a_waiting_member_is_woken(bus: &impl EventProvider) {
    let source = member(bus, &group()).await;
    nothing(&*source).await;
    let waiting = tokio::spawn({
        let source = source.clone();
        async move { (source.receive(SOON).await.unwrap().unwrap(), Instant::now()) }
    });
    tokio::time::sleep(NEVER).await;
    let published = Instant::now();
    bus.publish(&[event()]).await.unwrap();
    let (delivery, received) = waiting.await.unwrap();
    assert!(received.saturating_duration_since(published) < Duration::from_secs(2));
    delivery.ack().await.unwrap();
}

/// Only the types that the group wants are delivered.
pub async fn other_types_do_not_come(bus: &impl EventProvider) {
    for odd in ["wanted.x", "*", ">", "größe", "a b"] {
        // What the rounds before published is kept for every group.
        let also = format!("also-{}", Uuid::new_v4());
        let subscription = Subscription { types: vec![odd.into(), also.clone()], ..group() };
        let source = member(bus, &subscription).await;
        let events = [typed("wanted"), typed(odd), typed("x"), typed(&also)];
        bus.publish(&events).await.unwrap();
        let mut types = HashSet::new();
        for _ in 0..2 {
            let delivery = next(&*source).await;
            types.insert(delivery.event().event_type.clone());
            delivery.ack().await.unwrap();
        }
        assert_eq!(types, HashSet::from([odd.to_owned(), also]));
        nothing(&*source).await;
    }
    // A type is a text, and no pattern: not even one that a store compares by.
    let exact = format!("t_{}", Uuid::new_v4().simple());
    let source = member(bus, &Subscription { types: vec![exact.clone()], ..group() }).await;
    let others =
        [exact.to_uppercase(), exact.replacen('_', "x", 1), format!("{exact} "), format!("{exact}_")];
    bus.publish(&others.map(|other| typed(&other))).await.unwrap();
    bus.publish(&[typed(&exact)]).await.unwrap();
    let delivery = next(&*source).await;
    assert_eq!(delivery.event().event_type, exact);
    delivery.ack().await.unwrap();
    nothing(&*source).await;
}

/// Every group gets every event.
pub async fn groups_are_independent(bus: &impl EventProvider) {
    let (one, other) = (member(bus, &group()).await, member(bus, &group()).await);
    let sent = event();
    bus.publish(std::slice::from_ref(&sent)).await.unwrap();
    for source in [&one, &other] {
        let delivery = next(&**source).await;
        assert_eq!(delivery.event().context.event_id, sent.context.event_id);
        delivery.ack().await.unwrap();
    }
}

/// The members of a group compete: each event is given to one of them, once.
pub async fn members_compete_without_doubles(bus: &impl EventProvider) {
    const EVENTS: usize = 60;
    let group = group();
    let members = join_all((0..3).map(|_| member(bus, &group))).await;
    let events: Vec<Event> = (0..EVENTS).map(|_| event()).collect();
    bus.publish(&events).await.unwrap();
    let work = async |source: &dyn EventSource| {
        let mut got = Vec::new();
        while let Some(delivery) = source.receive(Duration::from_secs(1)).await.unwrap() {
            got.push(delivery.event().context.event_id.clone());
            delivery.ack().await.unwrap();
        }
        got
    };
    let got: Vec<_> = join_all(members.iter().map(|source| work(&**source))).await.concat();
    let unique: HashSet<_> = got.iter().collect();
    assert_eq!((got.len(), unique.len()), (EVENTS, EVENTS));
}

/// One member can hold several deliveries, and settles each by itself.
pub async fn several_are_held_at_once(bus: &impl EventProvider) {
    let source = member(bus, &group()).await;
    bus.publish(&[event(), event(), event()]).await.unwrap();
    let held = [next(&*source).await, next(&*source).await, next(&*source).await];
    held[1].ack().await.unwrap();
    held[2].retry(Duration::ZERO).await.unwrap();
    let again = next(&*source).await;
    assert_eq!(again.event(), held[2].event());
    again.ack().await.unwrap();
    held[0].ack().await.unwrap();
    nothing(&*source).await;
}

/// A delivery whose member is gone comes back to another.
pub async fn a_dead_members_delivery_comes_back(bus: &impl EventProvider) {
    let group = group();
    let dead = member(bus, &group).await;
    bus.publish(&[event()]).await.unwrap();
    let lost = next(&*dead).await;
    let id = lost.event().context.event_id.clone();
    let source = member(bus, &group).await;
    nothing(&*source).await;
    drop(lost);
    drop(dead);
    let delivery = next(&*source).await;
    assert_eq!(delivery.event().context.event_id, id);
    delivery.ack().await.unwrap();
}

/// As long as it is renewed a delivery is given to nobody else; one without a lock that ends need not be.
pub async fn a_renewed_lock_holds(bus: &impl EventProvider) {
    let group = group();
    let (source, other) = (member(bus, &group).await, member(bus, &group).await);
    bus.publish(&[event()]).await.unwrap();
    let delivery = next(&*source).await;
    let lock = delivery.lock().unwrap_or(LOCK);
    let until = Instant::now() + 2 * lock;
    while Instant::now() < until {
        if delivery.lock().is_some() {
            delivery.renew().await.unwrap();
        }
        let came = other.receive(lock / 4).await.unwrap();
        assert!(came.is_none(), "a renewed delivery was given to another member");
    }
    delivery.ack().await.unwrap();
    nothing(&*other).await;
}

/// What was given back is delivered again, and not before its time; where the bus tells which delivery is the first, it
/// tells the truth: whoever counts attempts goes by it.
pub async fn a_retry_waits(bus: &impl EventProvider) {
    let source = member(bus, &group()).await;
    bus.publish(&[event()]).await.unwrap();
    let delivery = next(&*source).await;
    assert_ne!(delivery.redelivered(), Some(true), "it was delivered for the first time");
    let (given_back, after) = (Instant::now(), Duration::from_secs(2));
    delivery.retry(after).await.unwrap();
    let again = next(&*source).await;
    // A bus may keep time in whole seconds.
    assert!(given_back.elapsed() + Duration::from_secs(1) > after, "{:?}", given_back.elapsed());
    assert_eq!(again.event(), delivery.event());
    assert_ne!(again.redelivered(), Some(false), "it was delivered before");
    again.ack().await.unwrap();
    nothing(&*source).await;
}

/// To settle a delivery twice is an error with a name.
pub async fn settling_twice_is_an_error(bus: &impl EventProvider) {
    let source = member(bus, &group()).await;
    bus.publish(&[event()]).await.unwrap();
    let delivery = next(&*source).await;
    delivery.retry(Duration::ZERO).await.unwrap();
    not_held(delivery.ack().await);
    not_held(delivery.retry(Duration::ZERO).await);
    not_held(delivery.renew().await);
    let delivery = next(&*source).await;
    delivery.ack().await.unwrap();
    not_held(delivery.dead_letter("too late").await);
    nothing(&*source).await;
}

/// Whoever let a lock end holds the delivery no more, which is an error with a name; who has it then keeps it.
pub async fn a_late_settlement_is_an_error(bus: &impl EventProvider) {
    let group = group();
    let source = member(bus, &group).await;
    bus.publish(&[event()]).await.unwrap();
    let late = next(&*source).await;
    let Some(lock) = late.lock() else { return };
    tokio::time::sleep(lock + Duration::from_millis(200)).await;
    let other = member(bus, &group).await;
    let delivery = next(&*other).await;
    not_held(late.ack().await);
    not_held(late.renew().await);
    delivery.renew().await.unwrap();
    delivery.ack().await.unwrap();
}

/// What was put away for good does not come back.
pub async fn a_dead_letter_stays_away(bus: &impl EventProvider) {
    let source = member(bus, &group()).await;
    bus.publish(&[event()]).await.unwrap();
    next(&*source).await.dead_letter("the module failed:\nfive times").await.unwrap();
    nothing(&*source).await;
}

/// An event that was settled comes again when it is published as another message.
pub async fn a_republished_event_comes_again(bus: &impl EventProvider) {
    let source = member(bus, &group()).await;
    let sent = event();
    bus.publish(std::slice::from_ref(&sent)).await.unwrap();
    next(&*source).await.ack().await.unwrap();
    let id = Uuid::new_v4().to_string();
    bus.republish(&sent, &id).await.unwrap();
    let again = next(&*source).await;
    assert_eq!(*again.event(), sent);
    assert!(again.message_id().is_none_or(|told| told == id), "{:?} instead of {id}", again.message_id());
    again.ack().await.unwrap();
    nothing(&*source).await;
}

/// Another process joins the same group: it gets what is left, and nothing that was settled.
pub async fn another_process_joins_the_group<B: EventProvider, R: EventProvider>(
    bus: &B,
    reopen: impl AsyncFn(&B) -> R,
) {
    let group = group();
    let source = member(bus, &group).await;
    bus.publish(&[event(), event()]).await.unwrap();
    let held = next(&*source).await;
    let other = reopen(bus).await;
    let joined = member(&other, &group).await;
    let delivery = next(&*joined).await;
    assert_ne!(delivery.event().context.event_id, held.event().context.event_id);
    delivery.ack().await.unwrap();
    held.ack().await.unwrap();
    nothing(&*joined).await;
    drop((source, joined));
    // Nor does one that comes after all others have gone.
    nothing(&*member(&reopen(bus).await, &group).await).await;
    // What it publishes arrives here.
    let source = member(bus, &group).await;
    other.publish(&[event()]).await.unwrap();
    next(&*source).await.ack().await.unwrap();
}

/// A bus that cannot be reached is [`Error::Unavailable`], not one without events.
pub async fn an_outage_is_unavailable(away: &impl EventProvider) {
    let answer = match away.subscribe(&group()).await {
        Ok(source) => source.receive(Duration::from_millis(100)).await.map(drop),
        Err(error) => Err(error),
    };
    super::assert_unavailable("subscribe", answer);
}
