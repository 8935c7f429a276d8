//! What an execution leaves behind, without what differs from one attempt to the next: proposals, ids that are made
//! of them, and times.

/// The text with every private id, UUID and time replaced by its kind.
pub fn normal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '.');
    let mut rest = text;
    while let Some(from) = rest.find(is_part) {
        out.push_str(&rest[..from]);
        let token = &rest[from..];
        let end = token.find(|c| !is_part(c)).unwrap_or(token.len());
        out.push_str(&kind(&token[..end]));
        rest = &token[end..];
    }
    out + rest
}

fn kind(token: &str) -> String {
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let (stem, extension) = token.split_once(".json").map_or((token, ""), |(stem, _)| (stem, ".json"));
    let parts: Vec<&str> = stem.split('-').collect();
    if parts.len() == 5
        && parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|p| is_hex(p))
    {
        return format!("UUID{extension}");
    }
    match stem.len().checked_sub(32).and_then(|from| Some((stem.get(..from)?, stem.get(from..)?))) {
        // A digest is as long twice.
        Some((before, id)) if is_hex(id) && (before.is_empty() || before.ends_with('-')) => {
            return format!("{before}ID{extension}");
        }
        _ => {}
    }
    if stem.starts_with("20") && stem.ends_with('Z') && stem.contains('T') {
        return "TIME".into();
    }
    token.to_owned()
}

/// Names and contents of files in an order that does not depend on ids.
pub fn normal_files(files: impl IntoIterator<Item = (String, String)>) -> Vec<(String, String)> {
    let normal = |(name, content): (String, String)| match name.starts_with("executions/") {
        true => (normal(&name), normal(&without_keys(&content))),
        false => (normal(&name), normal(&content)),
    };
    // An entry of a graph may outlive its document.
    let files = files.into_iter().filter(|(name, _)| !name.starts_with("graphs/"));
    let mut files: Vec<_> = files.map(normal).collect();
    files.sort();
    files
}

/// A record without its stores, which are named by their directories, and without the keys of files that an earlier
/// proposal had stored already.
fn without_keys(record: &str) -> String {
    let mut record: serde_json::Value = serde_json::from_str(record).unwrap();
    record["stores"] = serde_json::Value::Null;
    for output in record["outputs"].as_array_mut().unwrap() {
        output.as_object_mut().unwrap().remove("key");
    }
    record.to_string()
}
