//! The data plane that the settings name: a URL for each kind of data, and the policies around its provider.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sidecar_core::{DataPlane, Result};
use url::Url;

use crate::config::{DEV_DIR, Errors};
use crate::options::Options;

mod blobs;
mod documents;
mod events;
#[cfg(feature = "fault-points")]
mod faulty;
mod ion;
mod policy;

use blobs::Blobs;
use documents::Documents;
use events::Events;
use policy::Policy;

/// What S3 and Google sign for at most.
const LONGEST_EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where the three kinds of data go, and how patiently. Without `Debug`: it holds credentials.
#[derive(Clone)]
pub(crate) struct PlaneConfig {
    blobs: Blobs,
    documents: Documents,
    events: Events,
    policy: Policy,
    uri_expiry: Duration,
}

/// The data plane that `options` name; what is wrong goes to `errors`.
pub(crate) fn parse(options: &Options, development: bool, errors: &mut Errors) -> Option<PlaneConfig> {
    let ion = ion::switches(options, errors);
    if let Some(port) = options.mongodbdocprovider_port.as_ref().filter(|port| port.parse::<u16>().is_err()) {
        errors.push("mongodbdocprovider.port", format!("{port:?} is no port number"));
    }
    let blobs = one("blobs", &options.blobs, ion.azure, development, errors, |url| match url {
        Some(url) => Blobs::parse(url, options),
        None => Blobs::ion(options),
    });
    let documents = one("documents", &options.documents, ion.mongodb, development, errors, |url| match url {
        Some(url) => Documents::parse(url, options),
        None => Documents::ion(options),
    });
    let format =
        errors.parse("event-format", &options.event_format, "ion or cloudevents").unwrap_or_default();
    let events = one("events", &options.events, ion.servicebus, development, errors, |url| match url {
        Some(url) => Events::parse(url, format, options),
        None => Events::ion(format, options),
    });
    let policy = Policy::parse(options, errors);
    let uri_expiry = errors.duration("uri-expiry", &options.uri_expiry, Duration::from_secs(3600));
    if uri_expiry > LONGEST_EXPIRY {
        errors.push("uri-expiry", "is more than 7d, the most that stores sign for");
    }
    Some(PlaneConfig { blobs: blobs?, documents: documents?, events: events?, policy, uri_expiry })
}

/// A place for one kind of data: where the URL says, where the original's switch says, or in the directory of
/// development mode. `parse` is given no URL for the original's switch.
fn one<T: From<Embedded>>(
    flag: &str,
    url: &Option<String>,
    ion: Option<bool>,
    development: bool,
    errors: &mut Errors,
    parse: impl Fn(Option<&str>) -> Result<T, String>,
) -> Option<T> {
    let file = format!("--{flag}-file:");
    if url.is_none() && (ion == Some(false) || errors.0.iter().any(|error| error.starts_with(&file))) {
        // What is missing was told.
        return None;
    }
    if url.is_none() && ion.is_none() {
        if development {
            return Some(Embedded::Local(PathBuf::from(DEV_DIR)).into());
        }
        errors.push(flag, format!("is required; say --{flag} file:///some/dir, or --development=true"));
        return None;
    }
    if let Some(Err(problem)) = url.as_deref().map(no_stray_credentials) {
        errors.push(flag, problem);
        return None;
    }
    parse(url.as_deref()).map_err(|problem| errors.push(flag, problem)).ok()
}

impl PlaneConfig {
    /// How the variables begin in which the blob store finds its credentials: none of a module's business.
    pub(crate) fn credential_variables(&self) -> Option<&'static str> {
        self.blobs.credential_variables()
    }

    /// The directory that holds the blobs, where it is one of this machine.
    pub(crate) fn blob_dir(&self) -> Option<&Path> {
        self.blobs.local_dir()
    }

    /// The settings in force, by their flags, without secrets.
    pub(crate) fn describe(&self) -> [(&'static str, String); 5] {
        [
            ("blobs", self.blobs.to_string()),
            ("documents", self.documents.to_string()),
            ("events", self.events.to_string()),
            ("wrappers", self.policy.to_string()),
            ("uri-expiry", humantime::format_duration(self.uri_expiry).to_string()),
        ]
    }
}

