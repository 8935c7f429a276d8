//! Object stores, each against a real server.

use std::time::Duration;

use object_store::memory::InMemory;
use sidecar_core::blob::{AzureConfig, Bucket, DEFAULT_EXPIRY, GcsConfig, S3Config, Source, Target};
use sidecar_core::{BlobKey, BlobProvider, DataPlane, Error, EventId, Submission, documents, events};
use tokio::sync::OnceCell;
use url::Url;

use crate::gcs_gateway::Gateway;
use crate::scene::Scene;
use crate::servers::{self, S3_KEY, S3_SECRET};

/// Where nobody listens.
const AWAY: &str = "http://127.0.0.1:1";

fn s3_at(endpoint: String, bucket: &str, secret: &str) -> Bucket {
    let config = S3Config::default()
        .endpoint(endpoint)
        .region("us-east-1")
        .access_key_id(S3_KEY)
        .secret_access_key(secret);
    let root = Url::parse(&format!("s3://{bucket}/some/prefix")).unwrap();
    Bucket::s3(&root, &config, DEFAULT_EXPIRY).unwrap()
}

fn s3_with(bucket: &str, secret: &str) -> Option<Bucket> {
    Some(s3_at(servers::seaweedfs()?, bucket, secret))
}

pub fn s3() -> Option<Bucket> {
    s3_with("test", S3_SECRET)
}

fn azure_at(endpoint: String, container: &str, key: &str) -> Bucket {
    let config = AzureConfig::default().account("devstoreaccount1").key(key).endpoint(endpoint);
    let root = Url::parse(&format!("az://{container}/some/prefix")).unwrap();
    Bucket::azure(&root, &config, DEFAULT_EXPIRY).unwrap()
}

fn azure_with(container: &str, key: &str) -> Option<Bucket> {
    Some(azure_at(servers::azurite()?, container, key))
}

/// The container is made by the first check.
pub async fn azure() -> Option<Bucket> {
    static MADE: OnceCell<()> = OnceCell::const_new();
    let bucket = azure_with("test", servers::AZURITE_KEY)?;
    MADE.get_or_init(async || bucket.check().await.unwrap()).await;
    Some(bucket)
}

fn gcs_with(bucket: &str, gateway: &Gateway) -> Bucket {
    let config =
        GcsConfig::default().credentials(gateway.credentials.clone()).endpoint(gateway.endpoint.clone());
    let root = Url::parse(&format!("gs://{bucket}/some/prefix")).unwrap();
    Bucket::gcs(&root, &config, DEFAULT_EXPIRY).unwrap()
}

/// One gateway for all tests.
async fn gateway() -> Option<Gateway> {
    static GATEWAY: OnceCell<Option<Gateway>> = OnceCell::const_new();
    let start = async || {
        let server = servers::fake_gcs()?;
        let gateway = Gateway::start(&server);
        gateway.make_bucket("test").await;
        Some(gateway)
    };
    GATEWAY.get_or_init(start).await.clone()
}

pub async fn gcs() -> Option<Bucket> {
    Some(gcs_with("test", &gateway().await?))
}

fn gcs_away() -> Bucket {
    let mut gateway = Gateway::start(AWAY);
    gateway.endpoint = AWAY.into();
    gcs_with("test", &gateway)
}

mod s3_seaweedfs {
    use super::*;
    sidecar_core::conformance_blob!(
        optional: s3(),
        reopen: async |_| s3().unwrap(),
        away: s3_at(AWAY.into(), "test", S3_SECRET),
        large: 512 << 20,
    );
}

mod azure_azurite {
    use super::*;
    sidecar_core::conformance_blob!(
        optional: azure().await,
        reopen: async |_| azure().await.unwrap(),
        away: azure_at(format!("{AWAY}/devstoreaccount1"), "test", servers::AZURITE_KEY),
        large: 512 << 20,
    );
}

/// The gateway holds blobs itself, in this process.
mod gcs_fake_gcs_server {
    use super::*;
    sidecar_core::conformance_blob!(
        optional: gcs().await,
        reopen: async |_| gcs().await.unwrap(),
        away: gcs_away(),
    );
}

