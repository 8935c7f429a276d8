//! Serving the router within limits: a client that is slow, large or many does not keep the module waiting.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::ServiceExt;

/// What one client may take of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// How long a request's head may take to arrive; a connection without any request is closed after it.
    pub header_timeout: Duration,
    /// The most bytes of a request's head; at least 8 KiB.
    pub header_bytes: usize,
    /// The most fields of a request's head.
    pub headers: usize,
    /// The most connections at once; others wait.
    pub connections: usize,
    /// The most requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// How long a connection may stay open without a request; one whose client is gone is found out by then, too.
    pub idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            header_bytes: 16 * 1024,
            headers: 64,
            connections: 4096,
            streams: 128,
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// Serves `router` on `listener` until `stop`; then takes no more calls and lets the running ones be answered.
pub async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(limits.headers)
        .max_buf_size(limits.header_bytes.max(8192));
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.idle_timeout)
        .keep_alive_timeout(limits.header_timeout)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.streams);
    let (server, slots) = (Arc::new(server), Arc::new(Semaphore::new(limits.connections)));
    let running = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let accept = async {
            // The semaphore is never closed.
            let slot = slots.clone().acquire_owned().await.ok();
            (slot, listener.accept().await.0)
        };
        let (slot, io) = tokio::select! {
            accepted = accept => accepted,
            () = &mut stop => break,
        };
        let (server, router, watcher) = (server.clone(), router.clone(), running.watcher());
        tokio::spawn(async move {
            let activity = Arc::new(Activity::default());
            let seen = activity.clone();
            let answer = service_fn(move |request: Request<Incoming>| {
                let (router, request_at_work) = (router.clone(), AtWork::begin(&seen));
                async move {
                    let answered = router.oneshot(request).await;
                    drop(request_at_work);
                    answered
                }
            });
            let connection = watcher.watch(server.serve_connection(TokioIo::new(io), answer).into_owned());
            let mut connection = pin!(connection);
            // The server's own timeouts begin only once it knows which HTTP is spoken, and know of no idleness.
            loop {
                tokio::select! {
                    ended = &mut connection => {
                        if let Err(error) = ended {
                            tracing::debug!("a connection ended: {error}");
                        }
                        break;
                    }
                    () = tokio::time::sleep_until(activity.deadline(&limits)) => {
                        if activity.deadline(&limits) <= Instant::now() {
                            break;
                        }
                    }
                }
            }
            drop(slot);
        });
    }
    drop(listener);
    running.shutdown().await;
}

/// What happens on a connection.
#[derive(Debug)]
struct Activity {
    requests: AtomicUsize,
    /// When the last request was answered; when it was opened, before the first.
    last: Mutex<(Instant, bool)>,
}

impl Default for Activity {
    fn default() -> Self {
        Self { requests: AtomicUsize::new(0), last: Mutex::new((Instant::now(), false)) }
    }
}

impl Activity {
    /// Until when it may stay open if nothing happens.
    fn deadline(&self, limits: &Limits) -> Instant {
        let (last, asked) = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match self.requests.load(Ordering::Relaxed) {
            0 if asked => last + limits.idle_timeout,
            0 => last + limits.header_timeout,
            _ => Instant::now() + limits.idle_timeout,
        }
    }
}

/// A request at work, however it ends.
struct AtWork(Arc<Activity>);

impl AtWork {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.requests.fetch_add(1, Ordering::Relaxed);
        Self(activity.clone())
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), true);
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}
