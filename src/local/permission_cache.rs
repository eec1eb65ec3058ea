//! Directories that all users may search and list, so that a lookup there needs no statx(2) of the
//! directory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long an answer counts: as long as the kernel caches a directory's attributes.
const HOLDS: Duration = Duration::from_secs(1);
/// The most directories that are remembered.
const MOST: usize = 4096;

/// Directories, each with a moment before its mode was read.
#[derive(Debug, Default)]
pub(super) struct Searchable(Mutex<HashMap<PathBuf, Instant>>);

impl Searchable {
    pub(super) fn has(&self, directory: &Path) -> bool {
        self.0.lock().get(directory).is_some_and(|seen| seen.elapsed() < HOLDS)
    }

    /// `seen` is a moment before the mode was read.
    pub(super) fn add(&self, directory: &Path, seen: Instant) {
        let mut all = self.0.lock();
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(directory.to_owned(), seen);
    }

    /// Forgets all directories, because the mode of one of them may have changed.
    pub(super) fn forget(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_for_a_second_at_most() {
        let searchable = Searchable::default();
        let directory = Path::new("a");
        searchable.add(directory, Instant::now());
        assert!(searchable.has(directory) && !searchable.has(Path::new("b")));
        searchable.forget();
        assert!(!searchable.has(directory));
        searchable.add(directory, Instant::now().checked_sub(HOLDS).unwrap());
        assert!(!searchable.has(directory));
    }
}
