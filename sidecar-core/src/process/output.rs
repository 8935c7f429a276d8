//! What a module prints, as records of the log.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Child;
use tokio::task::JoinHandle;
use tracing::{Instrument, Span, info};

/// The target of the records: for whoever filters the log.
pub const OUTPUT: &str = "module";

/// The longest record, in bytes; a longer line becomes several.
const LONGEST: usize = 16 * 1024;
/// How long what a module has printed is waited for after its end: what it left running may hold the pipe open.
const LEFT: Duration = Duration::from_secs(1);

/// The readers of what a process prints. They go on as long as anybody may print.
#[derive(Debug, Default)]
pub(super) struct Relays(Vec<JoinHandle<()>>);

impl Relays {
    /// Reads what `child` prints, where that is piped; the records belong to `span`.
    pub(super) fn start(child: &mut Child, span: &Span) -> Self {
        let out = child.stdout.take().map(|out| tokio::spawn(relay(out, "stdout").instrument(span.clone())));
        let err = child.stderr.take().map(|err| tokio::spawn(relay(err, "stderr").instrument(span.clone())));
        Self(out.into_iter().chain(err).collect())
    }

    /// Waits until what was printed is in the log.
    pub(super) async fn read_out(&mut self) {
        let all = async {
            for relay in &mut self.0 {
                if !relay.is_finished() {
                    // It cannot fail.
                    let _ = relay.await;
                }
            }
        };
        let _ = tokio::time::timeout(LEFT, all).await;
        self.0.clear();
    }
}

async fn relay(mut from: impl AsyncRead + Unpin, stream: &'static str) {
    let tell = |line: &[u8]| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        info!(target: OUTPUT, stream, "{}", String::from_utf8_lossy(line));
    };
    let mut held = Vec::with_capacity(LONGEST);
    // A pipe that cannot be read is one that has ended.
    while from.read_buf(&mut held).await.is_ok_and(|read| read > 0) {
        let mut told = 0;
        while let Some(end) = held[told..].iter().position(|byte| *byte == b'\n') {
            tell(&held[told..told + end]);
            told += end + 1;
        }
        held.drain(..told);
        if held.len() >= LONGEST {
            tell(&held);
            held.clear();
        }
    }
    if !held.is_empty() {
        tell(&held);
    }
}
