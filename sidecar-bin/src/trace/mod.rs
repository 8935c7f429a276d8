//! `sidecar trace`: what one submission led to, as a picture or as data.

#[cfg(feature = "pipeline")]
mod content;
mod forest;
mod graph;
mod lineage;
#[cfg(feature = "pipeline")]
mod page;
mod tree;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use sidecar_core::lineage::{Trace, Verified};
use sidecar_core::plane::counted;
use sidecar_core::{DataPlane, Error};
use tracing::{info, warn};

use crate::exit::{self, Failure};

#[cfg(feature = "pipeline")]
pub(crate) use content::content;
#[cfg(feature = "pipeline")]
pub(crate) use graph::mermaid_text;
#[cfg(feature = "pipeline")]
pub(crate) use page::{Pictures, data, page, picture_type};
pub(crate) use tree::tree;

/// What `sidecar trace` takes besides the settings.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// The id of an event, or a correlation id
    #[arg(value_name = "ID")]
    id: String,
    /// Show every event and execution; by default those that are alike are one line
    #[arg(long)]
    all: bool,
    /// How to show it
    #[arg(long, value_name = "FORMAT", default_value = "tree")]
    format: Format,
    /// Where to write it [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Read every file that is named, and compare its digest
    #[arg(long)]
    verify: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines for a terminal
    Tree,
    /// Everything that is known, as documented in docs/lineage.md
    Json,
    /// A flowchart for Mermaid
    Mermaid,
    /// A graph for Graphviz
    Dot,
    /// One page for a browser, which needs no network
    #[cfg(feature = "pipeline")]
    Html,
    /// Run events of OpenLineage, one a line
    Openlineage,
}

/// Shows a trace.
///
/// # Errors
/// When nothing is known of the id, a store cannot be asked, or it cannot be written.
pub(crate) async fn run(plane: &DataPlane, args: TraceArgs) -> Result<u8, Failure> {
    let trace = Trace::of(plane, &args.id).await.map_err(|error| unknown(&error, &args.id))?;
    let text = match args.format {
        Format::Tree => tree(&trace, args.all),
        Format::Json => {
            let json = serde_json::to_string_pretty(&trace);
            json.map_err(|error| Failure::new(exit::LOCAL_FAILED, format!("cannot show it: {error}")))?
        }
        Format::Mermaid => graph::mermaid(&trace, args.all),
        Format::Dot => graph::dot(&trace, args.all),
        #[cfg(feature = "pipeline")]
        Format::Html => page(&data(plane, &trace, &Default::default()).await),
        Format::Openlineage => lineage::run_events(&trace, &plane.documents.id()),
    };
    match &args.output {
        None => exit::print(text.trim_end())?,
        Some(path) => std::fs::write(path, text).map_err(|error| {
            Failure::new(exit::LOCAL_FAILED, format!("cannot write {}: {error}", path.display()))
        })?,
    }
    let unpublished = trace.unpublished(plane).await.map_err(|error| Failure::at_open(&error))?;
    for of in unpublished {
        let (event, module) = (&of.event_id, &of.module);
        warn!(
            "the outcome of {event}/{module} is decided, and its events are not published: sidecar recover does it"
        );
    }
    if !args.verify {
        return Ok(0);
    }
    let verified = trace.verify(plane).await.map_err(|error| Failure::at_open(&error))?;
    let Verified { files, bytes, damaged } = verified;
    info!(files, bytes, "read every file and compared its digest");
    match damaged.len() {
        0 => Ok(0),
        count => {
            let lines = damaged.iter().map(|damaged| damaged.error.chain()).collect::<Vec<_>>().join("\n");
            Err(Failure::new(
                exit::INPUTS_FAILED,
                format!("damaged: {count} of {}:\n{lines}", counted(files, "file")),
            ))
        }
    }
}

/// The error for an id that is neither an event's nor a correlation id.
pub(crate) fn unknown(error: &Error, id: &str) -> Failure {
    match error {
        Error::UnknownEvent { provider, .. } => Failure::new(
            exit::INPUTS_FAILED,
            format!(
                "{provider} knows no event and no correlation id {id:?}: check the id and the data plane"
            ),
        ),
        other => Failure::at_open(other),
    }
}
