//! As process 1 of a container the sidecar inherits orphans: somebody has to ask how they ended.

use rustix::process::{WaitOptions, getpid, waitpid};
use tokio::signal::unix::{SignalKind, signal};

use crate::os;

/// Collects ended orphans for as long as it is kept, if this is process 1; the module itself is left to whoever waits
/// for it.
#[derive(Debug)]
pub(super) struct Reaper(Option<tokio::task::JoinHandle<()>>);

impl Reaper {
    pub(super) fn beside(module: Option<u32>) -> Self {
        if !getpid().is_init() {
            return Self(None);
        }
        Self(Some(tokio::spawn(async move {
            let Ok(mut children) = signal(SignalKind::child()) else { return };
            loop {
                reap(module);
                if children.recv().await.is_none() {
                    return;
                }
            }
        })))
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

fn reap(module: Option<u32>) {
    for pid in os::children() {
        if u32::try_from(pid.as_raw_nonzero().get()).ok() != module {
            // One that is alive, or was collected meanwhile, is no error.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}
