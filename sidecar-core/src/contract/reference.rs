//! Files of an event that lie in a store of somebody else's.

use serde::{Deserialize, Serialize};

use super::{Digest, FileName};

/// A file that an event refers to where it lies, instead of holding a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The file's name below `in/data` of its consumers.
    pub name: FileName,
    /// Where it is: `s3://bucket/key`, `az://container/key`, `gs://bucket/key` or `file:///path`, without an endpoint.
    pub url: String,
    /// Which of all objects that were ever there it is.
    #[serde(flatten)]
    pub pinned: Pinned,
}

/// What tells an object from those that were under its name before it, and will be after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// Its size in bytes.
    pub size: u64,
    /// Its entity tag, as its store spells it; another content has another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Its version, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// What an object that events refer to held when it was staged for the first time; decided once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectDigest {
    /// The document's id, made of the URL and of what was pinned.
    pub id: String,
    /// The graph for which it was staged.
    pub correlation_id: String,
    /// Where it was.
    pub url: String,
    /// Which object it was.
    #[serde(flatten)]
    pub pinned: Pinned,
    /// The digest of its content.
    pub digest: Digest,
}
