//! One provider of each kind, over a server that is played by a map in memory.
//!
//! The guide `docs/writing-a-provider.md` explains them, and shows these files.

mod blobs;
mod documents;
mod events;
mod server;
mod source;

pub use blobs::Blobs;
pub use documents::Documents;
pub use events::Events;
pub use server::{Failed, Page, Server};

use std::fmt::Display;

use sidecar_core::Error;

/// The one table of errors: what the server answered becomes what the caller does next.
fn error(provider: &impl Display, action: impl Into<String>) -> impl FnOnce(Failed) -> Error {
    let (provider, action) = (provider.to_string(), action.into());
    move |failed| match failed {
        Failed::Down => Error::unavailable(&provider, action, failed),
        Failed::TooLarge => Error::refused(&provider, action, failed),
    }
}
