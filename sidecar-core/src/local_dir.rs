//! What the local providers are made of: a directory, and readable JSON documents in it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::durable::{self, Staged};
use crate::error::{Error, Result};

/// Makes the directory when it is absent, and names it absolutely.
pub(crate) fn directory(dir: &Path) -> Result<PathBuf> {
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    dir.canonicalize().map_err(Error::io("open", dir))
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

/// Writes files into `dir`; all are durable when this returns. Blocks.
pub(crate) fn write(dir: &Path, files: Vec<(PathBuf, Vec<u8>)>) -> Result<()> {
    let write_one = |path: &Path, bytes: &[u8]| {
        let mut staged = Staged::new_in(dir, false)?;
        staged.write_all(bytes)?;
        staged.persist(path)
    };
    for (path, bytes) in &files {
        write_one(path, bytes).map_err(Error::io("write", path))?;
    }
    let paths: Vec<PathBuf> = files.into_iter().map(|(path, _)| path).collect();
    durable::sync(dir, &paths).map_err(Error::io("sync", dir))
}

/// Reads a file; `None` when there is none. Blocks.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}
