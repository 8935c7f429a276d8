//! The tree of files that a module wrote.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use crate::blob::Source;
use crate::contract::{FileName, Problem};
use crate::error::{Error, Result};

/// The most names that a tree may have, directories and those that links multiply included.
const MAX_NAMES: usize = 2_000_000;

/// The files under a directory, by name.
pub(super) type Tree = BTreeMap<FileName, Source>;

/// Lists the regular files under `root`; what cannot be committed is added to `problems`. Blocks.
///
/// A symbolic link that stays inside `root` stands for what it points to.
/// An absent root is an empty tree.
pub(super) fn walk(root: &Path, label: &str, problems: &mut Vec<Problem>) -> Result<Tree> {
    let mut walk = Walk {
        root: root.to_owned(),
        label,
        real_root: PathBuf::new(),
        tree: Tree::new(),
        names: 0,
        problems,
    };
    for dir in [root.parent(), Some(root)].into_iter().flatten() {
        if fs::symlink_metadata(dir).is_ok_and(|found| found.is_symlink()) {
            walk.problem("", format!("{} is a link, and must be a directory", dir.display()));
            return Ok(walk.tree);
        }
    }
    walk.real_root = match root.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(walk.tree),
        Err(error) => return Err(Error::io("read", root)(error)),
    };
    let real_root = walk.real_root.clone();
    walk.directory(&real_root, "", &mut Vec::new());
    Ok(walk.tree)
}

struct Walk<'p> {
    root: PathBuf,
    /// How the root is called in a problem.
    label: &'p str,
    real_root: PathBuf,
    tree: Tree,
    names: usize,
    problems: &'p mut Vec<Problem>,
}

impl Walk<'_> {
    /// Walks the real directory `dir` under the name `prefix`; `via` holds the link targets on the way here.
    fn directory(&mut self, dir: &Path, prefix: &str, via: &mut Vec<PathBuf>) {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => return self.problem(prefix, format!("cannot be read: {error}")),
        };
        for entry in entries {
            self.names += 1;
            if self.names > MAX_NAMES {
                if self.names == MAX_NAMES + 1 {
                    self.problem("", format!("has more than {MAX_NAMES} names"));
                }
                return;
            }
            match entry {
                Ok(entry) => self.entry(&entry, prefix, via),
                Err(error) => self.problem(prefix, format!("cannot be read: {error}")),
            }
        }
    }

    fn entry(&mut self, entry: &fs::DirEntry, prefix: &str, via: &mut Vec<PathBuf>) {
        let file_name = entry.file_name();
        let Some(file_name) = file_name.to_str() else {
            return self
                .problem(&format!("{prefix}{}", file_name.to_string_lossy()), "the name is not UTF-8");
        };
        let name = format!("{prefix}{file_name}");
        match entry.metadata() {
            Ok(metadata) if metadata.is_symlink() => self.link(&entry.path(), &name, via),
            Ok(metadata) => self.found(entry.path(), &metadata, &name, via),
            Err(error) => self.problem(&name, format!("cannot be read: {error}")),
        }
    }

    fn found(&mut self, path: PathBuf, metadata: &fs::Metadata, name: &str, via: &mut Vec<PathBuf>) {
        if metadata.is_dir() {
            return self.directory(&path, &format!("{name}/"), via);
        }
        if !metadata.is_file() {
            return self.problem(name, "is neither a file nor a directory");
        }
        if let Err(error) = rustix::fs::accessat(CWD, &path, Access::READ_OK, AtFlags::EACCESS) {
            return self.problem(name, format!("cannot be read: {}", io::Error::from(error)));
        }
        match FileName::parse(name) {
            Ok(parsed) => drop(self.tree.insert(parsed, Source::found(path, metadata))),
            Err(invalid) => self.problem(name, invalid.to_string()),
        }
    }

    fn link(&mut self, path: &Path, name: &str, via: &mut Vec<PathBuf>) {
        let target = match path.canonicalize() {
            Ok(target) => target,
            Err(error) => return self.problem(name, format!("is a link that leads nowhere: {error}")),
        };
        if !target.starts_with(&self.real_root) {
            let root = self.root.display();
            return self.problem(name, format!("is a link to {}, outside {root}", target.display()));
        }
        // A link to a directory that contains it, or that is being walked through another link, never ends.
        if path.starts_with(&target) || via.contains(&target) {
            return self.problem(name, "is a link that leads back to itself");
        }
        match fs::symlink_metadata(&target) {
            Ok(metadata) => {
                via.push(target.clone());
                self.found(target, &metadata, name, via);
                via.pop();
            }
            Err(error) => self.problem(name, format!("cannot be read: {error}")),
        }
    }

    fn problem(&mut self, name: &str, message: impl Into<String>) {
        let file = format!("{}/{name}", self.label);
        self.problems.push(Problem::of(file.trim_end_matches('/'), message));
    }
}
