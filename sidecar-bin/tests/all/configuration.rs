//! What is wrong is told in one go; what is set is what is printed, less the secrets.

use std::fs;

use tempfile::TempDir;

use crate::process::{CONTEXT, as_nobody, ended, output, sidecar};

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
            "--cache-size=20",
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
        "cache-size",
        "serveraddress",
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
        "documents = \"mongodb://acct@acct.mongo.cosmos.azure.com:10255/acct.docs?tls=true&replicaSet=globaldb",
        "events = \"servicebus://n/t?rule=r\"",
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
fn the_policies_are_printed() {
    let dir = TempDir::new().unwrap();
    let flags = ["check", "--development", "--printconfig", "--rate-limit=50", "--circuit-breaker=0"];
    let (code, out, _) = output(&dir, &flags);
    assert_eq!(code, 0);
    for line in ["timeout = \"1m\"", "retry-for = \"1m\"", "circuit-breaker = 0", "rate-limit = 50"] {
        assert!(out.lines().any(|printed| printed == line), "{line}: {out}");
    }
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
    assert!(output(&dir, &both).2.contains("--sharedsecret-file: and --sharedsecret are both given"));
    let (_, _, errors) = output(&dir, &["check", "--events=nats://h/s", "--ca-file=absent"]);
    assert_eq!(errors.matches("absent").count(), 1, "{errors}");
    let (_, _, errors) = output(&dir, &["check", "--development", "--ca-file=secret"]);
    assert!(errors.contains("--ca-file: secret has no certificate in PEM"), "{errors}");
    let absent = ["check", "--development", "--events-file=absent"];
    assert!(output(&dir, &absent).2.contains("--events-file: cannot read absent"));
    // What follows from it is not said.
    let s3 = ["check", "--development", "--blobs=s3://b", "--s3.accesskeyid=a"];
    let (code, _, errors) = output(&dir, &[&s3[..], &["--s3.secretaccesskey-file=absent"]].concat());
    assert!(code == 64 && errors.matches("error: ").count() == 1, "{errors}");
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
    let two =
        ["--azureblobprovider.sas=sig=x", "--azureblobprovider.blobaccountkey=a2V5", container, signature[1]];
    assert!(errors(&two).contains("one of them is enough"));
    let two = ["check", "--documents=file:d", "--events=file:d", "--blobs=az://c?account=a", signature[0]];
    let two = [&two[..], &["--azureblobprovider.blobaccountname=b"]].concat();
    assert!(output(&dir, &two).2.contains("name one"));
    assert!(errors(&["--uri-expiry=8d"]).contains("--uri-expiry: is more than 7d"));
}

#[test]
fn unknown_flags_are_configuration_errors() {
    let dir = TempDir::new().unwrap();
    assert_eq!(output(&dir, &["--nonsense"]).0, 64);
    assert!(output(&dir, &["--port=80"]).2.contains("--serverport=80"));
    assert_eq!(output(&dir, &["--help"]).0, 0);
}

/// One that no header can carry would only ever be refused.
#[test]
fn a_secret_is_one_that_a_header_can_carry() {
    let dir = TempDir::new().unwrap();
    for secret in [" abc", "abc ", "a\nb", "\tabc"] {
        let (code, _, log) = output(
            &dir,
            &["--development=true", "--context.eventid=e", "--context.name=m", "--sharedsecret", secret],
        );
        assert!(code == 64 && log.contains("no HTTP header carries that"), "{log}");
    }
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
    for line in ["parallel = 1", "linger = \"2s\"", "grace = \"3s\"", "context.name = \"m\""] {
        assert!(printed.contains(line), "{line} is not in\n{printed}");
    }
}

#[test]
fn a_flag_wins_over_the_file_of_that_setting_in_the_configuration_file() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("url"), "file:elsewhere").unwrap();
    fs::write(dir.path().join("sidecar.toml"), "development = true\ndocuments-file = \"url\"\n").unwrap();
    let check = ["check", "--config=sidecar.toml", "--printconfig"];
    let documents = |out: &str| out.lines().find(|line| line.starts_with("documents =")).unwrap().to_owned();
    let (code, out, errors) = output(&dir, &[&check[..], &["--documents=file:here"]].concat());
    assert!(code == 0 && documents(&out).contains("/here"), "{out}{errors}");
    let (_, out, _) = output(&dir, &check);
    assert!(out.contains("documents-file = \"url\"") && dir.path().join("elsewhere").exists(), "{out}");
}

