//! What is in the cache, in memory: order of eviction, sizes, who has what open.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Weak};

use lru::LruCache;

use crate::index::Sha256Digest;

use super::catalogue::BodyRecord;
use super::now;

/// A time of last use on disk that is younger than this is not written again, s.
const FRESH: u64 = 3600;

#[derive(Debug)]
struct Cached {
    size: u64,
    last_use: u64,
    /// What the catalogue has for `last_use`.
    written: u64,
    open: Weak<File>,
}

#[derive(Debug)]
pub(super) struct State {
    bodies: LruCache<Sha256Digest, Cached>,
    /// Bodies without a record: evicted first, proved again before they are used.
    orphans: HashMap<Sha256Digest, u64>,
    bytes: u64,
    pub(super) reserved: u64,
}

impl State {
    pub(super) fn from_records(mut records: Vec<(Sha256Digest, BodyRecord)>) -> Self {
        records.sort_by_key(|(digest, record)| (record.last_use, *digest));
        let mut state = Self { bodies: LruCache::unbounded(), orphans: HashMap::new(), bytes: 0, reserved: 0 };
        for (digest, BodyRecord { size, last_use, .. }) in records {
            state.bytes = state.bytes.saturating_add(size);
            state.bodies.put(digest, Cached { size, last_use, written: last_use, open: Weak::new() });
        }
        state
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn bodies(&self) -> u64 {
        (self.bodies.len() + self.orphans.len()) as u64
    }

    pub(super) fn knows(&self, digest: Sha256Digest) -> bool {
        self.bodies.contains(&digest) || self.orphans.contains_key(&digest)
    }

    /// Whether it has a record.
    pub(super) fn has_body(&self, digest: Sha256Digest) -> bool {
        self.bodies.contains(&digest)
    }

    /// The body that follows `after` in the order of digests; after the last one the first.
    pub(super) fn next_body(&self, after: Sha256Digest) -> Option<Sha256Digest> {
        let digests = || self.bodies.iter().map(|(digest, _)| *digest);
        digests().filter(|digest| *digest > after).min().or_else(|| digests().min())
    }

    /// Marks a body as used now; its file, if someone has it open.
    pub(super) fn touch(&mut self, digest: Sha256Digest) -> Option<Arc<File>> {
        let cached = self.bodies.get_mut(&digest)?;
        cached.last_use = now();
        cached.open.upgrade()
    }

    pub(super) fn opened(&mut self, digest: Sha256Digest, file: &Arc<File>) {
        if let Some(cached) = self.bodies.get_mut(&digest) {
            cached.open = Arc::downgrade(file);
        }
    }

    /// Takes a body in: as a body where it has a record, else as an orphan.
    pub(super) fn insert(&mut self, digest: Sha256Digest, size: u64, last_use: u64, file: &Arc<File>, recorded: bool) {
        self.remove(digest);
        if recorded {
            self.bodies.put(digest, Cached { size, last_use, written: last_use, open: Arc::downgrade(file) });
            self.bytes += size;
        } else {
            self.add_orphan(digest, size);
        }
    }

    pub(super) fn add_orphan(&mut self, digest: Sha256Digest, size: u64) {
        if !self.bodies.contains(&digest) && self.orphans.insert(digest, size).is_none() {
            self.bytes = self.bytes.saturating_add(size);
        }
    }

    /// Orphans of that size, and if need be the bodies that have a record.
    pub(super) fn candidates(&self, size: u64, recorded: bool) -> Vec<Sha256Digest> {
        let orphans = self.orphans.iter().map(|(digest, size)| (digest, *size));
        let bodies = self.bodies.iter().filter(|_| recorded).map(|(digest, cached)| (digest, cached.size));
        orphans.chain(bodies).filter(|(_, s)| *s == size).map(|(digest, _)| *digest).collect()
    }

    pub(super) fn remove(&mut self, digest: Sha256Digest) {
        let size = self.bodies.pop(&digest).map(|cached| cached.size).or_else(|| self.orphans.remove(&digest));
        self.bytes = self.bytes.saturating_sub(size.unwrap_or_default());
    }

    /// Takes out what is to be evicted until at least `bytes` are free: orphans, then the least recently used that nobody
    /// has open, then those that are open.
    pub(super) fn victims(&mut self, bytes: u64) -> Vec<Sha256Digest> {
        let mut victims: Vec<Sha256Digest> = Vec::new();
        let mut freed = 0_u64;
        let mut choose = |digest: Sha256Digest, size: u64| {
            let wanted = freed < bytes;
            if wanted {
                freed = freed.saturating_add(size);
                victims.push(digest);
            }
            wanted
        };
        let all_orphans = self.orphans.iter().all(|(digest, size)| choose(*digest, *size));
        let order = || self.bodies.iter().rev();
        let unused = order().filter(|(_, cached)| cached.open.strong_count() == 0);
        if all_orphans && unused.into_iter().all(|(digest, cached)| choose(*digest, cached.size)) {
            let _ = order().filter(|(_, c)| c.open.strong_count() > 0).all(|(digest, c)| choose(*digest, c.size));
        }
        victims.iter().for_each(|digest| self.remove(*digest));
        victims
    }

    /// Times of last use that the catalogue does not have, without those that it has fresh enough.
    pub(super) fn take_uses(&mut self) -> Vec<(Sha256Digest, u64)> {
        let stale =
            |(_, cached): &(&Sha256Digest, &mut Cached)| cached.last_use >= cached.written.saturating_add(FRESH);
        let mut uses = Vec::new();
        for (digest, cached) in self.bodies.iter_mut().filter(stale) {
            cached.written = cached.last_use;
            uses.push((*digest, cached.last_use));
        }
        uses
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Digest;

    #[test]
    fn orphans_go_first_then_the_oldest_then_open_ones() {
        let digest = |n| Digest([n; 32]);
        let assurance = crate::verify::Assurance::DigestsOnly;
        let record = |last_use| BodyRecord { size: 10, mtime: 0, last_use, assurance, entries: Vec::new() };
        let mut state =
            State::from_records(vec![(digest(1), record(30)), (digest(2), record(10)), (digest(3), record(20))]);
        state.add_orphan(digest(9), 10);
        let file = Arc::new(tempfile::tempfile().unwrap());
        state.opened(digest(2), &file);
        assert_eq!(state.bytes(), 40);
        assert_eq!(state.victims(5), [digest(9)]);
        assert_eq!(state.victims(15), [digest(3), digest(1)]);
        assert_eq!(state.victims(1), [digest(2)]);
        assert!(state.victims(1).is_empty());
        assert_eq!((state.bytes(), state.bodies()), (0, 0));
    }
}
