//! What a module has started outside its process group: it holds the lock that the module was given.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::Instant;

/// How soon they are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Asks everyone who has this file open to end, and kills who has not after `grace`. A process of another user, and one
/// that has closed the file, is not found.
pub(super) async fn end(lock: &Metadata, grace: Duration) {
    let deadline = Instant::now() + grace;
    send(lock, Signal::TERM);
    while !holders(lock).is_empty() {
        if Instant::now() > deadline {
            // Who begins in between is met by the next look.
            send(lock, Signal::KILL);
        }
        if Instant::now() > deadline + grace {
            return;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn send(lock: &Metadata, signal: Signal) {
    for pid in holders(lock) {
        // Held by descriptor, so that the signal cannot reach another process that was given the same number since.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if holds(pid, lock) {
            let _ = pidfd_send_signal(process, signal);
        }
    }
}

fn holders(lock: &Metadata) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let own = rustix::process::getpid();
    numbers.filter_map(Pid::from_raw).filter(|pid| *pid != own && holds(*pid, lock)).collect()
}

fn holds(pid: Pid, lock: &Metadata) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())) else { return false };
    open.flatten()
        .filter_map(|descriptor| fs::metadata(descriptor.path()).ok())
        .any(|file| (file.dev(), file.ino()) == (lock.dev(), lock.ino()))
}
