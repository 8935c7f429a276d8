//! Which documents belong to which graph: an empty file `ROOT/graphs/{correlation id}/{kind}/{document id}` for each.
//!
//! An entry is made before its document, so that none is without, and looked for after it, since whoever deletes a document
//! removes its entry too. It may outlive its document, and is passed over then.
//! It needs no sync of its own: a file system with a journal keeps the order in which names were made.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::{Kind, PAGE};
use crate::dir::Dir;

/// The kinds that are listed by graph; of the others all documents are looked at.
const INDEXED: [Kind; 4] = [Kind::Context, Kind::Execution, Kind::Failure, Kind::DeadLetter];

/// Where the entries are, below the root.
pub(super) const DIRECTORY: &str = "graphs";

/// There once every document has its entry, also those that older releases wrote.
const COMPLETE: &str = ".complete";

/// The longest name of a directory; a longer correlation id goes by its digest.
const LONGEST: usize = 200;

/// How often a directory is made that others remove at the same time.
const ATTEMPTS: usize = 10;

/// What a file name cannot have, and the percent sign, which tells of it.
const ODD: &AsciiSet = &CONTROLS.add(b'/').add(b'%');

/// The entries of one store.
#[derive(Debug, Clone)]
pub(super) struct Graphs {
    dir: PathBuf,
}

impl Graphs {
    pub(super) fn new(root: &Path) -> Self {
        Self { dir: root.join(DIRECTORY) }
    }

    /// Makes the directory, and entries for what is there without any. `each` gives the ids and correlation ids of all
    /// documents of a kind. Blocks.
    pub(super) fn prepare(
        &self,
        each: impl Fn(Kind) -> crate::Result<Vec<(String, String)>>,
    ) -> crate::Result<()> {
        let complete = self.dir.join(COMPLETE);
        if complete.exists() {
            return Ok(());
        }
        for kind in INDEXED {
            for (id, correlation_id) in each(kind)? {
                self.add(kind, &correlation_id, &id).map_err(crate::Error::io("index", &self.dir))?;
            }
        }
        let made = fs::create_dir_all(&self.dir).and_then(|()| File::create(&complete));
        made.map(drop).map_err(crate::Error::io("create", &complete))
    }

    /// Makes an entry. Blocks.
    pub(super) fn add(&self, kind: Kind, correlation_id: &str, id: &str) -> io::Result<()> {
        if !INDEXED.contains(&kind) {
            return Ok(());
        }
        let dir = self.of(kind, correlation_id);
        let path = dir.join(id);
        if path.exists() {
            return Ok(());
        }
        let make = || File::options().write(true).create(true).truncate(false).open(&path).map(drop);
        let mut made = make();
        for _ in 0..ATTEMPTS {
            match made {
                // It was not there yet, or was removed as an empty one.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.make(&dir)?;
                    made = make();
                }
                made => return made,
            }
        }
        made
    }

    /// Makes a directory that belongs to whoever the store belongs to. Blocks.
    fn make(&self, dir: &Path) -> io::Result<()> {
        match dir.strip_prefix(&self.dir).ok().filter(|_| self.dir.is_dir()) {
            Some(below) => Dir::open(&self.dir)?.make_dir(below),
            None => fs::create_dir_all(dir),
        }
    }

    /// Removes the entry of a document that was deleted, and directories that are empty without it. Blocks.
    pub(super) fn remove(&self, kind: Kind, correlation_id: &str, id: &str) {
        if INDEXED.contains(&kind) {
            let dir = self.of(kind, correlation_id);
            // What is left is passed over.
            let _ = fs::remove_file(dir.join(id));
            if fs::remove_dir(&dir).is_ok()
                && let Some(graph) = dir.parent()
            {
                let _ = fs::remove_dir(graph);
            }
        }
    }

    /// The next ids of a graph after one of them, in their order; `None` where no entry tells. Blocks.
    pub(super) fn page(
        &self,
        kind: Kind,
        correlation_id: &str,
        after: Option<&str>,
    ) -> io::Result<Option<BTreeSet<String>>> {
        if !INDEXED.contains(&kind) || !self.dir.join(COMPLETE).exists() {
            return Ok(None);
        }
        let entries = match fs::read_dir(self.of(kind, correlation_id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(BTreeSet::new())),
            entries => entries?,
        };
        let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
        first(names.filter_map(Result::transpose), after).map(Some)
    }

    fn of(&self, kind: Kind, correlation_id: &str) -> PathBuf {
        let name = utf8_percent_encode(correlation_id, ODD).to_string();
        let name = match &*name {
            // A dot would hide it, or lead elsewhere; what is not encoded otherwise cannot meet it.
            name if name.starts_with('.') || name.is_empty() || name.len() > LONGEST => {
                format!("%{}", blake3::hash(correlation_id.as_bytes()).to_hex())
            }
            name => name.to_owned(),
        };
        self.dir.join(name).join(kind.plural())
    }
}

/// The first of these names after one of them, and never more of them in memory than a page has.
pub(super) fn first(
    names: impl Iterator<Item = io::Result<String>>,
    after: Option<&str>,
) -> io::Result<BTreeSet<String>> {
    let mut page = BTreeSet::new();
    for name in names {
        let name = name?;
        if after.is_none_or(|after| *name > *after) {
            page.insert(name);
            if page.len() > PAGE {
                page.pop_last();
            }
        }
    }
    Ok(page)
}
