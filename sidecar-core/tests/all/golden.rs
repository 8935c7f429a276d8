//! The wire's spelling: each file is read and written back byte for byte.

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sidecar_core::{ErrorBody, Event, EventContext, Insight, KeyValuePairs, Prepared, Receipt, Status};

fn round_trip<T: Serialize + DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let text = fs::read_to_string(&path).unwrap();
    let value: T = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string_pretty(&value).unwrap() + "\n", text, "{name}");
    value
}

#[test]
fn every_document_is_read_and_written_back() {
    round_trip::<KeyValuePairs>("pairs.json");
    round_trip::<Event>("event.json");
    round_trip::<EventContext>("event-context.json");
    round_trip::<Insight>("insight.json");
    round_trip::<Prepared>("prepared.json");
    round_trip::<Receipt>("receipt.json");
    round_trip::<Status>("status.json");
    round_trip::<ErrorBody>("error.json");
}

#[test]
fn documents_of_the_original_are_understood() {
    let event: Event = serde_json::from_str(
        r#"{"context":{"name":"","eventId":"e","correlationId":"c","parentEventId":"p"},"type":"t","previousStages":[],"data":null}"#,
    )
    .unwrap();
    assert!(event.data.is_empty());
    let context: EventContext = serde_json::from_str(
        r#"{"name":"","eventId":"e","correlationId":"c","parentEventId":"p","files":null,"data":null,"_id":"more"}"#,
    )
    .unwrap();
    assert!(context.files.is_empty());
    assert!(serde_json::from_str::<EventContext>(r#"{"correlationId":"c"}"#).is_err());
}

#[test]
fn a_context_cannot_name_a_path_outside() {
    for name in ["../x", "/etc/passwd", "a/../../b", ""] {
        let json = serde_json::json!({"eventId": "e", "correlationId": "c", "files": [name]});
        assert!(serde_json::from_value::<EventContext>(json).is_err(), "{name}");
    }
}
