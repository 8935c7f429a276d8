//! The page of a trace, in a real browser without a network.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::output;

/// How long the page may take until it can be used, with 10,000 executions, in milliseconds. Other tests run beside it.
const USABLE: f64 = 6000.0;

/// The browser, or a line that says how to get it.
fn chromium() -> Option<Command> {
    let found = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).map(|dir| dir.join("chromium")).find(|program| program.exists())
    });
    let Some(program) = found else {
        let required = std::env::var_os("SIDECAR_TEST_REQUIRE_SERVERS").is_some();
        assert!(!required, "chromium is required: apt install chromium");
        std::io::stderr()
            .write_all(b"skipped: the page of a trace needs chromium: apt install chromium\n")
            .unwrap();
        return None;
    };
    let mut command = Command::new(program);
    // Whatever it asks for outside does not exist.
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    command.args([
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--virtual-time-budget=20000",
        "--window-size=1280,900",
    ]);
    command.stdin(Stdio::null());
    Some(command)
}

/// Opens the page, lets `script` act on it as a person would, and gives the document that is there then.
fn open(page: &Path, script: &str) -> Option<String> {
    let dir = TempDir::new().unwrap();
    let acted = dir.path().join("page.html");
    let text = fs::read_to_string(page).unwrap();
    fs::write(&acted, text.replace("</body>", &format!("<script>{script}</script></body>"))).unwrap();
    let mut command = chromium()?;
    command.arg(format!("--user-data-dir={}", dir.path().join("profile").display())).arg("--dump-dom");
    let output = command.arg(format!("file://{}", acted.display())).output().unwrap();
    let document = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && document.contains("</html>"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(document)
}

/// What the details show, as text with tags.
fn details(document: &str) -> &str {
    let (_, rest) = document.split_once("<aside").unwrap();
    rest.split_once("</aside>").unwrap().0
}

#[test]
fn a_person_finds_a_failure_in_the_page() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a.txt"), "text").unwrap();
    let pixel =
        b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    let chain = format!(
        "[modules.split]\ncommand = ['sh', '-c', '''cd $SIDECAR_BASE_DIR; echo {} | base64 -d > out/data/dot.png
         for n in 1 2 3; do echo \"[{{\\\"key\\\":\\\"eventType\\\",\\\"value\\\":\\\"part\\\"}},{{\\\"key\\\":\\\"n\\\",\\\"value\\\":\\\"<b>$n</b>\\\"}}]\" > out/events/$n.json; done''']\n\
         subscribes = 'text'\npublishes = 'part'\nwrap = true\n\
         [modules.work]\ncommand = ['sh', '-c', 'grep -q \"b>2\" $SIDECAR_BASE_DIR/in/meta.json && {{ echo no two here >&2; exit 5; }}; true']\n\
         subscribes = 'part'\nwrap = true\nmax-deliveries = 1\n",
        std::str::from_utf8(pixel).unwrap()
    );
    fs::write(dir.path().join("chain.toml"), chain).unwrap();
    let (code, out, log) = output(&dir, &["pipeline", "chain.toml", "--input", "a.txt"]);
    assert_eq!(code, 1, "{out}{log}");
    let page = out.lines().find_map(|line| line.strip_prefix("page: ")).unwrap();
    let page = dir.path().join(page);
    let text = fs::read_to_string(&page).unwrap();
    assert!(!text.contains("http://www.w3.org/1999") && !text.contains("src=\"http"), "something is fetched");
    // At first it shows what went wrong, with the reason and the module's log.
    let Some(document) = open(&page, "") else { return };
    let shown = details(&document);
    for expected in ["work: given up", "exit code 5: no two here", "<pre>no two here"] {
        assert!(shown.contains(expected), "no {expected:?} in {shown}");
    }
    // A click on a node shows its execution: files with a small picture, and the events that it has published.
    let click = "const node = [...document.querySelectorAll('svg g.module')].find(g => g.getAttribute('aria-label') === 'split');
        node.dispatchEvent(new MouseEvent('click', { bubbles: true }));";
    let document = open(&page, click).unwrap();
    let shown = details(&document);
    for expected in ["split: committed", "dot.png", "data:image/png;base64,", "Published (3)"] {
        assert!(shown.contains(expected), "no {expected:?} in {shown}");
    }
    // So does the keyboard; and values are text, whatever they look like.
    let keys = "const node = [...document.querySelectorAll('svg g.event')].find(g => g.getAttribute('aria-label').startsWith('part'));
        node.focus(); document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', bubbles: true }));";
    let document = open(&page, keys).unwrap();
    assert!(details(&document).contains("&lt;b&gt;"), "{}", details(&document));
    // The table is searched.
    let search = "document.getElementById('search').value = 'part given'; document.getElementById('search').dispatchEvent(new Event('input'));";
    let document = open(&page, search).unwrap();
    assert!(document.contains("1 of 4"), "{document}");
    // The picture of it in the documentation.
    if std::env::var_os("SIDECAR_TEST_WRITE").is_some() {
        let to = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/trace.png");
        let profile = dir.path().join("profile");
        let mut command = chromium().unwrap();
        command
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(format!("--screenshot={}", to.display()));
        assert!(command.arg(format!("file://{}", page.display())).status().unwrap().success());
    }
}

