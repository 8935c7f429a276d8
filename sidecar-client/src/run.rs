//! A whole module in one call.

use std::error::Error as StdError;
use std::process::ExitCode;

use crate::client::Client;
use crate::error::{Error, chain};
use crate::module::Module;

/// Runs a module: ready, then `work`, then done if it succeeded; otherwise fail, and a non-zero exit code.
///
/// An error is printed with all its causes, and they are the reason in the failure document: of `work` too, whose
/// error may be any [`std::error::Error`], `anyhow::Error`, a `Box<dyn Error>` or a text.
///
/// ```no_run
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> std::process::ExitCode {
///     sidecar_client::run(async |module| {
///         let work = module.workspace();
///         work.insight("files", work.files()?.len());
///         Ok::<_, sidecar_client::Error>(())
///     })
///     .await
/// }
/// ```
pub async fn run<E: Into<Box<dyn StdError>>>(work: impl AsyncFnOnce(&Module) -> Result<(), E>) -> ExitCode {
    let module = match ready().await {
        Ok(module) => module,
        Err(error) => return failed(&error.chain()),
    };
    if let Err(error) = work(&module).await {
        let reason = chain(&*error.into());
        if let Err(error) = module.fail(&reason).await {
            failed(&error.chain());
        }
        return failed(&reason);
    }
    match module.done().await {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => failed(&error.chain()),
    }
}

/// Runs a module under `sidecar worker --warm`: `work` for one event after another, then done if it succeeded and fail if
/// not, until the worker ends.
///
/// A failure is printed, recorded, and tried again by a worker; this goes on with the next event.
///
/// ```no_run
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> std::process::ExitCode {
///     let model = "… loaded once …";
///     sidecar_client::serve(async |module| {
///         let work = module.workspace();
///         work.insight("model", model.len());
///         Ok::<_, sidecar_client::Error>(())
///     })
///     .await
/// }
/// ```
pub async fn serve<E: Into<Box<dyn StdError>>>(
    mut work: impl AsyncFnMut(&Module) -> Result<(), E>,
) -> ExitCode {
    let mut client = match Client::from_env() {
        Ok(client) => client,
        Err(error) => return failed(&error.chain()),
    };
    loop {
        let module = match client.next().await {
            Ok(Some(module)) => module,
            Ok(None) => return ExitCode::SUCCESS,
            Err(error) => return failed(&error.chain()),
        };
        let (module, reason) = match work(&module).await {
            Ok(()) => match module.done().await {
                Ok(_) => continue,
                Err(refused) => {
                    let (module, error) = refused.into_parts();
                    (module, error.chain())
                }
            },
            Err(error) => (module, chain(&*error.into())),
        };
        failed(&reason);
        if let Err(error) = module.fail(&reason).await {
            return failed(&error.chain());
        }
    }
}

async fn ready() -> Result<Module, Error> {
    Client::from_env()?.ready().await
}

fn failed(reason: &str) -> ExitCode {
    eprintln!("error: {reason}");
    ExitCode::FAILURE
}
