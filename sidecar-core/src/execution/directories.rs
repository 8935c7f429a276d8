//! The directories on the sidecar's side: made, emptied, set aside.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, Mode, OFlags, chmod, fstat, openat};
use rustix::io::Errno;
use tracing::warn;
use uuid::Uuid;

use crate::contract::Layout;
use crate::durable::Staged;
use crate::error::{Error, Result};

/// Makes every directory of the contract that is absent, and touches nothing that is there. Blocks.
pub(super) fn make(layout: &Layout) -> Result<()> {
    for dir in [layout.input_data(), layout.output_data(), layout.output_events()] {
        match fs::create_dir_all(&dir) {
            // A file in place of a directory of outputs is a problem of the outputs.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.exists() => {}
            made => made.map_err(Error::io("create", &dir))?,
        }
    }
    Ok(())
}

/// Empties `in/`. Blocks.
pub(super) fn clear(layout: &Layout) -> Result<()> {
    own("empty", &layout.base().join("in"))?;
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
    own("empty", &layout.base().join("out"))?;
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

/// Moves what an earlier execution left in `out/` to a new directory in `out/.previous`. Blocks.
///
/// Returns where it is, unless there was nothing. Hidden files stay: they are no outputs.
pub(super) fn set_outputs_aside(layout: &Layout) -> Result<Option<PathBuf>> {
    let out = layout.base().join("out");
    let previous = out.join(".previous");
    own("empty", &out)?;
    own("fill", &previous)?;
    let entries = match fs::read_dir(&out) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(Error::io("read", &out))?,
    };
    let outputs = [layout.output_data(), layout.output_events(), layout.output_meta()];
    let mut left = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("read", &out))?;
        let path = entry.path();
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let unused = outputs.contains(&path) && is_empty_dir(&path);
        if !hidden && !unused {
            left.push((entry.file_name(), path));
        }
    }
    if left.is_empty() {
        return Ok(None);
    }
    fs::create_dir_all(&previous).map_err(Error::io("create", &previous))?;
    let mut n = 1;
    while previous.join(format!("{n}")).exists() {
        n += 1;
    }
    let to = previous.join(format!("{n}"));
    fs::create_dir(&to).map_err(Error::io("create", &to))?;
    let mut moved = false;
    for (name, from) in left {
        match rename(&from, &to.join(&name)) {
            Ok(()) => moved = true,
            // A mount point, or somebody else's: it is no output, and stays.
            Err(error) if !outputs.contains(&from) => {
                warn!("{} is left where it is: {error}", from.display())
            }
            Err(error) => return Err(Error::io("move", &from)(error)),
        }
    }
    if !moved {
        fs::remove_dir(&to).map_err(Error::io("remove", &to))?;
    }
    Ok(moved.then_some(to))
}

/// Makes a directory of the sidecar's, if it is there, its own to change again, whatever the module made of it.
fn own(action: &'static str, dir: &Path) -> Result<()> {
    match openat(CWD, dir, DIRECTORY, Mode::empty()) {
        // Whoever made the link would choose what is removed, moved and written.
        Err(Errno::LOOP | Errno::NOTDIR) => {
            Err(Error::io(action, dir)(io::Error::other("it is a link or a file, and must be a directory")))
        }
        // Where that fails it may still be usable; if not, that is told by whoever uses it.
        Ok(dir) => make_writable(dir.as_fd()).or(Ok(())),
        Err(_) => Ok(()),
    }
}

/// Moves a file or directory; one that is read-only is made writable if that is what it takes.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to).or_else(|refused| {
        let writable = openat(CWD, from, DIRECTORY, Mode::empty()).map_err(Into::into);
        let writable = writable.and_then(|dir| make_writable(dir.as_fd()));
        if writable.is_err() { Err(refused) } else { fs::rename(from, to) }
    })
}

fn is_empty_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
        && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// A directory and no link to one, whatever its permissions.
const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn make_writable(dir: BorrowedFd<'_>) -> io::Result<()> {
    let mode = Mode::from_raw_mode(fstat(dir)?.st_mode);
    if mode.contains(Mode::RWXU) {
        return Ok(());
    }
    // A descriptor, unlike a path, cannot be swapped for a link meanwhile.
    Ok(chmod(format!("/proc/self/fd/{}", dir.as_raw_fd()), mode | Mode::RWXU)?)
}

/// Makes every directory below this one writable, and the directory itself.
fn make_tree_writable(dir: BorrowedFd<'_>) -> io::Result<()> {
    make_writable(dir)?;
    let readable = openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::read_from(&readable)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        match openat(dir, name, DIRECTORY, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => {}
            opened => make_tree_writable(opened?.as_fd())?,
        }
    }
    Ok(())
}

/// Removes a file or a tree, without following links; an absent one is fine.
pub(super) fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                openat(CWD, path, DIRECTORY, Mode::empty())
                    .map_err(Into::into)
                    .and_then(|dir| make_tree_writable(dir.as_fd()))
                    .and_then(|()| fs::remove_dir_all(path))
            }
            removed => removed,
        },
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}
