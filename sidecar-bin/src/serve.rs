//! Serving: where, and how it ends.

use std::time::Duration;

use sidecar_core::server::{Listening, Secret, Sessions};
use sidecar_core::{Error, Phase, Session};
use tracing::{debug, info, warn};

use crate::config::Server;
use crate::exit::{self, Failure};
use crate::signals::Signals;

/// Puts the API on its listeners.
///
/// # Errors
/// When an address cannot be bound.
pub(crate) async fn listen(session: &Session, config: &Server) -> Result<Listening, Failure> {
    let sessions = Sessions::one(Secret::new(&config.secret), session.clone());
    let listening = Listening::start(sessions, &config.listen);
    listening.await.map_err(|error| {
        let message = match &error {
            Error::Io { path, .. } if Some(path) == config.listen.socket.as_ref() => {
                format!("--socket: {}", error.chain())
            }
            _ => format!("{} (choose another --serverport)", error.chain()),
        };
        Failure::new(exit::LOCAL_FAILED, message)
    })
}

/// Serves until the execution ended or a signal came.
///
/// # Errors
/// When an address cannot be bound.
pub(crate) async fn serve(session: &Session, config: &Server, signals: &mut Signals) -> Result<u8, Failure> {
    let serving = listen(session, config).await?;
    tokio::select! {
        () = abandoned(session, config) => {
            let failed = session.fail(silence(config, false)).await;
            // It is too late to fail if the module has called after all, or if the outcome was decided.
            let committed = failed.is_err() && outcome(session, config).await == Phase::Done;
            serving.stop(config.grace).await;
            Ok(if committed { 0 } else { exit::MODULE_FAILED })
        }
        ended = end(session, config) => {
            serving.stop(config.grace).await;
            Ok(if ended == Phase::Done { 0 } else { exit::MODULE_FAILED })
        }
        signal = signals.end() => {
            info!("received signal {}, ending", signal.as_raw());
            let code = finish_within_grace(session, config).await;
            serving.stop(config.grace).await;
            Ok(code)
        }
    }
}

/// Where the execution stands once what was decided is published, or could not be for the grace period.
pub(crate) async fn outcome(session: &Session, config: &Server) -> Phase {
    match session.is_publishing() {
        true => tokio::time::timeout(config.grace, session.ended()).await.unwrap_or(session.phase()),
        false => session.idle().await,
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
    let _ = tokio::time::timeout(UNTOLD, session.result_delivered()).await;
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
        Some(lease) => session.lease_expired(lease).await,
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
