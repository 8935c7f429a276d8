//! The receiving side of local events: any number of processes on one machine compete by file locks.
//!
//! `ROOT/groups/GROUP/claims/MESSAGE.json` is locked by whoever works on a message, and moved to `…/acked` when it is
//! settled. The kernel drops the lock of a process that ends, however it ends, and tells the others that its file was
//! closed: nobody looks again and again. Nothing here is synced: an acknowledgement that a power cut takes back is a
//! delivery whose execution has its outcome.

use std::collections::{BinaryHeap, VecDeque};
use std::fs::{self, File, ReadDir};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::super::source::{Delivery, EventSource, Subscription, not_held};
use super::Local;
use crate::brief;
use crate::contract::{Event, EventId};
use crate::error::Result;
use crate::local_dir::{self, store_error};
use crate::lock::Locked;
use crate::os::{Change, Changes, Told, Watched};

/// Names that wait to be looked at; beyond that many the directory itself is read again.
const WAITING: usize = 10_000;

/// How soon a lock is tried again whose holder was seen to end: the kernel tells of it just before it lets go.
const LETTING_GO: Duration = Duration::from_millis(10);

/// A member of a group; the slots of one process share it.
#[derive(Debug)]
pub(super) struct Source {
    store: Local,
    queue: Arc<Mutex<Queue>>,
    /// The kernel's word that there is something to hear.
    told: Told,
    /// Wakes one that waits, for what another has heard of and leaves.
    next: Notify,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait]
impl EventSource for Source {
    async fn receive(&self, wait: Duration) -> Result<Option<Box<dyn Delivery>>> {
        let deadline = Instant::now() + wait;
        let held = loop {
            let queue = self.queue.clone();
            let look = brief(move || {
                let mut queue = locked(&queue);
                Ok((queue.next()?.map(Unheard::new), queue.due()))
            });
            let (found, due) = look.await?;
            if found.is_some() && due.is_some() {
                self.next.notify_one();
            }
            if found.is_some() || Instant::now() >= deadline {
                break found;
            }
            self.sleep(due.unwrap_or(deadline).min(deadline)).await?;
        };
        Ok(held.map(Unheard::heard).map(|(event, held)| {
            let delivery: Box<dyn Delivery> = Box::new(Claimed {
                store: self.store.clone(),
                event,
                again: held.again,
                published: held.published,
                message_id: held.claim.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
                held: Arc::new(Mutex::new(Some(held))),
            });
            delivery
        }))
    }

    fn due_in(&self) -> Option<Duration> {
        let queue = locked(&self.queue);
        queue.later.peek().map(|next| next.0.0.saturating_duration_since(Instant::now()))
    }

    fn has_settled(&self, event: &EventId) -> bool {
        let queue = locked(&self.queue);
        let is_settled = |name: &str| queue.acked.join(name).exists();
        // What was redriven has a name of its own.
        let is_open = |name: &str| name.starts_with("redriven~") && !is_settled(name);
        let mut names = fs::read_dir(&self.store.dir).into_iter().flatten().flatten();
        is_settled(&format!("{event}.json"))
            && !names.any(|entry| entry.file_name().to_str().is_some_and(is_open))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source {
    /// Waits until the kernel has something to tell, or another member leaves something.
    async fn sleep(&self, until: Instant) -> Result<()> {
        /// Whoever does not wait to the end leaves it to another.
        struct Leaving<'s>(&'s Notify);
        impl Drop for Leaving<'_> {
            fn drop(&mut self) {
                self.0.notify_one();
            }
        }
        let leaving = Leaving(&self.next);
        // A look at files that are due just now would be made again and again.
        let until = until.max(Instant::now() + Duration::from_millis(1));
        let woken = tokio::select! {
            told = self.told.told() => told,
            () = self.next.notified() => Ok(()),
            () = tokio::time::sleep_until(until.into()) => Ok(()),
        };
        std::mem::forget(leaving);
        woken.map_err(store_error(&self.store, "watch", &self.store.dir))
    }

    /// Joins a group, whose directories are made when they are absent. Blocks.
    pub(super) fn open(store: &Local, subscription: &Subscription) -> Result<Self> {
        let group = store.groups().join(subscription.group.as_str());
        let (claims, acked) = (group.join("claims"), group.join("acked"));
        let (changes, told) = Changes::new().map_err(store_error(store, "watch", &store.dir))?;
        let mut queue = Queue {
            store: store.clone(),
            subscription: subscription.clone(),
            claims,
            acked,
            changes,
            scan: None,
            rescan: true,
            arrived: VecDeque::new(),
            later: BinaryHeap::new(),
            is_watching: false,
        };
        queue.watch()?;
        Ok(Self { store: store.clone(), queue: Arc::new(Mutex::new(queue)), told, next: Notify::new() })
    }
}

