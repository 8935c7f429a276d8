//! The settings of a module, and the way from them to a module that is ready.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use reqwest::Method;
use sidecar_core::{Layout, NextAnswer, Prepared, ReadyAnswer};

use crate::api::Api;
use crate::error::Error;
use crate::module::{Finished, Module};
use crate::retry::Retry;
use crate::workspace::Workspace;

/// The port of the sidecar where nothing else is said.
const DEFAULT_PORT: u16 = 8080;

/// Where a sidecar in development mode keeps its secret.
const DEV_SECRET: &str = "dev/secret";

/// What is said where the environment has no secret.
const NO_SECRET: &str = "SHARED_SECRET is not set: it must be the sidecar's --sharedsecret; there is no dev/secret of a \
                         sidecar in development mode either";

/// How many tenths of a second are waited for that secret.
const DEV_PATIENCE: usize = 50;

/// A module that is not ready yet.
#[derive(Debug)]
pub struct Client {
    api: Arc<Api>,
    layout: Layout,
    /// The event of the module that was handed out last, once it is finished.
    finished: Finished,
}

/// Everything that can be set; [`Client::from_env`] is the usual way.
#[derive(Clone, Default)]
pub struct ClientBuilder {
    secret: Option<String>,
    url: Option<String>,
    port: Option<u16>,
    socket: Option<PathBuf>,
    base_dir: Option<PathBuf>,
    retry: Retry,
}

impl Client {
    /// A client as the environment says: `SHARED_SECRET`, `SIDECAR_PORT` (8080) or `SIDECAR_SOCKET` (a unix socket),
    /// and `SIDECAR_BASE_DIR` (`/ion`).
    ///
    /// Without a secret it is the one that a sidecar in development mode keeps in `dev/secret`.
    ///
    /// # Errors
    /// [`Error::Config`] when a variable is missing or cannot be used.
    pub fn from_env() -> Result<Self, Error> {
        ClientBuilder::from_env()?.build()
    }

    /// A client with settings of its own.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Waits for the next event of a module under `sidecar worker --warm`; `None` when there will be none, and the
    /// module is to end.
    ///
    /// What takes long, such as loading a model, belongs before the first call: no event is received for this module
    /// before it asks for one. An event whose module was dropped without `done` or `fail` is given again.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), sidecar_client::Error> {
    /// let mut client = sidecar_client::Client::from_env()?;
    /// while let Some(module) = client.next().await? {
    ///     let work = module.workspace();
    ///     // … read work.files()?, write work.output("a.png")? …
    ///     module.done().await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Call`] when the sidecar cannot be reached within the budget of [`Retry`], or is no such worker.
    pub async fn next(&mut self) -> Result<Option<Module>, Error> {
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let body = finished.map_or_else(|| "null".into(), |id| format!("\"{id}\""));
        let answer: Option<NextAnswer> = self.api.call_for_event(&body).await?;
        let Some(next) = answer else { return Ok(None) };
        *self.finished.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let prepared = Prepared { files: next.files, values: next.values, bytes: next.bytes };
        let answer = ReadyAnswer {
            prepared,
            context: Some(next.context.clone()),
            traceparent: next.traceparent.clone(),
        };
        let module = self.module(self.layout.clone(), Some(answer))?;
        Ok(Some(module.one_of_several(next, self.finished.clone())))
    }

    /// Waits until the sidecar has staged the inputs.
    ///
    /// # Errors
    /// [`Error::Call`] when it cannot, or cannot be reached within the budget of [`Retry`].
    pub async fn ready(self) -> Result<Module, Error> {
        let answer: Option<ReadyAnswer> = self.api.call("ready", Method::GET, None).await?;
        self.module(self.layout.clone(), answer)
    }

    fn module(&self, layout: Layout, answer: Option<ReadyAnswer>) -> Result<Module, Error> {
        let workspace = Workspace::of_module(layout)?;
        if let Some(ReadyAnswer { prepared, .. }) = &answer
            && workspace.values().len() as u64 != prepared.values
        {
            let why = "the sidecar has staged other values: is SIDECAR_BASE_DIR its --basedir?";
            return Err(Error::io("use", workspace.layout().input_meta())(std::io::Error::other(why)));
        }
        Ok(Module::new(workspace, self.api.clone(), answer))
    }
}

