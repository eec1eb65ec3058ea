//! The verified packages on this machine: the blobs in the cache, and the transient ones. All
//! look-ups and arrivals of `fetch` go through here.
//!
//! A look-up that finds nothing returns an [`Absence`], which says so until the next blob arrives.
//! So an open of a package that is not cached asks the catalogue once, from the FUSE thread to the
//! start of its download, unless something arrives meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use portable_atomic::AtomicU64;

use super::alarms::keys_of;
use super::remote_binhost::{PackageRef, RemoteBinhost};
use super::transient_blobs::TransientBlobs;
use crate::cache::{Blob, BlobKeys, Cache, Incoming, NoBlob, Placement, Unkeepable, Unproved};
use crate::index::{Entry, EntryId, Record};
use crate::verify::{Policy, VerifyError, recheck};

/// A look-up that found nothing. It holds until a blob arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Absence {
    /// The number of arrivals before the look-up.
    arrivals: u64,
    why: NoBlob,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Blobs {
    cache: Arc<Cache>,
    transient: TransientBlobs,
    /// Blobs that have arrived. Each is counted after it can be found.
    arrivals: AtomicU64,
    /// Adoptions of orphans that have begun, and have not been counted as arrivals.
    adoptions: AtomicU64,
    /// How often the catalogue was asked for a blob.
    #[cfg(test)]
    pub(super) lookups: AtomicU64,
}

impl Blobs {
    pub(super) fn new(cache: Arc<Cache>) -> Self {
        Self {
            cache,
            transient: TransientBlobs::default(),
            arrivals: AtomicU64::new(0),
            adoptions: AtomicU64::new(0),
            #[cfg(test)]
            lookups: AtomicU64::new(0),
        }
    }

    pub(super) fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// The blob of a package, if its binhost's policy admits it.
    pub(super) fn get(&self, wanted: &PackageRef) -> Result<Blob, Absence> {
        self.get_by(wanted.record(), &wanted.binhost().policy)
    }

    /// The blob of a record, if `policy` admits it.
    pub(super) fn get_by(&self, record: &Record, policy: &Policy) -> Result<Blob, Absence> {
        let arrivals = self.arrivals.load(Ordering::Acquire);
        self.count_lookup();
        let transient = || self.transient.get(record.id).filter(|blob| policy.admits(&blob.assurance()));
        let found = self.cache.look_up(record.id, record.size, policy);
        found.or_else(|why| transient().ok_or(Absence { arrivals, why }))
    }

    /// The same for a caller that may know already that the package is not here.
    pub(super) fn get_unless(&self, absence: Option<Absence>, wanted: &PackageRef) -> Result<Blob, Absence> {
        match absence.filter(|absence| self.holds(*absence)) {
            Some(absence) => Err(absence),
            None => self.get(wanted),
        }
    }

    /// Whether [`Self::recover`] may find a package that a look-up has not found: without a record,
    /// or by a weaker proof than the policy requires.
    pub(super) fn may_recover(&self, wanted: &PackageRef, absence: Absence) -> bool {
        // The order matters: a blob that is being adopted is no orphan any more, then it is
        // adopted, then it has arrived.
        self.cache.recovery().may_have_orphans(wanted.record().size)
            || self.adoptions.load(Ordering::Acquire) > 0
            || absence.why == NoBlob::Unfit
            || !self.holds(absence)
    }

    fn holds(&self, absence: Absence) -> bool {
        absence.arrivals == self.arrivals.load(Ordering::Acquire)
    }

    /// Whether the cache has a record of the package. The blob itself is not checked.
    pub(super) fn has(&self, wanted: &PackageRef) -> bool {
        self.count_lookup();
        self.cache.known(wanted.record().id, wanted.record().size, &wanted.binhost().policy).is_some()
    }

    /// Whether the cache would keep a package if it were fetched now.
    ///
    /// # Errors
    /// The reason why the cache would not keep it.
    pub(super) fn would_keep(&self, wanted: &PackageRef) -> Result<(), Unkeepable> {
        self.cache.space().would_keep(wanted.record().size)
    }

    /// Keeps a verified package in the cache, if that is possible.
    pub(super) fn commit(&self, incoming: Incoming, blob: &Blob, id: EntryId, keys: BlobKeys) -> Placement {
        let placement = self.cache.commit(incoming, blob, id, keys);
        self.arrived();
        placement
    }

    /// Holds a verified package that the cache does not keep.
    pub(super) fn hold(&self, id: EntryId, blob: Blob) {
        self.transient.hold(id, blob);
        self.arrived();
    }

    /// Drops transient blobs that nobody has used for a while.
    pub(super) fn let_go(&self) {
        self.transient.let_go();
    }

    /// Removes a blob from the cache, unless it is pinned. Returns `true` if it was removed.
    pub(super) fn evict(&self, id: EntryId) -> bool {
        !self.cache.pins().list().iter().any(|pin| pin.id == id) && self.cache.forget(id).is_some()
    }

    /// Looks for a package among the unproved blobs of the cache. Proving a blob is cheaper than
    /// fetching the package again. Blocks.
    pub(super) fn recover(&self, binhost: &RemoteBinhost, entry: &Entry) -> Option<Blob> {
        let candidates = self.cache.recovery().unproved(entry.id(), entry.size, &binhost.policy);
        let adopted = candidates.into_iter().find_map(|candidate| self.adopt(binhost, entry, candidate));
        // Another task may have adopted the blob meanwhile.
        adopted.or_else(|| self.cache.get(entry.id(), entry.size, &binhost.policy))
    }

    /// Adopts one blob into the catalogue, if it is the package of `entry`. Blocks.
    pub(super) fn adopt(&self, binhost: &RemoteBinhost, entry: &Entry, candidate: Unproved) -> Option<Blob> {
        let Unproved { digest, file, own } = candidate;
        match recheck(file, entry.clone(), &binhost.policy) {
            Ok(verified) => {
                let blob = self.cache.blob(verified);
                tracing::info!(path = %entry.path, "found in the cache, and proved again");
                let _adopting = Adopting::begin(&self.adoptions);
                let placement = self.cache.recovery().adopt(digest, &blob, entry.id(), keys_of(binhost, entry));
                match placement {
                    Placement::Unkept(_) => self.hold(entry.id(), blob.clone()),
                    Placement::Kept => self.arrived(),
                }
                Some(blob)
            }
            // The blob is judged again when the clock is right.
            Err(error) if error.depends_on_clock() && binhost.check_clock().is_err() => None,
            // Signatures are checked after digests. A bad signature therefore means that the blob
            // is the requested package, and that it must not be served.
            Err(error) if error.io_error().is_none() && (own || matches!(error, VerifyError::Signature { .. })) => {
                tracing::warn!(path = %entry.path, %error, "what the cache has of it is refused and removed");
                self.cache.reject(digest);
                None
            }
            // The blob is another package of the same size, or the disk failed.
            Err(_) => None,
        }
    }

    fn arrived(&self) {
        self.arrivals.fetch_add(1, Ordering::Release);
    }

    fn count_lookup(&self) {
        #[cfg(test)]
        self.lookups.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts an adoption, until it is dropped.
struct Adopting<'a>(&'a AtomicU64);

impl<'a> Adopting<'a> {
    fn begin(adoptions: &'a AtomicU64) -> Self {
        adoptions.fetch_add(1, Ordering::AcqRel);
        Self(adoptions)
    }
}

impl Drop for Adopting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}
