//! Serving: listeners, and how it ends.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::serve::Listener;
use sidecar_core::server::{Limits, Secret, router, serve as serve_within};
use sidecar_core::{Phase, Session};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::config::Server;
use crate::exit::{self, Failure};
use crate::signals::Signals;

/// The API on its listeners, until it is stopped.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    stop: watch::Sender<bool>,
    servers: JoinSet<()>,
    socket: Option<PathBuf>,
}

impl Serving {
    /// Binds every listener, then serves.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub(crate) async fn start(session: &Session, config: &Server) -> Result<Self, Failure> {
        let address = SocketAddr::new(config.address, config.port);
        let tcp = TcpListener::bind(address).await.map_err(|error| {
            let message = format!("cannot listen on {address}: {error} (choose another --serverport)");
            Failure::new(exit::LOCAL_FAILED, message)
        })?;
        let address = tcp.local_addr().unwrap_or(address);
        let unix = config.socket.as_deref().map(|path| bind_unix(path, config.socket_uid)).transpose()?;

        let router = router(session.clone(), Secret::new(&config.secret));
        let (stop, stopped) = watch::channel(false);
        let mut servers = JoinSet::new();
        if let Some(unix) = unix {
            let shutdown = wait(stopped.clone());
            let unix = Peers { listener: unix, uid: config.socket_uid };
            servers.spawn(serve_within(unix, router.clone(), Limits::default(), shutdown));
        }
        servers.spawn(serve_within(tcp, router, Limits::default(), wait(stopped)));
        info!("listening on http://{address}");
        if let Some(path) = &config.socket {
            info!("listening on {}", path.display());
        }
        Ok(Self { address, stop, servers, socket: config.socket.clone() })
    }

    /// Takes no more calls and lets the running ones be answered; a client that keeps its connection open
    /// does not keep the sidecar alive.
    pub(crate) async fn stop_soon(mut self, config: &Server) {
        self.stop.send_replace(true);
        let served = async { while self.servers.join_next().await.is_some() {} };
        // Whoever is cut off now had nothing left to be answered.
        let _ = tokio::time::timeout(config.grace.min(STOP_TIMEOUT), served).await;
        if let Some(path) = &self.socket {
            // A socket that is gone already needs no removing.
            let _ = fs::remove_file(path);
        }
    }
}

/// Serves until the execution ended or a signal came.
///
/// # Errors
/// When an address cannot be bound.
pub(crate) async fn serve(session: &Session, config: &Server, signals: &mut Signals) -> Result<u8, Failure> {
    let serving = Serving::start(session, config).await?;
    tokio::select! {
        () = abandoned(session, config) => {
            // It is too late to fail if the module has called after all.
            let committed = session.fail(silence(config, false)).await.is_err() && session.phase() == Phase::Done;
            serving.stop_soon(config).await;
            Ok(if committed { 0 } else { exit::MODULE_FAILED })
        }
        ended = end(session, config) => {
            serving.stop_soon(config).await;
            Ok(if ended == Phase::Done { 0 } else { exit::MODULE_FAILED })
        }
        signal = signals.end() => {
            info!("received signal {}, ending", signal.as_raw());
            let code = finish_within_grace(session, config).await;
            serving.stop_soon(config).await;
            Ok(code)
        }
    }
}

/// Waits for the end of the execution, and a little longer for repeats of the last call.
async fn end(session: &Session, config: &Server) -> Phase {
    let ended = session.ended().await;
    if !config.exit_on_done {
        std::future::pending::<()>().await;
    }
    // After a restart the module may not have asked yet: it must not find nobody.
    debug!("waiting up to {UNTOLD:?} for the module to ask");
    let _ = tokio::time::timeout(UNTOLD, session.told()).await;
    tokio::time::sleep(config.linger).await;
    ended
}

/// Why a module loses its lease; one that is wrapped makes no calls by which to be heard.
pub(crate) fn silence(config: &Server, wrapped: bool) -> String {
    let lease = humantime::format_duration(config.module_timeout.unwrap_or_default());
    if wrapped {
        return format!("the module took longer than {lease} (--module-timeout)");
    }
    format!("the module was not heard for {lease} (--module-timeout)")
}

/// The end of the module's lease, if it has one.
pub(crate) async fn abandoned(session: &Session, config: &Server) {
    match config.module_timeout {
        Some(lease) => session.abandoned(lease).await,
        None => std::future::pending().await,
    }
}

/// How long an ended execution waits for a module that was not told yet: several of the waits between two
/// attempts of the client.
const UNTOLD: Duration = Duration::from_secs(30);

/// Lets a running call finish, for as long as the grace period lasts.
pub(crate) async fn finish_within_grace(session: &Session, config: &Server) -> u8 {
    let phase = match tokio::time::timeout(config.grace, session.idle()).await {
        Ok(phase) => phase,
        Err(_) => session.phase(),
    };
    let saved = session.saved();
    if phase == Phase::Done {
        info!("{saved}");
        return 0;
    }
    warn!(%phase, "ended by a signal: {saved}");
    exit::TERMINATED
}

/// How long open connections are waited for once there is nothing left to answer.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

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
                Ok(uid) => warn!("user {uid} was turned away from the socket (--socket-uid {allowed})"),
                Err(error) => warn!("a client of the socket was turned away: {error}"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

fn bind_unix(path: &Path, uid: Option<u32>) -> Result<UnixListener, Failure> {
    let failure = |error: io::Error| {
        Failure::new(exit::LOCAL_FAILED, format!("--socket: cannot listen on {}: {error}", path.display()))
    };
    // What a killed sidecar left behind; the lock on the state directory says that none is alive.
    if fs::symlink_metadata(path)
        .is_ok_and(|found| std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()))
    {
        fs::remove_file(path).map_err(failure)?;
    }
    let listener = UnixListener::bind(path).map_err(failure)?;
    // With a user named, whoever that is must reach it; who it is, is asked at every connection.
    let mode = if uid.is_some() { 0o666 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failure)?;
    Ok(listener)
}
