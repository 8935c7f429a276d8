//! `sidecar pipeline`: a chain of modules on one machine, with one command.

mod counted;
mod file;
mod flow;
mod lines;
mod report;
mod ui;
mod watch;
mod work;

use std::path::{Path, PathBuf};

use clap::Args;
use sidecar_core::Submission;
use sidecar_core::process::Signals;
use tracing::{info, warn};

use crate::exit::{self, Failure};
use crate::submit;
use crate::worker::Work;
pub(crate) use file::{ModuleSpec as Module, Pipeline};
use ui::Ui;
use work::Workers;

/// What `sidecar pipeline` takes besides the settings.
#[derive(Debug, Args)]
pub(crate) struct PipelineArgs {
    /// The modules: a TOML file with a table [modules.NAME] for each
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only check FILE
    #[arg(long)]
    check: bool,
    /// Only print how events flow, as a flowchart for Mermaid
    #[arg(long)]
    graph: bool,
    /// Files and folders of a first event, which is submitted before the modules start
    #[arg(long, value_name = "FILE", num_args = 1..)]
    input: Vec<PathBuf>,
    /// A value of the first event
    #[arg(long, value_name = "KEY=VALUE")]
    value: Vec<String>,
    /// The type of the first event [default: the one type that no module publishes]
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// The id of the first event: to submit the same one again submits nothing new [default: a random one]
    #[arg(long)]
    id: Option<String>,
    /// Submit each file that appears in this folder, and go on until stopped
    #[arg(long, value_name = "DIR")]
    watch: Option<PathBuf>,
    /// Serve the page of what is worked on, live, at a port of this machine or at an address: whoever opens it needs the
    /// token that is printed
    #[arg(long, value_name = "ADDRESS")]
    ui: Option<String>,
    /// Go on when nothing is left to do
    #[arg(long)]
    keep_running: bool,
    /// The modules, once they are loaded.
    #[arg(skip)]
    pipeline: Option<Pipeline>,
}

impl PipelineArgs {
    /// Reads and checks the file, before anything is opened or made, and says whether the modules are to run.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn load(&mut self) -> Result<bool, Vec<String>> {
        let pipeline = file::read(&self.file)?;
        let name = self.file.display();
        let missing = pipeline.modules.iter().filter_map(|module| {
            let why = work::cannot_start(&module.command, &module.directory)?;
            Some(format!("{name}:{}: module {}: {why}", module.line, module.name))
        });
        let missing: Vec<_> = missing.collect();
        if !missing.is_empty() {
            return Err(missing);
        }
        for warning in pipeline.warnings() {
            eprintln!("warning: {name}: {warning}");
        }
        if self.graph {
            let _ = exit::print(pipeline.mermaid().trim_end());
            return Ok(false);
        }
        if self.check {
            let first: Vec<_> = pipeline.first_types().into_iter().collect();
            eprintln!(
                "{name}: {} modules; it begins with events of type {}",
                pipeline.modules.len(),
                first.join(", ")
            );
            return Ok(false);
        }
        self.pipeline = Some(pipeline);
        Ok(true)
    }

    fn is_endless(&self) -> bool {
        self.keep_running || self.watch.is_some()
    }

    /// The first event, if there is to be one.
    fn submission(&self, id: &str, pipeline: &Pipeline, work: &Work) -> Result<Option<Submission>, Failure> {
        if self.input.is_empty() && self.value.is_empty() {
            return Ok(None);
        }
        let event_type = self.first_type(pipeline)?;
        let stores = work.plane.directories().into_iter().map(|(_, dir)| dir);
        let stores: Vec<_> = stores.collect();
        submit::submission(id.to_owned(), event_type, &self.value, &self.input, &stores).map(Some)
    }

    fn first_type(&self, pipeline: &Pipeline) -> Result<String, Failure> {
        let first: Vec<_> = pipeline.first_types().into_iter().collect();
        match (&self.event_type, &*first) {
            (Some(event_type), _) => Ok(event_type.clone()),
            (None, [one]) => Ok((*one).to_owned()),
            (None, several) => {
                let types = if several.is_empty() { "none".into() } else { several.join(", ") };
                let message = format!("--type is required: the types that no module publishes are {types}");
                Err(Failure::new(exit::CONFIGURATION, message))
            }
        }
    }
}

/// Runs all modules until nothing is left to do, or until a signal stops it.
///
/// # Errors
/// When the pipeline cannot begin, or a module cannot be run at all.
pub(crate) async fn run(mut args: PipelineArgs, mut work: Work) -> Result<u8, Failure> {
    let Some(pipeline) = args.pipeline.take() else {
        return Err(Failure::new(exit::CONFIGURATION, "the pipeline was not loaded"));
    };
    let address = args.ui.as_deref().map(ui::address).transpose()?;
    let base = work.settings.layout.base().to_owned();
    let counts = counted::count(&mut work.plane);
    let mut signals = Signals::catch()
        .map_err(|error| Failure::new(exit::LOCAL_FAILED, format!("cannot catch signals: {error}")))?;
    let report = report::Report::begin(&base, &work.plane);
    let mut graphs = Vec::new();
    let id = args.id.clone().unwrap_or_else(submit::new_id);
    if let Some(submission) = args.submission(&id, &pipeline, &work)? {
        graphs.push(submit::send(submission, &id, &work.plane).await?.to_string());
    }
    let (plane, grace) = (work.plane.clone(), work.service.grace);
    let first_type = args.watch.is_some().then(|| args.first_type(&pipeline)).transpose()?;
    let workers = Workers::start(&pipeline, work, &base).await?;
    let each = lines::lines(&workers, &pipeline);
    let ui = match address {
        Some(address) => {
            let ui = Ui::start(address, &plane, report.logs(), counts.clone(), each.clone()).await?;
            info!("the page, live: {}", ui.url);
            Some(ui)
        }
        None => None,
    };
    let lines = lines::show(each, counts);
    let watching = async {
        match (&args.watch, first_type) {
            (Some(dir), Some(event_type)) => watch::watch(dir, &event_type, &plane).await,
            _ => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = workers.until_done(&pipeline, &plane, &graphs), if !args.is_endless() => ended,
        failed = workers.failed() => Err(failed),
        failed = watching => Err(failed),
        signal = signals.end() => {
            info!("received signal {signal}: no more events are received; modules may finish within {grace:?}");
            workers.drain();
            tokio::select! {
                () = workers.ended() => {}
                signal = signals.end() => {
                    info!("received signal {signal}: modules are asked to end now");
                    workers.end_modules();
                }
            }
            Ok(Vec::new())
        }
    };
    workers.stop(grace).await;
    if let Some(ui) = ui {
        ui.stop().await;
    }
    drop(lines);
    let left = ended?;
    for left in &left {
        warn!("nothing came of {left}");
    }
    let failed = report.end(&plane, &graphs, &args.file).await?;
    Ok(if failed || !left.is_empty() { exit::MODULE_FAILED } else { 0 })
}

/// Where the modules' output is kept, below the base directory.
fn logs(base: &Path, module: &str) -> PathBuf {
    base.join("logs").join(module)
}
