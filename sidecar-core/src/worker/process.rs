//! Modules as processes: one command for each delivery.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use rustix::process::Signal;

use super::runner::{Assignment, Runner, Slot};
use super::settlement::Outcome;
use crate::contract::Phase;
use crate::error::Error;
use crate::execution::Session;
use crate::process::{Ended, Module, Signals, run_served};
use crate::server::{Secret, Sessions};

/// Starts a command for each delivery, as `sidecar run` does; all of them reach one server, which tells them apart by
/// their secrets.
#[derive(Debug)]
pub struct Processes {
    module: Module,
    sessions: Sessions,
    address: SocketAddr,
}

impl Processes {
    /// Runs `module`, whose sessions are added to those of the server at `address`.
    pub fn new(mut module: Module, sessions: Sessions, address: SocketAddr) -> Self {
        // So much is left of the worker's own when modules are asked to end.
        module.service.grace = super::ending(module.service.grace);
        module.surroundings.background = true;
        Self { module, sessions, address }
    }
}

#[async_trait]
impl Runner for Processes {
    async fn run(&self, session: &Session, slot: &Slot, _: &Assignment) -> Outcome {
        let mut module = self.module.clone();
        module.service.secret.clone_from(&slot.secret);
        let secret = Secret::new(&slot.secret);
        self.sessions.insert(secret.clone(), session.clone());
        let (sender, mut signals) = Signals::channel();
        let run = run_served(session, &module, self.address, &mut signals);
        tokio::pin!(run);
        let ended = tokio::select! {
            ended = &mut run => ended,
            () = slot.stopped() => {
                // It is there as long as the module runs.
                let _ = sender.send(Signal::TERM);
                run.await
            }
        };
        self.sessions.remove(&secret);
        match session.phase() {
            // What it committed counts, however it ended afterwards.
            Phase::Done => Outcome::Committed,
            _ => outcome(ended, session),
        }
    }
}

fn outcome(ended: Ended, session: &Session) -> Outcome {
    match ended {
        Ended::Committed => Outcome::Committed,
        Ended::Failed { code, reason } => {
            let reason = reason.or_else(|| session.status().reason);
            Outcome::Failed(reason.unwrap_or_else(|| format!("the module ended with exit code {code}")))
        }
        Ended::Stopped(_) => Outcome::Stopped,
        Ended::NotStarted { program, error } => {
            let error = io::Error::new(error.kind(), error);
            Outcome::Unusable(Arc::new(Error::io("start", program)(error)))
        }
        Ended::NotPrepared(error) => Outcome::NotPrepared(error),
        Ended::NotCommitted(error) => Outcome::NotCommitted(error),
        Ended::Local(error) => Outcome::NotPrepared(Arc::new(error)),
    }
}
