//! The guarantees of the provider traits, each as a function that panics when it is broken.
//!
//! An implementor outside this crate enables the feature `conformance` for its tests and writes
//!
//! ```no_run
//! # use sidecar_core::blob::Memory as MyStore;
//! mod my_store {
//!     sidecar_core::conformance_blob!(
//!         crate::MyStore::default(),
//!         reopen: async |store| crate::MyStore::clone(store),
//!         away: crate::MyStore::default(),
//!         large: 256 << 20,
//!     );
//! }
//! # fn main() {}
//! ```
//!
//! for one test a guarantee, named after it. The first expression opens a provider and may await, as may the others:
//!
//! - `optional:` before the first expression takes an `Option`, and leaves the tests out where there is no server to
//!   run them against.
//! - `reopen:` opens the same store again, as another process or the next one would.
//! - `away:` opens a provider whose store cannot be reached: at `127.0.0.1:1`, or in a directory that was removed.
//! - `large:`, of blobs alone, is a size in bytes of which no more than half may be in memory at once; the test runs in
//!   a process of its own.
//!
//! The tests of an argument that is not given are reported as ignored: nobody knows whether the provider keeps those
//! guarantees.

// A broken guarantee is told by a panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

pub mod blob;
pub mod documents;
pub mod events;
mod samples;
pub mod sources;
mod transfers;

/// Whether this process runs no other test at the same time. If it does, the test of this thread has succeeded in a
/// process of its own when this returns.
#[doc(hidden)]
pub fn alone() -> bool {
    const ALONE: &str = "SIDECAR_CONFORMANCE_ALONE";
    let thread = std::thread::current();
    let name = thread.name().expect("a test's thread has its name");
    if name == "main" || std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args([name, "--exact", "--nocapture"]).env(ALONE, "1");
    let output = test.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    false
}

/// One test for each guarantee of [`BlobProvider`](crate::BlobProvider); see [`conformance`](crate::conformance).
#[macro_export]
macro_rules! conformance_blob {
    ($($arguments:tt)*) => {
        $crate::__conformance! {
            blob
            always [
                what_is_put_comes_back
                a_missing_blob_is_not_found
                a_put_replaces
                a_get_replaces_its_target
                keys_do_not_collide
                odd_names_survive
                shared_blobs_are_told
                what_is_not_refused_is_stored
                every_blob_is_listed
                a_listing_survives_deletions
                what_is_deleted_is_gone
                an_empty_blob_is_a_blob
                a_large_blob_comes_back
                many_at_once
                many_in_one_call
                none_in_one_call
                a_changed_source_is_refused
                a_put_that_breaks_off_stores_nothing
                a_blob_is_seen_whole_or_not_at_all
                a_dropped_put_stores_all_or_nothing
                a_target_that_is_full_is_an_error
                bytes_that_pass_are_counted
                a_uri_names_its_blob
                checks_at_once_succeed
                the_directories_are_there
                the_display_is_short
            ]
            reopen [another_process_sees_what_is_flushed a_restart_forgets_nothing the_id_is_stable]
            away [an_outage_is_unavailable a_check_finds_an_outage]
            large [a_large_blob_is_never_held_whole]
            $($arguments)*
        }
    };
}

/// One test for each guarantee of [`DocumentProvider`](crate::DocumentProvider); see
/// [`conformance`](crate::conformance).
#[macro_export]
macro_rules! conformance_documents {
    ($($arguments:tt)*) => {
        $crate::__conformance! {
            documents
            always [
                what_is_put_comes_back
                a_missing_document_is_none
                a_put_replaces
                ids_do_not_collide
                the_kinds_are_sets_of_their_own
                an_insert_never_replaces
                one_insert_of_many_decides
                every_document_is_listed
                a_graph_is_listed
                a_listing_survives_deletions
                what_is_deleted_is_gone
                any_object_comes_back
                a_large_document_comes_back
                many_at_once
                many_in_one_call
                none_in_one_call
                hostile_values_survive
                what_is_not_refused_is_stored
                checks_at_once_succeed
                the_directories_are_there
                the_display_is_short
            ]
            reopen [
                another_process_sees_what_is_stored
                a_restart_forgets_nothing
                one_insert_of_two_processes_decides
                the_id_is_stable
            ]
            away [an_outage_is_unavailable a_check_finds_an_outage]
            large []
            $($arguments)*
        }
    };
}

