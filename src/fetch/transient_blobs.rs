//! Transient blobs: verified packages that the cache could not keep, held for as long as another
//! open is likely.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::cache::Blob;
use crate::index::EntryId;

/// A transient blob is dropped after this time without a use.
const HOLD: Duration = Duration::from_secs(120);
/// Transient blobs at the same time. Each one takes its size on a full disk, or in memory.
const KEPT: NonZeroUsize = NonZeroUsize::new(2).unwrap();

#[derive(Debug)]
pub(super) struct TransientBlobs(Mutex<LruCache<EntryId, (Blob, Instant)>>);

impl Default for TransientBlobs {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(KEPT)))
    }
}

impl TransientBlobs {
    pub(super) fn hold(&self, id: EntryId, blob: Blob) {
        self.0.lock().put(id, (blob, Instant::now()));
    }

    pub(super) fn get(&self, id: EntryId) -> Option<Blob> {
        let mut held = self.0.lock();
        let (blob, used) = held.get_mut(&id)?;
        *used = Instant::now();
        Some(blob.clone())
    }

    pub(super) fn let_go(&self) {
        let mut held = self.0.lock();
        while held.peek_lru().is_some_and(|(_, (_, used))| used.elapsed() >= HOLD) {
            held.pop_lru();
        }
    }
}
