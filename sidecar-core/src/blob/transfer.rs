//! The two ends of a transfer: a file to read from, and a file to write to.
//!
//! Both hash what passes through them, so a digest always describes the bytes that were really moved.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;

use super::Descriptor;
use crate::contract::Digest;
use crate::error::{Error, Result};

/// The most that one read or write moves, in bytes: larger ones gain nothing, and buffers add up.
const BUFFER: u64 = 256 * 1024;

/// What makes a file the same file, unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A regular file that can be opened, and opened again, as long as it stays what it was.
///
/// A file that was swapped or written to since the source was made is an error, never another content.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    identity: Identity,
    executable: bool,
    moved: Arc<AtomicU64>,
}

impl Source {
    /// A source that reads the regular file at `path`; a symbolic link is refused.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no such regular file.
    pub fn file(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let metadata = fs::symlink_metadata(&path).map_err(Error::io("read", &path))?;
        if !metadata.is_file() {
            return Err(Error::io("read", &path)(io::Error::other("not a regular file")));
        }
        Ok(Self::found(path, &metadata))
    }

    pub(crate) fn found(path: PathBuf, metadata: &fs::Metadata) -> Self {
        let executable = metadata.mode() & 0o100 != 0;
        Self { path, identity: Identity::of(metadata), executable, moved: Arc::default() }
    }

    /// Adds the bytes to `moved` as they are read.
    #[must_use]
    pub fn counted_by(mut self, moved: Arc<AtomicU64>) -> Self {
        self.moved = moved;
        self
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its owner may execute the file.
    pub fn is_executable(&self) -> bool {
        self.executable
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// The size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.identity.size
    }

    /// Opens the file from its beginning. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read or is not the file that it was.
    pub fn open(&self) -> Result<Reader> {
        // Without these two flags a link swapped in would be followed, and a pipe would block for ever.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let file = File::options()
            .read(true)
            .custom_flags(flags)
            .open(&self.path)
            .map_err(Error::io("read", &self.path))?;
        let reader = Reader { file, hasher: blake3::Hasher::new(), size: 0, source: self.clone() };
        reader.check()?;
        Ok(reader)
    }
}

/// A [`Source`] being read; it hashes as it goes.
#[derive(Debug)]
pub struct Reader {
    file: File,
    hasher: blake3::Hasher,
    size: u64,
    source: Source,
}

impl Reader {
    /// A buffer of the size that suits this file.
    pub fn buffer(&self) -> Vec<u8> {
        buffer(self.source.identity.size)
    }

    /// Describes the bytes that were read, once all were.
    ///
    /// # Errors
    /// [`Error::Io`] when the file was written to in the meantime.
    pub fn finish(self) -> Result<Descriptor> {
        self.check()?;
        if self.size != self.source.identity.size {
            return Err(self.changed());
        }
        Ok(Descriptor { size: self.size, digest: Digest(*self.hasher.finalize().as_bytes()) })
    }

    fn check(&self) -> Result<()> {
        let metadata = self.file.metadata().map_err(Error::io("read", &self.source.path))?;
        if Identity::of(&metadata) == self.source.identity { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> Error {
        Error::io("read", &self.source.path)(io::Error::other("it was changed while it was being committed"))
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.size += n as u64;
        self.source.moved.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// A file to be written; its directory is made when needed.
#[derive(Debug, Clone)]
pub struct Target {
    path: PathBuf,
    executable: bool,
    moved: Arc<AtomicU64>,
}

impl Target {
    /// A target that writes the file at `path`, replacing what is there.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), executable: false, moved: Arc::default() }
    }

    /// Whether the file may be executed.
    #[must_use]
    pub fn executable(mut self, executable: bool) -> Self {
        self.executable = executable;
        self
    }

    /// Adds the bytes to `moved` as they are written.
    #[must_use]
    pub fn counted_by(mut self, moved: Arc<AtomicU64>) -> Self {
        self.moved = moved;
        self
    }

    /// Opens the file, empty. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be made.
    pub fn create(&self) -> Result<Writer> {
        let file = create(&self.path, self.executable)?;
        Ok(Writer { file, hasher: blake3::Hasher::new(), size: 0, target: self.clone() })
    }
}

/// A [`Target`] being written; it hashes as it goes.
#[derive(Debug)]
pub struct Writer {
    file: File,
    hasher: blake3::Hasher,
    size: u64,
    target: Target,
}

impl Writer {
    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::DiskFull`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.target.path))?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.target.moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Describes the bytes that were written.
    ///
    /// # Errors
    /// None today; a store may make its last check here.
    pub fn finish(self) -> Result<Descriptor> {
        Ok(Descriptor { size: self.size, digest: Digest(*self.hasher.finalize().as_bytes()) })
    }
}

/// A buffer for a file of `size` bytes; a read that does not fill it has met the file's end.
pub(super) fn buffer(size: u64) -> Vec<u8> {
    vec![0; (size + 1).min(BUFFER) as usize]
}

/// Makes the regular file at `path` anew, and its directory if need be.
fn create(path: &Path, executable: bool) -> Result<File> {
    let mode = if executable { 0o755 } else { 0o644 };
    let open = || {
        let flags = OFlags::NOFOLLOW.bits() as i32;
        File::options().write(true).create(true).truncate(true).mode(mode).custom_flags(flags).open(path)
    };
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
            }
            open()
        }
        opened => opened,
    };
    let file = file.map_err(Error::io("write", path))?;
    if executable {
        // A file that was there before keeps its mode through `open`.
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(Error::io("write", path))?;
    }
    Ok(file)
}
