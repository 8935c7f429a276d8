//! A progress bar for transfers, where somebody is looking.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sidecar_core::{Phase, Session};

/// Transfers below this size are over before a bar could be read, in bytes.
const WORTH_SHOWING: u64 = 8 << 20;

/// The bar; on a terminal it shows the session's transfers until it is dropped.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Bar {
    /// Shows the transfers of `session`; does nothing where stderr is no terminal.
    pub(crate) fn of(session: &Session) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if !std::io::stderr().is_terminal() {
            return Self { bar, task: None };
        }
        let template = "{msg} [{wide_bar}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        let task = tokio::spawn(follow(session.clone(), bar.clone()));
        Self { bar, task: Some(task) }
    }

    /// Makes the line free for other output.
    pub(crate) fn clear(&self) {
        hide(&self.bar);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.task.iter().for_each(tokio::task::JoinHandle::abort);
        self.clear();
    }
}

async fn follow(session: Session, bar: ProgressBar) {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let status = session.status();
        if !matches!(status.phase, Phase::Staging | Phase::Committing) || status.bytes_total < WORTH_SHOWING {
            hide(&bar);
            continue;
        }
        bar.set_length(status.bytes_total);
        bar.set_position(status.bytes);
        bar.set_message(format!("{} {}/{} files", status.phase, status.files, status.files_total));
        if bar.is_hidden() {
            bar.reset();
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        // The next lines of the log come as soon as the transfer ends.
        tokio::select! {
            _ = session.idle() => hide(&bar),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
}

fn hide(bar: &ProgressBar) {
    if !bar.is_hidden() {
        bar.finish_and_clear();
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
}
