//! Names that cannot hold a bad value.
//!
//! Every name that reaches a path, a blob key or a document id is parsed once, at the edge, into one of
//! these types; whatever holds one can use it without asking again.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The longest blob key, in bytes: the limit of S3, GCS and Azure Blob alike.
pub(crate) const MAX_KEY: usize = 1024;
/// The longest event id or module name, in bytes; two of them and a slash each leave room for a file name.
const MAX_SEGMENT: usize = 128;

/// Why a text is not a name of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {name:?} {why}")]
pub struct InvalidName {
    what: &'static str,
    name: String,
    why: &'static str,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses a name.
            ///
            /// # Errors
            /// [`InvalidName`] says which rule the text breaks.
            pub fn parse(text: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> Result<String, &'static str> = $check;
                check(text)
                    .map(Self)
                    .map_err(|why| InvalidName { what: $what, name: text.to_owned(), why })
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name_type!(
    /// The id of an event: one path segment of at most 128 bytes.
    ///
    /// ```
    /// use sidecar_core::EventId;
    /// assert!(EventId::parse("7c9e6679-7425-40de-944b-e07fc1f90ae7").is_ok());
    /// for refused in ["", ".", "..", "a/b", "a\\b", "a\nb", "a\0b"] {
    ///     assert!(EventId::parse(refused).is_err());
    /// }
    /// ```
    EventId, "event id", segment
);

name_type!(
    /// The id of an insight: one path segment of at most 128 bytes.
    InsightId, "insight id", segment
);

name_type!(
    /// The id of a failure: one path segment of at most 128 bytes.
    FailureId, "failure id", segment
);

name_type!(
    /// The name of a module: one path segment of at most 128 bytes.
    ///
    /// ```
    /// use sidecar_core::ModuleName;
    /// assert!(ModuleName::parse("face-detector").is_ok());
    /// assert!(ModuleName::parse("../face-detector").is_err());
    /// ```
    ModuleName, "module name", module_name
);

name_type!(
    /// The name of a file below `out/data` or `in/data`: relative, `/`-separated, normalised.
    ///
    /// ```
    /// use sidecar_core::FileName;
    /// assert_eq!(FileName::parse("./thumbs//a b.png")?.as_str(), "thumbs/a b.png");
    /// for refused in ["", ".", "/etc/passwd", "../x", "a/../x", "a\0b"] {
    ///     assert!(FileName::parse(refused).is_err());
    /// }
    /// # Ok::<(), sidecar_core::InvalidName>(())
    /// ```
    FileName, "file name", relative
);

name_type!(
    /// The key of a blob: `{event id}/{module name}/{file name}`, at most 1,024 bytes.
    ///
    /// ```
    /// use sidecar_core::{BlobKey, EventId, FileName, ModuleName};
    /// let key = BlobKey::new(
    ///     &EventId::parse("e1")?,
    ///     &ModuleName::parse("thumbnail")?,
    ///     &FileName::parse("small/a.png")?,
    /// )?;
    /// assert_eq!(key.as_str(), "e1/thumbnail/small/a.png");
    /// assert!(BlobKey::parse("e1/../../etc/passwd").is_err());
    /// # Ok::<(), sidecar_core::InvalidName>(())
    /// ```
    BlobKey, "blob key", key
);

impl FileName {
    /// Where the file lies below `root`.
    pub fn below(&self, root: &Path) -> PathBuf {
        root.join(&self.0)
    }
}

impl BlobKey {
    /// The key of a file that module `name` wrote while it processed event `event`.
    ///
    /// # Errors
    /// [`InvalidName`] when the three together are longer than 1,024 bytes.
    pub fn new(event: &EventId, name: &ModuleName, file: &FileName) -> Result<Self, InvalidName> {
        Self::parse(&format!("{event}/{name}/{file}"))
    }

    /// The key of a file that was kept of a failed execution: no module has a name with a leading dot, so that
    /// nobody takes it for an output.
    ///
    /// # Errors
    /// [`InvalidName`] when the parts together are longer than 1,024 bytes.
    pub fn of_failed(event: &EventId, name: &ModuleName, file: &FileName) -> Result<Self, InvalidName> {
        Self::parse(&format!("{event}/.failed/{name}/{file}"))
    }

    /// Where the blob lies below `root`, for stores made of files.
    pub fn below(&self, root: &Path) -> PathBuf {
        root.join(&self.0)
    }
}

fn segment(text: &str) -> Result<String, &'static str> {
    match text {
        "" => Err("is empty"),
        "." | ".." => Err("is a directory"),
        _ if text.len() > MAX_SEGMENT => Err("is longer than 128 bytes"),
        _ if text.contains(['/', '\\']) => Err("has a slash"),
        _ if text.contains(char::is_control) => Err("has a control character"),
        _ => Ok(text.to_owned()),
    }
}

/// A leading dot is kept for this project's own keys.
fn module_name(text: &str) -> Result<String, &'static str> {
    if text.starts_with('.') { Err("begins with a dot") } else { segment(text) }
}

fn relative(text: &str) -> Result<String, &'static str> {
    if text.starts_with('/') {
        return Err("is absolute");
    }
    if text.contains('\0') {
        return Err("has a NUL");
    }
    let segments: Vec<&str> = text.split('/').filter(|s| !matches!(*s, "" | ".")).collect();
    if segments.contains(&"..") {
        return Err("points outside its directory");
    }
    if segments.is_empty() || text.ends_with('/') {
        return Err("names no file");
    }
    Ok(segments.join("/"))
}

fn key(text: &str) -> Result<String, &'static str> {
    if text.len() > MAX_KEY {
        return Err("is longer than 1024 bytes");
    }
    match relative(text)? {
        normal if normal == text => Ok(normal),
        _ => Err("is not normalised"),
    }
}

#[cfg(feature = "engine")]
macro_rules! from_uuid {
    ($($name:ident),*) => {$(
        impl From<uuid::Uuid> for $name {
            fn from(id: uuid::Uuid) -> Self {
                Self(id.to_string())
            }
        }
    )*};
}

#[cfg(feature = "engine")]
from_uuid!(EventId, InsightId, FailureId);
