//! The HTTP API, as a router that an embedder can serve wherever it likes.

use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, get, on, post};
use axum::{Extension, Json, Router};
use tracing::warn;

use serde_json::Value;

use crate::contract::{EventId, LONGEST_REASON, ReadyAnswer, Receipt, Status};
use crate::execution::Session;

mod ask;
mod error;
mod listen;
mod metrics;
mod secret;
mod serve;
mod sessions;

pub use ask::{Address, ask};
use error::HttpError;
pub use listen::{Listen, Listening};
use metrics::Metrics;
pub use secret::{Secret, kept_secret};
pub use serve::{Limits, serve};
#[cfg(feature = "worker")]
pub(crate) use sessions::Exposed;
pub use sessions::Sessions;
#[cfg(all(feature = "worker", feature = "process"))]
pub(crate) use sessions::{Answered, Feed};

/// The API's description, as served at `/openapi.json`.
const OPENAPI: &str = include_str!("openapi.json");

/// The most of a request body that is read, in bytes; only `/fail` takes one, a reason.
const MAX_BODY: usize = LONGEST_REASON;

/// The most that is read of a body which is too large, in bytes, so that its sender gets to read the answer.
const READ_AT_MOST: usize = 1024 * 1024;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The most of the header `module-start` that is looked at, in bytes.
const MODULE_START: usize = 128;

/// How long a client is asked to wait where a provider does not say.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Api {
    sessions: Sessions,
    /// Told of a call with a wrong secret.
    /// Whether it was reported that a secret is missing, and that one is wrong.
    refused: [Once; 2],
    metrics: Metrics,
}

/// The routes of the API for sessions, each reached by the secret of its own.
///
/// `/ready`, `/done`, `/fail` and `/status` take the header `secret`; `/healthz`, `/metrics` and
/// `/openapi.json` do not. The three calls answer GET and POST alike, since the original contract uses GET.
pub fn router(sessions: Sessions) -> Router {
    let api = Arc::new(Api { metrics: Metrics::new(), sessions, refused: [Once::new(), Once::new()] });
    let call = MethodFilter::GET.or(MethodFilter::POST);
    Router::new()
        .route("/ready", on(call, ready).head(head_not_allowed))
        .route("/done", on(call, done).head(head_not_allowed))
        .route("/fail", on(call, fail).head(head_not_allowed))
        .route("/status", get(status))
        .route("/next", post(next_event))
        .route_layer(middleware::from_fn_with_state(api.clone(), authenticate))
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(metrics_text))
        .route("/openapi.json", get(async || ([(header::CONTENT_TYPE, "application/json")], OPENAPI)))
        .fallback(async || HttpError::new(StatusCode::NOT_FOUND, "no such path: see /openapi.json"))
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn_with_state(api.clone(), observe))
        .with_state(api)
}

/// The routes for a loopback address: a browser that was led there under another name is refused, since its page may
/// know a secret that everybody knows.
pub fn on_loopback(router: Router) -> Router {
    router.layer(middleware::from_fn(async |request: Request, next: Next| match is_loopback(&request) {
        true => next.run(request).await,
        false => {
            let why = "this address answers loopback names only: the header Host names another";
            HttpError::new(StatusCode::FORBIDDEN, why).into_response()
        }
    }))
}

/// Whether the host that the client means is this machine; one that names none is no browser.
fn is_loopback(request: &Request) -> bool {
    let header = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    let Some(host) = request.uri().host().or(header) else { return true };
    // The port does not matter.
    let host = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((v6, _)) => v6,
        None => host.rsplit_once(':').filter(|(name, _)| !name.contains(':')).map_or(host, |(name, _)| name),
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// HEAD would otherwise do what GET does.
async fn head_not_allowed() -> impl IntoResponse {
    ([(header::ALLOW, "GET,POST")], not_allowed().await)
}

async fn not_allowed() -> HttpError {
    HttpError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "no such method here: the header `allow` names those that there are",
    )
}

async fn ready(
    Extension(session): Extension<Session>,
    request: Request,
) -> Result<Json<ReadyAnswer>, HttpError> {
    let prepared = session.ready_for(module_start(request.headers()).as_deref()).await?;
    Ok(Json(ReadyAnswer {
        prepared,
        context: Some(session.status().context),
        traceparent: session.traceparent(),
    }))
}

/// Which process of the module calls. Whatever it says, it is only ever compared.
fn module_start(headers: &header::HeaderMap) -> Option<String> {
    let value = headers.get("module-start")?;
    Some(String::from_utf8_lossy(&value.as_bytes()[..value.len().min(MODULE_START)]).into_owned())
}

async fn done(
    Extension(session): Extension<Session>,
    headers: header::HeaderMap,
) -> Result<Json<Receipt>, HttpError> {
    Ok(Json(session.done_for(module_start(&headers).as_deref()).await?))
}

async fn fail(Extension(session): Extension<Session>, request: Request) -> Result<Json<Status>, HttpError> {
    let start = module_start(request.headers());
    let reason = reason(request).await?;
    session.fail_for(start.as_deref(), reason).await?;
    Ok(Json(session.status()))
}

