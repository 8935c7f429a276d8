//! Events on NATS JetStream.

mod source;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::stream::{DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode, message::PublishMessage, stream};
use async_nats::{ConnectOptions, HeaderMap};
use async_trait::async_trait;
use futures_util::future::Either;
use futures_util::stream::{StreamExt, TryStreamExt};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use tokio::sync::{OnceCell, watch};
use tracing::warn;
use url::{Position, Url};

use super::{EventFormat, EventProvider, EventSource, Subscription};
use crate::contract::{Event, TraceParent};
use crate::error::{Error, Result};
use crate::setters::setters;
use crate::tls;

/// Publishes whose acknowledgement is waited for at once.
const WINDOW: usize = 256;
/// How long the stream remembers ids, so that it drops repeats.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(600);

/// The largest message, in bytes: what a server takes unless it is told otherwise, less room for the headers.
const LARGEST: usize = 1024 * 1024 - 1024;

/// Where events go on the server.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsConfig {
    /// The subject they are published on.
    pub subject: String,
    /// Whether each event is published on `subject.TYPE` instead, so that the server can filter by type.
    #[serde(default)]
    pub subject_per_type: bool,
    /// The stream that keeps them, made by [`check`](EventProvider::check) when it is absent.
    pub stream: String,
    /// A file with the credentials of a user, as `nsc` writes it.
    #[serde(default)]
    pub credentials: Option<PathBuf>,
    /// What the messages look like.
    #[serde(default)]
    pub format: EventFormat,
    /// Certificates to trust besides the system's, as PEM.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

setters!(
    NatsConfig {
        subject_per_type: bool,
        format: EventFormat
    } optional {
        credentials: PathBuf,
        ca_file: PathBuf
    }
);

impl NatsConfig {
    /// Events on `subject`, kept in `stream`.
    pub fn new(subject: impl Into<String>, stream: impl Into<String>) -> Self {
        let (subject, stream) = (subject.into(), stream.into());
        Self {
            subject,
            subject_per_type: false,
            stream,
            credentials: None,
            format: EventFormat::default(),
            ca_file: None,
        }
    }
}

/// Events as messages of one subject, with the event's id as `Nats-Msg-Id`; clones share the connection.
#[derive(Clone)]
pub struct Nats {
    url: Url,
    config: NatsConfig,
    context: Arc<OnceCell<jetstream::Context>>,
    /// What the server said last that this user may not do; the call itself gets no answer.
    denied: watch::Sender<Option<String>>,
    /// Why there is no connection; the driver tells only this way.
    lost: watch::Sender<Option<String>>,
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats").field("config", &self.config).finish_non_exhaustive()
    }
}

impl fmt::Display for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host) = (self.url.scheme(), &self.url[Position::BeforeHost..Position::AfterPort]);
        write!(f, "{scheme}://{host}/{}?stream={}", self.config.subject, self.config.stream)
    }
}

/// The wait before the first attempt to connect again, which doubles with each.
const RECONNECT: Duration = Duration::from_millis(5);
/// The longest wait between two of them.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// Longer than any process lives.
const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

#[async_trait]
impl EventProvider for Nats {
    fn refuses(&self, event: &Event) -> Option<String> {
        let size = self.config.format.encode(event).map_or(usize::MAX, |message| message.len());
        (size > LARGEST).then(|| format!("takes no message of more than {LARGEST} bytes"))
    }

    async fn publish(&self, events: &[Event]) -> Result<()> {
        let context = self.context().await?;
        let message = |event: &Event| {
            let message = self.message(event, event.context.event_id.as_str())?;
            Ok((self.subject(event), message))
        };
        let messages = events.iter().map(message).collect::<Result<Vec<_>>>()?;
        futures_util::stream::iter(messages)
            .map(async |message| {
                let (subject, message) = message;
                let sent = context.send_publish(subject, message).await;
                let answer = sent.map_err(|error| self.error(error))?.into_future();
                self.allowed("publish an event", answer).await?.map_err(|error| self.error(error))
            })
            .buffered(WINDOW)
            .try_for_each(|_| std::future::ready(Ok(())))
            .await
    }

    async fn republish(&self, event: &Event, message_id: &str) -> Result<()> {
        let message = self.message(event, message_id)?;
        let sent = self.context().await?.send_publish(self.subject(event), message).await;
        sent.map_err(|error| self.error(error))?.await.map_err(|error| self.error(error)).map(drop)
    }

    async fn subscribe(&self, subscription: &Subscription) -> Result<Arc<dyn EventSource>> {
        self.source(subscription).await
    }

    fn id(&self) -> String {
        let (host, port) = (self.url.host_str().unwrap_or_default().to_lowercase(), self.url.port());
        let NatsConfig { subject, stream, .. } = &self.config;
        format!("nats://{host}:{}/{subject}?stream={stream}", port.unwrap_or(4222))
    }

