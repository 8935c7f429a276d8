//! Tests of the suites: providers that break one guarantee each, and the test that notices.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

/// The sabotages of one trait, grouped by what the test that catches each of them needs: an enum `Sabotage`, and a test
/// named after each variant.
macro_rules! sabotages {
    (
        $suite:ident $broken:ident
        always { $($(#[$always_doc:meta])* $always:ident => $always_test:ident,)* }
        reopen { $($(#[$reopen_doc:meta])* $reopen:ident => $reopen_test:ident,)* }
        away { $($(#[$away_doc:meta])* $away:ident => $away_test:ident,)* }
    ) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Sabotage {
            $($(#[$always_doc])* $always,)*
            $($(#[$reopen_doc])* $reopen,)*
            $($(#[$away_doc])* $away,)*
        }

        #[allow(non_snake_case, reason = "each test is named after its sabotage")]
        mod is_caught {
            use sidecar_core::conformance::$suite;

            use super::{$broken, Sabotage};
            use crate::sabotage::fails;

            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $always() {
                    let broken = $broken::with(Sabotage::$always);
                    assert!(fails($suite::$always_test(&broken)).await);
                }
            )*
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $reopen() {
                    let broken = $broken::with(Sabotage::$reopen);
                    assert!(fails($suite::$reopen_test(&broken, async |broken| broken.reopened())).await);
                }
            )*
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $away() {
                    let broken = $broken::with(Sabotage::$away);
                    assert!(fails($suite::$away_test(&broken.away())).await);
                }
            )*
        }
    };
}

mod blobs;
mod documents;
mod events;
mod sources;

/// Whether the test of a guarantee fails.
async fn fails(test: impl Future<Output = ()>) -> bool {
    AssertUnwindSafe(test).catch_unwind().await.is_err()
}
