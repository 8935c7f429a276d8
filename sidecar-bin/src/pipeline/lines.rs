//! A line for each module, where somebody is looking.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use sidecar_core::worker::Worker;
use tokio::task::JoinHandle;

use super::counted::Counts;
use super::file::Pipeline;
use super::work::Workers;

/// The lines; they are there until this is dropped.
pub(super) struct Lines {
    task: Option<JoinHandle<()>>,
    all: MultiProgress,
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.task.iter().for_each(JoinHandle::abort);
        // Where the terminal is gone nobody misses them.
        let _ = self.all.clear();
    }
}

struct Line {
    bar: ProgressBar,
    name: String,
    types: Vec<String>,
    worker: Worker,
}

/// Shows a line for each module; does nothing where stderr is no terminal.
pub(super) fn show(workers: &Workers, pipeline: &Pipeline, counts: Counts) -> Lines {
    let all = MultiProgress::new();
    if !std::io::stderr().is_terminal() {
        return Lines { task: None, all };
    }
    let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    let width = pipeline.modules.iter().map(|module| module.name.as_str().len()).max().unwrap_or(0);
    let lines = workers.each().iter().zip(&pipeline.modules).map(|((name, worker), module)| Line {
        bar: all.add(ProgressBar::new_spinner().with_style(style.clone())),
        name: format!("{name:width$}"),
        types: module.subscribes.clone(),
        worker: worker.clone(),
    });
    let lines: Vec<_> = lines.collect();
    let began = Instant::now();
    let task = tokio::spawn(async move {
        loop {
            for Line { bar, name, types, worker } in &lines {
                let now = worker.counters().summary();
                let done = now.committed + now.dead_lettered;
                let queued = counts.of(types).saturating_sub(done + now.running);
                let rate = now.committed as f64 / began.elapsed().as_secs_f64().max(0.001);
                bar.set_message(format!(
                    "{name}  {queued} queued, {} running, {} done, {} failed, {rate:.1}/s",
                    now.running, now.committed, now.dead_lettered
                ));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    Lines { task: Some(task), all }
}
