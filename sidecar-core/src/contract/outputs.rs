//! Reading what a module wrote: `out/meta.json` and `out/events/*.json`.
//!
//! A module's author fixes what is reported and calls again, so the parser does not stop at the first
//! mistake: it reports every problem of a file, each with its line and column.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{FileName, KeyValuePair, KeyValuePairs, Layout};

/// The key of the pair that holds an event's type.
pub const EVENT_TYPE: &str = "eventType";
/// The key of the pair that names an event's files.
pub const FILES: &str = "files";

/// The most problems reported of one file: enough to mend it, and a bound on hostile ones.
const MAX_PROBLEMS: usize = 100;

/// Something wrong with an output, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The file, relative to the base directory.
    pub file: String,
    /// The line, counted from 1; absent where the problem is the file itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The column in bytes, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
}

impl Problem {
    /// A problem with a file as a whole.
    pub fn of(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self { file: file.into(), line: None, column: None, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Which event types a module may publish.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum EventTypes {
    /// Any type.
    #[default]
    Any,
    /// These and no others.
    Only(Vec<String>),
}

impl EventTypes {
    /// Parses a comma-separated list; an empty one allows any type.
    pub fn parse(list: &str) -> Self {
        let types: Vec<String> =
            list.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect();
        if types.is_empty() { Self::Any } else { Self::Only(types) }
    }

    /// Whether a module may publish this type.
    pub fn allow(&self, event_type: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(types) => types.iter().any(|t| t == event_type),
        }
    }
}

/// One event as the module wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputEvent {
    /// The value of the pair `eventType`.
    pub event_type: String,
    /// The files named by the pairs `files`, normalised.
    pub files: Vec<FileName>,
    /// Every other pair, in order.
    pub data: KeyValuePairs,
}

/// Parses a key/value file such as `out/meta.json`; an empty file means no pairs.
///
/// # Errors
/// Every problem of the file.
pub fn parse_pairs(file: &str, text: &[u8]) -> Result<KeyValuePairs, Vec<Problem>> {
    let mut reader = Reader::new(file, text);
    let pairs = if text.trim_ascii().is_empty() { Vec::new() } else { reader.pairs() };
    reader.finish(KeyValuePairs(pairs.into_iter().map(|located| located.pair).collect()))
}

/// Parses one file of `out/events`.
///
/// `exists` tells whether a file lies under `out/data`.
/// A `files` value that is itself the name of such a file is that file; otherwise it is a comma-separated
/// list, so a name with a comma takes a pair of its own.
///
/// # Errors
/// Every problem of the file.
pub fn parse_event(
    file: &str,
    text: &[u8],
    allowed: &EventTypes,
    exists: impl Fn(&FileName) -> bool,
) -> Result<OutputEvent, Vec<Problem>> {
    let mut reader = Reader::new(file, text);
    let mut event =
        OutputEvent { event_type: String::new(), files: Vec::new(), data: KeyValuePairs::default() };
    let mut typed = false;
    let mut named = HashSet::new();
    let mut misspelt = String::new();
    let pairs = reader.pairs();
    let legible = reader.problems.is_empty();
    for Located { pair, at } in pairs {
        match pair.key.as_str() {
            EVENT_TYPE if typed => reader.report(at, format!("a second {EVENT_TYPE:?}")),
            EVENT_TYPE => {
                typed = true;
                if pair.value.is_empty() {
                    reader.report(at, format!("{EVENT_TYPE:?} is empty"));
                } else if !allowed.allow(&pair.value) {
                    reader.report(at, not_allowed(&pair.value, allowed));
                }
                event.event_type = pair.value;
            }
            FILES => {
                for name in split_files(&pair.value, &exists) {
                    match FileName::parse(name) {
                        Err(invalid) => reader.report(at, invalid.to_string()),
                        Ok(name) if !exists(&name) => {
                            let meant = meant(&name, &exists);
                            reader.report(
                                at,
                                format!("out/data has no file {name:?}{meant}", name = name.as_str()),
                            )
                        }
                        Ok(name) if !named.insert(name.clone()) => {
                            reader.report(at, format!("file {name:?} is named twice", name = name.as_str()));
                        }
                        Ok(name) => event.files.push(name),
                    }
                }
            }
            key => {
                if key.eq_ignore_ascii_case(EVENT_TYPE) {
                    misspelt = format!(" (there is {key:?}; case counts)");
                }
                event.data.0.push(pair);
            }
        }
    }
    if !typed && legible {
        reader.report(0, format!("no pair with the key {EVENT_TYPE:?}{misspelt}"));
    }
    reader.finish(event)
}

/// A hint for a name that is meant from another directory.
fn meant(name: &FileName, exists: impl Fn(&FileName) -> bool) -> String {
    let name = name.as_str();
    let inner = name.strip_prefix("out/data/").or_else(|| name.strip_prefix("data/"));
    match inner.and_then(|inner| FileName::parse(inner).ok()).filter(|inner| exists(inner)) {
        Some(inner) => format!(": names are relative to out/data, so say {:?}", inner.as_str()),
        None => String::new(),
    }
}

fn not_allowed(event_type: &str, allowed: &EventTypes) -> String {
    let EventTypes::Only(types) = allowed else { return String::new() };
    if types.is_empty() {
        return format!(
            "event type {event_type:?} is not allowed: the module may publish none (publishes, --valideventtypes)"
        );
    }
    format!("event type {event_type:?} is not allowed (allowed: {})", types.join(", "))
}

fn split_files(value: &str, exists: impl Fn(&FileName) -> bool) -> Vec<&str> {
    if FileName::parse(value).is_ok_and(|name| exists(&name)) {
        return vec![value];
    }
    let is_file = |name: &str| FileName::parse(name).is_ok_and(|name| exists(&name));
    value
        .split(',')
        .map(|name| if is_file(name) { name } else { name.trim() })
        .filter(|name| !name.is_empty())
        .collect()
}

struct Located {
    pair: KeyValuePair,
    /// Offset of the pair's value in the file, in bytes.
    at: usize,
}

/// A file being read, with the problems found so far.
struct Reader<'t> {
    file: &'t str,
    text: &'t [u8],
    problems: Vec<Problem>,
}

