//! Unit tests of a module without a sidecar.
//!
//! ```
//! use sidecar_client::testing::TestWorkspace;
//! use sidecar_client::{Error, Workspace};
//!
//! // What the module does with its files, in a function of its own.
//! fn count(work: &Workspace) -> Result<(), Error> {
//!     work.insight("files", work.files()?.len());
//!     work.event("counted").value("language", work.values().get("language").unwrap_or("?")).write()
//! }
//!
//! # fn main() -> Result<(), Error> {
//! let test = TestWorkspace::new().input("a.txt", "one two").value("language", "en");
//! count(test.workspace())?;
//! let outputs = test.outputs()?;
//! assert_eq!(outputs.insights().get("files"), Some("1"));
//! assert_eq!(outputs.events()[0].event_type, "counted");
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::fs;

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use sidecar_core::{ErrorBody, EventTypes, FileName, KeyValuePairs, Layout, OutputEvent, Problem};
use tempfile::TempDir;

use crate::error::{Cause, Error};
use crate::workspace::{Workspace, names_below};

/// A workspace in a temporary directory, with the inputs that a test gives.
///
/// Its methods panic where the directory cannot be used.
#[derive(Debug)]
pub struct TestWorkspace {
    dir: TempDir,
    values: KeyValuePairs,
    allowed: EventTypes,
    workspace: OnceLock<Workspace>,
}

impl Default for TestWorkspace {
    fn default() -> Self {
        Self::new()
    }
}

impl TestWorkspace {
    /// A workspace without inputs.
    #[allow(clippy::expect_used, reason = "a test without a directory cannot go on")]
    pub fn new() -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let test = Self {
            dir,
            values: KeyValuePairs::default(),
            allowed: EventTypes::default(),
            workspace: OnceLock::new(),
        };
        let layout = test.layout();
        for made in [layout.input_data(), layout.output_data(), layout.output_events()] {
            fs::create_dir_all(made).expect("the directories of a module");
        }
        test
    }

    /// Adds an input file; among the values is a pair for it, as the sidecar makes it.
    #[must_use]
    #[allow(clippy::expect_used, reason = "the input of a test is written in the test")]
    pub fn input(self, name: impl AsRef<str>, content: impl AsRef<[u8]>) -> Self {
        assert!(self.workspace.get().is_none(), "inputs are given before the first call of workspace()");
        let name = FileName::parse(name.as_ref()).expect("the name of an input file");
        let path = name.below(&self.layout().input_data());
        path.parent().map(fs::create_dir_all).transpose().expect("the directory of an input file");
        fs::write(path, content).expect("an input file");
        self
    }

    /// Adds an input value.
    #[must_use]
    pub fn value(mut self, key: impl Into<String>, value: impl ToString) -> Self {
        assert!(self.workspace.get().is_none(), "inputs are given before the first call of workspace()");
        self.values.push(key, value.to_string());
        self
    }

    /// Allows only these event types, as `--valideventtypes` does.
    #[must_use]
    pub fn valid_event_types(mut self, types: EventTypes) -> Self {
        self.allowed = types;
        self
    }

    /// The workspace to hand to the module; inputs cannot be added afterwards.
    #[allow(clippy::expect_used, reason = "a test without a directory cannot go on")]
    pub fn workspace(&self) -> &Workspace {
        self.workspace.get_or_init(|| {
            let layout = self.layout();
            let mut values = self.values.clone();
            // As the sidecar does: a pair for each file, with where it can be fetched from.
            for name in names_below(&layout.input_data()).expect("the input files") {
                let path = name.below(&layout.input_data());
                values.push(name.as_str(), format!("file://{}", path.display()));
            }
            let values = serde_json::to_vec(&values).expect("values are JSON");
            fs::write(layout.input_meta(), values).expect("in/meta.json");
            Workspace::of_module(layout).expect("the workspace")
        })
    }

    /// What the module left, checked as `done` checks it.
    ///
    /// # Errors
    /// [`Error::Call`] with status 422 and the [`problems`](Error::problems) that `done` would answer; [`Error::Io`]
    /// when a file cannot be read.
    pub fn outputs(&self) -> Result<Outputs, Error> {
        self.workspace().write_insights()?;
        let layout = self.layout();
        let mut problems = Vec::new();
        let mut files = BTreeMap::new();
        for name in names_below(&layout.output_data())? {
            let content = read(&name.below(&layout.output_data()))?;
            files.insert(name, content);
        }
        let mut insights = KeyValuePairs::default();
        if layout.output_meta().exists() {
            match sidecar_core::parse_pairs("out/meta.json", &read(&layout.output_meta())?) {
                Ok(pairs) => insights = pairs,
                Err(found) => problems.extend(found),
            }
        }
        let mut events = Vec::new();
        for name in names_below(&layout.output_events())? {
            let file = format!("out/events/{name}");
            // As the sidecar has it: events lie side by side, and hidden files are not finished yet.
            let name_alone = name.as_str();
            if name_alone.starts_with('.') {
                continue;
            }
            if let Some((below, _)) = name_alone.split_once('/') {
                let problem = "is a directory: events lie side by side";
                problems.push(Problem::of(format!("out/events/{below}"), problem));
                continue;
            }
            if !name_alone.ends_with(".json") {
                problems.push(Problem::of(file, "is no event: the name must end with .json"));
                continue;
            }
            let text = read(&name.below(&layout.output_events()))?;
            match sidecar_core::parse_event(&file, &text, &self.allowed, |name| files.contains_key(name)) {
                Ok(event) => events.push(event),
                Err(found) => problems.extend(found),
            }
        }
        if problems.is_empty() {
            return Ok(Outputs { files, insights, events });
        }
        let message = "the module's outputs are invalid".to_owned();
        let body = ErrorBody { status_code: 422, message, retryable: false, problems };
        Err(Error::Call {
            call: "done",
            address: "the test workspace".into(),
            attempts: 1,
            elapsed: Duration::ZERO,
            source: Cause::Answer(body),
        })
    }

    fn layout(&self) -> Layout {
        Layout::new(self.dir.path())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(Error::io("read", path))
}

/// The outputs of a module under test.
#[derive(Debug, Clone, PartialEq)]
pub struct Outputs {
    files: BTreeMap<FileName, Vec<u8>>,
    insights: KeyValuePairs,
    events: Vec<OutputEvent>,
}

impl Outputs {
    /// The names of the files in `out/data`, sorted.
    pub fn files(&self) -> impl Iterator<Item = &FileName> {
        self.files.keys()
    }

    /// The content of a file in `out/data`.
    ///
    /// # Panics
    /// When there is no such file; the message lists those that there are.
    #[allow(clippy::panic, reason = "an assertion of a test")]
    pub fn file(&self, name: &str) -> &[u8] {
        let found = self.files.iter().find(|(found, _)| found.as_str() == name);
        let Some((_, content)) = found else {
            panic!("there is no out/data/{name}, only {:?}", self.files.keys().collect::<Vec<_>>())
        };
        content
    }

    /// The content of a text file in `out/data`.
    ///
    /// # Panics
    /// When there is no such file, or it is not UTF-8.
    #[allow(clippy::panic, reason = "an assertion of a test")]
    pub fn text(&self, name: &str) -> &str {
        std::str::from_utf8(self.file(name)).unwrap_or_else(|error| panic!("out/data/{name}: {error}"))
    }

    /// The insights.
    pub fn insights(&self) -> &KeyValuePairs {
        &self.insights
    }

    /// The events, in the order of their file names.
    pub fn events(&self) -> &[OutputEvent] {
        &self.events
    }
}
