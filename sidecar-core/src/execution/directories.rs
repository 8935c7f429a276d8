//! The directories on the sidecar's side: made, emptied in place, set aside.
//!
//! A directory of the contract that is there is never replaced: it may be a mount point, and whoever made it chose
//! its owner and mode. What lies in it is moved or removed entry by entry, through the descriptor of the base
//! directory.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode};
use tracing::warn;
use uuid::Uuid;

use super::spec::ModuleUser;
use crate::contract::Layout;
use crate::dir::{Dir, os};
use crate::durable::Staged;
use crate::error::{Error, Result};

/// Where in the state directory cleared outputs wait to be removed.
pub(super) const TRASH: &str = "trash";

const INPUTS: &str = "in";
const INPUT_DATA: &str = "in/data";
const INPUT_META: &str = "in/meta.json";
const OUTPUTS: &str = "out";
const PREVIOUS: &str = ".previous";

/// Makes every directory of the contract that is absent, and touches nothing that is there. Blocks.
pub(super) fn make(base: &Dir) -> Result<()> {
    base.make_dir(INPUT_DATA).map_err(Error::io("create", base.path().join(INPUT_DATA)))?;
    make_outputs(base)
}

fn make_outputs(base: &Dir) -> Result<()> {
    for name in [Layout::OUTPUT_DATA, Layout::OUTPUT_EVENTS] {
        match base.make_dir(name) {
            // A file or a link in place of a directory of outputs is a problem of the outputs.
            Err(_) if is_something_else(base, name) => {}
            made => made.map_err(Error::io("create", base.path().join(name)))?,
        }
    }
    Ok(())
}

/// Whether the name, or the directory that it lies in, is taken by something that is no directory.
fn is_something_else(base: &Dir, name: &str) -> bool {
    let other = |name: &Path| {
        base.stat(name).is_ok_and(|found| FileType::from_raw_mode(found.st_mode) != FileType::Directory)
    };
    Path::new(name).ancestors().filter(|name| !name.as_os_str().is_empty()).any(other)
}

/// Empties `in/`. Blocks.
pub(super) fn clear_inputs(base: &Dir) -> Result<()> {
    if let Some(inputs) = own(base, INPUTS, "empty")? {
        // The values go first: whoever sees them may count on the files.
        remove(&inputs, "meta.json")?;
        match own(&inputs, "data", "empty") {
            Ok(Some(data)) => data.empty().map_err(Error::io("empty", data.path()))?,
            Ok(None) => {}
            Err(_) => remove(&inputs, "data")?,
        }
    }
    make(base)
}

/// The directory of the input files.
pub(super) fn input_data(base: &Dir) -> Result<Dir> {
    base.dir(INPUT_DATA).map_err(Error::io("open", base.path().join(INPUT_DATA)))
}

/// Writes `in/meta.json`; it is there whole or not at all. It may hold signed URIs, and so is the module's alone as
/// far as its user is known, and its group's otherwise. Blocks.
pub(super) fn write_meta(base: &Dir, user: ModuleUser, json: &[u8]) -> Result<()> {
    let path = base.path().join(INPUT_META);
    let write = || {
        let inputs = base.dir(INPUTS)?;
        let mut staged = Staged::new_in(&inputs, Mode::RUSR | Mode::WUSR)?;
        match user {
            ModuleUser::Same => {}
            ModuleUser::Other { uid, gid } => staged.give(Some(uid), gid)?,
            ModuleUser::Unknown => {
                let of_base = base.own_stat()?;
                let everybody = Mode::from_raw_mode(of_base.st_mode).contains(Mode::ROTH | Mode::XOTH);
                staged.set_mode(Mode::from_raw_mode(match staged.give(None, of_base.st_gid) {
                    // Where the group is not this process's to give, whoever may enter the directory reads it.
                    Err(_) if everybody => 0o644,
                    _ => 0o640,
                }))?;
            }
        }
        io::Write::write_all(&mut staged, json)?;
        staged.persist(&inputs, Path::new("meta.json"))
    };
    write().map_err(Error::io("write", &path))
}

