//! Two modules in a row over real object stores: the same outputs wherever the files go.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::process::{ended, files, sidecar};
use crate::servers;

/// The well-known key of the emulator's account.
const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Submits a small and a large file, and passes them through two modules.
fn chain(blobs: &str, credentials: &[(&str, &str)]) {
    let dir = TempDir::new().unwrap();
    let run = |arguments: &[&str]| {
        let mut command: Command = sidecar(&dir, arguments);
        command
            .env("SIDECAR_BLOBS", blobs)
            .env("SIDECAR_DEVELOPMENT", "true")
            .envs(credentials.iter().copied());
        let (code, out, log) = ended(&command.output().unwrap());
        assert_eq!(code, 0, "{log}");
        for (_, secret) in credentials {
            assert!(!log.contains(secret), "a secret is in the log");
        }
        (out, log)
    };
    let large: Vec<u8> = (0..20 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    fs::write(dir.path().join("large"), &large).unwrap();
    fs::write(dir.path().join("small"), "small").unwrap();
    let (_, log) = run(&["check"]);
    assert!(log.contains("usable"), "{log}");
    let first = run(&["submit", "large", "small"]).0;
    let copy = "cd $SIDECAR_BASE_DIR && cp in/data/* out/data/ &&
        echo '[{\"key\":\"eventType\",\"value\":\"t\"},{\"key\":\"files\",\"value\":\"large,small\"}]' > out/events/1.json";
    let event = |id: &str| format!("--context.eventid={}", id.trim());
    run(&["run", "--wrap", "--context.name=copy", &event(&first), "--", "sh", "-c", copy]);
    let events = files(dir.path().join("dev/events"));
    let second = events.iter().map(|(name, _)| name.trim_end_matches(".json")).find(|id| *id != first.trim());
    run(&["prepare", "--context.name=second", &event(second.unwrap())]);
    let input = dir.path().join("dev/modules/second/in");
    assert!(fs::read(input.join("data/large")).unwrap() == large, "the large file differs");
    assert_eq!(fs::read_to_string(input.join("data/small")).unwrap(), "small");
    assert!(
        fs::read_to_string(input.join("meta.json")).unwrap().contains("http://127.0.0.1"),
        "no URI to fetch from"
    );
    assert!(!dir.path().join("dev/blobs").exists());
}

#[test]
fn over_s3_seaweedfs() {
    let Some(endpoint) = servers::seaweedfs() else { return };
    let credentials = [("AWS_ACCESS_KEY_ID", servers::S3_KEY), ("AWS_SECRET_ACCESS_KEY", servers::S3_SECRET)];
    chain(&format!("s3://test/chain?endpoint={endpoint}&region=us-east-1"), &credentials);
}

#[test]
fn over_azure_azurite() {
    let Some(endpoint) = servers::azurite() else { return };
    let credentials = [("SIDECAR_AZUREBLOBPROVIDER_BLOBACCOUNTKEY", AZURITE_KEY)];
    chain(&format!("az://chain/prefix?account=devstoreaccount1&endpoint={endpoint}"), &credentials);
}

#[test]
fn a_wrong_key_is_found_before_any_module_runs() {
    let Some(endpoint) = servers::seaweedfs() else { return };
    let dir = TempDir::new().unwrap();
    let mut command = sidecar(&dir, &["run", "--wrap", "--development=true", "--", "touch", "ran"]);
    command.env("SIDECAR_BLOBS", format!("s3://test/x?endpoint={endpoint}&region=us-east-1"));
    command.env("AWS_ACCESS_KEY_ID", servers::S3_KEY).env("AWS_SECRET_ACCESS_KEY", "wrong");
    let (code, _, log) = ended(&command.output().unwrap());
    assert_eq!(code, 69, "{log}");
    assert!(log.contains("s3://test/x refused to"), "{log}");
    assert!(!dir.path().join("ran").exists());
}

/// The mix that a cluster without a cloud runs.
#[test]
fn over_s3_seaweedfs_and_postgres_and_nats() {
    let (Some(s3), Some(postgres), Some(nats)) = (servers::seaweedfs(), servers::postgres(), servers::nats())
    else {
        return;
    };
    let dir = TempDir::new().unwrap();
    let subject = format!("mix.{}", std::process::id());
    let run = |arguments: &[&str]| {
        let mut command: Command = sidecar(&dir, arguments);
        command.env("SIDECAR_BLOBS", format!("s3://test/mix?endpoint={s3}&region=us-east-1"));
        command.env("SIDECAR_DOCUMENTS", format!("{postgres}?table=mix"));
        command.env("SIDECAR_EVENTS", format!("{nats}/{subject}"));
        command.env("AWS_ACCESS_KEY_ID", servers::S3_KEY).env("AWS_SECRET_ACCESS_KEY", servers::S3_SECRET);
        let (code, out, log) = ended(&command.output().unwrap());
        assert_eq!(code, 0, "{log}");
        (out.trim().to_owned(), log)
    };
    fs::write(dir.path().join("input.txt"), "through three stores").unwrap();
    let (first, _) = run(&["submit", "--value", "k=v", "input.txt"]);
    let copy = "cd $SIDECAR_BASE_DIR && cp in/data/* out/data/ && echo '[{\"key\":\"n\",\"value\":\"1\"}]' > out/meta.json &&
        echo '[{\"key\":\"eventType\",\"value\":\"t\"},{\"key\":\"files\",\"value\":\"input.txt\"}]' > out/events/1.json";
    let event = |id: &str| format!("--context.eventid={id}");
    let base = ["--basedir=base", "--context.name=copy", "--wrap"];
    run(&[&["run"], &base[..], &[&event(&first), "--", "sh", "-c", copy]].concat());
    let receipt: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.path().join("base/.sidecar/journal.json")).unwrap()).unwrap();
    let second = receipt["receipt"]["events"][0]["eventId"].as_str().unwrap().to_owned();
    run(&["prepare", "--basedir=next", "--context.name=next", &event(&second)]);
    let staged = fs::read_to_string(dir.path().join("next/in/data/input.txt")).unwrap();
    assert_eq!(staged, "through three stores");
}
