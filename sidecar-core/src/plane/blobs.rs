//! Where files go.

use std::sync::Arc;

use url::Url;

use super::config::{Given, Problem, Store};
use super::faulty;
use super::text::{self, Embedded};
#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
use super::{Credential, text::endpoint};
use crate::blob::ReferenceStore;
use crate::{BlobProvider, blob};

/// A blob provider that is not open yet.
pub(super) type Blobs = Store<dyn BlobProvider>;

/// A store that events may refer to, and that is not open yet, with the URL that its objects' URLs begin with.
pub(super) type Referenced = (Url, Store<dyn ReferenceStore>);

/// The schemes of every build.
pub(super) const SCHEMES: [&str; 3] = ["s3", "az", "gs"];

/// The store that `url` names.
pub(super) fn parse(url: &str, given: &Given<'_>) -> Result<Blobs, Problem> {
    #[cfg(feature = "bucket")]
    if let Some(Closed { url, open, .. }) = bucket(url, given)? {
        let (policies, expiry) = (given.config.policies.clone(), given.config.uri_expiry);
        return Ok(Blobs::new(url, move || Ok(Arc::new(policies.around(faulty(open(expiry)?))))));
    }
    match text::embedded(url, "blobs", &SCHEMES)? {
        #[cfg(feature = "local")]
        Embedded::Local(root) => Ok(Blobs::local(root, &[blob::Local::DIRECTORY], |root| {
            Ok(Arc::new(faulty(blob::Local::open(root)?)))
        })),
        #[cfg(feature = "memory")]
        Embedded::Memory => Ok(Blobs::new("memory:".into(), || Ok(Arc::new(blob::Memory::default())))),
    }
}

/// The store that `url` names, for objects that events refer to.
pub(super) fn parse_reference(url: &str, given: &Given<'_>) -> Result<Referenced, Problem> {
    #[cfg(feature = "bucket")]
    if let Some(Closed { url, root, open }) = bucket(url, given)? {
        let (policies, expiry) = (given.config.policies.clone(), given.config.uri_expiry);
        let open = move || -> crate::Result<Arc<dyn ReferenceStore>> {
            Ok(Arc::new(policies.around(faulty(open(expiry)?))))
        };
        return Ok((root, Store::new(url, open)));
    }
    match text::embedded(url, "objects", &SCHEMES)? {
        #[cfg(feature = "local")]
        Embedded::Local(root) => {
            let url = text::file_url(&root);
            let root_url = Url::parse(&url).map_err(|_| "names no directory")?;
            let open = move || -> crate::Result<Arc<dyn ReferenceStore>> {
                Ok(Arc::new(faulty(blob::Directory::new(root.clone()))))
            };
            Ok((root_url, Store::new(url, open)))
        }
        #[cfg(feature = "memory")]
        Embedded::Memory => Err("memory: holds no objects of others: name a bucket or a directory".into()),
    }
}

/// A bucket that is not open yet.
#[cfg(feature = "bucket")]
struct Closed {
    /// Its URL in full.
    url: String,
    /// What the URLs of its objects begin with.
    root: Url,
    open: Box<dyn Fn(std::time::Duration) -> crate::Result<blob::Bucket> + Send + Sync>,
}

#[cfg(feature = "bucket")]
impl Closed {
    #[allow(clippy::unnecessary_wraps, reason = "each scheme returns it")]
    fn new(
        url: String,
        root: &Url,
        open: impl Fn(std::time::Duration) -> crate::Result<blob::Bucket> + Send + Sync + 'static,
    ) -> Result<Option<Self>, Problem> {
        Ok(Some(Self { url, root: root.clone(), open: Box::new(open) }))
    }
}