/// What is known of messages that may be claimed.
#[derive(Debug)]
struct Queue {
    store: Local,
    subscription: Subscription,
    claims: PathBuf,
    acked: PathBuf,
    changes: Changes,
    /// The look at the whole directory that is under way.
    scan: Option<ReadDir>,
    /// Whether another one is needed.
    rescan: bool,
    /// Files that the kernel told of.
    arrived: VecDeque<String>,
    /// Files to be looked at later, the soonest first.
    later: BinaryHeap<std::cmp::Reverse<(Instant, String)>>,
    /// Whether the kernel reports changes of both directories: it stops when they are removed.
    is_watching: bool,
}

/// Whether a message can be claimed.
enum Claim {
    Got(Box<(Event, Held)>),
    /// It is settled or not wanted.
    No,
    /// A member holds it, and will be seen to end.
    Busy,
    Later(Instant),
}

impl Queue {
    /// The next message that can be claimed now. Blocks.
    fn next(&mut self) -> Result<Option<(Event, Held)>> {
        local_dir::present(&self.store, &self.store.dir)?;
        self.hear()?;
        if !self.is_watching {
            self.watch()?;
        }
        while let Some((name, told)) = self.candidate()? {
            match self.claim(&name)? {
                Claim::Got(claimed) => return Ok(Some(*claimed)),
                Claim::Busy if told => {
                    self.later.push(std::cmp::Reverse((Instant::now() + LETTING_GO, name)));
                }
                Claim::No | Claim::Busy => {}
                Claim::Later(_) if self.later.len() >= WAITING => self.rescan = true,
                Claim::Later(when) => self.later.push(std::cmp::Reverse((when, name))),
            }
        }
        Ok(None)
    }

    /// Asks the kernel to report what comes from now on; what is there already is looked at after that.
    fn watch(&mut self) -> Result<()> {
        for dir in [&self.claims, &self.acked] {
            fs::create_dir_all(dir).map_err(store_error(&self.store, "create", dir))?;
        }
        for (dir, what) in [(&self.store.dir, Watched::Arrivals), (&self.claims, Watched::Closes)] {
            self.changes.watch(dir, what).map_err(store_error(&self.store, "watch", dir))?;
        }
        (self.is_watching, self.rescan) = (true, true);
        Ok(())
    }

    /// When there will be something to look at that is known of already.
    fn due(&self) -> Option<Instant> {
        let now = self.rescan || self.scan.is_some() || !self.arrived.is_empty();
        now.then(Instant::now).or_else(|| self.later.peek().map(|next| next.0.0))
    }

    /// The next file to look at, of those that are due, and whether the kernel told of it just now.
    fn candidate(&mut self) -> Result<Option<(String, bool)>> {
        if self.later.peek().is_some_and(|next| next.0.0 <= Instant::now()) {
            return Ok(self.later.pop().map(|next| (next.0.1, false)));
        }
        if let Some(name) = self.arrived.pop_front() {
            return Ok(Some((name, true)));
        }
        loop {
            if self.scan.is_none() && std::mem::take(&mut self.rescan) {
                let dir = &self.store.dir;
                self.scan = Some(fs::read_dir(dir).map_err(store_error(&self.store, "read", dir))?);
            }
            let Some(scan) = &mut self.scan else { return Ok(None) };
            match scan.next() {
                Some(entry) => {
                    let entry = entry.map_err(store_error(&self.store, "read", &self.store.dir))?;
                    if let Ok(name) = entry.file_name().into_string() {
                        return Ok(Some((name, false)));
                    }
                }
                None => self.scan = None,
            }
        }
    }

    /// Claims a message for this process.
    fn claim(&mut self, name: &str) -> Result<Claim> {
        // What is being written has no such name yet.
        if !name.ends_with(".json") || self.acked.join(name).exists() {
            return Ok(Claim::No);
        }
        let path = self.store.dir.join(name);
        let Some(bytes) = local_dir::read(&self.store, &path)? else { return Ok(Claim::No) };
        let event = match self.store.format.decode(&bytes) {
            Ok(event) => event,
            Err(error) => {
                tracing::error!("{} is no event and is left alone: {error}", path.display());
                return Ok(Claim::No);
            }
        };
        if !self.subscription.wants(&event.event_type) {
            return Ok(Claim::No);
        }
        match Held::take(&self.claims.join(name), &self.acked.join(name)) {
            Ok(Taken::Held(mut held)) => {
                held.published = fs::metadata(&path).and_then(|file| file.modified()).ok();
                Ok(Claim::Got(Box::new((event, held))))
            }
            Ok(Taken::Later(when)) => Ok(Claim::Later(when)),
            Ok(Taken::Busy) => Ok(Claim::Busy),
            Ok(Taken::Settled) => Ok(Claim::No),
            Err(error) => Err(store_error(&self.store, "claim", &path)(error)),
        }
    }

