//! The data plane that the settings name: URLs, and the original's flags as another spelling of them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[cfg(any(feature = "s3", feature = "azure", feature = "postgres", feature = "nats"))]
use sidecar_core::wrappers::{Retry, Timeout};
use sidecar_core::{
    BlobProvider, DataPlane, DocumentProvider, Error, EventProvider, Result, blob, documents, events,
};
use url::Url;

use crate::cli::Options;
use crate::config::{DEV_DIR, Errors};

/// Where one kind of data goes.
#[derive(Clone)]
pub(crate) enum Place {
    /// Readable files under this directory.
    Local(PathBuf),
    /// As long as the process lives.
    Memory,
    /// Blobs in a bucket of S3 or a compatible store.
    #[cfg(feature = "s3")]
    S3(Url, blob::S3Config),
    /// Blobs in a container of Azure Blob Storage.
    #[cfg(feature = "azure")]
    Azure(Url, blob::AzureConfig),
    /// Documents in a database of PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(documents::Postgres),
    /// Events in a stream of NATS JetStream.
    #[cfg(feature = "nats")]
    Nats(events::Nats),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(dir) => {
                let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
                match Url::from_directory_path(&absolute) {
                    Ok(url) => f.write_str(url.as_str()),
                    Err(()) => write!(f, "file:{}", dir.display()),
                }
            }
            Self::Memory => f.write_str("memory:"),
            #[cfg(feature = "s3")]
            Self::S3(root, config) => {
                let mut url = root.clone();
                let settings = [("endpoint", &config.endpoint), ("region", &config.region)];
                let set = settings.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
                url.query_pairs_mut().extend_pairs(set);
                f.write_str(url.as_str().trim_end_matches('?'))
            }
            #[cfg(feature = "azure")]
            Self::Azure(root, _) => f.write_str(root.as_str()),
            #[cfg(feature = "postgres")]
            Self::Postgres(provider) => provider.fmt(f),
            #[cfg(feature = "nats")]
            Self::Nats(provider) => provider.fmt(f),
        }
    }
}

/// Where all three kinds go, and how patiently.
#[derive(Clone)]
pub(crate) struct PlaneConfig {
    pub(crate) blobs: Place,
    pub(crate) documents: Place,
    pub(crate) events: Place,
    /// How long a call may go on without an answer, or a transfer without moving.
    pub(crate) timeout: Duration,
    /// How long a provider that is away is tried again.
    pub(crate) retry_for: Duration,
    /// How long a signed URI is valid.
    pub(crate) uri_expiry: Duration,
}

/// Schemes that this project knows but this build has no provider for.
const PLANNED: [&str; 9] =
    ["s3", "az", "gs", "mongodb", "mongodb+srv", "postgres", "servicebus", "nats", "amqp"];

/// One switch of the original with the flags that it needs.
struct IonProvider<'o> {
    flag: &'static str,
    replaces: &'static str,
    enabled: &'o Option<String>,
    /// Whether this build has it.
    built: bool,
    /// Whether a URL names the same provider.
    url: bool,
    required: Vec<(&'static str, &'o Option<String>)>,
}

/// The places that `options` name; what is wrong with them goes to `errors`.
pub(crate) fn parse(options: &Options, development: bool, errors: &mut Errors) -> Option<PlaneConfig> {
    let [azure, mongodb, servicebus] = ion_providers(options).map(|provider| ion(&provider, errors));
    // Another spelling of the same URL.
    let container = options.azureblobprovider_containername.as_ref().filter(|_| azure);
    if azure && options.blobs.is_some() {
        errors.push("azureblobprovider", "says where files go, and so does --blobs: leave one out");
    }
    let ion_blobs = container.map(|container| format!("az://{container}/"));
    let blobs = options.blobs.clone().or(ion_blobs);
    if let Some(port) = options.mongodbdocprovider_port.as_ref().filter(|port| port.parse::<u16>().is_err()) {
        errors.push("mongodbdocprovider.port", format!("{port:?} is no port number"));
    }
    let mut place = |flag: &str, url: &Option<String>, ion: bool| match url {
        Some(url) => place(flag, url, options).map_err(|problem| errors.push(flag, problem)).ok(),
        None if development => Some(Place::Local(PathBuf::from(DEV_DIR))),
        // The original's switch was reported already.
        None if ion => None,
        None => {
            errors.push(flag, format!("is required; say --{flag} file:///some/dir, or --development=true"));
            None
        }
    };
    let blobs = place("blobs", &blobs, azure);
    let documents = place("documents", &options.documents, mongodb);
    let events = place("events", &options.events, servicebus);
    let timeout = errors.duration("timeout", &options.timeout, Duration::from_secs(60));
    let retry_for = errors.duration("retry-for", &options.retry_for, Duration::from_secs(60));
    let uri_expiry = errors.duration("uri-expiry", &options.uri_expiry, Duration::from_secs(3600));
    Some(PlaneConfig {
        blobs: blobs?,
        documents: documents?,
        events: events?,
        timeout,
        retry_for,
        uri_expiry,
    })
}

