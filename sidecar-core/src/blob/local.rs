//! Blobs as plain files in one directory: nothing to install, and `ls` shows what is there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rustix::fs::Mode;
use url::Url;

use super::transfer::{Side, copy};
use super::{BlobProvider, Descriptor, Listed, PAGE, Source, Target};
use crate::blocking;
use crate::contract::BlobKey;
use crate::dir::{Dir, open_regular};
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
        blocking(move || {
            let root = Dir::open(&store.root).map_err(store_error(&store, "open", &store.root))?;
            let mut last = None;
            files.iter().map(|(key, source)| store.store(&root, &mut last, key, source)).collect()
        })
        .await
    }

    async fn get_all(&self, blobs: &[(BlobKey, Target)]) -> Result<Vec<Descriptor>> {
        let (store, blobs) = (self.clone(), blobs.to_vec());
        blocking(move || blobs.iter().map(|(key, target)| store.fetch(key, target)).collect()).await
    }

    async fn flush(&self, keys: &[BlobKey]) -> Result<()> {
        // More than these are not synced one by one.
        let few = keys
            .iter()
            .take(durable::FEW.saturating_add(1))
            .map(|key| key.below(&self.root))
            .collect::<Vec<_>>();
        let store = self.clone();
        blocking(move || durable::sync(&store.root, &few).map_err(store_error(&store, "sync", &store.root)))
            .await
    }

    async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<Vec<Listed>> {
        let (store, prefix, after) = (self.clone(), prefix.to_owned(), after.cloned());
        blocking(move || store.page(&prefix, after.as_ref().map_or("", BlobKey::as_str))).await
    }

    async fn delete(&self, keys: &[BlobKey]) -> Result<()> {
        let (store, keys) = (self.clone(), keys.to_vec());
        blocking(move || {
            keys.iter().try_for_each(|key| store.remove(key))?;
            local_dir::present(&store, &store.root)
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

    async fn check(&self) -> Result<()> {
        let store = self.clone();
        blocking(move || local_dir::writable(&store, &store.root)).await
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
        Ok(Self { home, root })
    }

    /// Stores one of many files. `last` is the directory of the one before: most lie where that lies.
    fn store(
        &self,
        root: &Dir,
        last: &mut Option<(PathBuf, Dir)>,
        key: &BlobKey,
        source: &Source,
    ) -> Result<Descriptor> {
        let path = key.below(&self.root);
        let mut reader = source.open()?;
        let mode = Mode::from_raw_mode(if source.is_executable() { 0o755 } else { 0o644 });
        let mut staged = Staged::new_in(root, mode).map_err(store_error(self, "write", &path))?;
        let cloned = reader.clone_to(staged.file())?;
        let (copied, synced) = match (cloned, source.size()) {
            (Some(descriptor), _) => (Ok(descriptor), Ok(())),
            (None, ..LARGE) => (copy(&mut reader, &mut staged, source.size()), Ok(())),
            (None, size) => staged.write_behind(|mut writer| copy(&mut reader, &mut writer, size)),
        };
        let descriptor = copied.map_err(|side| match side {
            Side::Read(error) => Error::io("read", source.path())(error),
            Side::Write(error) => store_error(self, "write", &path)(error),
        })?;
        synced.map_err(store_error(self, "write", &path))?;
        reader.finish()?;
        let mut persist = || {
            let name = key.below(Path::new(""));
            let (Some(above), Some(file)) = (name.parent(), name.file_name()) else {
                return staged.persist(root, &name);
            };
            if let Some((_, dir)) = last.as_ref().filter(|(of, _)| of == above)
                && staged.link(dir, Path::new(file)).is_ok()
            {
                return Ok(());
            }
            // It is the first of its directory, or somebody removed that while it was empty.
            staged.persist(root, &name)?;
            *last = root.dir(above).ok().map(|dir| (above.to_owned(), dir));
            Ok(())
        };
        persist().map_err(store_error(self, "write", &path))?;
        Ok(descriptor)
    }

    /// The blobs after `after`, in the order of their keys' segments.
    fn page(&self, prefix: &str, after: &str) -> Result<Vec<Listed>> {
        let mut page = Vec::new();
        // Directories that are being read, and what is left of each, the next last.
        let mut open: Vec<Vec<String>> = vec![self.names("", prefix, after)?];
        while let Some(names) = open.last_mut() {
            let Some(name) = names.pop() else {
                open.pop();
                continue;
            };
            let path = self.root.join(&name);
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            if metadata.is_dir() {
                open.push(self.names(&format!("{name}/"), prefix, after)?);
            } else if name.starts_with(prefix)
                && segments(&name).gt(segments(after))
                && let Ok(key) = BlobKey::parse(&name)
            {
                page.push(Listed { key, size: metadata.len(), modified: metadata.modified().ok() });
                if page.len() == PAGE {
                    break;
                }
            }
        }
        Ok(page)
    }

    /// The names in a directory that can lead to a blob of the page, each with those above it; the last one first.
    fn names(&self, dir: &str, prefix: &str, after: &str) -> Result<Vec<String>> {
        let path = self.root.join(dir);
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return local_dir::present(self, &self.root).map(|()| Vec::new());
            }
            entries => entries.map_err(store_error(self, "read", &path))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(store_error(self, "read", &path))?;
            let Some(name) = entry.file_name().to_str().map(|name| format!("{dir}{name}")) else { continue };
            let leads = name.starts_with(prefix) || prefix.starts_with(&name);
            // A directory of the key that was last is not left behind yet.
            if leads && (segments(&name).gt(segments(after)) || after.starts_with(&format!("{name}/"))) {
                names.push(name);
            }
        }
        names.sort_unstable_by(|one, other| segments(other).cmp(segments(one)));
        Ok(names)
    }

    /// Removes a blob, and the directories that are empty then.
    fn remove(&self, key: &BlobKey) -> Result<()> {
        let path = key.below(&self.root);
        match fs::remove_file(&path) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(store_error(self, "remove", &path)(error));
            }
            _ => {}
        }
        let above = path.ancestors().skip(1).take_while(|above| *above != self.root);
        // One that is not empty, or was removed by somebody else, ends it.
        let _ = above.map(fs::remove_dir).take_while(std::result::Result::is_ok).count();
        Ok(())
    }

    fn fetch(&self, key: &BlobKey, target: &Target) -> Result<Descriptor> {
        let path = key.below(&self.root);
        let not_found = || match local_dir::present(self, &self.root) {
            Ok(()) => Error::NotFound { provider: self.to_string(), key: key.to_string() },
            Err(away) => away,
        };
        let mut file = match open_regular(&path) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidData
                ) =>
            {
                return Err(not_found());
            }
            opened => opened.map_err(store_error(self, "read", &path))?,
        };
        let metadata = file.metadata().map_err(store_error(self, "read", &path))?;
        let mut writer = target.create()?;
        let found =
            rustix::fs::fstat(&file).map_err(io::Error::from).map_err(store_error(self, "read", &path))?;
        if let Some(cloned) = writer.clone_of(&mut file, &found).map_err(store_error(self, "read", &path))? {
            return Ok(cloned);
        }
        copy(&mut file, &mut writer, metadata.len()).map_err(|side| match side {
            Side::Read(error) => store_error(self, "read", &path)(error),
            Side::Write(error) => Error::io("write", target.path())(error),
        })
    }
}

fn segments(key: &str) -> impl Iterator<Item = &str> {
    key.split('/')
}

/// The answer for the one file that was asked for.
fn only(mut descriptors: Vec<Descriptor>) -> Descriptor {
    descriptors.remove(0)
}