#[derive(Deserialize)]
struct RawPair<'t> {
    #[serde(borrow)]
    key: Option<&'t RawValue>,
    #[serde(borrow)]
    value: Option<&'t RawValue>,
}

impl<'t> Reader<'t> {
    fn new(file: &'t str, text: &'t [u8]) -> Self {
        Self { file, text, problems: Vec::new() }
    }

    fn pairs(&mut self) -> Vec<Located> {
        let text = match std::str::from_utf8(self.text) {
            Ok(text) => text,
            Err(error) => {
                self.report(error.valid_up_to(), "not UTF-8");
                return Vec::new();
            }
        };
        if text.starts_with('\u{feff}') {
            self.report(0, "begins with a byte order mark: write plain UTF-8");
            return Vec::new();
        }
        let elements: Vec<&RawValue> = match serde_json::from_str(text) {
            Ok(elements) => elements,
            Err(error) => {
                let message = if error.is_data() {
                    "expected an array of {\"key\": …, \"value\": …}".to_owned()
                } else if text.trim().is_empty() {
                    "the file is empty: expected an array of {\"key\": …, \"value\": …}".to_owned()
                } else {
                    format!("broken JSON: {}", without_position(&error))
                };
                self.problems.push(Problem {
                    file: self.file.to_owned(),
                    line: Some(error.line().max(1)),
                    column: Some(error.column().max(1)),
                    message,
                });
                return Vec::new();
            }
        };
        elements.into_iter().filter_map(|element| self.pair(text, element.get())).collect()
    }

