//! The two calls where no client repeats them: what can only be waited for is waited for here.

use std::sync::Arc;
use std::time::Duration;

use super::Session;
use crate::contract::{Prepared, Receipt};
use crate::error::{Error, Result};

/// How soon a missing event is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Session {
    /// [`ready`](Self::ready) for a caller that does not repeat it: an event whose context is not there yet is waited
    /// for, as long as [`Settings::patience`](super::Settings::patience).
    ///
    /// # Errors
    /// Those of `ready`.
    pub async fn prepare(&self) -> Result<Prepared, Arc<Error>> {
        loop {
            match self.ready().await {
                Err(error) if matches!(*error, Error::NoEventYet { .. }) => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                staged => return staged,
            }
        }
    }

    /// [`done`](Self::done) for a caller that does not repeat it: where the run was closed without an outcome, the
    /// outputs are committed in the next one.
    ///
    /// # Errors
    /// Those of `done`, but for [`Error::Abandoned`].
    pub async fn commit(&self) -> Result<Receipt, Arc<Error>> {
        loop {
            match self.done().await {
                Err(error) if matches!(*error, Error::Abandoned { .. }) => {}
                done => return done,
            }
        }
    }
}
