//! Clients that are slow, large or many: each gets its answer, or the end of its connection, within a bound.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sidecar_core::server::{Limits, Secret, Sessions, router, serve};
use sidecar_core::{DataPlane, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::scene::Scene;

/// A session that is served within these limits.
async fn served(limits: Limits) -> (Scene, Session, String) {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.open().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = router(Sessions::one(Secret::new("s"), session.clone()));
    tokio::spawn(serve(listener, router, limits, std::future::pending()));
    (scene, session, address)
}

fn quick() -> Limits {
    let mut limits = Limits::default();
    limits.header_timeout = Duration::from_millis(300);
    limits
}

async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A connection that is reset has ended too.
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_client_that_sends_slowly_or_nothing_is_cut_off() {
    let (_scene, _session, address) = served(quick()).await;
    for begin in ["", "GET", "GET /ready HTTP/1.1\r\nsecret: s\r\nx-"] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(begin.as_bytes()).await.unwrap();
        let started = Instant::now();
        let answer = rest(stream).await;
        assert!(started.elapsed() < Duration::from_secs(3), "{begin:?} took {:?}", started.elapsed());
        assert!(!answer.contains("200 OK"), "{answer}");
    }
}

/// Connections that speak HTTP/2 and then nothing, as many as there may be.
#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let mut limits = quick();
    (limits.connections, limits.idle_timeout) = (4, Duration::from_millis(300));
    let (_scene, _session, address) = served(limits).await;
    let mut silent = Vec::new();
    for i in 0..4 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        // An empty SETTINGS frame follows the preface; every other one has asked once.
        let begin: &[u8] = match i % 2 {
            0 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            _ => b"GET /healthz HTTP/1.1\r\n\r\n",
        };
        stream.write_all(begin).await.unwrap();
        silent.push(stream);
    }
    let started = Instant::now();
    let answer = reqwest::get(format!("http://{address}/healthz")).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let (_scene, _session, address) = served(Limits::default()).await;
    let long = format!("GET /ready HTTP/1.1\r\nsecret: s\r\nx: {}\r\n\r\n", "x".repeat(64 * 1024));
    let many = format!("GET /ready HTTP/1.1\r\nsecret: s\r\n{}\r\n", "x: y\r\n".repeat(100));
    for head in [long, many] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        // It may be refused before everything is sent.
        let _ = stream.write_all(head.as_bytes()).await;
        let answer = rest(stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
}

#[tokio::test]
async fn a_client_with_an_open_connection_keeps_it_between_calls() {
    let (_scene, _session, address) = served(quick()).await;
    let client = reqwest::Client::new();
    for _ in 0..3 {
        let answer =
            client.get(format!("http://{address}/status")).header("secret", "s").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_at_once_are_one_call() {
    let (scene, session, address) = served(Limits::default()).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let call = |path: &'static str| {
        let (client, url) = (client.clone(), format!("http://{address}/{path}"));
        async move { client.get(url).header("secret", "s").send().await.unwrap().status().as_u16() }
    };
    let calls = (0..1000).map(|_| tokio::spawn(call("ready")));
    for status in futures_util::future::join_all(calls).await {
        assert_eq!(status.unwrap(), 200);
    }
    scene.write_event("1.json", "t", "");
    let calls = (0..1000).map(|_| tokio::spawn(call("done")));
    for status in futures_util::future::join_all(calls).await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(session.done().await.unwrap().events.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_secrets_at_speed_stay_wrong_and_keep_nobody_out() {
    let (_scene, _session, address) = served(Limits::default()).await;
    let client = Arc::new(reqwest::Client::builder().http2_prior_knowledge().build().unwrap());
    let call = |secret: String| {
        let (client, url) = (client.clone(), format!("http://{address}/ready"));
        async move { client.get(url).header("secret", secret).send().await.unwrap().status().as_u16() }
    };
    let guesses: Vec<_> = (0..2000).map(|n| tokio::spawn(call(format!("guess-{n}")))).collect();
    let started = Instant::now();
    assert_eq!(call("s".into()).await, 200);
    assert!(started.elapsed() < Duration::from_secs(10));
    for guess in guesses {
        assert_eq!(guess.await.unwrap(), 401);
    }
}
