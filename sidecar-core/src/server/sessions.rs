//! Which sessions one server serves, told apart by their secrets.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::Secret;
use crate::contract::Phase;
use crate::execution::Session;

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
    /// The decisions of sessions that are not served any more.
    ended: Decisions,
}

/// How many decisions came out in which way.
pub(super) type Decisions = [u64; 3];

/// What the sessions do together.
#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) phases: Vec<Phase>,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) decisions: Decisions,
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
        let Inner { served, ended } = &mut *inner;
        served.retain(|(other, session)| {
            let keep = other != secret;
            if !keep {
                add(ended, session);
            }
            keep
        });
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
        let mut sum = Sum { decisions: inner.ended, ..Sum::default() };
        for (_, session) in &inner.served {
            let status = session.status();
            sum.phases.push(status.phase);
            sum.files += status.files;
            sum.bytes += status.bytes;
            sum.unpublished = sum.unpublished.max(session.unpublished_for());
            add(&mut sum.decisions, session);
        }
        sum
    }
}

fn add(sum: &mut Decisions, session: &Session) {
    for (sum, count) in sum.iter_mut().zip(session.decisions()) {
        *sum += count;
    }
}
