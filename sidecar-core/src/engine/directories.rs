//! The directories on the sidecar's side: made, emptied, set aside.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::contract::Layout;
use crate::durable::Staged;
use crate::error::{Error, Result};

/// Makes every directory of the contract that is absent, and touches nothing that is there. Blocks.
pub(super) fn make(layout: &Layout) -> Result<()> {
    for dir in [layout.input_data(), layout.output_data(), layout.output_events()] {
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
    }
    Ok(())
}

/// Empties `in/`. Blocks.
pub(super) fn clear(layout: &Layout) -> Result<()> {
    let input = layout.base().join("in");
    if fs::symlink_metadata(&input).is_ok_and(|found| found.is_symlink()) {
        // Whoever made the link would choose what is removed and written.
        return Err(Error::io("empty", &input)(io::Error::other("it is a link, and must be a directory")));
    }
    // The values go first: whoever sees them may count on the files.
    remove(&layout.input_meta())?;
    remove(&layout.input_data())?;
    make(layout)
}

/// Writes `in/meta.json`; it is there whole or not at all. Blocks.
pub(super) fn write_meta(layout: &Layout, json: &[u8]) -> Result<()> {
    let path = layout.input_meta();
    let write = || {
        let mut staged = Staged::new_in(&layout.base().join("in"), false)?;
        io::Write::write_all(&mut staged, json)?;
        staged.persist(&path)
    };
    write().map_err(Error::io("write", &path))
}

/// Empties `out/`, leaving what was in it in `trash` to be removed later where that is possible. Blocks.
///
/// Removing many files takes as long as committing them; the module need not wait for it.
pub(super) fn clear_outputs(layout: &Layout, trash: &Path) -> Result<()> {
    let trash = trash.join(Uuid::new_v4().simple().to_string());
    let moved = fs::create_dir_all(&trash)
        .and_then(|()| fs::rename(layout.output_data(), trash.join("data")))
        .and_then(|()| fs::rename(layout.output_events(), trash.join("events")));
    if moved.is_err() {
        // Another file system, or nothing there: then it takes as long as it takes.
        remove(&layout.output_data())?;
        remove(&layout.output_events())?;
    }
    remove(&layout.output_meta())?;
    make(layout)
}

/// Moves the outputs of an earlier execution to a new directory in `out/.previous`. Blocks.
///
/// Returns where they are, unless there were none.
pub(super) fn set_outputs_aside(layout: &Layout) -> Result<Option<PathBuf>> {
    let (data, events, meta) = (layout.output_data(), layout.output_events(), layout.output_meta());
    if is_empty(&data) && is_empty(&events) && !meta.exists() {
        return Ok(None);
    }
    let previous = layout.base().join("out/.previous");
    fs::create_dir_all(&previous).map_err(Error::io("create", &previous))?;
    let mut n = 1;
    while previous.join(format!("{n}")).exists() {
        n += 1;
    }
    let to = previous.join(format!("{n}"));
    fs::create_dir(&to).map_err(Error::io("create", &to))?;
    for (from, name) in [(data, "data"), (events, "events"), (meta, "meta.json")] {
        match fs::rename(&from, to.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("move", &from)(error));
            }
            _ => {}
        }
    }
    Ok(Some(to))
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

/// Removes a file or a tree, without following links; an absent one is fine.
pub(super) fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}
