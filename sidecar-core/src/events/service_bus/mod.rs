//! Events on Azure Service Bus, through its REST interface.

mod source;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Client, RequestBuilder, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use url::{Position, Url, form_urlencoded};

use super::{EventFormat, EventProvider, EventSource, Subscription};
use crate::contract::{Event, TraceParent};
use crate::error::{Error, Result};
use crate::http;
use crate::setters::setters;

/// How long a token is valid: each request has its own.
const TOKEN_LIFE: Duration = Duration::from_secs(300);
/// The bytes of one batch; the standard tier takes 256 KiB, headers included.
const BATCH_BYTES: usize = 192 * 1024;
/// The messages of one batch.
const BATCH_MESSAGES: usize = 100;
/// A clock that differs by more than this makes tokens fail.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// The largest message, in bytes: the limit of the standard tier, less room for the properties.
const LARGEST: usize = 256 * 1024 - 1024;

/// The topic and how to get in.
#[non_exhaustive]
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceBusConfig {
    /// The namespace.
    pub namespace: String,
    /// The topic, or queue; it must be there.
    pub topic: String,
    /// The name of an authorization rule with the right to send, and to listen where events are received; one that may
    /// manage the topic makes the subscriptions too.
    pub rule: String,
    /// The key of the rule.
    pub key: String,
    /// An endpoint other than `https://{namespace}.servicebus.windows.net`.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// What the messages look like.
    #[serde(default)]
    pub format: EventFormat,
    /// Certificates to trust besides the system's, as PEM.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

impl ServiceBusConfig {
    /// The topic, or queue, `topic` of `namespace`, with the authorization rule `rule` and its key.
    pub fn new(
        namespace: impl Into<String>,
        topic: impl Into<String>,
        rule: impl Into<String>,
        key: impl Into<String>,
    ) -> Self {
        Self {
            namespace: namespace.into(),
            topic: topic.into(),
            rule: rule.into(),
            key: key.into(),
            endpoint: None,
            format: EventFormat::default(),
            ca_file: None,
        }
    }
}

setters!(
    ServiceBusConfig {
        namespace: String,
        topic: String,
        rule: String,
        key: String,
        format: EventFormat
    } optional {
        endpoint: String,
        ca_file: PathBuf
    }
);

impl fmt::Debug for ServiceBusConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, topic, rule, endpoint, .. } = self;
        f.debug_struct("ServiceBusConfig")
            .field("namespace", namespace)
            .field("topic", topic)
            .field("rule", rule)
            .field("endpoint", endpoint)
            .finish_non_exhaustive()
    }
}

/// Events as messages of one topic, with the event's id as `MessageId`; clones share the connections.
///
/// Where the topic has duplicate detection, it drops repeats.
#[derive(Debug, Clone)]
pub struct ServiceBus {
    config: ServiceBusConfig,
    client: Client,
    topic: Url,
}

impl fmt::Display for ServiceBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "servicebus://{}/{}", self.config.namespace, self.config.topic)
    }
}

/// One message of a batch, in the names of the service.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Message<'e> {
    body: String,
    broker_properties: BrokerProperties<'e>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_properties: Option<UserProperties<'e>>,
}

#[derive(Serialize)]
struct UserProperties<'e> {
    traceparent: &'e TraceParent,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct BrokerProperties<'e> {
    message_id: &'e str,
    correlation_id: &'e str,
    /// What the rules of a subscription filter by, as `sys.Label`.
    label: &'e str,
}

#[async_trait]
impl EventProvider for ServiceBus {
    fn refuses(&self, event: &Event) -> Option<String> {
        let size = self.config.format.encode(event).map_or(usize::MAX, |message| message.len());
        (size > LARGEST).then(|| format!("takes no message of more than {LARGEST} bytes"))
    }

