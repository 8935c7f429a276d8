//! What must hold when all attempts have ended, whoever of them decided.

use std::collections::BTreeSet;

use serde_json::Value;
use sidecar_core::{
    Blob, BlobProvider, Contents, Documents, EventContext, EventId, ExecutionRecord, Insight, OutboxChunk,
};

use crate::attempt::{Ended, FILES};
use crate::plane::{EVENT, Plane};

/// An outcome that every consumer can read.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    record: ExecutionRecord,
    contents: Contents,
    /// The byte of which everything consists that its module wrote.
    letter: u8,
}

/// The outcomes of the runs, which are as many as asked for, with what the bus and consumers see of them.
pub async fn audit(plane: &Plane, outcomes: usize) -> Result<Vec<Outcome>, String> {
    let mut records = records(plane).await;
    records.sort_by_key(|record| record.run);
    for (run, record) in records.iter().enumerate() {
        if record.run as usize != run {
            return Err(format!("run {run} has no record, and run {} has", record.run));
        }
    }
    let committed: Vec<_> = records.iter().filter(|record| record.committed().is_some()).collect();
    let outcome = |record: &ExecutionRecord| record.committed().is_some();
    let (last, abandoned) = (records.last().is_some_and(outcome), records.len() - committed.len());
    if committed.len() != outcomes || !last || !records[..abandoned].iter().all(|record| !outcome(record)) {
        let runs: Vec<_> = records.iter().map(outcome).collect();
        return Err(format!("{outcomes} outcomes are expected, and the runs with one are {runs:?}"));
    }
    let mut found = Vec::new();
    for record in committed {
        found.push(read(plane, record).await?);
    }
    on_the_bus(plane, &found).await?;
    Ok(found)
}

/// Whether the attempts that committed were answered with one of the outcomes.
pub fn agree(ended: &[Ended], outcomes: &[Outcome]) -> Result<(), String> {
    let recorded = |outcome: &Outcome| serde_json::to_value(&outcome.contents.events).unwrap();
    let recorded: Vec<Value> = outcomes.iter().map(recorded).collect();
    for attempt in ended.iter().filter(|attempt| attempt.code == Some(0)) {
        if !recorded.contains(&attempt.receipt["events"]) {
            return Err(format!(
                "{} was answered {}, and decided is {recorded:?}",
                attempt.name, attempt.receipt
            ));
        }
    }
    Ok(())
}

/// Whether the stores hold what the outcomes name and nothing else of the module's.
pub async fn nothing_is_left(plane: &Plane, outcomes: &[Outcome]) -> Result<(), String> {
    let (mut keys, mut contexts, mut chunks) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for Outcome { record, contents, .. } in outcomes {
        let committed = record.committed().unwrap();
        keys.extend(
            contents.outputs.iter().map(|file| record.output_key(committed, file).unwrap().to_string()),
        );
        contexts.extend(contents.events.iter().map(|event| event.event_id.to_string()));
        chunks.extend(committed.outbox.iter().cloned());
    }
    same("blobs", &keys, stored_keys(plane).await)?;
    let mut found = ids::<EventContext>(plane).await;
    found.remove(EVENT);
    same("contexts", &contexts, found)?;
    same("parts of an outbox", &chunks, ids::<OutboxChunk>(plane).await)
}

fn same(what: &str, named: &BTreeSet<String>, found: BTreeSet<String>) -> Result<(), String> {
    let left: Vec<_> = found.difference(named).collect();
    let missing: Vec<_> = named.difference(&found).collect();
    match left.is_empty() && missing.is_empty() {
        true => Ok(()),
        false => Err(format!("of the {what} are left over {left:?}, and missing {missing:?}")),
    }
}

async fn stored_keys(plane: &Plane) -> BTreeSet<String> {
    let (mut keys, mut after) = (BTreeSet::new(), None);
    loop {
        let page = plane.blobs.list(&format!("{EVENT}/m/"), after.as_ref()).await.unwrap();
        let Some(last) = page.last() else { return keys };
        after = Some(last.key.clone());
        keys.extend(page.iter().map(|listed| listed.key.to_string()));
    }
}

async fn ids<T: sidecar_core::documents::Stored>(plane: &Plane) -> BTreeSet<String> {
    let (mut ids, mut after) = (BTreeSet::new(), None::<String>);
    loop {
        let page = plane.documents.page::<T>(after.as_deref()).await.unwrap();
        let Some((last, _)) = page.last() else { return ids };
        after = Some(last.clone());
        ids.extend(page.into_iter().map(|(id, _)| id));
    }
}

