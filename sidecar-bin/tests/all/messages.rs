//! Every message that users meet often, with its exit code: `docs/messages.md` is the transcript of these commands.
//!
//! `SIDECAR_TEST_WRITE=1` writes the page instead of comparing it.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::process::ended;

/// What precedes a command, and the command itself.
type Case = (&'static str, &'static str);

const SETUP: &str = "export SIDECAR_DEVELOPMENT=true SIDECAR_CONTEXT_NAME=m SIDECAR_CONTEXT_EVENTID=e1; ";
const NONE: &str = "";
const STAGED: &str = "sidecar prepare 2>/dev/null";
const FILES: &str = "echo text > a.txt; mkdir d; echo text > d/b.txt";
const SUBMITTED: &str = "echo text > a.txt; sidecar submit --id=e1 a.txt >/dev/null 2>&1";

/// The groups of the page: what to do, the codes it is for, and the commands that show it.
const GROUPS: [(&str, &str, &[Case]); 8] = [
    (
        "Correct the command line",
        "Exit code 64: nothing was started, and nothing was changed.",
        &[
            ("unset SIDECAR_DEVELOPMENT SIDECAR_CONTEXT_NAME SIDECAR_CONTEXT_EVENTID", "sidecar"),
            (
                "unset SIDECAR_DEVELOPMENT SIDECAR_CONTEXT_NAME SIDECAR_CONTEXT_EVENTID",
                "sidecar --blobs=file:b",
            ),
            (NONE, "sidecar --development true"),
            (NONE, "sidecar run --wrap ls -l"),
            (NONE, "sidecar run"),
            (NONE, "sidecar comit"),
            (NONE, "sidecar help comit"),
            (NONE, "sidecar --context.nmae=m"),
            (NONE, "sidecar --serverport=http"),
            (NONE, "sidecar --linger=soon"),
            (NONE, "sidecar --exit-on-done=maybe"),
            (NONE, "sidecar --loglevel=loud"),
            (NONE, "sidecar --context.name=../m"),
            (NONE, "sidecar --context.eventid=a/b"),
            (NONE, "sidecar --module-timeout=0s"),
            (NONE, "sidecar --serveraddress=0.0.0.0 --sharedsecret=short"),
            (NONE, "sidecar --blobs=s4://bucket"),
            (NONE, "sidecar --documents=mongo://host/db.collection"),
            (NONE, "sidecar --blobs=https://minio.example/bucket"),
            (NONE, "sidecar --blobs=/data"),
            (NONE, "sidecar --blobs='s3://bucket?endpiont=http://host'"),
            (NONE, "sidecar --documents=postgres://user:pass/word@host/db"),
            (NONE, "sidecar --basedir=base --blobs=file:base/out/blobs --documents=memory: --events=memory:"),
            ("echo 'context.nmae = \"m\"' > settings.toml", "sidecar --config=settings.toml"),
            ("echo 'context.name = ' > settings.toml", "sidecar --config=settings.toml"),
            (NONE, "sidecar --config=absent.toml"),
            (NONE, "sidecar prepare --logfile=absent/log"),
            (NONE, "sidecar --sharedsecret-file=absent"),
            (NONE, "sidecar --sharedsecret=a --sharedsecret-file=absent"),
            (NONE, "sidecar run --context.eventid= -- true"),
            (NONE, "sidecar commit"),
            ("sidecar prepare --context.eventid=e2 2>/dev/null", "sidecar commit"),
            (NONE, "sidecar submit s3://bucket/key"),
            (NONE, "sidecar submit --reference s3://bucket/key"),
            (NONE, "sidecar submit --value=novalue"),
            (NONE, "sidecar submit --blobs=memory: --value=a=b"),
            (NONE, "sidecar submit --type="),
            ("printf '[modules.a]\ncomand = \"x\"\n' > p.toml", "sidecar pipeline p.toml"),
            (
                "printf '[modules.a]\ncommand = \"absent\"\nsubscribes = \"t\"\n' > p.toml",
                "sidecar pipeline p.toml",
            ),
            ("sidecar run --wrap -- sh -c 'kill -9 $PPID' 2>/dev/null", "sidecar commit"),
        ],
    ),
    (
        "Correct the module's outputs, then commit again",
        "Exit code 65: nothing was published, and the outputs are where the module wrote them.",
        &[
            (STAGED, "echo '[' > dev/modules/m/out/events/1.json; sidecar commit"),
            (
                STAGED,
                "echo '[{\"key\":\"files\",\"value\":\"a.png\"}]' > dev/modules/m/out/events/1.json; sidecar commit",
            ),
            (
                STAGED,
                "echo '[{\"key\":\"eventType\",\"value\":\"other\"}]' > dev/modules/m/out/events/1.json; sidecar commit --valideventtypes=one,two",
            ),
            (STAGED, "mkdir dev/modules/m/out/events/1.json; sidecar commit"),
            (STAGED, "mkfifo dev/modules/m/out/data/pipe; sidecar commit"),
            (STAGED, "ln -s /etc/hostname dev/modules/m/out/data/link; sidecar commit"),
            (STAGED, "echo '{}' > dev/modules/m/out/meta.json; sidecar commit"),
        ],
    ),
    (
        "Check the event and its files",
        "Exit code 66: the inputs could not be staged or submitted, or nothing is known of an id.",
        &[
            (
                NONE,
                "sidecar prepare --development=false --blobs=file:s --documents=file:s --events=file:s --basedir=b --retry-for=1s",
            ),
            (SUBMITTED, "echo other > $(find dev/blobs -name a.txt); sidecar prepare"),
            (SUBMITTED, "rm $(find dev/blobs -name a.txt); sidecar prepare"),
            (NONE, "sidecar submit absent.txt"),
            (FILES, "sidecar submit a.txt a.txt"),
            (
                FILES,
                "sidecar submit --id=e5 a.txt >/dev/null 2>&1; echo changed > a.txt; sidecar submit --id=e5 a.txt",
            ),
            (SUBMITTED, "sidecar get absent"),
            (SUBMITTED, "sidecar get absent/m"),
            (SUBMITTED, "sidecar trace absent"),
            (SUBMITTED, "sidecar failures absent"),
            (SUBMITTED, "sidecar dead show absent"),
            (NONE, "sidecar failures"),
            (NONE, "sidecar recover"),
            (NONE, "sidecar gc"),
        ],
    ),
    (
        "Repeat the command when the provider is back",
        "Exit code 69: a provider cannot be used, refused a call, or failed during the commit.",
        &[
            (
                NONE,
                "sidecar check --retry-for=1s --circuit-breaker=0 --blobs='s3://b?endpoint=http://127.0.0.1:1' --s3.accesskeyid=a --s3.secretaccesskey=b --documents=postgres://u@127.0.0.1:1/d --events='nats://127.0.0.1:1/s?stream=x'",
            ),
            (
                NONE,
                "sidecar check --retry-for=300ms --blobs=memory: --documents=mongodb://127.0.0.1:1/d.c --events=amqp://127.0.0.1:1/x",
            ),
        ],
    ),
    (
        "Look at this machine",
        "Exit code 71: a local file, directory or socket cannot be used.",
        &[
            ("mkdir -p base/.sidecar; chmod 777 base/.sidecar", "sidecar prepare --basedir=base"),
            ("touch base", "sidecar prepare --basedir=base"),
            (
                "mkdir -p base/.sidecar; echo '{\"version\":9}' > base/.sidecar/journal.json",
                "sidecar prepare --basedir=base",
            ),
            (SUBMITTED, "mkdir full; touch full/x; sidecar get e1 full"),
        ],
    ),
    (
        "Correct the command of `run`",
        "Exit codes 126 and 127, as in a shell; otherwise `run` exits with the code of the module.",
        &[
            (NONE, "sidecar run -- no-such-program"),
            ("touch file", "sidecar run -- ./file"),
            (NONE, "sidecar run -- true"),
            (NONE, "sidecar run -- sh -c 'exit 7'"),
            (NONE, "sidecar run --wrap --module-timeout=1s -- sleep 9"),
            (NONE, "sidecar run --wrap -- sh -c 'kill -9 $$'"),
        ],
    ),
    (
        "Warnings",
        "The command goes on, and exits with 0.",
        &[
            (NONE, "SIDECAR_BLOB=file:b sidecar check"),
            ("sidecar run --wrap -- true 2>/dev/null", "sidecar run --wrap -- true"),
            ("sidecar run --wrap -- true 2>/dev/null", "sidecar prepare"),
            (SUBMITTED, "sidecar run --wrap -- true"),
            (NONE, "sidecar run --wrap -- sh -c 'echo x > $SIDECAR_BASE_DIR/out/result.txt'"),
            (NONE, "sidecar run --wrap --context.eventid=unknown -- true"),
        ],
    ),
    (
        "When all is well",
        "Exit code 0.",
        &[
            (FILES, "sidecar submit --id=e1 a.txt d"),
            (
                SUBMITTED,
                "sidecar run --wrap -- sh -c 'cp $SIDECAR_BASE_DIR/in/data/a.txt $SIDECAR_BASE_DIR/out/data/'",
            ),
            (NONE, "sidecar check"),
            (SUBMITTED, "sidecar failures"),
            (SUBMITTED, "sidecar recover"),
            (SUBMITTED, "sidecar gc"),
            (
                SUBMITTED,
                "SIDECAR_CONTEXT_EVENTID= sidecar worker --subscribe=submitted --once --wrap -- true",
            ),
            (SUBMITTED, "sidecar dead list"),
        ],
    ),
];

