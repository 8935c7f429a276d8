//! The calls to the sidecar.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use sidecar_core::{ErrorBody, Layout};

use crate::error::{Cause, Error};
use crate::module::Module;
use crate::retry::{self, Attempt, Retry};
use crate::workspace::Workspace;

/// The port of the sidecar where nothing else is said.
const DEFAULT_PORT: u16 = 8080;

/// How long a connection to the sidecar, usually on this machine, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may be silent before its other end is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A module that is not ready yet.
#[derive(Debug)]
pub struct Client {
    api: Arc<Api>,
    layout: Layout,
}

/// Everything that can be set; [`Client::from_env`] is the usual way.
#[derive(Clone, Default)]
pub struct ClientBuilder {
    secret: Option<String>,
    url: Option<String>,
    port: Option<u16>,
    base_dir: Option<PathBuf>,
    retry: Retry,
}

impl Client {
    /// A client as the environment says: `SHARED_SECRET` (required), `SIDECAR_PORT` (8080) and
    /// `SIDECAR_BASE_DIR` (`/ion`).
    ///
    /// # Errors
    /// [`Error::Config`] when a variable is missing or cannot be used.
    pub fn from_env() -> Result<Self, Error> {
        Self::builder().read_env(|name| std::env::var(name).ok())?.build()
    }

    /// A client with settings of its own.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Waits until the sidecar has staged the inputs.
    ///
    /// # Errors
    /// [`Error::Call`] when it cannot, or cannot be reached within the budget of [`Retry`].
    pub async fn ready(self) -> Result<Module, Error> {
        self.api.call("ready", Method::GET, None).await?;
        let workspace = Workspace::open(self.layout)?;
        Ok(Module::new(workspace, self.api))
    }
}

impl ClientBuilder {
    fn read_env(mut self, var: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        self.secret = var("SHARED_SECRET").filter(|secret| !secret.is_empty());
        self.port = match var("SIDECAR_PORT") {
            None => None,
            Some(port) => Some(
                port.parse()
                    .map_err(|_| Error::Config(format!("SIDECAR_PORT is {port:?}, not a port number")))?,
            ),
        };
        self.base_dir = var("SIDECAR_BASE_DIR").map(PathBuf::from);
        Ok(self)
    }

    /// The secret shared with the sidecar; required.
    #[must_use]
    pub fn secret(mut self, secret: impl Into<String>) -> Self {
        self.secret = Some(secret.into());
        self
    }

    /// The sidecar's port on this machine; 8080 where nothing is said.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The sidecar's address, such as `http://10.0.0.7:8080`, when it is not on this machine.
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    /// The directory shared with the sidecar; `/ion` where nothing is said.
    #[must_use]
    pub fn base_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.base_dir = Some(dir.into());
        self
    }

    /// How long and how patiently calls are repeated.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The client.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no secret, or one that no HTTP header can carry.
    pub fn build(self) -> Result<Client, Error> {
        let secret = self.secret.ok_or_else(|| {
            Error::Config("SHARED_SECRET is not set: it must be the sidecar's --sharedsecret".into())
        })?;
        let mut secret = HeaderValue::from_str(&secret).map_err(|_| {
            Error::Config("SHARED_SECRET has characters that no HTTP header can carry".into())
        })?;
        secret.set_sensitive(true);
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // A sidecar whose machine is gone would otherwise be waited for without end.
            .tcp_keepalive(KEEPALIVE)
            // The sidecar is a neighbour; a proxy for the outside world does not know it.
            .no_proxy()
            .build()
            .map_err(|error| Error::Config(format!("cannot make an HTTP client: {error}")))?;
        let port = self.port.unwrap_or(DEFAULT_PORT);
        let url = self.url.unwrap_or_else(|| format!("http://127.0.0.1:{port}"));
        let layout = Layout::new(self.base_dir.unwrap_or_else(|| Layout::DEFAULT_BASE.into()));
        let api = Api { http, url: url.trim_end_matches('/').to_owned(), secret, retry: self.retry };
        Ok(Client { api: Arc::new(api), layout })
    }
}

