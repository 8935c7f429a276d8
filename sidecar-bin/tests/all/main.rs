//! The binary, as those who start it see it: one test binary, one module a subject.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod browser;
mod configuration;
mod crash;
mod examples;
#[path = "../../../sidecar-core/tests/all/fault_proxy.rs"]
mod fault_proxy;
mod fleet;
mod guides;
mod install;
mod messages;
mod metrics;
mod normal;
mod one_shot;
mod outcomes;
mod pipeline;
mod process;
mod run;
mod serve;
#[path = "../../../sidecar-core/tests/all/servers.rs"]
mod servers;
#[path = "../../../sidecar-core/tests/all/service_bus_double.rs"]
mod service_bus_double;
mod stores;
mod traces;
mod users;
mod worker;
