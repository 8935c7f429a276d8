//! The API on a TCP address and a unix socket, from the first bind to the last answer.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::{Limits, Secret, router, serve};
use crate::error::{Error, Result};
use crate::execution::Session;

/// How long open connections are waited for once there is nothing left to answer.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// A unix socket besides; one that a killed sidecar left behind is replaced.
    pub socket: Option<PathBuf>,
    /// The user who may use the socket besides root; `None` allows the user of this process alone.
    pub socket_uid: Option<u32>,
}

/// The API on its listeners, until it is stopped.
#[derive(Debug)]
pub struct Listening {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    servers: JoinSet<()>,
    socket: Option<PathBuf>,
}

impl Listening {
    /// Binds every listener, then serves `session` to those who know `secret`.
    ///
    /// # Errors
    /// [`Error::Io`] with the address or the socket that cannot be bound.
    pub async fn start(session: &Session, secret: Secret, listen: &Listen) -> Result<Self> {
        let cannot_bind = Error::io("listen on", listen.address.to_string());
        let tcp = TcpListener::bind(listen.address).await.map_err(cannot_bind)?;
        let address = tcp.local_addr().unwrap_or(listen.address);
        let unix = listen.socket.as_deref().map(|path| Peers::bind(path, listen.socket_uid)).transpose()?;

        let router = router(session.clone(), secret);
        let (stop, stopped) = watch::channel(false);
        let mut servers = JoinSet::new();
        if let Some(unix) = unix {
            servers.spawn(serve(unix, router.clone(), Limits::default(), wait(stopped.clone())));
        }
        servers.spawn(serve(tcp, router, Limits::default(), wait(stopped)));
        info!("listening on http://{address}");
        if let Some(path) = &listen.socket {
            info!("listening on {}", path.display());
        }
        Ok(Self { address, stop, servers, socket: listen.socket.clone() })
    }

    /// The TCP address, with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more calls and lets the running ones be answered; a client that keeps its connection open is
    /// waited for as long as `patience`, and for two seconds at most.
    pub async fn stop(mut self, patience: Duration) {
        self.stop.send_replace(true);
        let served = async { while self.servers.join_next().await.is_some() {} };
        // Whoever is cut off now had nothing left to be answered.
        let _ = tokio::time::timeout(patience.min(STOP_TIMEOUT), served).await;
        if let Some(path) = &self.socket {
            // A socket that is gone already needs no removing.
            let _ = fs::remove_file(path);
        }
    }
}

async fn wait(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which stops as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// A socket that only root and, where one is named, this user may use.
struct Peers {
    listener: UnixListener,
    uid: Option<u32>,
}

impl Listener for Peers {
    type Io = UnixStream;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (UnixStream, Self::Addr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            let Some(allowed) = self.uid else { return (stream, address) };
            match stream.peer_cred().map(|peer| peer.uid()) {
                Ok(uid) if uid == allowed || uid == 0 => return (stream, address),
                Ok(uid) => warn!("user {uid} was turned away from the socket, which is for user {allowed}"),
                Err(error) => warn!("a client of the socket was turned away: {error}"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

impl Peers {
    fn bind(path: &Path, uid: Option<u32>) -> Result<Self> {
        let error = |error| Error::io("listen on", path)(error);
        // What a killed sidecar left behind; the lock on the state directory says that none is alive.
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            fs::remove_file(path).map_err(error)?;
        }
        let listener = UnixListener::bind(path).map_err(error)?;
        // With a user named the socket is world-accessible; each peer's uid is checked.
        let mode = if uid.is_some() { 0o666 } else { 0o600 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(error)?;
        Ok(Self { listener, uid })
    }
}
