//! Files that events refer to where others stored them, instead of holding a copy.

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use percent_encoding::percent_decode_str;
use url::Url;

use super::{Descriptor, Target};
use crate::contract::{FileName, Pinned, Problem, Reference};
use crate::error::{Error, Result};
use crate::plane::without_credentials;
use crate::replaceable::Replaceable;

/// A store of objects that events may refer to; it is only ever read.
///
/// # Contract
/// - `get` writes the object that was pinned, byte for byte, or fails: never another one of the same name.
/// - An object that was changed or replaced since is [`Error::Corrupt`], one that is gone [`Error::NotFound`].
/// - Both methods may be called concurrently, repeated, and dropped at any await point.
///
/// `Display` is the store's short name for logs and errors; it never contains a secret.
#[async_trait]
pub trait ReferenceStore: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// What the object under this name is now, or what a version of it is. Names are relative to the store's root.
    async fn pin(&self, object: &str, version: Option<&str>) -> Result<Pinned>;

    /// Writes the object that was pinned to `target`, and describes what was written.
    async fn get_pinned(&self, object: &str, pinned: &Pinned, target: &Target) -> Result<Descriptor>;
}

impl Pinned {
    /// The error for an object that is not the one that was pinned.
    pub(super) fn changed(store: &impl fmt::Display, object: &str) -> Error {
        let problem = "it was changed or replaced after the event was submitted (as it is now it is another event, under another id)";
        let (provider, what) = (store.to_string(), format!("object {object:?}"));
        Error::Corrupt { provider, what, problem: problem.into() }
    }
}

/// The stores that events may refer to: whoever submits an event names an object in one of them, and nothing else is
/// fetched for it.
#[derive(Debug, Clone, Default)]
pub struct References(Vec<(Url, Arc<dyn ReferenceStore>)>);

impl References {
    /// These stores, each with the URL that those of its objects begin with.
    pub fn new(stores: impl IntoIterator<Item = (Url, Arc<dyn ReferenceStore>)>) -> Self {
        Self(stores.into_iter().collect())
    }

    /// The stores, each with the URL that those of its objects begin with.
    pub(crate) fn into_stores(self) -> impl Iterator<Item = (Url, Arc<dyn ReferenceStore>)> {
        self.0.into_iter()
    }

    /// Finds out what the object at `url`, with a version behind a `#`, is now. Without a `name`, the file is called like
    /// the object.
    ///
    /// # Errors
    /// [`Error::Submission`] when it is not the URL of an object in one of these stores; otherwise what its store reports.
    pub async fn pin(&self, name: Option<&str>, url: &str) -> Result<Reference> {
        let invalid = |why: String| Error::Submission(vec![Problem::of(without_credentials(url), why)]);
        let (store, object, parsed) = self.find(url).map_err(invalid)?;
        let version = parsed.fragment().map(decoded).transpose().map_err(invalid)?;
        if version.as_deref() == Some("") {
            return Err(invalid("names no version behind its #: write %23 for a # in a name".into()));
        }
        let last = object.rsplit('/').next().unwrap_or_default();
        let name = FileName::parse(name.unwrap_or(last))
            .map_err(|error| invalid(format!("{error}: give the file a name, as in NAME=URL")))?;
        let pinned = store.pin(&object, version.as_deref()).await.map_err(|error| match error {
            Error::NotFound { provider, key } => {
                let version =
                    version.as_ref().map(|version| format!(" of version {version}")).unwrap_or_default();
                let escaped = url.contains(['%', '#']);
                let hint = if escaped { ": write %25, %23 and %3F for %, # and ? in a name" } else { "" };
                invalid(format!("{provider} has no object {key:?}{version}{hint}"))
            }
            other => other,
        })?;
        if pinned.etag.is_none() && pinned.version.is_none() {
            let why = "its store tells neither an entity tag nor a version: a change would not show";
            return Err(invalid(why.into()));
        }
        let mut url = parsed;
        url.set_fragment(None);
        Ok(Reference { name, url: url.into(), pinned })
    }

    /// Refuses what is in none of these stores, wherever its content may be had.
    pub(crate) fn check(&self, Reference { url, .. }: &Reference) -> Result<()> {
        self.find(url)
            .map(drop)
            .map_err(|problem| Error::Reference { url: without_credentials(url), problem })
    }

    /// Writes the file that an event refers to.
    pub(crate) async fn get(&self, reference: &Reference, target: &Target) -> Result<Descriptor> {
        let Reference { url, pinned, .. } = reference;
        let cannot = |problem: String| Error::Reference { url: without_credentials(url), problem };
        let (store, object, _) = self.find(url).map_err(cannot)?;
        store.get_pinned(&object, pinned, target).await.map_err(|error| match error {
            // More than was pinned.
            Error::Io { source, .. } if source.kind() == io::ErrorKind::FileTooLarge => {
                Pinned::changed(&store, &object)
            }
            // It is one object that may not be read, as far as anybody knows.
            refused @ Error::Refused { .. } => cannot(refused.chain()),
            other => other,
        })
    }

    /// The store of an object, and the object's name there.
    fn find(&self, text: &str) -> Result<(&dyn ReferenceStore, String, Url), String> {
        let url = Url::parse(text).map_err(|_| "is not a URL such as s3://bucket/key".to_owned())?;
        if url.query().is_some() {
            return Err("has a ?: endpoints and regions belong into --references; write %3F in a name".into());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("holds credentials: events are read by others".into());
        }
        if url.scheme() == "file" && !text.starts_with("file:///") {
            return Err("names no file: say file:///absolute/path".into());
        }
        let found = self.0.iter().filter_map(|(root, store)| Some((store, below(root, &url)?)));
        // The shortest name is the nearest store.
        let Some((store, object)) = found.min_by_key(|(_, object)| object.len()) else {
            let store = &url[..url::Position::AfterPort];
            let store = if url.scheme() == "file" { "file:///directory" } else { store };
            return Err(match self.0.is_empty() {
                true => format!("no store is named that events may refer to: say --references {store}"),
                false => format!(
                    "is in none of the stores that events may refer to ({self}): add it to --references"
                ),
            });
        };
        let object = decoded(object)?;
        if object.is_empty() || object.ends_with('/') {
            return Err("names no object".into());
        }
        Ok((&**store, object, url))
    }
}

impl fmt::Display for References {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("this sidecar");
        }
        let names: Vec<_> = self.0.iter().map(|(_, store)| store.to_string()).collect();
        f.write_str(&names.join(", "))
    }
}

/// What is left of an object's URL below a store's.
fn below<'u>(root: &Url, url: &'u Url) -> Option<&'u str> {
    if (root.scheme(), root.host_str(), root.port()) != (url.scheme(), url.host_str(), url.port()) {
        return None;
    }
    let rest = url.path().strip_prefix(root.path().trim_end_matches('/'))?;
    rest.strip_prefix('/')
}

fn decoded(text: &str) -> Result<String, String> {
    let decoded =
        percent_decode_str(text).decode_utf8().map_err(|_| "is not UTF-8 when it is decoded".to_owned())?;
    Ok(decoded.into_owned())
}

#[async_trait]
impl ReferenceStore for Replaceable<dyn ReferenceStore> {
    async fn pin(&self, object: &str, version: Option<&str>) -> Result<Pinned> {
        self.current().pin(object, version).await
    }

    async fn get_pinned(&self, object: &str, pinned: &Pinned, target: &Target) -> Result<Descriptor> {
        self.current().get_pinned(object, pinned, target).await
    }
}
