//! Dead letters: events that were given up. They are documents, the same whatever the bus, since some buses have none.

use std::time::SystemTime;

use tracing::info;
use uuid::Uuid;

use super::attempts;
use crate::contract::{Attempts, Context, DeadLetter, FailureId, ModuleName};
use crate::documents::{Documents as _, Kind};
use crate::error::{Error, Result};
use crate::events::Delivery;
use crate::execution::dead_letter_id;
use crate::plane::DataPlane;

/// Writes a dead letter; after it the delivery may be settled.
pub(super) async fn write(
    plane: &DataPlane,
    context: &Context,
    group: &ModuleName,
    delivery: &dyn Delivery,
    reason: String,
    failure: Option<FailureId>,
    attempts: u32,
) -> Result<String> {
    let id = id_of(context, group, delivery.message_id());
    let letter = DeadLetter {
        context: context.clone(),
        id: id.clone(),
        group: group.to_string(),
        event: delivery.event().clone(),
        reason,
        failure,
        attempts,
        time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
    };
    plane.documents.store(&[letter]).await?;
    Ok(id)
}

/// The next dead letters after the one with the id `after`; an empty page is the end.
///
/// # Errors
/// What the document store reports.
pub async fn dead_letters(plane: &DataPlane, after: Option<&str>) -> Result<Vec<DeadLetter>> {
    let page = plane.documents.page::<DeadLetter>(after).await?;
    Ok(page.into_iter().map(|(_, letter)| letter).collect())
}

/// The dead letter with this id.
///
/// # Errors
/// [`Error::Absent`] when there is none, and what the document store reports.
pub async fn dead_letter(plane: &DataPlane, id: &str) -> Result<DeadLetter> {
    let found = plane.documents.find::<DeadLetter>(id).await?;
    found.ok_or_else(|| Error::Absent {
        provider: plane.documents.to_string(),
        what: format!("dead letter {id}"),
        why: "it may have been redriven or dropped".into(),
    })
}

/// Publishes the event of a dead letter once more, as a new message for its group alone, and removes the letter; its
/// attempts count from one again.
///
/// When it fails half way, the letter is still there, and it can be repeated: a module runs once for an event, however
/// often that is delivered.
///
/// # Errors
/// What the document store and the bus report.
pub async fn redrive(plane: &DataPlane, letter: &DeadLetter) -> Result<()> {
    // Before it can be received again.
    attempts::forget(plane, &letter.context).await?;
    let message_id = format!("{}{}", redriven_for(&letter.group), Uuid::new_v4());
    plane.events.republish(&letter.event, &message_id).await?;
    remove(plane, letter).await?;
    info!("event {} is published again", letter.event.context.event_id);
    Ok(())
}

/// How the id of a message begins that is for one group alone.
fn redriven_for(group: &str) -> String {
    format!("{REDRIVEN}{group}~")
}

const REDRIVEN: &str = "redriven~";

/// Whether a message was published again for another group than this one.
pub(super) fn is_for_another(message_id: Option<&str>, group: &ModuleName) -> bool {
    message_id.is_some_and(|id| id.starts_with(REDRIVEN) && !id.starts_with(&redriven_for(group.as_str())))
}

/// Whether a group has given an event up before.
pub(super) async fn is_dead(
    plane: &DataPlane,
    context: &Context,
    group: &ModuleName,
    message_id: Option<&str>,
) -> Result<bool> {
    let id = id_of(context, group, message_id);
    Ok(plane.documents.find::<DeadLetter>(&id).await?.is_some())
}

/// The id of the letter of a message: one that was sent again has another, so that removing the first one never
/// removes the second.
fn id_of(context: &Context, group: &ModuleName, message_id: Option<&str>) -> String {
    match message_id.filter(|id| id.starts_with(REDRIVEN)) {
        Some(message_id) => dead_letter_id(context, &format!("{group}\n{message_id}")),
        None => dead_letter_id(context, group.as_str()),
    }
}

async fn remove(plane: &DataPlane, letter: &DeadLetter) -> Result<()> {
    plane.documents.delete(Kind::DeadLetter, std::slice::from_ref(&letter.id)).await
}

/// Removes a dead letter; its event is not tried again when it is delivered again.
///
/// # Errors
/// What the document store reports.
pub async fn drop_letter(plane: &DataPlane, letter: &DeadLetter) -> Result<()> {
    attempts::write(plane, &letter.context, Attempts::DROPPED).await?;
    remove(plane, letter).await
}