/// The secret of a sidecar in development mode. Where its directory is there, the sidecar may be about to start: it is
/// waited for a moment.
fn development_secret() -> Option<String> {
    let dir = Path::new(DEV_SECRET).parent().filter(|dir| dir.is_dir());
    for _ in 0..if dir.is_some() { DEV_PATIENCE } else { 1 } {
        match std::fs::read_to_string(DEV_SECRET) {
            Ok(secret) if !secret.trim().is_empty() => return Some(secret.trim().to_owned()),
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
    None
}

impl ClientBuilder {
    /// Reads the settings from the environment, as [`Client::from_env`] does; later calls override them. Blocks for up to
    /// 5 s if there is a directory `dev` without a secret, since a sidecar in development mode may be about to start.
    ///
    /// ```no_run
    /// use sidecar_client::{ClientBuilder, Retry};
    /// # fn main() -> Result<(), sidecar_client::Error> {
    /// let client = ClientBuilder::from_env()?.retry(Retry::never()).build()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] when a variable cannot be used, or there is no secret, even if [`secret`](Self::secret) would be
    /// called later.
    pub fn from_env() -> Result<Self, Error> {
        Self::default().read_env(|name| std::env::var(name).ok())?.checked()
    }

    fn checked(self) -> Result<Self, Error> {
        if self.secret.is_none() {
            return Err(Error::Config(NO_SECRET.into()));
        }
        Ok(self)
    }

    fn read_env(mut self, var: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        // An empty variable is how many environments spell "not set".
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        self.secret = var("SHARED_SECRET").or_else(development_secret);
        // Kubernetes gives every pod such an address of a Service that is called sidecar.
        let port = var("SIDECAR_PORT").filter(|port| !port.starts_with("tcp://"));
        self.port = match port {
            None => None,
            Some(port) => Some(
                port.parse()
                    .map_err(|_| Error::Config(format!("SIDECAR_PORT is {port:?}, not a port number")))?,
            ),
        };
        self.socket = var("SIDECAR_SOCKET").map(PathBuf::from);
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

    /// The sidecar's unix socket, which is preferred to its port.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
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
            Error::Config(
                "the builder was given no secret; ClientBuilder::from_env reads SHARED_SECRET".into(),
            )
        })?;
        let port = self.port.unwrap_or(DEFAULT_PORT);
        let url = self.url.unwrap_or_else(|| format!("http://127.0.0.1:{port}"));
        if !url.starts_with("http://") {
            return Err(Error::Config(format!("the sidecar's URL is {url:?}: it must begin with http://")));
        }
        if port == 0 {
            return Err(Error::Config("SIDECAR_PORT is 0: a sidecar listens on another port".into()));
        }
        let layout = Layout::new(self.base_dir.unwrap_or_else(|| Layout::DEFAULT_BASE.into()));
        let api = Api::new(&url, self.socket.as_deref(), &secret, self.retry)?;
        Ok(Client { api: Arc::new(api), layout, finished: Finished::default() })
    }
}

impl std::fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("url", &self.url)
            .field("port", &self.port)
            .field("socket", &self.socket)
            .field("base_dir", &self.base_dir)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A heartbeat beside the work is a task of its own.
    #[tokio::test]
    async fn every_call_can_be_spawned() {
        fn is_send<T: Send>(call: T) -> T {
            call
        }
        let mut client = Client::builder().secret("s").port(1).retry(Retry::never()).build().unwrap();
        assert!(is_send(client.next()).await.is_err());
        assert!(is_send(client.ready()).await.is_err());
        let calls = |module: Module| {
            drop(is_send(module.status()));
            drop(is_send(module.done()));
        };
        let _: fn(Module) = calls;
        let _: fn(Module) = |module| drop(is_send(module.fail("no")));
    }

    #[test]
    fn the_environment_is_checked() {
        let build = |vars: &[(&str, &str)]| {
            let var =
                |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
            Client::builder().read_env(var)?.checked().and_then(ClientBuilder::build)
        };
        let client = build(&[("SHARED_SECRET", "s")]).unwrap();
        assert_eq!((client.api.address(), client.layout.base()), ("http://127.0.0.1:8080", "/ion".as_ref()));
        let client =
            build(&[("SHARED_SECRET", "s"), ("SIDECAR_PORT", "9"), ("SIDECAR_BASE_DIR", "/b")]).unwrap();
        assert_eq!((client.api.address(), client.layout.base()), ("http://127.0.0.1:9", "/b".as_ref()));
        let client =
            build(&[("SHARED_SECRET", "s"), ("SIDECAR_SOCKET", "/s"), ("SIDECAR_PORT", "9")]).unwrap();
        assert_eq!(client.api.address(), "unix:/s");
        for (vars, name) in [
            (&[][..], "SHARED_SECRET is not set"),
            (&[("SHARED_SECRET", "")][..], "SHARED_SECRET is not set"),
            (&[("SHARED_SECRET", "s"), ("SIDECAR_PORT", "0")][..], "SIDECAR_PORT is 0"),
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
