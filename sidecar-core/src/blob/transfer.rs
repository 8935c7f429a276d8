//! The two ends of a transfer, a file to read from and a file to write to, and the hash of what passes.

// Each provider uses a part of this file.
#![cfg_attr(not(all(feature = "local", feature = "bucket")), allow(dead_code))]

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Mode, Stat};

use super::Descriptor;
use crate::contract::{Digest, Problem};
use crate::dir::{Dir, Place};
use crate::error::{Error, Result};
use crate::{fault, os};

/// The most that one read or write moves, in bytes: large enough for hashing beside the write to pay.
const BUFFER: u64 = 1024 * 1024;

/// The coarsest clock that a file system has, in seconds.
const TICK: i64 = 2;

/// The clock of file systems that clone: XFS and btrfs keep nanoseconds, and Linux advances them at least 100 times a second.
const FINE_TICK: Duration = Duration::from_millis(20);

/// What one read of a file moves that is read for its digest alone, in bytes: enough for several threads to hash it.
const HASHED: u64 = 4 * 1024 * 1024;

/// A smaller file is copied in less time than it takes to clone it, in bytes.
const CLONED: u64 = 1024 * 1024;

/// For a file from this size on it is worth a moment to wait until a change would show, in bytes.
const WAITED_FOR: u64 = 64 * 1024 * 1024;

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
    // The types of the fields differ between architectures.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    /// Whether every later change would show in the times, on a file system with a fine clock; with `worth`, waits for the
    /// next tick.
    fn is_still(&self, worth: bool) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let changed = u64::try_from(seconds).ok().zip(u32::try_from(nanoseconds).ok());
        let Some(changed) =
            changed.map(|(seconds, nanoseconds)| UNIX_EPOCH + Duration::new(seconds, nanoseconds))
        else {
            return false;
        };
        match SystemTime::now().duration_since(changed) {
            Ok(since) if since > FINE_TICK => true,
            Ok(since) if worth => {
                std::thread::sleep(FINE_TICK - since + Duration::from_millis(1));
                true
            }
            _ => false,
        }
    }

    /// Whether any change from now on would show: clocks of file systems tick, some only every two seconds, and
    /// two changes within a tick look the same.
    pub(crate) fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.changed.0.saturating_add(TICK) < now.try_into().unwrap_or(i64::MAX)
    }
}

/// The bytes of one transfer, and of all that are counted together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moved {
    own: Arc<AtomicU64>,
    total: Option<Arc<AtomicU64>>,
}

