//! Connections to the stores that object_store speaks to: what they trust, repeat and wait for.

use std::path::Path;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::{Certificate, ClientOptions, RetryConfig};
use reqwest::{StatusCode, header};
use url::Url;

use super::window::Window;
use crate::error::{Error, Result};

/// A part of a download goes on where its connection broke; whole calls are repeated by a layer.
pub(super) fn part_retry() -> RetryConfig {
    RetryConfig { max_retries: 3, retry_timeout: Duration::from_secs(20), ..RetryConfig::default() }
}

/// Connections that trust what the system trusts, and the certificates in `ca_file`.
pub(super) fn client_options(root: &Url, ca_file: Option<&Path>) -> Result<ClientOptions> {
    // Whoever composes the provider bounds its calls, by what moves: a slow part is no failure.
    let mut options = ClientOptions::new().with_timeout_disabled();
    if let Some(file) = ca_file {
        let pem = std::fs::read(file).map_err(Error::io("read", file))?;
        let certificates = Certificate::from_pem_bundle(&pem)
            .map_err(|error| Error::refused(root, format!("trust {}", file.display()), error))?;
        options = certificates.into_iter().fold(options, ClientOptions::with_root_certificate);
    }
    Ok(options)
}

/// The longest wait that a store is granted before its answer is looked at.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Connections that tell the window when the store throttles, and wait as long as it asks.
#[derive(Debug)]
pub(super) struct Attentive(pub(super) Window);

impl HttpConnector for Attentive {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Service { inner, window: self.0.clone() }))
    }
}

#[derive(Debug)]
struct Service {
    inner: HttpClient,
    window: Window,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.inner.execute(request).await?;
        if matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            self.window.throttled();
            if let Some(asked) = retry_after(&response) {
                // Whoever repeats the request does so only once it has this answer.
                tokio::time::sleep(asked.min(LONGEST_WAIT)).await;
            }
        }
        Ok(response)
    }
}

/// Seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(response: &HttpResponse) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok()
}
