//! Serving the router within limits: a client that is slow, large or many does not keep the module waiting.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
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
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            header_bytes: 16 * 1024,
            headers: 64,
            connections: 4096,
            streams: 128,
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
            let asked = Arc::new(AtomicBool::new(false));
            let seen = asked.clone();
            let answer = service_fn(move |request: Request<Incoming>| {
                seen.store(true, Ordering::Relaxed);
                router.clone().oneshot(request)
            });
            let connection = watcher.watch(server.serve_connection(TokioIo::new(io), answer).into_owned());
            let mut connection = pin!(connection);
            let mut patience = pin!(tokio::time::sleep(limits.header_timeout));
            // The server's own timeout begins only once it knows which HTTP is spoken.
            poll_fn(|context| {
                if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                    if let Err(error) = ended {
                        tracing::debug!("a connection ended: {error}");
                    }
                    return Poll::Ready(());
                }
                if asked.load(Ordering::Relaxed) {
                    return Poll::Pending;
                }
                patience.as_mut().poll(context)
            })
            .await;
            drop(slot);
        });
    }
    drop(listener);
    running.shutdown().await;
}
