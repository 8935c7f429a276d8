//! Files that events refer to in a directory of this machine, or of one that all machines mount.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use async_trait::async_trait;

use super::{Descriptor, ReferenceStore, Side, Target};
use crate::blocking;
use crate::contract::Pinned;
use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::local_dir::{present, store_error};

/// The files below a directory, read where they lie. No link leads out of it, and none is followed.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
}

impl std::fmt::Display for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "files in {}", self.root.display())
    }
}

#[async_trait]
impl ReferenceStore for Directory {
    async fn pin(&self, object: &str, version: Option<&str>) -> Result<Pinned> {
        if let Some(version) = version {
            let why = "a file has no versions: write %23 for a # in its name";
            return Err(Error::refused(self, format!("find version {version:?} of {object:?}"), why));
        }
        let (store, object) = (self.clone(), object.to_owned());
        blocking(move || Ok(store.open(&object)?.1)).await
    }

    async fn get_pinned(&self, object: &str, pinned: &Pinned, target: &Target) -> Result<Descriptor> {
        let (store, object, pinned, target) =
            (self.clone(), object.to_owned(), pinned.clone(), target.clone());
        blocking(move || {
            let (mut file, found) = store.open(&object)?;
            if found != pinned {
                return Err(Pinned::changed(&store, &object));
            }
            let filled = target.create()?.fill_from(&mut file).map_err(|side| match side {
                Side::Read(error) => store_error(&store, "read", &store.root.join(&object))(error),
                Side::Write(error) => Error::io("write", target.path())(error),
            })?;
            match store.describe(&file, &object)? == pinned {
                true => Ok(filled),
                false => Err(Pinned::changed(&store, &object)),
            }
        })
        .await
    }
}

impl Directory {
    /// The files below `root`, which need not be there yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Opens a file. Blocks.
    fn open(&self, object: &str) -> Result<(File, Pinned)> {
        let path = self.root.join(object);
        let name = Path::new(object);
        if !name.components().all(|part| matches!(part, Component::Normal(_))) || object.contains('\0') {
            return Err(Error::refused(self, format!("read {object:?}"), "it is no name of a file below"));
        }
        let root = Dir::open(&self.root).map_err(store_error(self, "open", &self.root))?;
        let file = match root.open_file(name) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                let is_link = |stat: rustix::fs::Stat| {
                    rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Symlink
                };
                if root.stat(name).is_ok_and(is_link) {
                    return Err(Error::refused(
                        self,
                        format!("read {object:?}"),
                        "it is a link, and none is followed",
                    ));
                }
                present(self, &self.root)?;
                return Err(Error::NotFound { provider: self.to_string(), key: object.to_owned() });
            }
            // A socket cannot even be opened.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                return Err(Error::refused(self, format!("read {object:?}"), "it is not a regular file"));
            }
            opened => opened.map_err(store_error(self, "read", &path))?,
        };
        let pinned = self.describe(&file, object)?;
        Ok((file, pinned))
    }

    /// What an open file is now.
    fn describe(&self, file: &File, object: &str) -> Result<Pinned> {
        use std::os::unix::fs::MetadataExt;
        let path = self.root.join(object);
        let metadata = file.metadata().map_err(store_error(self, "read", &path))?;
        if !metadata.is_file() {
            return Err(Error::refused(self, format!("read {object:?}"), "it is not a regular file"));
        }
        let modified = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        let etag = format!("{:x}-{modified:x}-{:x}", metadata.ino(), metadata.len());
        Ok(Pinned { size: metadata.len(), etag: Some(etag), version: None })
    }
}
