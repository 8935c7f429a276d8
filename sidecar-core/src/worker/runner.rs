//! How a worker runs a module.

use std::fmt;

use async_trait::async_trait;
use tokio::sync::watch;
use tracing::Instrument;

use super::settlement::Outcome;
use crate::contract::Phase;
use crate::error::{Cause, Result, with_causes};
use crate::execution::Session;

/// Where a worker runs one module at a time.
#[derive(Clone)]
pub struct Slot {
    /// Its number, from 0 on.
    pub number: usize,
    /// The secret that a module in this slot presents to the API.
    pub secret: String,
    /// Whether modules are to end.
    pub(super) stop: watch::Receiver<bool>,
    /// Whether the worker ends by itself when there is nothing to do.
    #[cfg_attr(not(feature = "process"), allow(dead_code))]
    pub(super) is_bounded: bool,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Slot {
    /// Waits until modules are to end, because the worker was told to stop and its grace period is over.
    pub async fn stopped(&self) {
        // A worker that is gone has stopped.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }
}

/// What a module is to be told of the delivery that it works on.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The event's type.
    pub event_type: String,
    /// Which attempt at the event this is, from 1 on.
    pub attempt: u32,
}

/// Runs the module for one execution after another: as a process, or as a function.
#[async_trait]
pub trait Runner: Send + Sync + 'static {
    /// Runs it for the execution of `session`, from `ready` to `done`, and says how that came out.
    ///
    /// It may be called again for a session whose inputs could not be staged.
    async fn run(&self, session: &Session, slot: &Slot, assignment: &Assignment) -> Outcome;

    /// Waits until a module is there to take an event; until then none is received for this slot.
    ///
    /// # Errors
    /// Why no module can be run here: it ends the worker.
    async fn available(&self, slot: &Slot) -> Result<()> {
        let _ = slot;
        Ok(())
    }

    /// Ends what this slot has left running, once it receives no more.
    async fn end(&self, slot: &Slot) {
        let _ = slot;
    }
}

/// A module that is a function: it works on the directories of the session that it is given.
pub struct Function<F>(F);

impl<F> Function<F> {
    /// Stages the inputs, calls `work`, and commits what it has written; an error, with all its causes, is a failure of the
    /// module, and so is a panic.
    ///
    /// An error is anything that becomes a [`Cause`]: `anyhow::Error` or `Box<dyn Error + Send + Sync>`, but not
    /// `Box<dyn Error>`, which cannot go to another thread.
    ///
    /// A closure that captures something returns a future that owns it:
    /// `move |session| { let model = model.clone(); async move { … } }`.
    pub fn new(work: F) -> Self {
        Self(work)
    }
}

impl<F> fmt::Debug for Function<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Function")
    }
}

#[async_trait]
impl<F, W, E> Runner for Function<F>
where
    F: Fn(Session) -> W + Send + Sync + 'static,
    W: Future<Output = Result<(), E>> + Send,
    E: Into<Cause> + Send,
{
    async fn run(&self, session: &Session, slot: &Slot, _: &Assignment) -> Outcome {
        if let Err(error) = session.ready().await {
            session.report_unless_repeated(&error).await;
            return Outcome::NotPrepared(error);
        }
        let worked = tokio::select! {
            worked = (self.0)(session.clone()).instrument(session.module_span()) => worked,
            () = slot.stopped() => return Outcome::Stopped,
        };
        match worked {
            Ok(()) => match session.done().await {
                Ok(_) => Outcome::Committed,
                Err(error) => {
                    session.report_unless_repeated(&error).await;
                    Outcome::NotCommitted(error)
                }
            },
            Err(error) => {
                let reason = with_causes(&*error.into());
                match session.fail(reason.clone()).await {
                    Err(_) if session.phase() == Phase::Done => Outcome::Committed,
                    _ => Outcome::Failed(reason),
                }
            }
        }
    }
}
