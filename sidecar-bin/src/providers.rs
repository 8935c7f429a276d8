//! The data plane that the settings name: URLs, and the original's flags as another spelling of them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use sidecar_core::{
    BlobProvider, DataPlane, DocumentProvider, EventProvider, Result, blob, documents, events,
};
use url::Url;

use crate::cli::Options;
use crate::config::{DEV_DIR, Errors};

/// Where one kind of data goes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Place {
    /// Readable files under this directory.
    Local(PathBuf),
    /// As long as the process lives.
    Memory,
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
        }
    }
}

/// Where all three kinds go.
#[derive(Debug, Clone)]
pub(crate) struct PlaneConfig {
    pub(crate) blobs: Place,
    pub(crate) documents: Place,
    pub(crate) events: Place,
}

/// Schemes that this project knows but this build has no provider for.
const PLANNED: [(&str, &[&str]); 3] = [
    ("blobs", &["az", "s3", "gs"]),
    ("documents", &["mongodb", "mongodb+srv", "postgres"]),
    ("events", &["servicebus", "nats", "amqp"]),
];

/// One switch of the original with the flags that it needs.
struct IonProvider<'o> {
    flag: &'static str,
    replaces: &'static str,
    enabled: &'o Option<String>,
    required: Vec<(&'static str, &'o Option<String>)>,
}

/// The places that `options` name; what is wrong with them goes to `errors`.
pub(crate) fn parse(options: &Options, development: bool, errors: &mut Errors) -> Option<PlaneConfig> {
    let [azure, mongodb, servicebus] = ion_providers(options).map(|provider| ion(&provider, errors));
    if let Some(port) = options.mongodbdocprovider_port.as_ref().filter(|port| port.parse::<u16>().is_err()) {
        errors.push("mongodbdocprovider.port", format!("{port:?} is no port number"));
    }
    let mut place = |flag: &str, url: &Option<String>, ion: bool| match url {
        Some(url) => place(url).map_err(|problem| errors.push(flag, problem)).ok(),
        None if development => Some(Place::Local(PathBuf::from(DEV_DIR))),
        // The original's switch was reported already.
        None if ion => None,
        None => {
            errors.push(flag, format!("is required; say --{flag} file:///some/dir, or --development=true"));
            None
        }
    };
    let blobs = place("blobs", &options.blobs, azure);
    let documents = place("documents", &options.documents, mongodb);
    let events = place("events", &options.events, servicebus);
    Some(PlaneConfig { blobs: blobs?, documents: documents?, events: events? })
}

fn place(url: &str) -> Result<Place, String> {
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
        planned if PLANNED.iter().any(|(_, schemes)| schemes.contains(&planned)) => {
            Err(format!("this build has no provider for {planned}: URLs; it has file: and memory:"))
        }
        unknown => Err(format!("{unknown:?} is no scheme of a provider; this build has file: and memory:")),
    }
}

fn ion_providers(options: &Options) -> [IonProvider<'_>; 3] {
    [
        IonProvider {
            flag: "azureblobprovider",
            replaces: "blobs",
            enabled: &options.azureblobprovider,
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
        if let Some((flag, _)) = provider.required.iter().find(|(_, value)| value.is_some()) {
            errors.push(flag, format!("has no effect without --{}=true", provider.flag));
        }
        return false;
    }
    for (flag, value) in &provider.required {
        if value.is_none() {
            errors.push(flag, format!("is required by --{}", provider.flag));
        }
    }
    errors.push(
        provider.flag,
        format!("this build has no such provider; say --{} file:///some/dir", provider.replaces),
    );
    true
}

/// Opens the three providers.
///
/// # Errors
/// What a provider reports.
pub(crate) fn open(config: &PlaneConfig) -> Result<DataPlane> {
    let blobs: Arc<dyn BlobProvider> = match &config.blobs {
        Place::Local(dir) => Arc::new(blob::Local::open(dir)?),
        Place::Memory => Arc::new(blob::Memory::default()),
    };
    let documents: Arc<dyn DocumentProvider> = match &config.documents {
        Place::Local(dir) => Arc::new(documents::Local::open(dir)?),
        Place::Memory => Arc::new(documents::Memory::default()),
    };
    let events: Arc<dyn EventProvider> = match &config.events {
        Place::Local(dir) => Arc::new(events::Local::open(dir)?),
        Place::Memory => Arc::new(events::Memory::default()),
    };
    Ok(DataPlane { blobs, documents, events })
}
