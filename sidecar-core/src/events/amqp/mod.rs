//! Events on RabbitMQ and other brokers of AMQP 0.9.1.

mod source;
mod version;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use futures_util::stream::{StreamExt, TryStreamExt};
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPHardError};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ErrorKind, ExchangeKind};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::{Position, Url};

use super::{EventFormat, EventProvider, EventSource, Subscription};
use crate::contract::Event;
use crate::error::{Error, Result, with_causes};
use crate::setters::setters;

/// Messages whose confirmation is waited for at once.
const WINDOW: usize = 256;
/// The delivery mode of a message that survives a restart of the broker (AMQP 0.9.1, class `basic`).
const PERSISTENT: u8 = 2;

/// The longest event type, in bytes: a short string of AMQP 0-9-1.
const LONGEST_TYPE: usize = 255;

/// Where events go on the broker.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmqpConfig {
    /// The exchange; [`check`](EventProvider::check) makes a durable topic exchange when it is absent.
    pub exchange: String,
    /// The virtual host.
    #[serde(default = "default_vhost")]
    pub vhost: String,
    /// A durable queue that `check` makes and binds for every event, so that none is lost before the
    /// consumers have bound theirs.
    #[serde(default)]
    pub queue: Option<String>,
    /// Whether an event that no queue is bound for is dropped; otherwise it is an error.
    #[serde(default)]
    pub drop_unroutable: bool,
    /// What the messages look like.
    #[serde(default)]
    pub format: EventFormat,
    /// Certificates to trust besides the system's, as PEM.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

setters!(
    AmqpConfig {
        vhost: String,
        drop_unroutable: bool,
        format: EventFormat
    } optional {
        queue: String,
        ca_file: PathBuf
    }
);

fn default_vhost() -> String {
    "/".into()
}

impl AmqpConfig {
    /// Events in `exchange` of the virtual host `/`.
    pub fn new(exchange: impl Into<String>) -> Self {
        let exchange = exchange.into();
        Self {
            exchange,
            vhost: default_vhost(),
            queue: None,
            drop_unroutable: false,
            format: EventFormat::default(),
            ca_file: None,
        }
    }
}

/// Events as persistent messages whose routing key is the event's type; clones share the connection, which is
/// made anew when it broke.
#[derive(Clone)]
pub struct Amqp {
    url: Url,
    config: AmqpConfig,
    open: Arc<Mutex<Option<Connection>>>,
}

impl fmt::Debug for Amqp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Amqp").field("config", &self.config).finish_non_exhaustive()
    }
}

impl fmt::Display for Amqp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host) = (self.url.scheme(), &self.url[Position::BeforeHost..Position::AfterPort]);
        let AmqpConfig { exchange, vhost, .. } = &self.config;
        write!(f, "{scheme}://{host}/{exchange}")?;
        if vhost == "/" { Ok(()) } else { write!(f, "?vhost={vhost}") }
    }
}

#[async_trait]
impl EventProvider for Amqp {
    fn refuses(&self, event: &Event) -> Option<String> {
        // It is the routing key.
        (event.event_type.len() > LONGEST_TYPE)
            .then(|| format!("takes no event type of more than {LONGEST_TYPE} bytes"))
    }

    async fn publish(&self, events: &[Event]) -> Result<()> {
        let message = |event: &Event| self.message(event, event.context.event_id.as_str());
        self.send(events.iter().map(message).collect::<Result<Vec<_>>>()?).await
    }

    async fn republish(&self, event: &Event, message_id: &str) -> Result<()> {
        self.send(vec![self.message(event, message_id)?]).await
    }

    async fn subscribe(&self, subscription: &Subscription) -> Result<Arc<dyn EventSource>> {
        Ok(Arc::new(source::Source::open(self, subscription).await?))
    }

    fn id(&self) -> String {
        let host = self.url.host_str().unwrap_or_default().to_lowercase();
        let port = self.url.port().unwrap_or(if self.url.scheme() == "amqps" { 5671 } else { 5672 });
        let AmqpConfig { exchange, vhost, .. } = &self.config;
        format!("amqp://{host}:{port}/{exchange}?vhost={vhost}")
    }

