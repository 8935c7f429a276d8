//! What is wrong is told in one go; what is set is what is printed, less the secrets.

use std::fs;

use tempfile::TempDir;

use crate::process::{CONTEXT, ended, output, sidecar};

#[test]
fn every_mistake_is_reported_at_once_by_its_flag() {
    let dir = TempDir::new().unwrap();
    let (code, _, errors) = output(
        &dir,
        &[
            "--serverport=x",
            "--linger=soon",
            "--development=maybe",
            "--blobs=ftp://bucket",
            "--documents=http://x",
            "--events=nonsense",
            "--context.name=a/b",
            "--azureblobprovider=true",
            "--mongodbdocprovider.port=many",
            "--loglevel=loud",
            "--parallel=0",
            "--serveraddress=here",
        ],
    );
    assert_eq!(code, 64);
    for flag in [
        "serverport",
        "linger",
        "development",
        "blobs",
        "documents",
        "events",
        "context.name",
        "azureblobprovider",
        "azureblobprovider.containername",
        "mongodbdocprovider.port",
        "loglevel",
        "parallel",
        "serveraddress",
        "sharedsecret",
        "context.eventid",
    ] {
        assert!(errors.contains(&format!("error: --{flag}: ")), "--{flag} is missing:\n{errors}");
    }
    assert!(!dir.path().join("dev").exists(), "something was started");
}

#[test]
fn the_flags_of_the_original_are_another_spelling() {
    let dir = TempDir::new().unwrap();
    let flags = [
        "check",
        "--printconfig",
        // It ends after it has printed and before it connects to anything.
        "--logfile=absent/log",
        "--azureblobprovider=true",
        "--azureblobprovider.blobaccountname=a",
        "--azureblobprovider.blobaccountkey=a2V5",
        "--azureblobprovider.containername=box",
        "--mongodbdocprovider=true",
        "--mongodbdocprovider.name=acct",
        "--mongodbdocprovider.password=swordfish",
        "--mongodbdocprovider.collection=docs",
        "--servicebuseventprovider=true",
        "--servicebuseventprovider.namespace=n",
        "--servicebuseventprovider.topic=t",
        "--servicebuseventprovider.key=swordfish",
        "--servicebuseventprovider.authorizationrulename=r",
    ];
    let (code, out, errors) = output(&dir, &flags);
    assert_eq!(code, 64, "{errors}");
    for line in [
        "blobs = \"az://box/?account=a\"",
        "documents = \"mongodb://acct.mongo.cosmos.azure.com:10255/acct.docs\"",
        "events = \"servicebus://n/t\"",
    ] {
        assert!(out.contains(line), "{line} is not in\n{out}");
    }
    assert!(!out.contains("swordfish") && !errors.contains("swordfish"), "{out}{errors}");
}

#[test]
fn a_switch_of_the_original_and_a_url_contradict() {
    let dir = TempDir::new().unwrap();
    let (code, _, errors) = output(&dir, &["check", "--mongodbdocprovider=true", "--documents=memory:"]);
    assert_eq!(code, 64);
    for problem in ["so does --documents", "--mongodbdocprovider.password: is required"] {
        assert!(errors.contains(problem), "{errors}");
    }
}

#[test]
fn the_composition_of_the_layers_is_printed() {
    let dir = TempDir::new().unwrap();
    let flags = ["check", "--development", "--printconfig", "--rate-limit=50", "--circuit-breaker=0"];
    let (code, out, _) = output(&dir, &flags);
    assert_eq!(code, 0);
    let composition = "wrappers = \"retry-for 1m > rate-limit 50/s > circuit-breaker none > timeout 1m";
    assert!(out.contains(composition), "{out}");
}

#[test]
fn secrets_can_come_from_files() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("secret"), "swordfish\n").unwrap();
    let serving = crate::process::Serving::start(&dir, &["--sharedsecret-file=secret"]);
    let status = |secret: &str| {
        let client = reqwest::blocking::Client::new();
        client.get(serving.url("status")).header("secret", secret).send().unwrap().status().as_u16()
    };
    assert_eq!((status("swordfish"), status("dev")), (200, 401));
    fs::write(dir.path().join("empty"), "\n").unwrap();
    let empty = ["check", "--development", "--sharedsecret-file=empty"];
    assert!(output(&dir, &empty).2.contains("--sharedsecret-file: empty is empty"));
    let both = ["check", "--development", "--sharedsecret=a", "--sharedsecret-file=secret"];
    assert!(output(&dir, &both).2.contains("--sharedsecret-file: says the same as --sharedsecret"));
    let (_, _, errors) = output(&dir, &["check", "--events=nats://h/s", "--ca-file=absent"]);
    assert_eq!(errors.matches("absent").count(), 1, "{errors}");
    let (_, _, errors) = output(&dir, &["check", "--development", "--ca-file=secret"]);
    assert!(errors.contains("--ca-file: secret has no certificate in PEM"), "{errors}");
    let absent = ["check", "--development", "--events-file=absent"];
    assert!(output(&dir, &absent).2.contains("--events-file: cannot read absent"));
}

