//! Objects that others stored, below the same kind of root as blobs.

use async_trait::async_trait;
use object_store::path::Path;
use object_store::{GetOptions, GetResult, ObjectStore};

use super::Bucket;
use crate::blob::{Descriptor, ReferenceStore, Target};
use crate::contract::Pinned;
use crate::error::{Error, Result};

#[async_trait]
impl ReferenceStore for Bucket {
    async fn pin(&self, object: &str, version: Option<&str>) -> Result<Pinned> {
        let version = version.map(str::to_owned);
        let options = GetOptions { head: true, version: version.clone(), ..GetOptions::default() };
        let found = self.store.get_opts(&self.object(object)?, options).await;
        let meta = found.map_err(|error| self.error("find", object, error))?.meta;
        Ok(Pinned { size: meta.size, etag: meta.e_tag, version })
    }

    async fn get_pinned(&self, object: &str, pinned: &Pinned, target: &Target) -> Result<Descriptor> {
        let path = self.object(object)?;
        let options = GetOptions {
            if_match: pinned.etag.clone(),
            version: pinned.version.clone(),
            ..GetOptions::default()
        };
        match self.fetch(object, &path, &options, target).await {
            Ok(fetched) if fetched.size == pinned.size => Ok(fetched),
            Ok(_) => Err(Pinned::changed(self, object)),
            // To some stores an object that is gone is one with another tag.
            Err(changed @ Error::Corrupt { .. }) => match self.pin(object, None).await {
                Err(gone @ Error::NotFound { .. }) => Err(gone),
                _ => Err(changed),
            },
            Err(error) => Err(error),
        }
    }
}

impl Bucket {
    /// The path of an object by its name below the root.
    fn object(&self, object: &str) -> Result<Path> {
        let path = format!("{}/{object}", self.prefix());
        let path = Path::parse(path.trim_start_matches('/'));
        path.map_err(|error| Error::refused(self, format!("name {object:?}"), error))
    }
}

/// Gets what `options` ask for, also from a store that does not know conditions.
pub(super) async fn get(
    store: &dyn ObjectStore,
    path: &Path,
    options: GetOptions,
) -> object_store::Result<GetResult> {
    let wanted = options.if_match.clone();
    let found = store.get_opts(path, options).await?;
    match (wanted, &found.meta.e_tag) {
        (Some(wanted), etag) if etag.as_ref() != Some(&wanted) => {
            let source = format!("its entity tag is {etag:?} instead of {wanted}").into();
            Err(object_store::Error::Precondition { path: path.to_string(), source })
        }
        _ => Ok(found),
    }
}
