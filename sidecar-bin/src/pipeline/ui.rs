//! The page of a submission while the pipeline works on it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use sidecar_core::lineage::Trace;
use sidecar_core::server::{Limits, Secret, on_loopback, serve};
use sidecar_core::{DataPlane, Error};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;

use super::counted::Counts;
use super::lines::Line;
use super::report::Logs;
use crate::exit::{self, Failure};
use crate::trace::{Pictures, page};

/// How soon a change is looked for again; where looking takes long, after a multiple of that.
const LOOK: Duration = Duration::from_millis(500);
const PATIENCE: u32 = 4;
/// How long the last change is given to reach whoever looks.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the page is made of.
struct Live {
    token: Secret,
    plane: DataPlane,
    logs: Logs,
    counts: Counts,
    lines: Vec<Line>,
    ended: watch::Receiver<bool>,
}

/// The page, served until it is stopped.
pub(super) struct Ui {
    serving: JoinHandle<()>,
    ended: watch::Sender<bool>,
    /// Where a browser finds it.
    pub(super) url: String,
}

impl Ui {
    /// Serves it to those who know a token that is made up now.
    pub(super) fn start(
        (listener, address): (TcpListener, SocketAddr),
        plane: &DataPlane,
        logs: Logs,
        counts: Counts,
        lines: Vec<Line>,
    ) -> Self {
        let token = uuid::Uuid::new_v4().simple().to_string();
        let url = format!("http://{address}/?token={token}");
        let (ended, told) = watch::channel(false);
        let live = Live {
            token: Secret::new(token),
            plane: plane.clone(),
            logs,
            counts,
            lines,
            ended: told.clone(),
        };
        let router = Router::new()
            .route("/", get(whole))
            .route("/events", get(changes))
            .with_state(Arc::new(live))
            .layer(axum::middleware::map_response(guarded));
        let router = if address.ip().is_loopback() { on_loopback(router) } else { router };
        let mut limits = Limits::default();
        // A stream of changes is one answer, which may be quiet for long.
        limits.idle_timeout = Duration::from_secs(24 * 3600);
        let stop = {
            let mut told = told;
            async move { drop(told.wait_for(|ended| *ended).await) }
        };
        // Each of them costs a look at everything now and then.
        limits.connections = 32;
        let serving = tokio::spawn(serve(listener, router, limits, stop));
        Self { serving, ended, url }
    }

    /// Lets whoever looks have the last change.
    pub(super) async fn stop(self) {
        self.ended.send_replace(true);
        // Whoever is cut off now sees the page as it was.
        let _ = tokio::time::timeout(FAREWELL, self.serving).await;
    }
}

