//! Recovery: proves blobs in the cache that have no record, after a kill or the loss of the
//! catalogue, before a caller needs them.

use super::{Fetcher, PackageRef, downloads};
use crate::index::Sha256Digest;
use crate::verify::Sums;

impl Fetcher {
    /// Proves a blob without a record, as strictly as the binhost of its entry requires, and adopts
    /// it into the catalogue. Returns `true` if it was adopted. `among` are the packages that it
    /// may be, by its size.
    ///
    /// Reads the whole blob once for the digests, which say which of these packages it is, and once
    /// more to prove it. Blocks.
    #[must_use]
    pub(crate) fn reclaim(&self, orphan: Sha256Digest, among: &[PackageRef]) -> bool {
        let Some(sums) = self.cache.recovery().orphan(orphan).and_then(|unproved| Sums::of(&unproved.file).ok()) else {
            return false;
        };
        // A package with a download in the table is skipped: that download looks for unproved blobs
        // itself.
        let is_under_way = |wanted: &PackageRef| self.downloads.contains(wanted.key());
        among.iter().filter(|wanted| !is_under_way(wanted)).any(|wanted| {
            let Some(entry) = wanted.entry().ok().filter(|entry| sums.fit(entry)) else { return false };
            let unproved = self.cache.recovery().orphan(orphan);
            unproved.is_some_and(|unproved| downloads::adopt_one(self, wanted.binhost(), &entry, unproved).is_some())
        })
    }
}
