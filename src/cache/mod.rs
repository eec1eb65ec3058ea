//! Verified blobs and their catalogue, within a bound.
//!
//! | file | job |
//! |---|---|
//! | `blob_files` | the blobs on the disk, their records, and their state in memory |
//! | `space` | room for downloads, and what happens without any |
//! | `evictor` | the limits, and evicting to keep them |
//! | `recovery` | blobs without a record |
//! | `pins` | packages that are not evicted |
//! | `scrub` | reads blobs again |
//! | `db` | the sled database: all keys and values |
//! | `eviction` | order of eviction, sizes, open blobs |
//! | `eviction_class` | how soon a blob is evicted |
//! | `classifier` | computes the eviction classes |
//! | `incoming` | a download in progress |
//! | `claim` | room that downloads take |
//! | `write_budget` | how much may be written today |
//! | `blob` | a verified blob, and the results of operations |
//! | `available_memory` | memory that can still be taken |
//!
//! ```text
//! <cache-dir>/v1/
//!   lock              held while a daemon uses the directory; its pid
//!   catalogue/        sled: entry -> blob, and what is known of each blob
//!   blobs/ab/cdef…   verified blobs, named by SHA-256
//!   incoming/         downloads in progress; emptied at start
//!   index/            the indexes as received (`upstream`)
//!   generations/      what Portage reads (`daemon`)
//! ```
//!
//! * A blob enters the cache only as a [`Verified`]. Order of a commit: written -> verified ->
//!   rename -> fsync -> catalogue -> its fsync, which several commits may share. A kill or a power
//!   cut at any point leaves at worst an orphan: a blob without a record, which is proved again
//!   before it is used (`recovery`).
//! * A record says how its blob was proved. The cache serves a blob only where that proof meets the
//!   caller's policy and the keys as they are now; otherwise the blob is proved again, like an
//!   orphan (`recovery`).
//! * A record is valid only as long as the blob has the size and modification time that it had when
//!   it was committed. A difference is a miss, never wrong bytes.
//! * The scrub reads blobs again to find silent disk damage (`scrub`), and drops damaged
//!   blobs.
//! * Damage to the catalogue is a miss too: the catalogue is set aside and recreated, and the blobs
//!   become orphans.
//! * `bound` holds for blobs and for downloads together. Open blobs are evicted last; an open blob
//!   stays readable after its eviction.
//! * A download gets room step by step, as its bytes arrive (`incoming`): a size that only the
//!   index names evicts nothing.
//! * `min_free` bytes of the disk stay free, as far as the cache can ensure it. A download goes to
//!   the disk only where all of it would fit, and each step takes its space before it is written.
//!   Where other programs fill the disk, the cache evicts blobs until `min_free` bytes are free or
//!   no blob is left.
//! * Without space, blobs are evicted in the order of `eviction_class`; if that does not help, the
//!   download is kept in memory only (if it is small) or refused.
//! * Pinned blobs (`pins`) are evicted only where the bound itself becomes smaller than their
//!   sum.
//! * While nothing is fetched, the cache writes nothing but times of last use, batched. A write
//!   budget may stop the keeping of blobs for the rest of the day (`write_budget`).
//!
//! Lock order: `adoptions`, `room`, `commits`, `classified`, `state`. The catalogue has its own
//! lock, taken last, and so have the limits and the write budget.
//!
//! Not its job: what to fetch, and proving it.

mod available_memory;
mod blob;
mod blob_files;
mod claim;
mod classifier;
mod db;
mod eviction;
mod eviction_class;
mod evictor;
mod incoming;
mod pins;
mod recovery;
mod scrub;
mod space;
mod write_budget;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::index::{AuxDigest, EntryId, Sha256Digest, ShareKey};
use crate::metrics::Metrics;
use crate::verify::{Policy, Verified};

