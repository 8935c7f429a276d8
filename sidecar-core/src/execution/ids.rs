//! Ids that come out the same however often a commit is repeated.
//!
//! The id is the document's key and the message's de-duplication id, so a repeat overwrites or is dropped.

use uuid::Uuid;

use crate::contract::{Context, EventId, FailureId, InsightId};

/// Namespace of all ids of this project, itself a random UUID; changing it breaks every stored id.
const NAMESPACE: Uuid = Uuid::from_u128(0x5d0c_3a56_7d1f_4d0e_9b52_3b8f_6c2e_91a4);

/// The id of the event that this execution makes of a file in `out/events`.
pub(super) fn event(context: &Context, file: &str) -> EventId {
    EventId::from(v5("event", context, file))
}

/// The id of this execution's insight.
pub(super) fn insight(context: &Context) -> InsightId {
    InsightId::from(v5("insight", context, ""))
}

/// The id of this execution's failure.
pub(super) fn failure(context: &Context) -> FailureId {
    FailureId::from(v5("failure", context, ""))
}

/// Event ids and module names have no control characters, so the parts cannot run into each other.
fn v5(kind: &str, context: &Context, file: &str) -> Uuid {
    let name = format!("{kind}\n{}\n{}\n{file}", context.event_id, context.name);
    Uuid::new_v5(&NAMESPACE, name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_same_in_every_process_and_release() {
        let context = Context {
            name: crate::ModuleName::parse("thumbnail").unwrap(),
            event_id: EventId::parse("e1").unwrap(),
            correlation_id: "ignored".into(),
            parent_event_id: String::new(),
        };
        assert_eq!(event(&context, "1.json").as_str(), "13ec3865-90d7-5a88-9b77-884de5d08497");
        assert_eq!(insight(&context).as_str(), "716d63f9-e19b-5d1d-ab19-9ee55c4e98cc");
    }
}
