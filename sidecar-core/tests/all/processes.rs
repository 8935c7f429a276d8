//! Eight processes decide the same executions at once: each execution has one winner, and all see the same.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sidecar_core::plane::Config;
use sidecar_core::{DataPlane, Documents, Failure, FailureId};

use crate::servers;

const PROCESSES: usize = 8;
const EXECUTIONS: u128 = 20;
/// By then every process is at the line.
const START: Duration = Duration::from_secs(1);

fn open(documents: &str) -> DataPlane {
    DataPlane::from_urls(&Config::new("memory:", documents, "memory:"), |_| None).unwrap()
}

/// What one of the processes does: this test program again, for this test alone.
#[tokio::test]
async fn one_process_of_eight() {
    let Ok(documents) = std::env::var("SIDECAR_TEST_DECIDE") else { return };
    let number = std::env::var("SIDECAR_TEST_NUMBER").unwrap();
    let at: u64 = std::env::var("SIDECAR_TEST_AT").unwrap().parse().unwrap();
    let first: u128 = std::env::var("SIDECAR_TEST_FIRST").unwrap().parse().unwrap();
    let plane = open(&documents);
    plane.documents.check().await.unwrap();
    let line = UNIX_EPOCH + Duration::from_millis(at);
    tokio::time::sleep(line.duration_since(SystemTime::now()).unwrap_or_default()).await;
    for n in 0..EXECUTIONS {
        let id = FailureId::from(uuid::Uuid::from_u128(first + n));
        let mine: Failure = serde_json::from_value(serde_json::json!({
            "id": id, "eventId": "e", "name": "m", "correlationId": "c", "parentEventId": "", "reason": number,
            "phase": "ready", "culprit": "module", "retryable": false, "time": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        println!("decided {id} {}", plane.documents.decide(&mine).await.unwrap().reason);
    }
}

async fn decide(documents: Option<String>) {
    let Some(documents) = documents else { return };
    let plane = open(&documents);
    servers::answering(|| plane.documents.check()).await;
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + START;
    let first = uuid::Uuid::new_v4().as_u128() & !0xff;
    let start = |number: usize| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::one_process_of_eight", "--nocapture"])
            .env("SIDECAR_TEST_DECIDE", &documents)
            .env("SIDECAR_TEST_NUMBER", number.to_string())
            .env("SIDECAR_TEST_AT", at.as_millis().to_string())
            .env("SIDECAR_TEST_FIRST", first.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let processes: Vec<_> = (0..PROCESSES).map(start).collect();
    let mut views: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for process in processes {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success());
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let Some((id, winner)) = line.split_once("decided ").and_then(|(_, rest)| rest.split_once(' '))
            else {
                continue;
            };
            views.entry(id.to_owned()).or_default().push(winner.to_owned());
        }
    }
    assert_eq!(views.len() as u128, EXECUTIONS);
    for (id, winners) in views {
        assert_eq!(winners.len(), PROCESSES, "{id}");
        assert!(winners.iter().all(|winner| *winner == winners[0]), "{id}: {winners:?}");
        let stored = plane.documents.find::<Failure>(&id).await.unwrap().unwrap();
        assert_eq!(stored.reason, winners[0]);
    }
}

#[tokio::test]
async fn eight_processes_have_one_view_of_local_files() {
    let dir = tempfile::TempDir::new().unwrap();
    decide(Some(format!("file://{}", dir.path().display()))).await;
}

#[tokio::test]
async fn eight_processes_have_one_view_of_postgres() {
    decide(servers::postgres().map(|url| format!("{url}?table=decided"))).await;
}

/// Nothing relies on the state of a connection: behind a pooler the next call may have another one.
#[tokio::test]
async fn eight_processes_have_one_view_of_postgres_behind_a_pooler_of_transactions() {
    decide(servers::pgbouncer().map(|url| format!("{url}?table=pooled"))).await;
}

#[tokio::test]
async fn eight_processes_have_one_view_of_mongodb() {
    let url = servers::secantusdb().map(|url| {
        let mut url: url::Url = url.parse().unwrap();
        url.set_path("/test.decided");
        url.to_string()
    });
    decide(url).await;
}
