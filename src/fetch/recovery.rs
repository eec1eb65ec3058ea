//! What lies in the cache unproved, after a kill or when the catalogue was lost, is proved before anybody asks for it.

use super::{Fetcher, PackageRef, downloads};
use crate::index::Sha256Digest;
use crate::verify::Sums;

impl Fetcher {
    /// Proves a body without a record, as the binhost of the entry that it is asks for, and takes it back; `true`: it did.
    /// `among`: what it may be, by its size. Reads all of it once, however many these are: the digests say which it is; and once
    /// more to prove that. Blocks.
    #[must_use]
    pub fn reclaim(&self, orphan: Sha256Digest, among: &[PackageRef]) -> bool {
        let Some(sums) = self.store.orphan(orphan).and_then(|unproved| Sums::of(&unproved.file).ok()) else {
            return false;
        };
        // Somebody fetches it, and looks at what is here by himself.
        let is_under_way = |wanted: &PackageRef| self.downloads.contains(wanted.key());
        among.iter().filter(|wanted| !is_under_way(wanted)).any(|wanted| {
            let Some(entry) = wanted.entry().ok().filter(|entry| sums.fit(entry)) else { return false };
            let unproved = self.store.orphan(orphan);
            unproved.is_some_and(|unproved| downloads::adopt_one(self, wanted.origin(), &entry, unproved).is_some())
        })
    }
}
