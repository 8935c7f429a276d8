//! How an event is written into a message.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use crate::contract::{Event, TraceParent};

/// What the messages of a bus look like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventFormat {
    /// The event as Ion writes it.
    #[default]
    Ion,
    /// A CloudEvent 1.0 in structured JSON, whose `data` is the event as Ion writes it.
    ///
    /// `id` and `type` are the event's; `source` names the event whose processing published this one; the
    /// extensions `correlationid` and `parenteventid` carry the lineage, and `traceparent` is that of the extension for
    /// distributed tracing. There is no `time`: a repeat is equal.
    CloudEvents,
}

/// An event as a bus carries it.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Message<'e> {
    Ion(&'e Event),
    CloudEvent(CloudEvent<'e>),
}

/// Attributes in the order of the specification, then the extensions.
#[derive(Serialize)]
pub(super) struct CloudEvent<'e> {
    specversion: &'static str,
    id: &'e str,
    source: String,
    #[serde(rename = "type")]
    event_type: &'e str,
    datacontenttype: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    correlationid: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    parenteventid: &'e str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'e TraceParent>,
    data: &'e Event,
}

impl EventFormat {
    /// The media type of a message.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Ion => "application/json",
            Self::CloudEvents => "application/cloudevents+json",
        }
    }

    /// The message for `event`: JSON in one line.
    ///
    /// # Errors
    /// None that an event can cause; the signature is serde's.
    pub fn encode(self, event: &Event) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&self.message(event))
    }

    /// Decodes a message of either format, so that publishers and receivers can be configured one after the other.
    ///
    /// # Errors
    /// If the message has neither format.
    pub fn decode(self, message: &[u8]) -> serde_json::Result<Event> {
        let other = match self {
            Self::Ion => Self::CloudEvents,
            Self::CloudEvents => Self::Ion,
        };
        self.decode_own(message).or_else(|error| other.decode_own(message).map_err(|_| error))
    }

    fn decode_own(self, message: &[u8]) -> serde_json::Result<Event> {
        #[derive(Deserialize)]
        struct Envelope {
            traceparent: Option<String>,
            data: Event,
        }
        match self {
            Self::Ion => serde_json::from_slice(message),
            Self::CloudEvents => serde_json::from_slice(message)
                .map(|Envelope { traceparent, data }| traced(data, traceparent.as_deref())),
        }
    }

    /// The same, with the `traceparent` of the message's header, which whoever else publishes may have set.
    #[cfg(any(feature = "nats", feature = "amqp"))]
    pub(super) fn decode_traced(self, message: &[u8], header: Option<&str>) -> serde_json::Result<Event> {
        self.decode(message).map(|event| traced(event, header))
    }

    pub(super) fn message(self, event: &Event) -> Message<'_> {
        let context = &event.context;
        match self {
            Self::Ion => Message::Ion(event),
            Self::CloudEvents => Message::CloudEvent(CloudEvent {
                specversion: "1.0",
                id: context.event_id.as_str(),
                source: source(&context.parent_event_id),
                event_type: &event.event_type,
                datacontenttype: "application/json",
                correlationid: &context.correlation_id,
                parenteventid: &context.parent_event_id,
                traceparent: event.traceparent.as_ref(),
                data: event,
            }),
        }
    }
}

/// The event with this `traceparent`, where it has none itself and this is one.
fn traced(event: Event, header: Option<&str>) -> Event {
    let traceparent = event.traceparent.or_else(|| header?.parse().ok());
    Event { traceparent, ..event }
}

/// A URI reference, which a parent's id alone need not be.
fn source(parent: &str) -> String {
    let encoded: String = form_urlencoded::byte_serialize(parent.as_bytes()).collect();
    format!("/events/{encoded}")
}

impl FromStr for EventFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ion" => Ok(Self::Ion),
            "cloudevents" => Ok(Self::CloudEvents),
            _ => Err("is neither ion nor cloudevents".into()),
        }
    }
}

impl std::fmt::Display for EventFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ion => "ion",
            Self::CloudEvents => "cloudevents",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{EventHeader, EventId, KeyValuePairs};

    fn event(parent: &str) -> Event {
        Event {
            context: EventHeader {
                name: String::new(),
                event_id: EventId::parse("e1").unwrap(),
                correlation_id: "c1".into(),
                parent_event_id: parent.into(),
            },
            event_type: "thumbnail_created".into(),
            previous_stages: Vec::new(),
            data: KeyValuePairs::default(),
            traceparent: None,
        }
    }

    #[test]
    fn a_cloud_event_has_the_attributes_of_the_specification() {
        let json = EventFormat::CloudEvents.encode(&event("p 1")).unwrap();
        let json = String::from_utf8(json).unwrap();
        let attributes = concat!(
            r#"{"specversion":"1.0","id":"e1","source":"/events/p+1","type":"thumbnail_created","#,
            r#""datacontenttype":"application/json","correlationid":"c1","parenteventid":"p 1","data":{"context":{"#
        );
        assert!(json.starts_with(attributes), "{json}");
        let first = EventFormat::CloudEvents.encode(&event("")).unwrap();
        assert!(!String::from_utf8(first).unwrap().contains("parenteventid"));
    }

    #[test]
    fn every_format_is_read_back() {
        for format in [EventFormat::Ion, EventFormat::CloudEvents] {
            assert_eq!(format.decode(&format.encode(&event("p")).unwrap()).unwrap(), event("p"));
            // Whoever receives may be set up otherwise than whoever publishes.
            for other in [EventFormat::Ion, EventFormat::CloudEvents] {
                assert_eq!(other.decode(&format.encode(&event("p")).unwrap()).unwrap(), event("p"));
            }
            assert!(format.decode(b"[]").is_err() && format.decode(b"{}").is_err());
            assert_eq!(format.to_string().parse(), Ok(format));
        }
    }

    #[test]
    fn the_trace_travels_with_the_event_and_one_that_is_none_does_not_harm() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let traced = Event { traceparent: parent.parse().ok(), ..event("p") };
        for format in [EventFormat::Ion, EventFormat::CloudEvents] {
            assert_eq!(format.decode(&format.encode(&traced).unwrap()).unwrap(), traced);
        }
        let cloud_event = String::from_utf8(EventFormat::CloudEvents.encode(&traced).unwrap()).unwrap();
        let attribute = format!(r#""traceparent":"{parent}""#);
        assert_eq!(cloud_event.matches(&attribute).count(), 2, "{cloud_event}");
        // As others write it: as an attribute of the envelope alone.
        let others = cloud_event.replacen(&format!(",{attribute}}}}}"), "}}", 1);
        assert_ne!(others, cloud_event);
        assert_eq!(EventFormat::CloudEvents.decode(others.as_bytes()).unwrap(), traced);
        let wrong = cloud_event.replace(parent, "00-none");
        assert_eq!(EventFormat::CloudEvents.decode(wrong.as_bytes()).unwrap(), event("p"));
    }
}
