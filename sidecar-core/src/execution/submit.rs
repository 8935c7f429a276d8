//! The first event of a graph, made of files and values that no module wrote.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tracing::{Instrument, Span};

use super::conflicts;
use super::problems::Problems;
use super::spec::Settings;
use super::transfer::Progress;
use super::tree::{self, Tree};
use super::upload::upload;
use crate::blob::Source;
use crate::blocking;
use crate::contract::{
    Blob, BlobKey, Digest, EVENT_TYPE, Event, EventContext, EventHeader, EventId, FILES, FileName, KeyOwner,
    KeyValuePairs, PrivateId, Problem, Reference, TraceParent,
};
use crate::dir::Dir;
use crate::documents::Documents as _;
use crate::error::{Error, Result};
use crate::fault;
use crate::plane::DataPlane;
use crate::telemetry::{self, step};

/// What a first event carries.
#[derive(Debug, Clone)]
pub struct Submission {
    event_id: EventId,
    event_type: String,
    values: KeyValuePairs,
    files: Tree,
    references: Vec<Reference>,
    traceparent: Option<TraceParent>,
}

impl Submission {
    /// An event of this type, without files and values.
    pub fn new(event_type: impl Into<String>) -> Self {
        Self {
            event_id: EventId::from(uuid::Uuid::new_v4()),
            event_type: event_type.into(),
            values: KeyValuePairs::default(),
            files: Tree::new(),
            references: Vec::new(),
            traceparent: None,
        }
    }

    /// Gives the event this id instead of a new one, so that the same can be submitted again.
    #[must_use]
    pub fn event_id(mut self, id: EventId) -> Self {
        self.event_id = id;
        self
    }

    /// Adds a value for the consumers' `in/meta.json`.
    #[must_use]
    pub fn value(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.values.push(key, value);
        self
    }

    /// Makes it a part of this trace, unless the caller's own span is recorded.
    #[must_use]
    pub fn traceparent(mut self, parent: TraceParent) -> Self {
        self.traceparent = Some(parent);
        self
    }

