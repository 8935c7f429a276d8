//! Names that cannot lie side by side, found before the first upload.

use std::collections::{HashMap, HashSet};

use crate::blob::BlobProvider;
use crate::contract::{BlobKey, FileName, Problem};

/// A problem for each file that `store` would keep under the same blob as another one.
///
/// `label` is how the directory of the names is called in a problem.
pub(super) fn folded<'f>(
    store: &dyn BlobProvider,
    label: &str,
    files: impl Iterator<Item = (&'f FileName, BlobKey)> + Clone,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut same = |name: &FileName, other: &FileName| {
        let message = format!("{store} keeps it and {:?} as one blob: rename one of them", other.as_str());
        problems.push(Problem::of(format!("{label}{name}"), message));
    };
    // Few names are folded, and where none is, nothing is kept in memory.
    let mut folded = HashMap::new();
    for (name, key) in files.clone() {
        let kept = store.folded(&key);
        if kept != key.as_str()
            && let Some(other) = folded.insert(kept.into_owned(), name)
        {
            same(name, other);
        }
    }
    if !folded.is_empty() {
        for (name, key) in files {
            if store.folded(&key) == key.as_str()
                && let Some(other) = folded.get(key.as_str())
            {
                same(other, name);
            }
        }
    }
    problems
}

/// A problem for each file whose name makes a directory of another file's.
pub(super) fn nested<'f>(label: &str, files: impl Iterator<Item = &'f FileName> + Clone) -> Vec<Problem> {
    let names: HashSet<&str> = files.clone().map(FileName::as_str).collect();
    let problem = |name: &FileName| {
        let above = name.as_str().match_indices('/').map(|(end, _)| &name.as_str()[..end]);
        let file = above.into_iter().find(|above| names.contains(above))?;
        let message = format!("{file:?} is a file, and cannot be a directory too");
        Some(Problem::of(format!("{label}{name}"), message))
    };
    files.filter_map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_no_directory_of_another() {
        let names = ["a", "a.b", "a/b/c", "b/c"].map(|name| FileName::parse(name).unwrap());
        let problems = nested("", names.iter());
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!((problems[0].file.as_str(), &problems[0].message[..3]), ("a/b/c", "\"a\""));
    }
}