/// A submission of 10,000 executions: the page can be used soon, and shows them together.
#[test]
fn a_large_page_can_be_used() {
    if chromium().is_none() {
        return;
    }
    let dir = TempDir::new().unwrap();
    // A real page, and in place of its data as much as a real one would have.
    assert_eq!(
        output(&dir, &["run", "--wrap", "--development=true", "--context.eventid=e", "--", "true"]).0,
        0
    );
    let (_, text, _) = output(&dir, &["trace", "--development=true", "e", "--format=html"]);
    let (head, rest) = text.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    let (_, tail) = rest.split_once("</script>").unwrap();
    let id = |n: usize| format!("{n:08}-0000-4000-8000-000000000000");
    let digest = format!("blake3:{}", "ab".repeat(32));
    let file =
        |n: usize| json!({"name": format!("{n}.txt"), "key": format!("k/{n}"), "size": n, "digest": digest});
    let time = |n: usize| {
        format!(
            "2026-01-01T{:02}:{:02}:{:02}.{:03}Z",
            n / 3_600_000,
            n / 60_000 % 60,
            n / 1000 % 60,
            n % 1000
        )
    };
    let mut events =
        vec![json!({"eventId": "root", "type": "all", "parentEventId": "", "files": [], "data": []})];
    let mut executions = vec![json!({
        "eventId": "root", "module": "split", "run": 0, "attempt": "a".repeat(32), "host": "h", "version": "v",
        "started": time(0), "ready": time(1), "done": time(50), "inputs": [], "outputs": [], "insight": [],
        "events": (0..9999).map(|n| json!({"eventId": id(n), "type": "part", "file": format!("{n}.json")})).collect::<Vec<_>>(),
    })];
    for n in 0..9999 {
        events.push(json!({"eventId": id(n), "type": "part", "parentEventId": "root", "module": "split", "run": 0, "files": [file(n)], "data": [{"key": "n", "value": n.to_string()}]}));
        executions.push(json!({
            "eventId": id(n), "module": "work", "run": 0, "attempt": "b".repeat(32), "host": "h", "version": "v",
            "started": time(100 + n * 10), "ready": time(101 + n * 10), "done": time(140 + n * 10), "inputs": [], "outputs": [file(n)], "insight": [], "events": [],
        }));
    }
    let trace = json!({"format": 1, "correlationId": "c", "events": events, "executions": executions, "failures": [], "deadLetters": []});
    let data: Value = json!({"trace": trace, "pictures": {}, "logs": {}});
    let page = dir.path().join("large.html");
    fs::write(&page, format!("{head}<script type=\"application/json\" id=\"data\">{data}</script>{tail}"))
        .unwrap();
    let document = open(&page, "document.body.dataset.usable = performance.now();").unwrap();
    assert!(
        document.contains("10000 events, 10000 outcomes") && document.contains("work ×9999"),
        "{}",
        document.len()
    );
    let (_, usable) = document.split_once("data-usable=\"").unwrap();
    let usable: f64 = usable.split('"').next().unwrap().parse().unwrap();
    println!("usable after {usable:.0} ms");
    assert!(usable < USABLE, "usable after {usable} ms");
}