fn place(flag: &str, url: &str, options: &Options) -> Result<Place, String> {
    let (scheme, rest) =
        url.split_once(':').ok_or_else(|| format!("{url:?} is no URL such as file:///some/dir"))?;
    match scheme {
        "file" if rest.starts_with("///") => Url::parse(url)
            .ok()
            .and_then(|url| url.to_file_path().ok())
            .map(Place::Local)
            .ok_or_else(|| format!("{url:?} names no directory")),
        "file" if !rest.is_empty() && !rest.starts_with("//") => Ok(Place::Local(PathBuf::from(rest))),
        "file" => Err(format!("{url:?} names no directory: say file:///absolute or file:relative")),
        "memory" => Ok(Place::Memory),
        #[cfg(feature = "s3")]
        "s3" if flag == "blobs" => s3(url),
        #[cfg(feature = "azure")]
        "az" if flag == "blobs" => azure(url, options),
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" if flag == "documents" => postgres(url),
        #[cfg(feature = "nats")]
        "nats" | "tls" if flag == "events" => nats(url),
        known if PLANNED.contains(&known) => {
            let _ = options;
            Err(format!("this build keeps no {flag} in {known}: URLs; file: and memory: it does"))
        }
        unknown => Err(format!("{unknown:?} is no scheme of a provider; file: and memory: are")),
    }
}

/// The bucket's URL without its query, and the query.
#[cfg(any(feature = "s3", feature = "azure"))]
fn bucket(url: &str) -> Result<(Url, Vec<(String, String)>), String> {
    let mut root = Url::parse(url)
        .map_err(|error| format!("{error}: say s3://bucket/prefix or az://container/prefix"))?;
    if root.host_str().is_none_or(str::is_empty) {
        return Err("names no bucket".into());
    }
    if !root.username().is_empty() || root.password().is_some() {
        return Err("holds credentials: give them in the environment instead, where no log shows them".into());
    }
    let query = root.query_pairs().into_owned().collect();
    root.set_query(None);
    Ok((root, query))
}

#[cfg(feature = "s3")]
fn s3(url: &str) -> Result<Place, String> {
    let (root, query) = bucket(url)?;
    let mut config = blob::S3Config::default();
    for (name, value) in query {
        match name.as_str() {
            "endpoint" => config.endpoint = Some(value),
            "region" => config.region = Some(value),
            _ => return Err(format!("{name:?} is none of endpoint, region")),
        }
    }
    Ok(Place::S3(root, config))
}

#[cfg(feature = "azure")]
fn azure(url: &str, options: &Options) -> Result<Place, String> {
    let (root, query) = bucket(url)?;
    let mut config = blob::AzureConfig {
        account: options.azureblobprovider_blobaccountname.clone(),
        key: options.azureblobprovider_blobaccountkey.clone(),
        ..blob::AzureConfig::default()
    };
    for (name, value) in query {
        match name.as_str() {
            "endpoint" => config.endpoint = Some(value),
            "account" => config.account = Some(value),
            _ => return Err(format!("{name:?} is none of account, endpoint")),
        }
    }
    Ok(Place::Azure(root, config))
}

#[cfg(feature = "postgres")]
fn postgres(url: &str) -> Result<Place, String> {
    let url = Url::parse(url).map_err(|error| format!("{error}: say postgres://user@host/database"))?;
    documents::Postgres::open(&url).map(Place::Postgres).map_err(|error| error.chain())
}

#[cfg(feature = "nats")]
fn nats(url: &str) -> Result<Place, String> {
    let mut server =
        Url::parse(url).map_err(|error| format!("{error}: say nats://host/subject?stream=NAME"))?;
    let subject = server.path().trim_matches('/').to_owned();
    if subject.is_empty() {
        return Err("names no subject: say nats://host/subject?stream=NAME".into());
    }
    // A stream's name has no dots.
    let (mut stream, mut credentials) = (subject.replace('.', "_"), None);
    for (name, value) in server.query_pairs() {
        match &*name {
            "stream" => stream = value.into_owned(),
            "credentials" => credentials = Some(PathBuf::from(value.into_owned())),
            _ => return Err(format!("{name:?} is none of stream, credentials")),
        }
    }
    server.set_path("");
    server.set_query(None);
    let config = events::NatsConfig { subject, stream, credentials };
    Ok(Place::Nats(events::Nats::open(&server, config)))
}

