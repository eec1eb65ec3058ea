//! PKGDIR stays the administrator's own: what is written through the mount is beneath it.

mod calls;
mod closed;
mod content;
mod index;
mod killed;
mod like_ext4;
mod moves;
mod names;
mod portage;
mod resent;
mod rights;
mod root;
mod told;
mod trouble;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::harness::{Mounted, Options, Origin, Package};

/// A binhost with two packages, mounted.
fn mounted(passthrough: &str) -> (Origin, [Package; 2], Mounted) {
    let packages = [Package::new("one-1.0", 300_000), Package::new("two-2.0-r1", 5_000)];
    let origin = Origin::with(&packages);
    let mounted = Options::new(origin.url()).with(["--passthrough", passthrough]).mount();
    (origin, packages, mounted)
}

/// What is in a directory, with what is in the files.
fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let (mut found, mut pending) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let metadata = fs::symlink_metadata(entry.path()).unwrap();
            let content = if metadata.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
            found.insert(entry.path().strip_prefix(root).unwrap().to_owned(), (metadata.mode(), content));
            if metadata.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    found
}

/// Stops the daemon: what was beneath is in sight.
fn beneath(mut mounted: Mounted) -> TempDir {
    assert_eq!(mounted.stop(), Some(0));
    assert!(!mounted.is_mounted());
    mounted.into_place()
}
