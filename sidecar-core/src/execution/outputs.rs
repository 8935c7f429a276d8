//! What a module wrote, read and validated as a whole before anything is committed.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use tracing::warn;

use super::tree::{self, Tree};
use super::{Execution, conflicts};
use crate::blob::Source;
use crate::contract::{
    BlobKey, FileName, InvalidName, KeyValuePairs, Layout, MAX_EVENT_FILE, MAX_META_FILE, OutputEvent,
    PrivateId, Problem, parse_event, parse_pairs,
};
use crate::error::{Error, Result};

/// The most problems reported at once: the answer stays of a size that a person can read.
const MAX_PROBLEMS: usize = 1000;

/// The most names that one warning lists.
const MAX_STRAYS: usize = 10;

/// The output files by name.
pub(super) type Files = Tree;

/// Everything that one commit makes durable.
#[derive(Debug)]
pub(super) struct Outputs {
    pub(super) files: Files,
    pub(super) insights: KeyValuePairs,
    /// File name in `out/events` and content, in the order of the names.
    pub(super) events: Vec<(String, OutputEvent)>,
}

/// Reads the outputs of an execution. Blocks.
///
/// # Errors
/// [`Error::Invalid`] with every problem of every file.
pub(super) fn read(execution: &Execution, proposal: &PrivateId) -> Result<Outputs> {
    let (layout, id) = (execution.slot.layout(), execution.id());
    let key = |name: &FileName| BlobKey::of_output(&id, proposal, name);
    let mut problems = Vec::new();
    let files = tree::walk(&layout.output_data(), Layout::OUTPUT_DATA, &mut problems)?;
    problems.extend(files.keys().filter_map(|name| key(name).err().map(|invalid| too_long(name, &invalid))));
    let keyed = files.keys().filter_map(|name| Some((name, key(name).ok()?)));
    problems.extend(conflicts::folded(&*execution.plane.blobs, &format!("{}/", Layout::OUTPUT_DATA), keyed));
    let insights = match read_bounded(&layout.output_meta(), Layout::OUTPUT_META, MAX_META_FILE) {
        Ok(Some(text)) => parse_pairs(Layout::OUTPUT_META, &text).unwrap_or_else(|found| {
            problems.extend(found);
            KeyValuePairs::default()
        }),
        Ok(None) => KeyValuePairs::default(),
        Err(problem) => {
            problems.push(problem);
            KeyValuePairs::default()
        }
    };
    let mut events = Vec::new();
    for name in event_files(&layout.output_events(), &mut problems)? {
        let file = format!("{}/{name}", Layout::OUTPUT_EVENTS);
        match read_bounded(&layout.output_events().join(&name), &file, MAX_EVENT_FILE) {
            Ok(None) => {}
            Ok(Some(text)) => {
                match parse_event(&file, &text, &execution.spec.event_types, |name| files.contains_key(name))
                {
                    Ok(event) => events.push((name, event)),
                    Err(found) => problems.extend(found),
                }
            }
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        warn_of_strays(layout);
        return Ok(Outputs { files, insights, events });
    }
    let found = problems.len();
    if found > MAX_PROBLEMS {
        problems.truncate(MAX_PROBLEMS);
        problems.push(Problem::of("out", format!("{} more problems", found - MAX_PROBLEMS)));
    }
    Err(Error::Invalid(problems))
}

/// The problem of a file whose key cannot be made.
pub(super) fn too_long(name: &FileName, invalid: &InvalidName) -> Problem {
    Problem::of(format!("{}/{name}", Layout::OUTPUT_DATA), invalid.to_string())
}

/// The names of the event files, sorted, so that every repeat publishes in the same order.
fn event_files(dir: &Path, problems: &mut Vec<Problem>) -> Result<Vec<String>> {
    if fs::symlink_metadata(dir).is_ok_and(|found| found.is_symlink()) {
        problems.push(Problem::of(Layout::OUTPUT_EVENTS, "is a link, and must be a directory"));
        return Ok(Vec::new());
    }
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            problems.push(Problem::of(Layout::OUTPUT_EVENTS, "is a file, and must be a directory"));
            return Ok(Vec::new());
        }
        Err(error) => return Err(Error::io("read", dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("read", dir))?;
        match entry.file_name().into_string() {
            // Editors and libraries stage their files under such names.
            Ok(name) if name.starts_with('.') => {}
            Ok(name) if name.ends_with(".json") => names.push(name),
            Ok(name) => problems.push(Problem::of(
                format!("{}/{name}", Layout::OUTPUT_EVENTS),
                match entry.file_type() {
                    Ok(found) if found.is_dir() => "is a directory: events lie side by side",
                    _ => "is no event: the name must end with .json",
                },
            )),
            Err(name) => problems.push(Problem::of(
                format!("{}/{}", Layout::OUTPUT_EVENTS, name.to_string_lossy()),
                "the name is not UTF-8",
            )),
        }
    }
    names.sort();
    Ok(names)
}

/// Names in the log what a module wrote beside the outputs, most likely by mistake.
fn warn_of_strays(layout: &Layout) {
    let out = layout.base().join("out");
    let of_the_contract = [layout.output_data(), layout.output_events(), layout.output_meta()];
    let mut names = fs::read_dir(&out)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| !of_the_contract.contains(&entry.path()))
        .map(|entry| format!("out/{}", entry.file_name().to_string_lossy().escape_debug()))
        // Editors and libraries stage their files under such names, and so does the sidecar.
        .filter(|name| !name.starts_with("out/."));
    let mut strays: Vec<String> = names.by_ref().take(MAX_STRAYS).collect();
    let more = match names.count() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    if !strays.is_empty() {
        strays.sort();
        warn!(
            "not committed, since outputs are {}, {} and {}: {}{more}",
            Layout::OUTPUT_DATA,
            Layout::OUTPUT_META,
            Layout::OUTPUT_EVENTS,
            strays.join(", ")
        );
    }
}

/// Reads a regular file of at most `limit` bytes; `None` when there is none.
fn read_bounded(path: &Path, name: &str, limit: u64) -> Result<Option<Vec<u8>>, Problem> {
    let problem = |error: io::Error| Problem::of(name, format!("cannot be read: {error}"));
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(problem(error)),
    };
    if !metadata.is_file() {
        return Err(Problem::of(name, "is not a regular file"));
    }
    let mut text = Vec::new();
    let mut reader = Source::found(path.to_owned(), &metadata)
        .open()
        .map_err(|error| Problem::of(name, error.chain()))?
        .take(limit + 1);
    reader.read_to_end(&mut text).map_err(problem)?;
    if text.len() as u64 > limit {
        return Err(Problem::of(name, format!("is larger than {limit} bytes")));
    }
    Ok(Some(text))
}
