//! What a bus gives back, which anybody may have sent.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sidecar_core::Event;
use sidecar_core::events::EventFormat;

const FORMATS: [EventFormat; 2] = [EventFormat::Ion, EventFormat::CloudEvents];

fuzz_target!(|message: &[u8]| {
    for format in FORMATS {
        if let Ok(event) = format.decode(message) {
            assert_carried(&event, message.len());
            assert_cloud_event(&event);
        }
    }
    let text = String::from_utf8_lossy(message);
    if let Ok(format) = text.parse::<EventFormat>() {
        assert_eq!(format.to_string(), text);
    }
});

/// Either format carries any event, whichever it came in, and a receiver reads both, however it is configured.
fn assert_carried(event: &Event, size: usize) {
    for format in FORMATS {
        let message = format.encode(event).expect("an event can be written");
        assert!(!message.contains(&b'\n'), "a message is one line");
        // A parent is there three times, once percent-encoded; the constant is the attributes' names.
        assert!(message.len() <= 8 * size + 512, "{size} bytes became {}", message.len());
        for other in FORMATS {
            assert_eq!(other.decode(&message).ok().as_ref(), Some(event));
        }
    }
}

/// The attributes say what the event says, in the spelling of the specification.
fn assert_cloud_event(event: &Event) {
    let message = EventFormat::CloudEvents.encode(event).expect("an event can be written");
    let message: Value = serde_json::from_slice(&message).expect("a message is JSON");
    assert_eq!(message["specversion"], "1.0");
    assert_eq!(message["id"], event.context.event_id.as_str());
    assert_eq!(message["type"], event.event_type.as_str());
    assert_eq!(message["data"], serde_json::to_value(event).expect("an event can be written"));

    let attributes = message.as_object().expect("a message is an object");
    let plain = |name: &String| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    assert!(attributes.keys().all(plain));
    // An attribute without a value is not there.
    for (name, value) in [
        ("correlationid", event.context.correlation_id.as_str()),
        ("parenteventid", event.context.parent_event_id.as_str()),
    ] {
        let said = Some(value).filter(|value| !value.is_empty());
        assert_eq!(attributes.get(name).map(|value| value.as_str().expect("a text")), said);
    }
    // A URI reference, whatever the parent is called.
    let source = message["source"].as_str().expect("a text");
    let uri = |byte: u8| byte.is_ascii_alphanumeric() || b"/*-._+%".contains(&byte);
    assert!(source.starts_with("/events/") && source.bytes().all(uri), "{source}");
}
