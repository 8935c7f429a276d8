//! The tree of files that a module wrote.

use std::cell::OnceCell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Stat};

use super::problems::Problems;
use crate::blob::Source;
use crate::contract::{FileName, MAX_KEY};
use crate::dir::{Dir, Place, os};

/// The most names that a tree may have, directories and those that links multiply included.
const MAX_NAMES: usize = 2_000_000;

/// The most links that lead from one name to what it stands for, as in the kernel.
const MAX_LINKS: usize = 40;

/// The files under a directory, by name.
pub(super) type Tree = BTreeMap<FileName, Source>;

/// Lists the regular files under `root`; what cannot be committed is added to `problems`. Blocks.
///
/// A symbolic link that stays inside `root` stands for what it points to. `label` is how the root is called in a
/// problem.
pub(super) fn walk(root: &Arc<Dir>, label: &str, problems: &mut Problems) -> Tree {
    let mut walk = Walk {
        root,
        spellings: OnceCell::new(),
        label,
        tree: Tree::new(),
        names: 0,
        waiting: Vec::new(),
        problems,
    };
    walk.waiting.push(Found { name: String::new(), real: PathBuf::new(), via: None });
    // A list instead of recursion: how deep a tree is decides the module.
    while let Some(found) = walk.waiting.pop() {
        walk.directory(&found);
    }
    walk.tree
}

/// A directory to be walked.
struct Found {
    /// Its name with a slash at its end, links and all; the root's is empty.
    name: String,
    /// Where it lies below the root, without any link on the way.
    real: PathBuf,
    /// The link targets on the way here.
    via: Option<Arc<Via>>,
}

struct Via {
    target: PathBuf,
    before: Option<Arc<Via>>,
}

struct Walk<'p> {
    root: &'p Arc<Dir>,
    /// What an absolute link to the root may begin with.
    spellings: OnceCell<Vec<PathBuf>>,
    label: &'p str,
    tree: Tree,
    names: usize,
    waiting: Vec<Found>,
    problems: &'p mut Problems,
}