pub use blob::{Blob, Placement};
pub(crate) use blob::{BlobInfo, CacheError, NoBlob, Removed, Usage};
use blob_files::BlobFiles;
pub(crate) use classifier::DigestOf;
pub(crate) use db::pins::Pin;
pub(crate) use db::rows::BuildKey;
pub(crate) use db::shared::BinhostTag;
pub use db::shared::BlobKeys;
pub(crate) use eviction_class::{EvictionClass, EvictionClasses};
use evictor::Evictor;
pub(crate) use evictor::Limits;
pub use incoming::Incoming;
pub(crate) use incoming::Resumed;
pub(crate) use pins::{PinError, Pins};
pub(crate) use recovery::{Recovery, Unproved};
pub(crate) use scrub::{SCRUB_STEP, Scrub, Scrubbed};
pub(crate) use space::{DiskRoom, Space, Unkeepable};
use write_budget::WriteBudget;

/// The cache of blobs; the module's documentation has its invariants.
#[derive(Debug)]
pub struct Cache {
    blobs: Arc<BlobFiles>,
    evictor: Arc<Evictor>,
    space: Arc<Space>,
    recovery: Recovery,
    pins: Pins,
}

impl Cache {
    /// Opens the cache in `cache_dir` (created when missing), with at most `bound` bytes of blobs.
    ///
    /// # Errors
    /// The directory cannot be used, or another daemon uses it. Damage to the catalogue is no
    /// error.
    pub fn open(cache_dir: &Path, bound: u64, metrics: Arc<Metrics>) -> Result<Self, CacheError> {
        let blobs = Arc::new(BlobFiles::open(cache_dir, metrics)?);
        let evictor = Arc::new(Evictor::new(&blobs, bound));
        // The bound may be smaller than last time.
        evictor.shrink_to(bound);
        let (recovery, pins) = (Recovery::new(&blobs, &evictor), Pins::new(&blobs, &evictor));
        Ok(Self { space: Arc::new(Space::new(&evictor)), recovery, pins, blobs, evictor })
    }

    /// Room for downloads.
    pub(crate) fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// How much may be written today.
    pub(crate) fn budget(&self) -> &WriteBudget {
        &self.blobs.budget
    }

    /// The limits, and what keeps them.
    pub(crate) fn evictor(&self) -> &Evictor {
        &self.evictor
    }

    /// Blobs without a record.
    pub(crate) fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Packages that are not evicted.
    pub(crate) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The directory `<cache-dir>/v1`.
    pub(crate) fn directory(&self) -> &Path {
        &self.blobs.directory
    }

    /// Returns the blob of an entry, if the cache has it with a proof that `policy` accepts.
    ///
    /// Fast enough for a FUSE thread: two look-ups, an open(2), and stat(2) of the keyring's files.
    #[must_use]
    pub fn get(&self, id: EntryId, size: u64, policy: &Policy) -> Option<Blob> {
        self.look_up(id, size, policy).ok()
    }

    /// The same, for a caller that also wants to know whether [`Recovery`] may find the blob.
    pub(crate) fn look_up(&self, id: EntryId, size: u64, policy: &Policy) -> Result<Blob, NoBlob> {
        self.blobs.look_up(id, size, policy)
    }

    /// Returns the blob of a key that another machine sends, however it was proved: that machine
    /// proves it again. `shares` says whether the packages of a binhost may be shared.
    #[must_use]
    pub(crate) fn shared(&self, key: &ShareKey, shares: impl FnOnce(BinhostTag) -> bool) -> Option<Blob> {
        self.blobs.shared(key, shares)
    }

    /// Information about the blob of an entry, if [`Cache::get`] would most likely return it. Reads
    /// the catalogue only.
    pub(crate) fn known(&self, id: EntryId, size: u64, policy: &Policy) -> Option<BlobInfo> {
        let (digest, record) = self.blobs.catalogue.find(id)?;
        let since = u64::try_from(record.mtime / 1_000_000_000).unwrap_or_default();
        let known = BlobInfo { digest, assurance: record.assurance, since };
        (record.size == size && policy.admits(&known.assurance)).then_some(known)
    }