#[test]
fn the_page_of_messages_is_what_the_program_says() {
    let mut page = String::from(
        "# Messages\n\nWhat the sidecar says, grouped by what to do next. This page is the transcript of a test: each block is a \
         command, what it printed, and its exit code. Ids, times and directories are replaced. The commands ran with \
         `SIDECAR_DEVELOPMENT=true`, `SIDECAR_CONTEXT_NAME=m` and `SIDECAR_CONTEXT_EVENTID=e1` in directories that were \
         prepared for them.\n",
    );
    for (group, about, cases) in GROUPS {
        write!(page, "\n## {group}\n\n{about}\n").unwrap();
        for (before, command) in cases {
            let (code, said) = run(before, command);
            write!(page, "\n```console\n$ {command}\n{said}[exit code {code}]\n```\n").unwrap();
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/messages.md");
    if std::env::var_os("SIDECAR_TEST_WRITE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let known = fs::read_to_string(&path).unwrap_or_default();
    let differs = page.lines().zip(known.lines()).find(|(now, then)| now != then);
    assert!(
        page == known,
        "{differs:?}: a message has changed; read it as a user would, and write the page with SIDECAR_TEST_WRITE=1"
    );
    // What no message may look like.
    for line in page.lines().filter(|line| !line.starts_with("$ ")) {
        assert!(line.len() < 700, "too long: {line}");
        assert!(line.matches("Connection refused").count() < 2, "said twice: {line}");
    }
}

fn run(before: &str, command: &str) -> (i32, String) {
    let dir = TempDir::new().unwrap();
    let bin = dir.path().join("bin");
    let work = dir.path().join("work");
    fs::create_dir(&bin).unwrap();
    fs::create_dir(&work).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sidecar"), bin.join("sidecar")).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let script = format!("{SETUP}{before}\n{command}\n");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir(&work).env_clear().env("PATH", path).env("HOME", &work);
    let (code, out, log) = ended(&shell.output().unwrap());
    let work = work.canonicalize().unwrap();
    let said = format!("{out}{log}");
    let mut lines: Vec<_> = said.lines().map(|line| plain(line, &work) + "\n").collect();
    // Providers are checked at the same time.
    lines.sort_by_key(|line| !line.contains("; retrying for"));
    let retrying = lines.iter().take_while(|line| line.contains("; retrying for")).count();
    lines[..retrying].sort();
    (code, lines.concat())
}

/// A line without what differs from run to run.
fn plain(line: &str, work: &Path) -> String {
    let line = line.replace(work.to_str().unwrap(), "/work");
    // The time of a record, and the span of its execution.
    let line = match line.split_once("Z ") {
        Some((time, rest)) if time.len() == 26 => rest.trim_start(),
        _ => &*line,
    };
    let mut words = Vec::new();
    for word in line.split(' ') {
        words.push(match word {
            word if word.contains("attempt=") => {
                format!("{}attempt=\"A\"}}:", word.split("attempt=").next().unwrap())
            }
            word => replaced(word),
        });
    }
    let mut line = words.join(" ");
    // What a store did first, a refusal or a time limit.
    if let (Some((store, _)), Some((_, rest))) =
        (line.split_once(" is unavailable: "), line.split_once("; retrying for"))
    {
        return format!("{store} is unavailable: CAUSE; retrying for{rest}");
    }
    // Durations and rates.
    if let Some((begin, rest)) = line.clone().split_once("files: ")
        && (begin.ends_with("ready: ") || begin.ends_with("done: "))
    {
        let files = rest.split(", ").next().unwrap_or_default();
        let events = rest.split_once("events: ").map(|(_, n)| format!(", events: {n}")).unwrap_or_default();
        line = format!("{begin}files: {files}, N s{events}");
    }
    line
}

/// A word whose random ids are shown as `ID`, and ports as `PORT`.
fn replaced(word: &str) -> String {
    if let Some((address, port)) = word.rsplit_once(':')
        && address.ends_with("127.0.0.1")
        && port.len() > 3
        && port.chars().all(|c| c.is_ascii_digit())
    {
        return format!("{address}:PORT");
    }
    let mut text = String::new();
    let mut rest = word;
    while !rest.is_empty() {
        let run = rest.find(|c: char| !(c.is_ascii_hexdigit() || c == '-')).unwrap_or(rest.len());
        let (hex, after) = rest.split_at(run);
        match hex.len() {
            0 => {
                let next = after.chars().next().map_or(0, char::len_utf8);
                text.push_str(&after[..next]);
                rest = &after[next..];
                continue;
            }
            16.. if hex.chars().any(|c| c.is_ascii_digit()) => text.push_str("ID"),
            _ => text.push_str(hex),
        }
        rest = after;
    }
    text
}
