//! A trace as run events of OpenLineage 2.0.2: a job for each module, a dataset for each event type.

use serde_json::{Value, json};
use sidecar_core::lineage::Trace;
use uuid::Uuid;

/// Who writes them.
const PRODUCER: &str = concat!("https://crates.io/crates/sidecar-bin/", env!("CARGO_PKG_VERSION"));
/// What they follow.
const SCHEMA: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";
/// The names of runs: the same for the same attempt, whoever asks.
const RUNS: Uuid = Uuid::from_u128(0x5f1b_3c52_9d0e_4c55_8c3e_9d70_62f4_27aa);

/// One event a line: the start and the end of each execution, and the end of each attempt that failed.
pub(super) fn run_events(trace: &Trace, namespace: &str) -> String {
    let types: std::collections::HashMap<_, _> =
        trace.events.iter().map(|event| (&event.event_id, event.event_type.as_deref())).collect();
    let dataset = |name: &str| json!({ "namespace": namespace, "name": name });
    let inputs = |event: &sidecar_core::EventId| -> Vec<Value> {
        types.get(event).copied().flatten().map(dataset).into_iter().collect()
    };
    let mut events = Vec::new();
    for execution in &trace.executions {
        let mut published: Vec<&str> = execution.events.iter().map(|event| &*event.event_type).collect();
        published.sort_unstable();
        published.dedup();
        let outputs: Vec<_> = published.into_iter().map(dataset).collect();
        let name =
            format!("{}/{}/{}/{}", execution.event_id, execution.module, execution.run, execution.attempt);
        for (kind, time) in [("START", &execution.started), ("COMPLETE", &execution.done)] {
            let of = Of { namespace, kind, time, run: &name, job: execution.module.as_str() };
            events.push(of.event(inputs(&execution.event_id), outputs.clone()));
        }
    }
    for failure in &trace.failures {
        let context = &failure.context;
        let attempt = failure.attempt.as_ref().map(ToString::to_string).unwrap_or_default();
        let name = format!("{}/{}/{attempt}/{}", context.event_id, context.name, failure.id);
        let of = Of { namespace, kind: "FAIL", time: &failure.time, run: &name, job: context.name.as_str() };
        let mut event = of.event(inputs(&context.event_id), Vec::new());
        event["run"]["facets"]["errorMessage"] = json!({
            "_producer": PRODUCER,
            "_schemaURL": "https://openlineage.io/spec/facets/1-0-1/ErrorMessageRunFacet.json#/$defs/ErrorMessageRunFacet",
            "message": failure.reason,
            "programmingLanguage": "unknown",
        });
        events.push(event);
    }
    events.sort_by(|one, other| one["eventTime"].as_str().cmp(&other["eventTime"].as_str()));
    events.iter().map(|event| format!("{event}\n")).collect()
}

struct Of<'o> {
    namespace: &'o str,
    kind: &'o str,
    time: &'o str,
    run: &'o str,
    job: &'o str,
}

impl Of<'_> {
    fn event(&self, inputs: Vec<Value>, outputs: Vec<Value>) -> Value {
        json!({
            "eventType": self.kind,
            "eventTime": self.time,
            "producer": PRODUCER,
            "schemaURL": SCHEMA,
            "run": { "runId": Uuid::new_v5(&RUNS, self.run.as_bytes()).to_string(), "facets": {} },
            "job": { "namespace": self.namespace, "name": self.job },
            "inputs": inputs,
            "outputs": outputs,
        })
    }
}
