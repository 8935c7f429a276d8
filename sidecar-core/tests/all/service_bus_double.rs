//! A stand-in for Azure Service Bus, for which there is no emulator that runs as a plain process.
//!
//! It speaks what the vendor documents of the REST interface: it verifies the shared access signature, takes
//! batches, and answers with the documented statuses. Green here does not prove the service itself.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The authorization rule that it knows.
pub const RULE: &str = "send";
/// The key of the rule.
pub const KEY: &str = "c2VjcmV0LW9mLXRoZS1ydWxl+/==";
/// The topic that it has.
pub const TOPIC: &str = "events";
/// The bytes of one request that it takes, as the standard tier does.
const LARGEST: usize = 256 * 1024;

/// A running double.
#[derive(Clone)]
pub struct Double {
    /// Where it listens.
    pub endpoint: String,
    state: Arc<Mutex<Received>>,
}

#[derive(Default)]
struct Received {
    messages: Vec<serde_json::Value>,
    requests: usize,
    /// Statuses that the next requests are answered with, after which it works again.
    failures: Vec<(u16, Option<&'static str>)>,
}

#[allow(dead_code, reason = "each crate's tests use a part of this file")]
impl Double {
    /// Starts it on a free port, with a thread of its own.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let double = Self { endpoint, state: Arc::default() };
        let app = Router::new().fallback(answer).with_state(double.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, app).await.unwrap();
            });
        });
        double
    }

    /// Every message so far, as it was sent.
    pub fn messages(&self) -> Vec<serde_json::Value> {
        self.state.lock().unwrap().messages.clone()
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.state.lock().unwrap().requests
    }

    /// Answers the next requests with these statuses, and these `Retry-After`s.
    pub fn fail(&self, failures: &[(u16, Option<&'static str>)]) {
        self.state.lock().unwrap().failures = failures.to_vec();
    }
}

async fn answer(
    State(double): State<Double>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, HeaderMap, String) {
    let mut state = double.state.lock().unwrap();
    state.requests += 1;
    let mut retry_after = HeaderMap::new();
    if !state.failures.is_empty() {
        let (status, seconds) = state.failures.remove(0);
        if let Some(seconds) = seconds {
            retry_after.insert("retry-after", seconds.parse().unwrap());
        }
        return (StatusCode::from_u16(status).unwrap(), retry_after, "injected".into());
    }
    let (status, text) = match verified(&uri, &headers) {
        Err(problem) => (StatusCode::UNAUTHORIZED, problem),
        Ok(()) => match (method, uri.path()) {
            (Method::GET, path) if path == format!("/{TOPIC}") => {
                (StatusCode::UNAUTHORIZED, "Manage claim is required for this operation".into())
            }
            (Method::POST, path) if path == format!("/{TOPIC}/messages") => take(&mut state, &headers, &body),
            _ => (StatusCode::GONE, "the entity does not exist".into()),
        },
    };
    (status, retry_after, text)
}

fn take(state: &mut Received, headers: &HeaderMap, body: &Bytes) -> (StatusCode, String) {
    if headers.get("content-type").is_none_or(|kind| kind != "application/vnd.microsoft.servicebus.json") {
        return (StatusCode::BAD_REQUEST, "not a batch".into());
    }
    if body.len() > LARGEST {
        return (StatusCode::FORBIDDEN, "the message is too large".into());
    }
    match serde_json::from_slice::<Vec<serde_json::Value>>(body) {
        Ok(messages) if messages.iter().all(|m| m["Body"].is_string()) => {
            state.messages.extend(messages);
            (StatusCode::CREATED, String::new())
        }
        _ => (StatusCode::BAD_REQUEST, "no JSON batch".into()),
    }
}

/// The token's signature holds, it has not expired, and its resource contains the request's.
fn verified(uri: &Uri, headers: &HeaderMap) -> Result<(), String> {
    let token = headers.get("authorization").ok_or("MissingToken")?.to_str().map_err(|_| "MalformedToken")?;
    let fields = token.strip_prefix("SharedAccessSignature ").ok_or("MalformedToken")?;
    let raw: HashMap<&str, &str> = fields.split('&').filter_map(|field| field.split_once('=')).collect();
    let field = |name: &str| raw.get(name).copied().ok_or("MalformedToken");
    let decode = |text: &str| -> String {
        let pair = format!("x={text}");
        url::form_urlencoded::parse(pair.as_bytes()).next().unwrap().1.into_owned()
    };
    if decode(field("skn")?) != RULE {
        return Err("InvalidSignature: the key is not known".into());
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes());
    let signed = format!("{}\n{}", field("sr")?, field("se")?);
    let signature = STANDARD.decode(decode(field("sig")?)).map_err(|_| "MalformedToken")?;
    hmac::verify(&key, signed.as_bytes(), &signature).map_err(|_| "InvalidSignature")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    if field("se")?.parse::<u64>().map_err(|_| "MalformedToken")? <= now {
        return Err("ExpiredToken".into());
    }
    // As the client called it; whether TLS ended before is not known here.
    let host = headers.get("host").and_then(|host| host.to_str().ok()).ok_or("InvalidAudience")?;
    let audience = decode(field("sr")?);
    let named = ["http", "https"].map(|scheme| format!("{scheme}://{host}{}", uri.path()));
    if !named.iter().any(|named| named.starts_with(&audience)) {
        return Err("InvalidAudience".into());
    }
    Ok(())
}
