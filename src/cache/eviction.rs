//! The cache's content in memory: order of eviction, sizes, open blobs.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::{Arc, Weak};

use lru::LruCache;

use crate::index::{EntryId, Sha256Digest};

use super::claim::{ParkedDownloads, SpaceClaim};
use super::db::catalogue::BlobRecord;
use super::eviction_class::{EvictionClass, WAITS};
use crate::sys::seconds_now;

/// A time of last use is written only if it is this much later than the one on disk, in seconds.
const FRESH: u64 = 3600;

#[derive(Debug)]
struct Cached {
    size: u64,
    last_use: u64,
    /// The value of `last_use` in the catalogue.
    written: u64,
    open: Weak<File>,
    /// `None`: no index named the blob when the classes were computed, and nobody has used it
    /// since.
    class: Option<EvictionClass>,
    pinned: bool,
}

/// Which blobs may be evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Among {
    /// All blobs, pinned and open ones included.
    All,
    /// Only blobs that are not pinned.
    Unpinned,
    /// Only blobs that are neither pinned nor open: no others give the disk its space back.
    Spare,
}

/// Turns in which blobs are evicted, after those without a record.
const OPEN: u8 = 3;
const PINNED: u8 = 4;

impl Cached {
    fn new(size: u64, last_use: u64, open: Weak<File>, pinned: bool) -> Self {
        Self { size, last_use, written: last_use, open, class: Some(EvictionClass::Waiting), pinned }
    }

    /// The turn of this blob: the lower, the sooner it is evicted.
    fn turn(&self, now: u64) -> u8 {
        match self.class {
            _ if self.pinned => PINNED,
            _ if self.open.strong_count() > 0 => OPEN,
            None | Some(EvictionClass::Superseded) => 0,
            Some(EvictionClass::Waiting) if self.last_use.saturating_add(WAITS) < now => 0,
            Some(EvictionClass::Installed) => 1,
            Some(EvictionClass::Waiting) => 2,
        }
    }
}

#[derive(Debug)]
pub(crate) struct EvictionState {
    blobs: LruCache<Sha256Digest, Cached>,
    /// Blobs without a record, with their sizes: evicted first, proved again before they are used.
    orphans: HashMap<Sha256Digest, u64>,
    bytes: u64,
    /// Claims of all downloads in progress together.
    pub(crate) claims: SpaceClaim,
    pub(crate) parked: ParkedDownloads,
}

impl EvictionState {
    pub(crate) fn from_records(mut records: Vec<(Sha256Digest, BlobRecord)>, pins: &HashSet<EntryId>) -> Self {
        records.sort_by_key(|(digest, record)| (record.last_use, *digest));
        let (blobs, orphans) = (LruCache::unbounded(), HashMap::new());
        let (claims, parked) = (SpaceClaim::default(), ParkedDownloads::default());
        let mut state = Self { blobs, orphans, bytes: 0, claims, parked };
        for (digest, BlobRecord { size, last_use, entries, .. }) in records {
            state.bytes = state.bytes.saturating_add(size);
            let pinned = entries.iter().any(|id| pins.contains(id));
            state.blobs.put(digest, Cached::new(size, last_use, Weak::new(), pinned));
        }
        state
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn blobs(&self) -> u64 {
        (self.blobs.len() + self.orphans.len()) as u64
    }

    pub(crate) fn knows(&self, digest: Sha256Digest) -> bool {
        self.blobs.contains(&digest) || self.orphans.contains_key(&digest)
    }

    /// Whether the blob has a record.
    pub(crate) fn has_blob(&self, digest: Sha256Digest) -> bool {
        self.blobs.contains(&digest)
    }

    /// The blob that follows `after` in the order of digests; after the last one, the first.
    pub(crate) fn next_blob(&self, after: Sha256Digest) -> Option<Sha256Digest> {
        let digests = || self.blobs.iter().map(|(digest, _)| *digest);
        digests().filter(|digest| *digest > after).min().or_else(|| digests().min())
    }

    /// Marks a blob as used now; returns its file if it is open.
    pub(crate) fn touch(&mut self, digest: Sha256Digest) -> Option<Arc<File>> {
        let cached = self.blobs.get_mut(&digest)?;
        cached.last_use = seconds_now();
        // A used blob is named by an entry, so it is no longer among the unnamed ones.
        cached.class.get_or_insert(EvictionClass::Waiting);
        cached.open.upgrade()
    }

    pub(crate) fn opened(&mut self, digest: Sha256Digest, file: &Arc<File>) {
        if let Some(cached) = self.blobs.get_mut(&digest) {
            cached.open = Arc::downgrade(file);
        }
    }

    /// Adds a blob that has a record.
    pub(crate) fn insert(&mut self, digest: Sha256Digest, size: u64, last_use: u64, file: &Arc<File>, pinned: bool) {
        self.remove(digest);
        self.blobs.put(digest, Cached::new(size, last_use, Arc::downgrade(file), pinned));
        self.bytes += size;
    }

    /// Pins or unpins a blob.
    pub(crate) fn set_pinned(&mut self, digest: Sha256Digest, pinned: bool) {
        self.blobs.peek_mut(&digest).into_iter().for_each(|cached| cached.pinned = pinned);
    }

    /// Bytes of pinned blobs.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.blobs.iter().filter(|(_, cached)| cached.pinned).map(|(_, cached)| cached.size).sum()
    }

