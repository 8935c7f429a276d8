//! What each layer adds, on a provider whose failures are scripted.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sidecar_core::layers::{CircuitBreaker, Fault, Injected, RateLimit, Retry, Timeout};
use sidecar_core::plane::Policies;
use sidecar_core::{DataPlane, DocumentProvider, Documents, Error, EventContext, EventId, documents};
use tokio::time::Instant;

const THREE: NonZeroU32 = NonZeroU32::new(3).unwrap();
const SECOND: Duration = Duration::from_secs(1);

/// A provider that fails as `script` says, and how often it was called.
fn faulty(
    script: impl Fn(usize) -> Injected + Send + Sync + 'static,
) -> (Fault<documents::Memory>, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let provider = Fault::new(documents::Memory::default(), move |_, n| {
        counted.fetch_add(1, Ordering::Relaxed);
        script(n)
    });
    (provider, calls)
}

async fn look(provider: &impl DocumentProvider) -> Result<(), Error> {
    provider.find::<EventContext>(EventId::parse("e").unwrap().as_str()).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn retry_repeats_only_what_can_succeed_later() {
    let (provider, calls) = faulty(|n| if n < 3 { Injected::Unavailable } else { Injected::Nothing });
    look(&Retry::new(provider, 60 * SECOND)).await.unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 4);

    let (provider, calls) = faulty(|_| Injected::Refused);
    let error = look(&Retry::new(provider, 60 * SECOND)).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn retry_ends_with_its_budget_and_the_last_error() {
    let (provider, calls) = faulty(|_| Injected::Unavailable);
    let started = Instant::now();
    let error = look(&Retry::new(provider, SECOND)).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }));
    let took = started.elapsed();
    // What comes back at the end of the budget is still met.
    assert!((SECOND..2 * SECOND).contains(&took), "{took:?}");
    assert!((2..10).contains(&calls.load(Ordering::Relaxed)));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_is_given_up_and_repeated() {
    let (provider, calls) = faulty(|n| if n == 0 { Injected::Hang } else { Injected::Nothing });
    look(&Retry::new(Timeout::new(provider, SECOND), 60 * SECOND)).await.unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_call_that_hangs_as_long_as_the_budget_is_repeated_all_the_same() {
    let (provider, calls) = faulty(|n| if n == 0 { Injected::Hang } else { Injected::Nothing });
    look(&Retry::new(Timeout::new(provider, SECOND), SECOND / 2)).await.unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_leaves_the_provider_alone_and_says_for_how_long() {
    let (provider, calls) = faulty(|n| if n < 4 { Injected::Unavailable } else { Injected::Nothing });
    let breaker = CircuitBreaker::new(provider, THREE, SECOND);
    for _ in 0..3 {
        look(&breaker).await.unwrap_err();
    }
    let error = look(&breaker).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { retry_after: Some(_), .. }), "{error:?}");
    assert_eq!(calls.load(Ordering::Relaxed), 3, "the provider was called although the circuit is open");
    // One call finds out; it fails, and the circuit stays open.
    tokio::time::advance(SECOND).await;
    look(&breaker).await.unwrap_err();
    look(&breaker).await.unwrap_err();
    assert_eq!(calls.load(Ordering::Relaxed), 4);
    // The next one succeeds, and the circuit closes.
    tokio::time::advance(SECOND).await;
    look(&breaker).await.unwrap();
    look(&breaker).await.unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 6);
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_no_outage_do_not_open_the_circuit() {
    let (provider, calls) = faulty(|_| Injected::Refused);
    let breaker = CircuitBreaker::new(provider, THREE, SECOND);
    for _ in 0..10 {
        look(&breaker).await.unwrap_err();
    }
    assert_eq!(calls.load(Ordering::Relaxed), 10);
}

#[tokio::test(start_paused = true)]
async fn calls_begin_at_most_so_often() {
    let (provider, _) = faulty(|_| Injected::Nothing);
    let limited = RateLimit::new(provider, NonZeroU32::new(10).unwrap());
    let started = Instant::now();
    futures_util::future::join_all((0..21).map(|_| look(&limited))).await;
    assert_eq!(started.elapsed(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_has_had_its_effect() {
    let provider = Fault::new(documents::Memory::default(), |call, _| match call {
        "store event contexts" => Injected::AnswerLost,
        _ => Injected::Nothing,
    });
    let context: EventContext =
        serde_json::from_value(serde_json::json!({"eventId": "e", "correlationId": "c"})).unwrap();
    let error = provider.store(&[context]).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }));
    assert!(provider.find::<EventContext>(EventId::parse("e").unwrap().as_str()).await.unwrap().is_some());
}

#[test]
fn identity_and_directories_pass_through_every_layer() {
    let dir = tempfile::TempDir::new().unwrap();
    let plane = DataPlane::local(dir.path()).unwrap();
    let layered = DataPlane::new(
        Policies::default().around(Fault::new(plane.blobs.clone(), |_, _| Injected::Nothing)),
        Policies::default().around(Fault::new(plane.documents.clone(), |_, _| Injected::Nothing)),
        Policies::default().around(Fault::new(plane.events.clone(), |_, _| Injected::Nothing)),
    );
    let root = dir.path().canonicalize().unwrap();
    let url = url::Url::from_directory_path(&root).unwrap();
    assert_eq!(layered.id(), format!("{url}; {url}; {url}"));
    let directories: Vec<_> = layered.directories().into_iter().map(|(_, dir)| dir).collect();
    let kinds = documents::Kind::ALL.map(documents::Kind::plural);
    let names = [&["blobs"][..], &kinds, &["graphs", "events"]].concat();
    assert_eq!(directories, names.into_iter().map(|name| root.join(name)).collect::<Vec<_>>());
    assert_ne!(layered.id(), DataPlane::local(dir.path().join("other")).unwrap().id());
}
