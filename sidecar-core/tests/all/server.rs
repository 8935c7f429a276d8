//! The HTTP API, without a socket.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use axum::{Router, response::Response};
use serde_json::{Value, json};
use sidecar_core::DataPlane;
use sidecar_core::server::{Secret, Sessions, router};
use tower::ServiceExt;

use crate::scene::{Scene, Scripted};

async fn call(router: &Router, method: Method, path: &str, secret: Option<&str>) -> (StatusCode, Value) {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(secret) = secret {
        request = request.header("secret", secret);
    }
    body(router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()).await
}

async fn body(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes))))
}

async fn get(router: &Router, path: &str) -> (StatusCode, Value) {
    call(router, Method::GET, path, Some("s")).await
}

async fn api() -> (Scripted, Scene, Router) {
    let scripted = Scripted::default();
    let scene = Scene::new(scripted.plane());
    let router = router(Sessions::one(Secret::new("s"), scene.open().await));
    (scripted, scene, router)
}

#[tokio::test]
async fn ready_and_done_answer_get_and_post() {
    let (_, scene, router) = api().await;
    let context = json!({"name": "first", "eventId": "e1", "correlationId": "c1", "parentEventId": ""});
    let staged = json!({"files": 0, "bytes": 0, "values": 0, "context": context});
    assert_eq!(get(&router, "/ready").await, (StatusCode::OK, staged));
    scene.write_outputs();
    let (status, receipt) = get(&router, "/done").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(receipt["events"][0]["type"], "one");
    assert_eq!(call(&router, Method::POST, "/done", Some("s")).await, (StatusCode::OK, receipt));
    let (_, status) = get(&router, "/status").await;
    assert_eq!((&status["phase"], &status["filesTotal"]), (&json!("done"), &json!(2)));
}

