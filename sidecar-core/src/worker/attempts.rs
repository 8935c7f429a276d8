//! How often an execution was begun, counted by us: a bus also counts what was only handed back.

use std::time::SystemTime;

use crate::contract::{Attempts, Context};
use crate::documents::{Documents as _, Kind};
use crate::error::Result;
use crate::execution::attempts_id;
use crate::plane::DataPlane;

/// How many attempts were begun by now.
pub(super) async fn begun(plane: &DataPlane, context: &Context) -> Result<u32> {
    let found = plane.documents.find::<Attempts>(&attempts_id(context)).await?;
    Ok(found.map_or(0, |found| found.attempts))
}

/// Writes down how many were begun: before the module starts, so that one that takes its worker down is counted too.
pub(super) async fn write(plane: &DataPlane, context: &Context, attempts: u32) -> Result<()> {
    let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let count = Attempts { context: context.clone(), id: attempts_id(context), attempts, time };
    plane.documents.store(&[count]).await
}

/// Counts from one again.
pub(super) async fn forget(plane: &DataPlane, context: &Context) -> Result<()> {
    plane.documents.delete(Kind::Attempts, &[attempts_id(context)]).await
}
