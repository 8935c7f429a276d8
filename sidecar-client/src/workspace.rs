//! The directories of a module, typed.
//!
//! Every write is staged beside `out/data` and renamed into place, so that a module that dies, or calls
//! `done` too early, never has a half-written file committed.

use std::fs;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sidecar_core::{EVENT_TYPE, FILES, FileName, KeyValuePairs, Layout};
use tempfile::NamedTempFile;

use crate::error::Error;

/// The inputs and outputs of one execution.
#[derive(Debug)]
pub struct Workspace {
    layout: Layout,
    values: KeyValuePairs,
    /// `None` until the module records or clears insights: until then `done` leaves `out/meta.json` alone.
    insights: Mutex<Option<KeyValuePairs>>,
    events: AtomicUsize,
    /// Whether there is no `done` of this workspace, before which its insights are written.
    is_alone: bool,
}

impl Workspace {
    /// The workspace in a base directory, whose inputs are staged already.
    ///
    /// A module gets its own from [`Module::workspace`](crate::Module::workspace); this is for modules that are functions
    /// of the program that embeds the sidecar, for tools and for tests. Its insights are written by
    /// [`finish`](Self::finish), or when it is dropped.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no `in/meta.json`, or it cannot be read.
    pub fn open(layout: Layout) -> Result<Self, Error> {
        let mut workspace = Self::of_module(layout)?;
        workspace.is_alone = true;
        Ok(workspace)
    }

    /// The workspace of a module, whose `done` writes the insights.
    pub(crate) fn of_module(layout: Layout) -> Result<Self, Error> {
        let meta = layout.input_meta();
        let values = read_pairs(&meta)?.ok_or_else(|| {
            let why = "the sidecar is ready, but not here: is SIDECAR_BASE_DIR its --basedir?";
            Error::io("read", &meta)(io::Error::other(why))
        })?;
        let (insights, events) = (Mutex::default(), AtomicUsize::new(0));
        let workspace = Self { layout, values, insights, events, is_alone: false };
        // What an earlier try of this module had not finished.
        match fs::remove_dir_all(workspace.staging()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", workspace.staging())(error))
            }
            _ => Ok(workspace),
        }
    }

    /// The directories.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The input values.
    pub fn values(&self) -> &KeyValuePairs {
        &self.values
    }

    /// The names of the input files, sorted.
    ///
    /// # Errors
    /// [`Error::Io`] when `in/data` cannot be read.
    pub fn files(&self) -> Result<Vec<FileName>, Error> {
        names_below(&self.layout.input_data())
    }

    /// Where an input file lies.
    pub fn input(&self, name: &FileName) -> PathBuf {
        name.below(&self.layout.input_data())
    }

    /// A new output file, named `name` below `out/data`; it is there once [`Output::finish`] returned.
    ///
    /// # Errors
    /// [`Error::Io`] when the name cannot be used or the file not be made.
    pub fn output(&self, name: impl AsRef<str>) -> Result<Output, Error> {
        let name = name.as_ref();
        let dest = self.layout.output_data();
        let parsed =
            FileName::parse(name).map_err(|e| Error::io("create", dest.join(name))(io::Error::other(e)))?;
        self.stage(parsed.below(&dest))
    }

    /// Records an insight; each `done` writes all of them to `out/meta.json`, replacing what is there.
    pub fn insight(&self, key: impl Into<String>, value: impl ToString) {
        self.insights().get_or_insert_default().push(key, value.to_string());
    }

    /// Drops all insights that were recorded, to record other ones after `done` was refused.
    pub fn clear_insights(&self) {
        *self.insights() = Some(KeyValuePairs::default());
    }

    /// A new event of this type.
    pub fn event(&self, event_type: impl Into<String>) -> EventBuilder<'_> {
        EventBuilder {
            workspace: self,
            name: None,
            event_type: event_type.into(),
            files: Vec::new(),
            values: KeyValuePairs::default(),
        }
    }

    /// Writes the insights of a workspace that was [opened](Self::open) without a [`Module`](crate::Module), before the
    /// session's `done` is called. Dropped without it, it writes them too, and a line on the standard error says if that
    /// fails.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<(), Error> {
        self.is_alone = false;
        self.write_insights()
    }

    pub(crate) fn write_insights(&self) -> Result<(), Error> {
        match &*self.insights() {
            // What an earlier call wrote is replaced: a repeat must not report everything twice.
            Some(insights) => self.write_json(self.layout.output_meta(), insights),
            None => Ok(()),
        }
    }

    fn insights(&self) -> MutexGuard<'_, Option<KeyValuePairs>> {
        self.insights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_json(&self, path: PathBuf, pairs: &KeyValuePairs) -> Result<(), Error> {
        let mut json =
            serde_json::to_vec_pretty(pairs).map_err(|e| Error::io("encode", &path)(io::Error::other(e)))?;
        json.push(b'\n');
        let mut output = self.stage(path)?;
        output.write_all(&json).map_err(Error::io("write", &output.dest))?;
        output.finish()
    }

    fn staging(&self) -> PathBuf {
        self.layout.base().join("out/.staging")
    }

    fn stage(&self, dest: PathBuf) -> Result<Output, Error> {
        let staging = self.staging();
        fs::create_dir_all(&staging).map_err(Error::io("create", &staging))?;
        let mut builder = tempfile::Builder::new();
        for_everybody(&mut builder);
        let file = builder.tempfile_in(&staging).map_err(Error::io("create", &dest))?;
        Ok(Output { file: Some(BufWriter::new(file)), dest })
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // After a panic nothing is committed.
        if self.is_alone
            && !std::thread::panicking()
            && let Err(error) = self.write_insights()
        {
            eprintln!("sidecar-client: the insights are lost: {error}");
        }
    }
}