/// The bucket that `url` names; `None` where it names something else.
#[cfg(feature = "bucket")]
fn bucket(url: &str, given: &Given<'_>) -> Result<Option<Closed>, Problem> {
    match text::scheme(url)?.0 {
        #[cfg(feature = "s3")]
        "s3" => {
            text::printable_variables("AWS_", &[])?;
            let (root, query) = root_and_query(url, "s3://bucket/prefix")?;
            let mut settings = blob::S3Config {
                access_key_id: (given.credential)(Credential::S3AccessKeyId),
                secret_access_key: (given.credential)(Credential::S3SecretAccessKey),
                ca_file: given.config.ca_file.clone(),
                ..blob::S3Config::default()
            };
            let together = "needs the access key's id and its secret together";
            match (&settings.access_key_id, &settings.secret_access_key) {
                (Some(_), None) => return Err(Problem::missing(Credential::S3SecretAccessKey, together)),
                (None, Some(_)) => return Err(Problem::missing(Credential::S3AccessKeyId, together)),
                _ => {}
            }
            for (name, value) in query {
                match name.as_str() {
                    "endpoint" => settings.endpoint = endpoint(value)?,
                    "region" => settings.region = Some(value),
                    _ => return Err(format!("the parameter {name:?} is not one of endpoint, region").into()),
                }
            }
            let url = in_full(&root, &[("endpoint", &settings.endpoint), ("region", &settings.region)]);
            Closed::new(url, &root.clone(), move |expiry| blob::Bucket::s3(&root, &settings, expiry))
        }
        #[cfg(feature = "azure")]
        "az" => {
            text::printable_variables("AZURE_", &[])?;
            let (root, query) = root_and_query(url, "az://container/prefix")?;
            let mut settings = azure(given)?;
            for (name, value) in query {
                match name.as_str() {
                    "endpoint" => settings.endpoint = endpoint(value)?,
                    "account" => match &settings.account {
                        Some(other) if *other != value => {
                            return Err(format!(
                                "names the account {value:?}, and the settings name {other:?}: name one"
                            )
                            .into());
                        }
                        _ => settings.account = Some(value),
                    },
                    _ => return Err(format!("the parameter {name:?} is not one of account, endpoint").into()),
                }
            }
            let url = in_full(&root, &[("account", &settings.account), ("endpoint", &settings.endpoint)]);
            Closed::new(url, &root.clone(), move |expiry| blob::Bucket::azure(&root, &settings, expiry))
        }
        #[cfg(feature = "gcs")]
        "gs" => {
            // A key is JSON, in as many lines as its author likes.
            text::printable_variables(
                "GOOGLE_",
                &["GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_SERVICEACCOUNTKEY"],
            )?;
            let (root, query) = root_and_query(url, "gs://bucket/prefix")?;
            let ca_file = given.config.ca_file.clone();
            let mut settings = blob::GcsConfig { ca_file, ..blob::GcsConfig::default() };
            for (name, value) in query {
                match name.as_str() {
                    "endpoint" => settings.endpoint = endpoint(value)?,
                    "credentials" => settings.credentials = Some(value.into()),
                    _ => {
                        return Err(
                            format!("the parameter {name:?} is not one of credentials, endpoint").into()
                        );
                    }
                }
            }
            let url = in_full(&root, &[("endpoint", &settings.endpoint)]);
            Closed::new(url, &root.clone(), move |expiry| blob::Bucket::gcs(&root, &settings, expiry))
        }
        _ => Ok(None),
    }
}

/// The bucket's URL without its query, and the query.
#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
fn root_and_query(url: &str, example: &str) -> Result<(Url, Vec<(String, String)>), String> {
    let (root, query) = text::remote(url, example)?;
    let path = text::decoded(root.path());
    let prefix = path.strip_prefix('/').unwrap_or(&path);
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    if !prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!("has a prefix with an empty part, . or ..: say {example}"));
    }
    if path.chars().any(char::is_control) {
        return Err("has a prefix with a control character".into());
    }
    if !root.username().is_empty() || root.password().is_some() {
        return Err("holds credentials: give them in the environment instead, where no log shows them".into());
    }
    Ok((root, query))
}

#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
fn in_full(root: &Url, settings: &[(&str, &Option<String>)]) -> String {
    let mut url = root.clone();
    let set = settings.iter().filter_map(|(name, value)| Some((*name, value.as_ref()?)));
    url.query_pairs_mut().extend_pairs(set);
    url.as_str().trim_end_matches('?').to_owned()
}

#[cfg(feature = "azure")]
fn azure(given: &Given<'_>) -> Result<blob::AzureConfig, String> {
    let mut config = blob::AzureConfig {
        account: (given.credential)(Credential::AzureAccount),
        key: (given.credential)(Credential::AzureKey),
        sas: (given.credential)(Credential::AzureSas),
        endpoint: None,
        ca_file: given.config.ca_file.clone(),
    };
    let text = (given.credential)(Credential::AzureConnectionString).unwrap_or_default();
    for field in text.split(';').filter(|field| !field.trim().is_empty()) {
        // A key ends in equals signs itself.
        let (name, value) = field.split_once('=').ok_or("has a connection string of no NAME=VALUE;…")?;
        let value = Some(value.to_owned());
        let once = |given: &mut Option<String>, flag: &str| match given {
            Some(other) if Some(&*other) != value.as_ref() => Err(format!(
                "has a connection string with another {name} than --azureblobprovider.{flag}: give one of them"
            )),
            _ => {
                given.clone_from(&value);
                Ok(())
            }
        };
        match name.trim() {
            "AccountName" => once(&mut config.account, "blobaccountname")?,
            "AccountKey" => once(&mut config.key, "blobaccountkey")?,
            "SharedAccessSignature" => once(&mut config.sas, "sas")?,
            "BlobEndpoint" => config.endpoint = value,
            // Other services, the protocol and the suffix of Azure's own endpoints.
            _ => {}
        }
    }
    Ok(config)
}