impl Walk<'_> {
    fn directory(&mut self, found: &Found) {
        let root = self.root.clone();
        let mut read = || match found.real.as_os_str().is_empty() {
            true => root.entries(|name, _| Ok(self.entry(&root, os(name), found))),
            false => {
                let dir = root.dir(&found.real)?;
                dir.entries(|name, _| Ok(self.entry(&dir, os(name), found)))
            }
        };
        if let Err(error) = read() {
            self.unreadable(&found.name, error);
        }
    }

    /// Looks at an entry of a directory; whether the walk goes on.
    fn entry(&mut self, at: &Dir, entry: &std::ffi::OsStr, dir: &Found) -> bool {
        self.names += 1;
        if self.names > MAX_NAMES {
            if self.names == MAX_NAMES + 1 {
                self.problem("", format!("has more than {MAX_NAMES} names"));
            }
            self.waiting.clear();
            return false;
        }
        let Some(text) = entry.to_str() else {
            self.problem(&format!("{}{}", dir.name, entry.to_string_lossy()), "the name is not UTF-8");
            return true;
        };
        let (name, real) = (format!("{}{text}", dir.name), dir.real.join(entry));
        // What is longer than any key cannot be committed, nor can what lies below it.
        if name.len() > MAX_KEY {
            self.problem(&name, format!("the name is longer than {MAX_KEY} bytes"));
            return true;
        }
        match at.stat(entry) {
            Ok(stat) if is(&stat, FileType::Symlink) => self.link(name, &real, dir),
            Ok(stat) => self.found((at, entry.as_ref()), name, real, &stat, dir.via.clone()),
            Err(error) => self.unreadable(&name, error),
        }
        true
    }

    /// Takes what lies at `at` under its name.
    fn found(
        &mut self,
        (dir, entry): (&Dir, &Path),
        name: String,
        real: PathBuf,
        stat: &Stat,
        via: Option<Arc<Via>>,
    ) {
        if is(stat, FileType::Directory) {
            return self.waiting.push(Found { name: format!("{name}/"), real, via });
        }
        if !is(stat, FileType::RegularFile) {
            return self.problem(&name, "is neither a file nor a directory");
        }
        if let Err(error) = dir.may_read(entry) {
            return self.unreadable(&name, error);
        }
        match FileName::parse(&name) {
            Ok(parsed) => {
                let place = Place::Below(self.root.clone(), real);
                drop(self.tree.insert(parsed, Source::found(place, stat)));
            }
            Err(invalid) => self.problem(&name, invalid.to_string()),
        }
    }

    fn link(&mut self, name: String, real: &Path, dir: &Found) {
        let target = match self.resolve(real) {
            Ok(target) => target,
            Err(Dead::Outside(target)) => {
                let root = self.root.path().display();
                return self.problem(&name, format!("is a link to {}, outside {root}", target.display()));
            }
            Err(Dead::Nowhere(error)) => {
                return self.problem(&name, format!("is a link that leads nowhere: {error}"));
            }
        };
        // A link to a directory that contains it, or that is being walked through another link, never ends.
        let mut via = std::iter::successors(dir.via.as_deref(), |via| via.before.as_deref());
        if real.starts_with(&target) || via.any(|via| via.target == target) {
            return self.problem(&name, "is a link that leads back to itself");
        }
        match self.root.stat(&target) {
            Ok(stat) => {
                let via = Arc::new(Via { target: target.clone(), before: dir.via.clone() });
                let root = self.root.clone();
                self.found((&root, &target.clone()), name, target, &stat, Some(via));
            }
            Err(error) => self.unreadable(&name, error),
        }
    }

    /// Where a name below the root leads, without any link on the way.
    fn resolve(&self, name: &Path) -> Result<PathBuf, Dead> {
        let mut rest: VecDeque<OsString> = name.iter().map(OsString::from).collect();
        let (mut real, mut links) = (PathBuf::new(), 0);
        let mut leads_to = self.root.path().join(name);
        while let Some(next) = rest.pop_front() {
            match Path::new(&next).components().next() {
                Some(Component::ParentDir) if real.pop() || self.comes_back(&mut rest) => continue,
                Some(Component::Normal(_)) => {}
                Some(Component::CurDir) | None => continue,
                _ => return Err(Dead::Outside(leads_to)),
            }
            real.push(&next);
            let stat = self.root.stat(&real).map_err(Dead::Nowhere)?;
            if !is(&stat, FileType::Symlink) {
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Dead::Nowhere(io::Error::other("there are too many links on the way")));
            }
            let target = self.root.read_link(&real).map_err(Dead::Nowhere)?;
            real.pop();
            let below = if target.is_absolute() {
                real.clear();
                let inside = self.spellings().iter().find_map(|root| target.strip_prefix(root).ok());
                inside.ok_or_else(|| Dead::Outside(target.clone()))?
            } else {
                leads_to = self.root.path().join(&real).join(&target);
                &target
            };
            for component in below.iter().rev() {
                rest.push_front(component.to_owned());
            }
        }
        Ok(real)
    }

    fn spellings(&self) -> &[PathBuf] {
        self.spellings.get_or_init(|| {
            let root = self.root.path();
            std::iter::once(root.to_owned()).chain(root.canonicalize()).collect()
        })
    }

    /// Whether what follows one step above the root leads back to it, over the directories above it alone; then so much
    /// is taken of it.
    fn comes_back(&self, rest: &mut VecDeque<OsString>) -> bool {
        // Without any link on the way: one step up is what is written there.
        let Some(root) = self.spellings().last() else { return false };
        let mut here = root.clone();
        here.pop();
        while let Some(next) = rest.pop_front() {
            match Path::new(&next).components().next() {
                Some(Component::ParentDir) => drop(here.pop()),
                Some(Component::Normal(name)) => here.push(name),
                _ => {}
            }
            if here == *root {
                return true;
            }
            if !root.starts_with(&here) {
                return false;
            }
        }
        false
    }

    fn unreadable(&mut self, name: &str, error: io::Error) {
        let file = format!("{}/{name}", self.label);
        self.problems.unreadable(file.trim_end_matches('/'), error);
    }

    fn problem(&mut self, name: &str, message: impl Into<String>) {
        let file = format!("{}/{name}", self.label);
        self.problems.add(file.trim_end_matches('/'), message);
    }
}

/// Why a link leads to no file of the tree.
enum Dead {
    Outside(PathBuf),
    Nowhere(io::Error),
}

fn is(stat: &Stat, file_type: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == file_type
}
