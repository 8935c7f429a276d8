//! What a broken network or a store in trouble looks like: each provider behind a proxy that breaks things.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sidecar_core::blob::{AzureConfig, Bucket, DEFAULT_EXPIRY, GcsConfig, S3Config, Source, Target};
use sidecar_core::documents::{Mongo, MongoConfig, Postgres};
use sidecar_core::events::{Amqp, AmqpConfig, Nats, NatsConfig};
use sidecar_core::layers::{Retry, Timeout};
use sidecar_core::{
    BlobKey, BlobProvider, DocumentProvider, Documents, Error, Event, EventContext, EventProvider, Result,
};
use tempfile::TempDir;

use crate::fault_proxy::{Fault, Proxy, address};
use crate::gcs_gateway::Gateway;
use crate::servers::{self, S3_KEY, S3_SECRET};

const LIMIT: Duration = Duration::from_secs(5);
const BUDGET: Duration = Duration::from_secs(30);

fn s3(endpoint: String) -> Bucket {
    let config = S3Config::default()
        .endpoint(endpoint)
        .region("us-east-1")
        .access_key_id(S3_KEY)
        .secret_access_key(S3_SECRET);
    Bucket::s3(&"s3://test/faults".parse().unwrap(), &config, DEFAULT_EXPIRY).unwrap()
}

/// A file of so many bytes, and a key of its own.
fn file(dir: &TempDir, size: usize) -> (BlobKey, Source) {
    let path = dir.path().join("file");
    let bytes: Vec<u8> = (0..size).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
    std::fs::write(&path, bytes).unwrap();
    (BlobKey::parse(&format!("{}/m/f", uuid::Uuid::new_v4())).unwrap(), Source::file(path).unwrap())
}

/// A call works, fails as unavailable while the server is away, and works again without a new provider.
macro_rules! goes_away_and_comes_back {
    ($proxy:expr, $provider:expr, |$p:ident| $call:expr) => {{
        let impatient = Timeout::new($provider, LIMIT);
        let patient = Retry::new(impatient.clone(), BUDGET);
        let $p = &patient;
        $call.await.unwrap();
        $proxy.away(true);
        let started = Instant::now();
        let $p = &impatient;
        let error = $call.await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        assert!(started.elapsed() < 5 * LIMIT, "it took {:?} to notice", started.elapsed());
        $proxy.away(false);
        let $p = &patient;
        $call.await.unwrap();
    }};
}

async fn through(server: &str) -> Proxy {
    Proxy::start(address(server), |_| Fault::None).await
}

mod a_server_that_goes_away_is_unavailable_and_found_again {
    use super::*;

    #[tokio::test]
    async fn s3_seaweedfs() {
        let Some(server) = servers::seaweedfs() else { return };
        let (proxy, dir) = (through(&server).await, TempDir::new().unwrap());
        let (key, source) = file(&dir, 1000);
        goes_away_and_comes_back!(proxy, s3(proxy.url(&server)), |p| p.put(&key, &source));
    }

    #[tokio::test]
    async fn azure_azurite() {
        let Some(server) = servers::azurite() else { return };
        let (proxy, dir) = (through(&server).await, TempDir::new().unwrap());
        let config = AzureConfig::default()
            .account("devstoreaccount1")
            .key(servers::AZURITE_KEY)
            .endpoint(proxy.url(&server));
        let provider = Bucket::azure(&"az://faults/".parse().unwrap(), &config, DEFAULT_EXPIRY).unwrap();
        provider.check().await.unwrap();
        let (key, source) = file(&dir, 1000);
        goes_away_and_comes_back!(proxy, provider, |p| p.put(&key, &source));
    }

    #[tokio::test]
    async fn gcs_fake_gcs_server() {
        let Some(server) = servers::fake_gcs() else { return };
        let gateway = Gateway::start(&server);
        gateway.make_bucket("faults").await;
        let (proxy, dir) = (through(&gateway.endpoint).await, TempDir::new().unwrap());
        let config = GcsConfig::default()
            .credentials(gateway.credentials.clone())
            .endpoint(proxy.url(&gateway.endpoint));
        let provider = Bucket::gcs(&"gs://faults/".parse().unwrap(), &config, DEFAULT_EXPIRY).unwrap();
        let (key, source) = file(&dir, 1000);
        goes_away_and_comes_back!(proxy, provider, |p| p.put(&key, &source));
    }

    fn context() -> EventContext {
        let id = uuid::Uuid::new_v4().to_string();
        serde_json::from_value(serde_json::json!({"eventId": id, "correlationId": "c"})).unwrap()
    }

    #[tokio::test]
    async fn mongodb_secantusdb() {
        let Some(server) = servers::secantusdb() else { return };
        let proxy = through(&server).await;
        let config = MongoConfig::new("test", "faults");
        let provider = Mongo::open(proxy.url(&server), config);
        goes_away_and_comes_back!(proxy, provider, |p| p.store(&[context()]));
    }

    #[tokio::test]
    async fn postgres_server() {
        let Some(server) = servers::postgres() else { return };
        let proxy = through(&server).await;
        let url = format!("{}?table=faults", proxy.url(&server));
        let provider = Postgres::open(&url.parse().unwrap(), None).unwrap();
        servers::answering(|| provider.check()).await;
        goes_away_and_comes_back!(proxy, provider, |p| p.store(&[context()]));
    }

    fn event() -> Event {
        let id = uuid::Uuid::new_v4().to_string();
        let event = serde_json::json!({"context": {"eventId": id, "correlationId": "c"}, "type": "t"});
        serde_json::from_value(event).unwrap()
    }