async fn records(plane: &Plane) -> Vec<ExecutionRecord> {
    let (mut records, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = plane.documents.page::<ExecutionRecord>(after.as_deref()).await.unwrap();
        let Some((last, _)) = page.last() else { return records };
        after = Some(last.clone());
        records.extend(page.into_iter().map(|(_, record)| record));
    }
}

/// An outcome, with everything that it names.
async fn read(plane: &Plane, record: &ExecutionRecord) -> Result<Outcome, String> {
    let committed = record.committed().ok_or("it has no outcome")?;
    let mut contents = committed.contents.clone();
    for id in &committed.outbox {
        let chunk = plane.documents.find::<OutboxChunk>(id).await.unwrap();
        let chunk = chunk.ok_or_else(|| format!("part {id} of the record is missing"))?.contents;
        contents.outputs.extend(chunk.outputs);
        contents.inputs.extend(chunk.inputs);
        contents.insight.0.extend(chunk.insight.0);
        contents.events.extend(chunk.events);
    }
    let mut letters = BTreeSet::new();
    let names: Vec<_> = contents.outputs.iter().map(|file| file.name.as_str()).collect();
    if names != FILES.map(|(name, _)| name) {
        return Err(format!("the record has the files {names:?}"));
    }
    for file in &contents.outputs {
        let blob = Blob {
            name: file.name.clone(),
            key: record.output_key(committed, file).unwrap(),
            size: file.size,
            digest: file.digest,
            executable: file.executable,
        };
        letters.extend(content(plane, &blob).await?);
    }
    let id = committed.insight_id.as_ref().ok_or("the record has no insight")?;
    let insight = plane.documents.find::<Insight>(id.as_str()).await.unwrap();
    let insight = insight.ok_or_else(|| format!("insight {id} is missing"))?;
    letters.extend(insight.data.iter().flat_map(|pair| pair.value.bytes()));
    let types: Vec<_> = contents.events.iter().map(|event| event.event_type.as_str()).collect();
    if types != ["one", "two"] {
        return Err(format!("the record has the events {types:?}"));
    }
    for (event, files) in contents.events.iter().zip([&["a/x", "b/x", "big"][..], &["b/x"]]) {
        letters.extend(consume(plane, &event.event_id, files).await?);
    }
    match letters.iter().copied().collect::<Vec<_>>()[..] {
        [letter] => Ok(Outcome { record: record.clone(), contents, letter }),
        _ => {
            let letters: Vec<_> = letters.into_iter().map(char::from).collect();
            Err(format!("the outcome is a mixture of attempts: {letters:?}"))
        }
    }
}

/// What the consumer of an event gets.
async fn consume(plane: &Plane, id: &EventId, files: &[&str]) -> Result<BTreeSet<u8>, String> {
    let context = plane.context(id).await.ok_or_else(|| format!("event {id} has no context"))?;
    let names: Vec<_> = context.blobs.iter().map(|blob| blob.name.as_str()).collect();
    if names != files || context.files.len() != files.len() {
        return Err(format!("event {id} has the files {names:?}"));
    }
    let mut letters: BTreeSet<u8> =
        context.data.iter().filter(|pair| pair.key == "who").flat_map(|pair| pair.value.bytes()).collect();
    for blob in &context.blobs {
        letters.extend(content(plane, blob).await?);
    }
    Ok(letters)
}

async fn content(plane: &Plane, blob: &Blob) -> Result<BTreeSet<u8>, String> {
    let content = plane.content(blob).await.ok_or_else(|| format!("{} is missing or damaged", blob.key))?;
    match FILES.contains(&(blob.name.as_str(), content.len())) {
        true => Ok(content.into_iter().collect()),
        false => Err(format!("{} has {} bytes", blob.key, content.len())),
    }
}

/// Whether the bus has the events of the outcomes, each once, and no others.
async fn on_the_bus(plane: &Plane, outcomes: &[Outcome]) -> Result<(), String> {
    let describe = |id: &EventId, kind: &str| format!("{id} ({kind})");
    let events = outcomes.iter().flat_map(|outcome| &outcome.contents.events);
    let mut decided: Vec<_> = events.map(|event| describe(&event.event_id, &event.event_type)).collect();
    let published = plane.published().await;
    let mut found: Vec<_> =
        published.iter().map(|event| describe(&event.context.event_id, &event.event_type)).collect();
    decided.sort();
    found.sort();
    match decided == found {
        true => Ok(()),
        false => Err(format!("decided are the events {decided:?}, and on the bus are {found:?}")),
    }
}
