//! Verified bodies that the cache could not keep, for as long as somebody is likely to open them again.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::cache::Blob;
use crate::index::EntryId;

/// After how long without a use a body is let go.
const HOLD: Duration = Duration::from_secs(120);
/// Bodies held at the same time: each takes its size on a full disk, or in memory.
const KEPT: NonZeroUsize = NonZeroUsize::new(2).unwrap();

#[derive(Debug)]
pub(super) struct TransientBlobs(Mutex<LruCache<EntryId, (Blob, Instant)>>);

impl Default for TransientBlobs {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(KEPT)))
    }
}

impl TransientBlobs {
    pub(super) fn hold(&self, id: EntryId, body: Blob) {
        self.lock().put(id, (body, Instant::now()));
    }

    pub(super) fn get(&self, id: EntryId) -> Option<Blob> {
        let mut held = self.lock();
        let (body, used) = held.get_mut(&id)?;
        *used = Instant::now();
        Some(body.clone())
    }

    pub(super) fn let_go(&self) {
        let mut held = self.lock();
        while held.peek_lru().is_some_and(|(_, (_, used))| used.elapsed() >= HOLD) {
            held.pop_lru();
        }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<EntryId, (Blob, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
