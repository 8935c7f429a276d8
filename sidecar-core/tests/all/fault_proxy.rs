//! A proxy between a provider and its server that breaks what passes it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to a connection.
#[allow(dead_code, reason = "each crate's tests use a part of this file")]
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// It passes.
    None,
    /// It is closed at once.
    Refuse,
    /// Its first request is answered with this instead of being passed on.
    Answer(&'static str),
    /// It breaks once the server has sent this many bytes.
    CutAfter(usize),
    /// Nothing passes, and nothing is answered.
    Hang,
}

/// A running proxy; connections that are made end with the test.
#[derive(Clone)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    away: watch::Sender<bool>,
    down: Arc<AtomicUsize>,
}

#[allow(dead_code, reason = "each crate's tests use a part of this file")]
impl Proxy {
    /// Starts it in front of `server`; `faults` is asked for each connection, counted from 0.
    pub async fn start(server: SocketAddr, faults: impl Fn(usize) -> Fault + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            away: watch::Sender::new(false),
            down: Arc::default(),
        };
        let running = proxy.clone();
        tokio::spawn(async move {
            for n in 0.. {
                let Ok((client, _)) = listener.accept().await else { return };
                let fault = if *running.away.borrow() { Fault::Refuse } else { faults(n) };
                tokio::spawn(running.clone().connection(client, server, fault));
            }
        });
        proxy
    }

    /// The URL of the server, through the proxy.
    pub fn url(&self, server: &str) -> String {
        let host = url::Url::parse(server).unwrap();
        let host = format!("{}:{}", host.host_str().unwrap(), host.port().unwrap());
        server.replacen(&host, &self.address.to_string(), 1)
    }

    /// Breaks every connection and refuses new ones, or takes them again.
    pub fn away(&self, away: bool) {
        self.away.send_replace(away);
    }

    /// The bytes that the server has sent through it.
    pub fn sent_down(&self) -> usize {
        self.down.load(Ordering::Relaxed)
    }

    async fn connection(self, mut client: TcpStream, server: SocketAddr, fault: Fault) {
        let mut away = self.away.subscribe();
        let limit = match fault {
            Fault::Refuse => return,
            Fault::Hang => return std::future::pending().await,
            Fault::Answer(answer) => {
                let mut head = Vec::new();
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    let mut buffer = [0; 4096];
                    match client.read(&mut buffer).await {
                        Ok(n) if n > 0 => head.extend_from_slice(&buffer[..n]),
                        _ => return,
                    }
                }
                let _ = client.write_all(answer.as_bytes()).await;
                let _ = client.shutdown().await;
                return;
            }
            Fault::CutAfter(limit) => limit,
            Fault::None => usize::MAX,
        };
        let Ok(mut server) = TcpStream::connect(server).await else { return };
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let up = tokio::io::copy(&mut from_client, &mut to_server);
        let down = async {
            let (mut buffer, mut sent) = (vec![0; 64 * 1024], 0);
            while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
                let n = n.min(limit - sent);
                if to_client.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
                sent += n;
                self.down.fetch_add(n, Ordering::Relaxed);
                if sent == limit {
                    return;
                }
            }
        };
        tokio::select! {
            _ = up => {}
            () = down => {}
            _ = away.wait_for(|away| *away) => {}
        }
    }
}

/// The address of a server's URL.
pub fn address(server: &str) -> SocketAddr {
    let url = url::Url::parse(server).unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap()).parse().unwrap()
}