/// One test for each guarantee of [`EventProvider`](crate::EventProvider); takes a
/// [`Consumer`](crate::conformance::events::Consumer); see [`conformance`](crate::conformance).
#[macro_export]
macro_rules! conformance_events {
    ($($arguments:tt)*) => {
        $crate::__conformance! {
            events
            always [
                every_event_arrives
                a_repeat_is_seen_once
                many_at_once
                many_in_one_call
                none_in_one_call
                hostile_values_survive
                what_is_not_refused_arrives
                checks_at_once_succeed
                the_directories_are_there
                the_display_is_short
            ]
            reopen [a_repeat_by_another_process_is_seen_once the_id_is_stable]
            away [an_outage_is_unavailable a_check_finds_an_outage]
            large []
            $($arguments)*
        }
    };
}

/// One test for each guarantee of [`EventSource`](crate::events::EventSource); takes an
/// [`EventProvider`](crate::EventProvider) that can be subscribed to; see [`conformance`](crate::conformance).
#[macro_export]
macro_rules! conformance_sources {
    ($($arguments:tt)*) => {
        $crate::__conformance! {
            sources
            always [
                an_event_is_delivered_unchanged
                what_came_before_is_not_lost
                a_waiting_member_is_woken
                other_types_do_not_come
                groups_are_independent
                members_compete_without_doubles
                several_are_held_at_once
                a_dead_members_delivery_comes_back
                a_renewed_lock_holds
                a_retry_waits
                settling_twice_is_an_error
                a_late_settlement_is_an_error
                a_dead_letter_stays_away
                a_republished_event_comes_again
            ]
            reopen [another_process_joins_the_group]
            away [an_outage_is_unavailable]
            large []
            $($arguments)*
        }
    };
}

/// The tests of one suite, and in place of those that lack their argument, ignored ones.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance {
    (
        $suite:ident always [$($always:ident)*] reopen [$($reopened:ident)*] away [$($off:ident)*]
        large [$($bounded:ident)*]
        optional: $provider:expr $(, reopen: $reopen:expr)? $(, away: $away:expr)? $(, large: $large:expr)? $(,)?
    ) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $always() {
                if let Some(provider) = $provider {
                    $crate::conformance::$suite::$always(&provider).await;
                }
            }
        )*
        $crate::__conformance!(@reopen $suite [$($reopened)*] $provider; $($reopen)?);
        $crate::__conformance!(@away $suite [$($off)*] $($away)?);
        $crate::__conformance!(@large $suite [$($bounded)*] $provider; $($large)?);
    };
    (@reopen $suite:ident [$($guarantee:ident)*] $provider:expr; $reopen:expr) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $guarantee() {
                if let Some(provider) = $provider {
                    $crate::conformance::$suite::$guarantee(&provider, $reopen).await;
                }
            }
        )*
    };
    (@away $suite:ident [$($guarantee:ident)*] $away:expr) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $guarantee() {
                $crate::conformance::$suite::$guarantee(&$away).await;
            }
        )*
    };
    (@large $suite:ident [$($guarantee:ident)*] $provider:expr; $size:expr) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $guarantee() {
                if let Some(provider) = $provider {
                    if $crate::conformance::alone() {
                        $crate::conformance::$suite::$guarantee(&provider, $size).await;
                    }
                }
            }
        )*
    };
    (@reopen $suite:ident [$($guarantee:ident)*] $provider:expr;) => {
        $(#[test] #[ignore = "not tested: there is no `reopen:`"] fn $guarantee() {})*
    };
    (@away $suite:ident [$($guarantee:ident)*]) => {
        $(#[test] #[ignore = "not tested: there is no `away:`"] fn $guarantee() {})*
    };
    (@large $suite:ident [$($guarantee:ident)*] $provider:expr;) => {
        $(#[test] #[ignore = "not tested: there is no `large:`"] fn $guarantee() {})*
    };
    (
        $suite:ident always $always:tt reopen $reopened:tt away $off:tt large $bounded:tt
        $provider:expr $(, $($arguments:tt)*)?
    ) => {
        $crate::__conformance! {
            $suite always $always reopen $reopened away $off large $bounded
            optional: Some($provider) $(, $($arguments)*)?
        }
    };
}

/// A panic says which directory of a provider is not there.
fn assert_directories(directories: &[std::path::PathBuf]) {
    for dir in directories {
        assert!(dir.is_absolute() && dir.is_dir(), "{} is no directory", dir.display());
    }
}

/// A name fits into a log line.
fn assert_short(name: &str) {
    assert!(!name.is_empty() && name.len() < 200 && !name.contains('\n'), "{name}");
}

/// Whatever was asked of a store that cannot be reached, the answer is that it is unavailable.
fn assert_unavailable<T: std::fmt::Debug>(call: &str, answer: crate::Result<T>) {
    assert!(matches!(answer, Err(crate::Error::Unavailable { .. })), "{call}: {answer:?}");
}
