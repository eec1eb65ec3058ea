//! How much of the disk the indexes take: those of the binhosts, and the generations.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::tree::PackagesFile;

/// Directories of the cache that have indexes.
const DIRECTORIES: [&str; 3] = ["index", "generations", "serve"];

/// Bytes that are allocated for all files of indexes in a cache. A file with several names counts
/// once.
pub(in crate::daemon) fn disk_usage(cache: &Path) -> u64 {
    let mut seen = HashSet::new();
    DIRECTORIES.iter().map(|name| below(&cache.join(name), &mut seen)).sum()
}

/// Bytes that are allocated for an index whose file has no name: one with local packages.
pub(in crate::daemon) fn nameless(packages: &PackagesFile) -> u64 {
    let metadata = packages.content.file().and_then(|file| file.metadata().ok());
    metadata.filter(|metadata| metadata.nlink() == 0).map_or(0, |metadata| metadata.blocks() * 512)
}

fn below(directory: &Path, seen: &mut HashSet<u64>) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => below(&entry.path(), seen),
        Ok(metadata) if seen.insert(metadata.ino()) => metadata.blocks() * 512,
        _ => 0,
    });
    bytes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(disk_usage(cache.path()), 0);
        for directory in ["index/a", "generations/1", "blobs"] {
            fs::create_dir_all(cache.path().join(directory)).unwrap();
            fs::write(cache.path().join(directory).join("Packages"), vec![1; 100_000]).unwrap();
        }
        let before = disk_usage(cache.path());
        assert!((200_000..260_000).contains(&before), "{before}");
        fs::hard_link(cache.path().join("index/a/Packages"), cache.path().join("generations/1/index-0")).unwrap();
        assert_eq!(disk_usage(cache.path()), before);
    }
}