mod any_object_store {
    use super::*;

    sidecar_core::conformance_blob!(
        Bucket::new(
            std::sync::Arc::new(InMemory::new()),
            None,
            Url::parse("any://store/").unwrap(),
            DEFAULT_EXPIRY,
        ),
        reopen: async |bucket| Bucket::clone(bucket),
    );
}

async fn stored(bucket: &Bucket) -> BlobKey {
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("f"), "signed content").unwrap();
    let key = BlobKey::parse(&format!("{}/m/a_b.txt", uuid::Uuid::new_v4())).unwrap();
    bucket.put(&key, &Source::file(dir.path().join("f")).unwrap()).await.unwrap();
    key
}

/// A signed URI opens the blob to whoever has it, and only as long as it is whole.
async fn signed_uris_open_the_blob(bucket: &Bucket) {
    let key = stored(bucket).await;
    let uri = bucket.uri(&key).await.unwrap();
    let get = async |uri: &str| reqwest::get(uri).await.unwrap();
    assert_eq!(get(uri.as_str()).await.text().await.unwrap(), "signed content");
    let unsigned = uri.as_str().split('?').next().unwrap();
    assert!(get(unsigned).await.status().is_client_error());
    assert!(get(&uri.as_str().replace("a_b", "other")).await.status().is_client_error());
}

#[tokio::test]
async fn signed_uris_of_s3_open_the_blob() {
    if let Some(bucket) = s3() {
        signed_uris_open_the_blob(&bucket).await;
    }
}

#[tokio::test]
async fn signed_uris_of_azure_open_the_blob() {
    if let Some(bucket) = azure().await {
        signed_uris_open_the_blob(&bucket).await;
    }
}

#[tokio::test]
async fn signed_uris_of_gcs_open_the_blob() {
    if let Some(bucket) = gcs().await {
        signed_uris_open_the_blob(&bucket).await;
    }
}

#[tokio::test]
async fn a_key_that_google_does_not_know_is_refused() {
    let Some(gateway) = gateway().await else { return };
    // Another gateway's key.
    let mut wrong = Gateway::start(&servers::fake_gcs().unwrap());
    wrong.endpoint = gateway.endpoint;
    let error = gcs_with("test", &wrong).check().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_refused() {
    let Some(gateway) = gateway().await else { return };
    let error = gcs_with("absent", &gateway).check().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }) && error.chain().contains("make it first"), "{error:?}");
}

#[tokio::test]
async fn a_store_that_cannot_sign_gives_the_plain_uri() {
    let root = Url::parse("any://store/some/prefix").unwrap();
    let bucket = Bucket::new(std::sync::Arc::new(InMemory::new()), None, root, DEFAULT_EXPIRY);
    let key = BlobKey::parse("e/m/a b.txt").unwrap();
    assert_eq!(bucket.uri(&key).await.unwrap().as_str(), "any://store/some/prefix/e/m/a%20b.txt");
}

#[tokio::test]
async fn a_name_that_azure_cannot_sign_gives_the_plain_uri() {
    let Some(bucket) = azure().await else { return };
    let uri = bucket.uri(&BlobKey::parse("e/m/a b.txt").unwrap()).await.unwrap();
    assert_eq!(uri.as_str(), "az://test/some/prefix/e/m/a%20b.txt");
}

#[tokio::test]
async fn a_wrong_key_is_refused_and_not_shown() {
    let wrong = "d3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmc=";
    for bucket in [s3_with("test", wrong), azure_with("test", wrong)].into_iter().flatten() {
        let error = bucket.check().await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        assert!(!format!("{error:?} {bucket:?} {}", error.chain()).contains(wrong));
    }
}

#[tokio::test]
async fn a_container_that_is_not_there_is_made() {
    let Some(bucket) = azure_with(&format!("made-{}", uuid::Uuid::new_v4()), servers::AZURITE_KEY) else {
        return;
    };
    bucket.check().await.unwrap();
    bucket.check().await.unwrap();
    stored(&bucket).await;
}