    /// Bytes of all other blobs and of parked downloads.
    pub(crate) fn unpinned_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.pinned_bytes()).saturating_add(self.parked.bytes())
    }

    /// Bytes that eviction could give back to the disk.
    pub(crate) fn spare_bytes(&self) -> u64 {
        let now = seconds_now();
        let blobs = self.blobs.iter().filter(|(_, cached)| cached.turn(now) < OPEN).map(|(_, cached)| cached.size);
        blobs.chain(self.orphans.values().copied()).sum::<u64>().saturating_add(self.parked.bytes())
    }

    /// Sets the class of each blob, as computed from `since` on (seconds since the epoch). No index
    /// names a blob that has no class in `classes`; it is `Waiting` if it was fetched or used
    /// since then.
    pub(crate) fn classify(&mut self, classes: &HashMap<Sha256Digest, EvictionClass>, since: u64) {
        for (digest, cached) in self.blobs.iter_mut() {
            let meanwhile = (cached.last_use >= since).then_some(EvictionClass::Waiting);
            cached.class = classes.get(digest).copied().or(meanwhile);
        }
    }

    /// The blobs without a record, with their sizes.
    pub(crate) fn orphans(&self) -> Vec<(Sha256Digest, u64)> {
        self.orphans.iter().map(|(digest, size)| (*digest, *size)).collect()
    }

    /// Removes the blobs without a record, and those that are neither named nor pinned; returns
    /// them and their bytes.
    pub(crate) fn take_unnamed(&mut self, named: &HashSet<Sha256Digest>) -> (Vec<Sha256Digest>, u64) {
        let blobs = self.blobs.iter().filter(|(digest, cached)| !cached.pinned && !named.contains(*digest));
        let blobs: Vec<Sha256Digest> = blobs.map(|(digest, _)| *digest).collect();
        let unnamed: Vec<Sha256Digest> = blobs.into_iter().chain(self.orphans.keys().copied()).collect();
        let before = self.bytes;
        unnamed.iter().for_each(|digest| self.remove(*digest));
        (unnamed, before - self.bytes)
    }

    pub(crate) fn add_orphan(&mut self, digest: Sha256Digest, size: u64) {
        if !self.blobs.contains(&digest) && self.orphans.insert(digest, size).is_none() {
            self.bytes = self.bytes.saturating_add(size);
        }
    }

    /// Orphans of that size; with `recorded`, also the blobs that have a record.
    pub(crate) fn candidates(&self, size: u64, recorded: bool) -> Vec<Sha256Digest> {
        let orphans = self.orphans.iter().map(|(digest, size)| (digest, *size));
        let blobs = self.blobs.iter().filter(|_| recorded).map(|(digest, cached)| (digest, cached.size));
        orphans.chain(blobs).filter(|(_, s)| *s == size).map(|(digest, _)| *digest).collect()
    }

    pub(crate) fn remove(&mut self, digest: Sha256Digest) {
        let size = self.blobs.pop(&digest).map(|cached| cached.size).or_else(|| self.orphans.remove(&digest));
        self.bytes = self.bytes.saturating_sub(size.unwrap_or_default());
    }

    /// Removes victims until at least `bytes` are free: orphans, then blobs in the order of
    /// `eviction_class`, the least recently used first; then open blobs; then pinned ones.
    pub(crate) fn victims(&mut self, bytes: u64, among: Among) -> Vec<Sha256Digest> {
        let last = match among {
            Among::All => PINNED,
            Among::Unpinned => OPEN,
            Among::Spare => OPEN - 1,
        };
        let now = seconds_now();
        let orphans = self.orphans.iter().map(|(digest, size)| (*digest, *size));
        let turns = (0..=last).flat_map(|turn| {
            let blobs = self.blobs.iter().rev().filter(move |(_, cached)| cached.turn(now) == turn);
            blobs.map(|(digest, cached)| (*digest, cached.size))
        });
        let mut freed = 0_u64;
        let enough = |(_, size): &(Sha256Digest, u64)| {
            let wanted = freed < bytes;
            freed = freed.saturating_add(*size);
            wanted
        };
        let victims: Vec<Sha256Digest> = orphans.chain(turns).take_while(enough).map(|(digest, _)| digest).collect();
        victims.iter().for_each(|digest| self.remove(*digest));
        victims
    }

    /// Times of last use that are newer than the catalogue's by `FRESH` or more.
    pub(crate) fn take_uses(&mut self) -> Vec<(Sha256Digest, u64)> {
        let stale =
            |(_, cached): &(&Sha256Digest, &mut Cached)| cached.last_use >= cached.written.saturating_add(FRESH);
        let mut uses = Vec::new();
        for (digest, cached) in self.blobs.iter_mut().filter(stale) {
            cached.written = cached.last_use;
            uses.push((*digest, cached.last_use));
        }
        uses
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{AuxDigest, Digest};

    const NOW: u64 = u64::MAX / 2;

    fn digest(n: u8) -> Sha256Digest {
        Digest([n; 32])
    }

    fn state(records: &[(u8, u64)], pinned: &[u8]) -> EvictionState {
        let record = |(n, last_use): &(u8, u64)| {
            let (values, assurance) = (AuxDigest([0; 16]), crate::verify::Assurance::default());
            let entries = vec![EntryId([*n; 16])];
            (digest(*n), BlobRecord { size: 10, mtime: 0, last_use: *last_use, values, assurance, entries })
        };
        EvictionState::from_records(
            records.iter().map(record).collect(),
            &pinned.iter().map(|n| EntryId([*n; 16])).collect(),
        )
    }

    #[test]
    fn orphans_go_first_then_the_oldest_then_open_ones() {
        let mut state = state(&[(1, 30), (2, 10), (3, 20)], &[]);
        state.add_orphan(digest(9), 10);
        let file = Arc::new(tempfile::tempfile().unwrap());
        state.opened(digest(2), &file);
        assert_eq!((state.bytes(), state.spare_bytes()), (40, 30));
        assert_eq!(state.victims(5, Among::All), [digest(9)]);
        assert_eq!(state.victims(15, Among::All), [digest(3), digest(1)]);
        assert!(state.victims(1, Among::Spare).is_empty());
        assert_eq!(state.victims(1, Among::All), [digest(2)]);
        assert!(state.victims(1, Among::All).is_empty());
        assert_eq!((state.bytes(), state.blobs()), (0, 0));
    }

    #[test]
    fn what_is_merged_goes_before_what_waits_and_what_is_pinned_last() {
        // The higher the number, the more recently used.
        let all: Vec<(u8, u64)> = (1..=8).map(|n| (n, NOW + u64::from(n))).collect();
        let mut state = state(&all, &[1, 2]);
        let installed = [(3, EvictionClass::Installed), (8, EvictionClass::Installed), (7, EvictionClass::Superseded)];
        let waiting = [1, 2, 4, 5].map(|n| (n, EvictionClass::Waiting));
        // No index names 6.
        state.classify(&installed.into_iter().chain(waiting).map(|(n, class)| (digest(n), class)).collect(), u64::MAX);
        assert_eq!(state.victims(1000, Among::Unpinned), [6, 7, 3, 8, 4, 5].map(digest));
        assert_eq!(state.pinned_bytes(), 20);
        state.set_pinned(digest(2), false);
        assert_eq!(state.victims(1000, Among::Spare), [digest(2)]);
        assert_eq!(state.victims(1000, Among::All), [digest(1)]);
    }

    #[test]
    fn what_nobody_wanted_for_long_waits_no_more() {
        let mut state = state(&[(1, seconds_now() - 2 * WAITS), (2, seconds_now())], &[]);
        state.classify(
            &[(digest(1), EvictionClass::Waiting), (digest(2), EvictionClass::Installed)].into(),
            seconds_now(),
        );
        assert_eq!(state.victims(1, Among::All), [digest(1)]);
    }

    #[test]
    fn what_lands_or_is_used_while_ranks_are_found_out_waits() {
        let mut state = state(&[(1, NOW), (2, NOW - 1), (3, NOW - 2), (4, NOW - 3)], &[]);
        // No index names 2 to 4; 1 was fetched since.
        state.classify(&HashMap::new(), NOW);
        drop(state.touch(digest(3)));
        assert_eq!(state.victims(1000, Among::All), [4, 2, 1, 3].map(digest));
    }

    #[test]
    fn only_what_is_named_or_pinned_stays() {
        let mut state = state(&[(1, 1), (2, 2), (3, 3)], &[2]);
        state.add_orphan(digest(9), 5);
        let (gone, bytes) = state.take_unnamed(&[digest(3)].into());
        assert_eq!((gone, bytes, state.bytes()), (vec![digest(1), digest(9)], 15, 20));
    }
}
