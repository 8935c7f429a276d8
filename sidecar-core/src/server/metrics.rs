//! Metrics in the OpenMetrics text format.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::sessions::{Exposed, Sum};
use crate::contract::Phase;
use crate::execution::{CACHED, DECISIONS};

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    path: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabel {
    result: &'static str,
}

#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<Route, Counter>,
    seconds: Family<Route, Histogram>,
    phase: Family<PhaseLabel, Gauge>,
    files: Gauge,
    bytes: Gauge,
    decisions: Family<DecisionLabel, Counter>,
    cached: Family<CacheLabel, Counter>,
    unpublished: Gauge,
}

impl Metrics {
    pub(super) fn new() -> Self {
        // From a call with nothing to move to one that moves for half an hour.
        let buckets = || Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0, 1800.0]);
        let mut metrics = Self {
            registry: Registry::with_prefix("sidecar"),
            requests: Family::default(),
            seconds: Family::new_with_constructor(buckets),
            phase: Family::default(),
            files: Gauge::default(),
            bytes: Gauge::default(),
            decisions: Family::default(),
            cached: Family::default(),
            unpublished: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The release of the sidecar", build);
        registry.register("requests", "Requests answered", metrics.requests.clone());
        registry.register_with_unit(
            "request_duration",
            "Time to answer a request",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register("phase", "How many executions are in the phase", metrics.phase.clone());
        registry.register(
            "transfer_files",
            "Files moved by the running or last transfer",
            metrics.files.clone(),
        );
        registry.register_with_unit(
            "transfer_moved",
            "Bytes moved by the running or last transfer",
            Unit::Bytes,
            metrics.bytes.clone(),
        );
        registry.register(
            "decisions",
            "Outcomes that were asked for: decided by this attempt, by another one, or the run was abandoned",
            metrics.decisions.clone(),
        );
        registry.register(
            "cache_files",
            "Inputs that --cache had, and inputs that were fetched because it had not",
            metrics.cached.clone(),
        );
        registry.register_with_unit(
            "unpublished_age",
            "How long the oldest outcome has been decided and not published",
            Unit::Seconds,
            metrics.unpublished.clone(),
        );
        metrics
    }

    pub(super) fn request(&self, path: &'static str, status: u16, elapsed: Duration) {
        let route = Route { path, status };
        self.requests.get_or_create(&route).inc();
        self.seconds.get_or_create(&route).observe(elapsed.as_secs_f64());
    }

    pub(super) fn encode(&self, sum: &Sum, exposed: &[Arc<dyn Exposed>]) -> String {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for phase in Phase::ALL {
            let count = sum.phases.iter().filter(|other| **other == phase).count();
            self.phase.get_or_create(&PhaseLabel { phase: phase.to_string() }).set(gauge(count as u64));
        }
        self.files.set(gauge(sum.files));
        self.bytes.set(gauge(sum.bytes));
        for (outcome, count) in DECISIONS.into_iter().zip(sum.counts.decisions) {
            let counter = self.decisions.get_or_create(&DecisionLabel { outcome });
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        for (result, count) in CACHED.into_iter().zip(sum.counts.cached) {
            let counter = self.cached.get_or_create(&CacheLabel { result });
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        self.unpublished.set(gauge(sum.unpublished.as_secs()));
        let mut out = String::new();
        // Writing into a string cannot fail.
        let _ = text::encode(&mut out, &self.registry);
        for exposed in exposed {
            // Each ends with a mark that only the last may have.
            out.truncate(out.trim_end_matches("# EOF\n").len());
            exposed.encode(&mut out);
        }
        out
    }
}

/// The path as a label: one of ours, or `other`, so that a scanner cannot grow the set.
pub(super) fn path(path: &str) -> &'static str {
    ["/ready", "/done", "/fail", "/next", "/status", "/healthz", "/metrics", "/openapi.json"]
        .into_iter()
        .find(|known| *known == path)
        .unwrap_or("other")
}