    fn pair(&mut self, text: &str, element: &str) -> Option<Located> {
        let start = offset(text, element);
        // Of an array serde would take the two values in their order.
        let object = element.starts_with('{').then(|| serde_json::from_str(element));
        let Some(Ok(RawPair { key: Some(key), value: Some(value) })) = object else {
            let hint = odd_pair(element);
            self.report(start, format!("expected an object with \"key\" and \"value\"{hint}"));
            return None;
        };
        let mut string = |what: &str, raw: &RawValue| match serde_json::from_str::<String>(raw.get()) {
            Ok(string) => Some(string),
            Err(_) => {
                if raw.get().starts_with('"') {
                    // What else is wrong with a string was wrong with the whole text.
                    let why = "has half a surrogate pair, as Python writes for a name that is not UTF-8: it is no text";
                    self.report(offset(text, raw.get()), format!("{what:?} {why}"));
                    return None;
                }
                let plain =
                    raw.get().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
                let hint = if plain && raw.get().len() < 40 {
                    format!(": write \"{}\"", raw.get())
                } else {
                    String::new()
                };
                self.report(offset(text, raw.get()), format!("{what:?} must be a string{hint}"));
                None
            }
        };
        let (key, text_value) = (string("key", key), string("value", value));
        Some(Located { pair: KeyValuePair { key: key?, value: text_value? }, at: offset(text, value.get()) })
    }

    fn report(&mut self, at: usize, message: impl Into<String>) {
        let message = match self.problems.len().cmp(&MAX_PROBLEMS) {
            std::cmp::Ordering::Less => message.into(),
            std::cmp::Ordering::Equal => "more problems follow".to_owned(),
            std::cmp::Ordering::Greater => return,
        };
        let before = &self.text[..at.min(self.text.len())];
        let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
        self.problems.push(Problem {
            file: self.file.to_owned(),
            line: Some(before.iter().filter(|b| **b == b'\n').count() + 1),
            column: Some(before.len() - line_start + 1),
            message,
        });
    }

    fn finish<T>(mut self, value: T) -> Result<T, Vec<Problem>> {
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        if self.problems.is_empty() { Ok(value) } else { Err(self.problems) }
    }
}

/// Where `part`, a slice of `whole`, begins.
fn offset(whole: &str, part: &str) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

impl Layout {
    /// How `out/meta.json` is called in a [`Problem`].
    pub const OUTPUT_META: &'static str = "out/meta.json";
    /// How `out/events` is called in a [`Problem`].
    pub const OUTPUT_EVENTS: &'static str = "out/events";
    /// How `out/data` is called in a [`Problem`].
    pub const OUTPUT_DATA: &'static str = "out/data";
}

