//! Blobs as plain files in one directory: nothing to install, and `ls` shows what is there.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use url::Url;

use super::transfer::{Side, copy};
use super::{BlobProvider, Descriptor, Source, Target};
use crate::blocking;
use crate::contract::BlobKey;
use crate::durable::{self, Staged};
use crate::error::{Error, Result};
use crate::local_dir::{self, store_error};

/// Files from this size on go to the disk while they are written, in bytes.
const LARGE: u64 = 256 * 1024 * 1024;

/// Blobs under `ROOT/blobs/{key}`, safe for several processes at once.
#[derive(Debug, Clone)]
pub struct Local {
    /// The absolute directory that was opened.
    home: PathBuf,
    /// Where the blobs are.
    root: PathBuf,
    unflushed: Arc<Mutex<Vec<PathBuf>>>,
    /// Held while a flush is at work: the next one must not answer before what it took is durable.
    flushing: Arc<Mutex<()>>,
}

impl std::fmt::Display for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "local blobs in {}", self.root.display())
    }
}

#[async_trait]
impl BlobProvider for Local {
    async fn put(&self, key: &BlobKey, source: &Source) -> Result<Descriptor> {
        Ok(only(self.put_all(&[(key.clone(), source.clone())]).await?))
    }

    async fn get(&self, key: &BlobKey, target: &Target) -> Result<Descriptor> {
        Ok(only(self.get_all(&[(key.clone(), target.clone())]).await?))
    }

    // Handing work to another thread costs as much as moving a small file: it is done once for many.
    async fn put_all(&self, files: &[(BlobKey, Source)]) -> Result<Vec<Descriptor>> {
        let (store, files) = (self.clone(), files.to_vec());
        blocking(move || files.iter().map(|(key, source)| store.store(key, source)).collect()).await
    }

    async fn get_all(&self, blobs: &[(BlobKey, Target)]) -> Result<Vec<Descriptor>> {
        let (store, blobs) = (self.clone(), blobs.to_vec());
        blocking(move || blobs.iter().map(|(key, target)| store.fetch(key, target)).collect()).await
    }

    async fn flush(&self) -> Result<()> {
        let store = self.clone();
        blocking(move || {
            let _flushing = store.flushing.lock().unwrap_or_else(PoisonError::into_inner);
            let files = std::mem::take(&mut *store.unflushed());
            durable::sync(&store.root, &files).map_err(|error| {
                store.unflushed().extend(files);
                store_error(&store, "sync", &store.root)(error)
            })
        })
        .await
    }

    async fn uri(&self, key: &BlobKey) -> Result<Url> {
        let path = key.below(&self.root);
        Url::from_file_path(&path)
            .map_err(|()| Error::io("name", &path)(io::Error::other("no absolute path")))
    }

    fn id(&self) -> String {
        local_dir::id(&self.home)
    }

    fn directories(&self) -> Vec<PathBuf> {
        vec![self.root.clone()]
    }
}

impl Local {
    /// Where below its root it keeps data.
    pub(crate) const DIRECTORY: &str = "blobs";

    /// Opens the store below `root`, making `root/blobs` when it is absent.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be made.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let home = local_dir::directory(root.as_ref())?;
        let root = local_dir::directory(&home.join(Self::DIRECTORY))?;
        Ok(Self { home, root, unflushed: Arc::default(), flushing: Arc::default() })
    }

    fn unflushed(&self) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
        self.unflushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, key: &BlobKey, source: &Source) -> Result<Descriptor> {
        let path = key.below(&self.root);
        let mut reader = source.open()?;
        let staged = Staged::new_in(&self.root, source.is_executable());
        let mut staged = staged.map_err(store_error(self, "write", &path))?;
        let (copied, synced) = match source.size() {
            ..LARGE => (copy(&mut reader, &mut staged, source.size()), Ok(())),
            size => staged.write_behind(|mut writer| copy(&mut reader, &mut writer, size)),
        };
        let descriptor = copied.map_err(|side| match side {
            Side::Read(error) => Error::io("read", source.path())(error),
            Side::Write(error) => store_error(self, "write", &path)(error),
        })?;
        synced.map_err(store_error(self, "write", &path))?;
        reader.finish()?;
        if let Err(error) = staged.persist(&path) {
            // Rare, so that it is only looked at when it happened.
            if !self.make_way(&path).map_err(store_error(self, "replace", &path))? {
                return Err(store_error(self, "write", &path)(error));
            }
            staged.persist(&path).map_err(store_error(self, "write", &path))?;
        }
        durable::remember(&mut self.unflushed(), path);
        Ok(descriptor)
    }

    /// Removes what an earlier attempt of the same execution stored where it is in the way now: a file where
    /// a directory is needed, or a directory where a file is. Says whether there was such a thing.
    fn make_way(&self, path: &Path) -> io::Result<bool> {
        if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return fs::remove_dir_all(path).map(|()| true);
        }
        // Below the event's and the module's directory everything is this execution's.
        let own = path.ancestors().skip(1).take_while(|above| {
            above.strip_prefix(&self.root).is_ok_and(|below| below.components().count() > 2)
        });
        match own.into_iter().find(|above| above.symlink_metadata().is_ok_and(|found| found.is_file())) {
            Some(file) => fs::remove_file(file).map(|()| true),
            None => Ok(false),
        }
    }

    fn fetch(&self, key: &BlobKey, target: &Target) -> Result<Descriptor> {
        let path = key.below(&self.root);
        let not_found = || Error::NotFound { provider: self.to_string(), key: key.to_string() };
        let mut file = match File::open(&path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(not_found());
            }
            opened => opened.map_err(store_error(self, "read", &path))?,
        };
        let metadata = file.metadata().map_err(store_error(self, "read", &path))?;
        if !metadata.is_file() {
            return Err(not_found());
        }
        copy(&mut file, &mut target.create()?, metadata.len()).map_err(|side| match side {
            Side::Read(error) => store_error(self, "read", &path)(error),
            Side::Write(error) => Error::io("write", target.path())(error),
        })
    }
}

/// The answer for the one file that was asked for.
fn only(mut descriptors: Vec<Descriptor>) -> Descriptor {
    descriptors.remove(0)
}
