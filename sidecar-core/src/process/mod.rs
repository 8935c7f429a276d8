//! Modules as processes: a command that is started, watched and ended as the module of a session.
//!
//! [`run()`] is what `sidecar run` does: it serves on the side while the command works, and settles the execution
//! when the command has ended. [`serve()`] serves a module that somebody else starts.

mod child;
mod ended;
mod env;
mod escaped;
mod find;
mod limits;
mod output;
mod reaper;
mod run;
mod serve;
mod signals;

#[cfg(feature = "worker")]
pub(crate) use child::Child;
pub use child::{Module, Surroundings};
pub use ended::{Ended, Stop};
pub use env::hidden_variables;
pub use find::{find, module_name};
pub use limits::raise_file_limit;
pub use output::OUTPUT;
pub use run::run;
#[cfg(feature = "worker")]
pub(crate) use run::{how, run_served};
#[cfg(feature = "worker")]
pub(crate) use serve::silence;
pub use serve::{Service, serve, stopped};
pub use signals::Signals;

/// Keeps the memory and the environment of this process, with every secret, from other processes of the same user, as
/// far as the system can. To be called before any secret is read.
pub fn hide_memory() {
    crate::os::hide_memory();
}
