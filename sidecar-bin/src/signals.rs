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
pub(crate) struct Signals(mpsc::UnboundedReceiver<Signal>);

impl Signals {
    /// Catches signals instead of dying of them.
    ///
    /// # Errors
    /// When the system does not let us.
    pub(crate) fn catch() -> io::Result<Self> {
        let (sender, receiver) = mpsc::unbounded_channel();
        for (signal, kind) in SIGNALS {
            let (mut stream, sender) = (unix::signal(kind)?, sender.clone());
            tokio::spawn(
                async move { while stream.recv().await.is_some() && sender.send(signal).is_ok() {} },
            );
        }
        Ok(Self(receiver))
    }

    /// The next signal.
    pub(crate) async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            // The senders live as long as the runtime.
            None => std::future::pending().await,
        }
    }

    /// The next signal that asks to end.
    pub(crate) async fn end(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if Self::ends(signal) {
                return signal;
            }
        }
    }

    /// Whether a signal asks to end.
    pub(crate) fn ends(signal: Signal) -> bool {
        matches!(signal, Signal::TERM | Signal::INT | Signal::QUIT | Signal::HUP)
    }
}