#[test]
fn azure_takes_a_connection_string_or_a_signature_instead_of_the_key() {
    let dir = TempDir::new().unwrap();
    let errors = |flags: &[&str]| {
        let flags = [&["check", "--development", "--azureblobprovider=true"], flags].concat();
        output(&dir, &flags).2
    };
    let container = "--azureblobprovider.containername=c";
    let connection = "--azureblobprovider.connectionstring=AccountName=a;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:1/a";
    let all = errors(&[]);
    for missing in ["containername", "blobaccountname", "blobaccountkey"] {
        assert!(all.contains(&format!("--azureblobprovider.{missing}: is required")), "{all}");
    }
    assert!(!errors(&[container, connection, "--retry-for=0s"]).contains("is required"));
    let signature = ["--azureblobprovider.sas=sig=x", "--azureblobprovider.blobaccountname=a", "--nonsense"];
    assert!(!errors(&[&[container][..], &signature].concat()).contains("is required"));
    assert!(errors(&["--uri-expiry=8d"]).contains("--uri-expiry: is more than 7d"));
}

#[test]
fn unknown_flags_are_configuration_errors() {
    let dir = TempDir::new().unwrap();
    assert_eq!(output(&dir, &["--nonsense"]).0, 64);
    assert_eq!(output(&dir, &["--help"]).0, 0);
}

#[test]
fn flags_win_over_environment_over_file() {
    let dir = TempDir::new().unwrap();
    let file = "development = true\nparallel = 1\nlinger = \"1s\"\ngrace = \"1s\"\n\
                [context]\nname = \"m\"\neventid = \"e\"\n[azureblobprovider]\nenabled = false\n";
    fs::write(dir.path().join("sidecar.toml"), file).unwrap();
    let print = |command: &mut std::process::Command| {
        command.args(["commit", "--config", "sidecar.toml", "--printconfig"]);
        ended(&command.output().unwrap()).1
    };
    let printed = print(
        sidecar(&dir, &[]).env("SIDECAR_LINGER", "2s").env("SIDECAR_GRACE", "2s").args(["--grace", "3s"]),
    );
    for line in ["parallel = \"1\"", "linger = \"2s\"", "grace = \"3s\"", "context.name = \"m\""] {
        assert!(printed.contains(line), "{line} is not in\n{printed}");
    }
}

#[test]
fn a_bad_file_is_told_by_its_settings() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("sidecar.toml"), "nonsense = 1\nparallel = [1]\n").unwrap();
    let (code, _, errors) = output(&dir, &["--config", "sidecar.toml"]);
    assert_eq!(code, 64);
    assert!(
        errors.contains("there is no setting \"nonsense\"") && errors.contains("\"parallel\" must be"),
        "{errors}"
    );
    assert_eq!(output(&dir, &["--config", "absent.toml"]).0, 64);
}

#[test]
fn secrets_are_not_printed() {
    let dir = TempDir::new().unwrap();
    let mut command = sidecar(&dir, &CONTEXT);
    command.args(["commit", "--sharedsecret=swordfish", "--printconfig", "--loglevel=trace"]);
    let (_, out, log) = ended(&command.output().unwrap());
    assert!(out.contains("serverport") && !out.contains("swordfish"), "{out}");
    assert!(!log.contains("swordfish"), "{log}");
    let mut command =
        sidecar(&dir, &["commit", "--mongodbdocprovider=true", "--printconfig", "--loglevel=trace"]);
    command.args(["--mongodbdocprovider.password=swordfish", "--azureblobprovider.blobaccountkey=swordfish"]);
    let (code, out, log) = ended(&command.output().unwrap());
    assert!(code == 64 && !out.contains("swordfish") && !log.contains("swordfish"), "{out}{log}");
    let help = ended(&sidecar(&dir, &["--help"]).env("SHARED_SECRET", "swordfish").output().unwrap());
    assert!(!help.1.contains("swordfish"));
}

#[test]
fn any_event_type_is_worth_one_line() {
    let dir = TempDir::new().unwrap();
    let log = |flag: &[&str]| ended(&sidecar(&dir, &CONTEXT).arg("prepare").args(flag).output().unwrap()).2;
    assert_eq!(log(&[]).matches("--valideventtypes is not set").count(), 1);
    assert_eq!(log(&["--valideventtypes=a"]).matches("--valideventtypes").count(), 0);
}

#[test]
fn a_password_that_ends_its_url_early_is_not_shown() {
    let dir = TempDir::new().unwrap();
    for (flag, url) in [
        ("documents", "mongodb://u:S3/CRET@127.0.0.1:1/d.c"),
        ("documents", "postgres://u:12/S3CRET@127.0.0.1/d"),
        ("documents", "postgres:///u:S3CRET@127.0.0.1/d"),
        ("events", "amqp://127.0.0.1/u:12/S3CRET@h/x"),
        ("events", "nats://u:S3?CRET@127.0.0.1/x"),
    ] {
        let (code, out, errors) =
            output(&dir, &["check", "--development", "--printconfig", &format!("--{flag}={url}")]);
        assert_eq!(code, 64, "{errors}");
        assert!(errors.contains(&format!("--{flag}: has an @ behind its host")), "{errors}");
        assert!(!format!("{out}{errors}").contains("CRET"), "{out}{errors}");
    }
    fs::write(dir.path().join("c.toml"), "development = true\ndocuments = \"postgres://u:S3CRET@h/d\n")
        .unwrap();
    let (code, _, errors) = output(&dir, &["check", "--config", "c.toml"]);
    assert!(code == 64 && errors.contains("c.toml:2") && !errors.contains("S3CRET"), "{errors}");
}

#[test]
fn an_endpoint_without_a_scheme_is_told() {
    let dir = TempDir::new().unwrap();
    for url in ["s3://b/p?endpoint=127.0.0.1:1", "az://c/?endpoint=127.0.0.1:1", "gs://b/?endpoint=localhost"]
    {
        let (code, _, errors) = output(&dir, &["check", "--development", &format!("--blobs={url}")]);
        assert!(code == 64 && errors.contains("is no URL: say http://"), "{errors}");
    }
}
