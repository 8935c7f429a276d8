//! The SDK against a listener that answers by script.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sidecar_client::{Client, Error, KeyValuePairs, Retry};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A sidecar that gives these answers, one a connection, and notes the requests.
struct Sidecar {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
    base: TempDir,
}

impl Sidecar {
    async fn answering(answers: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        let noted = requests.clone();
        tokio::spawn(async move {
            for answer in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 8192];
                let n = socket.read(&mut request).await.unwrap();
                noted.lock().unwrap().push(String::from_utf8_lossy(&request[..n]).into_owned());
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let base = TempDir::new().unwrap();
        fs::create_dir(base.path().join("in")).unwrap();
        fs::write(base.path().join("in/meta.json"), "[]").unwrap();
        Self { port, requests, base }
    }

    fn client(&self) -> Client {
        let retry = Retry { first_wait: Duration::from_millis(1), ..Retry::default() };
        Client::builder()
            .secret("s3cret")
            .port(self.port)
            .base_dir(self.base.path())
            .retry(retry)
            .build()
            .unwrap()
    }

    fn requests(&self) -> Vec<String> {
        let lines = self.requests.lock().unwrap();
        lines.iter().map(|request| request.lines().next().unwrap().to_owned()).collect()
    }

    fn pairs(&self, name: &str) -> KeyValuePairs {
        serde_json::from_slice(&fs::read(self.base.path().join(name)).unwrap()).unwrap()
    }
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn ready_and_done_carry_the_secret() {
    let receipt = r#"{"files":1,"bytes":2,"insight":null,"events":[]}"#;
    let sidecar = Sidecar::answering(&[&answer("200 OK", "{}"), &answer("200 OK", receipt)]).await;
    let module = sidecar.client().ready().await.unwrap();
    assert_eq!(module.done().await.unwrap().unwrap().bytes, 2);
    assert_eq!(sidecar.requests(), ["GET /ready HTTP/1.1", "GET /done HTTP/1.1"]);
    assert!(sidecar.requests.lock().unwrap().iter().all(|request| request.contains("secret: s3cret")));
}

#[tokio::test]
async fn the_original_answers_without_a_body() {
    let sidecar = Sidecar::answering(&[&answer("200 OK", ""), &answer("200 OK", "")]).await;
    assert_eq!(sidecar.client().ready().await.unwrap().done().await.unwrap(), None);
}

#[tokio::test]
async fn transient_answers_are_repeated() {
    let away = r#"{"statusCode":503,"message":"away","retryable":true,"problems":[]}"#;
    let sidecar = Sidecar::answering(&[
        &answer("503 Service Unavailable", away),
        &answer("502 Bad Gateway", "a proxy says so"),
        "HTTP/1.1 200 OK\r\ncontent-le",
        &answer("200 OK", "{}"),
    ])
    .await;
    sidecar.client().ready().await.unwrap();
    assert_eq!(sidecar.requests().len(), 4);
}

#[tokio::test]
async fn permanent_answers_are_not_repeated() {
    for (status, body) in [
        ("401 Unauthorized", r#"{"statusCode":401,"message":"the header \"secret\" is wrong"}"#),
        ("502 Bad Gateway", r#"{"statusCode":502,"message":"damaged","retryable":false}"#),
        ("404 Not Found", "nothing here"),
    ] {
        let sidecar = Sidecar::answering(&[&answer(status, body)]).await;
        let error = sidecar.client().ready().await.unwrap_err();
        assert_eq!(error.status(), status[..3].parse().ok());
        assert!(matches!(error, Error::Call { call: "ready", attempts: 1, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn invalid_outputs_come_with_their_problems() {
    let body = r#"{"statusCode":422,"message":"the module's outputs are invalid","retryable":false,
        "problems":[{"file":"out/events/1.json","line":2,"column":3,"message":"no"}]}"#;
    let sidecar = Sidecar::answering(&[&answer("200 OK", "{}"), &answer("422 Unprocessable", body)]).await;
    let error = sidecar.client().ready().await.unwrap().done().await.unwrap_err();
    assert_eq!(error.problems()[0].to_string(), "out/events/1.json:2:3: no");
    assert!(error.chain().ends_with("\n  out/events/1.json:2:3: no"), "{}", error.chain());
}

#[tokio::test]
async fn a_sidecar_that_is_not_there_is_told_within_the_budget() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let retry = Retry { budget: Duration::from_millis(100), ..Retry::default() };
    let client = Client::builder().secret("s").port(port).retry(retry).build().unwrap();
    let error = client.ready().await.unwrap_err();
    assert!(error.is_unreachable());
    assert!(error.chain().contains("the sidecar cannot be reached"), "{}", error.chain());
}

#[tokio::test]
async fn a_base_directory_that_is_not_the_sidecars_is_told() {
    let sidecar = Sidecar::answering(&[&answer("200 OK", "{}")]).await;
    fs::remove_file(sidecar.base.path().join("in/meta.json")).unwrap();
    let error = sidecar.client().ready().await.unwrap_err();
    assert!(error.chain().contains("SIDECAR_BASE_DIR"), "{}", error.chain());
}

#[tokio::test]
async fn outputs_appear_whole_or_not_at_all() {
    let sidecar = Sidecar::answering(&[&answer("200 OK", "{}"), &answer("200 OK", "")]).await;
    let input = sidecar.base.path().join("in/data/sub");
    fs::create_dir_all(&input).unwrap();
    fs::write(input.join("a"), "input").unwrap();
    fs::write(sidecar.base.path().join("in/meta.json"), r#"[{"key":"k","value":"v"}]"#).unwrap();

    let module = sidecar.client().ready().await.unwrap();
    assert_eq!(module.values().get("k"), Some("v"));
    let files = module.files().unwrap();
    assert_eq!(files.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["sub/a"]);
    assert_eq!(fs::read_to_string(module.input(&files[0])).unwrap(), "input");

    let data = sidecar.base.path().join("out/data");
    let mut output = module.output("x/y.txt").unwrap();
    output.write_all(b"half").unwrap();
    assert!(!data.exists());
    output.write_all(b" and half").unwrap();
    output.finish().unwrap();
    assert_eq!(fs::read_to_string(data.join("x/y.txt")).unwrap(), "half and half");
    drop(module.output("never").unwrap());
    assert!(!data.join("never").exists());
    assert!(module.output("../escape").is_err());
    assert!(module.event("t").name("../escape").write().is_err());

    module.event("created").file("x/y.txt").file("a,b").value("n", 3).write().unwrap();
    module.event("created").name("last").write().unwrap();
    let event = sidecar.pairs("out/events/000002.json");
    let expected = [("eventType", "created"), ("files", "x/y.txt"), ("files", "a,b"), ("n", "3")];
    assert_eq!(event, KeyValuePairs::from_iter(expected));
    assert_eq!(sidecar.pairs("out/events/last.json").len(), 1);

    fs::write(sidecar.base.path().join("out/meta.json"), r#"[{"key":"old","value":"try"}]"#).unwrap();
    module.insight("pictures", 2);
    let base = sidecar.base.path().to_owned();
    module.done().await.unwrap();
    assert_eq!(sidecar.pairs("out/meta.json"), KeyValuePairs::from_iter([("pictures", "2")]));
    assert_eq!(fs::read_dir(base.join("out/.staging")).unwrap().count(), 0);
}

#[cfg(feature = "blocking")]
#[test]
fn the_same_without_an_async_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sidecar = runtime.block_on(Sidecar::answering(&[&answer("200 OK", "{}"), &answer("200 OK", "{}")]));
    let module = sidecar_client::blocking::Client::from(sidecar.client()).ready().unwrap();
    module.event("t").write().unwrap();
    module.fail("because").unwrap();
    assert_eq!(sidecar.requests(), ["GET /ready HTTP/1.1", "POST /fail HTTP/1.1"]);
    assert!(sidecar.requests.lock().unwrap()[1].ends_with("because"));
}
