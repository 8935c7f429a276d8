//! Inputs that are kept on this machine, so that each content is fetched once for all attempts.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags};
use tokio::time::Instant;

use crate::blob::{Descriptor, Side, Target, fill};
use crate::contract::Digest;
use crate::dir::{Dir, open_regular_with};
use crate::durable::Staged;
use crate::error::{Error, Result};
use crate::lock::Locked;
use crate::{blocking, fault};

/// A directory of contents by their digest, for all sidecars of a machine.
///
/// It may be emptied, or removed, at any time: what is missing is fetched from the blob store. What it holds is checked
/// whenever it is used, so that a damaged file is as good as none.
#[derive(Debug, Clone)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// The most that it holds, in bytes.
    size: u64,
    /// What is known to be there, and since when.
    known: Mutex<Option<(Instant, u64)>>,
    told: Mutex<Option<Instant>>,
}

/// Contents from this size on are fetched by one process while others wait, in bytes.
const LARGE: u64 = 1024 * 1024;

/// What a fetch moves at least, in bytes a second: whoever waited longer fetches too.
const SLOWEST: u64 = 4 * 1024 * 1024;

/// How long the size of what is there is taken for known: other processes add to it.
const KNOWN: Duration = Duration::from_secs(60);

/// After this time nobody works on what is half written.
const LEFT: Duration = Duration::from_secs(24 * 60 * 60);

/// How often it is said that the cache cannot be used.
const TOLD: Duration = Duration::from_secs(60);

/// Whoever may read the directory; nobody writes.
const MODE: Mode = Mode::RUSR.union(Mode::RGRP).union(Mode::ROTH);

