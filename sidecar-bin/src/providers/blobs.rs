//! Where files go.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sidecar_core::{BlobProvider, Result, blob};
#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
use url::Url;

use super::Embedded;
use super::policy::Policy;
use crate::options::Options;

/// The schemes of every build.
const SCHEMES: [&str; 3] = ["s3", "az", "gs"];

/// A blob provider that is not open yet.
#[derive(Clone)]
pub(super) enum Blobs {
    Embedded(Embedded),
    #[cfg(feature = "s3")]
    S3(Url, blob::S3Config),
    #[cfg(feature = "azure")]
    Azure(Url, blob::AzureConfig),
    #[cfg(feature = "gcs")]
    Gcs(Url, blob::GcsConfig),
}

impl From<Embedded> for Blobs {
    fn from(embedded: Embedded) -> Self {
        Self::Embedded(embedded)
    }
}

impl fmt::Display for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(embedded) => embedded.fmt(f),
            #[cfg(feature = "s3")]
            Self::S3(root, config) => {
                url(f, root, &[("endpoint", &config.endpoint), ("region", &config.region)])
            }
            #[cfg(feature = "azure")]
            Self::Azure(root, config) => {
                url(f, root, &[("account", &config.account), ("endpoint", &config.endpoint)])
            }
            #[cfg(feature = "gcs")]
            Self::Gcs(root, config) => url(f, root, &[("endpoint", &config.endpoint)]),
        }
    }
}

#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
fn url(f: &mut fmt::Formatter<'_>, root: &Url, settings: &[(&str, &Option<String>)]) -> fmt::Result {
    let mut url = root.clone();
    let set = settings.iter().filter_map(|(name, value)| Some((*name, value.as_ref()?)));
    url.query_pairs_mut().extend_pairs(set);
    f.write_str(url.as_str().trim_end_matches('?'))
}

impl Blobs {
    /// The provider that `url` names.
    pub(super) fn parse(url: &str, options: &Options) -> Result<Self, String> {
        let _ = options;
        match super::scheme(url)?.0 {
            #[cfg(feature = "s3")]
            "s3" => {
                let (root, query) = bucket(url, "s3://bucket/prefix")?;
                let mut config = blob::S3Config {
                    access_key_id: options.s3_accesskeyid.clone(),
                    secret_access_key: options.s3_secretaccesskey.clone(),
                    ca_file: options.ca_file(),
                    ..blob::S3Config::default()
                };
                if config.access_key_id.is_some() != config.secret_access_key.is_some() {
                    return Err("needs --s3.accesskeyid and --s3.secretaccesskey-file together".into());
                }
                for (name, value) in query {
                    match name.as_str() {
                        "endpoint" => config.endpoint = super::endpoint(value)?,
                        "region" => config.region = Some(value),
                        _ => return Err(format!("{name:?} is none of endpoint, region")),
                    }
                }
                Ok(Self::S3(root, config))
            }
            #[cfg(feature = "azure")]
            "az" => {
                let (root, query) = bucket(url, "az://container/prefix")?;
                let mut config = azure(options)?;
                for (name, value) in query {
                    match name.as_str() {
                        "endpoint" => config.endpoint = super::endpoint(value)?,
                        "account" => config.account = Some(value),
                        _ => return Err(format!("{name:?} is none of account, endpoint")),
                    }
                }
                Ok(Self::Azure(root, config))
            }
            #[cfg(feature = "gcs")]
            "gs" => {
                let (root, query) = bucket(url, "gs://bucket/prefix")?;
                let mut config = blob::GcsConfig { ca_file: options.ca_file(), ..blob::GcsConfig::default() };
                for (name, value) in query {
                    match name.as_str() {
                        "endpoint" => config.endpoint = super::endpoint(value)?,
                        "credentials" => config.credentials = Some(value.into()),
                        _ => return Err(format!("{name:?} is none of credentials, endpoint")),
                    }
                }
                Ok(Self::Gcs(root, config))
            }
            _ => Embedded::parse(url, "blobs", &SCHEMES).map(Self::Embedded),
        }
    }

    /// The container that the original's flags name.
    pub(super) fn ion(options: &Options) -> Result<Self, String> {
        let container = options.azureblobprovider_containername.as_deref().unwrap_or_default();
        Self::parse(&format!("az://{container}/"), options)
    }

    pub(super) fn credential_variables(&self) -> Option<&'static str> {
        match self {
            Self::Embedded(_) => None,
            #[cfg(feature = "s3")]
            Self::S3(..) => Some("AWS_"),
            #[cfg(feature = "azure")]
            Self::Azure(..) => Some("AZURE_"),
            #[cfg(feature = "gcs")]
            Self::Gcs(..) => Some("GOOGLE_"),
        }
    }

    /// The directory of embedded blobs.
    pub(super) fn local_dir(&self) -> Option<&Path> {
        match self {
            Self::Embedded(Embedded::Local(dir)) => Some(dir),
            _ => None,
        }
    }

    pub(super) fn open(&self, policy: &Policy, expiry: Duration) -> Result<Arc<dyn BlobProvider>> {
        let _ = (policy, expiry);
        Ok(match self {
            Self::Embedded(Embedded::Local(dir)) => Arc::new(super::faulty(blob::Local::open(dir)?)),
            Self::Embedded(Embedded::Memory) => Arc::new(blob::Memory::default()),
            #[cfg(feature = "s3")]
            Self::S3(root, config) => {
                super::policy::wrapped!(policy, blob::Bucket::s3(root, config, expiry)?)
            }
            #[cfg(feature = "azure")]
            Self::Azure(root, config) => {
                super::policy::wrapped!(policy, blob::Bucket::azure(root, config, expiry)?)
            }
            #[cfg(feature = "gcs")]
            Self::Gcs(root, config) => {
                super::policy::wrapped!(policy, blob::Bucket::gcs(root, config, expiry)?)
            }
        })
    }
}

/// The bucket's URL without its query, and the query.
#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
fn bucket(url: &str, example: &str) -> Result<(Url, Vec<(String, String)>), String> {
    let (root, query) = super::remote(url, example)?;
    if !root.username().is_empty() || root.password().is_some() {
        return Err("holds credentials: give them in the environment instead, where no log shows them".into());
    }
    Ok((root, query))
}

#[cfg(feature = "azure")]
fn azure(options: &Options) -> Result<blob::AzureConfig, String> {
    let mut config = blob::AzureConfig {
        account: options.azureblobprovider_blobaccountname.clone(),
        key: options.azureblobprovider_blobaccountkey.clone(),
        sas: options.azureblobprovider_sas.clone(),
        endpoint: None,
        ca_file: options.ca_file(),
    };
    let text = options.azureblobprovider_connectionstring.as_deref().unwrap_or_default();
    for field in text.split(';').filter(|field| !field.trim().is_empty()) {
        // A key ends in equals signs itself.
        let (name, value) = field.split_once('=').ok_or("has a connection string of no NAME=VALUE;…")?;
        let value = Some(value.to_owned());
        match name.trim() {
            "AccountName" => config.account = value,
            "AccountKey" => config.key = value,
            "SharedAccessSignature" => config.sas = value,
            "BlobEndpoint" => config.endpoint = value,
            // Other services, the protocol and the suffix of Azure's own endpoints.
            _ => {}
        }
    }
    Ok(config)
}
