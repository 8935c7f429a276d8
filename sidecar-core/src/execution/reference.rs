//! Files that an event refers to where they lie: what each of them is is found out when it is staged for the first time,
//! and holds from then on.

use std::path::Path;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tracing::Instrument;

use super::Execution;
use super::cache::Missing;
use super::record::AT_ONCE;
use super::transfer::{groups, move_groups};
use crate::blob::{Descriptor, Target};
use crate::contract::{Digest, ObjectDigest, RecordedFile, Reference};
use crate::dir::Dir;
use crate::documents::Documents as _;
use crate::error::{Error, Result};
use crate::fault;
use crate::plane::DataPlane;
use crate::telemetry::step;

impl Execution {
    /// Fetches what the event refers to, and describes it: each is the object that was pinned, with the digest that it had
    /// the first time.
    pub(super) async fn fetch_referenced(
        self: &Arc<Self>,
        data: &Arc<Dir>,
        references: &[Reference],
    ) -> Result<Vec<RecordedFile>> {
        let known = digests(&self.plane, references).await?;
        let wanted: Vec<_> = references.iter().cloned().zip(known).collect();
        let groups = groups(wanted, self.spec.parallel, |(of, _)| of.pinned.size);
        let fetch = |group: Vec<(Reference, Option<Digest>)>| async {
            let mut fetched = Vec::with_capacity(group.len());
            for (reference, known) in group {
                fetched.push(self.fetch_one(data, &reference, known).await?);
                self.progress.file_moved();
            }
            Ok(fetched)
        };
        let (fetched, failed) = move_groups(groups, self.spec.parallel, fetch).await;
        if let Some(error) = failed {
            return Err(error);
        }
        let mut fetched: Vec<_> = fetched.into_iter().flatten().collect();
        fetched.sort_unstable_by(|one: &RecordedFile, other| one.name.cmp(&other.name));
        Ok(fetched)
    }

    async fn fetch_one(
        self: &Arc<Self>,
        data: &Arc<Dir>,
        of: &Reference,
        known: Option<Digest>,
    ) -> Result<RecordedFile> {
        self.plane.references.check(of)?;
        let size = of.pinned.size;
        let target = Target::below(data.clone(), of.name.below(Path::new("")))
            .counted_by(self.progress.bytes_moved())
            .at_most(size);
        let step = step!("get", otel.kind = "client", store = %of.url, files = 1, bytes = size);
        let get = async {
            let mut missing = None;
            if let (Some(cache), Some(digest)) = (&self.spec.cache, known) {
                let taken = cache.take(vec![(Descriptor { size, digest }, target.clone())]).await?;
                let misses = taken.places().len() as u64;
                self.progress.cached(1 - misses, misses);
                if misses == 0 {
                    return Ok(digest);
                }
                missing = Some(taken);
            }
            let found = self.plane.references.get(of, &target).await?;
            fault::point("reference.get");
            let first = match known {
                Some(first) => first,
                None => {
                    let found = ObjectDigest::new(of, self.context().correlation_id, found.digest);
                    let decided = self.plane.documents.decide(&found).await?;
                    fault::point("reference.decided");
                    decided.digest
                }
            };
            same(&self.plane, of, first, found.digest)?;
            if let Some(cache) = &self.spec.cache {
                cache.keep(missing.unwrap_or_else(|| Missing::fetched(found, target.clone()))).await?;
            }
            Ok(first)
        };
        Ok(recorded(of, get.instrument(step).await?))
    }
}

impl ObjectDigest {
    /// What an object that is referred to held when it was staged for a graph.
    pub fn new(of: &Reference, correlation_id: String, digest: Digest) -> Self {
        let (url, pinned) = (of.url.clone(), of.pinned.clone());
        Self { id: id(of), correlation_id, url, pinned, digest }
    }
}

/// What was staged of what an event refers to, as far as it was.
pub(crate) async fn referenced(plane: &DataPlane, references: &[Reference]) -> Result<Vec<RecordedFile>> {
    let known = references.iter().zip(digests(plane, references).await?);
    Ok(known.filter_map(|(of, digest)| Some(recorded(of, digest?))).collect())
}

/// Fetches what an event refers to, outside an execution: it is what was staged, if it was.
pub(crate) async fn fetch(plane: &DataPlane, of: &Reference, target: &Target) -> Result<()> {
    let target = target.clone().at_most(of.pinned.size);
    let found = plane.references.get(of, &target).await?.digest;
    let known = digests(plane, std::slice::from_ref(of)).await?;
    known.into_iter().flatten().try_for_each(|first| same(plane, of, first, found))
}

/// Whether an object holds what it held the first time.
fn same(plane: &DataPlane, of: &Reference, first: Digest, found: Digest) -> Result<()> {
    if found == first {
        return Ok(());
    }
    Err(Error::Corrupt {
        provider: plane.references.to_string(),
        what: format!("object {:?}", of.url),
        problem: format!("digest {found} instead of {first}, which it had the first time"),
    })
}

/// The digests that these objects had when they were staged for the first time, where they were.
async fn digests(plane: &DataPlane, references: &[Reference]) -> Result<Vec<Option<Digest>>> {
    let ids: Vec<_> = references.iter().map(id).collect();
    let find = |id: String| async move {
        let found: Option<ObjectDigest> = plane.documents.find(&id).await?;
        Result::Ok(found.map(|found| found.digest))
    };
    stream::iter(ids).map(find).buffered(AT_ONCE).try_collect().await
}

/// What an object is known by, whichever event refers to it.
pub(crate) fn id(Reference { url, pinned, .. }: &Reference) -> String {
    let mut hash = blake3::Hasher::new();
    // Each part with its length, so that they cannot run into each other.
    for part in [Some(url), pinned.etag.as_ref(), pinned.version.as_ref()] {
        let part = part.map_or("", String::as_str);
        hash.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    hash.update(&pinned.size.to_le_bytes());
    format!("object-{}", hash.finalize().to_hex())
}

fn recorded(Reference { name, pinned, .. }: &Reference, digest: Digest) -> RecordedFile {
    RecordedFile { name: name.clone(), size: pinned.size, digest, executable: false, key: None }
}
