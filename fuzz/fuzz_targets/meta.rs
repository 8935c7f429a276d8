//! What a module writes into `out/meta.json`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sidecar_core::{KeyValuePairs, Layout, parse_pairs};
use sidecar_fuzz::{assert_problems, size};

const FILE: &str = Layout::OUTPUT_META;

fuzz_target!(|text: &[u8]| {
    // The parser that finds every problem must not find another meaning.
    let parsed = parse_pairs(FILE, text);
    assert_eq!(parsed.as_ref().ok(), plain(text).as_ref());
    match parsed {
        Err(problems) => assert_problems(&problems, FILE, text),
        Ok(pairs) => {
            assert!(size(&pairs) <= text.len());
            let written = serde_json::to_vec(&pairs).expect("pairs can be written");
            assert_eq!(parse_pairs(FILE, &written).as_ref(), Ok(&pairs));
            // As `in/meta.json` is written for the next module.
            let mut pretty = serde_json::to_vec_pretty(&pairs).expect("pairs can be written");
            pretty.push(b'\n');
            assert_eq!(parse_pairs(FILE, &pretty).as_ref(), Ok(&pairs));
        }
    }
});

/// The pairs as serde reads them, which says of a mistake no more than that there is one.
fn plain(text: &[u8]) -> Option<KeyValuePairs> {
    if text.trim_ascii().is_empty() {
        return Some(KeyValuePairs::default());
    }
    // As text: in a field that it skips, serde lets bytes pass that are not.
    let text = std::str::from_utf8(text).ok()?;
    let pairs = serde_json::from_str(text).ok()?;
    // Of an array serde would take the two values in their order.
    let elements: Vec<&serde_json::value::RawValue> = serde_json::from_str(text).ok()?;
    elements.iter().all(|element| element.get().starts_with('{')).then_some(pairs)
}