/// A journal knows its data plane by these names.
#[test]
fn stores_of_one_name_at_two_places_are_two() {
    let s3 = |endpoint: &str| {
        let config = S3Config::default().endpoint(endpoint);
        Bucket::s3(&"s3://bucket/".parse().unwrap(), &config, DEFAULT_EXPIRY).unwrap().to_string()
    };
    assert_ne!(s3("http://one"), s3("http://two"));
    let azure = |account: &str| {
        let config = AzureConfig::default().account(account).key(servers::AZURITE_KEY);
        Bucket::azure(&"az://data/".parse().unwrap(), &config, DEFAULT_EXPIRY).unwrap().to_string()
    };
    assert_ne!(azure("staging"), azure("production"));
}

/// Azure verifies what arrives, and Azurite accepts the signature that covers it: see `azure_azurite`.
#[tokio::test]
async fn azure_is_told_the_md5_of_what_is_sent() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = AzureConfig::default()
        .account("account")
        .key(servers::AZURITE_KEY)
        .endpoint(format!("http://{}/account", listener.local_addr().unwrap()));
    let bucket = Bucket::azure(&"az://data/".parse().unwrap(), &config, DEFAULT_EXPIRY).unwrap();
    let sent = tokio::spawn(async move {
        let mut head = vec![0; 8192];
        let (mut client, _) = listener.accept().await.unwrap();
        let n = tokio::io::AsyncReadExt::read(&mut client, &mut head).await.unwrap();
        String::from_utf8_lossy(&head[..n]).into_owned()
    });
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("f"), "signed content").unwrap();
    let (key, source) = (BlobKey::parse("e/m/f").unwrap(), Source::file(dir.path().join("f")).unwrap());
    let put = tokio::time::timeout(Duration::from_secs(10), bucket.put(&key, &source));
    let (_, head) = tokio::join!(put, sent);
    let head = head.unwrap().to_lowercase();
    assert!(head.contains("content-md5: kuvwkv+0yef9ll+ewiutha=="), "{head}");
    assert_eq!(head.matches("authorization:").count(), 1, "{head}");
}

/// What one key would silently replace is found out before anything is stored.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_share_a_blob_are_refused_before_the_first_upload() {
    for bucket in [s3(), azure().await].into_iter().flatten() {
        let plane = DataPlane::new(bucket.clone(), documents::Memory::default(), events::Memory::default());
        let event = EventId::from(uuid::Uuid::new_v4());
        let scene = Scene { event: event.clone(), ..Scene::new(plane) };
        let session = scene.ready().await;
        scene.write("out/data/x/y", "one");
        scene.write("out/data/x\\y", "two");
        scene.write("out/data/z", "three");
        let error = session.done().await.unwrap_err();
        let Error::Invalid(problems) = &*error else { panic!("{error:?}") };
        assert_eq!(problems.len(), 1, "{problems:?}");
        let text = problems[0].to_string();
        assert!(text.starts_with("out/data/x\\y: ") && text.contains("\"x/y\""), "{text}");
        let submitted = Submission::new("t").path(scene.path("out/data")).unwrap().submit(&scene.plane).await;
        assert!(matches!(submitted, Err(Error::Submission(problems)) if problems.len() == 1));
        let key = BlobKey::parse(&format!("{event}/first/z")).unwrap();
        let target = Target::file(scene.path("fetched"));
        assert!(matches!(bucket.get(&key, &target).await, Err(Error::NotFound { .. })));
        std::fs::remove_file(scene.path("out/data/x\\y")).unwrap();
        session.done().await.unwrap();
    }
}

#[tokio::test]
async fn a_submitted_file_is_no_directory_of_another() {
    let scene = Scene::new(DataPlane::memory());
    scene.write("a", "file");
    scene.write("d/a/b", "below");
    let submission = Submission::new("t").path(scene.path("a")).unwrap().path(scene.path("d")).unwrap();
    let error = submission.submit(&scene.plane).await.unwrap_err();
    assert_eq!(
        error.chain(),
        "the event cannot be submitted: a/b: \"a\" is a file, and cannot be a directory too"
    );
}
