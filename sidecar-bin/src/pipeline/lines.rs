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

/// The work of one module, for people.
#[derive(Clone)]
pub(super) struct Line {
    /// Its name, filled up to the longest of them.
    pub(super) name: String,
    types: Vec<String>,
    worker: Worker,
    began: Instant,
}

impl Line {
    /// How much is queued, running and done.
    pub(super) fn text(&self, counts: &Counts) -> String {
        let now = self.worker.counters().summary();
        let done = now.committed + now.dead_lettered;
        let queued = counts.of(&self.types).saturating_sub(done + now.running);
        let rate = now.committed as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        format!(
            "{queued} queued, {} running, {} done, {} failed, {rate:.1}/s",
            now.running, now.committed, now.dead_lettered
        )
    }
}

/// A line for each module.
pub(super) fn lines(workers: &Workers, pipeline: &Pipeline) -> Vec<Line> {
    let width = pipeline.modules.iter().map(|module| module.name.as_str().len()).max().unwrap_or(0);
    let lines = workers.each().iter().zip(&pipeline.modules).map(|((name, worker), module)| Line {
        name: format!("{name:width$}"),
        types: module.subscribes.clone(),
        worker: worker.clone(),
        began: Instant::now(),
    });
    lines.collect()
}

/// Shows these lines; does nothing where stderr is no terminal.
pub(super) fn show(lines: Vec<Line>, counts: Counts) -> Lines {
    let all = MultiProgress::new();
    if !std::io::stderr().is_terminal() {
        return Lines { task: None, all };
    }
    let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = || all.add(ProgressBar::new_spinner().with_style(style.clone()));
    let lines: Vec<_> = lines.into_iter().map(|line| (bar(), line)).collect();
    let task = tokio::spawn(async move {
        loop {
            for (bar, line) in &lines {
                bar.set_message(format!("{}  {}", line.name, line.text(&counts)));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    Lines { task: Some(task), all }
}