impl std::fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("url", &self.url)
            .field("port", &self.port)
            .field("base_dir", &self.base_dir)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

/// One sidecar, as its modules see it.
#[derive(Debug)]
pub(crate) struct Api {
    http: reqwest::Client,
    url: String,
    secret: HeaderValue,
    retry: Retry,
}

impl Api {
    /// Calls until there is an answer, whose body is returned; the original's sidecar answers without one.
    pub(crate) async fn call(
        &self,
        call: &'static str,
        method: Method,
        body: Option<&str>,
    ) -> Result<Value, Error> {
        let body = body.map(str::to_owned);
        retry::retry(&self.retry, call, async || {
            let mut request = self
                .http
                .request(method.clone(), format!("{}/{call}", self.url))
                .header("secret", self.secret.clone());
            if let Some(body) = &body {
                request = request.body(body.clone());
            }
            send(request).await
        })
        .await
    }
}

async fn send(request: RequestBuilder) -> Result<Value, Attempt> {
    let transport = |error: reqwest::Error| Attempt {
        // A URL that cannot be used stays so; anything else may be a sidecar that is not there yet.
        transient: !error.is_builder(),
        reached: !error.is_connect() && !error.is_builder(),
        cause: Cause::Transport(Box::new(error)),
        retry_after: None,
    };
    let response = request.send().await.map_err(transport)?;
    let (status, retry_after) = (response.status(), retry_after(&response));
    let body = response.bytes().await.map_err(transport)?;
    if status.is_success() {
        return Ok(serde_json::from_slice(&body).unwrap_or_default());
    }
    let (answer, transient) = match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(answer) => {
            let transient = answer.retryable;
            (answer, transient)
        }
        // No sidecar of ours: what the status alone says.
        Err(_) => {
            let message = String::from_utf8_lossy(&body[..body.len().min(500)]).trim().to_owned();
            let answer =
                ErrorBody { status_code: status.as_u16(), message, retryable: false, problems: Vec::new() };
            (answer, is_transient(status))
        }
    };
    Err(Attempt { cause: Cause::Answer(answer), transient, reached: true, retry_after })
}

fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 502 | 503 | 504)
}

fn retry_after(response: &Response) -> Option<Duration> {
    response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_checked() {
        let build = |vars: &[(&str, &str)]| {
            let var =
                |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
            Client::builder().read_env(var).and_then(ClientBuilder::build)
        };
        let client = build(&[("SHARED_SECRET", "s")]).unwrap();
        assert_eq!(
            (client.api.url.as_str(), client.layout.base()),
            ("http://127.0.0.1:8080", "/ion".as_ref())
        );
        let client =
            build(&[("SHARED_SECRET", "s"), ("SIDECAR_PORT", "9"), ("SIDECAR_BASE_DIR", "/b")]).unwrap();
        assert_eq!((client.api.url.as_str(), client.layout.base()), ("http://127.0.0.1:9", "/b".as_ref()));
        for (vars, name) in [
            (&[][..], "SHARED_SECRET is not set"),
            (&[("SHARED_SECRET", "")][..], "SHARED_SECRET is not set"),
            (&[("SHARED_SECRET", "a\nb")][..], "SHARED_SECRET has characters"),
            (&[("SHARED_SECRET", "s"), ("SIDECAR_PORT", "http")][..], "SIDECAR_PORT is \"http\""),
        ] {
            assert!(build(vars).unwrap_err().to_string().starts_with(name));
        }
    }

    #[test]
    fn the_secret_is_not_printed() {
        let builder = Client::builder().secret("swordfish");
        assert!(!format!("{builder:?}{:?}", builder.clone().build().unwrap()).contains("swordfish"));
    }
}