/// Empties `out/`, leaving what was in it in the trash to be removed later where that is possible. Blocks.
///
/// Removing many files takes as long as committing them; the module need not wait for it.
pub(super) fn clear_outputs(base: &Dir, state: &Dir) -> Result<()> {
    if let Some(out) = own(base, OUTPUTS, "empty")? {
        let trash = PathBuf::from(TRASH).join(Uuid::new_v4().simple().to_string());
        for name in ["data", "events"] {
            let Ok(Some(from)) = own(&out, name, "empty") else {
                remove(&out, name)?;
                continue;
            };
            if move_all(&from, state, &trash.join(name)).is_err() {
                // Another file system: then it takes as long as it takes.
                from.empty().map_err(|error| foreign("empty", from.path().to_owned(), error))?;
            }
        }
        remove(&out, "meta.json")?;
    }
    make_outputs(base)
}

/// Moves every entry of a directory to a new directory below `to`, which is made when there is one.
fn move_all(from: &Dir, to: &Dir, below: &Path) -> io::Result<()> {
    let mut made = None;
    from.entries(|name, file_type| {
        let to = match &made {
            Some(there) => there,
            None => made.insert(to.make_dir(below).and_then(|()| to.dir(below))?),
        };
        let name = Path::new(os(name));
        rename(from, name, file_type, to, name).map(|()| true)
    })
}

/// Whether anything lies in `out/` that a commit would take. Blocks.
pub(super) fn has_outputs(base: &Dir) -> bool {
    let Ok(Some(out)) = own(base, OUTPUTS, "read") else { return false };
    let mut found = false;
    let looked = out.entries(|name, file_type| {
        let name = os(name);
        found |= is_output(name) && !is_empty_dir(&out, Path::new(name), file_type);
        Ok(!found)
    });
    looked.is_ok() && found
}

/// Removes what was set aside. Blocks.
pub(super) fn forget_previous(base: &Dir) -> Result<()> {
    match own(base, OUTPUTS, "tidy up")? {
        Some(outputs) => remove(&outputs, PREVIOUS),
        None => Ok(()),
    }
}

/// Moves what an earlier execution left in `out/` to a new directory in `out/.previous`. Blocks.
///
/// Returns where it is, unless there was nothing. Hidden files stay: they are no outputs.
pub(super) fn set_outputs_aside(base: &Dir) -> Result<Option<PathBuf>> {
    let Some(out) = own(base, OUTPUTS, "empty")? else { return Ok(None) };
    let previous = own(&out, PREVIOUS, "fill")?;
    let mut left = Vec::new();
    let list = out.entries(|name, file_type| {
        let name = os(name);
        let unused = is_output(name) && is_empty_dir(&out, Path::new(name), file_type);
        if !name.as_encoded_bytes().starts_with(b".") && !unused {
            left.push((PathBuf::from(name), file_type));
        }
        Ok(true)
    });
    list.map_err(Error::io("read", out.path()))?;
    if left.is_empty() {
        return Ok(None);
    }
    let previous = match previous {
        Some(previous) => previous,
        None => out
            .make_dir(PREVIOUS)
            .and_then(|()| out.dir(PREVIOUS))
            .map_err(Error::io("create", out.path().join(PREVIOUS)))?,
    };
    let (mut n, taken) = (1, |n: u32| previous.stat(n.to_string()).is_ok());
    while taken(n) {
        n += 1;
    }
    let name = n.to_string();
    let to = previous.make_dir(&name).and_then(|()| previous.dir(&name));
    let to = to.map_err(Error::io("create", previous.path().join(&name)))?;
    let mut moved = false;
    for (name, file_type) in left {
        let result = match is_output(name.as_os_str()) && file_type == FileType::Directory {
            true => set_aside(&out, &name, &to),
            false => rename(&out, &name, file_type, &to, &name),
        };
        match result {
            Ok(()) => moved = true,
            // A mount point, or somebody else's: it is no output, and stays.
            Err(error) if !is_output(name.as_os_str()) => {
                warn!("{} is left where it is: {error}", out.path().join(&name).display());
            }
            Err(error) => return Err(foreign("move", out.path().join(&name), error)),
        }
    }
    if !moved {
        previous.remove_dir(Path::new(&name)).map_err(Error::io("remove", to.path()))?;
        return Ok(None);
    }
    Ok(Some(to.path().to_owned()))
}

