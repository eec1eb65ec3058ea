//! Compares every entry with its package before the daemon answers with a byte of the package. The
//! package is signed, the index is not, and Portage's resolver uses the index alone.
//!
//! The cache keeps a digest of the values in each package. An entry with the same digest is right.
//! That check takes some 2 us. It is made for all cached packages while an index is taken, and the
//! entries that agree are remembered, so that an open looks into a table. Otherwise the metadata is
//! read from the blob, once for each entry and blob, and compared with the entry
//! ([`AuxValues::compare`]).
//!
//! An index mismatch is reported to the daemon, which decides which entries are visible. The
//! binhost's [`OnMismatch`] decides whether the package is refused, too.
//!
//! [`AuxValues::compare`]: crate::index::AuxValues::compare

use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};

use lru::LruCache;
use parking_lot::Mutex;

use super::blobs::Blobs;
use super::error::{FetchError, Outcome};
use super::failures::Failures;
use super::outcomes::{Mismatch, OutcomeKind, OutcomeSender};
use super::remote_binhost::{PackageKey, PackageRef, RemoteBinhosts};
use crate::cache::Blob;
use crate::config::OnMismatch;
use crate::index::{AuxDigest, BinhostId, Comparison, EntryValues, Index, Record, Sha256Digest, View};
use crate::metrics::{Metrics, RefusalKind};
use crate::verify::{self, VerifyError};

/// Comparisons that are remembered, for entries that are not written in the form of today's
/// Portage.
const MAX_JUDGED: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// Entries that are known to agree with their package, of the packages compared last: some 100
/// bytes each.
const MAX_AGREED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Index mismatches that are remembered, so that each one is logged once.
const MAX_LOGGED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// The result of a comparison.
#[derive(Debug, Clone)]
enum Judgement {
    /// The entry means the same as the package.
    Agrees,
    /// The entry contradicts the package.
    Differs(Mismatch),
}

/// The subject of a comparison: the binhost, the blob, and the digest of the entry's values.
type Subject = (BinhostId, Sha256Digest, AuxDigest);

/// An entry that agrees with a blob. The weak reference keeps the address of the index from being
/// reused, also after the index is gone.
#[derive(Debug)]
struct Agreed {
    _index: Weak<Index>,
    blob: Sha256Digest,
}

/// The results of earlier comparisons, bounded by [`MAX_AGREED`], [`MAX_JUDGED`] and
/// [`MAX_LOGGED`].
#[derive(Debug)]
pub(super) struct Judgements {
    /// The key is the address of the index, and the offset of the entry in its text.
    agreed: Mutex<LruCache<(usize, u64), Agreed>>,
    judged: Mutex<LruCache<Subject, Judgement>>,
    /// Index mismatches that the log has already.
    logged: Mutex<LruCache<(PackageKey, AuxDigest), ()>>,
}

impl Default for Judgements {
    fn default() -> Self {
        Self {
            agreed: Mutex::new(LruCache::new(MAX_AGREED)),
            judged: Mutex::new(LruCache::new(MAX_JUDGED)),
            logged: Mutex::new(LruCache::new(MAX_LOGGED)),
        }
    }
}

impl Judgements {
    /// Whether an entry is known to agree with a blob.
    fn is_agreed(&self, index: &Arc<Index>, offset: u64, blob: Sha256Digest) -> bool {
        let mut agreed = self.agreed.lock();
        agreed.get(&(Arc::as_ptr(index).addr(), offset)).is_some_and(|agreed| agreed.blob == blob)
    }

    fn note_agreed(&self, index: &Arc<Index>, offset: u64, blob: Sha256Digest) {
        let (key, agreed) = ((Arc::as_ptr(index).addr(), offset), Agreed { _index: Arc::downgrade(index), blob });
        self.agreed.lock().put(key, agreed);
    }

    fn get(&self, subject: &Subject) -> Option<Judgement> {
        self.judged.lock().get(subject).cloned()
    }

    fn put(&self, subject: Subject, judgement: Judgement) {
        self.judged.lock().put(subject, judgement);
    }

    /// Records an index mismatch as logged. Returns `true` the first time.
    fn is_news(&self, key: PackageKey, entry: AuxDigest) -> bool {
        self.logged.lock().put((key, entry), ()).is_none()
    }
}

