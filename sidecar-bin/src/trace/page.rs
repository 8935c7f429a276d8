//! A trace as one page for a browser, which needs no network.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sidecar_core::DataPlane;
use sidecar_core::blob::Target;
use sidecar_core::lineage::Trace;

const PAGE: &str = include_str!("page.html");

/// The largest picture that a page holds, in bytes.
const LARGEST: u64 = 256 * 1024;
/// The most bytes of all its pictures.
const MOST: u64 = 8 * 1024 * 1024;

/// The page. `pictures` are the contents of small pictures, by the keys of their blobs; `logs` what modules printed, by
/// `EVENT/MODULE`.
pub(crate) fn page(
    trace: &Trace,
    pictures: &BTreeMap<String, String>,
    logs: &BTreeMap<String, String>,
) -> String {
    let data = json!({ "trace": trace, "pictures": pictures, "logs": logs }).to_string();
    // Within a script element only this could end it.
    PAGE.replacen("{{data}}", &data.replace('<', "\\u003c"), 1)
}

/// The small pictures that a trace names, as data URLs by their keys. One that cannot be read is left out.
pub(crate) async fn pictures(plane: &DataPlane, trace: &Trace) -> BTreeMap<String, String> {
    let outputs = trace.executions.iter().flat_map(|execution| &execution.outputs);
    let files = trace.events.iter().flat_map(|event| &event.files).chain(outputs);
    let (mut pictures, mut bytes) = (BTreeMap::new(), 0);
    let Ok(dir) = tempfile::tempdir() else { return pictures };
    for blob in files {
        let Some(kind) = picture_type(blob.name.as_str()) else { continue };
        if blob.size > LARGEST || bytes + blob.size > MOST || pictures.contains_key(blob.key.as_str()) {
            continue;
        }
        let path = dir.path().join("picture");
        let read = plane.blobs.get(&blob.key, &Target::file(&path).at_most(blob.size)).await;
        if read.is_ok_and(|read| read.digest == blob.digest)
            && let Ok(content) = std::fs::read(&path)
        {
            bytes += blob.size;
            let url = format!("data:{kind};base64,{}", STANDARD.encode(content));
            pictures.insert(blob.key.to_string(), url);
        }
    }
    pictures
}

/// The media type of a picture, by the ending of its name.
pub(crate) fn picture_type(name: &str) -> Option<&'static str> {
    let (_, ending) = name.rsplit_once('.')?;
    Some(match &*ending.to_ascii_lowercase() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        // An element img runs no script of it.
        "svg" => "image/svg+xml",
        _ => return None,
    })
}
