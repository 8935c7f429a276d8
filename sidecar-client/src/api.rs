//! The calls to the sidecar over HTTP, which the client and the module share.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use reqwest::header::{HeaderValue, RETRY_AFTER};
use reqwest::{ClientBuilder, Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use sidecar_core::ErrorBody;

use crate::error::{Cause, Error};
use crate::retry::{self, Attempt, Retry};

/// How long a connection to the sidecar, usually on this machine, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may be silent before its other end is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// One sidecar, as its modules see it.
#[derive(Debug)]
pub(crate) struct Api {
    http: reqwest::Client,
    url: String,
    /// Where the sidecar is, for messages.
    address: String,
    secret: HeaderValue,
    retry: Retry,
}

/// Lets all calls go through a unix socket.
#[cfg(unix)]
fn through(http: ClientBuilder, socket: &Path) -> Result<ClientBuilder, Error> {
    Ok(http.unix_socket(socket))
}

#[cfg(not(unix))]
fn through(_: ClientBuilder, socket: &Path) -> Result<ClientBuilder, Error> {
    Err(Error::Config(format!("unix:{}: there are no unix sockets on this system", socket.display())))
}

impl Api {
    /// The sidecar at `url`, or at the unix socket `socket`; no connection is opened yet.
    ///
    /// # Errors
    /// [`Error::Config`] when no HTTP header can carry the secret.
    pub(crate) fn new(url: &str, socket: Option<&Path>, secret: &str, retry: Retry) -> Result<Self, Error> {
        let mut secret = HeaderValue::from_str(secret).map_err(|_| {
            Error::Config("SHARED_SECRET has characters that no HTTP header can carry".into())
        })?;
        secret.set_sensitive(true);
        let url = url.trim_end_matches('/').to_owned();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // A sidecar whose machine is gone would otherwise be waited for without end.
            .tcp_keepalive(KEEPALIVE)
            // The sidecar is a neighbour; a proxy for the outside world does not know it.
            .no_proxy();
        let (http, address) = match socket {
            Some(socket) => (through(http, socket)?, format!("unix:{}", socket.display())),
            None => (http, url.clone()),
        };
        let http =
            http.build().map_err(|error| Error::Config(format!("cannot create an HTTP client: {error}")))?;
        Ok(Self { http, url, address, secret, retry })
    }

    /// Where the sidecar is.
    #[cfg(test)]
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Calls until there is an answer, whose body is returned; the original's sidecar answers without one.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        call: &'static str,
        method: Method,
        body: Option<&str>,
    ) -> Result<Option<T>, Error> {
        self.call_with(&self.retry, call, method, body).await
    }

    /// Asks for the next event. Whoever waits for one was started by the worker that gives it: if that cannot be reached, it
    /// has ended, and another one does not take its place at this address.
    pub(crate) async fn call_for_event<T: DeserializeOwned>(&self, body: &str) -> Result<Option<T>, Error> {
        let budget = self.retry.budget.min(WITHOUT_WORKER);
        let retry = Retry { budget, ..self.retry };
        self.call_with(&retry, "next", Method::POST, Some(body)).await
    }

    /// Asks once.
    pub(crate) async fn call_once<T: DeserializeOwned>(
        &self,
        call: &'static str,
    ) -> Result<Option<T>, Error> {
        self.call_with(&Retry::never(), call, Method::GET, None).await
    }

    async fn call_with<T: DeserializeOwned>(
        &self,
        retry: &Retry,
        call: &'static str,
        method: Method,
        body: Option<&str>,
    ) -> Result<Option<T>, Error> {
        let body = body.map(str::to_owned);
        retry::retry(retry, call, &self.address, || {
            let mut request = self
                .http
                .request(method.clone(), format!("{}/{call}", self.url))
                .header("secret", self.secret.clone())
                .header("module-start", module_start());
            if let Some(body) = &body {
                request = request.body(body.clone());
            }
            send(request)
        })
        .await
    }
}

/// How long a module waits for a worker that cannot be reached.
const WITHOUT_WORKER: Duration = Duration::from_secs(30);

/// Tells this process of the module from another one that was started before it, for the sidecar.
fn module_start() -> &'static str {
    static START: OnceLock<String> = OnceLock::new();
    // Each state is seeded at random.
    let random = || RandomState::new().hash_one(std::process::id());
    START.get_or_init(|| format!("{:016x}{:016x}", random(), random()))
}

async fn send<T: DeserializeOwned>(request: RequestBuilder) -> Result<Option<T>, Attempt> {
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
        let decoded = if body.is_empty() { Ok(None) } else { serde_json::from_slice(&body).map(Some) };
        return decoded.map_err(|error| Attempt {
            cause: Cause::Decode(error),
            transient: false,
            reached: true,
            retry_after: None,
        });
    }
    let (answer, transient) = match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(answer) => {
            let transient = answer.retryable;
            (answer, transient)
        }
        // No sidecar of ours: what the status alone says.
        Err(_) => {
            let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let message = format!("this is not an answer of a sidecar (is its port right?): {text}");
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
