//! A progress bar for transfers, where somebody is looking.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sidecar_core::{Phase, Session};

/// Transfers below this size are over before a bar could be read, in bytes.
const WORTH_SHOWING: u64 = 8 << 20;

/// Shows the session's transfers until the task is dropped; does nothing where stderr is no terminal.
pub(crate) fn show(session: &Session) -> Option<tokio::task::JoinHandle<()>> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let session = session.clone();
    let template = "{msg} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template).map(|style| style.progress_chars("=> "));
    Some(tokio::spawn(async move {
        let mut bar: Option<ProgressBar> = None;
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let status = session.status();
            let moving = matches!(status.phase, Phase::Preparing | Phase::Committing);
            if !moving || status.bytes_total < WORTH_SHOWING {
                if let Some(bar) = bar.take() {
                    bar.finish_and_clear();
                }
                continue;
            }
            let bar = bar.get_or_insert_with(|| {
                let bar = ProgressBar::new(status.bytes_total);
                if let Ok(style) = &style {
                    bar.set_style(style.clone());
                }
                bar
            });
            bar.set_length(status.bytes_total);
            bar.set_message(format!("{} {}/{} files", status.phase, status.files, status.files_total));
            bar.set_position(status.bytes);
        }
    }))
}
