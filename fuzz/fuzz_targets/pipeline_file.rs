//! The file of a pipeline: it is accepted, or every mistake is reported with its place.
#![no_main]
#![allow(dead_code)]

#[path = "../../sidecar-bin/src/pipeline/file.rs"]
mod file;

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match file::parse(text, "p.toml", Path::new("/d"), |_, _| None) {
        Ok(pipeline) => {
            assert!(!pipeline.modules.is_empty());
            for module in pipeline.modules {
                assert!(!module.command.is_empty() && !module.subscribes.is_empty());
                assert!(module.line <= text.lines().count().max(1));
            }
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            assert!(problems.iter().all(|problem| problem.starts_with("p.toml:")));
        }
    }
});
