//! The same API for modules without an async runtime.
//!
//! ```no_run
//! # fn main() -> Result<(), sidecar_client::Error> {
//! let module = sidecar_client::blocking::Client::from_env()?.ready()?;
//! let work = module.workspace();
//! work.insight("files", work.files()?.len());
//! module.done()?;
//! # Ok(())
//! # }
//! ```
//!
//! Calling `done` before `ready`, or twice, does not compile here either:
//!
//! ```compile_fail,E0599
//! # fn f() -> Result<(), sidecar_client::Error> {
//! let module = sidecar_client::blocking::Client::from_env()?;
//! module.done()?; // `done` is a method of what `ready` returns
//! # Ok(())
//! # }
//! ```
//!
//! ```compile_fail,E0382
//! # fn f() -> Result<(), sidecar_client::Error> {
//! let module = sidecar_client::blocking::Client::from_env()?.ready()?;
//! module.done()?;
//! module.done()?; // `done` took the module
//! # Ok(())
//! # }
//! ```

use std::error::Error as StdError;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use sidecar_core::{Context, Prepared, Receipt, Status, TraceParent};
use tokio::runtime::{Builder, Runtime};

use crate::client;
use crate::error::{Error, chain};
use crate::module;
use crate::refused::Refused;
use crate::workspace::Workspace;

/// A module that is not ready yet.
#[derive(Debug)]
pub struct Client {
    client: client::Client,
    /// Made with the first call.
    runtime: Option<Arc<Runtime>>,
}

impl Client {
    /// See [`Client::from_env`](crate::Client::from_env).
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn from_env() -> Result<Self, Error> {
        client::Client::from_env().map(Self::from)
    }

    /// See [`Client::builder`](crate::Client::builder); `Client::from(builder.build()?)` makes it a client without an
    /// async runtime.
    pub fn builder() -> client::ClientBuilder {
        client::Client::builder()
    }

    /// See [`Client::ready`](crate::Client::ready).
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn ready(self) -> Result<Module, Error> {
        let runtime = runtime()?;
        let module = runtime.block_on(self.client.ready())?;
        Ok(Module { module, runtime })
    }

    /// See [`Client::next`](crate::Client::next).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), sidecar_client::Error> {
    /// let mut client = sidecar_client::blocking::Client::from_env()?;
    /// while let Some(module) = client.next()? {
    ///     let work = module.workspace();
    ///     // … read work.files()?, write work.output("a.png")? …
    ///     module.done()?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Call`].
    #[allow(clippy::should_implement_trait, reason = "an iterator cannot tell an error from the end")]
    pub fn next(&mut self) -> Result<Option<Module>, Error> {
        let runtime = match &self.runtime {
            Some(runtime) => runtime.clone(),
            None => self.runtime.insert(runtime()?).clone(),
        };
        let module = runtime.block_on(self.client.next())?;
        Ok(module.map(|module| Module { module, runtime }))
    }
}

impl From<client::Client> for Client {
    fn from(client: client::Client) -> Self {
        Self { client, runtime: None }
    }
}

/// A module whose inputs are staged.
#[derive(Debug)]
pub struct Module {
    module: module::Module,
    runtime: Arc<Runtime>,
}

impl Module {
    /// The inputs and outputs.
    pub fn workspace(&self) -> &Workspace {
        self.module.workspace()
    }

    /// See [`Module::context`](crate::Module::context).
    pub fn context(&self) -> Option<&Context> {
        self.module.context()
    }

    /// See [`Module::traceparent`](crate::Module::traceparent).
    pub fn traceparent(&self) -> Option<&TraceParent> {
        self.module.traceparent()
    }

    /// See [`Module::event_type`](crate::Module::event_type).
    pub fn event_type(&self) -> Option<&str> {
        self.module.event_type()
    }

    /// See [`Module::attempt`](crate::Module::attempt).
    pub fn attempt(&self) -> Option<u32> {
        self.module.attempt()
    }

    /// See [`Module::deadline`](crate::Module::deadline).
    pub fn deadline(&self) -> Option<Duration> {
        self.module.deadline()
    }

