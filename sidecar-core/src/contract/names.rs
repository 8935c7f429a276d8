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

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
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
    /// The id of a proposal, of an attempt or of a submission: 128 random bits as 32 lower-case hexadecimal digits.
    ///
    /// It is never used twice, and what is stored under it belongs to whoever made it up.
    ///
    /// ```
    /// use sidecar_core::PrivateId;
    /// assert!(PrivateId::parse("00112233445566778899aabbccddeeff").is_ok());
    /// assert!(PrivateId::parse("1").is_err());
    /// ```
    PrivateId, "private id", private
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
    /// The key of a blob: relative, `/`-separated, normalised, at most 1,024 bytes.
    ///
    /// An output lies under `{event id}/{module name}/~{run}-{proposal}/{file name}`: a key that no other attempt
    /// uses, and that is written once.
    ///
    /// ```
    /// use sidecar_core::{BlobKey, EventId, ExecutionId, FileName, ModuleName, PrivateId};
    /// let execution = ExecutionId { event_id: EventId::parse("e1")?, name: ModuleName::parse("thumbnail")?, run: 0 };
    /// let proposal = PrivateId::parse("00112233445566778899aabbccddeeff")?;
    /// let key = BlobKey::of_output(&execution, &proposal, &FileName::parse("small/a.png")?)?;
    /// assert_eq!(key.as_str(), "e1/thumbnail/~0-00112233445566778899aabbccddeeff/small/a.png");
    /// assert!(BlobKey::parse("e1/../../etc/passwd").is_err());
    /// # Ok::<(), sidecar_core::InvalidName>(())
    /// ```
    BlobKey, "blob key", key
);

/// An execution: one run of one module for one event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionId {
    /// The event being processed.
    pub event_id: EventId,
    /// The module that processes it.
    pub name: ModuleName,
    /// 0, or more where an earlier run was abandoned or the module ran again on purpose.
    pub run: u32,
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.event_id, self.name, self.run)
    }
}

/// Whose a key is that only one writer uses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyOwner {
    /// A proposal of an execution.
    Proposal(ExecutionId, PrivateId),
    /// A submission of this event.
    Submission(EventId, PrivateId),
}

impl KeyOwner {
    /// What all of its keys begin with.
    pub fn prefix(&self) -> String {
        match self {
            Self::Proposal(ExecutionId { event_id, name, run }, proposal) => {
                format!("{event_id}/{name}/~{run}-{proposal}/")
            }
            Self::Submission(event_id, id) => format!("{event_id}/{SUBMITTED}/~{id}/"),
        }
    }

    /// The key of a file.
    ///
    /// # Errors
    /// [`InvalidName`] when the parts together are longer than 1,024 bytes.
    pub fn key(&self, file: &FileName) -> Result<BlobKey, InvalidName> {
        BlobKey::parse(&format!("{}{file}", self.prefix()))
    }
}

/// Stands for the module in the keys of submitted files; no module can have this name.
const SUBMITTED: &str = ".submit";

impl FileName {
    /// Where the file lies below `root`.
    pub fn below(&self, root: &Path) -> PathBuf {
        root.join(&self.0)
    }
}

impl BlobKey {
    /// The key of a file that an execution wrote, in one of its proposals.
    ///
    /// # Errors
    /// [`InvalidName`] when the parts together are longer than 1,024 bytes.
    pub fn of_output(
        execution: &ExecutionId,
        proposal: &PrivateId,
        file: &FileName,
    ) -> Result<Self, InvalidName> {
        KeyOwner::Proposal(execution.clone(), proposal.clone()).key(file)
    }

    /// The key of a file that was kept of a failed attempt: no module has a name with a leading dot, so that
    /// nobody takes it for an output.
    ///
    /// # Errors
    /// [`InvalidName`] when the parts together are longer than 1,024 bytes.
    pub fn of_failed(
        event: &EventId,
        name: &ModuleName,
        attempt: &PrivateId,
        file: &FileName,
    ) -> Result<Self, InvalidName> {
        Self::parse(&format!("{event}/.failed/{name}/~{attempt}/{file}"))
    }

    /// Whose key it is, if only one writer uses it; `None` for keys of release 0.1, which attempts shared.
    pub fn owner(&self) -> Option<KeyOwner> {
        let mut segments = self.0.splitn(4, '/');
        let (event, module, own) = (segments.next()?, segments.next()?, segments.next()?);
        segments.next()?;
        let (event_id, own) = (EventId::parse(event).ok()?, own.strip_prefix('~')?);
        if module == SUBMITTED {
            return Some(KeyOwner::Submission(event_id, PrivateId::parse(own).ok()?));
        }
        let (number, proposal) = own.split_once('-')?;
        let run = number.parse().ok().filter(|run: &u32| run.to_string() == number)?;
        let name = ModuleName::parse(module).ok()?;
        let execution = ExecutionId { event_id, name, run };
        Some(KeyOwner::Proposal(execution, PrivateId::parse(proposal).ok()?))
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

fn private(text: &str) -> Result<String, &'static str> {
    let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    match text.len() == 32 && text.bytes().all(is_digit) {
        true => Ok(text.to_owned()),
        false => Err("is not 32 lower-case hexadecimal digits"),
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

#[cfg(feature = "engine")]
impl PrivateId {
    /// A new one, which nobody else has.
    pub(crate) fn random() -> Self {
        // A UUID would fix six of the bits.
        Self::of(uuid::Uuid::new_v4().as_u128() ^ uuid::Uuid::new_v4().as_u128().rotate_left(64))
    }

    /// The id of these bits.
    pub(crate) fn of(bits: u128) -> Self {
        Self(format!("{bits:032x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_owner_and_none_of_release_0_1_does() {
        let n = "00112233445566778899aabbccddeeff";
        let owner = |key: &str| BlobKey::parse(key).unwrap().owner();
        let own = format!("e/m/~7-{n}/a/b");
        let Some(owner_of_output @ KeyOwner::Proposal(..)) = owner(&own) else { panic!("{own}") };
        assert_eq!(owner_of_output.key(&FileName::parse("a/b").unwrap()).unwrap().as_str(), own);
        let own = format!("e/.submit/~{n}/a");
        assert_eq!(owner(&own).unwrap().prefix(), format!("e/.submit/~{n}/"));
        for shared in ["e/m/a", "e/m/~0-1/a", "e/.submit/a", "e/.failed/m/a"] {
            assert_eq!(owner(shared), None, "{shared}");
        }
        for shared in [
            format!("e/m/~07-{n}/a"),
            format!("e/m/~+7-{n}/a"),
            format!("e/m/~7-{n}"),
            format!("e/.failed/~7-{n}/a"),
        ] {
            assert_eq!(owner(&shared), None, "{shared}");
        }
    }
}