impl Moved {
    pub(crate) fn add(&self, bytes: u64) {
        self.own.fetch_add(bytes, Ordering::Relaxed);
        if let Some(total) = &self.total {
            total.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// The bytes of this transfer alone.
    pub(crate) fn bytes(&self) -> u64 {
        self.own.load(Ordering::Relaxed)
    }
}

/// Called before each read of a [`Source`], with the bytes read since it was opened: where a test of a provider lets
/// a transfer break off or wait.
#[cfg(feature = "conformance")]
#[derive(Clone)]
pub(crate) struct Watch(pub(crate) Arc<dyn Fn(u64) -> io::Result<()> + Send + Sync>);

#[cfg(feature = "conformance")]
impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

/// A regular file that can be opened, and opened again, as long as it stays what it was.
///
/// A file that was swapped or written to since the source was made is an error, never another content.
#[derive(Debug, Clone)]
pub struct Source {
    place: Place,
    identity: Identity,
    executable: bool,
    moved: Moved,
    #[cfg(feature = "conformance")]
    watch: Option<Watch>,
}

impl Source {
    /// A source that reads the regular file at `path`; a symbolic link is refused.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no such regular file.
    pub fn file(path: impl Into<PathBuf>) -> Result<Self> {
        Self::at(Place::At(path.into()))
    }

    pub(crate) fn at(place: Place) -> Result<Self> {
        let stat = place.stat().map_err(Error::io("read", place.path()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::io("read", place.path())(io::Error::other("not a regular file")));
        }
        Ok(Self::found(place, &stat))
    }

    /// A source for a regular file that was seen there.
    pub(crate) fn found(place: Place, stat: &Stat) -> Self {
        let executable = Mode::from_raw_mode(stat.st_mode).contains(Mode::XUSR);
        Self {
            place,
            identity: Identity::of(stat),
            executable,
            moved: Moved::default(),
            #[cfg(feature = "conformance")]
            watch: None,
        }
    }

    #[cfg(feature = "conformance")]
    pub(crate) fn watched(self, watch: Watch) -> Self {
        Self { watch: Some(watch), ..self }
    }

    /// The counter of its bytes.
    pub(crate) fn moved(&self) -> Moved {
        self.moved.clone()
    }

    /// Adds the bytes to `total` as they are read.
    #[must_use]
    pub fn counted_by(mut self, total: Arc<AtomicU64>) -> Self {
        self.moved.total = Some(total);
        self
    }

    /// Where the file lies.
    pub fn path(&self) -> PathBuf {
        self.place.path()
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
    /// [`Error::Io`] when it cannot be read, [`Error::Invalid`] when it is not the file that it was.
    pub fn open(&self) -> Result<Reader> {
        let file = self.place.open().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => self.changed("it is not where it was"),
            _ => Error::io("read", self.path())(error),
        })?;
        let reader = Reader {
            file,
            source: self.clone(),
            counts: true,
            #[cfg(feature = "conformance")]
            read: 0,
        };
        reader.finish()?;
        Ok(reader)
    }

    /// The same, for a provider that counts the bytes once they are sent.
    pub(crate) fn open_uncounted(&self) -> Result<Reader> {
        Ok(Reader { counts: false, ..self.open()? })
    }

    /// Whoever wrote the file is still at work on it.
    fn changed(&self, how: &str) -> Error {
        let message = format!("{how}: whoever writes it must have ended before");
        Error::Invalid(vec![Problem::of(self.path().display().to_string(), message)])
    }

    /// Reads the file for its size and digest alone. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Invalid`] when it is not the file that it was.
    pub fn describe(&self) -> Result<Descriptor> {
        let mut reader = self.open_uncounted()?;
        let described = copy(&mut reader, &mut io::sink(), self.size());
        let described = described.map_err(|side| {
            let (Side::Read(error) | Side::Write(error)) = side;
            Error::io("read", self.path())(error)
        })?;
        reader.finish()?;
        Ok(described)
    }
}

/// A [`Source`] being read.
#[derive(Debug)]
pub struct Reader {
    file: File,
    source: Source,
    counts: bool,
    /// The bytes so far.
    #[cfg(feature = "conformance")]
    read: u64,
}

impl Reader {
    /// Checks, once all was read, that the file is still what it was.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it was written to in the meantime.
    pub fn finish(&self) -> Result<()> {
        let stat = rustix::fs::fstat(&self.file).map_err(io::Error::from);
        let stat = stat.map_err(Error::io("read", self.source.path()))?;
        if Identity::of(&stat) == self.source.identity {
            return Ok(());
        }
        Err(self.source.changed("it was changed while it was being read"))
    }
}

impl Reader {
    /// Makes the empty file `to` a clone of this one, and describes it; `None` where the file system cannot, or where a
    /// change in the meantime might not show. Blocks.
    ///
    /// What is read is this file, which most likely is in memory, while the clone is not: as long as it is what it was,
    /// both are the same.
    pub(super) fn clone_to(&mut self, to: &File) -> Result<Option<Descriptor>> {
        #[cfg(feature = "conformance")]
        if self.source.watch.is_some() {
            return Ok(None);
        }
        let Source { identity, .. } = self.source;
        if !is_clone(&self.file, to, &identity) {
            return Ok(None);
        }
        let described = describe(self).map_err(Error::io("read", self.source.path()))?;
        self.finish()?;
        Ok(Some(described))
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(feature = "conformance")]
        if let Some(Watch(watch)) = &self.source.watch {
            watch(self.read)?;
        }
        let n = self.file.read(buffer)?;
        #[cfg(feature = "conformance")]
        {
            self.read += n as u64;
        }
        if self.counts {
            self.source.moved.add(n as u64);
        }
        Ok(n)
    }
}

