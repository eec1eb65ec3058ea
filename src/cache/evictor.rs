//! Evicts blobs, and discards parked downloads, to keep the limits.

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::blob::Usage;
use super::blob_files::BlobFiles;
use super::claim::{Awaited, Parked};
use super::classifier::{DigestOf, EvictionClassifier};
use super::eviction::Among;
use super::eviction_class::EvictionClasses;
use crate::index::Sha256Digest;

/// How many times to evict for the same space, because a file system may free space late.
const MAX_ROUNDS: usize = 2;

/// How much disk the cache may use and write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Most bytes of blobs, with the reservations of downloads.
    pub bound: u64,
    /// Bytes of the disk that stay free; 0: the cache may fill the disk.
    pub min_free: u64,
    /// Most bytes of packages written in a day (UTC); `None`: unlimited.
    pub writes_per_day: Option<u64>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Evictor {
    pub(super) blobs: Arc<BlobFiles>,
    classifier: EvictionClassifier,
    pub(super) limits: Mutex<Limits>,
}

impl Evictor {
    /// An evictor for at most `bound` bytes of blobs.
    pub(crate) fn new(blobs: &Arc<BlobFiles>, bound: u64) -> Self {
        let limits = Mutex::new(Limits { bound, ..Limits::default() });
        Self { blobs: Arc::clone(blobs), classifier: EvictionClassifier::default(), limits }
    }

    /// The current limits.
    pub(crate) fn limits(&self) -> Limits {
        *self.limits.lock()
    }

    /// Sets new limits; evicts at once what exceeds them.
    pub(crate) fn set_limits(&self, limits: Limits) {
        *self.limits.lock() = limits;
        self.blobs.budget.set_per_day(limits.writes_per_day);
        self.shrink_to(limits.bound);
        self.keep_free();
    }

    /// Sets the function that computes the eviction classes when something is to be evicted. `ask`
    /// may read files. Only the first call counts.
    pub(crate) fn classify_by(&self, ask: impl Fn(DigestOf<'_>) -> EvictionClasses + Send + Sync + 'static) {
        self.classifier.ask(ask);
    }

    /// Bytes that are free on the cache's disk.
    pub(crate) fn free_space(&self) -> io::Result<u64> {
        free_space(&self.blobs.directory)
    }

    /// Current numbers of bytes and blobs.
    pub(crate) fn usage(&self) -> Usage {
        let bound = self.limits().bound;
        let state = self.blobs.state();
        let (bytes, reserved, parked) = (state.bytes(), state.claims.reserved, state.parked.bytes());
        Usage { bytes, reserved, parked, blobs: state.blobs(), bound }
    }

    /// Evicts until `wanted` bytes of the disk are free, or until no eviction would free any.
    /// Returns whether they are free.
    pub(crate) fn free_up(&self, wanted: u64) -> bool {
        for _ in 0..MAX_ROUNDS {
            let missing = wanted.saturating_sub(self.free_space().unwrap_or(u64::MAX));
            if missing == 0 {
                return true;
            }
            if self.evict(missing, Among::Spare) == 0 {
                break;
            }
        }
        self.free_space().is_ok_and(|free| free >= wanted)
    }

    /// Evicts if less than `min_free` is free on the disk, whichever program filled it. The caller
    /// repeats this periodically.
    pub(crate) fn keep_free(&self) {
        let min_free = self.limits().min_free;
        if min_free == 0 || self.free_space().is_ok_and(|free| free >= min_free) {
            return;
        }
        let before = self.usage().bytes;
        let held = self.free_up(min_free);
        let evicted = before.saturating_sub(self.usage().bytes);
        if evicted > 0 {
            tracing::warn!(evicted, held, "less than min-free is left on the cache's disk: packages are evicted");
        }
    }

    /// Evicts until blobs and parked downloads fit within `bound`.
    pub(crate) fn shrink_to(&self, bound: u64) {
        let over = {
            let state = self.blobs.state();
            state.bytes().saturating_add(state.parked.bytes()).saturating_sub(bound)
        };
        if over == 0 {
            return;
        }
        let before = self.blobs.state().pinned_bytes();
        self.evict(over, Among::All);
        let gone = before.saturating_sub(self.blobs.state().pinned_bytes());
        if gone > 0 {
            tracing::warn!(
                "cache-size ({bound} bytes) is less than what is pinned ({before} bytes): {gone} bytes of that were removed. They \
                 stay pinned, and are kept again once they are fetched and there is room: raise cache-size, or `binhostfs pin \
                 --remove` some"
            );
        }
    }

    /// Evicts at least `bytes` if there are as many: first the bytes of parked downloads without
    /// waiters, then blobs, then the bytes of other parked downloads. Returns how many blobs and
    /// downloads lost their bytes.
    pub(crate) fn evict(&self, bytes: u64, among: Among) -> usize {
        self.classifier.classify_if_due(&self.blobs);
        let (victims, parked) = {
            let mut state = self.blobs.state();
            let (mut parked, freed) = state.parked.take(bytes, Awaited::No);
            let bytes = bytes.saturating_sub(freed);
            let before = state.bytes();
            let victims: Vec<Sha256Digest> = state.victims(bytes, among);
            let freed = before.saturating_sub(state.bytes());
            parked.extend(state.parked.take(bytes.saturating_sub(freed), Awaited::Yes).0);
            (victims, parked)
        };
        self.blobs.remove_evicted(&victims);
        parked.iter().for_each(Parked::discard);
        victims.len() + parked.len()
    }
}

fn free_space(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
