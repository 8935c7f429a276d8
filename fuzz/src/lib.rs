//! What several targets assert.

use std::fmt::Debug;
use std::path::{Component, Path};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sidecar_core::{KeyValuePairs, Problem};

/// Where names are joined; nothing is there, and nothing is made.
pub const ROOT: &str = "/ion/in/data";

/// Asserts that `joined` is `name` below [`ROOT`], and no other way to write it.
pub fn assert_below(name: &str, joined: &Path) {
    let below = joined.strip_prefix(ROOT).expect("the name leads out of its root");
    let segments: Vec<&str> = below
        .components()
        .map(|component| match component {
            Component::Normal(segment) => segment.to_str().expect("the name was text"),
            other => panic!("{name:?} has the component {other:?}"),
        })
        .collect();
    assert!(!segments.is_empty(), "{name:?} is the root itself");
    assert_eq!(segments.join("/"), name);
}

/// Reads a document as the stores do, and asserts that it survives them; `None` when it is none.
pub fn document<T>(json: &[u8]) -> Option<T>
where
    T: Debug + PartialEq + Serialize + DeserializeOwned,
{
    let read: T = serde_json::from_slice(json).ok()?;
    let written = serde_json::to_vec(&read).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(again, read);
    // A list of two, written as the object that it stands for, grows most; the rest is absent fields.
    assert!(written.len() <= 4 * json.len() + 512, "{} bytes became {}", json.len(), written.len());

    // PostgreSQL keeps a tree, whose keys have an order of their own; MongoDB adds keys of ours and its own.
    let mut tree = serde_json::to_value(&read).expect("what was read can be written");
    tree["_id"] = "context:1".into();
    tree["kind"] = "context".into();
    let again: T = serde_json::from_value(tree).expect("what a store keeps can be read");
    assert_eq!(again, read);
    Some(read)
}

/// Asserts that the problems of `file` are few, in order, short, and point into its text.
pub fn assert_problems(problems: &[Problem], file: &str, text: &[u8]) {
    // The parser stops at 100, and says that more follow.
    assert!((1..=101).contains(&problems.len()), "{} problems", problems.len());
    assert!(problems.is_sorted_by_key(|problem| (problem.line, problem.column)));
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    for problem in problems {
        assert_eq!(problem.file, file);
        let (line, column) = (problem.line.expect("a line"), problem.column.expect("a column"));
        assert!((1..=lines.len()).contains(&line), "{problem}");
        assert!((1..=lines[line - 1].len() + 1).contains(&column), "{problem}");
        // It ends in a log, as one line.
        assert!(!problem.message.contains(char::is_control), "{problem}");
    }
    // A byte that is escaped twice is the longest: DEL takes seven.
    let told: usize = problems.iter().map(|problem| problem.message.len()).sum();
    assert!(told <= 8 * text.len() + 256 * problems.len(), "{told} bytes about {}", text.len());
}

/// The bytes of all keys and values.
pub fn size(pairs: &KeyValuePairs) -> usize {
    pairs.iter().map(|pair| pair.key.len() + pair.value.len()).sum()
}
