//! Sidecar and module as two users who share one directory, tried where this is root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::process::{ended, skip};

/// The user of the sidecar, the user of the module, and the group that they may share.
const SIDECAR: u32 = 65532;
const MODULE: u32 = 1000;
const SHARED: u32 = 2000;

/// A directory that everybody may enter, with the program in it; `None` where there is only one user.
fn place() -> Option<TempDir> {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_sidecar"), dir.path().join("sidecar")).unwrap();
    if chown(dir.path().join("sidecar"), Some(SIDECAR), None).is_ok() {
        return Some(dir);
    }
    skip("two users", "run as root");
    None
}

/// Runs a script as a user in a group, with a umask.
fn as_user(dir: &Path, uid: u32, gid: u32, umask: &str, script: &str) -> Output {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]);
    command.args(["sh", "-c", &format!("umask {umask}; {script}")]).current_dir(dir).env("HOME", "/");
    command.output().unwrap()
}

fn works(output: &Output) {
    let (code, out, log) = ended(output);
    assert_eq!(code, 0, "{out}{log}");
}

const FLAGS: &str = "--blobs=file:store --documents=file:store --events=file:store --first --context.name=m \
                     --statedir=own/state --basedir=base";

/// One execution in halves: the sidecar stages and commits, the module works in between.
fn execute(dir: &Path, sidecar: (u32, u32), module: (u32, u32), umask: &str, event: &str) {
    let half = |half: &str| format!("./sidecar {half} {FLAGS} --context.eventid={event}");
    works(&as_user(dir, sidecar.0, sidecar.1, umask, &half("prepare")));
    let work = "cat base/in/meta.json && mkdir -p base/out/data/deep && echo x > base/out/data/deep/x &&
        chmod a+r base/out/data/deep/x && chmod a+rx base/out/data/deep &&
        echo '[{\"key\":\"eventType\",\"value\":\"t\"},{\"key\":\"files\",\"value\":\"deep/x\"}]' > base/out/events/1.json &&
        chmod a+r base/out/events/1.json";
    // Directories that a module makes itself are its own to open to the group.
    works(&as_user(dir, module.0, module.1, "002", work));
    works(&as_user(dir, sidecar.0, sidecar.1, umask, &half("commit")));
}

#[test]
fn a_store_that_cannot_be_written_is_found_before_the_module_runs() {
    let Some(dir) = place() else { return };
    let flags = "--blobs=file:store --documents=file:store --events=file:store";
    make(dir.path(), "own", MODULE, MODULE, 0o700);
    // Made by another user, and readable for all.
    works(&as_user(dir.path(), 0, 0, "022", &format!("./sidecar check {flags}")));
    let check = as_user(dir.path(), MODULE, MODULE, "022", &format!("./sidecar check {flags}"));
    let (code, _, log) = ended(&check);
    assert!(code == 71 && log.contains("refused to write") && !log.contains("usable"), "{code} {log}");
    let run = format!("./sidecar run --wrap {flags} --basedir=own/base --context.name=m -- touch own/ran");
    let (code, _, log) = ended(&as_user(dir.path(), MODULE, MODULE, "022", &run));
    assert_eq!(code, 71, "{log}");
    assert!(!dir.path().join("own/ran").exists());
}

fn make(dir: &Path, name: &str, uid: u32, gid: u32, mode: u32) {
    fs::create_dir_all(dir.join(name)).unwrap();
    chown(dir.join(name), Some(uid), Some(gid)).unwrap();
    fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
}

/// The directories of the contract are what they were, execution after execution.
fn keeps(dir: &Path, names: &[&str], work: impl Fn(&str)) {
    let seen = || -> Vec<_> {
        let one = |name: &&str| fs::metadata(dir.join("base").join(name)).unwrap();
        names.iter().map(one).map(|found| (found.ino(), found.uid(), found.gid(), found.mode())).collect()
    };
    work("e1");
    let before = seen();
    work("e2");
    assert_eq!(seen(), before);
}

const OUTPUTS: [&str; 2] = ["out/data", "out/events"];

#[test]
fn a_shared_group_is_enough_whatever_the_umask() {
    for umask in ["022", "077"] {
        let Some(dir) = place() else { return };
        let dir = dir.path();
        make(dir, "store", SIDECAR, SHARED, 0o700);
        make(dir, "own", SIDECAR, SHARED, 0o700);
        make(dir, "base", SIDECAR, SHARED, 0o2770);
        keeps(dir, &OUTPUTS, |event| execute(dir, (SIDECAR, SHARED), (MODULE, SHARED), umask, event));
        let meta = fs::metadata(dir.join("base/in/meta.json")).unwrap();
        assert_eq!((meta.mode() & 0o777, meta.gid()), (0o640, SHARED));
    }
}

#[test]
fn a_sidecar_that_is_root_leaves_the_directory_to_its_owner() {
    for umask in ["022", "077"] {
        let Some(dir) = place() else { return };
        let dir = dir.path();
        make(dir, "base", MODULE, MODULE, 0o755);
        keeps(dir, &OUTPUTS, |event| execute(dir, (0, 0), (MODULE, MODULE), umask, event));
        assert_eq!(fs::metadata(dir.join("base/out/data")).unwrap().uid(), MODULE);
    }
}

