//! As process 1 of a container the sidecar inherits orphans: somebody has to ask how they ended.

use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, PoisonError};

use rustix::process::{WaitOptions, getpid, waitpid};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};

use crate::os;

/// The modules of this process, which are left to whoever waits for each. It is held while one is started: it might have
/// ended before it is known.
static MODULES: Mutex<Option<HashSet<u32>>> = Mutex::new(None);

/// Collects ended orphans for as long as it is kept, if this is process 1.
#[derive(Debug)]
pub(super) struct Reaper {
    module: Option<u32>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Reaper {
    /// Starts a module, which no reaper takes for an orphan.
    pub(super) fn beside(start: impl FnOnce() -> io::Result<Child>) -> io::Result<(Child, Self)> {
        if !getpid().is_init() {
            return Ok((start()?, Self { module: None, task: None }));
        }
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        let child = start()?;
        let module = child.id();
        modules.get_or_insert_default().extend(module);
        drop(modules);
        let task = tokio::spawn(async move {
            let Ok(mut children) = signal(SignalKind::child()) else { return };
            loop {
                reap();
                if children.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok((child, Self { module, task: Some(task) }))
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.task.iter().for_each(tokio::task::JoinHandle::abort);
        if let Some(module) = self.module {
            let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
            modules.get_or_insert_default().remove(&module);
        }
    }
}

fn reap() {
    let modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    for pid in os::children() {
        let id = u32::try_from(pid.as_raw_nonzero().get()).ok();
        let is_module = id.is_some_and(|id| modules.as_ref().is_some_and(|modules| modules.contains(&id)));
        if !is_module {
            // One that is alive, or was collected meanwhile, is no error.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}