    /// See [`Module::prepared`](crate::Module::prepared).
    pub fn prepared(&self) -> Option<&Prepared> {
        self.module.prepared()
    }

    /// See [`Module::status`](crate::Module::status).
    ///
    /// A call is also a sign of life, for a sidecar with `--module-timeout`. Beside work that takes long, make it from
    /// another thread:
    ///
    /// ```no_run
    /// use std::sync::mpsc::{self, RecvTimeoutError};
    /// use std::time::Duration;
    /// # fn work() {}
    /// # fn main() -> Result<(), sidecar_client::Error> {
    /// let module = sidecar_client::blocking::Client::from_env()?.ready()?;
    /// let (finished, wait) = mpsc::channel::<()>();
    /// std::thread::scope(|scope| {
    ///     let module = &module;
    ///     scope.spawn(move || {
    ///         while wait.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout) {
    ///             let _ = module.status();
    ///         }
    ///     });
    ///     work();
    ///     drop(finished);
    /// });
    /// module.done()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn status(&self) -> Result<Option<Status>, Error> {
        self.runtime.block_on(self.module.status())
    }

    /// See [`Module::done`](crate::Module::done).
    ///
    /// # Errors
    /// [`Refused`] with [`Error::Call`] or [`Error::Io`].
    pub fn done(self) -> Result<Option<Receipt>, Refused<Self>> {
        let Self { module, runtime } = self;
        runtime.block_on(module.done()).map_err(|refused| Self::again(refused, runtime))
    }

    /// See [`Module::fail`](crate::Module::fail).
    ///
    /// # Errors
    /// [`Refused`] with [`Error::Call`].
    pub fn fail(self, reason: impl AsRef<str>) -> Result<(), Refused<Self>> {
        let Self { module, runtime } = self;
        runtime.block_on(module.fail(reason)).map_err(|refused| Self::again(refused, runtime))
    }

    fn again(refused: Refused<module::Module>, runtime: Arc<Runtime>) -> Refused<Self> {
        let (module, error) = refused.into_parts();
        Refused::new(Self { module, runtime }, error)
    }
}

/// See [`run`](crate::run). No async runtime is entered while `work` is running.
pub fn run<E: Into<Box<dyn StdError>>>(work: impl FnOnce(&Module) -> Result<(), E>) -> ExitCode {
    match ended(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// See [`serve`](crate::serve). No async runtime is entered while `work` is running.
pub fn serve<E: Into<Box<dyn StdError>>>(work: impl FnMut(&Module) -> Result<(), E>) -> ExitCode {
    match served(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}

fn served<E: Into<Box<dyn StdError>>>(mut work: impl FnMut(&Module) -> Result<(), E>) -> Result<(), Error> {
    let mut client = Client::from_env()?;
    while let Some(module) = client.next()? {
        let (module, reason) = match work(&module) {
            Ok(()) => match module.done() {
                Ok(_) => continue,
                Err(refused) => {
                    let (module, error) = refused.into_parts();
                    (module, error.chain())
                }
            },
            Err(error) => (module, chain(&*error.into())),
        };
        eprintln!("error: {reason}");
        module.fail(&reason)?;
    }
    Ok(())
}

fn ended<E: Into<Box<dyn StdError>>>(work: impl FnOnce(&Module) -> Result<(), E>) -> Result<(), String> {
    let module = Client::from_env().and_then(Client::ready).map_err(|error| error.chain())?;
    if let Err(error) = work(&module) {
        let reason = chain(&*error.into());
        if let Err(error) = module.fail(&reason) {
            eprintln!("error: {}", error.chain());
        }
        return Err(reason);
    }
    module.done().map(drop).map_err(|error| error.chain())
}

fn runtime() -> Result<Arc<Runtime>, Error> {
    if tokio::runtime::Handle::try_current().is_ok() {
        let why = "this thread runs async code already: use sidecar_client::Client there, or call this from a thread of its own";
        return Err(Error::Config(why.into()));
    }
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map(Arc::new).map_err(Error::io("start", "the async runtime"))
}
