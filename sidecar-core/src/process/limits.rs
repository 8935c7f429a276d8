//! The limit of open files: high for the sidecar, as it was for the module.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit that this process was started with.
static INHERITED: OnceLock<Rlimit> = OnceLock::new();

/// Lets many clients and transfers be open at once, as far as the system allows without asking. A module started by
/// [`run`](super::run()) gets the limit that this process was started with.
pub fn raise_file_limit() {
    let limit = INHERITED.get_or_init(|| getrlimit(Resource::Nofile));
    // What cannot be raised stays as it is, and is enough for one module.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Runs `work` with the limit that this process was started with: what is spawned then inherits it.
pub(super) fn with_inherited<T>(work: impl FnOnce() -> T) -> T {
    let Some(inherited) = INHERITED.get() else { return work() };
    let raised = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, *inherited);
    let done = work();
    let _ = setrlimit(Resource::Nofile, raised);
    done
}
