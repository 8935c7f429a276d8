//! The program under test, kept from a build that replaces it in the meantime.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Keeps the program as it is now, as long as the directory is there.
pub fn keep() -> TempDir {
    let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("sidecar");
    std::fs::hard_link(env!("CARGO_BIN_EXE_sidecar"), &path).unwrap();
    PROGRAM.set(path).unwrap();
    dir
}

/// Where it is.
pub fn path() -> &'static Path {
    PROGRAM.get().unwrap()
}
