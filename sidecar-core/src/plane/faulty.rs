//! Calls of providers that a test wants to fail; compiled only with `fault-points`.
//!
//! `SIDECAR_FAULT_TRACE` gets a line `call NAME` for each call. `SIDECAR_FAULT_CALL` names the call and the first
//! of its repeats that fails (`store blobs 2`), `SIDECAR_FAULT_INJECT` how: `unavailable`, `refused`,
//! `answer-lost` or `hang`, and `SIDECAR_FAULT_FOR` for how long: milliseconds since the first failure, or once.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::layers::{Fault, Injected};

#[derive(Default)]
struct Seen {
    /// How often each call was made.
    calls: HashMap<String, usize>,
    /// When the first one failed.
    failed: Option<Instant>,
}

static SEEN: LazyLock<Mutex<Seen>> = LazyLock::new(Mutex::default);

/// The provider with its failures.
pub(super) fn faulty<P: std::fmt::Display>(provider: P) -> Fault<P> {
    Fault::new(provider, |call, _| decide(call).unwrap_or(Injected::Nothing))
}

fn decide(call: &str) -> Option<Injected> {
    let Seen { calls, failed } = &mut *SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let count = calls.entry(call.to_owned()).or_default();
    *count += 1;
    if let Some(path) = std::env::var_os("SIDECAR_FAULT_TRACE")
        && let Ok(mut trace) = std::fs::File::options().create(true).append(true).open(path)
    {
        let _ = trace.write_all(format!("call {call}\n").as_bytes());
    }
    let at = std::env::var("SIDECAR_FAULT_CALL").ok()?;
    let (name, first) = at.rsplit_once(' ')?;
    let first: usize = first.parse().ok()?;
    if name != call || *count < first {
        return None;
    }
    let since = failed.get_or_insert_with(Instant::now).elapsed();
    let lasts = match std::env::var("SIDECAR_FAULT_FOR") {
        Ok(milliseconds) => since < Duration::from_millis(milliseconds.parse().ok()?),
        Err(_) => *count == first,
    };
    match std::env::var("SIDECAR_FAULT_INJECT").ok()?.as_str() {
        _ if !lasts => None,
        "unavailable" => Some(Injected::Unavailable),
        "refused" => Some(Injected::Refused),
        "answer-lost" => Some(Injected::AnswerLost),
        "hang" => Some(Injected::Hang),
        _ => None,
    }
}