    /// Adds a file under its own name, or all files of a directory under their names in it. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Submission`] when a name cannot be used or is taken.
    pub fn path(mut self, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let invalid =
            |message: String| Error::Submission(vec![Problem::of(path.display().to_string(), message)]);
        let real = path.canonicalize().map_err(Error::io("read", path))?;
        let metadata = fs::symlink_metadata(&real).map_err(Error::io("read", path))?;
        let found = if metadata.is_dir() {
            let mut problems = Problems::default();
            let root = Arc::new(Dir::open(&real).map_err(Error::io("read", path))?);
            let found = tree::walk(&root, &path.display().to_string(), &mut problems);
            problems.check().map_err(as_submission)?;
            found
        } else if metadata.is_file() {
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| invalid("the name is not UTF-8".into()))?;
            let name = FileName::parse(name).map_err(|error| invalid(error.to_string()))?;
            Tree::from([(name, Source::file(real)?)])
        } else {
            return Err(invalid("is neither a file nor a directory".into()));
        };
        for (name, source) in found {
            if let Some(other) = self.references.iter().find(|of| of.name == name) {
                return Err(invalid(format!("{:?} is the name of {} too", name.as_str(), other.url)));
            }
            if let Some(other) = self.files.insert(name.clone(), source) {
                return Err(invalid(format!(
                    "{name:?} is the name of {} too",
                    other.path().display(),
                    name = name.as_str()
                )));
            }
        }
        Ok(self)
    }

    /// Adds a file that stays where it is: see [`References::pin`](crate::blob::References::pin).
    ///
    /// # Errors
    /// [`Error::Submission`] when its name is taken.
    pub fn reference(mut self, reference: Reference) -> Result<Self> {
        let Reference { name, url, .. } = &reference;
        let other = self.references.iter().find(|other| other.name == *name).map(|other| other.url.clone());
        let other = other.or_else(|| Some(self.files.get(name)?.path().display().to_string()));
        if let Some(other) = other {
            let why =
                format!("{:?} is the name of {other} too: say another one, as in NAME={url}", name.as_str());
            return Err(Error::Submission(vec![Problem::of(url.clone(), why)]));
        }
        self.references.push(reference);
        Ok(self)
    }

    /// Puts everything into the data plane and publishes the event, whose id is returned.
    ///
    /// To submit the same again under the same id succeeds, and publishes what is stored.
    ///
    /// # Errors
    /// [`Error::Submission`] when something else was submitted under this id, the type is empty, or files are in each other's
    /// way; otherwise what the providers report.
    /// Nothing is published before everything it names is durable.
    pub async fn submit(self, plane: &DataPlane) -> Result<EventId> {
        let step = step!("submit", otel.kind = "producer", r#type = self.event_type, event = %self.event_id);
        telemetry::continues(&step, self.traceparent.as_ref());
        self.submit_now(plane).instrument(step).await.map_err(as_submission)
    }

    async fn submit_now(self, plane: &DataPlane) -> Result<EventId> {
        let Self { event_id: id, event_type, values, files, mut references, traceparent } = self;
        references.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let traceparent = telemetry::traceparent(&Span::current()).or(traceparent);
        let owner = KeyOwner::Submission(id.clone(), PrivateId::random());
        let referenced = || references.iter().map(|of| &of.name);
        let mut problems = conflicts::nested("", files.keys().chain(referenced()));
        if event_type.is_empty() {
            problems.push(Problem::of("the event", "its type is empty: consumers subscribe to a type"));
        }
        for taken in [EVENT_TYPE, FILES] {
            if values.0.iter().any(|pair| pair.key == taken) {
                let why =
                    format!("{taken} is no key for a value: events have their type and their files apart");
                problems.push(Problem::of("the event", why));
            }
        }
        let keyed = files.keys().map(|name| match owner.key(name) {
            Ok(key) => Ok((name, key)),
            Err(invalid) => Err(Error::Submission(vec![Problem::of(name.as_str(), invalid.to_string())])),
        });
        let keyed = keyed.collect::<Result<Vec<_>>>()?;
        problems.extend(conflicts::folded(
            &*plane.blobs,
            "",
            keyed.iter().map(|(name, key)| (*name, key.clone())),
        ));
        let refused = keyed.iter().filter_map(|(name, key)| Some((name, plane.blobs.refuses(key)?)));
        problems
            .extend(refused.map(|(name, why)| Problem::of(name.as_str(), format!("{} {why}", plane.blobs))));
        let blob = |(name, key): &(&FileName, BlobKey)| {
            let source = &files[*name];
            let (size, executable) = (source.size(), source.is_executable());
            // Every digest is as long.
            Blob { name: (*name).clone(), key: key.clone(), size, digest: Digest([0; 32]), executable }
        };
        let context = |blobs| EventContext {
            traceparent: traceparent.clone(),
            references: references.clone(),
            ..submitted(&id, &event_type, &values, files.keys().chain(referenced()).cloned().collect(), blobs)
        };
        let likely = context(keyed.iter().map(blob).collect());
        if let Some(why) = plane.documents.cannot_take(&likely)? {
            problems.push(Problem::of("the event", format!("{} {why}", plane.documents)));
        }
        if let Some(why) = plane.events.refuses(&message(likely.clone())) {
            problems.push(Problem::of("the event", format!("{} {why}", plane.events)));
        }
        if !problems.is_empty() {
            return Err(Error::Submission(problems));
        }
        if let Some(stored) = plane.documents.find::<EventContext>(id.as_str()).await? {
            return again(plane, likely, files, stored).await;
        }
        let uploads = keyed.into_iter().map(|(name, key)| (name.clone(), key, files[name].clone())).collect();
        let (stored, failed) =
            upload(&*plane.blobs, uploads, Settings::DEFAULT_PARALLEL, &Progress::default()).await;
        if let Some(error) = failed {
            return Err(error);
        }
        let mut blobs: Vec<Blob> = stored.into_iter().map(|(blob, _)| blob).collect();
        blobs.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let context = context(blobs);
        fault::point("submit.decide");
        let stored = plane.documents.decide(&context).await?;
        publish(plane, &context, stored).await
    }

    /// How many files were added.
    pub fn files(&self) -> usize {
        self.files.len() + self.references.len()
    }

    /// Whether it has no files and no values.
    pub fn is_empty(&self) -> bool {
        self.files() == 0 && self.values.is_empty()
    }
}

