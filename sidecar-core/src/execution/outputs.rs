//! What a module wrote, read and validated as a whole before anything is committed.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FileType;
use tracing::warn;

use super::problems::Problems;
use super::tree::{self, Tree};
use super::{Execution, conflicts};
use crate::blob::Source;
use crate::contract::{
    BlobKey, FileName, InvalidName, KeyValuePairs, Layout, MAX_EVENT_FILE, MAX_META_FILE, OutputEvent,
    PrivateId, Problem, parse_event, parse_pairs,
};
use crate::dir::{Dir, Place, os};
use crate::error::{Error, Result};

/// The most names that one warning lists.
const MAX_STRAYS: usize = 10;

/// The most events of one execution.
const MAX_EVENTS: usize = 200_000;

/// The most bytes of all event files of one execution: they are in memory at once.
const MAX_ALL_EVENTS: u64 = 256 * 1024 * 1024;

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
/// [`Error::Invalid`] with every problem of every file, [`Error::OutOfOrder`] when the base directory is not the
/// one that was prepared.
pub(super) fn read(execution: &Execution, proposal: &PrivateId) -> Result<Outputs> {
    execution.slot.refuse_another_base()?;
    let (base, id) = (execution.slot.base(), execution.id());
    let mut problems = Problems::default();
    let files = match directory(&base, Layout::OUTPUT_DATA, &mut problems) {
        Some(data) => tree::walk(&Arc::new(data), Layout::OUTPUT_DATA, &mut problems),
        None => Tree::new(),
    };
    let key = |name: &FileName| BlobKey::of_output(&id, proposal, name);
    problems.extend(files.keys().filter_map(|name| key(name).err().map(|invalid| too_long(name, &invalid))));
    let keyed = files.keys().filter_map(|name| Some((name, key(name).ok()?)));
    problems.extend(conflicts::folded(&*execution.plane.blobs, &format!("{}/", Layout::OUTPUT_DATA), keyed));
    let insights = insights(&base, &mut problems);
    let events = match directory(&base, Layout::OUTPUT_EVENTS, &mut problems) {
        Some(dir) => events(execution, Arc::new(dir), &files, &mut problems)?,
        None => Vec::new(),
    };
    problems.check()?;
    warn_of_strays(&base);
    Ok(Outputs { files, insights, events })
}

/// A directory of outputs, if it is there and is one.
pub(super) fn directory(base: &Dir, name: &str, problems: &mut Problems) -> Option<Dir> {
    match base.dir(name) {
        Ok(dir) => Some(dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            problems.add(name, "is a link or a file, or lies in one, and must be a directory");
            None
        }
        Err(error) => {
            problems.unreadable(name, error);
            None
        }
    }
}

fn insights(base: &Arc<Dir>, problems: &mut Problems) -> KeyValuePairs {
    let path = Path::new(Layout::OUTPUT_META);
    let Some(text) = read_bounded(base, path, Layout::OUTPUT_META, MAX_META_FILE, problems) else {
        return KeyValuePairs::default();
    };
    parse_pairs(Layout::OUTPUT_META, &text).unwrap_or_else(|found| {
        problems.extend(found);
        KeyValuePairs::default()
    })
}

fn events(
    execution: &Execution,
    dir: Arc<Dir>,
    files: &Files,
    problems: &mut Problems,
) -> Result<Vec<(String, OutputEvent)>> {
    let (mut events, mut bytes) = (Vec::new(), 0);
    for name in event_files(&dir, problems)? {
        let file = format!("{}/{name}", Layout::OUTPUT_EVENTS);
        let Some(text) = read_bounded(&dir, Path::new(&name), &file, MAX_EVENT_FILE, problems) else {
            continue;
        };
        bytes += text.len() as u64;
        if bytes > MAX_ALL_EVENTS {
            problems.add(Layout::OUTPUT_EVENTS, format!("holds more than {MAX_ALL_EVENTS} bytes of events"));
            break;
        }
        match parse_event(&file, &text, &execution.spec.event_types, |name| files.contains_key(name)) {
            Ok(event) => {
                let misspelt = |pair: &&crate::contract::KeyValuePair| {
                    event.files.is_empty() && ["file", "fileS", "Files", "filenames"].contains(&&*pair.key)
                };
                if let Some(pair) = event.data.0.iter().find(misspelt) {
                    let key = &pair.key;
                    warn!(
                        "{file}: {key:?} is a value like any other, and the event has no files: the key is \"files\""
                    );
                }
                events.push((name, event));
            }
            Err(found) => problems.extend(found),
        }
    }
    Ok(events)
}

