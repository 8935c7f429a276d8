//! A proxy before one store that cuts one attempt off, and delivers what it had sent later.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::plane::Plane;

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Store {
    Blobs,
    Documents,
    Events,
}

impl Store {
    fn variable(self) -> &'static str {
        match self {
            Self::Blobs => "SIDECAR_BLOBS",
            Self::Documents => "SIDECAR_DOCUMENTS",
            Self::Events => "SIDECAR_EVENTS",
        }
    }
}

/// A running proxy; it ends with the program.
#[derive(Clone)]
pub struct Proxy {
    /// The process whose requests are held; 0 for none.
    cut_off: Arc<AtomicU32>,
    released: watch::Sender<bool>,
}

impl Proxy {
    /// Puts a proxy between every process of the plane and the store; `None` for a store without a server.
    pub async fn before(plane: &mut Plane, store: Store) -> Option<Self> {
        let (_, url) = plane.env.iter_mut().find(|(name, _)| *name == store.variable())?;
        let begin = url.find("127.0.0.1:")?;
        let end =
            url[begin + 10..].find(|c: char| !c.is_ascii_digit()).map_or(url.len(), |end| begin + 10 + end);
        let server: SocketAddr = url[begin..end].parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        url.replace_range(begin..end, &listener.local_addr().unwrap().to_string());
        let proxy = Self { cut_off: Arc::default(), released: watch::Sender::new(true) };
        let running = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, address)) = listener.accept().await {
                tokio::spawn(running.clone().connection(client, address, server));
            }
        });
        Some(proxy)
    }

    /// From now on requests of this process, also those on its open connections, are held.
    pub fn cut_off(&self, process: u32) {
        self.cut_off.store(process, Ordering::SeqCst);
        self.released.send_replace(false);
    }

    /// Delivers what was held, whoever still waits for an answer, and holds nothing more.
    pub fn release(&self) {
        self.cut_off.store(0, Ordering::SeqCst);
        self.released.send_replace(true);
    }

    /// How many requests were held so far, by any proxy.
    pub fn held() -> usize {
        HELD.load(Ordering::SeqCst)
    }

    async fn connection(self, client: TcpStream, address: SocketAddr, server: SocketAddr) {
        let Ok(server) = TcpStream::connect(server).await else { return };
        let owner = owner(address.port());
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let requests = async {
            let (mut held, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
            let mut released = self.released.subscribe();
            loop {
                let is_held = owner != 0 && self.cut_off.load(Ordering::SeqCst) == owner;
                tokio::select! {
                    read = from_client.read(&mut buffer) => {
                        let n = read.unwrap_or(0);
                        held.extend_from_slice(&buffer[..n]);
                        if n == 0 {
                            // Whoever gave up: what was sent is delivered all the same.
                            let _ = released.wait_for(|released| *released || !is_held).await;
                        } else if is_held {
                            HELD.fetch_add(1, Ordering::SeqCst);
                            continue;
                        }
                        if to_server.write_all(&held).await.is_err() || n == 0 {
                            break;
                        }
                        held.clear();
                    }
                    changed = released.changed(), if is_held => {
                        if changed.is_err() || (*released.borrow() && to_server.write_all(&held).await.is_err()) {
                            break;
                        }
                        if *released.borrow() {
                            held.clear();
                        }
                    }
                }
            }
            // Nothing more comes; the server may still answer.
            let _ = to_server.shutdown().await;
        };
        let answers = async {
            // One that has gone is not told.
            let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
            let _ = to_client.shutdown().await;
        };
        tokio::join!(requests, answers);
    }
}

static HELD: AtomicUsize = AtomicUsize::new(0);

/// The process that has a connection with this local port; 0 if none is found.
fn owner(port: u16) -> u32 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let local = format!("0100007F:{port:04X}");
    let line = table.lines().map(str::split_whitespace).map(Iterator::collect::<Vec<_>>);
    let Some(inode) = line
        .filter(|line| line.get(1) == Some(&&*local))
        .find_map(|line| line.get(9).copied().map(str::to_owned))
    else {
        return 0;
    };
    let socket = format!("socket:[{inode}]");
    let has_it = |fds: std::path::PathBuf| {
        let fds = std::fs::read_dir(fds).into_iter().flatten().flatten();
        fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|link| link.to_str() == Some(&socket))
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    processes.find(|pid| has_it(format!("/proc/{pid}/fd").into())).unwrap_or(0)
}