/// A file to be written; its directory is made when needed.
#[derive(Debug, Clone)]
pub struct Target {
    place: Place,
    executable: bool,
    /// The most bytes it takes.
    limit: u64,
    moved: Moved,
}

impl Target {
    /// A target that writes the file at `path`, replacing what is there.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::at(Place::At(path.into()))
    }

    /// A target that keeps nothing, for a file that is read for its digest alone.
    pub fn nowhere() -> Self {
        Self::at(Place::Nowhere)
    }

    /// A target below a directory that is held.
    pub(crate) fn below(dir: Arc<Dir>, name: PathBuf) -> Self {
        Self::at(Place::Below(dir, name))
    }

    fn at(place: Place) -> Self {
        Self { place, executable: false, limit: u64::MAX, moved: Moved::default() }
    }

    /// Whether the file may be executed.
    #[must_use]
    pub fn executable(mut self, executable: bool) -> Self {
        self.executable = executable;
        self
    }

    /// Takes no more than these bytes: whoever sends more is not listened to until the disk is full. Then the error's
    /// kind is `FileTooLarge`.
    #[must_use]
    pub fn at_most(mut self, bytes: u64) -> Self {
        self.limit = bytes;
        self
    }

    /// The counter of its bytes.
    pub(crate) fn moved(&self) -> Moved {
        self.moved.clone()
    }

    /// Adds the bytes to `total` as they are written.
    #[must_use]
    pub fn counted_by(mut self, total: Arc<AtomicU64>) -> Self {
        self.moved.total = Some(total);
        self
    }

    /// Where the file will lie.
    pub fn path(&self) -> PathBuf {
        self.place.path()
    }

    /// Opens the file, empty. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be made.
    pub fn create(&self) -> Result<Writer> {
        let mode = Mode::from_raw_mode(if self.executable { 0o755 } else { 0o644 });
        let create = || {
            let file = self.place.create(mode)?;
            if !matches!(self.place, Place::Nowhere) {
                // Whoever may enter the directory reads it, whatever the umask.
                rustix::fs::fchmod(&file, mode)?;
            }
            Ok(file)
        };
        let file = create().map_err(Error::io("write", self.path()))?;
        Ok(Writer { file, rest: self.limit, moved: self.moved.clone() })
    }
}

/// A [`Target`] being written.
#[derive(Debug)]
pub struct Writer {
    file: File,
    rest: u64,
    moved: Moved,
}

impl Writer {
    /// Makes the file a clone of `from`, and describes it; `None` as in [`Reader::clone_to`]. Blocks.
    pub(super) fn clone_of(&mut self, from: &mut File, found: &Stat) -> io::Result<Option<Descriptor>> {
        let identity = Identity::of(found);
        if identity.size > self.rest || !is_clone(from, &self.file, &identity) {
            return Ok(None);
        }
        let described = describe(from)?;
        if Identity::of(&rustix::fs::fstat(&*from)?) != identity {
            return Err(io::Error::other("it was changed while it was being read"));
        }
        self.rest -= described.size;
        self.moved.add(described.size);
        Ok(Some(described))
    }

    /// Fills the file with one that nobody changes: see [`fill`]. Blocks.
    pub(crate) fn fill_from(&mut self, from: &mut File) -> Result<Descriptor, Side> {
        let size = from.metadata().map_err(Side::Read)?.len();
        if size > self.rest {
            return Err(Side::Write(io::ErrorKind::FileTooLarge.into()));
        }
        let filled = fill(from, &self.file)?;
        self.rest = self.rest.saturating_sub(filled.size);
        self.moved.add(filled.size);
        Ok(filled)
    }
}

