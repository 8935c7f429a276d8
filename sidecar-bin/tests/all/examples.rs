//! Any language works: the Python and the shell module over the sample pictures.

use std::path::Path;

use tempfile::TempDir;

use crate::process::{committed, ended, files, output, sidecar, skip};

fn thumbnails(module: &[&str]) -> Vec<String> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let dir = TempDir::new().unwrap();
    let pictures = examples.join("pictures");
    let (code, event, log) = output(&dir, &["submit", "--development=true", pictures.to_str().unwrap()]);
    assert_eq!(code, 0, "{log}");
    let event = event.trim();
    let [interpreter, script] = module else { panic!("{module:?}") };
    let mut command = sidecar(&dir, &["run", "--development=true", "--context.name=thumbnail"]);
    command.args([&format!("--context.eventid={event}"), "--", interpreter]).arg(examples.join(script));
    let (code, out, log) = ended(&command.output().unwrap());
    assert_eq!(code, 0, "{out}{log}");
    assert_eq!(files(dir.path().join("dev/events")).len(), 6);
    committed(&dir, &format!("{event}/thumbnail")).into_iter().map(|(name, _)| name).collect()
}

const PICTURES: [&str; 5] = ["2024/hills", "2024/rings", "checker board", "mandelbrot", "sunset"];

#[test]
fn a_module_in_python() {
    if !available("python3") {
        return;
    }
    assert_eq!(
        thumbnails(&["python3", "thumbnail-python/module.py"]),
        PICTURES.map(|name| format!("{name}.png.thumb.png"))
    );
}

#[test]
fn a_module_in_shell() {
    if !available("curl") {
        return;
    }
    assert_eq!(
        thumbnails(&["sh", "thumbnail-shell/module.sh"]),
        PICTURES.map(|name| format!("{name}.png.thumb.svg"))
    );
}

/// Whether the program is there.
pub fn available(program: &str) -> bool {
    let found = std::process::Command::new(program).arg("--version").output().is_ok();
    if !found {
        skip(&format!("a module that needs {program}"), "install it from your system's packages");
    }
    found
}
