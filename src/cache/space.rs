//! Room for downloads: within the bound and on the disk, and in memory where neither has any.

use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::{fs, io};

use portable_atomic::AtomicU64;
use rustix::fs::{FallocateFlags, MemfdFlags};

use super::claim::{Awaited, Parked};
use super::eviction::Among;
use super::incoming::{Incoming, NO_ROOM};
use super::{Cache, CacheError, available_memory};
use crate::index::Sha256Digest;
use crate::sys::is_full;

/// One package may take 1/`MEMORY_SHARE` of the available memory when the disk is full.
const MEMORY_SHARE: u64 = 4;

/// Disk space that a download takes beside its blob, in bytes: directory, catalogue, the file
/// system's own data.
pub(crate) const SLACK: u64 = 256 << 10;
/// Without `min_free`, this much stays free for the catalogue as long as blobs can be evicted for
/// it, in bytes: a full disk would make it unwritable.
const ROOM_OF_CATALOGUE: u64 = 2 << 20;
/// How many times to evict for the same space, because a file system may free space late.
const MAX_ROUNDS: usize = 2;
const NO_WRITES: &str = "no more is to be written today (write-budget)";

/// Whether the cache kept a verified blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// The blob is in the cache: its bytes durably, its record soon.
    Kept,
    /// The blob is transient, for this reason.
    Unkept(String),
}

/// Makes names in `incoming` unique within the process.
static NUMBER: AtomicU64 = AtomicU64::new(0);

impl Cache {
    /// Creates a place for a download of `size` bytes: on the disk if all of it would fit there,
    /// otherwise in memory. Takes no room yet ([`Incoming::reserve`]), and evicts nothing.
    ///
    /// # Errors
    /// There is no room at all, or the directory cannot be written.
    pub fn incoming(self: &Arc<Self>, size: u64) -> Result<Incoming, CacheError> {
        // Over the budget and too large for memory, the download goes to the disk anyway: a waiter
        // needs it.
        let announced = match self.announce(size) {
            Some(announced) => announced,
            None => match self.held_in_memory(size, NO_WRITES) {
                Ok(incoming) => return Ok(incoming),
                Err(_) => self.announce_anyway(size),
            },
        };
        // One at a time: two downloads must not count on the same free space.
        let _room = self.room.lock();
        let created = if self.disk_takes(size) { self.create() } else { Err(io::ErrorKind::StorageFull.into()) };
        match created {
            Ok((file, path)) => Ok(Incoming::on_disk(self, file, path, (size, announced))),
            Err(error) if is_full(&error) => {
                tracing::warn!(%error, size, "no space for a download even after evicting; holding it in memory");
                self.in_memory(size)
            }
            Err(error) => Err(CacheError::io("creating a file in", &self.directory.join("incoming"))(error)),
        }
    }

    /// Creates a place for `size` bytes in memory.
    ///
    /// # Errors
    /// The download would take too large a part of the available memory.
    pub fn in_memory(self: &Arc<Self>, size: u64) -> Result<Incoming, CacheError> {
        self.held_in_memory(size, NO_ROOM)
    }

    fn held_in_memory(self: &Arc<Self>, size: u64, why: &'static str) -> Result<Incoming, CacheError> {
        let no_space = || CacheError::NoSpace { size, path: self.directory.clone() };
        self.check_memory(size).map_err(|_| no_space())?;
        let file = rustix::fs::memfd_create(c"binhostfs", MemfdFlags::CLOEXEC).map_err(|_| no_space())?;
        Ok(Incoming::in_memory(self, file.into(), size, why))
    }