    async fn check(&self) -> Result<()> {
        let exchange = self.name(&self.config.exchange)?;
        let declare = async |passive| {
            let options =
                ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
            let (channel, table) = (self.channel().await?, FieldTable::default());
            let declared = channel.exchange_declare(exchange.clone(), ExchangeKind::Topic, options, table);
            declared.await.map_err(|error| self.error("find or make the exchange", error))
        };
        // One that is there may be of any kind, and to look needs no right to make it. A failed look closes the
        // channel; the next call opens another.
        match declare(true).await {
            Err(Error::Refused { .. }) => declare(false).await?,
            outcome => outcome?,
        }
        self.warn_of_an_old_broker().await;
        let Some(queue) = &self.config.queue else { return Ok(()) };
        let queue = self.name(queue)?;
        let declare = async |passive| {
            let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
            let channel = self.channel().await?;
            let declared = channel.queue_declare(queue.clone(), options, FieldTable::default()).await;
            declared.map_err(|error| self.error("find or make the queue", error))
        };
        match declare(true).await {
            Err(Error::Refused { .. }) => drop(declare(false).await?),
            outcome => drop(outcome?),
        }
        let channel = self.channel().await?;
        let every = ShortString::from("#");
        let options = QueueBindOptions::default();
        let bound = channel.queue_bind(queue.clone(), exchange, every, options, FieldTable::default()).await;
        bound.map_err(|error| self.error("bind the queue", error))
    }
}

/// The first RabbitMQ that takes the argument `x-consumer-timeout` of a queue, by its release notes.
const TAKES_TIMEOUTS: (u32, u32) = (3, 12);

impl Amqp {
    async fn warn_of_an_old_broker(&self) {
        let Ok(uri) = self.url.as_str().parse() else { return };
        if let Some((major, minor)) = version::of_rabbitmq(&uri).await
            && (major, minor) < TAKES_TIMEOUTS
        {
            tracing::warn!(
                "{self} is RabbitMQ {major}.{minor}, which ignores x-consumer-timeout: a worker whose module holds an \
                 event for longer than the node's consumer_timeout (30 min unless rabbitmq.conf says otherwise) loses it \
                 to another one; raise consumer_timeout if modules take so long"
            );
        }
    }

    async fn send(&self, messages: Vec<Message>) -> Result<()> {
        let channel = self.channel().await?;
        let confirm = channel.confirm_select(ConfirmSelectOptions::default()).await;
        confirm.map_err(|error| self.error("confirm messages", error))?;
        let exchange = self.name(&self.config.exchange)?;
        let options =
            BasicPublishOptions { mandatory: !self.config.drop_unroutable, ..BasicPublishOptions::default() };
        futures_util::stream::iter(messages)
            .map(async |Message { event_type, properties, body }| {
                let published =
                    channel.basic_publish(exchange.clone(), event_type, options, &body, properties).await;
                let confirmed = match published {
                    Ok(confirm) => confirm.await,
                    Err(error) => Err(error),
                };
                let confirmed = confirmed.map_err(|error| self.error("publish an event", error))?;
                if confirmed.is_nack() {
                    return Err(Error::unavailable(self, "publish an event", "the broker did not take it"));
                }
                if let Some(returned) = confirmed.take_message() {
                    let hint = "start a worker of it once, or bind one, or say queue=NAME to have one made, or unroutable=drop";
                    let returned = returned.delivery.routing_key.as_str();
                    let problem = format!("no queue is bound for events of type {returned:?}: {hint}");
                    return Err(Error::refused(self, "publish an event", problem));
                }
                Ok(())
            })
            .buffered(WINDOW)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await
    }
}

/// An event, ready to be sent.
struct Message {
    event_type: ShortString,
    properties: BasicProperties,
    body: Vec<u8>,
}

impl Amqp {
    /// The broker of `amqp://user:password@host:port`, or `amqps:`; it is connected by the first call.
    pub fn open(broker: &Url, config: AmqpConfig) -> Self {
        Self { url: broker.clone(), config, open: Arc::default() }
    }

    /// A channel of its own for every call: what the broker says on it belongs to no other.
    async fn channel(&self) -> Result<Channel> {
        let mut open = self.open.lock().await;
        let connection = match open.take() {
            Some(connection) if connection.status().connected() => connection,
            _ => self.connect().await?,
        };
        let channel = connection.create_channel().await.map_err(|error| self.error("connect", error))?;
        *open = Some(connection);
        Ok(channel)
    }

