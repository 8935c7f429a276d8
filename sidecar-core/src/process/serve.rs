//! Serving a module that somebody else starts, to the end of its execution.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::ended::{Ended, Stop};
use super::signals::Signals;
use crate::contract::Phase;
use crate::execution::Session;
use crate::server::{Listen, Listening, Secret, Sessions};

/// Where a module reaches its sidecar, and for how long.
#[derive(Clone)]
pub struct Service {
    /// What the module sends in the header `secret`.
    pub secret: String,
    /// Where the sidecar listens.
    pub listen: Listen,
    /// How long the module may be silent when it is its turn; a wrapped one, how long it may take.
    pub lease: Option<Duration>,
    /// How long running calls, and a module that is asked to end, may take.
    pub grace: Duration,
    /// Whether serving ends with the execution.
    pub exit_on_done: bool,
    /// How long repeats are answered before it ends.
    pub linger: Duration,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret is nobody's business.
        f.debug_struct("Service").field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// Serves until the execution has ended or a signal came.
pub async fn serve(session: &Session, service: &Service, signals: &mut Signals) -> Ended {
    let sessions = Sessions::one(Secret::new(&service.secret), session.clone());
    let serving = match Listening::start(sessions, &service.listen).await {
        Ok(serving) => serving,
        Err(error) => return Ended::Local(error),
    };
    if service.exit_on_done {
        session.ends_with_its_outcome();
    }
    let socket = service.listen.socket.as_ref().map(|path| format!(" and {}", path.display()));
    info!("listening on http://{}{}", serving.address(), socket.unwrap_or_default());
    let ended = tokio::select! {
        () = lease(session, service.lease) => {
            let reason = silence(service.lease.unwrap_or_default(), false);
            let failed = session.fail(reason).await;
            // It is too late to fail if the module has called after all, or if the outcome was decided.
            match failed.is_err() && outcome(session, service.grace).await == Phase::Done {
                true => Ended::Committed,
                false => Ended::Failed { code: 1, reason: None },
            }
        }
        phase = end(session, service) => match phase {
            Phase::Done => Ended::Committed,
            _ => Ended::Failed { code: 1, reason: None },
        },
        signal = signals.end() => {
            info!("received signal {signal}, ending");
            stopped(session, service.grace, signal).await
        }
    };
    serving.stop(service.grace).await;
    ended
}

/// Waits for the end of the execution, and a little longer for repeats of the last call.
async fn end(session: &Session, service: &Service) -> Phase {
    let ended = session.ended().await;
    if !service.exit_on_done {
        std::future::pending::<()>().await;
    }
    // After a restart the module may not have asked yet: it must not find nobody.
    debug!("waiting up to {UNTOLD:?} for the module to ask");
    let _ = tokio::time::timeout(UNTOLD, session.result_delivered()).await;
    tokio::time::sleep(service.linger).await;
    ended
}

/// How long an ended execution waits for a module that was not told yet: several of the waits between two attempts
/// of the client.
const UNTOLD: Duration = Duration::from_secs(30);

/// Lets running calls finish for as long as `grace`, after a signal asked to end.
pub(super) async fn finish_within(session: &Session, grace: Duration, signal: i32) -> Ended {
    let deadline = Instant::now() + grace;
    let phase = tokio::time::timeout_at(deadline, session.idle()).await.unwrap_or(session.phase());
    let saved = session.saved();
    match phase {
        Phase::Done => {
            info!("{saved}");
            Ended::Committed
        }
        Phase::Failed => Ended::Failed { code: 1, reason: None },
        _ => {
            warn!(%phase, "ended by a signal: {saved}");
            Ended::Stopped(Stop { code: None, signal })
        }
    }
}

/// The same where the module is beyond the sidecar's sight, as it is for `serve`, `prepare` and `commit`: it may have
/// crashed, and so a failure document is left where it was its turn when the signal came.
pub async fn stopped(session: &Session, grace: Duration, signal: i32) -> Ended {
    let deadline = Instant::now() + grace;
    let began = session.phase() == Phase::Ready;
    let ended = finish_within(session, grace, signal).await;
    if began && matches!(ended, Ended::Stopped(_)) && session.phase() == Phase::Ready {
        // A store that is away must not keep a sidecar that is to end.
        let patience = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        let _ = tokio::time::timeout(patience, session.report_stop(signal)).await;
    }
    ended
}

/// Why a module loses its lease; one that is wrapped makes no calls by which to be heard.
pub(crate) fn silence(lease: Duration, wrapped: bool) -> String {
    let lease = humantime::format_duration(lease);
    if wrapped {
        return format!("the module took longer than its timeout of {lease}");
    }
    format!("the module was not heard for its timeout of {lease}")
}

/// The end of the module's lease, if it has one.
async fn lease(session: &Session, lease: Option<Duration>) {
    match lease {
        Some(lease) => session.lease_expired(lease).await,
        None => std::future::pending().await,
    }
}

/// Where the execution stands once what was decided is published, or could not be for the grace period.
pub(super) async fn outcome(session: &Session, grace: Duration) -> Phase {
    match session.is_publishing() {
        true => tokio::time::timeout(grace, session.ended()).await.unwrap_or(session.phase()),
        false => session.idle().await,
    }
}