    async fn publish(&self, events: &[Event]) -> Result<()> {
        let message = |event: &Event| self.message(event, event.context.event_id.as_str());
        let messages = events.iter().map(message).collect::<Result<Vec<_>>>()?;
        for batch in batches(messages) {
            self.post(batch).await?;
        }
        Ok(())
    }

    async fn republish(&self, event: &Event, message_id: &str) -> Result<()> {
        self.post(format!("[{}]", self.message(event, message_id)?)).await
    }

    async fn subscribe(&self, subscription: &Subscription) -> Result<Arc<dyn EventSource>> {
        source::subscribe(self, subscription).await
    }

    /// The topic's address, without what an endpoint may hold besides.
    fn id(&self) -> String {
        let (host, path) = (&self.topic[Position::BeforeHost..Position::AfterPort], self.topic.path());
        format!("servicebus://{host}{path}")
    }

    /// Asks for the topic's description. A rule that may only send is told so by the service, which shows that
    /// it is known.
    async fn check(&self) -> Result<()> {
        let mut url = self.topic.clone();
        url.set_query(Some("api-version=2021-05"));
        let action = "look at the topic";
        match self.send(action, self.client.get(url)).await {
            Err(Error::Refused { source, .. }) if source.to_string().contains("Manage") => Ok(()),
            // What is not there is an empty feed, and no error.
            Ok(text) if text.contains("<TopicDescription") || text.contains("<QueueDescription") => Ok(()),
            Ok(_) => Err(Error::refused(self, action, "there is none of that name; make it first")),
            Err(error) => Err(error),
        }
    }
}

impl ServiceBus {
    /// The topic that `config` names; nothing is connected yet.
    ///
    /// # Errors
    /// [`Error::Settings`] when the settings cannot be used.
    pub fn open(config: ServiceBusConfig) -> Result<Self> {
        let name = format!("servicebus://{}", config.namespace);
        let endpoint = match &config.endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://{}.servicebus.windows.net", config.namespace),
        };
        let topic = Url::parse(&format!("{endpoint}/{}", config.topic.trim_matches('/')))
            .map_err(|error| Error::settings(&name, error))?;
        let client = http::client(&name, config.ca_file.as_deref())?;
        Ok(Self { config, client, topic })
    }

    /// Publishes messages, as a JSON array.
    async fn post(&self, batch: String) -> Result<()> {
        let mut url = self.topic.clone();
        url.set_path(&format!("{}/messages", self.topic.path()));
        let request = self.client.post(url).body(batch);
        let request = request.header(header::CONTENT_TYPE, "application/vnd.microsoft.servicebus.json");
        self.send("publish events", request).await.map(drop)
    }

    fn message(&self, event: &Event, message_id: &str) -> Result<String> {
        let refused = |error: crate::Cause| Error::refused(self, "encode an event", error);
        let body = self.config.format.encode(event).map_err(|error| refused(error.into()))?;
        let message = Message {
            body: String::from_utf8(body).map_err(|error| refused(error.into()))?,
            broker_properties: BrokerProperties {
                message_id,
                correlation_id: &event.context.correlation_id,
                label: &event.event_type,
            },
            user_properties: event.traceparent.as_ref().map(|traceparent| UserProperties { traceparent }),
        };
        serde_json::to_string(&message).map_err(|error| refused(error.into()))
    }

    async fn send(&self, action: &str, request: RequestBuilder) -> Result<String> {
        let response = self.exchange(action, request).await?;
        match response.status().is_success() {
            true => Ok(response.text().await.unwrap_or_default()),
            false => Err(self.error(action, response).await),
        }
    }

    /// Whatever the service answers.
    async fn exchange(&self, action: &str, request: RequestBuilder) -> Result<Response> {
        let sent = request.header(header::AUTHORIZATION, self.token()).send().await;
        sent.map_err(|error| Error::unavailable(self, action, error.without_url()))
    }

    /// A shared access signature: HMAC-SHA256 over the resource and the second at which it expires.
    fn token(&self) -> String {
        let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let resource = encode(self.topic.as_str());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let expiry = (now + TOKEN_LIFE).as_secs();
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.config.key.as_bytes());
        let signature = hmac::sign(&key, format!("{resource}\n{expiry}").as_bytes());
        let signature = encode(&STANDARD.encode(signature));
        let rule = encode(&self.config.rule);
        format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn={rule}")
    }

    /// The one table from the service's statuses to our errors.
    async fn error(&self, action: &str, response: Response) -> Error {
        let (status, retry_after) = (response.status(), retry_after(&response));
        let skew = clock_skew(&response).filter(|skew| *skew > CLOCK_SKEW);
        let text = response.text().await.unwrap_or_default();
        let mut cause = format!("the service answered {status}: {:.400}", text.trim());
        match status {
            StatusCode::UNAUTHORIZED if skew.is_some() => {
                let seconds = skew.unwrap_or_default().as_secs();
                cause += &format!("; this machine's clock is {seconds} s off, so that tokens do not hold");
            }
            StatusCode::GONE | StatusCode::NOT_FOUND => cause += "; make the topic first",
            StatusCode::FORBIDDEN => cause += "; the quota is used up or a message is too large",
            _ => {}
        }
        let transient = status.is_server_error()
            || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        if !transient {
            return Error::refused(self, action, cause);
        }
        let (provider, action) = (self.to_string(), action.to_owned());
        Error::Unavailable { provider, action, retry_after, source: cause.into() }
    }
}

