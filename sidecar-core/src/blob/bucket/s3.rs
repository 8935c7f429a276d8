//! Amazon S3 and its compatibles.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use serde::Deserialize;
use url::Url;

use super::Bucket;
use super::connection::{Attentive, client_options, part_retry};
use super::window::Window;
use crate::error::{Error, Result};
use crate::setters::setters;

/// Where the bucket is; what is absent comes from the environment (`AWS_ACCESS_KEY_ID` and
/// `AWS_SECRET_ACCESS_KEY`, a web identity, the container's or the machine's role).
#[non_exhaustive]
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// The endpoint of a compatible store, such as `http://127.0.0.1:8333`.
    pub endpoint: Option<String>,
    /// The region; `AWS_REGION` or `us-east-1` where nothing is said.
    pub region: Option<String>,
    /// The access key's id.
    pub access_key_id: Option<String>,
    /// Its secret.
    pub secret_access_key: Option<String>,
    /// Certificates to trust besides the system's, as PEM.
    pub ca_file: Option<PathBuf>,
}

setters!(
    S3Config {} optional {
        endpoint: String,
        region: String,
        access_key_id: String,
        secret_access_key: String,
        ca_file: PathBuf
    }
);

impl std::fmt::Debug for S3Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, region, .. } = self;
        f.debug_struct("S3Config").field("endpoint", endpoint).field("region", region).finish_non_exhaustive()
    }
}

impl Bucket {
    /// Blobs in the bucket of `s3://bucket/prefix`.
    ///
    /// # Errors
    /// [`Error::Settings`] when the settings contradict each other.
    pub fn s3(root: &Url, config: &S3Config, expiry: Duration) -> Result<Self> {
        let window = Window::default();
        let mut builder = from_env(config.access_key_id.is_none())
            .with_bucket_name(root.host_str().unwrap_or_default())
            .with_client_options(client_options(root, config.ca_file.as_deref())?)
            .with_http_connector(Attentive(window.clone()))
            .with_retry(part_retry());
        if let Some(endpoint) = &config.endpoint {
            builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        if let Some(region) = &config.region {
            builder = builder.with_region(region);
        }
        if let (Some(id), Some(secret)) = (&config.access_key_id, &config.secret_access_key) {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        }
        let at = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
        let store = builder.build().map_err(|error| Error::settings(root, error))?;
        let store = Arc::new(store);
        let folds_backslash = true;
        Ok(Self {
            window,
            at,
            folds_backslash,
            ..Self::new(store.clone(), Some(store), root.clone(), expiry)
        })
    }
}

/// What the environment says; with a key of its own, nothing of the environment's key: its session token belongs to
/// that one alone.
fn from_env(with_credentials: bool) -> AmazonS3Builder {
    if with_credentials {
        return AmazonS3Builder::from_env();
    }
    let credentials =
        [AmazonS3ConfigKey::AccessKeyId, AmazonS3ConfigKey::SecretAccessKey, AmazonS3ConfigKey::Token];
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| name.starts_with("AWS_"))?;
        let key: AmazonS3ConfigKey = name.to_ascii_lowercase().parse().ok()?;
        Some((key, value.into_string().ok()?)).filter(|(key, _)| !credentials.contains(key))
    });
    variables.fold(AmazonS3Builder::new(), |builder, (key, value)| builder.with_config(key, value))
}