#[test]
fn a_module_that_made_its_directories_beforehand_keeps_them() {
    let Some(dir) = place() else { return };
    let dir = dir.path();
    make(dir, "store", SIDECAR, SHARED, 0o700);
    make(dir, "own", SIDECAR, SHARED, 0o700);
    make(dir, "base", MODULE, SHARED, 0o2770);
    for name in ["out", "out/data", "out/events"] {
        make(&dir.join("base"), name, MODULE, SHARED, 0o2775);
    }
    keeps(dir, &OUTPUTS, |event| execute(dir, (SIDECAR, SHARED), (MODULE, SHARED), "022", event));
}

#[test]
fn run_starts_the_module_as_another_user() {
    let Some(dir) = place() else { return };
    let dir = dir.path();
    let script = format!(
        "./sidecar run --wrap {FLAGS} --context.eventid=e1 --module-uid={MODULE} -- sh -c \
         'id -u && stat -c %u:%a $SIDECAR_BASE_DIR/in/meta.json && cat $SIDECAR_BASE_DIR/in/meta.json && echo x > $SIDECAR_BASE_DIR/out/data/x && ! cat own/state/journal.json'"
    );
    let (code, out, log) = ended(&as_user(dir, 0, 0, "077", &script));
    assert_eq!(code, 0, "{out}{log}");
    assert_eq!(out, format!("{MODULE}\n{MODULE}:600\n[]\n"));
}

/// Mounted directories cannot be replaced, and are on other file systems than what is beside them.
#[test]
fn mounted_directories_are_emptied_in_place() {
    let Some(dir) = place() else { return };
    let dir = dir.path();
    let mounts = ["in/data", "out/data", "out/events"];
    for name in mounts {
        make(dir, &format!("base/{name}"), 0, 0, 0o755);
    }
    let mount = mounts.map(|name| format!("mount -t tmpfs -o size=1m tmpfs base/{name}")).join(" && ");
    let event = "[{\"key\":\"eventType\",\"value\":\"t\"},{\"key\":\"files\",\"value\":\"d/x\"}]";
    let module =
        format!("mkdir -p out/data/d && echo x > out/data/d/x && echo '{event}' > out/events/1.json");
    let run = |event: &str, end: &str| {
        format!(
            "./sidecar run --wrap {FLAGS} --context.eventid={event} -- sh -c 'cd $SIDECAR_BASE_DIR && {} && {end}'",
            module.replace('\'', "'\\''")
        )
    };
    // Committed twice, then a failed attempt whose outputs are set aside across file systems.
    let script = format!(
        "{mount} && {} && {} && ! {} && {} && test -z \"$(ls base/out/data base/out/events | grep -v :)\" && cat base/out/.previous/1/data/d/x",
        run("e1", "true"),
        run("e2", "true"),
        run("e3", "exit 1"),
        run("e4", "true")
    );
    let output =
        Command::new("unshare").args(["--mount", "sh", "-c", &script]).current_dir(dir).output().unwrap();
    let (code, out, log) = ended(&output);
    if log.contains("unshare failed") || log.contains("permission denied") {
        return skip("mount points", "run as root in a user namespace that may mount");
    }
    assert_eq!((code, &*out), (0, "x\n"), "{log}");
}

/// As under `readOnlyRootFilesystem`: only the volume can be written.
#[test]
fn a_read_only_root_is_enough() {
    let Some(place) = place() else { return };
    let dir = place.path();
    make(dir, "vol", SIDECAR, SIDECAR, 0o700);
    let flags = "--blobs=file:vol/store --documents=file:vol/store --events=file:vol/store --first --wrap \
                 --context.name=m --context.eventid=e --basedir=vol/base";
    let script = format!(
        "mount --bind . . && cd \"$PWD\" && mount --bind vol vol && mount -o remount,bind,ro . && \
         mount -o remount,bind,ro / && ! touch /x 2>/dev/null && ! touch x 2>/dev/null && \
         exec setpriv --reuid={SIDECAR} --regid={SIDECAR} --clear-groups ./sidecar run {flags} -- \
         sh -c 'echo x > $SIDECAR_BASE_DIR/out/data/x'"
    );
    let output =
        Command::new("unshare").args(["--mount", "sh", "-c", &script]).current_dir(dir).output().unwrap();
    let (code, _, log) = ended(&output);
    if log.contains("unshare failed") || log.contains("permission denied") {
        return skip("a read-only root", "run as root in a user namespace that may mount");
    }
    assert_eq!(code, 0, "{log}");
    assert!(fs::read_dir(dir.join("vol/store/executions")).unwrap().next().is_some());
}

/// What the sidecar makes for a module of another user, that user reaches whatever the umask.
#[test]
fn a_umask_does_not_keep_a_module_from_its_directory() {
    let Some(dir) = place() else { return };
    for (command, base) in [
        ("run --context.eventid=e1", "new/deep/base"),
        ("worker --subscribe=submitted --once --max-deliveries=1", "other/base"),
    ] {
        fs::write(dir.path().join("input"), "content").unwrap();
        let flags = format!(
            "--blobs=file:store --documents=file:store --events=file:store --context.name=m --basedir=$PWD/{base} \
             --statedir=$PWD/own/{base} --module-uid={MODULE} --wrap"
        );
        let script = format!(
            "umask 077; ./sidecar submit --id=e1 --blobs=file:store --documents=file:store --events=file:store input && \
             ./sidecar {command} {flags} -- sh -c 'cat $SIDECAR_BASE_DIR/in/data/input > $SIDECAR_BASE_DIR/out/data/copy'"
        );
        let _ = fs::remove_dir_all(dir.path().join("store"));
        works(&Command::new("sh").args(["-c", &script]).current_dir(dir.path()).output().unwrap());
    }
}
