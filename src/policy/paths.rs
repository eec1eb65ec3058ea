//! The set of occupied paths: no two entries have one path, and no path is a directory of another.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};

/// Stores hashes instead of paths. A collision (64 bits, with a new random key each time) moves an
/// entry without need.
#[derive(Debug, Default)]
pub(super) struct TakenPaths {
    hasher: RandomState,
    files: HashSet<u64>,
    directories: HashSet<u64>,
}

impl TakenPaths {
    /// Occupies a path, unless it conflicts with an occupied one (`false`).
    pub(super) fn take(&mut self, path: &str) -> bool {
        let hash = self.hasher.hash_one(path);
        let above: Vec<u64> = path.match_indices('/').map(|(at, _)| self.above(path, at)).collect();
        let free = !self.files.contains(&hash)
            && !self.directories.contains(&hash)
            && !above.iter().any(|directory| self.files.contains(directory));
        if free {
            self.files.insert(hash);
            self.directories.extend(above);
        }
        free
    }

    fn above(&self, path: &str, end: usize) -> u64 {
        self.hasher.hash_one(path.get(..end).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_in_anybodys_way() {
        let mut places = TakenPaths::default();
        for (path, free) in [
            ("a/b", true),
            ("a/b", false),
            ("a", false),
            ("a/b/c", false),
            ("a/c", true),
            ("ab", true),
            ("b/c/d", true),
            ("b/c", false),
            ("b/c/e/f", true),
        ] {
            assert_eq!(places.take(path), free, "{path}");
        }
    }
}
