//! A data plane as it is written down: a URL for each kind of data, and what holds for all three.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Policies;
#[cfg(feature = "local")]
use super::text;
use crate::error::Result;
use crate::events::EventFormat;

/// How long signed URIs are valid by default.
const DEFAULT_EXPIRY: Duration = Duration::from_secs(3600);
/// The most that S3 and Google sign for.
pub(super) const LONGEST_EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where the three kinds of data go, and how patiently providers are called.
#[non_exhaustive]
#[derive(Clone)]
pub struct Config {
    /// Where files go: `file:///dir`, `memory:`, `s3:`, `az:` or `gs:`.
    pub blobs: String,
    /// Where insights and event contexts go: `file:///dir`, `memory:`, `mongodb:` or `postgres:`.
    pub documents: String,
    /// Where events go: `file:///dir`, `memory:`, `servicebus:`, `nats:` or `amqp:`.
    pub events: String,
    /// The stores whose objects events may refer to: `s3:`, `az:`, `gs:` or `file:///dir`; they are only read.
    pub references: Vec<String>,
    /// The policies around providers on the network; local ones and memory have none.
    pub policies: Policies,
    /// What events look like on the bus.
    pub event_format: EventFormat,
    /// How long signed URIs are valid; at most seven days.
    pub uri_expiry: Duration,
    /// Certificates to trust besides the system's, as PEM.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for Config {
    /// Without the URLs, which may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("policies", &self.policies)
            .field("event_format", &self.event_format)
            .field("uri_expiry", &self.uri_expiry)
            .field("ca_file", &self.ca_file)
            .finish_non_exhaustive()
    }
}

/// A part of the credentials that a URL does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Credential {
    /// The id of the access key for `s3:`; without it the environment or the machine's role decides.
    S3AccessKeyId,
    /// The secret of the access key for `s3:`.
    S3SecretAccessKey,
    /// The storage account for an `az:` URL without `?account=`.
    AzureAccount,
    /// The account's key for `az:`, in base 64.
    AzureKey,
    /// A shared access signature for `az:` instead of a key.
    AzureSas,
    /// Account, key or signature, and endpoint for `az:`, as Azure's portal shows them together.
    AzureConnectionString,
    /// The password for a `mongodb:` URL that names a user without one.
    MongoPassword,
    /// The authorization rule for a `servicebus:` URL without `?rule=`.
    ServiceBusRule,
    /// The rule's key for `servicebus:`.
    ServiceBusKey,
}

impl Credential {
    pub(super) const ALL: [(Setting, Self); 9] = [
        (Setting::Blobs, Self::S3AccessKeyId),
        (Setting::Blobs, Self::S3SecretAccessKey),
        (Setting::Blobs, Self::AzureAccount),
        (Setting::Blobs, Self::AzureKey),
        (Setting::Blobs, Self::AzureSas),
        (Setting::Blobs, Self::AzureConnectionString),
        (Setting::Documents, Self::MongoPassword),
        (Setting::Events, Self::ServiceBusRule),
        (Setting::Events, Self::ServiceBusKey),
    ];
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::S3AccessKeyId => "the access key's id",
            Self::S3SecretAccessKey => "the access key's secret",
            Self::AzureAccount => "the storage account",
            Self::AzureKey => "the account's key",
            Self::AzureSas => "the shared access signature",
            Self::AzureConnectionString => "the connection string",
            Self::MongoPassword => "the password",
            Self::ServiceBusRule => "the authorization rule",
            Self::ServiceBusKey => "the rule's key",
        })
    }
}

/// The setting that a [`Mistake`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Setting {
    /// [`Config::blobs`].
    Blobs,
    /// [`Config::documents`].
    Documents,
    /// [`Config::events`].
    Events,
    /// [`Config::references`].
    References,
    /// [`Config::uri_expiry`].
    UriExpiry,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blobs => "blobs",
            Self::Documents => "documents",
            Self::Events => "events",
            Self::References => "references",
            Self::UriExpiry => "uri-expiry",
        })
    }
}

/// Something wrong with a [`Config`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The setting to change.
    pub setting: Setting,
    /// What is wrong with it, without any secret.
    pub problem: String,
    /// The credential that is missing, if that is the problem.
    pub missing: Option<Credential>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.problem)
    }
}

impl Config {
    /// These three URLs, with the default policies.
    pub fn new(blobs: impl Into<String>, documents: impl Into<String>, events: impl Into<String>) -> Self {
        Self {
            blobs: blobs.into(),
            documents: documents.into(),
            events: events.into(),
            references: Vec::new(),
            policies: Policies::default(),
            event_format: EventFormat::default(),
            uri_expiry: DEFAULT_EXPIRY,
            ca_file: None,
        }
    }
}

/// What the URL of a store is parsed with.
pub(super) struct Given<'g> {
    pub(super) config: &'g Config,
    pub(super) credential: &'g dyn Fn(Credential) -> Option<String>,
}

/// Why a URL cannot be used.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) text: String,
    pub(super) missing: Option<Credential>,
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self { text, missing: None }
    }
}

impl From<&str> for Problem {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Problem {
    pub(super) fn missing(credential: Credential, text: &str) -> Self {
        Self { text: text.into(), missing: Some(credential) }
    }
}

/// A provider on the network that was made once, so that its settings are known to be right; who opens it again gets
/// another. It is not kept: a connection lives as long as somebody uses it.
pub(super) struct Opener<P, F> {
    first: Mutex<Option<P>>,
    open: F,
}

impl<P, F: Fn() -> Result<P>> Opener<P, F> {
    pub(super) fn new(open: F) -> Result<Self, Problem> {
        let first = open().map_err(|error| error.chain())?;
        Ok(Self { first: Mutex::new(Some(first)), open })
    }

    pub(super) fn open(&self) -> Result<P> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.map_or_else(&self.open, Ok)
    }
}

/// A store that is not open yet.
pub(super) struct Store<P: ?Sized> {
    pub(super) url: String,
    pub(super) directories: Vec<PathBuf>,
    pub(super) open: Box<dyn Fn() -> Result<Arc<P>> + Send + Sync>,
}

impl<P: ?Sized> Store<P> {
    /// A store elsewhere.
    pub(super) fn new(url: String, open: impl Fn() -> Result<Arc<P>> + Send + Sync + 'static) -> Self {
        Self { url, directories: Vec::new(), open: Box::new(open) }
    }

    /// A store in these directories below `root`.
    #[cfg(feature = "local")]
    pub(super) fn local(
        root: PathBuf,
        directories: &[&str],
        open: impl Fn(&std::path::Path) -> Result<Arc<P>> + Send + Sync + 'static,
    ) -> Self {
        let directories = directories.iter().map(|dir| root.join(dir)).collect();
        Self { url: text::file_url(&root), directories, open: Box::new(move || open(&root)) }
    }
}
