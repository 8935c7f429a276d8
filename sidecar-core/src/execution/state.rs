//! Where an attempt stands, as a value: what each call does in each state, and nothing that could contradict it.

use std::sync::Arc;

use super::journal::Step;
use crate::contract::{Phase, Prepared, Receipt};
use crate::error::Error;

/// `New → Staging → Ready → Committing → Deciding → Publishing → Done`, and `Failed`.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// `ready` is at work; then this follows, whether it succeeds or not.
    Staging(Rest),
    /// It is the module's turn.
    Rest(Rest),
    /// `done` stores the outputs.
    Committing(Prepared),
    /// The decision is asked for, or its answer was not understood: it may be any.
    Deciding(Option<Prepared>, Turn),
    /// The outcome is decided, and not published yet as far as is known.
    Publishing(Option<Prepared>, Turn),
    /// The module gave up in this phase, which is being recorded.
    Failing { during: Phase, reason: String },
    /// The attempt ended without an outcome.
    Failed(String),
}

/// A state in which no call is at work.
#[derive(Debug, Clone)]
pub(super) enum Rest {
    /// The inputs were never staged.
    New,
    /// The inputs are staged, in this process or before it began; the last `done` failed for this reason.
    Ready { prepared: Prepared, staged: bool, last_error: Option<Arc<Error>> },
    /// The outcome is published. The inputs may never have been staged here.
    Done { receipt: Receipt, prepared: Option<Prepared> },
}

/// Whether a call is at work on what only the sidecar can finish.
#[derive(Debug, Clone)]
pub(super) enum Turn {
    AtWork,
    /// The last call failed for this reason, and another is due.
    Waiting(Arc<Error>),
}

/// What a call does.
#[derive(Debug, PartialEq)]
pub(super) enum Move<T> {
    /// It answers at once.
    Answer(T),
    /// It waits for the call of its kind that is at work.
    Join,
    /// It begins the work.
    Begin,
    /// It waits until no call is at work, and looks again.
    Wait,
    /// It has no place here.
    Refuse(String),
}