/// No other page may show, read or keep it.
async fn guarded(mut response: Response) -> Response {
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn whole(State(live): State<Arc<Live>>, request: Request) -> Response {
    let mut looking = match Looking::begin(live, &request) {
        Ok(looking) => looking,
        Err(refused) => return *refused,
    };
    match looking.look().await {
        Ok(data) => Html(page(&data)).into_response(),
        Err(error) => (StatusCode::BAD_GATEWAY, error.chain()).into_response(),
    }
}

async fn changes(State(live): State<Arc<Live>>, request: Request) -> Response {
    let looking = match Looking::begin(live, &request) {
        Ok(looking) => looking,
        Err(refused) => return *refused,
    };
    let changes = stream::unfold(Some(looking), |looking| async {
        let mut looking = looking?;
        let (data, is_last) = looking.change().await;
        let event = Event::default().event(if is_last { "end" } else { "message" }).data(data.to_string());
        Some((Result::<_, Infallible>::Ok(event), (!is_last).then_some(looking)))
    });
    Sse::new(changes).keep_alive(KeepAlive::default()).into_response()
}

/// One look after another at what one client wants to see.
struct Looking {
    live: Arc<Live>,
    /// The submission that was asked for, or else the latest.
    graph: Option<String>,
    /// Of the submission that is shown.
    pictures: (String, Pictures),
    last: Value,
    next: Instant,
}

impl Looking {
    fn begin(live: Arc<Live>, request: &Request) -> Result<Self, Box<Response>> {
        let query = request.uri().query().unwrap_or_default();
        let get = |wanted: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let found = pairs.into_iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| percent_decode_str(value).decode_utf8_lossy().into_owned())
        };
        let is_foreign = |headers: &HeaderMap| {
            headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none")
        };
        if !get("token").is_some_and(|token| live.token.matches(token.as_bytes())) {
            let hint = "open the address that sidecar pipeline has printed: it has a token";
            return Err(Box::new((StatusCode::UNAUTHORIZED, hint).into_response()));
        }
        // Even one that has got hold of the token.
        if request.uri().path() != "/" && is_foreign(request.headers()) {
            let why = "another page may not read this one";
            return Err(Box::new((StatusCode::FORBIDDEN, why).into_response()));
        }
        let graph = get("graph").filter(|graph| !graph.is_empty());
        let (pictures, next) = (Default::default(), Instant::now());
        Ok(Self { live, graph, pictures, last: Value::Null, next })
    }

    async fn look(&mut self) -> Result<Value, Error> {
        let began = Instant::now();
        let graphs = self.live.counts.graphs();
        let graph = self.graph.clone().or_else(|| graphs.last().cloned()).unwrap_or_default();
        let trace = Trace::of_graph(&self.live.plane, &graph).await?;
        if self.pictures.0 != graph {
            self.pictures = (graph.clone(), Pictures::default());
        }
        self.pictures.1.add(&self.live.plane, &trace).await;
        let logs = self.live.logs.of(&trace).await;
        let data = json!({
            "trace": trace, "pictures": self.pictures.1.urls, "logs": logs,
            "live": { "graphs": graphs, "graph": graph, "modules": self.modules() },
        });
        self.next = Instant::now() + LOOK.max(began.elapsed() * PATIENCE);
        Ok(data)
    }

    /// How much each module has to do.
    fn modules(&self) -> BTreeMap<&str, String> {
        let Live { counts, lines, .. } = &*self.live;
        lines.iter().map(|line| (line.name.trim_end(), line.text(counts))).collect()
    }

    /// Waits for something else to show than before; the last of it once the pipeline has ended. Where only the counts
    /// are others, it is they alone.
    async fn change(&mut self) -> (Value, bool) {
        let mut ended = self.live.ended.clone();
        loop {
            let wait = tokio::time::sleep_until(self.next.into());
            let is_last = tokio::select! {
                // Whoever could tell is gone.
                _ = ended.wait_for(|ended| *ended) => true,
                () = wait => false,
            };
            match self.look().await {
                Ok(data) => {
                    let counts = data["live"]["modules"].clone();
                    let counted = std::mem::replace(&mut self.last["live"]["modules"], counts.clone());
                    if is_last || data != self.last {
                        self.last.clone_from(&data);
                        return (data, is_last);
                    }
                    if counted != counts {
                        return (json!({ "modules": counts }), false);
                    }
                }
                // It is looked for again; the page stays as it is meanwhile.
                Err(_) if !is_last => self.next = Instant::now() + LOOK,
                Err(_) => return (Value::Null, true),
            }
        }
    }
}

/// Takes the address, before anything is submitted.
///
/// # Errors
/// When it cannot be bound.
pub(super) async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        std::io::Result::Ok((listener, address))
    };
    let (listener, address) =
        bound.await.map_err(|error| Failure::local(&Error::io("listen on", address.to_string())(error)))?;
    if !address.ip().is_loopback() {
        warn!("--ui {address}: whoever has the address with its token can read every value and picture");
    }
    Ok((listener, address))
}

/// Where the page is to be served: a port, or an address with a port.
///
/// # Errors
/// For anything else.
pub(super) fn address(text: &str) -> Result<SocketAddr, Failure> {
    let port = text.strip_prefix(':').unwrap_or(text).parse::<u16>().ok();
    let text = text.replace("localhost:", "127.0.0.1:");
    let address = port.map(|port| SocketAddr::from(([127, 0, 0, 1], port))).or_else(|| text.parse().ok());
    address.ok_or_else(|| {
        let why = format!("--ui {text:?} is neither a port nor an address as 127.0.0.1:8090");
        Failure::new(exit::CONFIGURATION, why)
    })
}