/// The problem of a file whose key cannot be made.
pub(super) fn too_long(name: &FileName, invalid: &InvalidName) -> Problem {
    Problem::of(format!("{}/{name}", Layout::OUTPUT_DATA), invalid.to_string())
}

/// The names of the event files, sorted, so that every repeat publishes in the same order.
fn event_files(dir: &Dir, problems: &mut Problems) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let read = dir.entries(|name, file_type| {
        let shown = |name: &str| format!("{}/{name}", Layout::OUTPUT_EVENTS);
        match os(name).to_str() {
            // Editors and libraries stage their files under such names.
            Some(name) if name.starts_with('.') => {}
            Some(name) if name.ends_with(".json") => names.push(name.to_owned()),
            Some(name) if file_type == FileType::Directory => {
                problems.add(&shown(name), "is a directory: events lie side by side");
            }
            Some(name) => problems.add(&shown(name), "is no event: the name must end with .json"),
            None => problems.add(&shown(&os(name).to_string_lossy()), "the name is not UTF-8"),
        }
        if names.len() > MAX_EVENTS {
            problems.add(Layout::OUTPUT_EVENTS, format!("holds more than {MAX_EVENTS} events"));
        }
        Ok(names.len() <= MAX_EVENTS)
    });
    read.map_err(Error::io("read", dir.path()))?;
    names.sort();
    Ok(names)
}

/// Names in the log what a module wrote beside the outputs, most likely by mistake.
fn warn_of_strays(base: &Dir) {
    let Ok(out) = base.dir("out") else { return };
    let (mut strays, mut more) = (Vec::new(), 0);
    // What cannot be listed is no output.
    let _ = out.entries(|name, _| {
        let name = os(name).to_string_lossy();
        // Editors and libraries stage their files under hidden names, and so does the sidecar.
        if !name.starts_with('.') && !["data", "events", "meta.json"].contains(&&*name) {
            match strays.len() {
                ..MAX_STRAYS => strays.push(format!("out/{}", name.escape_debug())),
                _ => more += 1,
            }
        }
        Ok(true)
    });
    if !strays.is_empty() {
        strays.sort();
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        warn!(
            "not committed, since outputs are {}, {} and {}: {}{more}",
            Layout::OUTPUT_DATA,
            Layout::OUTPUT_META,
            Layout::OUTPUT_EVENTS,
            strays.join(", ")
        );
    }
}

/// Reads a regular file of at most `limit` bytes; `None` when there is none, or a problem with it.
fn read_bounded(
    dir: &Arc<Dir>,
    path: &Path,
    name: &str,
    limit: u64,
    problems: &mut Problems,
) -> Option<Vec<u8>> {
    let stat = match dir.stat(path) {
        Ok(stat) => stat,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                problems.unreadable(name, error);
            }
            return None;
        }
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        problems.add(name, "is not a regular file");
        return None;
    }
    let source = Source::found(Place::Below(dir.clone(), path.to_owned()), &stat);
    if source.size() > limit {
        problems.add(name, format!("is larger than {limit} bytes"));
        return None;
    }
    let read = || {
        let (mut text, mut reader) = (Vec::new(), source.open()?);
        reader.by_ref().take(limit + 1).read_to_end(&mut text).map_err(Error::io("read", source.path()))?;
        reader.finish()?;
        Ok(text)
    };
    match read() {
        Ok(text) => return Some(text),
        Err(Error::Io { source, .. }) => problems.unreadable(name, source),
        Err(Error::Invalid(found)) => {
            problems.extend(found.into_iter().map(|found| Problem::of(name, found.message)));
        }
        Err(error) => problems.add(name, error.chain()),
    }
    None
}