/// JSON arrays of as many messages as the service takes at once; one that is too large goes alone.
fn batches(messages: Vec<String>) -> Vec<String> {
    let mut batches: Vec<(usize, String)> = Vec::new();
    for message in messages {
        match batches.last_mut() {
            Some((count, batch)) if *count < BATCH_MESSAGES && batch.len() + message.len() < BATCH_BYTES => {
                *count += 1;
                batch.push(',');
                batch.push_str(&message);
            }
            _ => batches.push((1, format!("[{message}"))),
        }
    }
    batches.into_iter().map(|(_, batch)| batch + "]").collect()
}

/// How long the answer asks to wait: seconds or a date (RFC 9110, section 10.2.3).
fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok()
}

fn clock_skew(response: &Response) -> Option<Duration> {
    let date = response.headers().get(header::DATE)?.to_str().ok()?;
    let theirs = httpdate::parse_http_date(date).ok()?;
    let ours = SystemTime::now();
    ours.duration_since(theirs).or_else(|_| theirs.duration_since(ours)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling_and_no_secret() {
        let id = |namespace: &str, endpoint: Option<&str>| {
            let (namespace, endpoint) = (namespace.to_owned(), endpoint.map(str::to_owned));
            let (topic, rule, key) = ("t".to_owned(), "r".to_owned(), "secret".to_owned());
            let format = EventFormat::default();
            let config = ServiceBusConfig { namespace, topic, rule, key, endpoint, format, ca_file: None };
            ServiceBus::open(config).unwrap().id()
        };
        let one = id("Name", None);
        assert_eq!(one, "servicebus://name.servicebus.windows.net/t");
        assert_eq!(one, id("x", Some("https://u:secret@name.servicebus.windows.net/")));
        assert_ne!(one, id("other", None));
        assert_ne!(one, id("name", Some("http://127.0.0.1:1")));
    }

    #[test]
    fn batches_hold_what_the_service_takes() {
        assert!(batches(Vec::new()).is_empty());
        assert_eq!(batches(vec!["1".into(), "2".into()]), ["[1,2]"]);
        assert_eq!(batches(vec!["1".to_owned(); 250]).len(), 3);
        let large = "x".repeat(BATCH_BYTES);
        assert_eq!(
            batches(vec!["1".into(), large.clone(), "2".into()]),
            ["[1]".to_owned(), format!("[{large}]"), "[2]".to_owned()]
        );
    }
}
