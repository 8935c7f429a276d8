//! How often an execution was begun, counted by us: a bus also counts what was only handed back.

use std::time::SystemTime;

use tracing::Span;

use crate::contract::{Attempts, Context};
use crate::documents::{Documents as _, Kind};
use crate::error::Result;
use crate::execution::attempts_id;
use crate::plane::DataPlane;
use crate::telemetry;

/// How many attempts were begun by now.
///
/// The first attempt at a delivery that the bus hands out for the first time is not written down: if it is delivered
/// again and there is no count, that attempt was begun and its worker is gone. So most events cost no write.
pub(super) async fn begun(plane: &DataPlane, context: &Context, redelivered: Option<bool>) -> Result<u32> {
    if redelivered == Some(false) {
        return Ok(0);
    }
    let found = plane.documents.find::<Attempts>(&attempts_id(context)).await?;
    if let Some(earlier) = found.as_ref().and_then(|found| found.traceparent.as_ref()) {
        telemetry::follows(&Span::current(), earlier);
    }
    Ok(found.map_or(u32::from(redelivered == Some(true)), |found| found.attempts))
}

/// Writes down how many were begun: before the module starts, so that one that takes its worker down is counted too.
pub(super) async fn write(plane: &DataPlane, context: &Context, attempts: u32) -> Result<()> {
    let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let traceparent = telemetry::traceparent(&Span::current());
    let count = Attempts { context: context.clone(), id: attempts_id(context), attempts, time, traceparent };
    plane.documents.store(&[count]).await
}

/// Counts from one again.
pub(super) async fn forget(plane: &DataPlane, context: &Context) -> Result<()> {
    plane.documents.delete(Kind::Attempts, &[attempts_id(context)]).await
}