#[test]
fn what_is_printed_is_a_configuration_file() {
    let dir = TempDir::new().unwrap();
    let flags = [
        "commit",
        "--development",
        "--context.name=m",
        "--context.eventid=e\"1",
        "--printconfig",
        "--timeout=5s",
        "--blobs=s3://bucket",
        "--s3.accesskeyid=key",
        "--s3.secretaccesskey=hidden",
        "--parallel=3",
        "--retry-for=0s",
    ];
    let (_, first, errors) = output(&dir, &flags);
    assert!(first.contains("s3.accesskeyid = \"key\"") && !first.contains("hidden"), "{first}{errors}");
    assert!(first.contains("first = true"), "development accepts it: {first}");
    fs::write(dir.path().join("sidecar.toml"), &first).unwrap();
    let again = ["commit", "--config=sidecar.toml", "--s3.secretaccesskey=hidden", "--printconfig"];
    let (_, second, errors) = output(&dir, &again);
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&first), sorted(&second), "{errors}");
}

#[test]
fn a_bad_file_is_told_by_its_settings() {
    let dir = TempDir::new().unwrap();
    let file = "nonsense = 1\nparallel = [1]\n[context]\nserverport = 1\n";
    fs::write(dir.path().join("sidecar.toml"), file).unwrap();
    let (code, _, errors) = output(&dir, &["--config", "sidecar.toml"]);
    assert_eq!(code, 64);
    assert!(
        errors.contains("toml:1: \"nonsense\" is not a setting")
            && errors.contains("toml:2: \"parallel\" must be")
            && errors.contains(
                "toml:4: \"context.serverport\" is not a setting; \"serverport\" belongs above [context]"
            ),
        "{errors}"
    );
    assert_eq!(output(&dir, &["--config", "absent.toml"]).0, 64);
    fs::write(dir.path().join("twice.toml"), "parallel = 1\nlinger = \"1s\"\nparallel = 2\n").unwrap();
    let (_, _, errors) = output(&dir, &["--config", "twice.toml"]);
    assert!(errors.contains("twice.toml:3: duplicate key"), "{errors}");
}

#[test]
fn a_mistake_is_told_where_the_value_is() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("c.toml"), "linger = \"soon\"\ngrace = \"never\"\n").unwrap();
    let mut command = sidecar(&dir, &["--development", "--config=c.toml", "--grace=later"]);
    let (code, _, errors) = ended(&command.env("SIDECAR_TIMEOUT", "long").output().unwrap());
    assert_eq!(code, 64);
    for place in
        ["--config c.toml: linger: \"soon\"", "SIDECAR_TIMEOUT (--timeout): \"long\"", "--grace: \"later\""]
    {
        assert!(errors.contains(&format!("error: {place} is not a duration")), "{place}: {errors}");
    }
    assert!(!errors.contains("never"), "{errors}");
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
    // Whoever forgets the slashes has not made the password a name.
    for url in ["postgres:app:swordfish@db:5432/prod", "nats:app:swordfish@h/s", "mongodb:u:swordfish@h/d.c"]
    {
        let flags = ["--blobs=memory:".to_owned(), format!("--documents={url}"), format!("--events={url}")];
        let (code, out, log) =
            ended(&sidecar(&dir, &["check", "--printconfig"]).args(flags).output().unwrap());
        assert!(code == 64 && !out.contains("swordfish") && !log.contains("swordfish"), "{out}{log}");
        assert!(log.contains("has no // behind its scheme"), "{log}");
    }
    let flags = ["check", "--printconfig", "--blobs=az://c?account=a&endpoint=http://h/?sig=swordfish"];
    let (code, out, log) = output(&dir, &flags);
    assert!(code == 64 && !out.contains("swordfish") && !log.contains("swordfish"), "{out}{log}");
    let help = ended(&sidecar(&dir, &["--help"]).env("SHARED_SECRET", "swordfish").output().unwrap());
    assert!(!help.1.contains("swordfish"));
}

#[test]
fn any_event_type_is_worth_one_line_for_those_who_look() {
    let dir = TempDir::new().unwrap();
    let log = |flag: &[&str]| ended(&sidecar(&dir, &CONTEXT).arg("prepare").args(flag).output().unwrap()).2;
    let about = |flags: &[&str]| log(flags).matches("--valideventtypes is not set").count();
    assert_eq!(about(&["--loglevel=debug"]), 1);
    assert_eq!(about(&["--loglevel=debug", "--valideventtypes=a"]), 0);
    assert_eq!(about(&[]), 0);
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
        assert!(code == 64 && errors.contains("is not a URL: write http://"), "{errors}");
    }
}

