//! The types that turn names from outside into paths, keys and ids.

#![no_main]

use std::fmt::{Debug, Display};
use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sidecar_core::{
    BlobKey, Digest, EventId, ExecutionId, FailureId, FileName, InsightId, InvalidName, KeyOwner, ModuleName,
    PrivateId,
};
use sidecar_fuzz::{ROOT, assert_below};

fuzz_target!(|data: &[u8]| {
    let text = &String::from_utf8_lossy(data);
    assert_paths(text);
    assert_segments(text);
    assert_digest(text, data);
    assert_keys(text);
});

fn assert_paths(text: &str) {
    let normal = normal(text);
    let file = name(text, FileName::parse);
    assert_eq!(file.as_ref().map(FileName::as_str), normal.as_deref());
    if let Some(file) = file {
        assert_below(file.as_str(), &file.below(Path::new(ROOT)));
    }
    let key = name(text, BlobKey::parse);
    assert_eq!(key.is_some(), normal.as_deref() == Some(text) && text.len() <= 1024);
    if let Some(key) = key {
        assert_eq!(key.as_str(), text);
        assert_below(text, &key.below(Path::new(ROOT)));
    }
}

fn assert_segments(text: &str) {
    let segment = normal(text).as_deref() == Some(text)
        && text.len() <= 128
        && !text.contains(['/', '\\'])
        && !text.contains(char::is_control);
    assert_eq!(name(text, EventId::parse).is_some(), segment);
    assert_eq!(name(text, InsightId::parse).is_some(), segment);
    assert_eq!(name(text, FailureId::parse).is_some(), segment);
    assert_eq!(name(text, ModuleName::parse).is_some(), segment && !text.starts_with('.'));
}

fn assert_digest(text: &str, data: &[u8]) {
    if let Some(digest) = Digest::parse(text) {
        assert_eq!(digest.to_string(), text);
    }
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(data).for_each(|(byte, given)| *byte = *given);
    assert_eq!(Digest::parse(&Digest(bytes).to_string()), Some(Digest(bytes)));
}

/// Keys of an event, a module and a file, a line each, tell whose they are, and no two files share one.
fn assert_keys(text: &str) {
    let lines: Vec<&str> = text.splitn(3, '\n').collect();
    let [event, module, file] = lines[..] else { return };
    let (Ok(event), Ok(module), Ok(file)) =
        (EventId::parse(event), ModuleName::parse(module), FileName::parse(file))
    else {
        return;
    };
    let (run, id) = (text.len() as u32, PrivateId::parse(ID).expect("it is one"));
    let execution = ExecutionId { event_id: event.clone(), name: module.clone(), run };
    let own = format!("~{run}-{ID}");
    let parts = [event.as_str(), module.as_str(), own.as_str(), file.as_str()];
    let key = BlobKey::of_output(&execution, &id, &file);
    assert_eq!(key.is_ok(), parts.join("/").len() <= 1024);
    if let Ok(key) = key {
        assert_eq!(key.as_str().splitn(4, '/').collect::<Vec<_>>(), parts);
        let owner = key.owner().expect("it is private");
        assert_eq!(owner, KeyOwner::Proposal(execution, id.clone()));
        assert_eq!(owner.key(&file), Ok(key));
    }
    if let Ok(kept) = BlobKey::of_failed(&event, &module, &id, &file) {
        assert_eq!(kept.as_str(), format!("{event}/.failed/{module}/~{ID}/{file}"));
        assert_eq!(kept.owner(), None);
        assert!(ModuleName::parse(".failed").is_err(), "a module could write among the failed");
    }
}

const ID: &str = "00112233445566778899aabbccddeeff";

/// What every kind of name promises; `None` when the text is refused.
fn name<T>(text: &str, parse: fn(&str) -> Result<T, InvalidName>) -> Option<T>
where
    T: Debug + Display + PartialEq + Serialize + DeserializeOwned,
{
    let json = serde_json::to_string(text).expect("text can be written");
    let read = serde_json::from_str::<T>(&json).ok();
    let parsed = parse(text);
    assert_eq!(read.as_ref(), parsed.as_ref().ok(), "a document takes other names");
    match parsed {
        Ok(name) => {
            let written = name.to_string();
            assert!(written.len() <= text.len() && !written.contains('\0'));
            assert_eq!(parse(&written).as_ref(), Ok(&name));
            let json = serde_json::to_string(&name).expect("a name can be written");
            assert_eq!(serde_json::from_str::<T>(&json).ok().as_ref(), Some(&name));
            Some(name)
        }
        Err(invalid) => {
            // It ends in a log, as one line; a byte that is escaped twice takes at most seven.
            let message = invalid.to_string();
            assert!(!message.contains(char::is_control), "{message}");
            assert!(message.len() <= 8 * text.len() + 64, "{message}");
            None
        }
    }
}

/// The text as a plain path below a directory, as the standard library sees it.
fn normal(text: &str) -> Option<String> {
    if text.contains('\0') || text.ends_with('/') {
        return None;
    }
    let mut segments = Vec::new();
    for component in Path::new(text).components() {
        match component {
            Component::Normal(segment) => segments.push(segment.to_str()?),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!segments.is_empty()).then(|| segments.join("/"))
}
