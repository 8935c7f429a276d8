//! A stand-in for Azure Service Bus, for which there is no emulator that runs as a plain process.
//!
//! It speaks what the vendor documents of the REST interface: it verifies the shared access signature, takes
//! batches, has subscriptions with locks that end, and answers with the documented statuses. Green here does not prove
//! the service itself.

use std::collections::{HashMap, VecDeque};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
    subscriptions: HashMap<String, Entity>,
    /// Whether the rule may make subscriptions.
    may_not_manage: bool,
    requests: usize,
    /// Statuses that the next requests are answered with, after which it works again.
    failures: Vec<(u16, Option<&'static str>)>,
}

/// A subscription: what waits in it, and what is held.
struct Entity {
    lock: Duration,
    description: String,
    waiting: VecDeque<Message>,
    held: HashMap<String, (Message, Instant)>,
    put_away: usize,
}

#[derive(Clone)]
struct Message {
    sent: serde_json::Value,
    number: u64,
    came: SystemTime,
    deliveries: u32,
}

/// The deliveries of one message that a subscription allows by default.
const MAX_DELIVERY_COUNT: u32 = 10;

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

    /// From now on its rule may send and listen, and no more.
    pub fn forbid_managing(&self) {
        self.state.lock().unwrap().may_not_manage = true;
    }

    /// Makes a subscription with these settings, as a person would.
    pub fn make(&self, subscription: &str, settings: &str) {
        self.state.lock().unwrap().subscriptions.insert(subscription.into(), Entity::new(settings));
    }

    /// How many messages of a subscription were put away because they were delivered too often.
    pub fn put_away(&self, subscription: &str) -> usize {
        self.state.lock().unwrap().subscriptions[subscription].put_away
    }

    /// Answers the next requests with these statuses, and these `Retry-After`s.
    pub fn fail(&self, failures: &[(u16, Option<&'static str>)]) {
        self.state.lock().unwrap().failures = failures.to_vec();
    }
}

/// How often a request that waits looks again.
const LOOK: Duration = Duration::from_millis(20);

type Answer = (StatusCode, HeaderMap, String);

async fn answer(
    State(double): State<Double>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    {
        let mut state = double.state.lock().unwrap();
        state.requests += 1;
        if !state.failures.is_empty() {
            let (status, seconds) = state.failures.remove(0);
            let mut retry_after = HeaderMap::new();
            if let Some(seconds) = seconds {
                retry_after.insert("retry-after", seconds.parse().unwrap());
            }
            return (StatusCode::from_u16(status).unwrap(), retry_after, "injected".into());
        }
    }
    if let Err(problem) = verified(&uri, &headers) {
        return plain(StatusCode::UNAUTHORIZED, &problem);
    }
    let path: Vec<&str> = uri.path().trim_start_matches('/').split('/').collect();
    let state = || double.state.lock().unwrap();
    match (&method, &*path) {
        (_, [topic, ..]) if *topic != TOPIC => plain(StatusCode::GONE, "the entity does not exist"),
        (&Method::GET, [_]) => plain(StatusCode::UNAUTHORIZED, MANAGE),
        (&Method::POST, [_, "messages"]) => {
            let (status, text) = take(&mut state(), &headers, &body);
            plain(status, &text)
        }
        (&Method::PUT | &Method::GET, [_, "subscriptions", _]) if state().may_not_manage => {
            plain(StatusCode::UNAUTHORIZED, MANAGE)
        }
        (&Method::PUT, [_, "subscriptions", name]) => {
            let mut state = state();
            if state.subscriptions.contains_key(*name) {
                return plain(StatusCode::CONFLICT, "the subscription exists already");
            }
            state.subscriptions.insert((*name).into(), Entity::new(std::str::from_utf8(&body).unwrap()));
            plain(StatusCode::CREATED, "")
        }
        (&Method::GET, [_, "subscriptions", name]) => match state().subscriptions.get(*name) {
            Some(entity) => plain(StatusCode::OK, &entity.description),
            None => plain(StatusCode::NOT_FOUND, "no such subscription"),
        },
        (&Method::POST, [_, "subscriptions", name, "messages", "head"]) => {
            let query = uri.query().unwrap_or_default();
            let seconds = query.strip_prefix("timeout=").map_or(60, |seconds| seconds.parse().unwrap());
            let until = Instant::now() + Duration::from_secs(seconds);
            loop {
                match state().subscriptions.get_mut(*name) {
                    None => return plain(StatusCode::GONE, "the entity does not exist"),
                    Some(entity) => {
                        if let Some(answer) = entity.head(&double.endpoint, name) {
                            return answer;
                        }
                    }
                }
                if Instant::now() >= until {
                    return plain(StatusCode::NO_CONTENT, "");
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        (_, [_, "subscriptions", name, "messages", _, token]) => match state().subscriptions.get_mut(*name) {
            None => plain(StatusCode::GONE, "the entity does not exist"),
            Some(entity) => plain(entity.settle(&method, token), ""),
        },
        _ => plain(StatusCode::GONE, "the entity does not exist"),
    }
}

const MANAGE: &str = "Manage claim is required for this operation";

fn plain(status: StatusCode, text: &str) -> Answer {
    (status, HeaderMap::new(), text.to_owned())
}

impl Entity {
    fn new(description: &str) -> Self {
        let lock = setting(description, "LockDuration")
            .map_or(60, |lock| lock.trim_start_matches("PT").trim_end_matches('S').parse().unwrap());
        Self {
            lock: Duration::from_secs(lock),
            description: description.to_owned(),
            waiting: VecDeque::new(),
            held: HashMap::new(),
            put_away: 0,
        }
    }

    /// Messages whose lock has ended wait again; those that were delivered too often are put away.
    fn look(&mut self) {
        let now = Instant::now();
        let ended: Vec<String> = self
            .held
            .iter()
            .filter(|(_, (_, until))| *until <= now)
            .map(|(token, _)| token.clone())
            .collect();
        for token in ended {
            let (message, _) = self.held.remove(&token).unwrap();
            self.back(message);
        }
    }

    fn back(&mut self, message: Message) {
        let most = setting(&self.description, "MaxDeliveryCount");
        let most = most.map_or(MAX_DELIVERY_COUNT, |most| most.parse().unwrap());
        match message.deliveries >= most {
            true => self.put_away += 1,
            false => self.waiting.push_front(message),
        }
    }

    /// The first message, locked.
    fn head(&mut self, endpoint: &str, name: &str) -> Option<Answer> {
        self.look();
        let mut message = self.waiting.pop_front()?;
        message.deliveries += 1;
        let token = uuid::Uuid::new_v4().to_string();
        let sent = &message.sent["BrokerProperties"];
        let properties = serde_json::json!({
            "DeliveryCount": message.deliveries,
            "EnqueuedTimeUtc": httpdate::fmt_http_date(message.came),
            "Label": sent["Label"],
            "LockToken": token,
            "LockedUntilUtc": httpdate::fmt_http_date(SystemTime::now() + self.lock),
            "MessageId": sent["MessageId"],
            "SequenceNumber": message.number,
            "State": "Active",
            "TimeToLive": 922_337_203_685.477_5,
        });
        let mut headers = HeaderMap::new();
        // A header is ASCII.
        let ascii: String = properties
            .to_string()
            .chars()
            .flat_map(|c| match c.is_ascii() {
                true => vec![c],
                false => c
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .flat_map(|unit| format!("\\u{unit:04x}").chars().collect::<Vec<_>>())
                    .collect(),
            })
            .collect();
        headers.insert("brokerproperties", ascii.parse().unwrap());
        let location = format!("{endpoint}/{TOPIC}/subscriptions/{name}/messages/{}/{token}", message.number);
        headers.insert("location", location.parse().unwrap());
        let body = message.sent["Body"].as_str().unwrap().to_owned();
        self.held.insert(token, (message, Instant::now() + self.lock));
        Some((StatusCode::CREATED, headers, body))
    }

    /// Renews (`POST`), unlocks (`PUT`) or completes (`DELETE`) what is held.
    fn settle(&mut self, method: &Method, token: &str) -> StatusCode {
        self.look();
        let Some((message, _)) = self.held.remove(token) else { return StatusCode::NOT_FOUND };
        match *method {
            Method::POST => {
                self.held.insert(token.to_owned(), (message, Instant::now() + self.lock));
            }
            Method::PUT => self.back(message),
            Method::DELETE => {}
            _ => return StatusCode::METHOD_NOT_ALLOWED,
        }
        StatusCode::OK
    }
}

/// The text of an element of a description.
fn setting<'d>(description: &'d str, name: &str) -> Option<&'d str> {
    let (_, rest) = description.split_once(&format!("<{name}>"))?;
    rest.split_once('<').map(|(text, _)| text)
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
            for (number, sent) in (state.messages.len() as u64..).zip(&messages) {
                let message = Message { sent: sent.clone(), number, came: SystemTime::now(), deliveries: 0 };
                for entity in state.subscriptions.values_mut() {
                    entity.waiting.push_back(message.clone());
                }
            }
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
