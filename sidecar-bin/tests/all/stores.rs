//! Two modules in a row over real object stores: the same outputs wherever the files go.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{ended, files, output, sidecar};
use crate::servers;
use crate::service_bus_double::{self, Double};

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
    let credentials = [("SIDECAR_AZUREBLOBPROVIDER_BLOBACCOUNTKEY", servers::AZURITE_KEY)];
    chain(&format!("az://chain/prefix?account=devstoreaccount1&endpoint={endpoint}"), &credentials);
}

#[test]
fn over_azure_azurite_by_connection_string() {
    let Some(endpoint) = servers::azurite() else { return };
    let dir = TempDir::new().unwrap();
    let connection = dir.path().join("connection");
    fs::write(
        &connection,
        format!("DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={};BlobEndpoint={endpoint};\n", servers::AZURITE_KEY),
    )
    .unwrap();
    let file = connection.display().to_string();
    chain("az://connection/prefix", &[("SIDECAR_AZUREBLOBPROVIDER_CONNECTIONSTRING_FILE", &file)]);
}

#[test]
fn over_s3_seaweedfs_with_the_secret_in_a_file() {
    let Some(endpoint) = servers::seaweedfs() else { return };
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, servers::S3_SECRET).unwrap();
    let file = secret.display().to_string();
    let credentials =
        [("SIDECAR_S3_ACCESSKEYID", servers::S3_KEY), ("SIDECAR_S3_SECRETACCESSKEY_FILE", &file)];
    chain(&format!("s3://test/filed?endpoint={endpoint}&region=us-east-1"), &credentials);
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
    assert!(log.contains("s3://test/x at http") && log.contains("refused to"), "{log}");
    assert!(!dir.path().join("ran").exists());
}

/// Where a mix keeps each kind of data, and the credentials for it.
struct Mix {
    name: &'static str,
    blobs: String,
    documents: String,
    events: String,
    credentials: Vec<(&'static str, String)>,
}

impl Mix {
    /// Submits a file, passes it through two modules, and gives what the second one finds.
    fn passes_two_modules(&self) {
        let dir = TempDir::new().unwrap();
        let run = |arguments: &[&str]| {
            let mut command: Command = sidecar(&dir, arguments);
            command.env("SIDECAR_BLOBS", &self.blobs).env("SIDECAR_DOCUMENTS", &self.documents);
            command.env("SIDECAR_EVENTS", &self.events).env("SIDECAR_VALIDEVENTTYPES", "t");
            command.envs(self.credentials.iter().map(|(name, value)| (name, value)));
            let (code, out, log) = ended(&command.output().unwrap());
            assert_eq!(code, 0, "{}: {log}", self.name);
            for (name, secret) in &self.credentials {
                assert!(!log.contains(secret.as_str()), "{name} is in the log:\n{log}");
            }
            out.trim().to_owned()
        };
        fs::write(dir.path().join("input.txt"), "through three stores").unwrap();
        let first = run(&["submit", "--type=t", "--value", "k=v", "input.txt"]);
        let copy = "cd $SIDECAR_BASE_DIR && cp in/data/* out/data/ && echo '[{\"key\":\"n\",\"value\":\"1\"}]' > out/meta.json &&
            echo '[{\"key\":\"eventType\",\"value\":\"t\"},{\"key\":\"files\",\"value\":\"input.txt\"},{\"key\":\"k2\",\"value\":\"v2\"}]' > out/events/1.json";
        let event = |id: &str| format!("--context.eventid={id}");
        let base = ["--basedir=base", "--context.name=copy", "--wrap"];
        run(&[&["run"], &base[..], &[&event(&first), "--", "sh", "-c", copy]].concat());
        let journal: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.path().join("base/.sidecar/journal.json")).unwrap())
                .unwrap();
        let second = journal["step"]["done"]["receipt"]["events"][0]["eventId"].as_str().unwrap().to_owned();
        run(&["prepare", "--basedir=next", "--context.name=next", &event(&second)]);
        let staged = fs::read_to_string(dir.path().join("next/in/data/input.txt")).unwrap();
        assert_eq!(staged, "through three stores");
        let values = fs::read_to_string(dir.path().join("next/in/meta.json")).unwrap();
        assert!(values.contains("v2") && values.contains("input.txt"), "{values}");
    }
}

