//! The page of a trace, in a real browser that a person's clicks and keys are sent to.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::key::Key;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{output, sidecar};

/// How long the page may take until it can be used, with 10,000 executions, in milliseconds. Other tests run beside it.
const USABLE: f64 = 6000.0;

/// A browser without a window and without a network.
struct Browser {
    driver: Child,
    client: Client,
    _profile: TempDir,
}

impl Browser {
    /// The browser; where there is none, a line says how to get it.
    async fn start() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let find = |name: &str| -> Option<PathBuf> {
            std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.exists())
        };
        let (Some(browser), Some(driver)) = (find("chromium"), find("chromedriver")) else {
            let how = "apt install chromium chromium-driver";
            let required = std::env::var_os("SIDECAR_TEST_REQUIRE_SERVERS").is_some();
            assert!(!required, "a browser is required: {how}");
            let line = format!("skipped: the page of a trace needs a browser: {how}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return None;
        };
        let mut driver =
            Command::new(driver).arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = loop {
            let line = lines.next().expect("chromedriver ended").unwrap();
            if let Some((_, port)) = line.split_once("successfully on port ") {
                break port.trim_end_matches('.').parse::<u16>().unwrap();
            }
        };
        let profile = TempDir::new().unwrap();
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            // Whatever it asks for outside does not exist.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--window-size=1280,900",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let options = json!({ "binary": browser, "args": arguments });
        let capabilities = json!({ "goog:chromeOptions": options }).as_object().unwrap().clone();
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        Some(Self { driver, client, _profile: profile })
    }

    async fn open(&self, page: &Path) {
        self.client.goto(&format!("file://{}", page.display())).await.unwrap();
    }

    async fn click(&self, css: &str) {
        self.client.find(Locator::Css(css)).await.unwrap().click().await.unwrap();
    }

    async fn keys(&self, css: &str, keys: &str) {
        self.client.find(Locator::Css(css)).await.unwrap().send_keys(keys).await.unwrap();
    }

    /// What an element shows, as HTML.
    async fn shown(&self, css: &str) -> String {
        self.client.find(Locator::Css(css)).await.unwrap().html(true).await.unwrap()
    }

    async fn value(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    /// Waits until an element shows a text.
    async fn until(&self, css: &str, text: &str) {
        let began = Instant::now();
        loop {
            let shown = self.shown(css).await;
            if shown.contains(text) {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "no {text:?} in {shown}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn end(self) {
        self.client.clone().close().await.unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // With its driver the browser ends too.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

#[tokio::test]
async fn a_person_finds_a_failure_in_the_page() {
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
    let Some(browser) = Browser::start().await else { return };
    browser.open(&page).await;
    let shown = browser.shown("#details").await;
    for expected in ["work: given up", "exit code 5: no two here", "<pre>no two here"] {
        assert!(shown.contains(expected), "no {expected:?} in {shown}");
    }
    // A click on a node shows its execution: files with a small picture, and the events that it has published.
    browser.click("g.module[aria-label=split]").await;
    let shown = browser.shown("#details").await;
    for expected in ["split: committed", "dot.png", "data:image/png;base64,", "Published (3)"] {
        assert!(shown.contains(expected), "no {expected:?} in {shown}");
    }
    // So does the keyboard; and values are text, whatever they look like.
    browser.keys("g.event[aria-label=part]", &char::from(Key::Enter).to_string()).await;
    let shown = browser.shown("#details").await;
    assert!(shown.contains("&lt;b&gt;"), "{shown}");
    // The table is searched, from anywhere with one key.
    browser.keys("body", "/").await;
    browser.keys("#search", "part given").await;
    assert_eq!(browser.shown("#count").await, "1 of 4");
    browser.click("#rows tr").await;
    assert!(browser.shown("#details").await.contains("work: given up"));
    // Nothing was fetched, neither from outside nor from here.
    assert_eq!(browser.value("return performance.getEntriesByType('resource').length").await, 0);
    // On a phone nothing is wider than the screen.
    browser.client.set_window_size(500, 800).await.unwrap();
    let fits = "return document.documentElement.scrollWidth <= innerWidth";
    assert_eq!(browser.value(fits).await, true);
    // The picture of it in the documentation.
    if std::env::var_os("SIDECAR_TEST_WRITE").is_some() {
        browser.client.set_window_size(1280, 900).await.unwrap();
        browser.open(&page).await;
        let to = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/trace.png");
        fs::write(to, browser.client.screenshot().await.unwrap()).unwrap();
    }
    browser.end().await;
}

/// The page of a pipeline at work changes with it, and only whoever was given its address sees it.
#[tokio::test]
async fn a_pipeline_shows_itself_live() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a.txt"), "text").unwrap();
    let chain = r#"
[modules.first]
command = ["sh", "-c", '''echo '[{"key":"eventType","value":"part"}]' > $SIDECAR_BASE_DIR/out/events/1.json''']
subscribes = "text"
publishes = "part"
wrap = true
[modules.second]
command = ["sh", "-c", "while ! test -e go; do sleep 0.1; done; echo went on"]
subscribes = "part"
publishes = []
wrap = true
"#;
    fs::write(dir.path().join("chain.toml"), chain).unwrap();
    let arguments = ["pipeline", "chain.toml", "--input", "a.txt", "--id", "live", "--ui", "127.0.0.1:0"];
    let mut pipeline =
        sidecar(&dir, &arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(pipeline.stderr.take().unwrap()).lines();
    let url = loop {
        let line = lines.next().expect("the pipeline ended").unwrap();
        if let Some((_, url)) = line.split_once("the page, live: ") {
            break url.trim().to_owned();
        }
    };
    let reading = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>().join("\n"));

    // Without the token, under another name, and from another page there is nothing to see.
    let (base, token) = url.split_once("/?token=").unwrap();
    let http = reqwest::Client::new();
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    assert_eq!(status(http.get(base)).await, 401);
    assert_eq!(status(http.get(format!("{base}/events?token={}", "0".repeat(token.len())))).await, 401);
    assert_eq!(status(http.get(&url).header("host", "evil.example")).await, 403);
    let events = format!("{base}/events?token={token}");
    assert_eq!(status(http.get(&events).header("sec-fetch-site", "cross-site")).await, 403);
    assert_eq!(status(http.post(&url)).await, 405);
    let answer = http.get(&url).send().await.unwrap();
    assert!(answer.headers().get("access-control-allow-origin").is_none());
    assert_eq!(answer.headers()["x-frame-options"], "DENY");
    assert_eq!(answer.headers()["cache-control"], "no-store");

    if let Some(browser) = Browser::start().await {
        browser.client.goto(&url).await.unwrap();
        browser.until("#summary", "2 events, 1 outcome").await;
        browser.until("#modules", "1 running").await;
        // Somebody else's page cannot read it, although it knows the address.
        let here = browser.client.window().await.unwrap();
        let other = browser.client.new_window(true).await.unwrap();
        browser.client.switch_to_window(other.handle).await.unwrap();
        let page = dir.path().join("other.html");
        fs::write(&page, "<!doctype html><title>other</title>").unwrap();
        browser.open(&page).await;
        let script =
            "const [url, done] = arguments; fetch(url).then(() => done('read'), () => done('refused'));";
        let read = browser.client.execute_async(script, vec![json!(events)]).await.unwrap();
        assert_eq!(read, "refused");
        browser.client.close_window().await.unwrap();
        browser.client.switch_to_window(here).await.unwrap();
        // Somebody looks at an execution while the pipeline goes on; it stays chosen.
        browser.click("g.module[aria-label=first]").await;
        fs::write(dir.path().join("go"), "").unwrap();
        browser.until("#summary", "2 events, 2 outcomes").await;
        browser.until("#state", "The pipeline has ended").await;
        assert!(browser.shown("#details").await.contains("first: committed"));
        browser.click("g.module[aria-label=second]").await;
        assert!(browser.shown("#details").await.contains("<pre>went on"));
        browser.end().await;
    }
    fs::write(dir.path().join("go"), "").unwrap();
    let ended = pipeline.wait().unwrap();
    assert!(ended.success(), "{}", reading.join().unwrap());
}

/// A submission of 10,000 executions: the page can be used soon, and shows them together.
#[tokio::test]
async fn a_large_page_can_be_used() {
    let Some(browser) = Browser::start().await else { return };
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
    browser.open(&page).await;
    assert!(browser.shown("#summary").await.contains("10000 events, 10000 outcomes"));
    assert!(browser.shown("#graph").await.contains("work ×9999"));
    let usable = browser.value("return performance.getEntriesByName('usable')[0].startTime").await;
    let usable = usable.as_f64().unwrap();
    println!("usable after {usable:.0} ms");
    assert!(usable < USABLE, "usable after {usable} ms");
    // Each event as a node of its own is more than anybody can look at, or a browser draw.
    browser.click("#expand").await;
    let nodes = browser.value("return document.querySelectorAll('svg g').length").await.as_u64().unwrap();
    assert!((1000..4000).contains(&nodes), "{nodes} nodes");
    assert!(browser.shown("#graph").await.contains("more"));
    browser.end().await;
}
