//! Which sessions one server serves, told apart by their secrets.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;

use super::Secret;
use crate::contract::{EventId, NextAnswer, Phase, Receipt, Status};
use crate::error::Error;
use crate::execution::{Counts, Session};

/// The sessions that a [`router`](super::router) serves; clones share them.
///
/// Each module presents the secret of its own session, and reaches no other.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    inner: Arc<RwLock<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    served: Vec<(Secret, Session)>,
    /// Modules that work on one event after another.
    feeds: Vec<(Secret, Arc<dyn Feed>)>,
    /// Sessions that are counted, whether they are served or not.
    watched: Vec<Session>,
    /// What has metrics besides them.
    exposed: Vec<Arc<dyn Exposed>>,
    /// What happened in sessions that are not served any more.
    ended: Counts,
}

/// Where a module that works on one event after another gets them.
#[async_trait]
pub(crate) trait Feed: std::fmt::Debug + Send + Sync {
    /// Commits the event that is finished, and waits for the next one, staged; `None` when there will be none.
    ///
    /// A repeat with the same finished event gets the same answer.
    async fn next(
        &self,
        finished: Option<EventId>,
        module_start: Option<&str>,
    ) -> Result<Option<NextAnswer>, Arc<Error>>;

    /// Notes that its module is alive.
    fn heard(&self);

    /// How the last event ended, for a module whose answer was lost.
    fn answered(&self) -> Option<Answered>;
}

/// What a module was answered when its event ended.
#[derive(Debug, Clone)]
#[cfg_attr(not(all(feature = "process", feature = "worker")), allow(dead_code))]
pub(crate) enum Answered {
    /// By `/done`.
    Done(Receipt),
    /// By `/fail`.
    Failed(Status),
}

/// What has metrics of its own.
pub(crate) trait Exposed: std::fmt::Debug + Send + Sync {
    /// Adds them in the OpenMetrics text format.
    fn encode(&self, out: &mut String);
}

/// What the sessions do together.
#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) phases: Vec<Phase>,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) counts: Counts,
    /// Of the one that waits longest.
    pub(super) unpublished: Duration,
}

impl Sessions {
    /// A single session.
    pub fn one(secret: Secret, session: Session) -> Self {
        let sessions = Self::default();
        sessions.insert(secret, session);
        sessions
    }

    /// Serves a session to whoever knows the secret, instead of the one that had this secret.
    pub fn insert(&self, secret: Secret, session: Session) {
        self.remove(&secret);
        self.inner.write().unwrap_or_else(PoisonError::into_inner).served.push((secret, session));
    }

    /// Serves the session of this secret no more; its running calls are answered.
    pub fn remove(&self, secret: &Secret) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let Inner { served, watched, ended, .. } = &mut *inner;
        served.retain(|(other, session)| {
            let keep = other != secret;
            if !keep && !watched.iter().any(|watched| watched.is_same(session)) {
                add(ended, session);
            }
            keep
        });
    }

    /// Counts a session among the others, served or not, as long as what is returned lives.
    #[cfg(feature = "worker")]
    pub(crate) fn watch(&self, session: &Session) -> Watched {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).watched.push(session.clone());
        Watched { sessions: self.clone(), session: session.clone() }
    }

    /// Shows other metrics beside those of the sessions.
    #[cfg(feature = "worker")]
    pub(crate) fn expose(&self, exposed: Arc<dyn Exposed>) {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).exposed.push(exposed);
    }

    pub(super) fn exposed(&self) -> Vec<Arc<dyn Exposed>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).exposed.clone()
    }

    /// Serves `next` to whoever knows the secret.
    #[cfg(all(feature = "worker", feature = "process"))]
    pub(crate) fn feed(&self, secret: Secret, feed: Arc<dyn Feed>) {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).feeds.push((secret, feed));
    }

    /// Where the module of a secret gets its next event. Every secret is looked at, so that the time tells nothing.
    pub(super) fn find_feed(&self, given: &[u8]) -> Option<Arc<dyn Feed>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for (secret, feed) in &inner.feeds {
            if secret.matches(given) {
                found = Some(feed.clone());
            }
        }
        found
    }

    /// The session of a secret. Every secret is looked at, so that the time tells nothing.
    pub(super) fn find(&self, given: &[u8]) -> Option<Session> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for (secret, session) in &inner.served {
            if secret.matches(given) {
                found = Some(session.clone());
            }
        }
        found
    }

    pub(super) fn sum(&self) -> Sum {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let mut sum = Sum { counts: inner.ended, ..Sum::default() };
        let Inner { served, watched, .. } = &*inner;
        let only_served = |session: &&Session| !watched.iter().any(|watched| watched.is_same(session));
        for session in served.iter().map(|(_, session)| session).filter(only_served).chain(watched) {
            let status = session.status();
            sum.phases.push(status.phase);
            sum.files += status.files;
            sum.bytes += status.bytes;
            sum.unpublished = sum.unpublished.max(session.unpublished_for());
            add(&mut sum.counts, session);
        }
        sum
    }
}

/// A session that is counted.
#[cfg(feature = "worker")]
pub(crate) struct Watched {
    sessions: Sessions,
    session: Session,
}

#[cfg(feature = "worker")]
impl Drop for Watched {
    fn drop(&mut self) {
        let mut inner = self.sessions.inner.write().unwrap_or_else(PoisonError::into_inner);
        let Inner { served, watched, ended, .. } = &mut *inner;
        watched.retain(|session| !session.is_same(&self.session));
        if !served.iter().any(|(_, session)| session.is_same(&self.session)) {
            add(ended, &self.session);
        }
    }
}

fn add(sum: &mut Counts, session: &Session) {
    let Counts { decisions, cached } = session.counts();
    let sums = sum.decisions.iter_mut().chain(&mut sum.cached);
    for (sum, count) in sums.zip(decisions.into_iter().chain(cached)) {
        *sum += count;
    }
}
