//! The tests of the crate as an embedder sees it: one binary, one module a subject.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod amqp;
mod boundary;
mod buckets;
mod cache;
mod clones;
mod conformance;
mod decide;
mod fault_proxy;
mod faults;
mod gcs_gateway;
mod golden;
mod hostile;
mod layers;
mod limits;
mod mongo;
mod nats;
mod never_again;
mod postgres;
mod processes;
mod properties;
mod references;
mod retention;
mod sabotage;
mod scene;
mod server;
mod servers;
mod service_bus;
mod service_bus_double;
mod session;
mod tls;
mod tree;
mod uploads;
mod worker;
