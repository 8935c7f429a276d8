//! One execution of one module for one event, from ready to done.
//!
//! `session` is the state machine; `prepare` and `commit` are what it runs; `outputs` and `tree` read what
//! the module wrote; `journal` remembers every step, so that a commit survives a crash at any point.

mod commit;
mod conflicts;
mod directories;
mod failure;
mod ids;
mod journal;
mod outputs;
mod session;
mod spec;
mod stage;
mod submit;
mod transfer;
mod tree;

use crate::plane as data_plane;

pub use failure::OnFailure;
pub use session::Session;
pub use spec::{Settings, Start};
pub use submit::Submission;