fn s3(endpoint: &str) -> (String, Vec<(&'static str, String)>) {
    let credentials = [("AWS_ACCESS_KEY_ID", servers::S3_KEY), ("AWS_SECRET_ACCESS_KEY", servers::S3_SECRET)];
    let url = format!("s3://test/mix?endpoint={endpoint}&region=us-east-1");
    (url, credentials.map(|(name, value)| (name, value.to_owned())).to_vec())
}

/// The original's three stores: the vendor's emulator, a compatible server, and a double.
#[test]
fn over_azurite_and_secantusdb_and_the_service_bus_double() {
    let (Some(azurite), Some(mongodb)) = (servers::azurite(), servers::secantusdb()) else { return };
    let double = Double::start();
    let query = mongodb.split_once('?').map_or("", |(_, query)| query);
    let server = mongodb.split('?').next().unwrap().trim_end_matches('/');
    Mix {
        name: "azure",
        blobs: format!("az://mix/prefix?account=devstoreaccount1&endpoint={azurite}"),
        documents: format!("{server}/mix.documents?{query}"),
        events: format!(
            "servicebus://ns/{}?rule={}&endpoint={}",
            service_bus_double::TOPIC,
            service_bus_double::RULE,
            double.endpoint
        ),
        credentials: vec![
            ("SIDECAR_AZUREBLOBPROVIDER_BLOBACCOUNTKEY", servers::AZURITE_KEY.into()),
            ("SIDECAR_SERVICEBUSEVENTPROVIDER_KEY", service_bus_double::KEY.into()),
        ],
    }
    .passes_two_modules();
    assert_eq!(double.messages().len(), 2);
}

/// The mix that a cluster without a cloud runs.
#[test]
fn over_seaweedfs_and_postgres_and_nats() {
    let (Some(endpoint), Some(postgres), Some(nats)) =
        (servers::seaweedfs(), servers::postgres(), servers::nats())
    else {
        return;
    };
    let (blobs, credentials) = s3(&endpoint);
    let documents = format!("{postgres}?table=mix");
    let events = format!("{nats}/mix.{}", std::process::id());
    Mix { name: "s3", blobs, documents, events, credentials }.passes_two_modules();
}

#[test]
fn over_local_and_postgres_and_rabbitmq() {
    let (Some(postgres), Some(rabbitmq)) = (servers::postgres(), servers::rabbitmq()) else { return };
    let dir = TempDir::new().unwrap();
    let events = dir.path().join("events-url");
    // Passwords in a URL need not be in any argument list or environment.
    fs::write(&events, format!("{rabbitmq}/mix?queue=mix-{}\n", std::process::id())).unwrap();
    let mix = Mix {
        name: "rabbitmq",
        blobs: format!("file://{}", dir.path().join("store").display()),
        documents: format!("{postgres}?table=mix"),
        events: String::new(),
        credentials: vec![("SIDECAR_EVENTS_FILE", events.display().to_string())],
    };
    mix.passes_two_modules();
}

/// A broker that is too old for what the workers ask of it is found by the check, not by a module that takes long.
#[test]
fn a_check_says_that_a_rabbitmq_ignores_the_timeout_of_a_queue() {
    let Some(rabbitmq) = servers::rabbitmq() else { return };
    // The directory of Debian's package tells the version of the one that was started here.
    let path = std::env::var("PATH").unwrap_or_default();
    let Some((_, version)) = path.split_once("/rabbitmq_server-") else { return };
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let is_old = (numbers.next(), numbers.next()) < (Some(3), Some(12));
    let dir = TempDir::new().unwrap();
    let events = format!("--events={rabbitmq}/check-{}", std::process::id());
    let (code, _, log) = output(&dir, &["check", "--blobs=memory:", "--documents=memory:", &events]);
    assert_eq!(code, 0, "{log}");
    assert_eq!(log.contains("ignores x-consumer-timeout"), is_old, "{log}");
}

/// A stream that drops events before a worker has received them is found by the check.
#[test]
fn a_check_says_what_a_nats_stream_drops() {
    use async_nats::jetstream::{self, stream};
    let Some(nats) = servers::nats() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = TempDir::new().unwrap();
    let check = |config: stream::Config| {
        let name = config.name.clone();
        runtime.block_on(async {
            let context = jetstream::new(async_nats::connect(&nats).await.unwrap());
            context.create_stream(config).await.unwrap();
        });
        let events = format!("--events={nats}/{name}?stream={name}");
        let (code, _, log) = output(&dir, &["check", "--blobs=memory:", "--documents=memory:", &events]);
        assert_eq!(code, 0, "{log}");
        log
    };
    let stream = |name: &str| {
        let name = format!("{name}-{}", std::process::id());
        stream::Config { subjects: vec![name.clone()], name, ..stream::Config::default() }
    };
    assert!(!check(stream("keeps")).contains("drops"));
    let limited = check(stream::Config {
        max_age: Duration::from_secs(3600),
        max_messages: 10,
        storage: stream::StorageType::Memory,
        ..stream("limited")
    });
    for loss in ["older than 1h (max_age)", "beyond 10 (max_msgs, discard old)", "when its server restarts"] {
        assert!(limited.contains(loss), "no {loss:?} in {limited}");
    }
    let full = stream::Config { max_messages: 10, discard: stream::DiscardPolicy::New, ..stream("full") };
    assert!(!check(full).contains("drops"));
}

const ONE: &str = "[modules.m]\ncommand = \"sh -c 'sleep 1; echo x > $SIDECAR_BASE_DIR/out/data/x'\"\nwrap = true\nsubscribes = ['t']\npublishes = []\n";

/// RabbitMQ keeps an event only where a queue is bound for it.
#[test]
fn a_pipeline_makes_its_queues_before_it_submits() {
    let Some(rabbitmq) = servers::rabbitmq() else { return };
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("c.toml"), ONE).unwrap();
    let plane = [
        "--blobs=file:s".into(),
        "--documents=file:s".into(),
        format!("--events={rabbitmq}/first-{}", std::process::id()),
    ];
    let mut command = sidecar(&dir, &["pipeline", "c.toml", "--value=a=b", "--id=g"]);
    let (code, out, log) = ended(&command.args(&plane).output().unwrap());
    assert!(code == 0 && out.contains("g: 1 event, 1 outcome"), "{out}{log}");
}

/// While the bus is away, nothing to do means nothing.
#[test]
fn a_pipeline_waits_for_a_bus_that_is_away() {
    let Some(mut nats) = servers::OwnNats::start("") else { return };
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("c.toml"), ONE).unwrap();
    let plane =
        ["--blobs=file:s".into(), "--documents=file:s".into(), format!("--events={}/p?stream=p", nats.url())];
    for n in 0..4 {
        let mut submit = sidecar(&dir, &["submit", "--type=t", &format!("--id=e{n}"), "--value=a=b"]);
        assert_eq!(ended(&submit.args(&plane).output().unwrap()).0, 0);
    }
    let child = sidecar(&dir, &["pipeline", "c.toml"])
        .args(&plane)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    nats.restart_after(Duration::from_secs(8));
    let (code, out, log) = ended(&child.wait_with_output().unwrap());
    assert_eq!(code, 0, "{out}{log}");
    assert_eq!(files(dir.path().join("s/executions")).len(), 4, "{out}{log}");
}