impl State {
    /// Where a session stands that goes on after this step.
    pub(super) fn after(step: &Step) -> Self {
        match step.clone() {
            // A failed attempt is not gone on with.
            Step::New | Step::Failed { .. } => Self::Rest(Rest::New),
            Step::Ready { prepared } | Step::Committing { prepared, .. } => {
                Self::Rest(Rest::ready(prepared, false))
            }
            Step::Deciding { prepared, .. } => Self::Deciding(prepared, Turn::AtWork),
            Step::Done { prepared, receipt } => Self::Rest(Rest::Done { receipt, prepared }),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self {
            Self::Rest(Rest::New) => Phase::New,
            Self::Staging(_) => Phase::Staging,
            Self::Rest(Rest::Ready { .. }) => Phase::Ready,
            Self::Rest(Rest::Done { .. }) => Phase::Done,
            Self::Committing(_) => Phase::Committing,
            Self::Deciding(..) => Phase::Deciding,
            Self::Publishing(..) => Phase::Publishing,
            Self::Failing { during, .. } => *during,
            Self::Failed(_) => Phase::Failed,
        }
    }

    /// Whether a call is at work.
    pub(super) fn is_at_work(&self) -> bool {
        match self {
            Self::Staging(_) | Self::Committing(_) | Self::Failing { .. } => true,
            Self::Deciding(_, turn) | Self::Publishing(_, turn) => matches!(turn, Turn::AtWork),
            Self::Rest(_) | Self::Failed(_) => false,
        }
    }

    /// Whether the module can do nothing any more: the outcome is decided, or may be.
    pub(super) fn is_beyond_the_module(&self) -> bool {
        matches!(self, Self::Deciding(..) | Self::Publishing(..))
    }

    /// What `ready` does, told whether the staged inputs were removed since.
    pub(super) fn ready(&self, inputs_are_gone: bool) -> Move<Prepared> {
        match self {
            Self::Rest(Rest::New | Rest::Ready { staged: false, .. }) => Move::Begin,
            Self::Rest(Rest::Ready { .. } | Rest::Done { .. }) if inputs_are_gone => Move::Begin,
            Self::Rest(Rest::Ready { prepared, .. } | Rest::Done { prepared: Some(prepared), .. }) => {
                Move::Answer(prepared.clone())
            }
            Self::Rest(Rest::Done { prepared: None, .. }) => Move::Begin,
            Self::Staging(_) => Move::Join,
            // A module that starts again meets the commit of its predecessor.
            Self::Committing(_) if inputs_are_gone => {
                Move::Refuse("the outputs of an earlier start are being committed".into())
            }
            Self::Committing(prepared) => Move::Answer(prepared.clone()),
            Self::Deciding(Some(prepared), _) | Self::Publishing(Some(prepared), _) if !inputs_are_gone => {
                Move::Answer(prepared.clone())
            }
            Self::Deciding(_, Turn::AtWork) | Self::Publishing(_, Turn::AtWork) => Move::Wait,
            Self::Deciding(..) | Self::Publishing(..) => Move::Refuse(
                "the outcome is being decided and published, which is tried again by itself".into(),
            ),
            Self::Failing { reason, .. } | Self::Failed(reason) => Move::Refuse(failed(reason)),
        }
    }

    /// What `done` does.
    pub(super) fn done(&self) -> Move<Receipt> {
        match self {
            Self::Rest(Rest::Done { receipt, .. }) | Self::Staging(Rest::Done { receipt, .. }) => {
                Move::Answer(receipt.clone())
            }
            Self::Rest(Rest::New) | Self::Staging(_) => {
                Move::Refuse("call ready first, and wait for its answer".into())
            }
            Self::Rest(Rest::Ready { .. }) => Move::Begin,
            Self::Committing(_) => Move::Join,
            Self::Deciding(_, Turn::AtWork) | Self::Publishing(_, Turn::AtWork) => Move::Join,
            Self::Deciding(..) | Self::Publishing(..) => Move::Begin,
            Self::Failing { reason, .. } | Self::Failed(reason) => Move::Refuse(failed(reason)),
        }
    }

    /// What `fail` does.
    pub(super) fn fail(&self) -> Move<()> {
        match self {
            Self::Rest(Rest::New | Rest::Ready { .. }) => Move::Begin,
            // Whichever is stored is the outcome.
            Self::Deciding(_, Turn::Waiting(_)) => Move::Begin,
            Self::Staging(Rest::Done { .. }) | Self::Rest(Rest::Done { .. }) => {
                Move::Refuse("the outputs are committed already".into())
            }
            Self::Staging(_) | Self::Committing(_) | Self::Deciding(..) => Move::Wait,
            Self::Publishing(..) => {
                Move::Refuse("the outcome is decided, and is published as soon as it can be".into())
            }
            Self::Failing { .. } => Move::Join,
            Self::Failed(_) => Move::Answer(()),
        }
    }

    /// The inputs are staged, or not; what was there before follows.
    pub(super) fn staged(&mut self, prepared: Option<&Prepared>) {
        let Self::Staging(before) = self else { return };
        *self = Self::Rest(match (before.clone(), prepared) {
            (before, None) => before,
            (Rest::New, Some(prepared)) => Rest::ready(prepared.clone(), true),
            (Rest::Ready { last_error, .. }, Some(prepared)) => {
                Rest::Ready { prepared: prepared.clone(), staged: true, last_error }
            }
            (Rest::Done { receipt, .. }, Some(prepared)) => {
                Rest::Done { receipt, prepared: Some(prepared.clone()) }
            }
        });
    }

    /// Why the last call of `done` failed, unless another has succeeded since.
    pub(super) fn last_error(&self) -> Option<&Arc<Error>> {
        match self {
            Self::Rest(Rest::Ready { last_error, .. }) => last_error.as_ref(),
            Self::Deciding(_, Turn::Waiting(error)) | Self::Publishing(_, Turn::Waiting(error)) => {
                Some(error)
            }
            _ => None,
        }
    }

    /// What was staged, if anything was.
    pub(super) fn prepared(&self) -> Option<&Prepared> {
        match self {
            Self::Rest(rest) | Self::Staging(rest) => match rest {
                Rest::New => None,
                Rest::Ready { prepared, .. } => Some(prepared),
                Rest::Done { prepared, .. } => prepared.as_ref(),
            },
            Self::Committing(prepared) => Some(prepared),
            Self::Deciding(prepared, _) | Self::Publishing(prepared, _) => prepared.as_ref(),
            Self::Failing { .. } | Self::Failed(_) => None,
        }
    }

    /// Why the module gave up, if it did.
    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Self::Failing { reason, .. } | Self::Failed(reason) => Some(reason),
            _ => None,
        }
    }
}

