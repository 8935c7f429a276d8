//! A trace as one page for a browser, which needs no network.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sidecar_core::DataPlane;
use sidecar_core::lineage::Trace;

use super::content::content;

const PAGE: &str = include_str!("page.html");

/// The largest picture that a page holds, in bytes.
const LARGEST: u64 = 256 * 1024;
/// The most bytes of all its pictures.
const MOST: u64 = 8 * 1024 * 1024;

/// The page of some [`data`].
pub(crate) fn page(data: &Value) -> String {
    // Within a script element only this could end it.
    PAGE.replacen("{{data}}", &data.to_string().replace('<', "\\u003c"), 1)
}

/// What a page shows of a trace: `logs` is what modules printed, by `EVENT/MODULE`.
pub(crate) async fn data(plane: &DataPlane, trace: &Trace, logs: &BTreeMap<String, String>) -> Value {
    let mut pictures = Pictures::default();
    pictures.add(plane, trace).await;
    json!({ "trace": trace, "pictures": pictures.urls, "logs": logs })
}

/// Small pictures as data URLs, by the keys of their blobs.
#[derive(Debug, Default)]
pub(crate) struct Pictures {
    pub(crate) urls: BTreeMap<String, String>,
    bytes: u64,
}

impl Pictures {
    /// Adds those that a trace names. One that cannot be read is left out.
    pub(crate) async fn add(&mut self, plane: &DataPlane, trace: &Trace) {
        let outputs = trace.executions.iter().flat_map(|execution| &execution.outputs);
        let blobs: Vec<_> = trace.events.iter().flat_map(|event| &event.files).chain(outputs).collect();
        for blob in blobs {
            let Some(kind) = picture_type(blob.name.as_str()) else { continue };
            let is_known = self.urls.contains_key(blob.key.as_str());
            if blob.size > LARGEST || self.bytes + blob.size > MOST || is_known {
                continue;
            }
            if let Ok(content) = content(plane, blob).await {
                self.bytes += blob.size;
                let url = format!("data:{kind};base64,{}", STANDARD.encode(content));
                self.urls.insert(blob.key.to_string(), url);
            }
        }
    }
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
