//! What a pipeline tells in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sidecar_core::lineage::Trace;
use sidecar_core::plane::{counted, nearest};
use sidecar_core::worker::dead_letters;
use sidecar_core::{DataPlane, DeadLetter, EventId, ModuleName};
use tracing::warn;

use super::file::Pipeline;
use super::work::logs;
use crate::again;
use crate::exit::{self, Failure};
use crate::trace::{data, page, tree};

/// The lines of a module's output that are shown of a failure.
const LINES: usize = 10;
/// So many failures are shown.
const FAILURES: usize = 10;
/// So many submissions are shown.
const GRAPHS: usize = 20;
/// What a page holds of a module's output, in bytes.
const LOG: u64 = 16 * 1024;
/// What it holds of the output of all of them, in bytes.
const LOGS: usize = 8 * 1024 * 1024;

/// The beginning of a run.
pub(super) struct Report {
    base: PathBuf,
    began: String,
    /// How the data plane is named on the command line.
    plane: String,
}

impl Report {
    pub(super) fn begin(base: &Path, plane: &DataPlane) -> Self {
        let began = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let mut flags = again::plane_flags();
        // A pipeline works in ./dev where nothing names another data plane.
        let variables = ["BLOBS", "DOCUMENTS", "EVENTS", "CONFIG", "DEVELOPMENT", "AZUREBLOBPROVIDER"];
        let is_named = variables.iter().any(|name| std::env::var_os(format!("SIDECAR_{name}")).is_some());
        if flags.is_empty() && !is_named && !plane.documents.directories().is_empty() {
            flags = " --development=true".into();
        }
        Self { base: base.to_owned(), began, plane: flags }
    }

    /// Prints what became of these graphs, those of `files` with their names, and every event that was given up; whether
    /// there was one.
    ///
    /// # Errors
    /// When the documents cannot be listed, or nothing can be printed.
    pub(super) async fn end(
        self,
        plane: &DataPlane,
        graphs: &[String],
        files: &[(EventId, PathBuf)],
        file: &Path,
        pipeline: &Pipeline,
    ) -> Result<bool, Failure> {
        let failed = self.given_up(plane, graphs).await?;
        let (first, more) = graphs.split_at(graphs.len().min(GRAPHS));
        let mut published = BTreeSet::new();
        for graph in first {
            let trace = Trace::of_graph(plane, graph).await.map_err(|error| Failure::at_open(&error))?;
            if let Some((_, name)) = files.iter().find(|(id, _)| id.as_str() == graph) {
                exit::print(&format!("{}:", exit::cell(&name.display().to_string())))?;
            }
            exit::print(tree(&trace, false).trim_end())?;
            for event_type in trace.events.iter().filter_map(|event| event.event_type.as_deref()) {
                published.insert(event_type.to_owned());
            }
            let path = self.base.join("pages").join(format!("{graph}.html"));
            let text = page(&data(plane, &trace, &self.logs().of(&trace).await).await);
            let written = path
                .parent()
                .map_or(Ok(()), std::fs::create_dir_all)
                .and_then(|()| std::fs::write(&path, text));
            written.map_err(|error| {
                Failure::new(exit::LOCAL_FAILED, format!("cannot write {}: {error}", path.display()))
            })?;
            exit::print(&format!("page: {}", shown(&path)))?;
        }
        if let [next, ..] = more {
            exit::print(&format!(
                "and {} more submissions, as in: sidecar trace{} {}",
                more.len(),
                self.plane,
                again::quoted(next)
            ))?;
        }
        let subscribed = || pipeline.modules.iter().flat_map(|module| &module.subscribes).map(String::as_str);
        for event_type in published.iter().filter(|published| !subscribed().any(|name| name == *published)) {
            // What is published for others has a name of its own.
            if let Some(meant) = nearest(event_type, subscribed()) {
                let name = file.display();
                warn!("no module of {name} subscribes to {event_type:?}; did you mean {meant:?}?");
            }
        }
        let is_here = |module: &ModuleName| pipeline.modules.iter().any(|of| of.name == *module);
        let (failed, foreign): (Vec<_>, Vec<_>) =
            failed.into_iter().partition(|letter| is_here(&letter.context.name));
        let name = file.display();
        for letter in failed.iter().take(FAILURES) {
            let context = &letter.context;
            let (event, module) = (&context.event_id, &context.name);
            exit::print(&format!(
                "\nfailed: module {module}, event {event}: {}",
                exit::cell(&letter.reason)
            ))?;
            let is_warm = pipeline.modules.iter().any(|of| of.name == *module && of.is_warm());
            if let Some(log) = self.logs().end(module.as_str(), event.as_str()) {
                let lines: Vec<&str> = log.lines().collect();
                for line in &lines[lines.len().saturating_sub(LINES)..] {
                    exit::print(&format!("  | {}", exit::cell(line)))?;
                }
            }
            // One that stays asks for events, and alone there is nobody to ask.
            if !is_warm {
                exit::print(&format!(
                    "  again, alone: sidecar replay{} {} --context.name={} --pipeline {}",
                    self.plane,
                    again::quoted(event.as_str()),
                    again::quoted(module.as_str()),
                    again::quoted(&file.display().to_string())
                ))?;
            } else {
                let kept = logs(&self.base, module.as_str());
                exit::print(&format!("  the output of its module, by slot: {}", shown(&kept)))?;
            }
            exit::print(&format!("  again, for good: sidecar dead redrive{} {}", self.plane, letter.id))?;
            exit::print("  (the next start of the pipeline works on it)")?;
        }
        if let more @ 1.. = failed.len().saturating_sub(FAILURES) {
            exit::print(&format!(
                "\nand {more} more, which sidecar dead list{} shows; for good, all of a submission: sidecar dead \
                 redrive{} SUBMISSION",
                self.plane, self.plane
            ))?;
        }
        let others: BTreeSet<_> = foreign.iter().map(|letter| letter.context.name.as_str()).collect();
        if !others.is_empty() {
            exit::print(&format!(
                "\n{} failed in modules that {name} does not have ({}): under a new name, group = \"NAME\" goes on with \
                 the events of the old one; sidecar dead drop{} ends them",
                counted(foreign.len(), "event"),
                others.into_iter().collect::<Vec<_>>().join(", "),
                self.plane
            ))?;
        }
        Ok(!failed.is_empty())
    }

