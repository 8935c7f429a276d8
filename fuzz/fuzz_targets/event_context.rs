//! What a document store gives back, which anybody may have written.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sidecar_core::{Blob, Context, EventContext, Failure, Insight};
use sidecar_fuzz::{ROOT, assert_below, document};

fuzz_target!(|json: &[u8]| {
    if let Some(EventContext { context, files, blobs, .. }) = document(json) {
        assert_file(context.event_id.as_str());
        for name in &files {
            assert_below(name.as_str(), &name.below(Path::new(ROOT)));
        }
        assert_stored(&blobs);
    }
    if let Some(Insight { context, id, .. }) = document(json) {
        assert_execution(&context);
        assert_file(id.as_str());
    }
    if let Some(Failure { context, id, blobs, .. }) = document(json) {
        assert_execution(&context);
        assert_file(id.as_str());
        assert_stored(&blobs);
    }
});

fn assert_execution(context: &Context) {
    assert_file(context.event_id.as_str());
    assert_file(context.name.as_str());
    assert!(!context.name.as_str().starts_with('.'), "names with a dot are ours");
}

/// A store of files keeps the document of this id right in its directory.
fn assert_file(id: &str) {
    assert!(!id.is_empty() && !id.contains('/'));
    assert_below(id, &Path::new(ROOT).join(id));
    let file = format!("{id}.json");
    assert_below(&file, &Path::new(ROOT).join(&file));
}

fn assert_stored(blobs: &[Blob]) {
    for Blob { name, key, .. } in blobs {
        assert_below(name.as_str(), &name.below(Path::new(ROOT)));
        assert_below(key.as_str(), &key.below(Path::new(ROOT)));
    }
}