    /// Takes what the kernel has to tell.
    fn hear(&mut self) -> Result<()> {
        let Self { changes, arrived, rescan, is_watching, .. } = self;
        let heard = changes.read(|change| match change {
            Change::Name(name) if arrived.len() < WAITING => arrived.push_back(name),
            // Whatever it was, it lies in the directory.
            Change::Name(_) | Change::Lost => *rescan = true,
            Change::Unwatched => *is_watching = false,
        });
        heard.map_err(store_error(&self.store, "watch", &self.store.dir))
    }
}

/// A claim on a message. The lock is dropped before the file is closed that the others watch.
#[derive(Debug)]
struct Held {
    _lock: Locked<File>,
    writer: File,
    claim: PathBuf,
    acked: PathBuf,
    /// Whether it was claimed before.
    again: bool,
    /// When its file was written.
    published: Option<SystemTime>,
}

enum Taken {
    Held(Held),
    Busy,
    Settled,
    Later(Instant),
}

/// A claim on its way to whoever asked. If nobody waits for it any more, it was none: the next one is the first.
struct Unheard(Option<(Event, Held)>);

impl Unheard {
    fn new(claimed: (Event, Held)) -> Self {
        Self(Some(claimed))
    }

    fn heard(mut self) -> (Event, Held) {
        match self.0.take() {
            Some(claimed) => claimed,
            None => unreachable!("it is taken once"),
        }
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        if let Some((_, held)) = &self.0
            && !held.again
        {
            // If that fails, it counts as an attempt.
            let _ = held.writer.set_len(0);
        }
    }
}

impl Held {
    fn take(claim: &Path, acked: &Path) -> io::Result<Taken> {
        // Who only tries must not be heard: it opens nothing for writing.
        let file = match File::open(claim) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match rustix::fs::open(
                    claim,
                    rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CREATE | rustix::fs::OFlags::CLOEXEC,
                    rustix::fs::Mode::from_raw_mode(0o644),
                ) {
                    Ok(file) => File::from(file),
                    Err(error) => return Err(error.into()),
                }
            }
            opened => opened?,
        };
        let lock = match Locked::new(file) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Taken::Busy),
            locked => locked?,
        };
        // Whoever held it may have settled it after it was opened here.
        if acked.exists() {
            return Ok(Taken::Settled);
        }
        let mut text = String::new();
        (&*lock).read_to_string(&mut text)?;
        let due = UNIX_EPOCH + Duration::from_millis(text.trim().parse().unwrap_or(0));
        if let Ok(left) = due.duration_since(SystemTime::now()) {
            return Ok(Taken::Later(Instant::now() + left));
        }
        let mut writer = File::options().write(true).open(claim)?;
        // Under the lock: whoever made the file need not be who holds it.
        let again = !text.is_empty();
        if !again {
            writer.write_all(b"0")?;
        }
        Ok(Taken::Held(Self {
            _lock: lock,
            writer,
            claim: claim.to_owned(),
            acked: acked.to_owned(),
            again,
            published: None,
        }))
    }

    fn settle(self) -> io::Result<()> {
        fs::rename(&self.claim, &self.acked)
    }

    /// It may be claimed from `after` on; all members hear of it.
    fn give_back(mut self, after: Duration) -> io::Result<()> {
        let due = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + after;
        self.writer.rewind()?;
        self.writer.set_len(0)?;
        self.writer.write_all(due.as_millis().to_string().as_bytes())
    }
}

#[derive(Debug)]
struct Claimed {
    store: Local,
    event: Event,
    again: bool,
    published: Option<SystemTime>,
    message_id: String,
    held: Arc<Mutex<Option<Held>>>,
}

impl Claimed {
    async fn end(
        &self,
        action: &'static str,
        end: impl FnOnce(Held) -> io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let held = locked(&self.held).take().ok_or_else(|| not_held(&self.store, &self.event))?;
        let (store, claim) = (self.store.clone(), held.claim.clone());
        brief(move || end(held).map_err(store_error(&store, action, &claim))).await
    }
}

#[async_trait]
impl Delivery for Claimed {
    fn event(&self) -> &Event {
        &self.event
    }

    fn message_id(&self) -> Option<&str> {
        Some(&self.message_id)
    }

    fn redelivered(&self) -> Option<bool> {
        Some(self.again)
    }

    fn published(&self) -> Option<SystemTime> {
        self.published
    }

    fn lock(&self) -> Option<Duration> {
        None
    }

    async fn renew(&self) -> Result<()> {
        match &*locked(&self.held) {
            Some(_) => Ok(()),
            None => Err(not_held(&self.store, &self.event)),
        }
    }

    async fn ack(&self) -> Result<()> {
        self.end("settle", Held::settle).await
    }

    async fn retry(&self, after: Duration) -> Result<()> {
        self.end("give back", move |held| held.give_back(after)).await
    }
}