    #[tokio::test]
    async fn jetstream_server() {
        let Some(server) = servers::nats() else { return };
        let proxy = through(&server).await;
        let name = format!("faults-{}", std::process::id());
        let provider = Nats::open(&proxy.url(&server).parse().unwrap(), NatsConfig::new(&name, &name));
        provider.check().await.unwrap();
        goes_away_and_comes_back!(proxy, provider, |p| p.publish(&[event()]));
    }

    #[tokio::test]
    async fn rabbitmq_server() {
        let Some(server) = servers::rabbitmq() else { return };
        let proxy = through(&server).await;
        let name = format!("faults-{}", std::process::id());
        let config = AmqpConfig::new(name.clone()).queue(name);
        let provider = Amqp::open(&proxy.url(&server).parse().unwrap(), config);
        servers::answering(|| provider.check()).await;
        goes_away_and_comes_back!(proxy, provider, |p| p.publish(&[event()]));
    }
}

/// What is fetched again is what was missing, not the whole file.
#[tokio::test]
async fn a_broken_download_resumes_where_it_stopped() {
    let Some(server) = servers::seaweedfs() else { return };
    const SIZE: usize = 40 << 20;
    let dir = TempDir::new().unwrap();
    let (key, source) = file(&dir, SIZE);
    let stored = s3(server.clone()).put(&key, &source).await.unwrap();
    // Every connection breaks after 5 MiB, in the middle of a part.
    let proxy = Proxy::start(address(&server), |_| Fault::CutAfter(5 << 20)).await;
    let target = Target::file(dir.path().join("fetched"));
    let fetched = s3(proxy.url(&server)).get(&key, &target).await.unwrap();
    assert_eq!(fetched, stored);
    assert!(std::fs::read(target.path()).unwrap() == std::fs::read(source.path()).unwrap());
    assert!(proxy.sent_down() < SIZE * 5 / 4, "{} bytes were sent for {SIZE}", proxy.sent_down());
}

#[tokio::test]
async fn a_store_that_throttles_is_left_alone_as_long_as_it_asks() {
    let Some(server) = servers::seaweedfs() else { return };
    let proxy = Proxy::start(address(&server), |n| match n {
        0 => Fault::Answer(
            "HTTP/1.1 503 SlowDown\r\nretry-after: 2\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        ),
        _ => Fault::None,
    })
    .await;
    let dir = TempDir::new().unwrap();
    let (key, source) = file(&dir, 1000);
    let started = Instant::now();
    s3(proxy.url(&server)).put(&key, &source).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
}

/// A token that has expired, or a clock that is off, is told by the store and does not pass by waiting.
#[tokio::test]
async fn an_expired_token_and_a_clock_that_is_off_are_refused_with_the_stores_reason() {
    const EXPIRED: &str = "HTTP/1.1 403 Forbidden\r\ncontent-length: 54\r\nconnection: close\r\n\r\n<Error><Code>ExpiredToken</Code><Message>m</Message></";
    const SKEWED: &str = "HTTP/1.1 403 Forbidden\r\ncontent-length: 60\r\nconnection: close\r\n\r\n<Error><Code>RequestTimeTooSkewed</Code><Message>m</Message>";
    for (answer, reason) in [(EXPIRED, "ExpiredToken"), (SKEWED, "RequestTimeTooSkewed")] {
        let proxy = Proxy::start(([127, 0, 0, 1], 1).into(), move |_| Fault::Answer(answer)).await;
        let error = s3(format!("http://{}", proxy.address)).check().await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }) && error.chain().contains(reason), "{error:?}");
    }
}

/// To wait for a request that is wrong would only delay the answer.
#[tokio::test]
async fn a_request_that_the_store_calls_wrong_is_refused_unless_time_mends_it() {
    const WRONG: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 33\r\nconnection: close\r\n\r\n<Error><Code>KeyTooLong</Code></E";
    const EXPIRED: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 35\r\nconnection: close\r\n\r\n<Error><Code>ExpiredToken</Code></E";
    for (answer, refused) in [(WRONG, true), (EXPIRED, false)] {
        let proxy = Proxy::start(([127, 0, 0, 1], 1).into(), move |_| Fault::Answer(answer)).await;
        let error = s3(format!("http://{}", proxy.address)).check().await.unwrap_err();
        assert_eq!(matches!(error, Error::Refused { .. }), refused, "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let proxy = Proxy::start(([127, 0, 0, 1], 1).into(), |_| Fault::Hang).await;
    let limit = Duration::from_secs(1);
    let address = proxy.address;
    let nats = Nats::open(&format!("nats://{address}").parse().unwrap(), NatsConfig::new("s", "s"));
    let amqp = Amqp::open(&format!("amqp://{address}").parse().unwrap(), AmqpConfig::new("x"));
    let config = MongoConfig::new("d", "c");
    let mongo = Mongo::open(format!("mongodb://{address}"), config);
    let postgres = Postgres::open(&format!("postgres://u@{address}/d").parse().unwrap(), None).unwrap();
    let bucket = s3(format!("http://{address}"));
    let started = Instant::now();
    let checks: [(&str, BoxFuture<'_, Result<()>>); 5] = [
        ("nats", Box::pin(async { Timeout::new(nats, limit).publish(&[]).await })),
        ("amqp", Box::pin(async { Timeout::new(amqp, limit).publish(&[]).await })),
        ("mongodb", Box::pin(async { DocumentProvider::check(&Timeout::new(mongo, limit)).await })),
        ("postgres", Box::pin(async { DocumentProvider::check(&Timeout::new(postgres, limit)).await })),
        ("s3", Box::pin(async { BlobProvider::check(&Timeout::new(bucket, limit)).await })),
    ];
    for (name, check) in checks {
        let error = check.await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{name}: {error:?}");
    }
    assert!(started.elapsed() < 10 * limit, "{:?}", started.elapsed());
}
