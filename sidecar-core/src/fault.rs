//! Places where a test ends this process, to see what the world looks like then.
//!
//! Without the feature `fault-points` they are nothing. With it, `SIDECAR_FAULT_TRACE` names a file to which
//! every place passed is added, `SIDECAR_FAULT_AT` the place and how often it is passed before the end
//! (`journal.ready.before 1`), and `SIDECAR_FAULT_SIGNAL` how it ends: `KILL`, or `TERM`, after which it goes on, or
//! `STOP`, after which it goes on when the test continues it. `SIDECAR_FAULT_BREAK` names a rule of the engine that
//! does not hold then, so that a test can show that it notices.

#[cfg(feature = "fault-points")]
pub(crate) fn point(name: &str) {
    use std::io::Write;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};
    static PASSED: AtomicUsize = AtomicUsize::new(0);

    if let Some(path) = std::env::var_os("SIDECAR_FAULT_TRACE")
        && let Ok(mut trace) = std::fs::File::options().create(true).append(true).open(path)
    {
        // One write, so that threads do not mix their lines; a lost line fails the test that reads them.
        let _ = trace.write_all(format!("{name}\n").as_bytes());
    }
    let Ok(at) = std::env::var("SIDECAR_FAULT_AT") else { return };
    let Some((place, times)) = at.rsplit_once(' ') else { return };
    if place != name || PASSED.fetch_add(1, Ordering::SeqCst) + 1 != times.parse().unwrap_or(1) {
        return;
    }
    let signal = match std::env::var("SIDECAR_FAULT_SIGNAL").as_deref() {
        Ok("TERM") => Some(Signal::TERM),
        Ok("STOP") => Some(Signal::STOP),
        _ => None,
    };
    if let Some(signal) = signal {
        let _ = kill_process(getpid(), signal);
        // The signal is seen by another thread while this one is still at this place.
        std::thread::sleep(Duration::from_millis(50));
        return;
    }
    // SIGKILL is not delivered later: nothing of this process runs on.
    let _ = kill_process(getpid(), Signal::KILL);
}

#[cfg(not(feature = "fault-points"))]
pub(crate) fn point(_name: &str) {}

/// Whether a test has broken this rule of the engine on purpose.
#[cfg(feature = "fault-points")]
pub(crate) fn is_broken(rule: &str) -> bool {
    std::env::var("SIDECAR_FAULT_BREAK").is_ok_and(|broken| broken == rule)
}

#[cfg(not(feature = "fault-points"))]
pub(crate) fn is_broken(_rule: &str) -> bool {
    false
}