/// Fills an empty file with one that nobody changes, as a clone where the file system can; describes it. Blocks.
pub(crate) fn fill(from: &mut File, mut to: &File) -> Result<Descriptor, Side> {
    let identity =
        |file: &File| rustix::fs::fstat(file).map(|stat| Identity::of(&stat)).map_err(io::Error::from);
    let found = identity(from).map_err(Side::Read)?;
    if is_clone(from, to, &found) {
        let described = describe(from).map_err(Side::Read)?;
        if identity(from).map_err(Side::Read)? == found {
            return Ok(described);
        }
        // What was hashed may not be what was cloned.
        from.rewind().map_err(Side::Read)?;
        to.set_len(0).map_err(Side::Write)?;
    }
    copy(from, &mut to, found.size)
}

/// Whether `to` is a clone of `from` now: both are on one file system that can, and a change of `from` would show.
fn is_clone(from: &File, to: &File, identity: &Identity) -> bool {
    identity.size >= CLONED && identity.is_still(identity.size >= WAITED_FOR) && os::is_cloned(from, to)
}

/// Describes what is left to read, by as many threads as there are. Blocks.
fn describe(from: &mut impl Read) -> io::Result<Descriptor> {
    let (mut hasher, mut buffer) = (Hasher::default(), vec![0; HASHED as usize]);
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..]) {
                Ok(0) => {
                    hasher.update_at_once(&buffer[..filled]);
                    return Ok(hasher.finish());
                }
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        hasher.update_at_once(&buffer);
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.rest {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more bytes come than it has"));
        }
        let n = self.file.write(bytes)?;
        self.rest -= n as u64;
        self.moved.add(n as u64);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Describes the bytes that pass it.
#[derive(Debug, Clone, Default)]
pub struct Hasher {
    blake3: blake3::Hasher,
    size: u64,
}

impl Hasher {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.blake3.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// The same by several threads.
    fn update_at_once(&mut self, bytes: &[u8]) {
        self.blake3.update_rayon(bytes);
        self.size += bytes.len() as u64;
    }

    fn clone_updated(&self, bytes: &[u8]) -> Self {
        let mut updated = self.clone();
        updated.update(bytes);
        updated
    }

    /// Describes all bytes so far.
    pub fn finish(&self) -> Descriptor {
        Descriptor { size: self.size, digest: Digest(*self.blake3.finalize().as_bytes()) }
    }
}

/// Which end of a [`copy`] failed.
#[derive(Debug)]
pub(crate) enum Side {
    Read(io::Error),
    Write(io::Error),
}

/// Moves about `size` bytes up to the end of `from`, and describes them. Blocks.
pub(super) fn copy(from: &mut impl Read, to: &mut impl Write, size: u64) -> Result<Descriptor, Side> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; (size + 1).min(BUFFER) as usize];
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Side::Read(error)),
        };
        hash_and_write(&mut hasher, to, &buffer[..n]).map_err(Side::Write)?;
        if n as u64 == BUFFER {
            fault::point("transfer.part");
        }
    }
}

/// Hashing takes about as long as writing: side by side, a large file passes at the speed of a copy.
pub(super) fn hash_and_write(hasher: &mut Hasher, to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    if (bytes.len() as u64) < BUFFER {
        hasher.update(bytes);
        return to.write_all(bytes);
    }
    let before = &*hasher;
    let (hashed, written) = std::thread::scope(|scope| {
        let hashing = std::thread::Builder::new().spawn_scoped(scope, || before.clone_updated(bytes));
        let written = to.write_all(bytes);
        (hashing.map(std::thread::ScopedJoinHandle::join), written)
    });
    // Where no thread is to be had, one after the other.
    *hasher = match hashed {
        Ok(Ok(hashed)) => hashed,
        _ => hasher.clone_updated(bytes),
    };
    written
}
