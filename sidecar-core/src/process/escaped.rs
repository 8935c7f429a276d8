//! What a module has started outside its process group: it holds the lock that the module was given.

use std::fs::Metadata;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::os::{holders, signal_holders};

/// How soon they are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Asks everyone who has this file open to end, and kills who has not after `grace`. A process of another user, and one
/// that has closed the file, is not found.
pub(super) async fn end(lock: &Metadata, grace: Duration) {
    let deadline = Instant::now() + grace;
    signal_holders(lock, Signal::TERM);
    while !holders(lock).is_empty() {
        if Instant::now() > deadline {
            // Who begins in between is met by the next look.
            signal_holders(lock, Signal::KILL);
        }
        if Instant::now() > deadline + grace {
            return;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
