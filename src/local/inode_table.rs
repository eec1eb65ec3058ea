//! Which paths the kernel's numbers stand for.
//!
//! Only what the kernel has looked up and not forgotten is here: nothing, where nothing is local. What a predecessor told the
//! kernel is found again by walking what is beneath, once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct KnownInode {
    /// More than one where there are hard links.
    paths: Vec<PathBuf>,
    lookups: u64,
}

/// See the module's documentation. Numbers are those that the kernel knows.
#[derive(Debug, Default)]
pub(super) struct InodeTable(Mutex<HashMap<u64, KnownInode>>);

impl InodeTable {
    /// The kernel was told once more that `path` is `number`.
    pub(super) fn note_lookup(&self, number: u64, path: &Path) {
        let mut known = self.lock();
        let entry = known.entry(number).or_default();
        entry.lookups += 1;
        entry.add(path);
    }

    /// It was found where a predecessor said so.
    pub(super) fn found(&self, number: u64, path: &Path) {
        self.lock().entry(number).or_default().add(path);
    }

    /// Whether the kernel was told of it: then it is nowhere else than where it is known to be.
    pub(super) fn knows(&self, number: u64) -> bool {
        self.lock().contains_key(&number)
    }

    /// Where it may be.
    pub(super) fn paths(&self, number: u64) -> Vec<PathBuf> {
        self.lock().get(&number).map(|entry| entry.paths.clone()).unwrap_or_default()
    }

    /// The kernel has forgotten `lookups` of what it was told.
    pub(super) fn forget(&self, number: u64, lookups: u64) {
        let mut known = self.lock();
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

    /// `path` is gone.
    pub(super) fn removed(&self, number: u64, path: &Path) {
        if let Some(entry) = self.lock().get_mut(&number) {
            entry.paths.retain(|known| known != path);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, KnownInode>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