/// The complaints about a module in `base` with these flags; nothing may be created by it.
fn overlaps(dir: &TempDir, flags: &[&str]) -> String {
    let before = fs::read_dir(dir.path()).unwrap().count();
    let module = ["prepare", "--context.eventid=e1", "--context.name=m", "--development"];
    let (code, _, errors) = output(dir, &[&module[..], flags].concat());
    assert_eq!(code, 64, "{flags:?}: {errors}");
    assert!(errors.contains("keep the two apart"), "{flags:?}: {errors}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before, "{flags:?}: something was created");
    errors
}

#[test]
fn a_store_may_not_be_in_the_directories_of_the_module() {
    let dir = TempDir::new().unwrap();
    let base = dir.path().join("base");
    let basedir = format!("--basedir={}", base.display());
    for root in ["base/out", "base/in/data", "base/.sidecar", "base"] {
        let root = dir.path().join(root);
        for (flag, directories) in [
            ("blobs", &["blobs"][..]),
            ("documents", &["contexts", "insights", "failures"]),
            ("events", &["events"]),
        ] {
            let errors = overlaps(&dir, &[&basedir, &format!("--{flag}=file://{}", root.display())]);
            for directory in directories {
                let (store, base) = (root.join(directory), base.display());
                let line = format!("error: --{flag}: {}", store.display());
                assert!(errors.contains(&line), "{line} is not in\n{errors}");
                assert!(errors.contains(&format!("is inside the base directory {base}")), "{errors}");
            }
        }
    }
}

#[test]
fn the_module_may_not_be_in_a_store() {
    let dir = TempDir::new().unwrap();
    for (base, line) in [
        ("store/blobs", "--blobs: store/blobs"),
        ("store/blobs/modules/m", "--blobs: store/blobs"),
        ("dev/contexts/x", "--documents: dev/contexts"),
        ("dev/failures", "--documents: dev/failures"),
        ("dev/events/m", "--events: dev/events"),
    ] {
        let errors = overlaps(&dir, &[&format!("--basedir={base}"), "--blobs=file:store"]);
        assert!(errors.contains(&format!("error: {line}")), "{base}: {errors}");
    }
}

#[test]
fn the_state_and_the_log_may_not_be_in_the_modules_directories_or_in_a_store() {
    let dir = TempDir::new().unwrap();
    for (flag, path, place) in [
        ("statedir", "dev/modules/m/out", "the module's"),
        ("statedir", "dev/modules/m/in/state", "the module's"),
        ("logfile", "dev/modules/m/out/data/log", "the module's"),
        ("logfile", "dev/modules/m/in/log", "the module's"),
    ] {
        let errors = overlaps(&dir, &[&format!("--{flag}={path}")]);
        assert!(errors.contains(&format!("error: --{flag}: {path}")) && errors.contains(place), "{errors}");
    }
    for (flag, path, store) in [
        ("statedir", "dev/blobs/state", "blobs"),
        ("statedir", "dev", "blobs"),
        ("statedir", "dev/events", "events"),
        ("logfile", "dev/insights/log", "documents"),
        ("logfile", "dev/events/log.json", "events"),
    ] {
        let errors = overlaps(&dir, &[&format!("--{flag}={path}")]);
        assert!(errors.contains(&format!("error: --{store}: dev/")), "{errors}");
        assert!(errors.contains(&format!(" --{flag} {path}")), "{errors}");
    }
    // A log beside a store of `submit` and `check` is no event either.
    let check = ["check", "--development", "--logfile=dev/events/log"];
    assert!(output(&dir, &check).2.contains("error: --events: dev/events"));
}

#[test]
fn links_hide_no_overlap() {
    use std::os::unix::fs::symlink;

    let dir = TempDir::new().unwrap();
    fs::create_dir_all(dir.path().join("real/base/deep")).unwrap();
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    symlink("real/base", dir.path().join("link")).unwrap();
    symlink("real/base/deep", dir.path().join("deep")).unwrap();
    symlink("../../elsewhere", dir.path().join("real/base/out")).unwrap();
    for blobs in ["link/out", "link", "deep/../out", "deep/../../base/new/x", "elsewhere", "./absent/../link"]
    {
        let errors = overlaps(&dir, &["--basedir=real/base", &format!("--blobs=file:{blobs}")]);
        assert!(errors.contains(&format!("error: --blobs: {blobs}/blobs (")), "{errors}");
    }
    for base in ["link", "deep/.."] {
        overlaps(&dir, &[&format!("--basedir={base}"), "--blobs=file:real/base/x"]);
        overlaps(&dir, &[&format!("--basedir={base}"), "--statedir=elsewhere/state"]);
        overlaps(&dir, &[&format!("--basedir={base}"), "--logfile=elsewhere/log"]);
    }
    // The directory of the store itself may be the link.
    fs::create_dir(dir.path().join("store")).unwrap();
    symlink("../real/base/in", dir.path().join("store/blobs")).unwrap();
    overlaps(&dir, &["--basedir=real/base", "--blobs=file:store"]);
}

#[test]
fn places_side_by_side_are_fine() {
    use std::os::unix::fs::symlink;

    let dir = TempDir::new().unwrap();
    let prepare = |flags: &[&str]| {
        let module = ["prepare", "--context.eventid=e1", "--context.name=m", "--context.correlationid=c1"];
        let (_, _, errors) = output(&dir, &[&module[..], &["--development"], flags].concat());
        assert!(!errors.contains("error: "), "{errors}");
    };
    prepare(&[]);
    fs::create_dir_all(dir.path().join("dev/base")).unwrap();
    // The root of the stores is above the base directory; their directories are beside it.
    prepare(&["--basedir=dev/base", "--statedir=dev/state", "--logfile=dev/base/log"]);
    // It is the base directory, but what is in it leads elsewhere.
    fs::create_dir_all(dir.path().join("base")).unwrap();
    fs::create_dir_all(dir.path().join("elsewhere")).unwrap();
    symlink("../elsewhere", dir.path().join("base/blobs")).unwrap();
    prepare(&["--basedir=base", "--blobs=file:base"]);
    // Outside the base directory a path that only begins alike is another.
    prepare(&["--basedir=base", "--blobs=file:base2", "--statedir=base/outside"]);
}

/// A setting that cannot be used is told by its name; nothing panics, and nothing is dropped in silence.
#[test]
fn no_setting_panics_and_none_is_dropped() {
    let dir = TempDir::new().unwrap();
    let base = ["check", "--documents=memory:", "--events=memory:"];
    let told = |flags: &[&str], env: &[(&str, &str)]| {
        let mut command = sidecar(&dir, &base);
        let (code, _, log) = ended(&command.args(flags).envs(env.iter().copied()).output().unwrap());
        assert_eq!(code, 64, "{flags:?} {env:?}: {log}");
        log
    };
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_REGION"] {
        let log = told(&["--blobs=s3://b"], &[(name, "value\n")]);
        assert!(log.contains(name) && !log.contains("value"), "{log}");
    }
    let log = told(&["--blobs=s3://b", "--s3.accesskeyid=id\n", "--s3.secretaccesskey=s"], &[]);
    assert!(log.contains("the access key's id"), "{log}");
    for url in
        ["s3://b/run#7?endpoint=http://127.0.0.1:1", "s3://b//pre", "s3://b/pre//x", "s3://b/a/%2e%2e/b%0a"]
    {
        assert!(told(&[&format!("--blobs={url}")], &[]).contains("--blobs: has a"), "{url}");
    }
    for endpoint in ["http://u:swordfish@h", "u:swordfish@h"] {
        let log = told(&[&format!("--blobs=s3://b?endpoint={endpoint}")], &[]);
        assert!(!log.contains("swordfish"), "{log}");
    }
    assert!(
        told(&["--blobs=memory:", "--s3.accesskeyid=i"], &[]).contains("--s3.accesskeyid: has no effect")
    );
    assert!(told(&["--blobs=memory:", "--socket-uid=1"], &[]).contains("--socket-uid: has no effect"));
}

