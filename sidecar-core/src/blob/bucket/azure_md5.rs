//! The MD5 of what is sent to Azure, which the service verifies when it arrives; object_store sends none.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::BodyExt;
use md5::{Digest, Md5};
use object_store::ClientOptions;
use object_store::azure::{AzureAuthorizer, AzureCredential, AzureCredentialProvider};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};

use super::connection::Attentive;

const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");

/// The account and its credentials, known once the store is made of this connector.
pub(super) type Account = Arc<OnceLock<(String, AzureCredentialProvider)>>;

/// Connections that add the MD5 of each body that they send.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) inner: Attentive,
    pub(super) account: Account,
}

impl HttpConnector for Verified {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = self.inner.connect(options)?;
        Ok(HttpClient::new(Service { inner, account: self.account.clone() }))
    }
}

#[derive(Debug)]
struct Service {
    inner: HttpClient,
    account: Account,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.inner.execute(self.with_md5(request).await?).await
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> HttpError {
    HttpError::new(HttpErrorKind::Request, error)
}

impl Service {
    async fn with_md5(&self, mut request: HttpRequest) -> Result<HttpRequest, HttpError> {
        let Some((account, credentials)) = self.account.get() else { return Ok(request) };
        if request.method() != Method::PUT || request.body().content_length() == 0 {
            return Ok(request);
        }
        // Clones share the bytes.
        let body = request.body().clone().collect().await?.to_bytes();
        let digest = tokio::task::spawn_blocking(move || Md5::digest(&body)).await;
        let digest = digest.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))?;
        let value = HeaderValue::from_str(&BASE64_STANDARD.encode(digest)).map_err(failed)?;
        request.headers_mut().insert(CONTENT_MD5, value);
        let credential = credentials.get_credential().await.map_err(failed)?;
        if let AzureCredential::AccessKey(_) = &*credential {
            // A key signs the headers, this one among them.
            request.headers_mut().remove(AUTHORIZATION);
            AzureAuthorizer::new(&credential, account).try_authorize(&mut request).map_err(failed)?;
        }
        Ok(request)
    }
}