    /// The events that were given up since the beginning, and those of these graphs that were given up before.
    async fn given_up(&self, plane: &DataPlane, graphs: &[String]) -> Result<Vec<DeadLetter>, Failure> {
        let (mut letters, mut after) = (Vec::new(), None::<String>);
        loop {
            let page =
                dead_letters(plane, after.as_deref()).await.map_err(|error| Failure::at_open(&error))?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            // As text, times in UTC are in their order.
            letters.extend(page.into_iter().filter(|letter| {
                letter.time >= self.began || graphs.contains(&letter.context.correlation_id)
            }));
        }
        letters.sort_by(|one, other| one.time.cmp(&other.time));
        Ok(letters)
    }

    /// What the modules have printed.
    pub(super) fn logs(&self) -> Logs {
        Logs { base: self.base.clone() }
    }
}

/// What the modules of a pipeline have printed.
#[derive(Debug, Clone)]
pub(super) struct Logs {
    base: PathBuf,
}

impl Logs {
    /// The end of it for each execution of a trace, by `EVENT/MODULE`, as far as a page holds so much.
    pub(super) async fn of(&self, trace: &Trace) -> BTreeMap<String, String> {
        let keys = trace.stages().into_keys();
        let keys: Vec<_> = keys.map(|(event, module)| (event.to_string(), module.to_string())).collect();
        let this = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let (mut all, mut bytes) = (BTreeMap::new(), 0);
            for (event, module) in keys {
                if bytes >= LOGS {
                    break;
                }
                if let Some(end) = this.end(&module, &event) {
                    bytes += end.len();
                    all.insert(format!("{event}/{module}"), end);
                }
            }
            all
        });
        // Without them the page is there all the same.
        read.await.unwrap_or_default()
    }

    /// The end of what a module printed.
    fn end(&self, module: &str, event: &str) -> Option<String> {
        let mut log = File::open(logs(&self.base, module).join(format!("{event}.log"))).ok()?;
        let length = log.metadata().ok()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(LOG))).ok()?;
        let mut end = Vec::new();
        log.take(LOG).read_to_end(&mut end).ok()?;
        let end = String::from_utf8_lossy(&end).into_owned();
        (!end.trim().is_empty()).then_some(end)
    }
}

/// A path as short as it can be.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    here.and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path).display().to_string()
}
