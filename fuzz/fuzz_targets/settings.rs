//! Flags, one a line: what is wrong is told by its flag, and no secret is ever repeated.
//!
//! The binary has no library: its modules are taken in by their paths.
#![no_main]
#![allow(dead_code)]

#[path = "../../sidecar-bin/src/again.rs"]
mod again;
#[path = "../../sidecar-bin/src/cli.rs"]
mod cli;
#[path = "../../sidecar-bin/src/config.rs"]
mod config;
#[path = "../../sidecar-bin/src/errors.rs"]
mod errors;
#[path = "../../sidecar-bin/src/exit.rs"]
mod exit;
#[path = "../../sidecar-bin/src/help.rs"]
mod help;
#[path = "../../sidecar-bin/src/ion.rs"]
mod ion;
#[path = "../../sidecar-bin/src/options.rs"]
mod options;
#[path = "../../sidecar-bin/src/plane.rs"]
mod plane;
#[path = "../../sidecar-bin/src/secrets.rs"]
mod secrets;
#[path = "../../sidecar-bin/src/trace/mod.rs"]
mod trace;
#[path = "../../sidecar-bin/src/usage.rs"]
mod usage;
#[path = "../../sidecar-bin/src/worker.rs"]
mod worker;

use clap::FromArgMatches;
use config::{Config, Mode};
use libfuzzer_sys::fuzz_target;

/// What no answer may contain.
const SECRET: &str = "swordfish-7391";

/// URLs that may hold a password.
const HOLDERS: [&str; 5] = [
    "--documents=mongodb://",
    "--documents=postgres://",
    "--events=nats://",
    "--events=amqp://",
    "--events=amqps://",
];

fuzz_target!(|text: &str| {
    let arguments = ["sidecar".to_owned(), format!("--sharedsecret={SECRET}")].into_iter();
    let flags = text.lines().take(24).map(|line| {
        let holds = HOLDERS.iter().any(|holder| line.starts_with(holder));
        if holds { line.replace(":SECRET@", &format!(":{SECRET}@")) } else { line.to_owned() }
    });
    let Ok(matches) = help::command().try_get_matches_from(arguments.chain(flags)) else { return };
    let Ok(mut cli) = cli::Cli::from_arg_matches(&matches) else { return };
    // Nothing of this machine is read.
    let options = &mut cli.options;
    for file in [
        &mut options.sharedsecret_file,
        &mut options.documents_file,
        &mut options.events_file,
        &mut options.azureblobprovider_blobaccountkey_file,
        &mut options.azureblobprovider_sas_file,
        &mut options.azureblobprovider_connectionstring_file,
        &mut options.s3_secretaccesskey_file,
        &mut options.mongodbdocprovider_password_file,
        &mut options.servicebuseventprovider_key_file,
        &mut options.ca_file,
    ] {
        *file = None;
    }
    match Config::parse(cli.options, &Mode::Serve, cli.parent_is_empty) {
        Ok(config) => {
            let printed = config.describe();
            assert!(!printed.contains(SECRET), "{printed}");
            assert!(printed.lines().all(|line| line.contains(" = ")), "{printed}");
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                assert!(error.starts_with("--"), "{error}");
                assert!(!error.contains(SECRET), "{error}");
                assert!(error.len() < 4 * text.len() + 1024, "{} bytes", error.len());
            }
        }
    }
});