    /// Whether `bytes` more may be held in memory.
    pub(crate) fn check_memory(&self, bytes: u64) -> io::Result<()> {
        let fits = bytes <= available_memory::available() / MEMORY_SHARE;
        if fits { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    /// Evicts until `bytes` more are free on the disk, if eviction can achieve that. For a write
    /// that found no space.
    #[must_use]
    pub fn make_room(&self, bytes: u64) -> bool {
        let free = free_space(&self.directory).unwrap_or_default();
        let missing = bytes.saturating_sub(free);
        if self.state().unpinned_bytes() < missing {
            return false;
        }
        self.evict(missing.max(1), Among::Unpinned) > 0
    }

    /// Whether the disk can take `size` bytes, if need be after evicting, with `min_free` left.
    /// Counts what downloads in progress have still to receive. Changes nothing.
    pub(crate) fn disk_takes(&self, size: u64) -> bool {
        let min_free = self.limits().min_free;
        let (coming, could_go) = {
            let state = self.state();
            let coming = state.claims.coming.saturating_add(state.claims.promised);
            (coming, if min_free == 0 { state.unpinned_bytes() } else { state.spare_bytes() })
        };
        let slack = if min_free == 0 { 0 } else { SLACK };
        let wanted = [size, coming, slack].into_iter().fold(min_free, u64::saturating_add);
        // If the free space is unknown, the write itself shows whether there is room.
        free_space(&self.directory).map_or(true, |free| wanted.saturating_sub(free) <= could_go)
    }

    /// Whether `more` bytes can be written now with `min_free` left; evicts for that if necessary.
    fn has_room(&self, more: u64) -> bool {
        let min_free = self.limits().min_free;
        let (promised, spare) = {
            let state = self.state();
            (state.claims.promised, state.spare_bytes())
        };
        let slack = if min_free == 0 { ROOM_OF_CATALOGUE } else { SLACK };
        let wanted = [more, promised, slack].into_iter().fold(min_free, u64::saturating_add);
        let has_room = match free_space(&self.directory) {
            // Evicting all spare blobs would not be enough: then none is evicted.
            Ok(free) if wanted.saturating_sub(free) > spare => false,
            Ok(_) => self.free_up(wanted),
            Err(_) => true,
        };
        // Without `min_free`, the write itself shows whether there is room.
        has_room || min_free == 0
    }

    /// Evicts until `wanted` bytes of the disk are free, or until no eviction would free any.
    /// Returns whether they are free.
    fn free_up(&self, wanted: u64) -> bool {
        for _ in 0..MAX_ROUNDS {
            let missing = wanted.saturating_sub(free_space(&self.directory).unwrap_or(u64::MAX));
            if missing == 0 {
                return true;
            }
            if self.evict(missing, Among::Spare) == 0 {
                break;
            }
        }
        free_space(&self.directory).is_ok_and(|free| free >= wanted)
    }

    /// Evicts if less than `min_free` is free on the disk, whichever program filled it. The caller
    /// repeats this periodically.
    pub fn keep_free(&self) {
        let min_free = self.limits().min_free;
        if min_free == 0 || free_space(&self.directory).is_ok_and(|free| free >= min_free) {
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
            let state = self.state();
            state.bytes().saturating_add(state.parked_bytes()).saturating_sub(bound)
        };
        if over == 0 {
            return;
        }
        let before = self.state().pinned_bytes();
        self.evict(over, Among::All);
        let gone = before.saturating_sub(self.state().pinned_bytes());
        if gone > 0 {
            tracing::warn!(
                "cache-size ({bound} bytes) is less than what is pinned ({before} bytes): {gone} bytes of that were removed. They \
                 stay pinned, and are kept again once they are fetched and there is room: raise cache-size, or `binhostfs pin \
                 --remove` some"
            );
        }
    }

    /// Reserves `more` bytes within the bound, and evicts for them. Returns `false` if pinned blobs
    /// and other downloads take too much of the bound.
    pub(crate) fn grow(&self, more: u64) -> bool {
        let bound = self.limits().bound;
        let over = {
            let mut state = self.state();
            let taken = state.claims.reserved.saturating_add(more);
            let used = [state.bytes(), state.parked_bytes()].into_iter().fold(taken, u64::saturating_add);
            let over = used.saturating_sub(bound);
            // Pinned blobs are not evicted for a download.
            if over > 0 && state.pinned_bytes().saturating_add(taken) > bound {
                return false;
            }
            state.claims.reserved = taken;
            over
        };
        if over > 0 {
            self.evict(over, Among::Unpinned);
        }
        true
    }

    /// Evicts at least `bytes` if there are as many: first the bytes of parked downloads without
    /// waiters, then blobs, then the bytes of other parked downloads. Returns how many blobs and
    /// downloads lost their bytes.
    fn evict(&self, bytes: u64, among: Among) -> usize {
        self.classify_if_due();
        let (victims, parked) = {
            let mut state = self.state();
            let (mut parked, freed) = state.take_parked(bytes, Awaited::No);
            let bytes = bytes.saturating_sub(freed);
            let before = state.bytes();
            let victims: Vec<Sha256Digest> = state.victims(bytes, among);
            let freed = before.saturating_sub(state.bytes());
            parked.extend(state.take_parked(bytes.saturating_sub(freed), Awaited::Yes).0);
            (victims, parked)
        };
        self.remove_blobs(&victims);
        parked.iter().for_each(Parked::discard);
        victims.len() + parked.len()
    }

    /// Removes the records and files of blobs that `state` does not contain any more.
    pub(crate) fn remove_blobs(&self, digests: &[Sha256Digest]) {
        // Records first: a kill in between leaves orphans, never records without blobs that look
        // like damage.
        self.catalogue.remove(digests);
        for digest in digests {
            let path = self.blob_path(*digest);
            match fs::remove_file(&path) {
                Ok(()) => self.metrics.evicted.increase(),
                Err(error) => tracing::warn!(path = %path.display(), %error, "evicting a package"),
            }
        }
    }

    /// Creates an empty file for a download; returns it with its path.
    fn create(&self) -> io::Result<(fs::File, PathBuf)> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join("incoming").join(format!("{number}.part"));
        let create = || fs::File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = match create() {
            Err(error) if is_full(&error) && self.make_room(SLACK) => create(),
            other => other,
        };
        Ok((file?, path))
    }

    /// Allocates disk space for `more` bytes of `file` from byte `from` on, so that a full disk is
    /// found before they are written. Returns the bytes that the file system allocates only at the
    /// write.
    pub(crate) fn allocate(&self, file: &fs::File, from: u64, more: u64) -> io::Result<u64> {
        // One at a time: two downloads must not count on the same free space.
        let _room = self.room.lock();
        if !self.has_room(more) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let fallocate = || match rustix::fs::fallocate(file.as_fd(), FallocateFlags::KEEP_SIZE, from, more) {
            // Some file systems cannot allocate ahead.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => Ok(more),
            other => other.map(|()| 0).map_err(io::Error::from),
        };
        match fallocate() {
            Err(error) if is_full(&error) && self.make_room(more) => fallocate(),
            other => other,
        }
    }
}

pub(crate) fn free_space(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
