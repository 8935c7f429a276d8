//! The SDK against a listener that answers by script.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sidecar_client::testing::TestWorkspace;
use sidecar_client::{Client, Error, KeyValuePairs, Module, Refused, Retry};
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
        self.client_with(Retry { first_wait: Duration::from_millis(1), ..Retry::default() })
    }

    fn client_with(&self, retry: Retry) -> Client {
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

    /// The names in `out/events`, sorted.
    fn events(&self) -> Vec<String> {
        let entries = fs::read_dir(self.base.path().join("out/events")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn pairs(&self, name: &str) -> KeyValuePairs {
        serde_json::from_slice(&fs::read(self.base.path().join(name)).unwrap()).unwrap()
    }
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// What serves as the answer to `ready` and `done` of a sidecar of release 0.1.
const OK: &str = r#"{"files":0,"bytes":0,"values":0,"insight":null,"events":[]}"#;

/// The answer to `done` of a module whose first event is invalid.
fn invalid_event() -> String {
    let body = r#"{"statusCode":422,"message":"the module's outputs are invalid","retryable":false,
        "problems":[{"file":"out/events/000001.json","line":2,"column":3,"message":"no"}]}"#;
    answer("422 Unprocessable", body)
}

#[tokio::test]
async fn ready_and_done_carry_the_secret() {
    let receipt = r#"{"files":1,"bytes":2,"insight":null,"events":[]}"#;
    let sidecar = Sidecar::answering(&[&answer("200 OK", OK), &answer("200 OK", receipt)]).await;
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
        &answer("200 OK", OK),
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
    let sidecar = Sidecar::answering(&[&answer("200 OK", OK), &invalid_event()]).await;
    let error = sidecar.client().ready().await.unwrap().done().await.unwrap_err();
    assert_eq!(error.status(), Some(422));
    assert_eq!(error.problems()[0].to_string(), "out/events/000001.json:2:3: no");
    assert!(error.chain().ends_with("; out/events/000001.json:2:3: no"), "{}", error.chain());
}

#[tokio::test]
async fn a_refused_module_goes_on_where_it_was() {
    let (ok, refused) = (answer("200 OK", OK), invalid_event());
    let sidecar = Sidecar::answering(&[&ok, &refused, &refused, &ok]).await;
    let mut module = sidecar.client().ready().await.unwrap();
    for n in 1..=2 {
        module.workspace().event("counted").value("n", n).write().unwrap();
        module.workspace().insight("n", n);
        module = module.done().await.unwrap_err().into_module();
    }
    // Whatever became of the file in the meantime.
    fs::remove_file(sidecar.base.path().join("out/meta.json")).unwrap();
    module.workspace().event("counted").value("n", 3).write().unwrap();
    module.workspace().insight("n", 3);
    module.done().await.unwrap();
    assert_eq!(sidecar.events(), ["000001.json", "000002.json", "000003.json"]);
    for (name, n) in [("000001", "1"), ("000002", "2"), ("000003", "3")] {
        assert_eq!(sidecar.pairs(&format!("out/events/{name}.json")).get("n"), Some(n));
    }
    let insights = KeyValuePairs::from_iter([("n", "1"), ("n", "2"), ("n", "3")]);
    assert_eq!(sidecar.pairs("out/meta.json"), insights);
    assert_eq!(sidecar.requests()[1..], ["GET /done HTTP/1.1"; 3]);
}

#[tokio::test]
async fn a_refused_module_can_replace_and_withdraw_what_it_wrote() {
    let ok = answer("200 OK", OK);
    let sidecar = Sidecar::answering(&[&ok, &invalid_event(), &ok]).await;
    let module = sidecar.client().ready().await.unwrap();
    for event_type in ["wrong", "unwanted", "right"] {
        module.workspace().event(event_type).write().unwrap();
    }
    module.workspace().insight("wrong", 1);
    let (module, error) = module.done().await.unwrap_err().into_parts();
    let file = module.workspace().layout().base().join(&error.problems()[0].file);
    assert_eq!(file, module.workspace().layout().output_events().join("000001.json"));
    module.workspace().event("fixed").name("000001").write().unwrap();
    fs::remove_file(module.workspace().layout().output_events().join("000002.json")).unwrap();
    module.workspace().event("last").write().unwrap();
    module.workspace().clear_insights();
    module.done().await.unwrap();
    assert_eq!(sidecar.events(), ["000001.json", "000003.json", "000005.json"]);
    assert_eq!(sidecar.pairs("out/events/000001.json").get("eventType"), Some("fixed"));
    assert_eq!(sidecar.pairs("out/meta.json").len(), 0);
}

#[tokio::test]
async fn a_module_comes_back_when_no_answer_came() {
    let ok = answer("200 OK", OK);
    let sidecar = Sidecar::answering(&[&ok, "HTTP/1.1 200 OK\r\ncontent-le", &ok]).await;
    let module = sidecar.client_with(Retry::never()).ready().await.unwrap();
    module.workspace().event("e").write().unwrap();
    module.workspace().insight("i", 1);
    let refused = module.done().await.unwrap_err();
    assert!(refused.is_unreachable() && refused.problems().is_empty(), "{refused:?}");
    refused.into_module().done().await.unwrap();
    assert_eq!(sidecar.events(), ["000001.json"]);
    assert_eq!(sidecar.pairs("out/meta.json"), KeyValuePairs::from_iter([("i", "1")]));
}

#[tokio::test]
async fn a_module_comes_back_when_its_insights_cannot_be_written() {
    let ok = answer("200 OK", OK);
    let sidecar = Sidecar::answering(&[&ok, &ok]).await;
    let module = sidecar.client().ready().await.unwrap();
    module.workspace().insight("i", 1);
    let in_the_way = sidecar.base.path().join("out/meta.json");
    fs::create_dir_all(&in_the_way).unwrap();
    let (module, error) = module.done().await.unwrap_err().into_parts();
    assert!(matches!(&error, Error::Io { path, .. } if *path == in_the_way), "{error:?}");
    assert_eq!(sidecar.requests().len(), 1);
    fs::remove_dir(&in_the_way).unwrap();
    module.done().await.unwrap();
    assert_eq!(sidecar.pairs("out/meta.json"), KeyValuePairs::from_iter([("i", "1")]));
}

#[tokio::test]
async fn a_module_comes_back_when_fail_was_refused() {
    let (ok, late) = (answer("200 OK", OK), answer("409 Conflict", r#"{"statusCode":409,"message":"late"}"#));
    let receipt = answer("200 OK", r#"{"files":1,"bytes":2,"insight":null,"events":[]}"#);
    let sidecar = Sidecar::answering(&[&ok, &late, &receipt]).await;
    let refused = sidecar.client().ready().await.unwrap().fail("because").await.unwrap_err();
    assert_eq!(refused.status(), Some(409));
    assert_eq!(refused.into_module().done().await.unwrap().unwrap().files, 1);
}

#[tokio::test]
async fn a_refusal_is_its_error() {
    async fn as_the_error(module: Module) -> Result<(), Error> {
        module.done().await?;
        Ok(())
    }
    async fn boxed(module: Module) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        module.done().await?;
        Ok(())
    }
    let ok = answer("200 OK", &OK.replace("\"values\":0", "\"values\":1"));
    let answers = [&*ok, "", &ok, "", &ok, ""];
    let sidecar = Sidecar::answering(&answers).await;
    fs::write(sidecar.base.path().join("in/meta.json"), r#"[{"key":"a","value":"swordfish"}]"#).unwrap();
    let ready = async || sidecar.client_with(Retry::never()).ready().await.unwrap();

    let error = as_the_error(ready().await).await.unwrap_err();
    assert!(matches!(error, Error::Call { call: "done", .. }), "{error:?}");
    let error = boxed(ready().await).await.unwrap_err();
    assert!(error.to_string().starts_with("done failed at http://127.0.0.1:"), "{error}");
    assert_eq!(error.source().unwrap().to_string(), "the sidecar cannot be reached");
    let refused: Refused<Module> = ready().await.done().await.unwrap_err();
    assert_eq!(refused.to_string(), format!("{}", *refused));
    // A `main` that returns it prints it so, and input values can be secret.
    assert!(!format!("{refused:?}").contains("swordfish"), "{refused:?}");
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
    let sidecar = Sidecar::answering(&[&answer("200 OK", OK)]).await;
    fs::remove_file(sidecar.base.path().join("in/meta.json")).unwrap();
    let error = sidecar.client().ready().await.unwrap_err();
    assert!(error.chain().contains("SIDECAR_BASE_DIR"), "{}", error.chain());
}

#[tokio::test]
async fn outputs_appear_whole_or_not_at_all() {
    let sidecar = Sidecar::answering(&[
        &answer("200 OK", &OK.replace("\"values\":0", "\"values\":1")),
        &answer("200 OK", ""),
    ])
    .await;
    let input = sidecar.base.path().join("in/data/sub");
    fs::create_dir_all(&input).unwrap();
    fs::write(input.join("a"), "input").unwrap();
    fs::write(sidecar.base.path().join("in/meta.json"), r#"[{"key":"k","value":"v"}]"#).unwrap();

    let module = sidecar.client().ready().await.unwrap();
    assert_eq!(module.workspace().values().get("k"), Some("v"));
    let files = module.workspace().files().unwrap();
    assert_eq!(files.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["sub/a"]);
    assert_eq!(fs::read_to_string(module.workspace().input(&files[0])).unwrap(), "input");

    let data = sidecar.base.path().join("out/data");
    let mut output = module.workspace().output("x/y.txt").unwrap();
    output.write_all(b"half").unwrap();
    assert!(!data.exists());
    output.write_all(b" and half").unwrap();
    output.finish().unwrap();
    assert_eq!(fs::read_to_string(data.join("x/y.txt")).unwrap(), "half and half");
    drop(module.workspace().output("never").unwrap());
    assert!(!data.join("never").exists());
    assert!(module.workspace().output("../escape").is_err());
    assert!(module.workspace().event("t").name("../escape").write().is_err());

    module.workspace().event("created").file("x/y.txt").file("a,b").value("n", 3).write().unwrap();
    module.workspace().event("created").name("last").write().unwrap();
    let event = sidecar.pairs("out/events/000002.json");
    let expected = [("eventType", "created"), ("files", "x/y.txt"), ("files", "a,b"), ("n", "3")];
    assert_eq!(event, KeyValuePairs::from_iter(expected));
    assert_eq!(sidecar.pairs("out/events/last.json").len(), 1);

    fs::write(sidecar.base.path().join("out/meta.json"), r#"[{"key":"old","value":"try"}]"#).unwrap();
    module.workspace().insight("pictures", 2);
    let base = sidecar.base.path().to_owned();
    module.done().await.unwrap();
    assert_eq!(sidecar.pairs("out/meta.json"), KeyValuePairs::from_iter([("pictures", "2")]));
    assert_eq!(fs::read_dir(base.join("out/.staging")).unwrap().count(), 0);
}

#[cfg(feature = "blocking")]
/// A function of the program that embeds the sidecar has no `done` of its own.
#[test]
fn the_insights_of_a_workspace_that_was_opened_are_written() {
    let dir = tempfile::TempDir::new().unwrap();
    let layout = sidecar_core::Layout::new(dir.path());
    std::fs::create_dir_all(layout.input_data()).unwrap();
    std::fs::write(layout.input_meta(), "[]").unwrap();
    for dropped in [false, true] {
        let work = sidecar_client::Workspace::open(layout.clone()).unwrap();
        work.insight("dropped", dropped);
        if dropped {
            drop(work)
        } else {
            work.finish().unwrap()
        }
        let written = std::fs::read_to_string(layout.output_meta()).unwrap();
        assert!(written.contains(&dropped.to_string()), "{written}");
    }
}

#[test]
fn the_same_without_an_async_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sidecar = runtime.block_on(Sidecar::answering(&[&answer("200 OK", OK), &answer("200 OK", "")]));
    let module = sidecar_client::blocking::Client::from(sidecar.client()).ready().unwrap();
    module.workspace().event("t").write().unwrap();
    module.fail("because").unwrap();
    assert_eq!(sidecar.requests(), ["GET /ready HTTP/1.1", "POST /fail HTTP/1.1"]);
    assert!(sidecar.requests.lock().unwrap()[1].ends_with("because"));
}

#[cfg(feature = "blocking")]
#[test]
fn a_refused_module_goes_on_without_an_async_runtime() {
    fn boxed(
        module: sidecar_client::blocking::Module,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        module.fail("because")?;
        Ok(())
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let late = answer("409 Conflict", r#"{"statusCode":409,"message":"late"}"#);
    let (ok, refused) = (answer("200 OK", OK), invalid_event());
    let answers = [&*ok, &refused, &refused, &late];
    let sidecar = runtime.block_on(Sidecar::answering(&answers));
    let mut module = sidecar_client::blocking::Client::from(sidecar.client()).ready().unwrap();
    for n in 1..=2 {
        module.workspace().event("counted").value("n", n).write().unwrap();
        module.workspace().insight("n", n);
        let refused = module.done().unwrap_err();
        assert_eq!(refused.problems().len(), 1);
        module = refused.into_module();
    }
    assert_eq!(sidecar.events(), ["000001.json", "000002.json"]);
    assert_eq!(sidecar.pairs("out/meta.json"), KeyValuePairs::from_iter([("n", "1"), ("n", "2")]));
    assert!(boxed(module).unwrap_err().to_string().starts_with("fail failed"));
}

#[tokio::test]
async fn a_module_knows_what_it_works_for() {
    let body = r#"{"files":1,"bytes":2,"values":0,
        "context":{"name":"m","eventId":"e","correlationId":"c","parentEventId":"p"}}"#;
    let sidecar = Sidecar::answering(&[&answer("200 OK", body)]).await;
    let module = sidecar.client().ready().await.unwrap();
    let context = module.context().unwrap();
    assert_eq!((context.name.as_str(), context.event_id.as_str()), ("m", "e"));
    assert_eq!((&*context.correlation_id, &*context.parent_event_id), ("c", "p"));
    assert_eq!(module.prepared().unwrap().files, 1);
}

#[tokio::test]
async fn an_answer_of_somebody_else_is_an_error() {
    for body in ["<html>welcome</html>", "{}", "[]"] {
        let sidecar = Sidecar::answering(&[&answer("200 OK", body)]).await;
        let error = sidecar.client().ready().await.unwrap_err();
        assert!(error.chain().contains("the answer is not one of a sidecar"), "{}", error.chain());
        let sidecar = Sidecar::answering(&[&answer("200 OK", OK), &answer("200 OK", body)]).await;
        let refused = sidecar.client().ready().await.unwrap().done().await.unwrap_err();
        assert!(refused.chain().contains("the answer is not one of a sidecar"), "{}", refused.chain());
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_a_way_too() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("in")).unwrap();
    fs::write(dir.path().join("in/meta.json"), "[]").unwrap();
    let socket = dir.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 8192];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(answer("200 OK", OK).as_bytes()).await.unwrap();
    });
    let builder = Client::builder().secret("s3cret").socket(&socket).base_dir(dir.path());
    builder.build().unwrap().ready().await.unwrap();
    let gone = Client::builder().secret("s").socket("/nowhere/socket").retry(Retry::never()).build().unwrap();
    let error = gone.ready().await.unwrap_err();
    assert!(error.to_string().starts_with("ready failed at unix:/nowhere/socket"), "{error}");
}

#[test]
fn a_module_is_tested_without_a_sidecar() {
    let test = TestWorkspace::new().input("deep/a.txt", "one two").value("language", "en");
    let work = test.workspace();
    let name = work.files().unwrap().remove(0);
    assert_eq!((name.as_str(), work.values().get("language")), ("deep/a.txt", Some("en")));
    let mut output = work.output("count.txt").unwrap();
    let words = fs::read_to_string(work.input(&name)).unwrap().split(' ').count();
    write!(output, "{words}").unwrap();
    output.finish().unwrap();
    work.insight("words", words);
    work.event("counted").file("count.txt").value("language", "en").write().unwrap();
    let outputs = test.outputs().unwrap();
    assert_eq!((outputs.text("count.txt"), outputs.insights().get("words")), ("2", Some("2")));
    assert_eq!(outputs.events()[0].event_type, "counted");

    work.event("counted").file("absent.txt").write().unwrap();
    let error = test.outputs().unwrap_err();
    assert_eq!(error.status(), Some(422));
    assert!(error.problems()[0].message.contains("absent.txt"), "{:?}", error.problems());
}

#[tokio::test]
async fn a_directory_of_another_execution_is_told() {
    let sidecar = Sidecar::answering(&[&answer("200 OK", OK)]).await;
    fs::write(sidecar.base.path().join("in/meta.json"), r#"[{"key":"a","value":"b"}]"#).unwrap();
    let error = sidecar.client().ready().await.unwrap_err();
    assert!(error.chain().contains("SIDECAR_BASE_DIR"), "{}", error.chain());
}

#[test]
fn an_event_has_a_name_that_the_sidecar_reads() {
    let test = TestWorkspace::new();
    for name in ["", ".hidden", "a/b"] {
        let error = test.workspace().event("t").name(name).write().unwrap_err();
        assert!(error.chain().contains("one file name"), "{}", error.chain());
    }
    assert_eq!(test.outputs().unwrap().events(), []);
}
