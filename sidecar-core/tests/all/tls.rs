//! TLS of every provider: a certificate that nobody knows is refused, and trusted with `ca_file`.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use sidecar_core::blob::{AzureConfig, Bucket, DEFAULT_EXPIRY, GcsConfig, S3Config};
use sidecar_core::documents::{Mongo, MongoConfig, Postgres};
use sidecar_core::events::{Amqp, AmqpConfig, Nats, NatsConfig, ServiceBus, ServiceBusConfig};
use sidecar_core::{BlobProvider, DocumentProvider, EventProvider};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::fault_proxy::address;
use crate::gcs_gateway::Gateway;
use crate::servers;
use crate::service_bus_double::{self, Double};

/// How a protocol comes to TLS.
#[derive(Clone, Copy)]
enum Upgrade {
    /// It begins with it.
    AtOnce,
    /// The client asks for it.
    Postgres,
    /// The server asks for it in its greeting.
    Nats,
}

/// The end of TLS before a server that speaks without.
struct Terminator {
    host: String,
    ca_file: PathBuf,
    _dir: TempDir,
}

impl Terminator {
    async fn start(server: &str, upgrade: Upgrade) -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let dir = TempDir::new().unwrap();
        let ca_file = dir.path().join("ca.pem");
        std::fs::write(&ca_file, made.cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let server = address(server);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, server) = (acceptor.clone(), TcpStream::connect(server).await.unwrap());
                // A client that refuses the certificate breaks the connection.
                tokio::spawn(async move { pass(client, server, &acceptor, upgrade).await.ok() });
            }
        });
        Self { host, ca_file, _dir: dir }
    }

    /// The URL of the server through it.
    fn url(&self, server: &str, scheme: &str) -> String {
        let (_, rest) = server.split_once("://").unwrap();
        let (user, rest) = rest.rsplit_once('@').map_or(("", rest), |(user, rest)| (user, rest));
        let path = rest.find('/').map_or("", |slash| &rest[slash..]);
        let at = if user.is_empty() { "" } else { "@" };
        format!("{scheme}://{user}{at}{}{path}", self.host)
    }
}

async fn pass(
    mut client: TcpStream,
    server: TcpStream,
    acceptor: &TlsAcceptor,
    upgrade: Upgrade,
) -> std::io::Result<()> {
    let mut server = BufReader::new(server);
    match upgrade {
        Upgrade::AtOnce => {}
        Upgrade::Postgres => {
            client.read_exact(&mut [0; 8]).await?;
            client.write_all(b"S").await?;
        }
        Upgrade::Nats => {
            let mut greeting = String::new();
            server.read_line(&mut greeting).await?;
            client.write_all(greeting.replacen('{', "{\"tls_required\":true,", 1).as_bytes()).await?;
        }
    }
    let mut client = acceptor.accept(client).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// Checks without and with the certificate.
macro_rules! trusts_the_file_alone {
    ($server:expr, $upgrade:ident, |$tls:ident, $ca_file:ident| $open:expr) => {{
        let $tls = Terminator::start(&$server, Upgrade::$upgrade).await;
        let $ca_file: Option<PathBuf> = None;
        let error = $open.check().await.unwrap_err().chain();
        assert!(error.to_lowercase().contains("certificate"), "{error}");
        let $ca_file = Some($tls.ca_file.clone());
        $open.check().await.unwrap();
    }};
}

#[tokio::test]
async fn s3_seaweedfs() {
    let Some(server) = servers::seaweedfs() else { return };
    trusts_the_file_alone!(server, AtOnce, |tls, ca_file| {
        let config = {
            let mut config = S3Config::default()
                .endpoint(tls.url(&server, "https"))
                .region("us-east-1")
                .access_key_id(servers::S3_KEY)
                .secret_access_key(servers::S3_SECRET);
            config.ca_file = ca_file;
            config
        };
        Bucket::s3(&"s3://test/".parse().unwrap(), &config, DEFAULT_EXPIRY).unwrap()
    });
}

#[tokio::test]
async fn azure_azurite() {
    let Some(server) = servers::azurite() else { return };
    trusts_the_file_alone!(server, AtOnce, |tls, ca_file| {
        let config = {
            let mut config = AzureConfig::default()
                .account("devstoreaccount1")
                .key(servers::AZURITE_KEY)
                .endpoint(tls.url(&server, "https"));
            config.ca_file = ca_file;
            config
        };
        Bucket::azure(&"az://tls/".parse().unwrap(), &config, DEFAULT_EXPIRY).unwrap()
    });
}

#[tokio::test]
async fn gcs_fake_gcs_server() {
    let Some(server) = servers::fake_gcs() else { return };
    let gateway = Gateway::start(&server);
    gateway.make_bucket("tls").await;
    trusts_the_file_alone!(gateway.endpoint, AtOnce, |tls, ca_file| {
        let config = {
            let mut config = GcsConfig::default()
                .credentials(gateway.credentials.clone())
                .endpoint(tls.url(&gateway.endpoint, "https"));
            config.ca_file = ca_file;
            config
        };
        Bucket::gcs(&"gs://tls/".parse().unwrap(), &config, DEFAULT_EXPIRY).unwrap()
    });
}

#[tokio::test]
async fn mongodb_secantusdb() {
    let Some(server) = servers::secantusdb() else { return };
    trusts_the_file_alone!(server, AtOnce, |tls, ca_file| {
        let config = {
            let mut config = MongoConfig::new("test", "tls");
            config.ca_file = ca_file;
            config
        };
        Mongo::open(format!("{}&tls=true&serverSelectionTimeoutMS=2000", tls.url(&server, "mongodb")), config)
    });
}

#[tokio::test]
async fn postgres_server() {
    let Some(server) = servers::postgres() else { return };
    trusts_the_file_alone!(server, Postgres, |tls, ca_file| {
        let url = format!("{}?table=tls&sslmode=require", tls.url(&server, "postgres"));
        Postgres::open(&url.parse().unwrap(), ca_file.as_deref()).unwrap()
    });
}

#[tokio::test]
async fn service_bus_double() {
    let double = Double::start();
    trusts_the_file_alone!(double.endpoint, AtOnce, |tls, ca_file| {
        ServiceBus::open({
            let mut config = ServiceBusConfig::new(
                "ns",
                service_bus_double::TOPIC,
                service_bus_double::RULE,
                service_bus_double::KEY,
            )
            .endpoint(tls.url(&double.endpoint, "https"));
            config.ca_file = ca_file;
            config
        })
        .unwrap()
    });
}

#[tokio::test]
async fn nats_server() {
    let Some(server) = servers::nats() else { return };
    trusts_the_file_alone!(server, Nats, |tls, ca_file| {
        let config = {
            let mut config = NatsConfig::new("tls", "tls");
            config.ca_file = ca_file;
            config
        };
        Nats::open(&tls.url(&server, "nats").parse().unwrap(), config)
    });
}

#[tokio::test]
async fn rabbitmq_server() {
    let Some(server) = servers::rabbitmq() else { return };
    trusts_the_file_alone!(server, AtOnce, |tls, ca_file| {
        let config = {
            let mut config = AmqpConfig::new("tls");
            config.ca_file = ca_file;
            config
        };
        Amqp::open(&tls.url(&server, "amqps").parse().unwrap(), config)
    });
}