/// Lets the sidecar read what a module of another user writes.
#[cfg(unix)]
fn for_everybody(builder: &mut tempfile::Builder<'_, '_>) {
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
}

#[cfg(not(unix))]
fn for_everybody(_: &mut tempfile::Builder<'_, '_>) {}

/// The names of the files below a directory, sorted; none where there is no directory.
pub(crate) fn names_below(root: &Path) -> Result<Vec<FileName>, Error> {
    let mut names = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries = match fs::read_dir(&dir) {
            Err(error) if dir == root && error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(Error::io("read", &dir))?,
        };
        for entry in entries {
            let path = entry.map_err(Error::io("read", &dir))?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if let Ok(below) = path.strip_prefix(root) {
                let name = below
                    .to_str()
                    .ok_or_else(|| Error::io("name", &path)(io::Error::other("the name is not UTF-8")))?;
                let invalid = |error| Error::io("name", &path)(io::Error::other(error));
                names.push(FileName::parse(name).map_err(invalid)?);
            }
        }
    }
    names.sort();
    Ok(names)
}

/// The pairs of a file, if there is one.
fn read_pairs(path: &Path) -> Result<Option<KeyValuePairs>, Error> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::io("understand", path)(io::Error::other(error))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// An output file being written, through a buffer of its own; dropped without [`finish`](Output::finish), it never was,
/// and a line on the standard error says so.
#[derive(Debug)]
#[must_use = "an output is there only once it is finished"]
pub struct Output {
    file: Option<BufWriter<NamedTempFile>>,
    dest: PathBuf,
}

impl Output {
    /// Gives the file its name, replacing what had it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<(), Error> {
        if let Some(parent) = self.dest.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        if let Some(mut file) = self.file.take() {
            // What does not fit any more is found here, and nothing gets the name.
            file.flush().map_err(Error::io("write", &self.dest))?;
            let (file, _) = file.into_parts();
            file.persist(&self.dest).map_err(|error| Error::io("write", &self.dest)(error.error))?;
        }
        Ok(())
    }

    /// Where the file lies until it is finished, for libraries that write by path.
    pub fn path(&self) -> &Path {
        self.file.as_ref().map_or(&self.dest, |file| file.get_ref().path())
    }

    fn file(&mut self) -> io::Result<&mut BufWriter<NamedTempFile>> {
        self.file.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // After an error or a panic it is left out on purpose.
        if self.file.is_some() && !std::thread::panicking() {
            eprintln!("sidecar-client: {} was not finished, and is left out", self.dest.display());
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file()?.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file()?.flush()
    }
}

impl Seek for Output {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file()?.seek(to)
    }
}

/// An event being put together.
#[derive(Debug)]
#[must_use = "an event is published only if it is written"]
pub struct EventBuilder<'w> {
    workspace: &'w Workspace,
    name: Option<String>,
    event_type: String,
    files: Vec<String>,
    values: KeyValuePairs,
}

impl EventBuilder<'_> {
    /// Adds a file below `out/data`. [`write`](Self::write) refuses an empty name.
    pub fn file(mut self, name: impl Into<String>) -> Self {
        self.files.push(name.into());
        self
    }

    /// Adds a value that the consumer finds in its `in/meta.json`. The keys `eventType` and `files` are taken:
    /// [`write`](Self::write) refuses them.
    pub fn value(mut self, key: impl Into<String>, value: impl ToString) -> Self {
        self.values.push(key, value.to_string());
        self
    }

    /// Names the event's file, without `.json`. By default, events are numbered in the order in which they are
    /// written, from `000001`; one that has a name counts too.
    ///
    /// An event with the name of an earlier one replaces it. `done` publishes what is in `out/events` when it is
    /// called: after it was refused, `.name("000001")` replaces the first event, and removing `000001.json`
    /// from [`Layout::output_events`] withdraws it.
    ///
    /// The event's id is made of this name: a module that writes its events in another order when it is
    /// run again names them, so that equal events keep equal ids.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Writes the event; it is published by `done`.
    ///
    /// # Errors
    /// [`Error::Io`], also for a name, a file or a key that cannot be used.
    pub fn write(self) -> Result<(), Error> {
        let refused =
            |why: String| Error::io("create", self.workspace.layout.output_events())(io::Error::other(why));
        if self.files.iter().any(String::is_empty) {
            return Err(refused("the name of a file is empty".into()));
        }
        if let Some(pair) = self.values.iter().find(|pair| [EVENT_TYPE, FILES].contains(&&*pair.key)) {
            return Err(refused(format!("the key {:?} is reserved and cannot be a value", pair.key)));
        }
        let mut pairs = KeyValuePairs::default();
        pairs.push(EVENT_TYPE, self.event_type);
        // A pair for each: joined by commas they could be taken for one name that has a comma.
        self.files.into_iter().for_each(|name| pairs.push(FILES, name));
        pairs.0.extend(self.values.0);
        let number = self.workspace.events.fetch_add(1, Ordering::Relaxed) + 1;
        let name = self.name.unwrap_or_else(|| format!("{number:06}"));
        let path = self.workspace.layout.output_events().join(format!("{name}.json"));
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
            return Err(Error::io("create", &path)(io::Error::other(
                "the name of an event is one file name",
            )));
        }
        self.workspace.write_json(path, &pairs)
    }
}
