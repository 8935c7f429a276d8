//! The providers keep every guarantee, and a module commits through them.
#![allow(clippy::unwrap_used, missing_docs)]

use example_provider::{Blobs, Documents, Events, Server};
use sidecar_core::events::EventFormat;
use sidecar_core::{Context, DataPlane, Layout, ModuleName, Phase, Session, Settings, Submission};

mod blobs {
    use crate::{Blobs, Server};

    sidecar_core::conformance_blob!(
        Blobs::open(&Server::start(), "files"),
        reopen: async |store| Blobs::clone(store),
        away: Blobs::open(&Server::down(), "files"),
    );
}

mod documents {
    use crate::{Documents, Server};

    sidecar_core::conformance_documents!(
        Documents::open(&Server::start(), "papers"),
        reopen: async |store| Documents::clone(store),
        away: Documents::open(&Server::down(), "papers"),
    );
}

mod events {
    use async_trait::async_trait;
    use sidecar_core::conformance::events::Consumer;
    use sidecar_core::events::EventFormat;
    use sidecar_core::{Event, EventProvider};

    use crate::{Events, Server};

    struct Bus(Events);

    #[async_trait]
    impl Consumer for Bus {
        fn provider(&self) -> &dyn EventProvider {
            &self.0
        }
        async fn arrived(&self) -> Vec<Event> {
            let messages = self.0.messages().unwrap();
            messages.iter().map(|(_, message)| EventFormat::Ion.decode(message).unwrap()).collect()
        }
        fn drops_repeats(&self) -> bool {
            true
        }
    }

    sidecar_core::conformance_events!(
        Bus(Events::open(&Server::start(), "topic")),
        reopen: async |bus| bus.0.clone(),
        away: Events::open(&Server::down(), "topic"),
    );
}

mod sources {
    use crate::{Events, Server};

    sidecar_core::conformance_sources!(
        Events::open(&Server::start(), "topic"),
        reopen: async |bus| Events::clone(bus),
        away: Events::open(&Server::down(), "topic"),
    );
}

#[tokio::test]
async fn a_module_commits_through_them() {
    let server = Server::start();
    let events = Events::open(&server, "topic");
    let plane =
        DataPlane::new(Blobs::open(&server, "files"), Documents::open(&server, "papers"), events.clone());
    plane.check().await.unwrap();
    let event = Submission::new("text_added").submit(&plane).await.unwrap();
    let base = tempfile::tempdir().unwrap();
    let context = Context {
        name: ModuleName::parse("greeter").unwrap(),
        event_id: event,
        correlation_id: String::new(),
        parent_event_id: String::new(),
    };
    let session = Session::open(Settings::new(context, Layout::new(base.path())), plane).await.unwrap();
    session.ready().await.unwrap();
    std::fs::write(base.path().join("out/data/hello.txt"), "hello").unwrap();
    let greeted = r#"[{"key": "eventType", "value": "greeted"}, {"key": "files", "value": "hello.txt"}]"#;
    std::fs::write(base.path().join("out/events/1.json"), greeted).unwrap();
    session.done().await.unwrap();
    assert_eq!(session.phase(), Phase::Done);
    let published = events.messages().unwrap();
    let types: Vec<_> =
        published.iter().map(|(_, message)| EventFormat::Ion.decode(message).unwrap().event_type).collect();
    assert!(types.contains(&"greeted".to_owned()), "{types:?}");
}

#[tokio::test]
async fn a_server_that_is_down_is_unavailable() {
    let server = Server::down();
    let plane = DataPlane::new(
        Blobs::open(&server, "files"),
        Documents::open(&server, "papers"),
        Events::open(&server, "topic"),
    );
    let errors = plane.check().await.unwrap_err();
    assert_eq!(errors.len(), 3);
    assert!(errors.iter().all(sidecar_core::Error::is_retryable), "{errors:?}");
    assert_eq!(errors[0].chain(), "example blobs files is unavailable: cannot connect: connection refused");
}

/// What the guide quotes of a file is in that file, line by line.
#[test]
fn the_guide_shows_these_files() {
    let guide = include_str!("../../../docs/writing-a-provider.md");
    let mut quoted = 0;
    for quote in guide.split("<!-- examples/provider/").skip(1) {
        let (file, rest) = quote.split_once(" -->\n```rust,ignore\n").unwrap();
        let (code, _) = rest.split_once("```").unwrap();
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        assert!(std::fs::read_to_string(path).unwrap().contains(code), "{file} does not have:\n{code}");
        quoted += 1;
    }
    assert_eq!(quoted, 7);
}