/// Moves what lies in a directory of outputs below `to`; the directory itself stays.
fn set_aside(out: &Dir, name: &Path, to: &Dir) -> io::Result<()> {
    let from = out.usable_dir(name)?;
    to.make_dir(name)?;
    let to = to.dir(name)?;
    from.entries(|entry, file_type| {
        let entry = Path::new(os(entry));
        match rename(&from, entry, file_type, &to, entry) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                copy_tree(&from, entry, &to)?;
                from.remove(entry)?;
            }
            renamed => renamed?,
        }
        Ok(true)
    })
}

/// Copies a file or a tree to another file system; what is neither file nor directory nor link is left out.
fn copy_tree(from: &Dir, name: &Path, to: &Dir) -> io::Result<()> {
    let mut waiting = vec![name.to_owned()];
    while let Some(name) = waiting.pop() {
        let stat = from.stat(&name)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                to.make_dir(&name)?;
                from.usable_dir(&name)?.entries(|entry, _| {
                    waiting.push(name.join(os(entry)));
                    Ok(true)
                })?;
            }
            FileType::RegularFile => {
                let mut copy = to.create_file(&name, Mode::from_raw_mode(stat.st_mode))?;
                io::copy(&mut from.open_file(&name)?, &mut copy)?;
            }
            FileType::Symlink => to.symlink(&from.read_link(&name)?, &name)?,
            _ => {}
        }
    }
    Ok(())
}

/// The error of a directory that another user has made without a right for this one.
fn foreign(action: &'static str, path: PathBuf, error: io::Error) -> Error {
    let error = match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(
            error.kind(),
            "a directory in it belongs to another user, and its group may not write it: give the group the right \
             (chmod -R g+w), and let the module work with umask 002 in a group that both have, or as the sidecar's user",
        ),
        _ => error,
    };
    Error::io(action, path)(error)
}

/// A directory of the sidecar's, if it is there, usable whatever the module made of its mode.
fn own(dir: &Dir, name: &str, action: &'static str) -> Result<Option<Dir>> {
    match dir.usable_dir(name) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // Whoever made the link would choose what is removed, moved and written.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            let why = "it is a link or a file, and must be a directory";
            Err(Error::io(action, dir.path().join(name))(io::Error::other(why)))
        }
        Err(error) => Err(Error::io(action, dir.path().join(name))(error)),
    }
}

/// Moves a file or directory; a read-only directory is made writable if that is what it takes.
fn rename(from: &Dir, name: &Path, file_type: FileType, to: &Dir, new: &Path) -> io::Result<()> {
    match from.rename(name, to, new) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && file_type == FileType::Directory => {
            drop(from.usable_dir(name)?);
            from.rename(name, to, new)
        }
        renamed => renamed,
    }
}

fn is_output(name: &std::ffi::OsStr) -> bool {
    name == "data" || name == "events" || name == "meta.json"
}

fn is_empty_dir(out: &Dir, name: &Path, file_type: FileType) -> bool {
    let mut empty = true;
    let mut found = || {
        out.usable_dir(name)?.entries(|_, _| {
            empty = false;
            Ok(false)
        })
    };
    file_type == FileType::Directory && found().is_ok() && empty
}

/// Removes a file or a tree, without following links; an absent one is fine.
pub(super) fn remove(dir: &Dir, name: &str) -> Result<()> {
    dir.remove(name).map_err(Error::io("remove", dir.path().join(name)))
}
