//! Where events go.

use std::fmt;
use std::sync::Arc;

use sidecar_core::events::EventFormat;
use sidecar_core::{EventProvider, Result, events};

use super::Embedded;
use super::policy::Policy;
use crate::options::Options;

/// The schemes of every build.
const SCHEMES: [&str; 5] = ["servicebus", "nats", "tls", "amqp", "amqps"];

/// An event provider that is not connected yet.
#[derive(Clone)]
pub(super) enum Events {
    Embedded(Embedded, EventFormat),
    #[cfg(feature = "servicebus")]
    ServiceBus(events::ServiceBus),
    #[cfg(feature = "nats")]
    Nats(events::Nats),
    #[cfg(feature = "amqp")]
    Amqp(events::Amqp),
}

impl From<Embedded> for Events {
    fn from(embedded: Embedded) -> Self {
        Self::Embedded(embedded, EventFormat::default())
    }
}

impl fmt::Display for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(embedded, _) => embedded.fmt(f),
            #[cfg(feature = "servicebus")]
            Self::ServiceBus(provider) => provider.fmt(f),
            #[cfg(feature = "nats")]
            Self::Nats(provider) => provider.fmt(f),
            #[cfg(feature = "amqp")]
            Self::Amqp(provider) => provider.fmt(f),
        }
    }
}

impl Events {
    /// The provider that `url` names.
    pub(super) fn parse(url: &str, format: EventFormat, options: &Options) -> Result<Self, String> {
        let _ = options;
        match super::scheme(url)?.0 {
            #[cfg(feature = "servicebus")]
            "servicebus" => {
                let (mut namespace, query) = super::remote(url, "servicebus://namespace/topic?rule=NAME")?;
                let mut config = service_bus(format, options);
                config.topic = super::take_path(&mut namespace);
                config.namespace = namespace.host_str().unwrap_or_default().to_owned();
                for (name, value) in query {
                    match name.as_str() {
                        "rule" => config.rule = value,
                        "endpoint" => config.endpoint = super::endpoint(value)?,
                        _ => return Err(format!("{name:?} is none of rule, endpoint")),
                    }
                }
                for (value, missing) in [
                    (&config.topic, "names no topic: say servicebus://namespace/topic?rule=NAME"),
                    (&config.rule, "names no authorization rule: add ?rule=NAME"),
                    (&config.key, "needs the rule's key: say --servicebuseventprovider.key-file FILE"),
                ] {
                    if value.is_empty() {
                        return Err(missing.into());
                    }
                }
                events::ServiceBus::open(config).map(Self::ServiceBus).map_err(|error| error.chain())
            }
            #[cfg(feature = "nats")]
            "nats" | "tls" => {
                let example = "nats://host/subject?stream=NAME";
                let (mut server, query) = super::remote(url, example)?;
                let subject = super::take_path(&mut server);
                if subject.is_empty() {
                    return Err(format!("names no subject: say {example}"));
                }
                // A stream's name has no dots.
                let stream = subject.replace('.', "_");
                let mut config = events::NatsConfig {
                    format,
                    ca_file: options.ca_file(),
                    ..events::NatsConfig::new(subject, stream)
                };
                for (name, value) in query {
                    match name.as_str() {
                        "stream" => config.stream = value,
                        "credentials" => config.credentials = Some(value.into()),
                        _ => return Err(format!("{name:?} is none of stream, credentials")),
                    }
                }
                Ok(Self::Nats(events::Nats::open(&server, config)))
            }
            #[cfg(feature = "amqp")]
            "amqp" | "amqps" => {
                let example = "amqp://user@host/exchange?vhost=/&queue=NAME";
                let (mut broker, query) = super::remote(url, example)?;
                let exchange = super::take_path(&mut broker);
                if exchange.is_empty() {
                    return Err(format!("names no exchange: say {example}"));
                }
                let mut config = events::AmqpConfig {
                    format,
                    ca_file: options.ca_file(),
                    ..events::AmqpConfig::new(exchange)
                };
                for (name, value) in query {
                    match (name.as_str(), value.as_str()) {
                        ("vhost", _) => config.vhost = value,
                        ("queue", _) => config.queue = Some(value),
                        ("unroutable", "drop") => config.drop_unroutable = true,
                        ("unroutable", "error") => config.drop_unroutable = false,
                        ("unroutable", _) => {
                            return Err(format!("unroutable={value} is neither drop nor error"));
                        }
                        _ => return Err(format!("{name:?} is none of vhost, queue, unroutable")),
                    }
                }
                Ok(Self::Amqp(events::Amqp::open(&broker, config)))
            }
            _ => Embedded::parse(url, "events", &SCHEMES).map(|embedded| Self::Embedded(embedded, format)),
        }
    }

    /// The topic that the original's flags name.
    pub(super) fn ion(format: EventFormat, options: &Options) -> Result<Self, String> {
        #[cfg(feature = "servicebus")]
        {
            let config = service_bus(format, options);
            events::ServiceBus::open(config).map(Self::ServiceBus).map_err(|error| error.chain())
        }
        #[cfg(not(feature = "servicebus"))]
        Self::parse("servicebus://", format, options)
    }

    pub(super) fn open(&self, policy: &Policy) -> Result<Arc<dyn EventProvider>> {
        let _ = policy;
        Ok(match self {
            Self::Embedded(Embedded::Local(dir), format) => {
                Arc::new(super::faulty(events::Local::open(dir)?.format(*format)))
            }
            Self::Embedded(Embedded::Memory, _) => Arc::new(events::Memory::default()),
            #[cfg(feature = "servicebus")]
            Self::ServiceBus(provider) => super::policy::wrapped!(policy, provider.clone()),
            #[cfg(feature = "nats")]
            Self::Nats(provider) => super::policy::wrapped!(policy, provider.clone()),
            #[cfg(feature = "amqp")]
            Self::Amqp(provider) => super::policy::wrapped!(policy, provider.clone()),
        })
    }
}

#[cfg(feature = "servicebus")]
fn service_bus(format: EventFormat, options: &Options) -> events::ServiceBusConfig {
    let text = |option: &Option<String>| option.clone().unwrap_or_default();
    events::ServiceBusConfig {
        namespace: text(&options.servicebuseventprovider_namespace),
        topic: text(&options.servicebuseventprovider_topic),
        rule: text(&options.servicebuseventprovider_authorizationrulename),
        key: text(&options.servicebuseventprovider_key),
        endpoint: None,
        format,
        ca_file: options.ca_file(),
    }
}
