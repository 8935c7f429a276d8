//! `sidecar status`: what a sidecar beside a module is doing, how far it is, and how long it will still take.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::HumanBytes;
use sidecar_core::plane::counted;
use sidecar_core::server::{Address, ask};
use sidecar_core::{Error, Phase, Status};

use crate::config::DEV_SECRET;
use crate::errors::Errors;
use crate::exit::{self, Failure};
use crate::options::Options;
use crate::plane::DEV_DIR;
use crate::secrets::read_files;

/// How long a transfer is watched to tell its rate.
const LOOK: Duration = Duration::from_millis(500);

/// The default port of `sidecar` without a command.
const PORT: u16 = 8080;

/// Asks the sidecar that the settings of the server name, and prints what it answers.
///
/// # Errors
/// One line for each setting that is wrong, or why nothing was answered.
pub(crate) fn run(options: Options) -> Result<Result<u8, Failure>, Vec<String>> {
    let (address, secret) = sidecar(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| vec![format!("cannot start: {error}")])?;
    Ok(runtime.block_on(show(&address, &secret)))
}

fn sidecar(mut options: Options) -> Result<(Address, String), Vec<String>> {
    let mut errors = Errors::default();
    // An empty variable is how many environments spell "not set".
    options.all_mut().filter(|value| value.as_deref() == Some("")).for_each(|value| *value = None);
    read_files(&mut options, &mut errors);
    let development = errors.switch("development", &options.development).unwrap_or(false);
    let kept = || std::fs::read_to_string(Path::new(DEV_DIR).join(DEV_SECRET)).ok().filter(|_| development);
    let secret = options.sharedsecret.clone().or_else(kept);
    if secret.is_none() {
        errors.push("sharedsecret", "is required: the one of the sidecar to ask");
    }
    let ip: Option<IpAddr> = errors.parse("serveraddress", &options.serveraddress, "an IP address");
    let port = errors.parse("serverport", &options.serverport, "a port, 0 to 65535").unwrap_or(PORT);
    let address = match &options.socket {
        Some(path) => Address::Unix(path.into()),
        None => Address::Tcp(SocketAddr::new(ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), port)),
    };
    match errors.0.is_empty() {
        true => Ok((address, secret.unwrap_or_default().trim_end().to_owned())),
        false => Err(errors.0),
    }
}

async fn show(address: &Address, secret: &str) -> Result<u8, Failure> {
    let failed = |error: Error| match error {
        Error::Unavailable { .. } => {
            Failure::new(exit::LOCAL_FAILED, format!("{}: is that its --serverport?", error.chain()))
        }
        other => Failure::new(exit::CONFIGURATION, other.chain()),
    };
    let (status, began) = (ask(address, secret).await.map_err(failed)?, Instant::now());
    exit::print(&what(&status))?;
    if !is_moving(&status) {
        if status.files_total > 0 {
            exit::print(&format!("  {}, {} moved", counted(status.files, "file"), HumanBytes(status.bytes)))?;
        }
        return Ok(0);
    }
    tokio::time::sleep(LOOK).await;
    let later = ask(address, secret).await.map_err(failed)?;
    let rate = later.bytes.saturating_sub(status.bytes) as f64 / began.elapsed().as_secs_f64();
    exit::print(&how_far(&later, rate))?;
    Ok(0)
}

fn what(status: &Status) -> String {
    let context = &status.context;
    let what = match status.phase {
        Phase::New => "waits for the module to call ready",
        Phase::Staging => "stages the inputs",
        Phase::Ready => "waits for the module to call done",
        Phase::Committing => "stores the outputs",
        Phase::Deciding => "decides the outcome",
        Phase::Publishing => "publishes the events",
        Phase::Done => "has committed",
        Phase::Failed => "has failed",
        _ => "works",
    };
    let reason =
        status.reason.as_deref().map(|reason| format!(": {}", exit::cell(reason))).unwrap_or_default();
    format!("{}: {what} (module {}, event {}){reason}", status.phase, context.name, context.event_id)
}

fn is_moving(status: &Status) -> bool {
    status.bytes < status.bytes_total && matches!(status.phase, Phase::Staging | Phase::Committing)
}

/// The transfer at a rate of so many bytes a second.
fn how_far(status: &Status, rate: f64) -> String {
    let Status { files, files_total, bytes, bytes_total, .. } = status;
    let left = bytes_total.saturating_sub(*bytes);
    let time = match rate >= 1.0 {
        true => {
            let left = Duration::from_secs((left as f64 / rate).ceil() as u64);
            format!(", {}/s, {} left", HumanBytes(rate as u64), humantime::format_duration(left))
        }
        false => ", not moving".to_owned(),
    };
    format!("  {files} of {files_total} files, {} of {}{time}", HumanBytes(*bytes), HumanBytes(*bytes_total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_says_how_long_it_still_takes() {
        let status = r#"{"phase": "staging", "context": {"name": "m", "eventId": "e", "correlationId": "c",
            "parentEventId": ""}, "files": 1, "filesTotal": 3, "bytes": 1048576, "bytesTotal": 11534336}"#;
        let status: Status = serde_json::from_str(status).unwrap();
        assert!(is_moving(&status));
        let line = how_far(&status, 2.0 * 1024.0 * 1024.0);
        assert_eq!(line, "  1 of 3 files, 1.00 MiB of 11.00 MiB, 2.00 MiB/s, 5s left");
        assert!(how_far(&status, 0.0).ends_with("not moving"));
        assert_eq!(what(&status), "staging: stages the inputs (module m, event e)");
    }
}
