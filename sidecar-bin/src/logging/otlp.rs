//! Traces over OTLP/HTTP, where OpenTelemetry's own variables ask for them.
//!
//! Which they are, and what each means, is OpenTelemetry's to say:
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>.

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracerProvider, Tracer};
use sidecar_core::plane::without_credentials;
use sidecar_core::with_causes;
use tokio::runtime::Handle;
use tracing::{info, warn};

/// How long the last spans may take when the program ends.
const FLUSH: Duration = Duration::from_secs(2);
/// The protocol that is spoken, as the variables name it.
const PROTOCOL: &str = "http/protobuf";

/// Sends spans until it is ended.
pub(crate) struct Traces(SdkTracerProvider);

impl Traces {
    /// Starts sending, if the variables ask for it.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn start(runtime: &Handle) -> Result<Option<Self>, String> {
        if !is_wanted()? {
            return Ok(None);
        }
        let client = Client {
            client: reqwest::Client::new(),
            runtime: runtime.clone(),
            is_away: AtomicBool::new(false),
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .build()
            .map_err(|error| format!("the exporter of traces cannot start: {error}"))?;
        let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let mut resource = Resource::builder().with_attribute(version);
        if !is_named() {
            resource = resource.with_service_name("sidecar");
        }
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build());
        Ok(Some(Self(provider.build())))
    }

    pub(super) fn tracer(&self) -> Tracer {
        self.0.tracer("sidecar")
    }

    /// Sends what is left.
    pub(crate) fn end(&self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH) {
            warn!("the last spans were not sent: {error}");
        }
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Whether there is somewhere to send spans to, and nothing says that they are not wanted.
fn is_wanted() -> Result<bool, String> {
    if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(false);
    }
    let of_traces = |rest: &str| {
        let own = format!("OTEL_EXPORTER_OTLP_TRACES_{rest}");
        let all = format!("OTEL_EXPORTER_OTLP_{rest}");
        variable(&own).map(|value| (own, value)).or_else(|| variable(&all).map(|value| (all, value)))
    };
    let wanted = match variable("OTEL_TRACES_EXPORTER").as_deref() {
        Some("otlp") => true,
        Some("none") => false,
        None => of_traces("ENDPOINT").is_some(),
        Some(other) => return Err(format!("OTEL_TRACES_EXPORTER is otlp or none, and not {other:?}")),
    };
    match of_traces("PROTOCOL") {
        Some((name, other)) if wanted && other != PROTOCOL => {
            let why =
                "that is what this program speaks: an endpoint for it has port 4318 as a rule, and grpc 4317";
            Err(format!("{name} is {PROTOCOL}, and not {other:?}; {why}"))
        }
        _ => Ok(wanted),
    }
}

/// Whether the variables name the service.
fn is_named() -> bool {
    variable("OTEL_SERVICE_NAME").is_some()
        || variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|attributes| {
            attributes.split(',').any(|one| one.trim().starts_with("service.name="))
        })
}

/// The exporter works on a thread of its own, without a runtime.
#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    runtime: Handle,
    /// Whether the last call failed, and that was reported.
    is_away: AtomicBool,
}

impl Client {
    /// Reports when spans begin to be lost, and when they are sent again.
    fn note(&self, url: &str, problem: Option<String>) {
        let was_away = self.is_away.swap(problem.is_some(), Ordering::Relaxed);
        match problem {
            Some(why) if !was_away => warn!("spans are lost: the collector at {url} {why} (told once)"),
            None if was_away => info!("spans are sent to {url} again"),
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let url = without_credentials(&request.uri().to_string());
        let request = reqwest::Request::try_from(request)?;
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            // The URL is named apart, without credentials.
            let mut response = client.execute(request).await.map_err(reqwest::Error::without_url)?;
            let mut answer = Response::builder().status(response.status());
            if let Some(headers) = answer.headers_mut() {
                std::mem::swap(headers, response.headers_mut());
            }
            Ok::<_, HttpError>(answer.body(response.bytes().await?)?)
        });
        let answer = sent.await?;
        self.note(
            &url,
            match &answer {
                Ok(answer) if answer.status().is_success() => None,
                Ok(answer) => Some(format!("answers with {}", answer.status())),
                Err(error) => Some(format!("cannot be reached: {}", with_causes(&**error))),
            },
        );
        answer
    }
}
