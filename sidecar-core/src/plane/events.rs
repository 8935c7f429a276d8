//! Where events go.

use std::sync::Arc;

#[cfg(feature = "servicebus")]
use super::Credential;
#[cfg(any(feature = "servicebus", feature = "nats", feature = "amqp"))]
use super::config::Opener;
use super::config::{Given, Problem, Store};
use super::faulty;
use super::text::{self, Embedded};
use crate::{EventProvider, events};

/// An event provider that is not open yet.
pub(super) type Events = Store<dyn EventProvider>;

/// The schemes of every build.
pub(super) const SCHEMES: [&str; 5] = ["servicebus", "nats", "tls", "amqp", "amqps"];

/// The bus that `url` names.
pub(super) fn parse(url: &str, given: &Given<'_>) -> Result<Events, Problem> {
    let format = given.config.event_format;
    match text::scheme(url)?.0 {
        #[cfg(feature = "servicebus")]
        "servicebus" => {
            let example = "servicebus://namespace/topic?rule=NAME";
            let (mut namespace, query) = text::remote(url, example)?;
            let mut config = events::ServiceBusConfig {
                topic: text::take_path(&mut namespace),
                namespace: namespace.host_str().unwrap_or_default().to_owned(),
                rule: (given.credential)(Credential::ServiceBusRule).unwrap_or_default(),
                key: (given.credential)(Credential::ServiceBusKey).unwrap_or_default(),
                endpoint: None,
                format,
                ca_file: given.config.ca_file.clone(),
            };
            for (name, value) in query {
                match name.as_str() {
                    "rule" => config.rule = value,
                    "endpoint" => config.endpoint = text::endpoint(value)?,
                    _ => return Err(format!("the parameter {name:?} is not one of rule, endpoint").into()),
                }
            }
            if config.topic.is_empty() {
                return Err(format!("names no topic: say {example}").into());
            }
            if config.rule.is_empty() {
                return Err("names no authorization rule: add ?rule=NAME".into());
            }
            if config.key.is_empty() {
                return Err(Problem::missing(Credential::ServiceBusKey, "needs the rule's key"));
            }
            remote(url, move || events::ServiceBus::open(config.clone()), given)
        }
        #[cfg(feature = "nats")]
        "nats" | "tls" => {
            let example = "nats://host/subject?stream=NAME";
            let (mut server, query) = text::remote(url, example)?;
            let subject = text::take_path(&mut server);
            if subject.is_empty() {
                return Err(format!("names no subject: say {example}").into());
            }
            // A stream's name has no dots.
            let stream = subject.replace('.', "_");
            let ca_file = given.config.ca_file.clone();
            let mut config =
                events::NatsConfig { format, ca_file, ..events::NatsConfig::new(subject, stream) };
            for (name, value) in query {
                match name.as_str() {
                    "stream" => config.stream = value,
                    "subjects" if value == "type" => config.subject_per_type = true,
                    "subjects" if value == "one" => config.subject_per_type = false,
                    "subjects" => return Err(format!("subjects={value} is neither type nor one").into()),
                    "credentials" => config.credentials = Some(value.into()),
                    _ => {
                        return Err(format!(
                            "the parameter {name:?} is not one of stream, subjects, credentials"
                        )
                        .into());
                    }
                }
            }
            remote(url, move || Ok(events::Nats::open(&server, config.clone())), given)
        }
        #[cfg(feature = "amqp")]
        "amqp" | "amqps" => {
            let example = "amqp://user@host/exchange?vhost=/&queue=NAME";
            let (mut broker, query) = text::remote(url, example)?;
            let exchange = text::take_path(&mut broker);
            if exchange.is_empty() {
                return Err(format!("names no exchange: say {example}").into());
            }
            let ca_file = given.config.ca_file.clone();
            let mut config = events::AmqpConfig { format, ca_file, ..events::AmqpConfig::new(exchange) };
            for (name, value) in query {
                match (name.as_str(), value.as_str()) {
                    ("vhost", _) => config.vhost = value,
                    ("queue", _) => config.queue = Some(value),
                    ("unroutable", "drop") => config.drop_unroutable = true,
                    ("unroutable", "error") => config.drop_unroutable = false,
                    ("unroutable", _) => {
                        return Err(format!("unroutable={value} is neither drop nor error").into());
                    }
                    _ => {
                        return Err(
                            format!("the parameter {name:?} is not one of vhost, queue, unroutable").into()
                        );
                    }
                }
            }
            remote(url, move || Ok(events::Amqp::open(&broker, config.clone())), given)
        }
        _ => match text::embedded(url, "events", &SCHEMES)? {
            #[cfg(feature = "local")]
            Embedded::Local(root) => {
                Ok(Events::local(root, &[events::Local::DIRECTORY, events::Local::GROUPS], move |root| {
                    Ok(Arc::new(faulty(events::Local::open(root)?.format(format))))
                }))
            }
            #[cfg(feature = "memory")]
            Embedded::Memory => Ok(Events::new("memory:".into(), || Ok(Arc::new(events::Memory::default())))),
        },
    }
}

/// A bus on the network with the policies around it.
#[cfg(any(feature = "servicebus", feature = "nats", feature = "amqp"))]
fn remote<P: EventProvider>(
    url: &str,
    open: impl Fn() -> crate::Result<P> + Send + Sync + 'static,
    given: &Given<'_>,
) -> Result<Events, Problem> {
    let (policies, open) = (given.config.policies.clone(), Opener::new(open)?);
    Ok(Events::new(text::shown(url), move || Ok(Arc::new(policies.around(faulty(open.open()?))))))
}
