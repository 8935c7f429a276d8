//! Where things lie below the base directory.

use std::path::{Path, PathBuf};

/// The directories that module and sidecar share.
///
/// ```
/// use sidecar_core::Layout;
/// let layout = Layout::new("/ion");
/// assert_eq!(layout.input_data(), std::path::Path::new("/ion/in/data"));
/// assert_eq!(layout.output_events(), std::path::Path::new("/ion/out/events"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    base: PathBuf,
}

impl Layout {
    /// The base directory where nothing else is said.
    pub const DEFAULT_BASE: &'static str = "/ion";

    /// The layout below `base`.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into() }
    }

    /// The base directory.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// `in/data`: the input files, written by the sidecar at ready.
    pub fn input_data(&self) -> PathBuf {
        self.base.join("in/data")
    }

    /// `in/meta.json`: the input values, written by the sidecar at ready, last.
    pub fn input_meta(&self) -> PathBuf {
        self.base.join("in/meta.json")
    }

    /// `out/data`: the output files, written by the module.
    pub fn output_data(&self) -> PathBuf {
        self.base.join("out/data")
    }

    /// `out/meta.json`: the insights, written by the module; may be absent.
    pub fn output_meta(&self) -> PathBuf {
        self.base.join("out/meta.json")
    }

    /// `out/events`: one JSON file an event, written by the module.
    pub fn output_events(&self) -> PathBuf {
        self.base.join("out/events")
    }
}