#[test]
fn variables_that_are_no_settings_are_named_and_those_of_kubernetes_are_not() {
    let dir = TempDir::new().unwrap();
    let mut command = sidecar(&dir, &["check", "--development"]);
    command.envs([
        ("SIDECAR_BLOB", "file:///x"),
        ("SIDECAR_PORT", "tcp://10.96.0.5:8080"),
        ("SIDECAR_PORT_8080_TCP_ADDR", "10.96.0.5"),
        ("SIDECAR_SERVICE_HOST", "10.96.0.5"),
        ("SIDECAR_EVENT_ID", "e"),
    ]);
    let (code, _, log) = ended(&command.output().unwrap());
    assert_eq!(code, 0, "{log}");
    assert!(
        log.contains("SIDECAR_BLOB is not a setting and is ignored; did you mean SIDECAR_BLOBS?"),
        "{log}"
    );
    assert_eq!(log.matches("is not a setting").count(), 1, "{log}");
}

#[test]
fn a_line_end_in_a_name_makes_no_line_of_the_log() {
    let dir = TempDir::new().unwrap();
    let script = "cd $SIDECAR_BASE_DIR/out && mkfifo \"$(printf 'data/a\\nERROR forged')\" && touch \"$(printf 'x\\ny')\"";
    let mut command = sidecar(&dir, &["run", "--wrap", "--development", "--context.name=m"]);
    let (code, _, log) = ended(&command.args(["--", "sh", "-c", script]).output().unwrap());
    assert_eq!(code, 65, "{log}");
    assert!(log.contains("data/a\\nERROR forged") && !log.contains("\nERROR forged"), "{log}");
}

