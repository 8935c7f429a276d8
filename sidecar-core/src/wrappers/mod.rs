//! Policies around providers: each wrapper is itself a provider of the trait it wraps, and passes its suite.
//!
//! Providers neither repeat nor hurry; whoever composes them decides.
//! The usual order, from the inside: provider → [`Timeout`] → [`Retry`].

mod retry;
mod timeout;

pub use retry::Retry;
pub use timeout::Timeout;
