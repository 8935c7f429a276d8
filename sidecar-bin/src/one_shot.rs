//! The two calls of an execution where no client repeats them: what can only be waited for is waited for here.

use std::sync::Arc;
use std::time::Duration;

use sidecar_core::{Error, Prepared, Receipt, Session, Settings};

use crate::exit::{self, Failure};

/// How soon a missing event is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Stages the inputs; an event whose context is not there yet is waited for.
pub(crate) async fn ready(session: &Session) -> Result<Prepared, Arc<Error>> {
    loop {
        match session.ready().await {
            Err(error) if matches!(*error, Error::Unavailable { .. }) && session.awaits_event() => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            staged => return staged,
        }
    }
}

/// Commits the outputs; where the run was closed without an outcome, in the next one.
pub(crate) async fn done(session: &Session) -> Result<Receipt, Arc<Error>> {
    loop {
        match session.done().await {
            Err(error) if matches!(*error, Error::Abandoned { .. }) => {}
            done => return done,
        }
    }
}

/// `commit` goes on with what `prepare` began; it must not touch another execution.
pub(crate) async fn prepared(settings: &Settings) -> Result<(), Failure> {
    let other = Session::context_in(&settings.state_dir).await.map_err(|error| Failure::local(&error))?;
    let Settings { context, .. } = settings;
    let found = match other {
        Some(other) if other.event_id == context.event_id && other.name == context.name => return Ok(()),
        Some(other) => format!("was prepared for event {} of module {}", other.event_id, other.name),
        None => "was never prepared".to_owned(),
    };
    let base = settings.layout.base().display();
    let (event, module) = (&context.event_id, &context.name);
    let message =
        format!("{base} {found}, not for event {event} of module {module}: run sidecar prepare first");
    Err(Failure::new(exit::CONFIGURATION, message))
}
