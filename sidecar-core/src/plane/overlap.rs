//! Places that must not overlap: what the module may empty, what the sidecar keeps for itself, and the stores.
//!
//! The directories shared with the module are emptied, moved and recreated; a store in one of them loses its data
//! without an error, and a base directory in a store shows up as data.

use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::contract::Layout;

/// Links that are followed before a path is taken as it stands, as the kernel does.
const MOST_LINKS: usize = 40;

/// Which of these places overlap, one line for each pair; no path has to exist.
///
/// `private` are the state directory, the log file and the like, `stores` the directories of the data plane
/// ([`DataPlane::directories`](crate::DataPlane::directories)), each with its name. A private place may be in the
/// base directory, but not in its `in/` or `out/`, and neither may be in a store or the other way round.
pub fn overlaps(
    layout: Option<&Layout>,
    private: &[(&str, &Path)],
    stores: &[(String, PathBuf)],
) -> Vec<String> {
    let place = |path: &Path| (path.to_owned(), real(path));
    let mut shared = Vec::new();
    if let Some(layout) = layout {
        let dirs = ["in", "out"].map(|name| ("the module's", layout.base().join(name)));
        let base = [("the base directory", layout.base().to_owned())];
        shared.extend(base.into_iter().chain(dirs).map(|(name, path)| (name, place(&path))));
    }
    let private: Vec<_> = private.iter().map(|(name, path)| (*name, place(path))).collect();
    let mut found = Vec::new();
    for (store, dir) in stores {
        let dir = place(dir);
        let others = shared.iter().chain(&private);
        if let Some((name, other)) = others.clone().find(|(_, other)| meet(&dir, other)) {
            found.push(line(store, &dir, name, other));
        }
    }
    for (name, path) in &private {
        // The base directory itself comes first in the list.
        if let Some((owner, dir)) = shared.iter().skip(1).find(|(_, dir)| path.1.starts_with(&dir.1)) {
            found.push(line(name, path, owner, dir));
        }
    }
    found
}

/// A path as it was given, and where it leads.
type Place = (PathBuf, PathBuf);

fn meet((_, one): &Place, (_, other): &Place) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

fn line(name: &str, one: &Place, other_name: &str, other: &Place) -> String {
    let relation = match (one.1.starts_with(&other.1), other.1.starts_with(&one.1)) {
        (true, true) => "is",
        (true, false) => "is inside",
        _ => "contains",
    };
    format!("{name}: {} {relation} {other_name} {}: keep the two apart", shown(one), shown(other))
}

fn shown((given, real): &Place) -> String {
    let (given, real) = (given.display(), real.display());
    if given.to_string() == real.to_string() { real.to_string() } else { format!("{given} ({real})") }
}

/// Where a path leads, component by component as the kernel walks it; what does not exist yet stays as it is.
fn real(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut rest: Vec<OsString> = reversed(&absolute).collect();
    let (mut real, mut links) = (PathBuf::from("/"), 0);
    while let Some(part) = rest.pop() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => real = PathBuf::from("/"),
            Some(Component::ParentDir) => drop(real.pop()),
            Some(Component::Normal(name)) => {
                let next = real.join(name);
                match fs::read_link(&next) {
                    Ok(target) if links < MOST_LINKS => {
                        links += 1;
                        rest.extend(reversed(&target));
                    }
                    _ => real = next,
                }
            }
            _ => {}
        }
    }
    real
}

fn reversed(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().rev().map(|part| part.as_os_str().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn lines(base: &str, private: &[(&str, &Path)], stores: &[&str]) -> Vec<String> {
        let stores: Vec<_> = stores.iter().map(|dir| ("store".to_owned(), PathBuf::from(dir))).collect();
        overlaps(Some(&Layout::new(base)), private, &stores)
    }

    #[test]
    fn places_side_by_side_do_not_overlap() {
        let state = ("state", Path::new("/w/dev/modules/m/.sidecar"));
        assert_eq!(lines("/w/dev/modules/m", &[state], &["/w/dev/blobs", "/w/dev/events"]), [""; 0]);
        let state = ("state", Path::new("/w/base/inside"));
        assert_eq!(lines("/w/base", &[state], &["/w/base2", "/w/bas"]), [""; 0]);
    }

    #[test]
    fn each_overlap_names_both_places() {
        for (store, line) in [
            ("/b", "store: /b is the base directory /b"),
            ("/b/out/blobs", "store: /b/out/blobs is inside the base directory /b"),
            ("/", "store: / contains the base directory /b"),
            ("/s", "store: /s is state /s"),
            ("/s/x", "store: /s/x is inside state /s"),
        ] {
            assert_eq!(
                lines("/b", &[("state", Path::new("/s"))], &[store]),
                [format!("{line}: keep the two apart")]
            );
        }
        assert_eq!(
            lines("/b", &[("log", Path::new("/b/out/log"))], &[]),
            ["log: /b/out/log is inside the module's /b/out: keep the two apart"]
        );
    }

    #[test]
    fn links_and_dots_lead_where_the_kernel_goes() {
        let dir = tempfile::TempDir::new().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("deep/er")).unwrap();
        symlink("deep/er", root.join("link")).unwrap();
        symlink(root.join("link"), root.join("again")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for (path, leads) in [
            ("link/new/x", "deep/er/new/x"),
            ("again/../x", "deep/x"),
            ("absent/../x", "x"),
            ("./deep/./er/../../y", "y"),
            ("loop/x", "loop/x"),
        ] {
            assert_eq!(real(&root.join(path)), root.join(leads), "{path}");
        }
    }
}