    /// SHA-256 of the blob of an entry, where there is one. Reads the catalogue only.
    pub(crate) fn digest(&self, id: EntryId) -> Option<Sha256Digest> {
        self.blobs.digest(id)
    }

    /// The URL of its binhost that a blob was fetched from, where it is recorded.
    pub(crate) fn source(&self, digest: Sha256Digest) -> Option<String> {
        blob::source_of(&self.blobs.path(digest))
    }

    /// The digest of the blob of each entry and the `AuxDigest` of its package, by entry and size,
    /// for all blobs in the cache, however they were proved. Reads the catalogue only.
    pub(crate) fn aux_digests(&self) -> HashMap<(EntryId, u64), (Sha256Digest, AuxDigest)> {
        let entries = self.blobs.catalogue.entries().into_iter();
        entries.map(|(id, digest, record)| ((id, record.size), (digest, record.values))).collect()
    }

    /// SHA-256 of the build when it was verified last.
    pub(crate) fn build_digest(&self, build: BuildKey) -> Option<Sha256Digest> {
        self.blobs.catalogue.builds().digest(build)
    }

    /// Creates a place for a download of `size` bytes: see [`Incoming::open`].
    ///
    /// # Errors
    /// There is no room at all, or the directory cannot be written.
    pub fn incoming(&self, size: u64) -> Result<Incoming, CacheError> {
        Incoming::open(&self.space, size)
    }

    /// Makes a blob of verified bytes: the only way from [`Verified`] to [`Blob`].
    #[must_use]
    pub fn blob(&self, verified: Verified) -> Blob {
        Blob::new(verified)
    }

    /// Keeps a verified blob for `id`, or returns why the blob is transient.
    ///
    /// The blob is usable in both cases, and was usable before: no waiter waits for a commit. The
    /// build of `keys` is recorded in the build history in any case.
    pub fn commit(&self, incoming: Incoming, verified: &Blob, id: EntryId, keys: BlobKeys) -> Placement {
        let placement = match incoming.kept_path() {
            Some(path) => self.blobs.place(path, verified, id, keys),
            None => Placement::Unkept(incoming.why.to_owned()),
        };
        if let Placement::Unkept(reason) = &placement {
            keys.build.into_iter().for_each(|build| self.blobs.record_build(build, verified.digest()));
            self.blobs.metrics.transient_blobs.increase();
            tracing::debug!(%reason, "verified blob is served without being kept");
        }
        drop(incoming);
        placement
    }

    /// Removes the blob of an entry, pinned or not, and returns its bytes. `None`: the cache does
    /// not have it.
    pub(crate) fn forget(&self, id: EntryId) -> Option<u64> {
        self.blobs.forget(id)
    }

    /// Removes a blob that was found to be wrong. Readers that have it open keep it.
    pub(crate) fn reject(&self, digest: Sha256Digest) {
        self.blobs.reject(digest);
    }

    /// Removes every blob that is neither pinned nor one of the entries `named`, and all blobs
    /// without a record. Reads `named` only while no commit can happen.
    pub(crate) fn retain(&self, named: impl IntoIterator<Item = EntryId>) -> Removed {
        self.recovery.sweep();
        self.blobs.retain(named)
    }

    /// Current numbers of bytes and blobs.
    pub(crate) fn usage(&self) -> Usage {
        self.evictor.usage()
    }

    /// Starts to read again the blob whose digest follows `after`, or the first one if none
    /// follows. `None`: there are no blobs.
    pub(crate) fn scrub(&self, after: Sha256Digest) -> Option<Scrub> {
        Scrub::start(&self.blobs, after)
    }

    /// Writes the times of last use and the records that are not on disk yet, in one batch. The
    /// caller repeats this periodically.
    pub(crate) fn write_uses(&self) {
        self.blobs.write_uses();
    }
}

#[cfg(test)]
mod tests;
