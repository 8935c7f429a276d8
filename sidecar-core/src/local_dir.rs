//! What the local providers are made of: a directory, and readable JSON documents in it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use serde::Serialize;
use url::Url;

use crate::dir::{Dir, open_regular};
use crate::durable::{self, Staged};
use crate::error::{Error, Result};

/// The identity of the store below `root`.
pub(crate) fn id(root: &Path) -> String {
    Url::from_directory_path(root).map_or_else(|()| root.display().to_string(), String::from)
}

/// Makes the directory, durably, when it is absent, and names it absolutely.
pub(crate) fn directory(dir: &Path) -> Result<PathBuf> {
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let dir = dir.canonicalize().map_err(Error::io("open", dir))?;
    for made in dir.ancestors().skip(1).take(2) {
        match File::open(made).and_then(|made| made.sync_all()) {
            // One that may be entered and not read was there before.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced.map_err(Error::io("sync", made))?,
        }
    }
    Ok(dir)
}

/// What an I/O error of a store means to its caller: the module's own directories are not meant.
pub(crate) fn store_error<'e>(
    provider: &'e impl std::fmt::Display,
    action: &'static str,
    path: &'e Path,
) -> impl FnOnce(io::Error) -> Error + 'e {
    move |error| match (Error::io(action, path)(error), provider.to_string()) {
        (Error::Io { source, .. }, provider) => {
            let action = format!("{action} {}", path.display());
            match source.kind() {
                io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::InvalidData => Error::Refused { provider, action, source: source.into() },
                _ => Error::Unavailable { provider, action, retry_after: None, source: source.into() },
            }
        }
        (disk_full, _) => disk_full,
    }
}

/// Where the document with this id lies.
pub(crate) fn path(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}.json"))
}

/// The documents as pretty-printed JSON, each with its path.
pub(crate) fn encode<'a, T: Serialize + 'a>(
    dir: &Path,
    documents: impl IntoIterator<Item = (&'a str, &'a T)>,
) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let encode = |(id, document)| {
        let path = path(dir, id);
        let mut bytes = serde_json::to_vec_pretty(document)
            .map_err(|e| Error::io("encode", &path)(io::Error::other(e)))?;
        bytes.push(b'\n');
        Ok((path, bytes))
    };
    documents.into_iter().map(encode).collect()
}

/// Files staged together: enough for one sync to serve many, few enough for a limit of 256 open files.
const STAGED_TOGETHER: usize = 96;

/// Writes a file into `dir` unless there is one of that name, and says whether it did; durable when this returns.
/// Blocks.
pub(crate) fn insert(
    provider: &impl std::fmt::Display,
    dir: &Path,
    path: &Path,
    bytes: &[u8],
) -> Result<bool> {
    let insert = || {
        let dir = Dir::open(dir)?;
        let mut staged = Staged::new_in(&dir, MODE)?;
        staged.write_all(bytes)?;
        durable::sync_staged(&dir, std::iter::once(&staged))?;
        let inserted = match staged.insert(&dir, name(path)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            linked => linked.map(|()| true)?,
        };
        // Also whoever comes second acts on what is there: it must not be gone after a power cut.
        dir.sync()?;
        Ok(inserted)
    };
    insert().map_err(store_error(provider, "write", path))
}

/// Writes files into `dir`; each appears under its name only when it is durable, and all are when this
/// returns. Blocks.
pub(crate) fn write(
    provider: &impl std::fmt::Display,
    dir: &Path,
    files: &[(PathBuf, impl AsRef<[u8]>)],
) -> Result<()> {
    let opened = Dir::open(dir).map_err(store_error(provider, "open", dir))?;
    for files in files.chunks(STAGED_TOGETHER) {
        let mut staged = Vec::with_capacity(files.len());
        for (path, bytes) in files {
            let stage = || {
                let mut staged = Staged::new_in(&opened, MODE)?;
                staged.write_all(bytes.as_ref()).map(|()| staged)
            };
            staged.push((stage().map_err(store_error(provider, "write", path))?, path));
        }
        durable::sync_staged(&opened, staged.iter().map(|(staged, _)| staged))
            .map_err(store_error(provider, "sync", dir))?;
        for (mut staged, path) in staged {
            staged.persist(&opened, name(path)).map_err(store_error(provider, "write", path))?;
        }
    }
    opened.sync().map_err(store_error(provider, "sync", dir))
}

/// The name of a file that lies in the directory itself.
fn name(path: &Path) -> &Path {
    path.file_name().map_or(path, Path::new)
}

/// Documents are no secrets of their store.
const MODE: Mode = Mode::from_raw_mode(0o644);

/// Whether files can be written there. Blocks.
pub(crate) fn writable(provider: &impl std::fmt::Display, dir: &Path) -> Result<()> {
    let opened = Dir::open(dir).map_err(store_error(provider, "open", dir))?;
    // It never has a name, and is gone with this.
    let write = || Staged::new_in(&opened, MODE)?.write_all(b"?");
    write().map_err(store_error(provider, "write", dir))
}

/// Whether the directory is there: in one that is gone, as a disk that is not mounted, nothing is known to be absent.
/// Blocks.
pub(crate) fn present(provider: &impl std::fmt::Display, dir: &Path) -> Result<()> {
    Dir::open(dir).map(drop).map_err(store_error(provider, "open", dir))
}

/// Reads a file; `None` when there is none in a directory that is there. Blocks.
pub(crate) fn read(provider: &impl std::fmt::Display, path: &Path) -> Result<Option<Vec<u8>>> {
    let read = || {
        let mut bytes = Vec::new();
        open_regular(path)?.read_to_end(&mut bytes).map(|_| bytes)
    };
    match read() {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            present(provider, path.parent().unwrap_or(path)).map(|()| None)
        }
        Err(error) => Err(store_error(provider, "read", path)(error)),
    }
}