/// What would be wrong with outputs is wrong with what is submitted.
fn as_submission(error: Error) -> Error {
    match error {
        Error::Invalid(problems) => Error::Submission(problems),
        other => other,
    }
}

/// The context of a first event.
fn submitted(
    id: &EventId,
    event_type: &str,
    values: &KeyValuePairs,
    files: Vec<FileName>,
    blobs: Vec<Blob>,
) -> EventContext {
    let context = EventHeader {
        name: String::new(),
        event_id: id.clone(),
        correlation_id: id.to_string(),
        parent_event_id: String::new(),
    };
    let (event_type, data) = (Some(event_type.to_owned()), values.clone());
    let references = Vec::new();
    EventContext { context, files, data, blobs, references, event_type, producer: None, traceparent: None }
}

/// The event that tells of a context.
fn message(stored: EventContext) -> Event {
    Event {
        context: stored.context,
        event_type: stored.event_type.unwrap_or_default(),
        previous_stages: Vec::new(),
        data: KeyValuePairs::default(),
        traceparent: stored.traceparent,
    }
}

/// Submits once more what is stored under this id: its files are compared, and not stored again.
async fn again(
    plane: &DataPlane,
    mut asked: EventContext,
    files: Tree,
    stored: EventContext,
) -> Result<EventId> {
    asked = blocking(move || {
        for blob in &mut asked.blobs {
            if let Some(source) = files.get(&blob.name) {
                blob.digest = source.describe()?.digest;
            }
        }
        Ok(asked)
    })
    .await?;
    publish(plane, &asked, stored).await
}

/// Publishes what is stored, if that is what was asked for.
async fn publish(plane: &DataPlane, asked: &EventContext, stored: EventContext) -> Result<EventId> {
    let id = stored.context.event_id.clone();
    if let Some(difference) = difference(asked, &stored) {
        let why = format!("{difference}: take another id, or submit the same");
        return Err(Error::Submission(vec![Problem::of(format!("event {id}"), why)]));
    }
    plane.events.publish(&[message(stored)]).await?;
    Ok(id)
}

/// How what is stored differs from what was to be submitted, if it does.
fn difference(asked: &EventContext, stored: &EventContext) -> Option<String> {
    let (Some(asked_type), stored_type) = (&asked.event_type, &stored.event_type) else { return None };
    match stored_type {
        None => return Some("that event was not submitted".into()),
        Some(stored) if stored != asked_type => {
            return Some(format!("it was submitted with the type {stored:?}"));
        }
        Some(_) => {}
    }
    if asked.data != stored.data {
        return Some("it was submitted with other values".into());
    }
    let kinds = |of: &EventContext| (of.blobs.len(), of.references.len());
    if asked.files != stored.files || kinds(asked) != kinds(stored) {
        return Some("it was submitted with other files".into());
    }
    let pairs = asked.references.iter().zip(&stored.references);
    if let Some((asked, _)) = pairs.into_iter().find(|(asked, stored)| asked != stored) {
        return Some(format!("{} is another object now, or another one was submitted", asked.url));
    }
    let differs = |(asked, stored): &(&Blob, &Blob)| {
        (&asked.name, asked.size, asked.digest, asked.executable)
            != (&stored.name, stored.size, stored.digest, stored.executable)
    };
    let other = asked.blobs.iter().zip(&stored.blobs).find(differs);
    other.map(|(asked, _)| format!("it was submitted with another {:?}", asked.name.as_str()))
}