impl Rest {
    pub(super) fn ready(prepared: Prepared, staged: bool) -> Self {
        Self::Ready { prepared, staged, last_error: None }
    }
}

fn failed(reason: &str) -> String {
    format!("the execution failed: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared() -> Prepared {
        Prepared { files: 1, bytes: 2, values: 3 }
    }

    fn receipt() -> Receipt {
        Receipt { files: 1, bytes: 2, insight: None, events: Vec::new(), committed_by: None }
    }

    fn done(prepared: Option<Prepared>) -> Rest {
        Rest::Done { receipt: receipt(), prepared }
    }

    /// Each state with what `ready`, `done` and `fail` do in it.
    #[test]
    fn every_call_has_one_answer_in_every_state() {
        fn kind<T>(step: Move<T>) -> &'static str {
            match step {
                Move::Answer(_) => "answer",
                Move::Join => "join",
                Move::Begin => "begin",
                Move::Wait => "wait",
                Move::Refuse(_) => "refuse",
            }
        }
        let error = || Turn::Waiting(Arc::new(Error::Internal("x".into())));
        let ready = |staged| Rest::ready(prepared(), staged);
        for (state, calls) in [
            (State::Rest(Rest::New), ["begin", "refuse", "begin"]),
            (State::Staging(Rest::New), ["join", "refuse", "wait"]),
            (State::Staging(ready(false)), ["join", "refuse", "wait"]),
            (State::Staging(done(None)), ["join", "answer", "refuse"]),
            (State::Rest(ready(false)), ["begin", "begin", "begin"]),
            (State::Rest(ready(true)), ["answer", "begin", "begin"]),
            (State::Committing(prepared()), ["answer", "join", "wait"]),
            (State::Deciding(Some(prepared()), Turn::AtWork), ["answer", "join", "wait"]),
            (State::Deciding(Some(prepared()), error()), ["answer", "begin", "begin"]),
            (State::Publishing(None, Turn::AtWork), ["wait", "join", "refuse"]),
            (State::Publishing(None, error()), ["refuse", "begin", "refuse"]),
            (State::Rest(done(Some(prepared()))), ["answer", "answer", "refuse"]),
            (State::Rest(done(None)), ["begin", "answer", "refuse"]),
            (State::Failing { during: Phase::Ready, reason: "r".into() }, ["refuse", "refuse", "join"]),
            (State::Failed("r".into()), ["refuse", "refuse", "answer"]),
        ] {
            let found = [kind(state.ready(false)), kind(state.done()), kind(state.fail())];
            assert_eq!(found, calls, "{state:?}");
        }
    }

    #[test]
    fn staging_again_forgets_nothing() {
        let mut state = State::Staging(done(None));
        state.staged(Some(&prepared()));
        assert_eq!((state.phase(), state.ready(false)), (Phase::Done, Move::Answer(prepared())));
        let mut state = State::Staging(Rest::New);
        state.staged(None);
        assert_eq!((state.phase(), state.ready(false)), (Phase::New, Move::Begin));
    }
}