    async fn check(&self) -> Result<()> {
        let config = stream::Config {
            name: self.config.stream.clone(),
            subjects: self.subjects(),
            duplicate_window: DUPLICATE_WINDOW,
            ..stream::Config::default()
        };
        let context = self.context().await?;
        let action = "find or make the stream";
        let mut stream = match self.allowed(action, context.get_or_create_stream(config)).await? {
            Ok(stream) => stream,
            Err(error) => return Err(self.no_stream(context, error).await),
        };
        let info = stream.info().await.map_err(|error| self.failed("look at the stream", error))?;
        for loss in losses(&info.config) {
            warn!("{self}: the stream {} drops {loss}", info.config.name);
        }
        // What a stream does not listen to is never acknowledged.
        let heard = |subject: &str| info.config.subjects.iter().any(|wanted| listens(wanted, subject));
        let published = self.subjects();
        let unheard = published.iter().find(|subject| !heard(&subject.replace('>', "x")));
        let Some(unheard) = unheard else { return Ok(()) };
        let subjects = info.config.subjects.join(", ");
        Err(Error::refused(self, "publish", format!("the stream listens to {subjects}, not to {unheard}")))
    }
}

/// What a stream drops of the events that it has accepted, whoever has not received them yet.
fn losses(config: &stream::Config) -> Vec<String> {
    let mut losses = Vec::new();
    if !config.max_age.is_zero() {
        let age = humantime::format_duration(config.max_age);
        losses.push(format!(
            "events that are older than {age} (max_age), which is right where no group is away, or begins, later"
        ));
    }
    if config.discard == DiscardPolicy::Old {
        let limits = [
            ("max_bytes", config.max_bytes),
            ("max_msgs", config.max_messages),
            ("max_msgs_per_subject", config.max_messages_per_subject),
        ];
        let set = limits.into_iter().filter(|(_, limit)| *limit > 0);
        losses.extend(
            set.map(|(name, limit)| format!("the oldest events beyond {limit} ({name}, discard old)")),
        );
    }
    if config.retention == RetentionPolicy::Interest {
        losses.push("events that come before the first worker of a group (retention interest)".into());
    }
    if config.storage == StorageType::Memory && config.num_replicas <= 1 {
        losses.push("all events when its server restarts (storage memory, one replica)".into());
    }
    losses
}

impl Nats {
    /// The subjects that events are published on, as patterns.
    fn subjects(&self) -> Vec<String> {
        let NatsConfig { subject, subject_per_type, .. } = &self.config;
        let mut subjects = vec![subject.clone()];
        subjects.extend(subject_per_type.then(|| format!("{subject}.>")));
        subjects
    }

    fn subject(&self, event: &Event) -> String {
        let NatsConfig { subject, subject_per_type, .. } = &self.config;
        match subject_per_type {
            true => format!("{subject}.{}", token(&event.event_type)),
            false => subject.clone(),
        }
    }

    /// Waits for an answer, unless the server says that the user may not do this: then there is none.
    async fn allowed<T>(&self, action: &str, call: impl Future<Output = T>) -> Result<T> {
        let mut denied = self.denied.subscribe();
        denied.mark_unchanged();
        let said = async {
            // The sender lives as long as this provider.
            let found = denied.wait_for(Option::is_some).await;
            found.map_or_else(|_| String::new(), |said| said.clone().unwrap_or_default())
        };
        let mut call = std::pin::pin!(call);
        let said = std::pin::pin!(said);
        match futures_util::future::select(&mut call, said).await {
            Either::Left((answer, _)) => Ok(answer),
            Either::Right((said, _)) => {
                self.denied.send_replace(None);
                Err(Error::refused(self, action, said))
            }
        }
    }

    /// Why there is no stream.
    async fn no_stream(
        &self,
        context: &jetstream::Context,
        error: jetstream::context::CreateStreamError,
    ) -> Error {
        use CreateStreamErrorKind as Kind;
        let action = "find or make the stream";
        match error.kind() {
            Kind::JetStream(said) if said.error_code() == ErrorCode::STREAM_SUBJECT_OVERLAP => {
                let subject = &self.config.subject;
                let why = match context.stream_by_subject(subject.as_str()).await {
                    Ok(stream) => {
                        format!("subject {subject} belongs to stream {stream}: add ?stream={stream}")
                    }
                    Err(_) => {
                        format!("subject {subject} belongs to another stream: name it with ?stream=NAME")
                    }
                };
                Error::refused(self, action, why)
            }
            Kind::JetStream(said) if said.code() >= 500 => Error::unavailable(self, action, error),
            Kind::JetStreamUnavailable | Kind::TimedOut | Kind::Response => self.failed(action, error),
            _ => Error::refused(self, action, error),
        }
    }

    /// An outage, unless the server has said that the user may not do this: then nothing is answered either.
    fn failed(&self, action: &str, error: impl Into<crate::Cause>) -> Error {
        match self.denied.send_replace(None) {
            Some(denied) => Error::refused(self, action, denied),
            None => match self.lost.borrow().clone() {
                Some(lost) => {
                    let error: crate::Cause = error.into();
                    Error::unavailable(self, action, format!("{error}: {lost}"))
                }
                None => Error::unavailable(self, action, error),
            },
        }
    }

