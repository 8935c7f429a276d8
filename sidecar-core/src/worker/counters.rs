//! What a worker has done, for its summary and for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::contract::ModuleName;
use crate::execution::Timings;
use crate::server::Exposed;

/// What becomes of deliveries, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    Received,
    Committed,
    Retried,
    DeadLettered,
    HandedBack,
}

impl Count {
    const ALL: [Self; 5] =
        [Self::Received, Self::Committed, Self::Retried, Self::DeadLettered, Self::HandedBack];

    fn label(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Committed => "committed",
            Self::Retried => "retried",
            Self::DeadLettered => "dead-lettered",
            Self::HandedBack => "handed-back",
        }
    }
}

/// Counts since the worker began.
#[derive(Debug)]
pub struct Counters {
    module: String,
    registry: Registry,
    events: Family<EventLabels, Counter>,
    running: Gauge,
    seconds: Family<PhaseLabels, Histogram>,
    oldest: Gauge<f64, AtomicU64>,
    receiving: Gauge,
    waiting: Gauge,
    totals: [AtomicU64; 5],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    module: String,
    r#type: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    module: String,
    r#type: String,
    phase: &'static str,
}

/// The counts at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Deliveries.
    pub received: u64,
    /// Modules at work.
    pub running: u64,
    /// Deliveries whose execution has its outcome.
    pub committed: u64,
    /// Deliveries that failed and come again.
    pub retried: u64,
    /// Events that were given up.
    pub dead_lettered: u64,
    /// Deliveries that were handed back without a failure of theirs.
    pub handed_back: u64,
}

impl Counters {
    pub(super) fn new(module: &ModuleName, types: &[String]) -> Self {
        // From a call with nothing to move to a module that works for a day.
        let buckets =
            || Histogram::new([0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0]);
        let mut counters = Self {
            module: module.to_string(),
            registry: Registry::with_prefix("sidecar_worker"),
            events: Family::default(),
            running: Gauge::default(),
            seconds: Family::new_with_constructor(buckets),
            oldest: Gauge::default(),
            receiving: Gauge::default(),
            waiting: Gauge::default(),
            totals: Default::default(),
        };
        // There from the beginning: the increase to the first is seen.
        for event_type in types {
            for outcome in Count::ALL {
                drop(counters.events.get_or_create(&counters.labels(outcome, event_type)));
            }
        }
        let registry = &mut counters.registry;
        registry.register("events", "Events received, and what became of them", counters.events.clone());
        registry.register("running", "Modules at work", counters.running.clone());
        registry.register_with_unit(
            "oldest_event_age",
            "How long the event that came last had waited, which is about as long as the oldest that waits; 0 once none waits, or where the bus does not tell",
            Unit::Seconds,
            counters.oldest.clone(),
        );
        registry.register(
            "receiving",
            "Whether the bus answered the last call for an event, or to keep one: 0 where it is away or refuses",
            counters.receiving.clone(),
        );
        registry.register(
            "waiting",
            "Slots that wait for a store or bus that was away for longer than the retries of a call (--retry-for): while there is one, no events are received",
            counters.waiting.clone(),
        );
        registry.register_with_unit(
            "phase_duration",
            "How long staging, the module and its commit took",
            Unit::Seconds,
            counters.seconds.clone(),
        );
        counters
    }

    /// Notes whether the bus has answered.
    pub(super) fn answered(&self, answered: bool) {
        self.receiving.set(i64::from(answered));
    }

    /// Notes how many slots wait for a store.
    pub(super) fn waiting(&self, slots: usize) {
        self.waiting.set(i64::try_from(slots).unwrap_or(i64::MAX));
    }

    pub(super) fn count(&self, count: Count, event_type: &str) {
        self.totals[count as usize].fetch_add(1, Ordering::Relaxed);
        self.events.get_or_create(&self.labels(count, event_type)).inc();
    }

    fn labels(&self, count: Count, event_type: &str) -> EventLabels {
        EventLabels { module: self.module.clone(), r#type: event_type.to_owned(), outcome: count.label() }
    }

    /// An event was received that was published then, or none was there.
    pub(super) fn next_was(&self, published: Option<SystemTime>) {
        // Events come in about the order in which they were published: what waits is no older than what came last.
        let waited = published.and_then(|published| published.elapsed().ok()).unwrap_or_default();
        self.oldest.set(waited.as_secs_f64());
    }

    pub(super) fn begin(&self) {
        self.running.inc();
    }

    pub(super) fn end(&self) {
        self.running.dec();
    }

    pub(super) fn observe(&self, event_type: &str, timings: Timings) {
        let Timings { staging, module, commit } = timings;
        for (phase, time) in [("staging", staging), ("module", module), ("commit", commit)] {
            if time > Duration::ZERO {
                let labels =
                    PhaseLabels { module: self.module.clone(), r#type: event_type.to_owned(), phase };
                self.seconds.get_or_create(&labels).observe(time.as_secs_f64());
            }
        }
    }

    /// The counts by now.
    pub fn summary(&self) -> Summary {
        let total = |count: Count| self.totals[count as usize].load(Ordering::Relaxed);
        Summary {
            received: total(Count::Received),
            running: u64::try_from(self.running.get()).unwrap_or(0),
            committed: total(Count::Committed),
            retried: total(Count::Retried),
            dead_lettered: total(Count::DeadLettered),
            handed_back: total(Count::HandedBack),
        }
    }
}

impl Exposed for Counters {
    fn encode(&self, out: &mut String) {
        // Writing into a string cannot fail.
        let _ = text::encode(out, &self.registry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_watches_a_worker_sees_what_it_waits_for() {
        let counters = Counters::new(&ModuleName::parse("m").unwrap(), &[]);
        counters.answered(true);
        counters.waiting(2);
        let mut text = String::new();
        counters.encode(&mut text);
        for line in ["sidecar_worker_receiving 1", "sidecar_worker_waiting 2"] {
            assert!(text.lines().any(|found| found == line), "no {line:?} in {text}");
        }
    }
}
