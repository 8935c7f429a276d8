//! The server: a real provider would reach one over the network.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// The most bytes of one value.
const LARGEST: usize = 1 << 30;

type Values = BTreeMap<String, Arc<[u8]>>;

/// Keys and values, in the order of the keys.
pub type Page = Vec<(String, Arc<[u8]>)>;

/// Values under keys; clones are clients of the same server.
#[derive(Clone, Debug)]
pub struct Server {
    /// `None` is a server that nobody can reach.
    values: Option<Arc<Mutex<Values>>>,
    changed: Arc<Notify>,
}

/// What the server answers when it does not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Nobody answered.
    Down,
    /// The value is larger than the server takes.
    TooLarge,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "connection refused",
            Self::TooLarge => "the value is too large",
        })
    }
}

impl std::error::Error for Failed {}

impl Server {
    /// An empty server.
    pub fn start() -> Self {
        Self { values: Some(Arc::default()), changed: Arc::default() }
    }

    /// A server that cannot be reached.
    pub fn down() -> Self {
        Self { values: None, changed: Arc::default() }
    }

    pub(crate) fn ping(&self) -> Result<(), Failed> {
        self.values().map(drop)
    }

    pub(crate) fn get(&self, key: &str) -> Result<Option<Arc<[u8]>>, Failed> {
        Ok(self.values()?.get(key).cloned())
    }

    pub(crate) fn put(&self, key: &str, value: &[u8]) -> Result<(), Failed> {
        if value.len() > LARGEST {
            return Err(Failed::TooLarge);
        }
        self.values()?.insert(key.to_owned(), value.into());
        self.changed.notify_waiters();
        Ok(())
    }

    /// Stores the value if `old` is what is under the key, and returns whether it was.
    pub(crate) fn replace(&self, key: &str, old: Option<&[u8]>, value: &[u8]) -> Result<bool, Failed> {
        let mut values = self.values()?;
        let is_old = values.get(key).map(|found| &**found) == old;
        if is_old {
            values.insert(key.to_owned(), value.into());
            self.changed.notify_waiters();
        }
        Ok(is_old)
    }

    /// Waits for the next value that is stored from now on.
    pub(crate) fn changed(&self) -> Result<OwnedNotified, Failed> {
        self.ping()?;
        Ok(self.changed.clone().notified_owned())
    }

    /// Stores the value if there is none under the key, and returns whichever is stored.
    pub(crate) fn put_if_absent(&self, key: &str, value: &[u8]) -> Result<Arc<[u8]>, Failed> {
        Ok(self.values()?.entry(key.to_owned()).or_insert_with(|| value.into()).clone())
    }

    pub(crate) fn delete(&self, key: &str) -> Result<(), Failed> {
        self.values()?.remove(key);
        Ok(())
    }

    /// The values whose keys begin with `prefix`, after the key `after`, at most `limit`.
    pub(crate) fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Page, Failed> {
        let values = self.values()?;
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let page = values.range::<str, _>((from, Bound::Unbounded));
        let page = page.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(page.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn values(&self) -> Result<MutexGuard<'_, Values>, Failed> {
        let values = self.values.as_ref().ok_or(Failed::Down)?;
        Ok(values.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
