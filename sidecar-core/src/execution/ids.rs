//! Ids that come out the same however often a commit is repeated.
//!
//! The id is the document's key and the message's de-duplication id, so a repeat overwrites or is dropped. What a
//! proposal stores before the decision has the proposal in its id, so that no other attempt stores under it.

use uuid::Uuid;

use crate::contract::{Context, EventId, ExecutionId, FailureId, InsightId, PrivateId};

/// Namespace of all ids of this project, itself a random UUID; changing it breaks every stored id.
const NAMESPACE: Uuid = Uuid::from_u128(0x5d0c_3a56_7d1f_4d0e_9b52_3b8f_6c2e_91a4);

/// The id of an execution's record: the one name that attempts share.
pub(crate) fn record(execution: &ExecutionId) -> String {
    v5("execution", execution, &execution.run.to_string()).to_string()
}

/// The id of the document that tells how far a record's events are published, before all of them are.
pub(super) fn cursor(execution: &ExecutionId) -> String {
    v5("cursor", execution, &execution.run.to_string()).to_string()
}

/// The id of the event that a proposal makes of a file in `out/events`.
pub(super) fn event(execution: &ExecutionId, proposal: &PrivateId, file: &str) -> EventId {
    EventId::from(v5("event", execution, &format!("{}\n{proposal}\n{file}", execution.run)))
}

/// The id of a part of a proposal's outbox.
pub(super) fn chunk(execution: &ExecutionId, proposal: &PrivateId, number: usize) -> String {
    v5("outbox", execution, &format!("{}\n{proposal}\n{number}", execution.run)).to_string()
}

/// The id of an execution's insight, which is stored after the decision. Run 0 has the id of release 0.1.
pub(crate) fn insight(execution: &ExecutionId) -> InsightId {
    let run = if execution.run == 0 { String::new() } else { execution.run.to_string() };
    InsightId::from(v5("insight", execution, &run))
}

/// The id of an attempt's failure.
pub(super) fn failure(context: &Context, attempt: &PrivateId) -> FailureId {
    let execution = execution(context, 0);
    FailureId::from(v5("failure", &execution, attempt.as_str()))
}

/// The id of the count of a module's attempts at an event.
pub(crate) fn attempts(context: &Context) -> String {
    v5("attempts", &execution(context, 0), "").to_string()
}

/// The id of the dead letter of an event that a group gave up for its module.
#[cfg(feature = "worker")]
pub(crate) fn dead_letter(context: &Context, group: &str) -> String {
    v5("dead letter", &execution(context, 0), group).to_string()
}

/// Stands for the proposal that release 0.1 had begun to publish: it is the same however often it is asked for.
pub(super) fn of_release_0_1(execution: &ExecutionId) -> PrivateId {
    PrivateId::of(v5("release 0.1", execution, "").as_u128())
}

/// The attempt that marks runs which retention has closed.
pub(crate) fn of_retention(execution: &ExecutionId) -> PrivateId {
    PrivateId::of(v5("retention", execution, "").as_u128())
}

/// Which execution it is.
pub(super) fn execution(context: &Context, run: u32) -> ExecutionId {
    ExecutionId { event_id: context.event_id.clone(), name: context.name.clone(), run }
}

/// Event ids and module names have no control characters, so the parts cannot run into each other.
fn v5(kind: &str, execution: &ExecutionId, rest: &str) -> Uuid {
    let name = format!("{kind}\n{}\n{}\n{rest}", execution.event_id, execution.name);
    Uuid::new_v5(&NAMESPACE, name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_same_in_every_process_and_release() {
        let execution = ExecutionId {
            name: crate::ModuleName::parse("thumbnail").unwrap(),
            event_id: EventId::parse("e1").unwrap(),
            run: 0,
        };
        let proposal = PrivateId::parse("00112233445566778899aabbccddeeff").unwrap();
        assert_eq!(insight(&execution).as_str(), "716d63f9-e19b-5d1d-ab19-9ee55c4e98cc");
        assert_eq!(record(&execution), "d440adb9-dbc2-5282-bdae-6e97a7ccb1fd");
        assert_eq!(event(&execution, &proposal, "1.json").as_str(), "e7c98e8e-2432-5892-b7a2-a43478644c45");
    }

    #[test]
    fn what_a_proposal_stores_has_ids_of_its_own() {
        let (name, event_id) = (crate::ModuleName::parse("m").unwrap(), EventId::parse("e1").unwrap());
        let run = |run| ExecutionId { name: name.clone(), event_id: event_id.clone(), run };
        let (one, other) = (PrivateId::random(), PrivateId::random());
        assert_ne!(event(&run(0), &one, "a"), event(&run(0), &other, "a"));
        assert_ne!(event(&run(0), &one, "a"), event(&run(1), &one, "a"));
        assert_ne!(chunk(&run(0), &one, 0), chunk(&run(0), &other, 0));
        assert_ne!(insight(&run(0)), insight(&run(1)));
        assert_ne!(record(&run(0)), record(&run(1)));
    }
}