/// Calls `look` with the values of an entry.
pub(super) fn with_entry<T>(wanted: &PackageRef, look: impl FnOnce(&EntryValues<'_>) -> T) -> std::io::Result<T> {
    let part = wanted.part().ok_or(std::io::ErrorKind::NotFound)?;
    let stanza = wanted.stanza()?;
    Ok(look(&EntryValues::of(&stanza, &part.index)))
}

/// Compares entries with their packages.
#[derive(Debug)]
pub(super) struct EntryComparer {
    pub(super) blobs: Arc<Blobs>,
    pub(super) binhosts: Arc<RemoteBinhosts>,
    pub(super) failures: Arc<Failures>,
    pub(super) outcomes: OutcomeSender,
    pub(super) metrics: Arc<Metrics>,
    pub(super) judgements: Judgements,
}

impl EntryComparer {
    /// Whether the daemon may answer an open of the entry with this blob, without reading the blob:
    /// equal digests or an earlier comparison decide. For FUSE threads.
    pub(super) fn agrees(&self, wanted: &PackageRef, blob: &Blob) -> bool {
        if wanted.binhost().on_mismatch == OnMismatch::Off || self.says_the_same(wanted, blob) {
            return true;
        }
        let judged = with_entry(wanted, |entry| self.judgements.get(&(wanted.key().0, blob.digest(), entry.digest())));
        match judged.ok().flatten() {
            Some(Judgement::Agrees) => true,
            Some(Judgement::Differs(_)) => wanted.binhost().on_mismatch == OnMismatch::Warn,
            None => false,
        }
    }

    /// Whether the entry has the same digest of values as its package.
    fn says_the_same(&self, wanted: &PackageRef, blob: &Blob) -> bool {
        let Some(part) = wanted.part() else { return false };
        let (offset, digest) = (wanted.record().offset(), blob.digest());
        if self.judgements.is_agreed(&part.index, offset, digest) {
            return true;
        }
        let agrees = with_entry(wanted, |entry| entry.agrees_with(blob.aux_digest())).unwrap_or(false);
        if agrees {
            self.judgements.note_agreed(&part.index, offset, digest);
        }
        agrees
    }

    /// Returns the blob, unless its entry is an index mismatch that the binhost's policy refuses.
    pub(super) async fn held_against(self: &Arc<Self>, wanted: &PackageRef, blob: Blob) -> Outcome {
        match self.mismatch(wanted, &blob).await? {
            Some(mismatch) if wanted.binhost().on_mismatch == OnMismatch::Refuse => {
                self.failures.note(wanted.key(), wanted.path(), &mismatch.error);
                Err(mismatch.error)
            }
            _ => Ok(blob),
        }
    }

    /// The differences between the entry and the package, whether they are refused or not. A
    /// mismatch is also sent to the daemon.
    pub(super) async fn mismatch(
        self: &Arc<Self>,
        wanted: &PackageRef,
        blob: &Blob,
    ) -> Result<Option<Mismatch>, Arc<FetchError>> {
        if wanted.binhost().on_mismatch == OnMismatch::Off {
            return Ok(None);
        }
        if self.says_the_same(wanted, blob) {
            self.failures.agreed(wanted.key(), wanted.path());
            return Ok(None);
        }
        let (comparer, of, its) = (Arc::clone(self), wanted.clone(), blob.clone());
        let judged = tokio::task::spawn_blocking(move || comparer.judge(&of, &its)).await;
        match judged.map_err(|_| Arc::new(FetchError::Stopped))?.map_err(Arc::new)? {
            Judgement::Differs(mismatch) => {
                // Each time: an entry that was shown again after a change must be hidden again.
                self.outcomes.send(wanted, OutcomeKind::IndexMismatch(mismatch.clone()));
                Ok(Some(mismatch))
            }
            Judgement::Agrees => {
                self.failures.agreed(wanted.key(), wanted.path());
                Ok(None)
            }
        }
    }

    /// Compares the entry with the metadata in the blob, unless that was done before. Blocks.
    fn judge(&self, wanted: &PackageRef, blob: &Blob) -> Result<Judgement, FetchError> {
        let entry = with_entry(wanted, |entry| entry.digest()).map_err(FetchError::Index)?;
        let subject = (wanted.key().0, blob.digest(), entry);
        if let Some(judgement) = self.judgements.get(&subject) {
            return Ok(judgement);
        }
        let package = verify::aux_values(blob.file(), wanted.own_path()).map_err(|error| match error {
            VerifyError::Io { source, .. } => FetchError::Disk(source),
            other => FetchError::Disk(std::io::Error::other(other)),
        })?;
        let compared = with_entry(wanted, |entry| package.compare(entry)).map_err(FetchError::Index)?;
        let judgement = match compared {
            Comparison::Equal | Comparison::OtherForm(_) => Judgement::Agrees,
            Comparison::Mismatch(found) => Judgement::Differs(Mismatch::new(wanted, entry, found)),
        };
        self.judgements.put(subject, judgement.clone());
        if let Judgement::Differs(mismatch) = &judgement {
            self.log_mismatch(wanted, mismatch);
        }
        Ok(judgement)
    }

    /// Logs the mismatch for the administrator, once for each entry.
    pub(super) fn log_mismatch(&self, wanted: &PackageRef, mismatch: &Mismatch) {
        let Mismatch { path, error, .. } = mismatch;
        if !self.judgements.is_news(wanted.key(), mismatch.entry) {
            return;
        }
        self.metrics.index_mismatches.increase();
        if wanted.binhost().on_mismatch == OnMismatch::Refuse {
            self.metrics.refused.increase();
            self.metrics.detail.refused(RefusalKind::IndexMismatch);
        }
        tracing::warn!(binhostfs.package = path, binhostfs.reason = %error, "{path}: {error}; {}", error.advice());
    }

    /// The index mismatches of an index, as far as the cache has the packages. Remembers the
    /// entries that agree. Blocks.
    pub(super) fn mismatches(&self, binhost: BinhostId, index: &Arc<Index>) -> Vec<Mismatch> {
        let cached = self.blobs.cache().aux_digests();
        if cached.is_empty() {
            return Vec::new();
        }
        let view = Arc::new(View::whole(binhost, Arc::clone(index)));
        let mismatch = |(row, record): (u32, &Record)| {
            let (digest, values) = cached.get(&(record.id, record.size))?;
            let wanted = PackageRef::new(&self.binhosts, &view, row)?;
            if with_entry(&wanted, |entry| entry.agrees_with(*values)).unwrap_or(false) {
                self.judgements.note_agreed(index, record.offset(), *digest);
                return None;
            }
            let blob = self.blobs.get(&wanted).ok()?;
            match self.judge(&wanted, &blob) {
                Ok(Judgement::Differs(mismatch)) => Some(mismatch),
                Ok(Judgement::Agrees) => None,
                Err(error) => {
                    tracing::warn!(path = wanted.path(), %error, "its index entry cannot be compared with the cached package");
                    None
                }
            }
        };
        (0..).zip(index.records()).filter_map(mismatch).collect()
    }
}

#[cfg(test)]
mod tests;
