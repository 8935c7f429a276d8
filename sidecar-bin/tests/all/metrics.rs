//! The metrics that there are: `docs/observability.md` lists them, and the dashboard and the alerts name no others.
//!
//! `SIDECAR_TEST_WRITE=1` writes the list instead of comparing it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::process::output;

const BEGIN: &str = "<!-- made by the test metrics.rs -->\n";
const END: &str = "<!-- end -->\n";

/// Type, unit, labels and meaning of a metric, by its name.
type Known = BTreeMap<String, Metric>;

#[derive(Default)]
struct Metric {
    kind: String,
    help: String,
    labels: String,
}

/// What a worker shows after one event.
fn scrape() -> String {
    let dir = TempDir::new().unwrap();
    let plane = "--development=true";
    assert_eq!(output(&dir, &["submit", plane, "--type=t", "--value=k=v"]).0, 0);
    // The second event is asked for metrics that tell of the first.
    assert_eq!(output(&dir, &["submit", plane, "--type=t", "--value=k=v"]).0, 0);
    let ask = "curl -fsS http://127.0.0.1:$SIDECAR_PORT/metrics > $SIDECAR_BASE_DIR/../../../../metrics";
    let worker = ["worker", plane, "--subscribe=t", "--context.name=m", "--wrap", "--max-events=2"];
    let (code, _, log) = output(&dir, &[&worker[..], &["--", "sh", "-c", ask]].concat());
    assert_eq!(code, 0, "{log}");
    let found = fs::read_to_string(dir.path().join("metrics"));
    found.unwrap_or_else(|_| fs::read_to_string(dir.path().join("dev/metrics")).unwrap())
}

/// Reads the OpenMetrics text.
fn known(text: &str) -> Known {
    let mut known = Known::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            known.entry(name.into()).or_default().kind = kind.into();
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            known.entry(name.into()).or_default().help = help.trim_end_matches('.').into();
        } else if let Some((name, labels)) = line.split_once('{') {
            let labels = labels.split_once('}').unwrap().0;
            let names: Vec<_> = labels
                .split(',')
                .filter_map(|pair| Some(pair.split_once('=')?.0))
                .filter(|name| *name != "le")
                .collect();
            let longest = known.iter_mut().filter(|(known, _)| name.starts_with(&***known)).last();
            longest.unwrap().1.labels = names.join(", ");
        }
    }
    known
}

/// The name that a query uses.
fn queried(name: &str, metric: &Metric) -> String {
    match &*metric.kind {
        "counter" => format!("{name}_total"),
        "info" => format!("{name}_info"),
        _ => name.to_owned(),
    }
}

#[test]
fn the_page_lists_the_metrics_and_nothing_names_another() {
    let known = known(&scrape());
    let mut table = String::from("| metric | type | labels | what |\n| --- | --- | --- | --- |\n");
    for (name, metric) in &known {
        let labels = metric.labels.split(", ").filter(|label| !label.is_empty());
        let labels: Vec<_> = labels.map(|label| format!("`{label}`")).collect();
        writeln!(
            table,
            "| `{}` | {} | {} | {} |",
            queried(name, metric),
            metric.kind,
            labels.join(", "),
            metric.help
        )
        .unwrap();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = root.join("docs/observability.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (listed, after) = rest.split_once(END).unwrap();
    if std::env::var_os("SIDECAR_TEST_WRITE").is_some() {
        fs::write(&path, [before, BEGIN, &table, END, after].concat()).unwrap();
    } else {
        assert_eq!(listed, table, "SIDECAR_TEST_WRITE=1 writes it");
    }
    for file in ["dashboard.json", "alerts.yaml", "alerts.test.yaml"] {
        let text = fs::read_to_string(root.join("examples/monitoring").join(file)).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let mut named = words.filter(|word| word.starts_with("sidecar_")).peekable();
        assert!(named.peek().is_some(), "{file} names no metric");
        for word in named {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
            let is_known = |word: &str| known.iter().any(|(name, metric)| queried(name, metric) == word);
            assert!(is_known(base.unwrap_or(word)), "{file}: there is no metric {word}");
        }
    }
}
