//! Traces over OTLP, as a collector receives them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tempfile::TempDir;

use crate::pipeline::chain;
use crate::process::{CONTEXT, ended, sidecar};

/// What somebody else began.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A receiver of OTLP/HTTP that keeps what it is sent.
struct Collector {
    address: String,
    received: Arc<Mutex<Vec<(HeaderMap, ExportTraceServiceRequest)>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Collector {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let received = Arc::<Mutex<Vec<_>>>::default();
        let kept = received.clone();
        let keep = move |headers: HeaderMap, body: Bytes| async move {
            kept.lock().unwrap().push((headers, ExportTraceServiceRequest::decode(body).unwrap()));
        };
        let app = Router::new().route("/v1/traces", post(keep));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { address, received, _runtime: runtime }
    }

    fn spans(&self) -> Vec<Span> {
        let received = self.received.lock().unwrap();
        let resources = received.iter().flat_map(|(_, request)| &request.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }

    fn observed(&self, mut command: Command) -> Command {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &self.address);
        command
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    let value = found.value.clone()?.value?;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    Some(match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

/// Under which span each name lies, by their names.
fn edges(spans: &[Span]) -> BTreeSet<(String, String)> {
    let by_id: BTreeMap<&[u8], &Span> = spans.iter().map(|span| (&*span.span_id, span)).collect();
    let parent = |span: &Span| by_id.get(&*span.parent_span_id).map_or("", |parent| &parent.name).to_owned();
    spans.iter().map(|span| (parent(span), span.name.clone())).collect()
}

#[test]
fn a_chain_of_modules_is_one_trace() {
    let collector = Collector::start();
    let dir = chain("one\ntwo\nbad\n");
    let upper = fs::read_to_string(dir.path().join("upper.sh")).unwrap();
    fs::write(dir.path().join("upper.sh"), format!("echo $TRACEPARENT >> traceparents\n{upper}")).unwrap();
    let mut command = collector
        .observed(sidecar(&dir, &["pipeline", "chain.toml", "--input", "a.txt", "--log-format=json"]));
    let began = Instant::now();
    let (code, out, log) = ended(&command.env("TRACEPARENT", PARENT).output().unwrap());
    assert_eq!(code, 1, "{out}{log}");
    assert!(began.elapsed() < Duration::from_secs(60));

    let spans = collector.spans();
    let traces: BTreeSet<String> = spans.iter().map(|span| hex(&span.trace_id)).collect();
    assert_eq!(traces, BTreeSet::from([TRACE.to_owned()]));
    let edges = edges(&spans);
    for (above, below) in [
        ("", "submit"),
        ("submit", "put"),
        ("submit", "receive"),
        ("receive", "execution"),
        ("execution", "ready"),
        ("ready", "get"),
        ("execution", "module"),
        ("execution", "done"),
        ("done", "validate"),
        ("done", "put"),
        ("done", "store documents"),
        ("done", "decide"),
        ("done", "publish"),
        // What a module publishes goes on from its execution.
        ("execution", "receive"),
    ] {
        assert!(
            edges.contains(&(above.to_owned(), below.to_owned())),
            "no {below} below {above}: {edges:#?}"
        );
    }
    let roots: Vec<_> = spans.iter().filter(|span| hex(&span.parent_span_id) == "00f067aa0ba902b7").collect();
    assert_eq!(roots.iter().map(|span| &*span.name).collect::<Vec<_>>(), ["submit"]);
    // Two lines and one that fails twice, each with its text: split, 4 attempts of upper, 2 of count.
    let executions: Vec<_> = spans.iter().filter(|span| span.name == "execution").collect();
    assert_eq!(executions.len(), 7);
    let of = |name: &str| {
        executions.iter().filter(|span| attribute(span, "module").as_deref() == Some(name)).count()
    };
    assert_eq!((of("split"), of("upper"), of("count")), (1, 4, 2));
    // The second attempt names the first one.
    let again: Vec<_> = spans.iter().filter(|span| !span.links.is_empty()).collect();
    assert_eq!(again.len(), 1, "{again:?}");
    let first = spans.iter().find(|span| span.span_id == again[0].links[0].span_id).unwrap();
    assert_eq!((&*again[0].name, &*first.name), ("receive", "receive"));
    assert_eq!(first.parent_span_id, again[0].parent_span_id);
    // Each module was given its own span.
    let told = fs::read_to_string(dir.path().join("traceparents")).unwrap();
    let told: BTreeSet<&str> = told.lines().collect();
    let modules: BTreeSet<String> = spans
        .iter()
        .filter(|span| span.name == "module")
        .map(|span| format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id)))
        .collect();
    assert_eq!(told.len(), 4);
    assert!(told.iter().all(|told| modules.contains(*told)), "{told:?} of {modules:?}");
    let exits: BTreeSet<_> = spans.iter().filter_map(|span| attribute(span, "exit_code")).collect();
    assert_eq!(exits, BTreeSet::from(["0".to_owned(), "3".to_owned()]));
    // The log names it.
    assert!(log.lines().any(|line| line.contains(&format!("\"trace_id\":\"{TRACE}\""))), "{log}");
}

/// What the whole path stores and sends is the same whether anybody records it.
#[test]
fn a_trace_is_passed_on_by_those_who_record_nothing() {
    let dir = chain("one\n");
    let script = "echo $TRACEPARENT >> traceparents\n";
    for name in ["split.sh", "upper.sh"] {
        let text = fs::read_to_string(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name), format!("{script}{text}")).unwrap();
    }
    let mut command = sidecar(&dir, &["pipeline", "chain.toml", "--input", "a.txt"]);
    let (code, out, log) = ended(&command.env("TRACEPARENT", PARENT).output().unwrap());
    assert_eq!(code, 0, "{out}{log}");
    let told = fs::read_to_string(dir.path().join("traceparents")).unwrap();
    assert_eq!(told, format!("{PARENT}\n{PARENT}\n"));
}

