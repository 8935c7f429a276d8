//! The API on a TCP address and a unix socket, from the first bind to the last answer.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::serve::Listener;
use rustix::fs::{AtFlags, FileType, Mode, chmodat};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};
use uuid::Uuid;

use super::{Limits, Sessions, on_loopback, router, serve};
use crate::dir::Dir;
use crate::error::{Error, Result};

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
    /// The socket's directory and name.
    socket: Option<(Dir, PathBuf)>,
}

impl Listening {
    /// Binds every listener, then serves each of `sessions` to those who know its secret.
    ///
    /// # Errors
    /// [`Error::Io`] with the address or the socket that cannot be bound.
    pub async fn start(sessions: Sessions, listen: &Listen) -> Result<Self> {
        let cannot_bind = Error::io("listen on", listen.address.to_string());
        let tcp = TcpListener::bind(listen.address).await.map_err(cannot_bind)?;
        let address = tcp.local_addr().unwrap_or(listen.address);
        let unix = listen.socket.as_deref().map(|path| Peers::bind(path, listen.socket_uid)).transpose()?;
        let (unix, socket) = unix.unzip();

        let router = router(sessions);
        let (stop, stopped) = watch::channel(false);
        let mut servers = JoinSet::new();
        if let Some(unix) = unix {
            servers.spawn(serve(unix, router.clone(), Limits::default(), wait(stopped.clone())));
        }
        let router = if address.ip().is_loopback() { on_loopback(router) } else { router };
        servers.spawn(serve(tcp, router, Limits::default(), wait(stopped)));
        debug!("listening on http://{address}");
        if let Some(path) = &listen.socket {
            debug!("listening on {}", path.display());
        }
        Ok(Self { address, stop, servers, socket })
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
        if let Some((dir, name)) = &self.socket {
            // A socket that is gone already needs no removing.
            let _ = dir.remove_file(name);
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
    /// Binds the socket in a directory that nobody else may enter, and moves it into place once its mode is set: in
    /// the place itself somebody might swap it for a link meanwhile.
    fn bind(path: &Path, uid: Option<u32>) -> Result<(Self, (Dir, PathBuf))> {
        let bind = || {
            let name = PathBuf::from(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let dir = Dir::open(parent.unwrap_or(Path::new(".")))?;
            // What a killed sidecar left behind may be replaced; the lock on the state directory says that none is
            // alive.
            if let Ok(found) = dir.stat(&name)
                && FileType::from_raw_mode(found.st_mode) != FileType::Socket
            {
                return Err(io::Error::other("there is something else, which is not a socket"));
            }
            let private = PathBuf::from(format!(".{}.tmp", Uuid::new_v4().simple()));
            let made = dir.make_private_dir(&private)?;
            let bound = Self::bind_in(&made, uid).and_then(|listener| {
                made.rename(Path::new(SOCKET), &dir, &name)?;
                Ok(listener)
            });
            if bound.is_err() {
                // It may not have been made.
                let _ = made.remove_file(Path::new(SOCKET));
            }
            dir.remove_dir(&private)?;
            Ok((Self { listener: bound?, uid }, (dir, name)))
        };
        bind().map_err(Error::io("listen on", path))
    }

    fn bind_in(dir: &Dir, uid: Option<u32>) -> io::Result<UnixListener> {
        // The path of a socket is short; that of its directory may not be.
        let listener = UnixListener::bind(crate::os::short_path(dir.as_fd(), dir.path()).join(SOCKET))?;
        // With a user named the socket is world-accessible; each peer's uid is checked.
        let mode = if uid.is_some() { 0o666 } else { 0o600 };
        chmodat(dir, SOCKET, Mode::from_raw_mode(mode), AtFlags::empty())?;
        Ok(listener)
    }
}

/// The socket's name before it is moved into place.
const SOCKET: &str = "s";
