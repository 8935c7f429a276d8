//! The shell blocks of the guides work as they are printed.
//!
//! A block with the label `sh` is run; `console` and `text` are illustrations. The blocks of one page run one after
//! the other, in one shell and one empty directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Blocks of the README that need a build of their own: `.ci/run` runs these commands.
const RUN_BY_CI: [&str; 2] = [
    "cargo test --workspace --all-features",
    "cargo build --release --no-default-features --features pipeline",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The blocks with this label.
fn blocks(page: &str, label: &str) -> Vec<String> {
    let (mut blocks, mut block) = (Vec::new(), None::<String>);
    for line in page.lines() {
        block = match (block, line.trim_end()) {
            (None, line) if line.strip_prefix("```") == Some(label) => Some(String::new()),
            (Some(done), "```") => {
                blocks.push(done);
                None
            }
            (Some(text), line) => Some(text + line + "\n"),
            (None, _) => None,
        };
    }
    assert!(block.is_none(), "a block is not closed");
    blocks
}

fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = docs.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    pages.push(root().join("README.md"));
    pages.sort();
    pages
}

#[test]
fn the_shell_blocks_of_the_guides_work() {
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_sidecar")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut pages_run = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let is_run_by_ci = |block: &&String| {
            let command = RUN_BY_CI.iter().find(|command| block.contains(**command));
            command.is_some_and(|command| ci.contains(command))
        };
        let script: String = blocks(&text, "sh")
            .iter()
            .filter(|block| !is_run_by_ci(block))
            // `set -e` does not see the failure of the first command of `a && b`.
            .map(|block| format!("{block}test $? -eq 0\n"))
            .collect();
        if script.is_empty() {
            continue;
        }
        let dir = TempDir::new().unwrap();
        let mut shell = Command::new("sh");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SIDECAR_")) {
            shell.env_remove(name);
        }
        shell.args(["-eux", "-c", &script]).env("PATH", &path).env_remove("SHARED_SECRET");
        let output = shell.current_dir(&dir).stdin(Stdio::null()).output().unwrap();
        let (out, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {}\n{out}{log}", page.display(), output.status);
        pages_run += 1;
    }
    assert_eq!(
        pages_run, 8,
        "README.md, lineage.md, pipelines.md, providers.md, reliability.md, testing-a-module.md, workers.md and writing-a-module.md"
    );
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for rest in text.split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap();
            if !target.is_empty() && !target.contains("://") {
                let found = page.parent().unwrap().join(target);
                assert!(found.exists(), "{} links to {target}, which is not there", page.display());
            }
        }
    }
}

#[test]
fn what_must_never_happen_again_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    let (_, section) = page.split_once("## Never again").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let mut sources = String::new();
    let mut dirs =
        ["sidecar-core/tests", "sidecar-core/src/conformance", "sidecar-client/tests", "sidecar-bin/tests"]
            .map(|dir| root.join(dir))
            .to_vec();
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources += &fs::read_to_string(path).unwrap();
            }
        }
    }
    let names: Vec<&str> =
        section.lines().filter_map(|line| line.rsplit('`').nth(1)).filter(|name| name.len() > 15).collect();
    assert!(names.len() > 20, "{names:?}");
    let absent: Vec<_> = names.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
    assert!(absent.is_empty(), "{absent:?}");
}
