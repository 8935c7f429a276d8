//! The guarantees of the provider traits, each as a function that panics when it is broken.
//!
//! An implementor outside this crate enables the feature `conformance` for its tests and writes
//!
//! ```no_run
//! # async fn my_provider() -> sidecar_core::blob::Memory { sidecar_core::blob::Memory::default() }
//! mod my_store {
//!     sidecar_core::conformance_blob!(crate::my_provider().await);
//! }
//! # fn main() {}
//! ```
//!
//! for one test a guarantee, named after it. `optional:` before an expression of an `Option` leaves the tests
//! out where there is no server to run them against.

// A broken guarantee is told by a panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod blob;
pub mod documents;
pub mod events;

macro_rules! suite {
    ($(#[$doc:meta])* $name:ident, $module:ident, [$($guarantee:ident),* $(,)?]) => {
        $(#[$doc])*
        #[macro_export]
        macro_rules! $name {
            (optional: $provider:expr) => {
                $(
                    #[tokio::test(flavor = "multi_thread")]
                    async fn $guarantee() {
                        if let Some(provider) = $provider {
                            $crate::conformance::$module::$guarantee(&provider).await;
                        }
                    }
                )*
            };
            ($provider:expr) => {
                $crate::$name!(optional: Some($provider));
            };
        }
    };
}

suite!(
    /// One test for each guarantee of [`BlobProvider`](crate::BlobProvider); takes an expression that may await.
    conformance_blob, blob,
    [
        what_is_put_comes_back,
        a_missing_blob_is_not_found,
        a_put_replaces,
        keys_do_not_collide,
        odd_names_survive,
        shared_blobs_are_told,
        every_blob_is_listed,
        what_is_deleted_is_gone,
        an_empty_blob_is_a_blob,
        a_large_blob_comes_back,
        many_at_once,
        many_in_one_call,
        a_changed_source_is_refused,
        the_display_is_short,
    ]
);
suite!(
    /// One test for each guarantee of [`DocumentProvider`](crate::DocumentProvider).
    conformance_documents, documents,
    [
        what_is_put_comes_back,
        a_missing_document_is_none,
        a_put_replaces,
        the_kinds_are_sets_of_their_own,
        an_insert_never_replaces,
        one_insert_of_many_decides,
        every_document_is_listed,
        what_is_deleted_is_gone,
        a_large_document_comes_back,
        many_in_one_call,
        none_in_one_call,
        hostile_values_survive,
    ]
);
suite!(
    /// One test for each guarantee of [`EventProvider`](crate::EventProvider); takes an expression of a
    /// provider and a function that tells what has arrived.
    conformance_events, events,
    [every_event_arrives, a_repeat_is_seen_once, many_in_one_call, none_in_one_call, hostile_values_survive]
);
