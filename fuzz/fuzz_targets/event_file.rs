//! What a module writes into `out/events`.

#![no_main]

use std::collections::HashSet;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sidecar_core::{
    EVENT_TYPE, EventTypes, FILES, FileName, KeyValuePairs, OutputEvent, parse_event, parse_pairs,
};
use sidecar_fuzz::{ROOT, assert_below, assert_problems, size};

const FILE: &str = "out/events/1.json";

/// Whether `out/data` has a file of this name.
type Exists = fn(&FileName) -> bool;

/// Where every name is a file's, a list is one name; where those of lists are not, it is split and trimmed.
const DIRECTORIES: [Exists; 2] = [
    |_| true,
    |name| {
        let name = name.as_str();
        !name.contains(',') && name == name.trim() && !name.ends_with(".absent")
    },
];

fuzz_target!(|text: &[u8]| {
    let few = EventTypes::parse("face_detected, done");
    for exists in DIRECTORIES {
        let any = read(text, &EventTypes::Any, exists);
        // A restriction of types takes away, and does nothing else.
        let allowed = any.clone().filter(|event| few.allow(&event.event_type));
        assert_eq!(read(text, &few, exists), allowed);
        if let Some(event) = any {
            assert_says_the_same(&event, text);
            assert_usable(&event, text, exists);
            assert_eq!(read(&written(&event), &EventTypes::Any, exists), Some(event));
        }
    }
});

fn read(text: &[u8], types: &EventTypes, exists: Exists) -> Option<OutputEvent> {
    parse_event(FILE, text, types, exists).map_err(|problems| assert_problems(&problems, FILE, text)).ok()
}

/// No pair is lost, none is made up, and their order is kept.
fn assert_says_the_same(event: &OutputEvent, text: &[u8]) {
    let pairs = parse_pairs(FILE, text).expect("an event is a list of pairs");
    assert_eq!(pairs.all(EVENT_TYPE).collect::<Vec<_>>(), [event.event_type.as_str()]);
    let others = pairs.iter().filter(|pair| pair.key != EVENT_TYPE && pair.key != FILES);
    assert!(event.data.iter().eq(others));
}

fn assert_usable(event: &OutputEvent, text: &[u8], exists: Exists) {
    assert!(!event.event_type.is_empty());
    let distinct: HashSet<&FileName> = event.files.iter().collect();
    assert_eq!(distinct.len(), event.files.len(), "a file is named twice");
    for name in &event.files {
        assert!(exists(name));
        assert_below(name.as_str(), &name.below(Path::new(ROOT)));
    }
    let names: usize = event.files.iter().map(|name| name.as_str().len()).sum();
    assert!(event.event_type.len() + names + size(&event.data) <= text.len());
}

/// The event as a module would write it, each file in a pair of its own.
fn written(event: &OutputEvent) -> Vec<u8> {
    let mut pairs = KeyValuePairs::default();
    pairs.push(EVENT_TYPE, event.event_type.as_str());
    for name in &event.files {
        pairs.push(FILES, name.as_str());
    }
    for pair in &event.data {
        pairs.push(pair.key.as_str(), pair.value.as_str());
    }
    serde_json::to_vec(&pairs).expect("pairs can be written")
}
