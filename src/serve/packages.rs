//! Finds the package of a path or of a blob's key.

use std::io;
use std::sync::Arc;

use super::PublishedLocalPackages;
use crate::cache::Blob;
use crate::fetch::{Fetcher, PackageRef};
use crate::index::ShareKey;
use crate::tree::Snapshots;

/// The packages that other machines may have.
#[derive(Debug, Clone)]
pub(crate) struct SharedPackages {
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) snapshots: Arc<Snapshots>,
    /// `None`: local packages are not served.
    pub(crate) local: Option<Arc<PublishedLocalPackages>>,
}

impl SharedPackages {
    /// The package at a path of the newest index that has one there.
    pub(super) fn at(&self, path: &str) -> Option<PackageRef> {
        let trees = self.snapshots.all().into_iter();
        let mut found = trees.filter_map(|tree| self.fetcher.wanted(tree.view(), tree.view().row_at(path)?));
        found.find(PackageRef::is_shared)
    }

    /// The cached blob of a key.
    pub(super) fn blob(&self, key: &ShareKey) -> Option<Blob> {
        self.fetcher.for_machines().cached(key)
    }

    /// The package of a key that an index has at `path`.
    ///
    /// # Errors
    /// A stored index cannot be read.
    pub(super) fn of_key(&self, key: &ShareKey, path: &str) -> io::Result<Option<PackageRef>> {
        for tree in self.snapshots.all() {
            for row in tree.view().rows_of(path) {
                let wanted = self.fetcher.wanted(tree.view(), row).filter(PackageRef::is_shared);
                if let Some(wanted) = wanted
                    && wanted.is_of(key)?
                {
                    return Ok(Some(wanted));
                }
            }
        }
        Ok(None)
    }
}
