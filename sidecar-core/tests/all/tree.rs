//! Trees survive as written, and nothing gets out of them.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};

use sidecar_core::{DataPlane, Error};

use crate::scene::{Scene, files};

/// Commits what `write` made and returns the scene of a consumer of all `names`.
async fn carry(names: &[&str], write: impl FnOnce(&Scene)) -> Scene {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.ready().await;
    write(&scene);
    let pairs = names.iter().map(|name| serde_json::json!({"key": "files", "value": name}));
    let mut event = vec![serde_json::json!({"key": "eventType", "value": "t"})];
    event.extend(pairs);
    scene.write("out/events/1.json", serde_json::to_vec(&event).unwrap());
    let receipt = session.done().await.unwrap();
    let next = scene.next("next", &receipt.events[0].event_id);
    next.ready().await;
    next
}

/// The problems of outputs that `write` made.
async fn problems(write: impl FnOnce(&Scene)) -> String {
    let scene = Scene::new(DataPlane::memory());
    let session = scene.ready().await;
    write(&scene);
    let error = session.done().await.unwrap_err();
    let Error::Invalid(problems) = &*error else { panic!("{error:?}") };
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[tokio::test]
async fn nested_empty_and_odd_names_survive() {
    let mut names = [
        "a/b/c/d/e",
        "empty",
        ".hidden",
        "a b ",
        " lead",
        "größe.png",
        "日本/語",
        "x,y",
        "...",
        "new\nline",
        "-rf",
        "a/\\",
    ];
    names.sort();
    let next = carry(&names, |scene| {
        for name in names {
            scene.write(&format!("out/data/{name}"), if name == "empty" { "" } else { name });
        }
    })
    .await;
    assert_eq!(files(next.path("in/data")), names);
    for name in names.iter().filter(|name| **name != "empty") {
        assert_eq!(next.read(&format!("in/data/{name}")), *name);
    }
}

#[tokio::test]
async fn the_exec_bit_survives() {
    let next = carry(&["run.sh", "data"], |scene| {
        scene.write("out/data/run.sh", "#!/bin/sh");
        scene.write("out/data/data", "");
        fs::set_permissions(scene.path("out/data/run.sh"), fs::Permissions::from_mode(0o700)).unwrap();
    })
    .await;
    let mode = |name: &str| next.path(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("in/data/run.sh"), 0o755);
    assert_eq!(mode("in/data/data"), 0o644);
}

#[tokio::test]
async fn links_inside_are_followed() {
    let next = carry(&["file", "dir/file", "absolute", "around"], |scene| {
        scene.write("out/data/real/file", "content");
        symlink("real/file", scene.path("out/data/file")).unwrap();
        symlink("real", scene.path("out/data/dir")).unwrap();
        symlink(scene.path("out/data/real/file"), scene.path("out/data/absolute")).unwrap();
        symlink("../../out/data/real/../real/file", scene.path("out/data/around")).unwrap();
    })
    .await;
    for name in ["file", "dir/file", "absolute", "around"] {
        assert_eq!(next.read(&format!("in/data/{name}")), "content");
        assert!(!next.path(&format!("in/data/{name}")).is_symlink());
    }
}

#[tokio::test]
async fn links_outside_are_refused_by_name() {
    let found = problems(|scene| {
        scene.write("secret", "s");
        symlink("/etc/passwd", scene.path("out/data/passwd")).unwrap();
        symlink("../../secret", scene.path("out/data/up")).unwrap();
        symlink("../../secret/../out/data/real", scene.path("out/data/beside")).unwrap();
        symlink("nowhere", scene.path("out/data/dangling")).unwrap();
        symlink(".", scene.path("out/data/loop")).unwrap();
        symlink("self", scene.path("out/data/self")).unwrap();
    })
    .await;
    for name in [
        "passwd: is a link to /etc/passwd, outside",
        "up: is a link",
        "beside: is a link",
        "dangling: ",
        "loop: is a link that leads back",
        "self: ",
    ] {
        assert!(found.contains(&format!("out/data/{name}")), "{found}");
    }
}

#[tokio::test]
async fn the_directories_themselves_are_no_links() {
    for name in ["out/data", "out/events"] {
        let found = problems(|scene| {
            scene.write("elsewhere/secret.json", "[]");
            fs::remove_dir(scene.path(name)).unwrap();
            symlink(scene.path("elsewhere"), scene.path(name)).unwrap();
        })
        .await;
        assert!(found.contains("is a link or a file, or lies in one, and must be a directory"), "{found}");
    }
    let scene = Scene::new(DataPlane::memory());
    let session = scene.open().await;
    scene.write("victim/data/precious", "");
    fs::remove_dir_all(scene.path("in")).unwrap();
    symlink(scene.path("victim"), scene.path("in")).unwrap();
    assert!(session.ready().await.unwrap_err().chain().contains("it is a link"));
    assert!(scene.path("victim/data/precious").exists());
}

#[tokio::test]
async fn two_links_to_each_other_end() {
    let found = problems(|scene| {
        scene.write("out/data/a/file", "");
        scene.write("out/data/b/file", "");
        symlink("../b", scene.path("out/data/a/b")).unwrap();
        symlink("../a", scene.path("out/data/b/a")).unwrap();
    })
    .await;
    assert!(found.contains("leads back to itself"), "{found}");
}

#[tokio::test]
async fn what_is_no_file_is_refused_and_never_blocks() {
    let found = problems(|scene| {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            scene.path("out/data/pipe"),
            rustix::fs::FileType::Fifo,
            0o644.into(),
            0,
        )
        .unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            scene.path("out/events/1.json"),
            rustix::fs::FileType::Fifo,
            0o644.into(),
            0,
        )
        .unwrap();
        fs::remove_dir_all(scene.path("out/meta.json")).ok();
        fs::create_dir(scene.path("out/meta.json")).unwrap();
        let name = std::ffi::OsStr::from_bytes(b"not-utf8-\xff");
        fs::write(scene.path("out/data").join(name), "").unwrap();
    })
    .await;
    assert!(found.contains("out/data/pipe: is neither a file nor a directory"), "{found}");
    assert!(found.contains("out/events/1.json: is not a regular file"), "{found}");
    assert!(found.contains("out/meta.json: is not a regular file"), "{found}");
    assert!(found.contains("not-utf8-\u{fffd}: the name is not UTF-8"), "{found}");
}

#[tokio::test]
async fn names_that_make_keys_too_long_are_refused() {
    let deep = vec!["d".repeat(200); 6].join("/");
    let found = problems(|scene| scene.write(&format!("out/data/{deep}"), "")).await;
    assert!(found.contains("longer than 1024 bytes"), "{found}");
}

#[tokio::test]
async fn an_event_too_large_is_refused() {
    let found = problems(|scene| scene.write("out/events/1.json", vec![b' '; 300_000])).await;
    assert!(found.contains("out/events/1.json: is larger than 262144 bytes"), "{found}");
}
