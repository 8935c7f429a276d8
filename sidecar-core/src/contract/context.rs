//! The execution a sidecar serves.

use serde::{Deserialize, Serialize};

use super::{EventId, ModuleName};

/// One execution: which module processes which event, and where that event stands in its graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Context {
    /// The module that processes the event.
    pub name: ModuleName,
    /// The event being processed.
    pub event_id: EventId,
    /// Shared by all events that descend from one first event.
    pub correlation_id: String,
    /// The event whose processing published this one; empty for the first event of a graph.
    #[serde(default)]
    pub parent_event_id: String,
}