/// What is odd about an object that is no pair.
fn odd_pair(element: &str) -> &'static str {
    let Ok(serde_json::Value::Object(object)) = serde_json::from_str(element) else { return "" };
    let is = |name: &str| object.keys().any(|key| key != name && key.eq_ignore_ascii_case(name));
    match () {
        () if ["key", "value"]
            .iter()
            .any(|name| object.get(*name).is_some_and(serde_json::Value::is_null)) =>
        {
            ": a text, not null"
        }
        () if is("key") || is("value") => ": case counts",
        // A map takes the last of two; a pair that has two is nobody's intention.
        () if serde_json::from_str::<RawPair<'_>>(element).is_err() => ", each of them once",
        () => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Result<OutputEvent, Vec<String>> {
        let files = ["a.png", "small/b.png", "c,d.png", " e.png"];
        let allowed = EventTypes::parse("face_detected, done");
        parse_event("out/events/1.json", text.as_bytes(), &allowed, |name| files.contains(&name.as_str()))
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_order_of_keys_and_pairs_does_not_matter() {
        let one = event(
            r#"[{"key":"eventType","value":"done"},{"key":"files","value":"a.png"},{"key":"k","value":"v"}]"#,
        );
        let other = event(
            r#"[{"value":"v","key":"k"},{"value":"a.png","key":"files"},{"value":"done","key":"eventType"}]"#,
        );
        assert_eq!(one, other);
        assert_eq!(one.unwrap().data, KeyValuePairs::from_iter([("k", "v")]));
    }

    #[test]
    fn half_a_surrogate_pair_is_said_to_be_one() {
        let problems =
            event(r#"[{"key":"eventType","value":"done"},{"key":"k","value":"caf\udce9"}]"#).unwrap_err();
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert!(problem.contains("\"value\" has half a surrogate pair"), "{problem}");
    }

    #[test]
    fn every_problem_has_its_line_and_column() {
        let text = "[\n  {\"key\": \"eventType\", \"value\": \"other\"},\n  {\"key\": \"n\", \"value\": 3},\n  {\"key\": \"files\", \"value\": \"x.png,../y,a.png,./a.png\"},\n  7,\n  [\"k\", \"v\"]\n]";
        assert_eq!(
            event(text).unwrap_err(),
            [
                "out/events/1.json:2:33: event type \"other\" is not allowed (allowed: face_detected, done)",
                "out/events/1.json:3:25: \"value\" must be a string: write \"3\"",
                "out/events/1.json:4:29: out/data has no file \"x.png\"",
                "out/events/1.json:4:29: file name \"../y\" points outside its directory",
                "out/events/1.json:4:29: file \"a.png\" is named twice",
                "out/events/1.json:5:3: expected an object with \"key\" and \"value\"",
                "out/events/1.json:6:3: expected an object with \"key\" and \"value\"",
            ]
        );
    }

    #[test]
    fn a_name_with_a_comma_takes_a_pair_of_its_own() {
        let parsed = event(
            r#"[{"key":"eventType","value":"done"},{"key":"files","value":"c,d.png"},{"key":"files","value":"a.png, small/b.png"}]"#,
        );
        let names: Vec<_> = parsed.unwrap().files.iter().map(|name| name.to_string()).collect();
        assert_eq!(names, ["c,d.png", "a.png", "small/b.png"]);
    }

    #[test]
    fn a_pair_with_two_keys_is_refused() {
        let twice = event(r#"[{"key": "eventType", "key": "x", "value": "done"}]"#);
        let expected =
            "out/events/1.json:1:2: expected an object with \"key\" and \"value\", each of them once";
        assert_eq!(twice.unwrap_err()[0], expected);
    }

    #[test]
    fn an_event_needs_a_type() {
        let missing = "no pair with the key \"eventType\"";
        assert_eq!(event("[]").unwrap_err(), [format!("out/events/1.json:1:1: {missing}")]);
        assert_eq!(
            event("{}").unwrap_err(),
            ["out/events/1.json:1:1: expected an array of {\"key\": …, \"value\": …}"]
        );
        assert_eq!(
            event("").unwrap_err(),
            ["out/events/1.json:1:1: the file is empty: expected an array of {\"key\": …, \"value\": …}"]
        );
        assert_eq!(
            event("[\n{").unwrap_err(),
            ["out/events/1.json:2:1: broken JSON: EOF while parsing an object"]
        );
    }

    #[test]
    fn what_was_most_likely_meant_is_said() {
        let of = |text: &str| event(text).unwrap_err().remove(0);
        let typed = r#"{"key":"eventType","value":"done"}"#;
        assert!(
            of(r#"[{"key":"EventType","value":"done"}]"#).ends_with("(there is \"EventType\"; case counts)")
        );
        let named = format!(r#"[{typed},{{"key":"files","value":"out/data/a.png"}}]"#);
        assert!(
            of(&named).ends_with(
                "has no file \"out/data/a.png\": names are relative to out/data, so say \"a.png\""
            )
        );
        assert!(of("\u{feff}[]").ends_with("begins with a byte order mark: write plain UTF-8"));
    }

    #[test]
    fn absent_insights_are_no_problem() {
        assert_eq!(parse_pairs("out/meta.json", b" \n").unwrap(), KeyValuePairs::default());
        assert_eq!(parse_pairs("out/meta.json", b"[]").unwrap(), KeyValuePairs::default());
        assert!(parse_pairs("out/meta.json", b"\xff").is_err());
    }

    #[test]
    fn deep_nesting_is_a_problem_not_a_crash() {
        let deep = format!("[{}{}]", "[".repeat(200_000), "]".repeat(200_000));
        assert!(event(&deep).is_err());
    }
}