fn ion_providers(options: &Options) -> [IonProvider<'_>; 3] {
    [
        IonProvider {
            flag: "azureblobprovider",
            replaces: "blobs",
            enabled: &options.azureblobprovider,
            built: cfg!(feature = "azure"),
            url: options.blobs.as_ref().is_some_and(|url| url.starts_with("az:")),
            required: vec![
                ("azureblobprovider.blobaccountname", &options.azureblobprovider_blobaccountname),
                ("azureblobprovider.blobaccountkey", &options.azureblobprovider_blobaccountkey),
                ("azureblobprovider.containername", &options.azureblobprovider_containername),
            ],
        },
        IonProvider {
            flag: "mongodbdocprovider",
            replaces: "documents",
            enabled: &options.mongodbdocprovider,
            built: false,
            url: false,
            required: vec![
                ("mongodbdocprovider.name", &options.mongodbdocprovider_name),
                ("mongodbdocprovider.password", &options.mongodbdocprovider_password),
                ("mongodbdocprovider.collection", &options.mongodbdocprovider_collection),
            ],
        },
        IonProvider {
            flag: "servicebuseventprovider",
            replaces: "events",
            enabled: &options.servicebuseventprovider,
            built: false,
            url: false,
            required: vec![
                ("servicebuseventprovider.namespace", &options.servicebuseventprovider_namespace),
                ("servicebuseventprovider.topic", &options.servicebuseventprovider_topic),
                ("servicebuseventprovider.key", &options.servicebuseventprovider_key),
                (
                    "servicebuseventprovider.authorizationrulename",
                    &options.servicebuseventprovider_authorizationrulename,
                ),
            ],
        },
    ]
}

/// Whether the switch is on.
fn ion(provider: &IonProvider<'_>, errors: &mut Errors) -> bool {
    if errors.switch(provider.flag, provider.enabled) != Some(true) {
        // With a URL of the same provider they are its credentials.
        let unused = provider.required.iter().find(|(_, value)| value.is_some() && !provider.url);
        if let Some((flag, _)) = unused {
            errors.push(flag, format!("has no effect without --{}=true", provider.flag));
        }
        return false;
    }
    for (flag, value) in &provider.required {
        if value.is_none() {
            errors.push(flag, format!("is required by --{}", provider.flag));
        }
    }
    if !provider.built {
        let message =
            format!("this build has no such provider; say --{} file:///some/dir", provider.replaces);
        errors.push(provider.flag, message);
    }
    true
}

/// Opens the three providers; those on the network with a deadline, and with patience.
///
/// # Errors
/// What a provider reports.
pub(crate) fn open(config: &PlaneConfig) -> Result<DataPlane> {
    // `place` lets no other combination through.
    let elsewhere = |kind: &str| Error::Internal(format!("{kind} have no such provider"));
    let blobs: Arc<dyn BlobProvider> = match &config.blobs {
        Place::Local(dir) => Arc::new(blob::Local::open(dir)?),
        Place::Memory => Arc::new(blob::Memory::default()),
        #[cfg(feature = "s3")]
        Place::S3(root, s3) => Arc::new(patient(config, blob::Bucket::s3(root, s3, config.uri_expiry)?)),
        #[cfg(feature = "azure")]
        Place::Azure(root, azure) => {
            Arc::new(patient(config, blob::Bucket::azure(root, azure, config.uri_expiry)?))
        }
        #[allow(unreachable_patterns, reason = "there are more places with more features")]
        _ => return Err(elsewhere("blobs")),
    };
    let documents: Arc<dyn DocumentProvider> = match &config.documents {
        Place::Local(dir) => Arc::new(documents::Local::open(dir)?),
        Place::Memory => Arc::new(documents::Memory::default()),
        #[cfg(feature = "postgres")]
        Place::Postgres(provider) => Arc::new(patient(config, provider.clone())),
        #[allow(unreachable_patterns, reason = "there are more places with more features")]
        _ => return Err(elsewhere("documents")),
    };
    let events: Arc<dyn EventProvider> = match &config.events {
        Place::Local(dir) => Arc::new(events::Local::open(dir)?),
        Place::Memory => Arc::new(events::Memory::default()),
        #[cfg(feature = "nats")]
        Place::Nats(provider) => Arc::new(patient(config, provider.clone())),
        #[allow(unreachable_patterns, reason = "there are more places with more features")]
        _ => return Err(elsewhere("events")),
    };
    Ok(DataPlane { blobs, documents, events })
}

#[cfg(any(feature = "s3", feature = "azure", feature = "postgres", feature = "nats"))]
fn patient<P: fmt::Display>(config: &PlaneConfig, provider: P) -> Retry<Timeout<P>> {
    Retry::new(Timeout::new(provider, config.timeout), config.retry_for)
}
