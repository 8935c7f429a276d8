//! The three providers together, and how URLs and policies become them.
//!
//! A [`Config`] is parsed first, so that everything wrong with it is reported at once and before anything is
//! created; what comes of that, [`Unopened`], is opened into a [`DataPlane`].

#![cfg_attr(
    not(all(
        any(feature = "memory", feature = "local"),
        any(feature = "s3", feature = "azure", feature = "gcs"),
        feature = "mongodb",
        feature = "servicebus"
    )),
    allow(dead_code, unused_imports, unused_variables, reason = "a build without some providers needs less")
)]

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;
use tracing::debug;

use crate::blob::References;
use crate::error::{Error, Result};
use crate::{BlobProvider, DocumentProvider, EventProvider};

mod blobs;
mod config;
mod documents;
mod events;
#[cfg(feature = "fault-points")]
mod faulty;
mod overlap;
mod places;
mod policies;
mod text;
mod unopened;

pub use config::{Config, Credential, Mistake, Setting};
pub use overlap::overlaps;
#[cfg(feature = "worker")]
pub(crate) use places::Places;
pub use policies::Policies;
pub use text::{counted, is_misspelling, nearest, without_credentials};
pub use unopened::Unopened;

/// The schemes of all stores on the network, whether this build has them or not.
#[cfg(test)]
pub(crate) fn schemes() -> impl Iterator<Item = &'static str> {
    blobs::SCHEMES.into_iter().chain(documents::SCHEMES).chain(events::SCHEMES)
}

/// Where files, documents and events go; clones share the providers.
#[derive(Debug, Clone)]
pub struct DataPlane {
    /// Where files go.
    pub blobs: Arc<dyn BlobProvider>,
    /// Where insights and event contexts go.
    pub documents: Arc<dyn DocumentProvider>,
    /// Where events go.
    pub events: Arc<dyn EventProvider>,
    /// Where events may refer to: nowhere, unless somebody says so.
    pub references: References,
}

impl fmt::Display for DataPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}; {}", self.blobs, self.documents, self.events)
    }
}

impl DataPlane {
    /// A data plane of these three.
    pub fn new(
        blobs: impl BlobProvider,
        documents: impl DocumentProvider,
        events: impl EventProvider,
    ) -> Self {
        Self {
            blobs: Arc::new(blobs),
            documents: Arc::new(documents),
            events: Arc::new(events),
            references: References::default(),
        }
    }

    /// The data plane that three URLs name; providers on the network get the policies of `config` around them.
    ///
    /// `credential` is asked for what the URLs do not hold; whether it reads the environment, a file or a vault
    /// is the caller's choice. Nothing is connected yet: call [`check`](Self::check) before relying on it.
    ///
    /// ```
    /// use sidecar_core::{DataPlane, plane::Config};
    /// let plane = DataPlane::from_urls(&Config::new("memory:", "memory:", "memory:"), |_| None)?;
    /// let error = DataPlane::from_urls(&Config::new("ftp://host", "memory:", "nonsense"), |_| None).unwrap_err();
    /// assert!(error.chain().contains("blobs: ") && error.chain().contains("events: "));
    /// # Ok::<(), sidecar_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Settings`] with every mistake in the URLs, or what a provider reports when it is opened.
    pub fn from_urls(config: &Config, credential: impl Fn(Credential) -> Option<String>) -> Result<Self> {
        let unopened = config.parse(credential).map_err(|mistakes| {
            let mistakes: Vec<_> = mistakes.iter().map(Mistake::to_string).collect();
            Error::settings(&"the data plane", mistakes.join("; "))
        })?;
        unopened.open()
    }

    /// The embedded default: readable files under one directory, created when absent.
    ///
    /// # Errors
    /// [`Error::Io`] when a directory cannot be created.
    #[cfg(feature = "local")]
    pub fn local(root: impl AsRef<std::path::Path>) -> Result<Self> {
        let root = root.as_ref();
        Ok(Self::new(
            crate::blob::Local::open(root)?,
            crate::documents::Local::open(root)?,
            crate::events::Local::open(root)?,
        ))
    }

    /// A data plane that lives as long as the process.
    #[cfg(feature = "memory")]
    pub fn memory() -> Self {
        Self::new(
            crate::blob::Memory::default(),
            crate::documents::Memory::default(),
            crate::events::Memory::default(),
        )
    }

    /// The identities of the three stores in one text, which a journal compares.
    pub fn id(&self) -> String {
        format!("{}; {}; {}", self.blobs.id(), self.documents.id(), self.events.id())
    }

    /// The directories of this machine in which the stores keep data, each with the store's name.
    pub fn directories(&self) -> Vec<(String, PathBuf)> {
        let named = |name: String, dirs: Vec<PathBuf>| dirs.into_iter().map(move |dir| (name.clone(), dir));
        named(self.blobs.to_string(), self.blobs.directories())
            .chain(named(self.documents.to_string(), self.documents.directories()))
            .chain(named(self.events.to_string(), self.events.directories()))
            .collect()
    }

    /// Checks all three providers at the same time: reachable, authorised, their containers, tables and streams
    /// there or created.
    ///
    /// # Errors
    /// The error of each provider that cannot be used. After the first permanent one the remaining checks have 1 s; those that
    /// are not finished then are not reported.
    pub async fn check(&self) -> Result<(), Vec<Error>> {
        let mut checks = FuturesUnordered::from_iter([
            named(0, self.blobs.to_string(), self.blobs.check()),
            named(1, self.documents.to_string(), self.documents.check()),
            named(2, self.events.to_string(), self.events.check()),
        ]);
        let mut errors = Vec::new();
        // What waiting does not help is not waited for.
        let mut patience = None;
        loop {
            let checked = match patience {
                None => checks.next().await,
                Some(end) => tokio::time::timeout_at(end, checks.next()).await.unwrap_or_default(),
            };
            match checked {
                None => break,
                Some((_, name, Ok(()))) => debug!("{name}: usable"),
                Some((place, _, Err(error))) => {
                    if !error.is_retryable() {
                        patience.get_or_insert_with(|| Instant::now() + REST);
                    }
                    errors.push((place, error));
                }
            }
        }
        errors.sort_by_key(|(place, _)| *place);
        if errors.is_empty() { Ok(()) } else { Err(errors.into_iter().map(|(_, error)| error).collect()) }
    }
}

/// How long the other providers may take once one cannot be used at all.
const REST: Duration = Duration::from_secs(1);

/// A check with its place among the errors, and the name of what is checked.
fn named<'c>(
    place: usize,
    name: String,
    check: impl Future<Output = Result<()>> + Send + 'c,
) -> BoxFuture<'c, (usize, String, Result<()>)> {
    async move { (place, name, check.await) }.boxed()
}

#[cfg(feature = "fault-points")]
use faulty::faulty;

/// In a release nothing fails on demand.
#[cfg(not(feature = "fault-points"))]
fn faulty<P>(provider: P) -> P {
    provider
}