    async fn connect(&self) -> Result<Connection> {
        let settings = |source: crate::Cause| Error::settings(self, source);
        let vhost = self.name(&self.config.vhost)?.to_string();
        let mut uri: AMQPUri = self.url.as_str().parse().map_err(|e: String| settings(e.into()))?;
        uri.vhost = vhost;
        let cert_chain = match &self.config.ca_file {
            Some(file) => Some(std::fs::read_to_string(file).map_err(Error::io("read", file))?),
            None => None,
        };
        let tls = OwnedTLSConfig { identity: None, cert_chain };
        let properties = ConnectionProperties::default().with_connection_name("sidecar".into());
        let runtime = lapin::runtime::default_runtime().map_err(|error| settings(error.into()))?;
        let connection = Connection::connect_uri_with_config(uri, properties, tls, runtime);
        connection.await.map_err(|error| self.error("connect", error))
    }

    /// Puts a copy of a message into a queue, from where the broker loses it no more.
    async fn copy(&self, queue: &ShortString, data: &[u8], properties: BasicProperties) -> Result<()> {
        let failed = |error| self.error("keep a message", error);
        let channel = self.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let published = channel.basic_publish("".into(), queue.clone(), options, data, properties).await;
        let confirmed = published.map_err(failed)?.await.map_err(failed)?;
        if confirmed.is_nack() || confirmed.take_message().is_some() {
            return Err(Error::unavailable(self, "keep a message", "the broker did not take it"));
        }
        Ok(())
    }

    fn message(&self, event: &Event, id: &str) -> Result<Message> {
        let context = &event.context;
        let encoded = self.config.format.encode(event);
        let body = encoded.map_err(|error| Error::refused(self, "encode an event", error))?;
        let event_type = self.name(&event.event_type)?;
        let properties = BasicProperties::default()
            .with_message_id(self.name(id)?)
            .with_type(event_type.clone())
            .with_content_type(self.config.format.content_type().into())
            .with_timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
            .with_delivery_mode(PERSISTENT);
        // A convenience for consumers: one that is too long for a property is in the message.
        let properties = match ShortString::try_new(context.correlation_id.clone()) {
            Ok(id) => properties.with_correlation_id(id),
            Err(_) => properties,
        };
        let properties = match &event.traceparent {
            Some(parent) => {
                let mut headers = FieldTable::default();
                headers.insert("traceparent".into(), AMQPValue::LongString(parent.as_str().into()));
                properties.with_headers(headers)
            }
            None => properties,
        };
        Ok(Message { event_type, properties, body })
    }

    /// A name as the protocol carries it.
    fn name(&self, name: &str) -> Result<ShortString> {
        ShortString::try_new(name.to_owned())
            .map_err(|error| Error::refused(self, format!("name {name:.20}…"), error))
    }

    /// The one table from the broker's errors to ours.
    fn error(&self, action: &str, error: lapin::Error) -> Error {
        // What rustls says of an answer that is none of TLS (`rustls::InvalidMessage`).
        if self.url.scheme() == "amqps" && with_causes(&error).contains("InvalidContentType") {
            return Error::settings(self, "the server does not speak TLS: say amqp://, or its port for TLS");
        }
        use AMQPHardError as Hard;
        let transient = match error.kind() {
            ErrorKind::ProtocolError(error) => matches!(
                error.kind(),
                AMQPErrorKind::Hard(Hard::CONNECTIONFORCED | Hard::INTERNALERROR | Hard::RESOURCEERROR)
            ),
            ErrorKind::InvalidProtocolVersion(_) | ErrorKind::AuthProviderError(_) => false,
            _ => true,
        };
        if transient { Error::unavailable(self, action, error) } else { Error::refused(self, action, error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling_and_no_secret() {
        let id = |broker: &str, vhost: &str| {
            let config = AmqpConfig { vhost: vhost.into(), ..AmqpConfig::new("x") };
            Amqp::open(&broker.parse().unwrap(), config).id()
        };
        let one = id("amqp://u:secret@Host", "/");
        assert_eq!(one, "amqp://host:5672/x?vhost=/");
        assert_eq!(one, id("amqp://other@host:5672", "/"));
        assert_ne!(one, id("amqp://host", "v"));
        assert_ne!(one, id("amqps://host", "/"));
    }
}
