//! The signals that end the program, or are passed on to the module.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc;

/// Signals that a person or an orchestrator sends to a job.
const SIGNALS: [(Signal, SignalKind); 6] = [
    (Signal::TERM, SignalKind::terminate()),
    (Signal::INT, SignalKind::interrupt()),
    (Signal::HUP, SignalKind::hangup()),
    (Signal::QUIT, SignalKind::quit()),
    (Signal::USR1, SignalKind::user_defined1()),
    (Signal::USR2, SignalKind::user_defined2()),
];

/// The signals as they arrive, from now on.
#[derive(Debug)]
pub struct Signals(mpsc::UnboundedReceiver<Signal>);

impl Signals {
    /// Catches signals instead of dying of them. One that the process was started to ignore, as `nohup` does with
    /// SIGHUP, stays ignored; SIGCHLD does not, since the module's exit code would be lost.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn catch() -> io::Result<Self> {
        let ignored = crate::os::ignored_signals();
        let (sender, receiver) = mpsc::unbounded_channel();
        for (signal, kind) in SIGNALS {
            if ignored & (1 << (signal.as_raw() - 1)) != 0 {
                continue;
            }
            let (mut stream, sender) = (unix::signal(kind)?, sender.clone());
            tokio::spawn(
                async move { while stream.recv().await.is_some() && sender.send(signal).is_ok() {} },
            );
        }
        // Registering is enough: the handler takes the place of SIG_IGN for good.
        drop(unix::signal(SignalKind::child())?);
        Ok(Self(receiver))
    }

    /// Signals that this process sends itself: to one module among several.
    #[cfg(feature = "worker")]
    pub(crate) fn channel() -> (mpsc::UnboundedSender<Signal>, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Self(receiver))
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            // All of them are ignored, or the runtime is shutting down.
            None => std::future::pending().await,
        }
    }

    /// The number of the next signal that asks to end.
    pub async fn end(&mut self) -> i32 {
        loop {
            let signal = self.next().await;
            if Self::ends(signal) {
                return signal.as_raw();
            }
        }
    }

    /// Whether a signal asks to end.
    pub(super) fn ends(signal: Signal) -> bool {
        matches!(signal, Signal::TERM | Signal::INT | Signal::QUIT | Signal::HUP)
    }
}