/// Opens the three providers; those on the network with the policies around them.
///
/// # Errors
/// What a provider reports.
pub(crate) fn open(config: &PlaneConfig) -> Result<DataPlane> {
    Ok(DataPlane {
        blobs: config.blobs.open(&config.policy, config.uri_expiry)?,
        documents: config.documents.open(&config.policy)?,
        events: config.events.open(&config.policy)?,
    })
}

#[cfg(feature = "fault-points")]
use faulty::faulty;

/// In a release nothing fails on demand.
#[cfg(not(feature = "fault-points"))]
fn faulty<P>(provider: P) -> P {
    provider
}

/// What needs nothing installed, and is there for each kind.
#[derive(Debug, Clone)]
enum Embedded {
    /// Readable files under this directory.
    Local(PathBuf),
    /// As long as the process lives.
    Memory,
}

impl std::fmt::Display for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self::Local(dir) = self else { return f.write_str("memory:") };
        let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
        match Url::from_directory_path(&absolute) {
            Ok(url) => f.write_str(url.as_str()),
            Err(()) => write!(f, "file:{}", dir.display()),
        }
    }
}

impl Embedded {
    /// The place that `url` names; for every other scheme, the message for a build without it.
    fn parse(url: &str, kind: &str, schemes: &[&str]) -> Result<Self, String> {
        match scheme(url)? {
            ("file", rest) if rest.starts_with("///") => Url::parse(url)
                .ok()
                .filter(|url| url.query().is_none() && url.fragment().is_none())
                .and_then(|url| url.to_file_path().ok())
                .map(Self::Local)
                .ok_or_else(|| format!("{url:?} names no directory (? and # in a name are %3F and %23)")),
            ("file", rest) if !rest.is_empty() && !rest.starts_with("//") => Ok(Self::Local(rest.into())),
            ("file", _) => Err(format!("{url:?} names no directory: say file:///absolute or file:relative")),
            ("memory", _) => Ok(Self::Memory),
            (known, _) if schemes.contains(&known) => {
                Err(format!("this build keeps no {kind} in {known}: URLs; build it with that feature"))
            }
            (other, _) => {
                let schemes = schemes.join(":, ");
                Err(format!("{other:?} is no scheme for {kind}; file:, memory:, {schemes}: are"))
            }
        }
    }
}

/// Refuses a URL whose password ends it early: what follows would be taken for a name, and shown.
fn no_stray_credentials(url: &str) -> Result<(), String> {
    let rest = url.split_once(':').map_or(url, |(_, rest)| rest);
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let local = ["file:", "memory:"].iter().any(|scheme| url.starts_with(scheme));
    match rest.find(['/', '?', '#']) {
        Some(end) if !local && rest[end..].contains('@') => {
            Err("has an @ behind its host: write / ? # @ in a password as %2F %3F %23 %40".into())
        }
        _ => Ok(()),
    }
}

/// An endpoint as it can be connected to.
#[allow(dead_code, reason = "builds without any such store do not ask for it")]
fn endpoint(value: String) -> Result<Option<String>, String> {
    match Url::parse(&value) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(Some(value)),
        _ => Err(format!("endpoint {value:?} is no URL: say http://host:port or https://host")),
    }
}

/// A URL's scheme and what follows.
fn scheme(url: &str) -> Result<(&str, &str), String> {
    url.split_once(':').ok_or_else(|| match url.starts_with('/') {
        true => format!("is no URL: say file://{url}"),
        false => "is no URL such as file:///some/dir".into(),
    })
}

/// A URL of a store on the network, with its query apart; `example` shows what it looks like.
#[allow(dead_code, reason = "builds without any such store do not ask for it")]
fn remote(url: &str, example: &str) -> Result<(Url, Vec<(String, String)>), String> {
    // The text may hold a password: it is not repeated.
    let mut root = Url::parse(url).map_err(|error| format!("{error}: say {example}"))?;
    if root.host_str().is_none_or(str::is_empty) {
        return Err(format!("names no host: say {example}"));
    }
    let query = root.query_pairs().into_owned().collect();
    root.set_query(None);
    Ok((root, query))
}

/// The path of a URL as one name, which is taken out of the URL.
#[allow(dead_code, reason = "builds without any such store do not ask for it")]
fn take_path(url: &mut Url) -> String {
    let path = decoded(url.path().trim_matches('/'));
    url.set_path("");
    path
}

/// Text of a URL as it is meant.
#[allow(dead_code, reason = "builds without any such store do not ask for it")]
fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}