    /// The server of `nats://host:port` or `tls://host:port`; it is connected by the first call.
    pub fn open(server: &Url, config: NatsConfig) -> Self {
        let (denied, lost) = (watch::Sender::default(), watch::Sender::default());
        Self { url: server.clone(), config, context: Arc::default(), denied, lost }
    }

    async fn context(&self) -> Result<&jetstream::Context> {
        let connect = async || {
            let (denied, lost) = (self.denied.clone(), self.lost.clone());
            let on_event = move |event| {
                match event {
                    async_nats::Event::Connected => drop(lost.send_replace(None)),
                    async_nats::Event::ClientError(error) => drop(lost.send_replace(Some(error.to_string()))),
                    other if other.to_string().to_ascii_lowercase().contains("permissions violation") => {
                        denied.send_replace(Some(other.to_string()));
                    }
                    _ => {}
                }
                std::future::ready(())
            };
            let used = Arc::downgrade(&self.context);
            // The driver would go on for ever with credentials that are not valid any more.
            let delay = move |attempts| match used.strong_count() {
                0 => NEVER,
                _ => RECONNECT.saturating_mul(1 << usize::min(attempts, 10)).min(LONGEST_PAUSE),
            };
            let mut options = ConnectOptions::new()
                .name("sidecar")
                .event_callback(on_event)
                .reconnect_delay_callback(delay);
            if let Some(file) = &self.config.credentials {
                let read = options.credentials_file(file).await;
                options = read.map_err(|error| Error::refused(self, "read its credentials", error))?;
            }
            let settings = |error: crate::Cause| Error::settings(self, error);
            // The driver logs the address that it is given.
            let mut server = self.url.clone();
            server
                .set_username("")
                .and_then(|()| server.set_password(None))
                .map_err(|()| settings("no host".into()))?;
            if !self.url.username().is_empty() {
                let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
                let password = decode(self.url.password().unwrap_or_default());
                options = options.user_and_password(decode(self.url.username()), password);
            }
            let tls = tls::client_config(self.config.ca_file.as_deref()).map_err(settings)?;
            options = options.tls_client_config(tls);
            let client = options.connect(server.as_str()).await.map_err(|error| match error.kind() {
                async_nats::ConnectErrorKind::Authentication
                | async_nats::ConnectErrorKind::AuthorizationViolation
                | async_nats::ConnectErrorKind::ServerParse => Error::refused(self, "connect", error),
                _ => Error::unavailable(self, "connect", error),
            })?;
            Ok(jetstream::new(client))
        };
        self.context.get_or_try_init(connect).await
    }

    fn message(&self, event: &Event, id: &str) -> Result<PublishMessage> {
        let json = self
            .config
            .format
            .encode(event)
            .map_err(|error| Error::refused(self, "encode an event", error))?;
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("Event-Type", event.event_type.as_str()),
            ("Correlation-Id", event.context.correlation_id.as_str()),
            ("Content-Type", self.config.format.content_type()),
            ("traceparent", event.traceparent.as_ref().map_or("", TraceParent::as_str)),
        ] {
            // A convenience for filters: what no header can carry is in the message.
            if !value.is_empty() && !value.contains(char::is_control) {
                headers.insert(name, value);
            }
        }
        let message = PublishMessage::build().payload(json.into()).headers(headers);
        Ok(message.message_id(id))
    }

    /// The one table from the server's errors to ours.
    fn error(&self, error: jetstream::context::PublishError) -> Error {
        match error.kind() {
            PublishErrorKind::MaxPayloadExceeded
            | PublishErrorKind::WrongLastMessageId
            | PublishErrorKind::WrongLastSequence => Error::refused(self, "publish an event", error),
            _ => self.failed("publish an event", error),
        }
    }
}

/// Any text as one token of a subject, or as a name.
fn token(text: &str) -> String {
    const TOKEN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');
    utf8_percent_encode(text, TOKEN).to_string()
}

/// Whether `subject` is one of those that the pattern `wanted` stands for: `*` for one token, `>` for the rest.
fn listens(wanted: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for pattern in wanted.split('.') {
        match (pattern, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (pattern, Some(token)) if pattern == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling_and_no_secret() {
        let id = |server: &str, stream: &str| {
            Nats::open(&server.parse().unwrap(), NatsConfig::new("s", stream)).id()
        };
        let one = id("nats://u:secret@Host", "x");
        assert_eq!(one, "nats://host:4222/s?stream=x");
        assert_eq!(one, id("tls://host:4222", "x"));
        assert_ne!(one, id("nats://host", "y"));
    }

    #[test]
    fn a_stream_listens_to_what_its_patterns_stand_for() {
        for pattern in ["events.x", "events.*", "events.>", "*.x", ">"] {
            assert!(listens(pattern, "events.x"), "{pattern}");
        }
        for pattern in ["other.>", "events", "events.x.*", "events.x.>", "*", "events.y"] {
            assert!(!listens(pattern, "events.x"), "{pattern}");
        }
    }
}
