//! Azure Blob Storage.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use object_store::ObjectStore;
use object_store::azure::{
    AzureAuthorizer, AzureConfigKey, AzureCredentialProvider, MicrosoftAzure, MicrosoftAzureBuilder,
};
use object_store::client::HttpRequestBody;
use reqwest::StatusCode;
use serde::Deserialize;
use url::Url;

use super::Bucket;
use super::azure_md5::{Account, Verified};
use super::connection::{Attentive, client_options, part_retry};
use super::window::Window;
use crate::error::{Cause, Error, Result};
use crate::http;
use crate::setters::setters;

/// The version of the storage REST API that the container is made with.
const API_VERSION: &str = "2023-11-03";

/// The account and how to get in; what is absent comes from the environment (`AZURE_STORAGE_…`, a managed or
/// workload identity).
#[non_exhaustive]
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AzureConfig {
    /// The storage account.
    pub account: Option<String>,
    /// Its access key, in base 64.
    pub key: Option<String>,
    /// A shared access signature instead of a key: the query string.
    pub sas: Option<String>,
    /// An endpoint other than Azure's, such as an emulator's `http://127.0.0.1:10000/devstoreaccount1`.
    pub endpoint: Option<String>,
    /// Certificates to trust besides the system's, as PEM.
    pub ca_file: Option<PathBuf>,
}

setters!(
    AzureConfig {} optional {
        account: String,
        key: String,
        sas: String,
        endpoint: String,
        ca_file: PathBuf
    }
);

impl std::fmt::Debug for AzureConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { account, endpoint, .. } = self;
        f.debug_struct("AzureConfig")
            .field("account", account)
            .field("endpoint", endpoint)
            .finish_non_exhaustive()
    }
}

impl Bucket {
    /// Blobs in the container of `az://container/prefix`; [`check`](crate::BlobProvider::check) makes it,
    /// private, when it is absent.
    ///
    /// # Errors
    /// [`Error::Settings`] when the settings contradict each other.
    pub fn azure(root: &Url, config: &AzureConfig, expiry: Duration) -> Result<Self> {
        let refused = |source: Cause| Error::settings(root, source);
        match (&config.key, &config.sas) {
            (Some(_), Some(_)) => {
                return Err(refused(
                    "a key and a shared access signature were given: one of them is enough".into(),
                ));
            }
            (Some(key), None) if STANDARD.decode(key).is_err() => {
                return Err(refused("the access key is not in base 64".into()));
            }
            _ => {}
        }
        let name = root.host_str().unwrap_or_default();
        let window = Window::default();
        let signing = Account::default();
        let mut builder = MicrosoftAzureBuilder::from_env()
            .with_container_name(name)
            .with_client_options(client_options(root, config.ca_file.as_deref())?)
            .with_http_connector(Verified { inner: Attentive(window.clone()), account: signing.clone() })
            .with_retry(part_retry());
        if let Some(account) = &config.account {
            builder = builder.with_account(account);
        }
        if let Some(key) = &config.key {
            builder = builder.with_access_key(key);
        }
        if let Some(sas) = &config.sas {
            let pairs: Vec<(String, String)> =
                url::form_urlencoded::parse(sas.trim_start_matches('?').as_bytes()).into_owned().collect();
            builder = builder.with_sas_authorization(pairs);
        }
        if let Some(endpoint) = &config.endpoint {
            builder =
                builder.with_endpoint(endpoint.clone()).with_allow_http(endpoint.starts_with("http://"));
        }
        let account = builder.get_config_value(&AzureConfigKey::AccountName);
        let at = builder.get_config_value(&AzureConfigKey::Endpoint).or_else(|| account.clone());
        let store = Arc::new(builder.build().map_err(|error| refused(error.into()))?);
        if let Some(account) = &account {
            // It is set here alone, and so for the first time.
            let _ = signing.set((account.clone(), store.credentials().clone()));
        }
        let client = http::client(root, config.ca_file.as_deref())?;
        let container = account.map(|account| Container::new(&account, name, config, &store, client));
        let mut bucket = Self::new(store.clone() as Arc<dyn ObjectStore>, Some(store), root.clone(), expiry);
        bucket.folds_backslash = true;
        bucket.window = window;
        bucket.at = at;
        bucket.container = container.transpose().map_err(|error| refused(error.into()))?;
        Ok(bucket)
    }
}

/// The container itself, which the object store's crate cannot make.
#[derive(Debug, Clone)]
pub(super) struct Container {
    account: String,
    url: Url,
    credentials: AzureCredentialProvider,
    client: reqwest::Client,
}

impl Container {
    fn new(
        account: &str,
        name: &str,
        config: &AzureConfig,
        store: &MicrosoftAzure,
        client: reqwest::Client,
    ) -> Result<Self, url::ParseError> {
        let endpoint = match &config.endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://{account}.blob.core.windows.net"),
        };
        let url = Url::parse(&format!("{endpoint}/{name}?restype=container"))?;
        Ok(Self { account: account.to_owned(), url, credentials: store.credentials().clone(), client })
    }

    /// Makes the container, private; one that is there already is fine.
    pub(super) async fn create(&self, bucket: &Bucket) -> Result<()> {
        let action = "create the container";
        let refused = |error: Cause| Error::refused(bucket, action, error);
        let request = self.request().await.map_err(refused)?;
        // A signature may be in the URL.
        let away = |error: reqwest::Error| Error::unavailable(bucket, action, error.without_url());
        let response = self.client.execute(request).await.map_err(away)?;
        match response.status() {
            StatusCode::CREATED | StatusCode::CONFLICT => Ok(()),
            status => {
                let text = response.text().await.map_err(away)?;
                let cause = format!("the store answered {status}: {text}");
                let build = if status.is_server_error() { Error::unavailable } else { Error::refused };
                Err(build(bucket, action, cause))
            }
        }
    }

    async fn request(&self) -> Result<reqwest::Request, Cause> {
        let credential = self.credentials.get_credential().await?;
        let mut signed = http_request(&self.url)?;
        AzureAuthorizer::new(&credential, &self.account).try_authorize(&mut signed)?;
        let url = Url::parse(&signed.uri().to_string())?;
        let mut request = reqwest::Request::new(reqwest::Method::PUT, url);
        *request.headers_mut() = signed.headers().clone();
        Ok(request)
    }
}

fn http_request(url: &Url) -> Result<object_store::client::HttpRequest, Cause> {
    let mut request = object_store::client::HttpRequest::new(HttpRequestBody::empty());
    *request.method_mut() = reqwest::Method::PUT;
    *request.uri_mut() = url.as_str().parse()?;
    request.headers_mut().insert("x-ms-version", reqwest::header::HeaderValue::from_static(API_VERSION));
    request.headers_mut().insert("content-length", reqwest::header::HeaderValue::from_static("0"));
    Ok(request)
}