/// A proxy's page, a wrong port: something answers, and keeps nothing.
#[test]
fn a_server_that_answers_everything_is_no_object_store() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut head) = (stream.unwrap(), vec![0; 16 * 1024]);
            let n = stream.read(&mut head).unwrap();
            let _ = sender.send(String::from_utf8_lossy(&head[..n]).into_owned());
            let answer = "HTTP/1.1 200 OK\r\nETag: \"x\"\r\nLast-Modified: Wed, 01 Jan 2025 00:00:00 GMT\r\n\
                          Content-Length: 0\r\nConnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let dir = TempDir::new().unwrap();
    let mut command = sidecar(&dir, &["check", "--documents=memory:", "--events=memory:", "--retry-for=1s"]);
    command.arg(format!("--blobs=s3://b/my%20pre%C3%BC?endpoint=http://{address}&region=x"));
    command.args(["--s3.accesskeyid=i", "--s3.secretaccesskey=s"]).env("AWS_SESSION_TOKEN", "of-another-key");
    let (code, _, log) = ended(&command.output().unwrap());
    assert!(code == 69 && log.contains("does not come back"), "{code}: {log}");
    let first = requests.try_recv().unwrap().to_lowercase();
    assert!(first.starts_with("put /b/my%20pre%c3%bc/.sidecar-check/"), "{first}");
    assert!(!first.contains("of-another-key"), "{first}");
}

#[test]
fn another_user_is_acted_for_by_root_alone() {
    let dir = TempDir::new().unwrap();
    let Some(as_nobody) = as_nobody(&dir) else { return };
    let output =
        as_nobody(&mut sidecar(&dir, &["run", "--development=true", "--module-uid=1", "--", "true"]));
    let (code, _, errors) = ended(&output);
    assert!(code == 64 && errors.contains("--module-uid: only root may act for another user"), "{errors}");
}

#[test]
fn what_a_command_does_not_use_is_refused() {
    let dir = TempDir::new().unwrap();
    for (flags, hint) in [
        (
            &["submit", "--development", "--context.eventid=e"][..],
            "has no effect on sidecar submit; say --id",
        ),
        (&["failures", "--development", "--context.eventid=e"], "say EVENT"),
        (&["get", "--development", "--context.name=m", "e"], "EVENT/MODULE"),
        (&["submit", "--development", "--eventid=e"], "did you mean --id?"),
        (
            &["worker", "--development", "--subscribe=t", "--context.eventid=e", "--", "true"],
            "that it receives",
        ),
    ] {
        let (code, _, errors) = output(&dir, flags);
        assert!(code == 64 && errors.contains(hint), "{flags:?}: {errors}");
    }
}

/// A file may hold anything that somebody wanted to keep to himself.
#[test]
fn what_a_secret_file_holds_is_not_repeated() {
    let dir = TempDir::new().unwrap();
    for text in [
        "hunter2",
        "hunter2:foo",
        "/hunter2",
        "postgres:hunter2",
        "nats:/hunter2",
        "file://hunter2",
        "hunter2://u:p@h/d",
    ] {
        fs::write(dir.path().join("url"), text).unwrap();
        for flag in ["--documents-file=url", "--events-file=url"] {
            let (code, out, errors) = output(&dir, &["check", "--development", flag]);
            assert!(code != 0 && !errors.contains("hunter2") && !out.contains("hunter2"), "{text}: {errors}");
        }
    }
}

/// A shell's `<(…)` and a pipe give what they have only once.
#[test]
fn a_secret_can_come_from_a_pipe() {
    let dir = TempDir::new().unwrap();
    let mut command =
        sidecar(&dir, &["check", "--blobs=memory:", "--events=memory:", "--documents-file=/dev/stdin"]);
    command.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"memory:\n").unwrap();
    let (code, _, log) = ended(&child.wait_with_output().unwrap());
    assert_eq!(code, 0, "{log}");
}