#[tokio::test]
async fn the_secret_guards_what_changes_or_tells() {
    let (scripted, _, router) = api().await;
    for path in ["/ready", "/done", "/fail", "/status"] {
        for (secret, message) in [(None, "missing"), (Some("wrong"), "wrong"), (Some(""), "wrong")] {
            let (status, body) = call(&router, Method::GET, path, secret).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED);
            assert_eq!((&body["statusCode"], &body["retryable"]), (&json!(401), &json!(false)));
            assert!(body["message"].as_str().unwrap().contains(message), "{body}");
        }
    }
    assert_eq!(scripted.script.calls_after_open(), Vec::<String>::new());
    for path in ["/healthz", "/metrics", "/openapi.json"] {
        assert_eq!(call(&router, Method::GET, path, None).await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn one_server_serves_each_module_its_own_session() {
    let (first, second) = (Scene::new(DataPlane::memory()), Scene::new(DataPlane::memory()));
    let sessions = Sessions::one(Secret::new("first"), first.open().await);
    sessions.insert(Secret::new("second"), second.open().await);
    let router = router(sessions.clone());
    let phase = async |secret| call(&router, Method::GET, "/status", Some(secret)).await.1["phase"].clone();
    assert_eq!(call(&router, Method::GET, "/ready", Some("first")).await.0, StatusCode::OK);
    assert_eq!((phase("first").await, phase("second").await), (json!("ready"), json!("new")));
    second.write_outputs();
    assert_eq!(call(&router, Method::GET, "/ready", Some("second")).await.0, StatusCode::OK);
    assert_eq!(call(&router, Method::GET, "/done", Some("second")).await.1["files"], 2);
    assert_eq!(call(&router, Method::GET, "/done", Some("first")).await.1["files"], 0);
    let decided = async || {
        let text = get(&router, "/metrics").await.1;
        text.as_str().unwrap().contains(r#"sidecar_decisions_total{outcome="won"} 2"#)
    };
    assert!(decided().await);
    sessions.remove(&Secret::new("second"));
    assert_eq!(call(&router, Method::GET, "/done", Some("second")).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(phase("first").await, "done");
    assert!(decided().await, "a session that has ended still counts");
}

/// Of two processes of a module the one that called ready last is the module: half of one and half of the other must not
/// become one outcome.
#[tokio::test]
async fn a_process_that_another_has_taken_the_place_of_commits_nothing() {
    let (_, scene, router) = api().await;
    let call = async |path: &str, start: &str| {
        let request = Request::builder().uri(path).header("secret", "s").header("module-start", start);
        router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
    };
    assert_eq!(call("/ready", "one").await, StatusCode::OK);
    scene.write("out/data/one", "1");
    assert_eq!(call("/ready", "two").await, StatusCode::OK);
    scene.write("out/data/two", "2");
    assert_eq!(call("/done", "one").await, StatusCode::CONFLICT);
    // Nor does it end what the other one works on.
    assert_eq!(call("/fail", "one").await, StatusCode::CONFLICT);
    assert_eq!(call("/done", "two").await, StatusCode::OK);
    // What is done can be asked for by anybody.
    assert_eq!(call("/done", "one").await, StatusCode::OK);
    let receipt = get(&router, "/done").await.1;
    assert_eq!(receipt["files"], 1);
}

/// Neither a call that only looked whether somebody answers nor outputs that were refused let an earlier process commit.
#[tokio::test]
async fn the_process_that_called_ready_last_is_the_module_whatever_was_before() {
    let (_, scene, router) = api().await;
    let call = async |path: &str, start: Option<&str>| {
        let request = Request::builder().uri(path).header("secret", "s");
        let request = start.into_iter().fold(request, |request, start| request.header("module-start", start));
        router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
    };
    assert_eq!(call("/ready", None).await, StatusCode::OK);
    assert_eq!(call("/ready", Some("one")).await, StatusCode::OK);
    scene.write("out/data/one", "1");
    assert_eq!(call("/ready", Some("two")).await, StatusCode::OK);
    assert!(!scene.path("out/data/one").exists());
    assert_eq!(call("/done", Some("one")).await, StatusCode::CONFLICT);
    scene.write("out/events/1.json", "[]");
    assert_eq!(call("/done", Some("two")).await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(call("/ready", Some("three")).await, StatusCode::OK);
    std::fs::remove_file(scene.path("out/events/1.json")).unwrap();
    scene.write("out/data/three", "3");
    assert_eq!(call("/done", Some("two")).await, StatusCode::CONFLICT);
    assert_eq!(call("/done", Some("three")).await, StatusCode::OK);
}

/// A module that was restarted before `done` must not have the outputs of its dead self committed.
#[tokio::test]
async fn a_module_that_began_again_does_not_commit_what_its_dead_self_wrote() {
    let (_, scene, router) = api().await;
    let ready = async |start: Option<&str>| {
        let request = Request::builder().uri("/ready").header("secret", "s");
        let request = start.into_iter().fold(request, |request, start| request.header("module-start", start));
        let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    };
    ready(Some("one")).await;
    scene.write_event("1.json", "dead", "a");
    scene.write("out/data/a", "dead");
    // The same process, and one that does not say who it is, only ask again.
    for start in [Some("one"), None] {
        ready(start).await;
        assert!(scene.path("out/data/a").exists());
    }
    ready(Some("two")).await;
    assert_eq!(scene.read("out/.previous/1/data/a"), "dead");
    assert!(scene.path("in/meta.json").exists());
    scene.write("out/data/b", "alive");
    scene.write("out/events/1.json", "[]");
    assert_eq!(get(&router, "/done").await.0, StatusCode::UNPROCESSABLE_ENTITY);
    // It may be another process that fixes what was refused.
    ready(Some("three")).await;
    assert!(scene.path("out/data/b").exists());
    std::fs::remove_file(scene.path("out/events/1.json")).unwrap();
    let receipt = get(&router, "/done").await.1;
    assert_eq!((&receipt["files"], &receipt["events"]), (&json!(1), &json!([])));
}

#[tokio::test]
async fn calls_out_of_order_are_conflicts() {
    let (_, _, router) = api().await;
    let (status, body) = get(&router, "/done").await;
    assert_eq!((status, &body["retryable"]), (StatusCode::CONFLICT, &json!(false)));
    assert!(body["message"].as_str().unwrap().contains("call ready first"), "{body}");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_json_errors() {
    let (_, _, router) = api().await;
    assert_eq!(get(&router, "/nowhere").await.1["statusCode"], 404);
    assert_eq!(call(&router, Method::DELETE, "/ready", Some("s")).await.1["statusCode"], 405);
    assert_eq!(call(&router, Method::POST, "/healthz", None).await.1["statusCode"], 405);
    // HEAD would otherwise do what GET does.
    for path in ["/ready", "/done", "/fail"] {
        let head = Request::head(path).header("secret", "s").body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(head).await.unwrap();
        assert_eq!(
            (answer.status(), answer.headers()["allow"].as_bytes()),
            (StatusCode::METHOD_NOT_ALLOWED, &b"GET,POST"[..])
        );
    }
    assert_eq!(get(&router, "/status").await.1["phase"], "new");
}

#[tokio::test]
async fn invalid_outputs_list_every_problem() {
    let (_, scene, router) = api().await;
    get(&router, "/ready").await;
    scene.write_event("1.json", "t", "missing");
    scene.write("out/events/2.json", "[]");
    let (status, body) = get(&router, "/done").await;
    assert_eq!((status, &body["retryable"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(false)));
    assert_eq!(body["problems"][0]["file"], "out/events/1.json");
    assert_eq!(
        body["problems"][1],
        json!({"file": "out/events/2.json", "line": 1, "column": 1, "message": "no pair with the key \"eventType\""})
    );
}

#[tokio::test]
async fn a_provider_that_is_away_is_retryable() {
    let (scripted, _, router) = api().await;
    scripted.script.fail("event_context", 1);
    let request = Request::builder().uri("/ready").header("secret", "s").body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()["retry-after"], "1");
    let (status, body) = body(response).await;
    assert_eq!((status, &body["retryable"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(true)));
    assert_eq!(get(&router, "/ready").await.0, StatusCode::OK);
}

#[tokio::test]
async fn fail_takes_a_reason() {
    let (_, _, router) = api().await;
    get(&router, "/ready").await;
    let request = Request::post("/fail").header("secret", "s").body(Body::from("no faces\n")).unwrap();
    let (status, answer) = body(router.clone().oneshot(request).await.unwrap()).await;
    assert_eq!((status, &answer["reason"]), (StatusCode::OK, &json!("no faces")));
    assert!(get(&router, "/done").await.1["message"].as_str().unwrap().contains("no faces"));
    let large = Request::post("/fail").header("secret", "s").body(Body::from(vec![b'x'; 70_000])).unwrap();
    assert_eq!(router.oneshot(large).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn metrics_count_requests_by_route() {
    let (_, _, router) = api().await;
    get(&router, "/ready").await;
    get(&router, "/admin.php").await;
    let (_, text) = get(&router, "/metrics").await;
    let text = text.as_str().unwrap();
    assert!(text.contains(r#"sidecar_requests_total{path="/ready",status="200"} 1"#), "{text}");
    assert!(text.contains(r#"sidecar_requests_total{path="other",status="404"} 1"#), "{text}");
    assert!(text.contains(r#"sidecar_phase{phase="ready"} 1"#), "{text}");
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn the_description_names_every_route() {
    let (_, _, router) = api().await;
    let (_, description) = get(&router, "/openapi.json").await;
    let paths = description["paths"].as_object().unwrap();
    for path in paths.keys().filter(|path| *path != "/openapi.json") {
        assert_ne!(get(&router, path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(paths.len(), 8);
    assert_eq!(description["info"]["version"], env!("CARGO_PKG_VERSION"));
}