impl Cache {
    /// The cache in `dir`, which is made when it is needed and holds about `size` bytes: what was used longest ago goes
    /// first.
    pub fn new(dir: impl Into<PathBuf>, size: u64) -> Self {
        Self(Arc::new(Inner { dir: dir.into(), size, known: Mutex::default(), told: Mutex::default() }))
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Puts what is here where it is wanted. Says what is not, which [`keep`](Self::keep) wants to have once it is fetched.
    pub(super) async fn take(&self, wanted: Vec<(Descriptor, Target)>) -> Result<Missing> {
        let mut missing =
            Missing { files: self.look_for(wanted.into_iter().enumerate().collect()).await?, turn: None };
        if let [(_, (content, _))] = &missing.files[..]
            && content.size >= LARGE
            && content.size <= self.0.size
        {
            missing.turn = self.turn(content).await?;
            // Another may have fetched it since it was looked for.
            missing.files = self.look_for(missing.files).await?;
        }
        Ok(missing)
    }

    async fn look_for(
        &self,
        wanted: Vec<(usize, (Descriptor, Target))>,
    ) -> Result<Vec<(usize, (Descriptor, Target))>> {
        let cache = self.clone();
        blocking(move || {
            let mut missing = Vec::new();
            for (at, (content, target)) in wanted {
                if !cache.0.take(&content, &target)? {
                    missing.push((at, (content, target)));
                }
            }
            Ok(missing)
        })
        .await
    }

    /// Keeps what was fetched.
    pub(super) async fn keep(&self, fetched: Missing) -> Result<()> {
        fault::point("cache.fetched");
        let cache = self.clone();
        blocking(move || {
            for (_, (content, target)) in &fetched.files {
                if let Err(error) = cache.0.keep(content, &target.path()) {
                    cache.0.tell("keep a file", &error);
                    break;
                }
            }
            Ok(())
        })
        .await
    }

    /// Waits until nobody else fetches this content, but not for ever: whoever does may be paused.
    async fn turn(&self, content: &Descriptor) -> Result<Option<Turn>> {
        let longest = Duration::from_secs(10 + content.size / SLOWEST);
        let began = Instant::now();
        loop {
            let (cache, digest) = (self.clone(), content.digest);
            match blocking(move || Ok(cache.0.lock(&digest))).await? {
                Ok(turn) => return Ok(Some(turn)),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    self.0.tell("lock a file", &error);
                    return Ok(None);
                }
                Err(_) if began.elapsed() > longest => return Ok(None),
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Files that the cache does not have, with their places among those that were wanted.
#[derive(Debug)]
pub(super) struct Missing {
    files: Vec<(usize, (Descriptor, Target))>,
    /// Held until it is kept.
    turn: Option<Turn>,
}

impl Missing {
    /// A file that was not looked for, since nobody knew what it would be.
    pub(super) fn fetched(content: Descriptor, target: Target) -> Self {
        Self { files: vec![(0, (content, target))], turn: None }
    }

    /// Their places among those that were wanted.
    pub(super) fn places(&self) -> impl ExactSizeIterator<Item = usize> {
        self.files.iter().map(|(at, _)| *at)
    }
}

/// The right to fetch a content, while no other process of this machine does.
#[derive(Debug)]
struct Turn {
    path: PathBuf,
    _lock: Locked<File>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Whoever opened it before locks a file without a name, and fetches beside the next one: no harm but the work.
        let _ = fs::remove_file(&self.path);
    }
}

impl Inner {
    fn path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        let hex = name.rsplit(':').next().unwrap_or(&name);
        self.dir.join(hex.get(..2).unwrap_or(hex)).join(hex)
    }

    /// Puts a content where it is wanted, if it is here and what it should be.
    fn take(&self, content: &Descriptor, target: &Target) -> Result<bool> {
        let path = self.path(&content.digest);
        let mut file = match open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => {
                self.tell("read a file", &error);
                return Ok(false);
            }
        };
        let mut writer = target.clone().at_most(content.size).create()?;
        let found = match writer.fill_from(&mut file) {
            Ok(found) => Some(found),
            // More bytes than it may have are damage as well.
            Err(Side::Write(error)) if error.kind() == io::ErrorKind::FileTooLarge => None,
            Err(Side::Write(error)) => return Err(Error::io("write", target.path())(error)),
            Err(Side::Read(error)) => {
                self.tell("read a file", &error);
                return Ok(false);
            }
        };
        if found != Some(*content) {
            tracing::warn!(path = %path.display(), "a damaged file of the cache is removed, and fetched again");
            let _ = fs::remove_file(&path);
            return Ok(false);
        }
        // Its age is that of its last use. To note that is no reason to fail, and not needed again and again.
        let noted = file.metadata().and_then(|found| found.modified()).ok();
        if noted.and_then(|noted| noted.elapsed().ok()).is_some_and(|age| age > KNOWN) {
            let _ = file.set_modified(SystemTime::now());
        }
        Ok(true)
    }

    fn keep(&self, content: &Descriptor, from: &Path) -> io::Result<()> {
        if content.size > self.size {
            return Ok(());
        }
        let path = self.path(&content.digest);
        let dir = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(dir)?;
        self.make_room(content.size)?;
        let dir = Dir::open(dir)?;
        let mut staged = Staged::new_in(&dir, MODE)?;
        let found = fill(&mut open(from)?, staged.file()).map_err(|side| match side {
            Side::Read(error) | Side::Write(error) => error,
        })?;
        if found != *content {
            return Err(io::Error::other(format!("{} was changed while it was copied", from.display())));
        }
        staged.set_mode(MODE)?;
        fault::point("cache.partial");
        staged.link(&dir, Path::new(path.file_name().unwrap_or_default()))?;
        if let Some((_, known)) = &mut *self.known.lock().unwrap_or_else(PoisonError::into_inner) {
            *known = known.saturating_add(content.size);
        }
        Ok(())
    }

    /// Removes what was used longest ago until so many bytes more have their place.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, total)) = *known
            && since.elapsed() < KNOWN
            && total.saturating_add(bytes) <= self.size
        {
            return Ok(());
        }
        let (mut total, mut by_age) = (0u64, BTreeMap::<SystemTime, Vec<(u64, PathBuf)>>::new());
        // Whatever else somebody keeps in the directory is his.
        let own = fs::read_dir(&self.dir)?.flatten().filter(|dir| {
            is_hex(&dir.file_name(), 2) && dir.file_type().is_ok_and(|file_type| file_type.is_dir())
        });
        for dir in own {
            for entry in fs::read_dir(dir.path()).into_iter().flatten().flatten() {
                let (path, name) = (entry.path(), entry.file_name());
                let Some(metadata) = entry.metadata().ok().filter(fs::Metadata::is_file) else { continue };
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                if is_content(&dir.file_name(), &name) {
                    total = total.saturating_add(metadata.len());
                    by_age.entry(used).or_default().push((metadata.len(), path));
                } else if is_leftover(&path) && used.elapsed().is_ok_and(|age| age > LEFT) {
                    let _ = fs::remove_file(path);
                }
            }
        }
        if total.saturating_add(bytes) > self.size {
            // More than is needed: the next one should find room without a look at everything.
            let most = (self.size - self.size / 10).saturating_sub(bytes);
            for (size, path) in by_age.into_values().flatten() {
                if total <= most {
                    break;
                }
                match fs::remove_file(&path) {
                    // It is another user's, who removes it in his turn.
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {}
                    _ => total = total.saturating_sub(size),
                }
            }
        }
        *known = Some((Instant::now(), total));
        Ok(())
    }

    fn lock(&self, digest: &Digest) -> io::Result<Turn> {
        let path = self.path(digest).with_extension("lock");
        fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(&path)?;
        Ok(Turn { _lock: Locked::new(file)?, path })
    }

    /// Says that the cache is of no use, now and then.
    fn tell(&self, what: &str, error: &io::Error) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() > TOLD) {
            *told = Some(Instant::now());
            tracing::warn!("the cache {} cannot {what}, and is left out: {error}", self.dir.display());
        }
    }
}

/// Opens a regular file that is no link, and does not wait for one that is a pipe.
fn open(path: &Path) -> io::Result<File> {
    open_regular_with(path, OFlags::NOFOLLOW)
}

/// Whether a file of this name is a whole content: it is called by its digest alone, in the directory of its beginning.
fn is_content(dir: &OsStr, name: &OsStr) -> bool {
    is_hex(name, 64) && name.as_encoded_bytes().starts_with(dir.as_encoded_bytes())
}

/// Whether a file is a lock, or was about to become a content.
fn is_leftover(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default();
    let hidden =
        || stem.as_encoded_bytes().strip_prefix(b".").is_some_and(|rest| rest.len() == 32 && all_hex(rest));
    match path.extension().and_then(OsStr::to_str) {
        Some("lock") => is_hex(stem, 64),
        Some("tmp") => hidden(),
        _ => false,
    }
}

fn is_hex(name: &OsStr, length: usize) -> bool {
    name.len() == length && all_hex(name.as_encoded_bytes())
}

fn all_hex(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_hexdigit)
}