#[test]
fn one_execution_is_part_of_the_trace_of_whoever_starts_it() {
    let collector = Collector::start();
    let dir = TempDir::new().unwrap();
    let mut command = sidecar(&dir, &[&["run", "--wrap"], &CONTEXT[..], &["--", "true"]].concat());
    command
        .env("TRACEPARENT", PARENT)
        .env("OTEL_SERVICE_NAME", "mine")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "key=secret");
    let (code, _, log) = ended(&collector.observed(command).output().unwrap());
    assert_eq!(code, 0, "{log}");
    let spans = collector.spans();
    let execution = spans.iter().find(|span| span.name == "execution").unwrap();
    assert_eq!(
        (hex(&execution.trace_id), hex(&execution.parent_span_id)),
        (TRACE.into(), "00f067aa0ba902b7".into())
    );
    let received = collector.received.lock().unwrap();
    let (headers, request) = &received[0];
    assert_eq!(headers["key"], "secret");
    let resource = format!("{:?}", request.resource_spans[0].resource);
    assert!(resource.contains("\"mine\"") && resource.contains("service.version"), "{resource}");
}

#[test]
fn nothing_is_sent_unless_it_is_asked_for_and_nobody_waits_long_for_a_collector_that_is_away() {
    let collector = Collector::start();
    let dir = TempDir::new().unwrap();
    let run = |event: &str, variables: &[(&str, &str)]| {
        let event = format!("--context.eventid={event}");
        let arguments = ["run", "--wrap", "--development=true", &event, "--context.name=m", "--", "true"];
        let mut command = sidecar(&dir, &arguments);
        command.envs(variables.iter().copied());
        let began = Instant::now();
        (ended(&command.output().unwrap()), began.elapsed())
    };
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.address);
    for (n, variables) in
        [&[][..], &[endpoint, ("OTEL_SDK_DISABLED", "true")], &[endpoint, ("OTEL_TRACES_EXPORTER", "none")]]
            .into_iter()
            .enumerate()
    {
        assert_eq!(run(&format!("e{n}"), variables).0.0, 0);
    }
    assert_eq!(collector.spans(), []);
    // Nobody answers, though somebody listens.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let ((code, _, log), took) = run("e4", &[("OTEL_EXPORTER_OTLP_ENDPOINT", &silent)]);
    assert!(code == 0 && took < Duration::from_secs(5), "{took:?} {log}");
    assert!(log.contains("the last spans were not sent"), "{log}");
    // A collector that is none, or refuses: told once.
    let refused = format!("{}/nowhere", collector.address);
    let ((code, _, log), _) = run("e7", &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &refused)]);
    let told = format!("spans are lost: the collector at {refused} answers with 404");
    assert!(code == 0 && log.matches(&told).count() == 1, "{log}");
    let ((_, _, log), _) = run("e8", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")]);
    assert!(
        log.contains("spans are lost: the collector at http://127.0.0.1:1/v1/traces cannot be reached"),
        "{log}"
    );
    let grpc = run("e5", &[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).0;
    assert!(
        grpc.0 == 64 && grpc.2.contains("OTEL_EXPORTER_OTLP_PROTOCOL is http/protobuf, and not \"grpc\""),
        "{grpc:?}"
    );
    assert_eq!(run("e6", &[("OTEL_TRACES_EXPORTER", "zipkin")]).0.0, 64);
}
