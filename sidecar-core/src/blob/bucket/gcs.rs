//! Google Cloud Storage.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use serde::Deserialize;
use url::Url;

use super::Bucket;
use super::connection::{Attentive, client_options, part_retry};
use super::window::Window;
use crate::error::{Error, Result};
use crate::setters::setters;

/// How to get in; what is absent comes from the environment (`GOOGLE_SERVICE_ACCOUNT`,
/// `GOOGLE_APPLICATION_CREDENTIALS`, the machine's or the pod's service account).
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GcsConfig {
    /// A file with the key of a service account, as Google writes it.
    pub credentials: Option<PathBuf>,
    /// An endpoint other than Google's, such as an emulator's `http://127.0.0.1:4443`.
    pub endpoint: Option<String>,
    /// Certificates to trust besides the system's, as PEM.
    pub ca_file: Option<PathBuf>,
}

setters!(GcsConfig {} optional { credentials: PathBuf, endpoint: String, ca_file: PathBuf });

impl Bucket {
    /// Blobs in the bucket of `gs://bucket/prefix`.
    ///
    /// URIs are signed with the key of the service account; without one Google is asked to sign.
    ///
    /// # Errors
    /// [`Error::Settings`] when the settings contradict each other.
    pub fn gcs(root: &Url, config: &GcsConfig, expiry: Duration) -> Result<Self> {
        let http = config.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let options = client_options(root, config.ca_file.as_deref())?.with_allow_http(http);
        let window = Window::default();
        let mut builder = GoogleCloudStorageBuilder::from_env()
            .with_bucket_name(root.host_str().unwrap_or_default())
            .with_client_options(options)
            .with_http_connector(Attentive(window.clone()))
            .with_retry(part_retry());
        if let Some(file) = &config.credentials {
            builder = builder.with_service_account_path(file.to_string_lossy());
        }
        if let Some(endpoint) = &config.endpoint {
            builder = builder.with_base_url(endpoint.trim_end_matches('/'));
        }
        let at = builder.get_config_value(&GoogleConfigKey::BaseUrl);
        let store = builder.build().map_err(|error| Error::settings(root, error))?;
        let store = Arc::new(store);
        Ok(Self { window, at, ..Self::new(store.clone(), Some(store), root.clone(), expiry) })
    }
}
