//! How two outcomes differ.

use std::collections::{BTreeMap, BTreeSet};

use super::{Trace, TracedEvent, TracedExecution};
use crate::contract::{Blob, KeyValuePairs, Layout, Published};

/// A difference between a recorded outcome and another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The file that the module wrote, such as `out/data/a.txt`; with the key after a colon for an insight.
    pub place: String,
    /// How it differs, for a person.
    pub what: String,
    /// The file as it was recorded and as it is now, where its content differs.
    pub contents: Option<(Blob, Blob)>,
}

/// An outcome, and the trace that tells of its events.
#[derive(Debug, Clone, Copy)]
pub struct Traced<'t> {
    /// The outcome.
    pub execution: &'t TracedExecution,
    /// Its trace.
    pub trace: &'t Trace,
}

impl Traced<'_> {
    /// How `other` differs from this outcome: in files, insights, and events with their values and files. What never is
    /// the same, such as ids and times, is not looked at.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let mut all = files(&self.execution.outputs, &other.execution.outputs);
        all.extend(pairs(Layout::OUTPUT_META, &self.execution.insight, &other.execution.insight));
        all.extend(self.events(other));
        all
    }

    fn events(&self, other: &Self) -> Vec<Difference> {
        let (recorded, found) = (by_file(&self.execution.events), by_file(&other.execution.events));
        let names: BTreeSet<&str> = recorded.keys().chain(found.keys()).copied().collect();
        let mut all = Vec::new();
        for name in names {
            let place = format!("{}/{name}", Layout::OUTPUT_EVENTS);
            let (recorded, found) = match (recorded.get(name), found.get(name)) {
                (Some(recorded), Some(found)) => (*recorded, *found),
                (Some(recorded), None) => {
                    let what = format!("is missing: an event of type {:?}", recorded.event_type);
                    all.push(Difference { place, what, contents: None });
                    continue;
                }
                (None, found) => {
                    let event_type = found.map(|found| &*found.event_type).unwrap_or_default();
                    let what = format!("is new: an event of type {event_type:?}");
                    all.push(Difference { place, what, contents: None });
                    continue;
                }
            };
            if recorded.event_type != found.event_type {
                let what = format!("has type {:?} instead of {:?}", found.event_type, recorded.event_type);
                all.push(Difference { place: place.clone(), what, contents: None });
            }
            let events = (self.trace.event(&recorded.event_id), other.trace.event(&found.event_id));
            if let (Some(recorded), Some(found)) = events {
                all.extend(pairs(&place, &recorded.data, &found.data));
                let names = |event: &TracedEvent| -> Vec<String> {
                    event.files.iter().map(|file| file.name.to_string()).collect()
                };
                let (recorded, found) = (names(recorded), names(found));
                if recorded != found {
                    let what = format!("names the files {found:?} instead of {recorded:?}");
                    all.push(Difference { place, what, contents: None });
                }
            }
        }
        all
    }
}

fn by_file(events: &[Published]) -> BTreeMap<&str, &Published> {
    events.iter().map(|event| (&*event.file, event)).collect()
}

fn files(recorded: &[Blob], found: &[Blob]) -> Vec<Difference> {
    let by_name = |files: &[Blob]| -> BTreeMap<String, Blob> {
        files.iter().map(|file| (file.name.to_string(), file.clone())).collect()
    };
    let (recorded, mut found) = (by_name(recorded), by_name(found));
    let mut all = Vec::new();
    for (name, recorded) in recorded {
        let place = format!("{}/{name}", Layout::OUTPUT_DATA);
        let Some(found) = found.remove(&name) else {
            all.push(Difference { place, what: "is missing".into(), contents: None });
            continue;
        };
        if recorded.executable != found.executable {
            let what = if found.executable { "is executable" } else { "is not executable" };
            all.push(Difference { place: place.clone(), what: what.into(), contents: None });
        }
        if recorded.digest != found.digest {
            let what = format!("has other content: {} bytes instead of {}", found.size, recorded.size);
            all.push(Difference { place, what, contents: Some((recorded, found)) });
        }
    }
    all.extend(found.into_keys().map(|name| {
        let place = format!("{}/{name}", Layout::OUTPUT_DATA);
        Difference { place, what: "is new".into(), contents: None }
    }));
    all
}

/// Pairs are a list: their order and repeats count, for each key.
fn pairs(file: &str, recorded: &KeyValuePairs, found: &KeyValuePairs) -> Vec<Difference> {
    let keys: BTreeSet<&str> = recorded.iter().chain(found.iter()).map(|pair| &*pair.key).collect();
    let mut all = Vec::new();
    for key in keys {
        let values = |pairs: &KeyValuePairs| pairs.all(key).map(str::to_owned).collect::<Vec<_>>();
        let (recorded, found) = (values(recorded), values(found));
        if recorded == found {
            continue;
        }
        let shown = |values: &[String]| match values {
            [] => "nothing".to_owned(),
            [one] => format!("{one:?}"),
            several => format!("{several:?}"),
        };
        let what = format!("is {} instead of {}", shown(&found), shown(&recorded));
        all.push(Difference { place: format!("{file}:{key}"), what, contents: None });
    }
    all
}
