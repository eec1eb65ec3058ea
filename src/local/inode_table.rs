//! The paths of the inode numbers that the kernel knows.
//!
//! The table has only inodes that the kernel has looked up and not forgotten. It is empty where
//! there are no local files. Inodes that the kernel has from a previous daemon are found again by
//! one walk of the lower directory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

#[derive(Debug, Default)]
struct KnownInode {
    /// More than one path where there are hard links.
    paths: Vec<PathBuf>,
    lookups: u64,
}

/// Maps the inode numbers that the kernel knows to their paths.
#[derive(Debug, Default)]
pub(super) struct InodeTable(Mutex<HashMap<u64, KnownInode>>);

impl InodeTable {
    /// Counts one more lookup of `number`, at `path`.
    pub(super) fn note_lookup(&self, number: u64, path: &Path) {
        let mut known = self.0.lock();
        let entry = known.entry(number).or_default();
        entry.lookups += 1;
        entry.add(path);
    }

    /// Adds a path of an inode that the kernel knows from a previous daemon or after a rename;
    /// counts no lookup.
    pub(super) fn found(&self, number: u64, path: &Path) {
        self.0.lock().entry(number).or_default().add(path);
    }

    /// Whether the kernel has looked up `number` here. If so, all its paths are in this table.
    pub(super) fn knows(&self, number: u64) -> bool {
        self.0.lock().contains_key(&number)
    }

    /// The paths at which the inode may be.
    pub(super) fn paths(&self, number: u64) -> Vec<PathBuf> {
        self.0.lock().get(&number).map(|entry| entry.paths.clone()).unwrap_or_default()
    }

    /// The kernel has forgotten `lookups` of its lookups; an inode without any leaves the table.
    pub(super) fn forget(&self, number: u64, lookups: u64) {
        let mut known = self.0.lock();
        if let Some(entry) = known.get_mut(&number) {
            entry.lookups = entry.lookups.saturating_sub(lookups);
            if entry.lookups == 0 {
                known.remove(&number);
                if known.is_empty() {
                    *known = HashMap::new();
                }
            }
        }
    }

    /// The directory `from` is now at `to`, with all that is below it.
    pub(super) fn moved(&self, from: &Path, to: &Path) {
        for path in self.0.lock().values_mut().flat_map(|entry| &mut entry.paths) {
            if let Ok(below) = path.strip_prefix(from) {
                // Joining an empty path would add a slash.
                *path = if below.as_os_str().is_empty() { to.to_owned() } else { to.join(below) };
            }
        }
    }

    /// Removes `path` from the paths of the inode.
    pub(super) fn removed(&self, number: u64, path: &Path) {
        if let Some(entry) = self.0.lock().get_mut(&number) {
            entry.paths.retain(|known| known != path);
        }
    }
}

impl KnownInode {
    fn add(&mut self, path: &Path) {
        if !self.paths.iter().any(|known| known == path) {
            self.paths.push(path.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_renamed_directory_moves_along() {
        let known = InodeTable::default();
        for (number, path) in [(1, "a"), (2, "a/b"), (3, "a/b/c"), (4, "ab"), (4, "a/d")] {
            known.note_lookup(number, Path::new(path));
        }
        known.moved(Path::new("a"), Path::new("x/y"));
        for (number, paths) in [(1, &["x/y"][..]), (2, &["x/y/b"]), (3, &["x/y/b/c"]), (4, &["ab", "x/y/d"])] {
            assert_eq!(known.paths(number), paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        }
    }

    #[test]
    fn known_until_forgotten() {
        let known = InodeTable::default();
        known.note_lookup(1, Path::new("a"));
        known.note_lookup(1, Path::new("b"));
        known.removed(1, Path::new("a"));
        assert_eq!(known.paths(1), [Path::new("b")]);
        known.forget(1, 1);
        known.removed(1, Path::new("b"));
        known.note_lookup(1, Path::new("c"));
        assert_eq!(known.paths(1), [Path::new("c")]);
        known.forget(1, 5);
        assert!(known.paths(1).is_empty());
    }
}