/// Commits the event that is named, and answers with the next one; 204 when there will be none.
async fn next_event(
    feed: Option<Extension<Arc<dyn sessions::Feed>>>,
    request: Request,
) -> Result<Response, HttpError> {
    let Some(Extension(feed)) = feed else {
        return Err(HttpError::new(StatusCode::CONFLICT, "this module is not one of sidecar worker --warm"));
    };
    let start = module_start(request.headers());
    let body = axum::body::to_bytes(request.into_body(), MAX_BODY).await;
    let body = body.map_err(|_| HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, "an event id is shorter"))?;
    let finished = finished(&body).map_err(|problem| HttpError::new(StatusCode::BAD_REQUEST, problem))?;
    Ok(match feed.next(finished, start.as_deref()).await? {
        Some(next) => Json(next).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// The event that a body names: `null` or nothing for none, a JSON string, an object with `eventId`, or the bare id.
fn finished(body: &[u8]) -> Result<Option<EventId>, String> {
    let wrong = |why: &str| {
        format!("the body is no event id: {why}; it is null, \"ID\", {{\"eventId\": \"ID\"}}, or the bare id")
    };
    let body = std::str::from_utf8(body).map_err(|_| wrong("it is not UTF-8"))?.trim();
    let id = match serde_json::from_str::<Value>(body) {
        Ok(Value::Null) => None,
        Ok(Value::String(id)) => Some(id),
        Ok(Value::Object(object)) => match object.get("eventId") {
            Some(Value::Null) => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(wrong("eventId is no text")),
            None => return Err(wrong("it has no eventId")),
        },
        Ok(Value::Array(_)) => return Err(wrong("it is a list")),
        Err(error) if body.starts_with(['{', '[', '"']) => return Err(wrong(&error.to_string())),
        // A number may be one too.
        Ok(_) | Err(_) => Some(body.to_owned()).filter(|body| !body.is_empty()),
    };
    id.map(|id| EventId::parse(&id)).transpose().map_err(|error| wrong(&error.to_string()))
}

async fn status(Extension(session): Extension<Session>) -> Json<Status> {
    Json(session.status())
}

async fn metrics_text(State(api): State<Arc<Api>>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
        api.metrics.encode(&api.sessions.sum(), &api.sessions.exposed()),
    )
}

/// The body as text, whatever its content type.
async fn reason(request: Request) -> Result<String, HttpError> {
    let body: Bytes = axum::body::to_bytes(request.into_body(), MAX_BODY)
        .await
        .map_err(|_| HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, "a reason has at most 64 KiB"))?;
    let reason = String::from_utf8_lossy(&body);
    Ok(match reason.trim() {
        "" => "no reason given".to_owned(),
        reason => reason.to_owned(),
    })
}

/// Finds the session of the secret; the handlers get it as an extension.
async fn authenticate(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let given = request.headers().get("secret").map(HeaderValue::as_bytes);
    let problem = match given.map(|given| (api.sessions.find(given), api.sessions.find_feed(given))) {
        Some((session, feed)) if session.is_some() || feed.is_some() => {
            feed.iter().for_each(|feed| feed.heard());
            let answered = feed.as_ref().filter(|_| session.is_none()).and_then(|feed| feed.answered());
            match (request.uri().path(), answered) {
                // A repeat after an answer that was lost.
                ("/done", Some(sessions::Answered::Done(receipt))) => return Json(receipt).into_response(),
                ("/fail", Some(sessions::Answered::Failed(status))) => return Json(status).into_response(),
                _ => {}
            }
            if session.is_none() && request.uri().path() != "/next" {
                return HttpError::new(StatusCode::CONFLICT, "this module has no event: call POST /next")
                    .into_response();
            }
            if let Some(session) = session {
                session.heartbeat();
                request.extensions_mut().insert(session);
            }
            if let Some(feed) = feed {
                request.extensions_mut().insert(feed);
            }
            return next.run(request).await;
        }
        Some(_) => "the header \"secret\" is wrong",
        None => "the header \"secret\" is missing",
    };
    let [missing, wrong] = &api.refused;
    let refused = if given.is_none() { missing } else { wrong };
    // Most likely it is the module, whose author looks here; whoever guesses must not fill the log.
    refused.call_once(|| warn!("{} was refused: {problem} (told once)", request.uri().path()));
    HttpError::new(StatusCode::UNAUTHORIZED, problem).into_response()
}

async fn observe(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let path = metrics::path(request.uri().path());
    let started = Instant::now();
    // Whole before anything is answered: whoever still writes would not read the answer.
    let (parts, body) = request.into_parts();
    let response = match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, READ_AT_MOST)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(parts, body.into())).await,
        Ok(Err(_)) => HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large").into_response(),
        Err(_) => HttpError::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive").into_response(),
    };
    api.metrics.request(path, response.status().as_u16(), started.elapsed());
    tracing::debug!(path, status = response.status().as_u16(), elapsed = ?started.elapsed(), "request");
    response
}
