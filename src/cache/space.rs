//! Room for downloads: within the bound and on the disk, and in memory where neither has any.

use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::{fs, io};

use parking_lot::Mutex;
use portable_atomic::AtomicU64;
use rustix::fs::FallocateFlags;

use super::available_memory;
use super::blob_files::BlobFiles;
use super::eviction::Among;
use super::evictor::Evictor;
use crate::sys::is_full;

/// One package may take 1/`MEMORY_SHARE` of the available memory when the disk is full.
const MEMORY_SHARE: u64 = 4;

/// File systems in memory: tmpfs and ramfs. Source: linux/magic.h.
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// Disk space that a download takes beside its blob, in bytes: directory, catalogue, the file
/// system's own data.
pub(crate) const SLACK: u64 = 256 << 10;
/// Without `min_free`, this much stays free for the catalogue as long as blobs can be evicted for
/// it, in bytes: a full disk would make it unwritable.
const ROOM_OF_CATALOGUE: u64 = 2 << 20;

/// Why a package would not be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unkeepable {
    /// The package is larger than the bound.
    #[error("a package that is larger than the cache is not kept; a larger cache-size helps")]
    TooLarge,
    /// All other blobs that could be evicted are pinned.
    #[error("there is no room for it beside what is pinned; a larger cache-size helps, or `binhostfs pin --remove`")]
    Pinned,
    /// The write budget of today is used up.
    #[error(
        "today's write-budget is used up, or less is left than it takes: it would not be kept; there is more after midnight \
         (UTC), or with a larger write-budget"
    )]
    Budget,
    /// The disk is full.
    #[error("the cache's disk is full (min-free), and it would not be kept; free some space")]
    Disk,
}

/// Room on the cache's disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskRoom {
    /// Size of the file system.
    pub(crate) total: u64,
    /// Free bytes beyond `min_free`, with those that eviction can free.
    pub(crate) free: u64,
    /// Available memory, if the file system is in memory.
    pub(crate) memory: Option<u64>,
}

/// Makes names in `incoming` unique within the process.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Room within the bound and on the disk, and in memory.
#[derive(Debug)]
pub(crate) struct Space {
    pub(super) evictor: Arc<Evictor>,
    /// Held while a download checks and takes free space on the disk.
    room: Mutex<()>,
}

impl Space {
    pub(super) fn new(evictor: &Arc<Evictor>) -> Self {
        Self { evictor: Arc::clone(evictor), room: Mutex::new(()) }
    }

    pub(super) fn blobs(&self) -> &BlobFiles {
        &self.evictor.blobs
    }

    /// Whether `bytes` more may be held in memory.
    pub(crate) fn check_memory(&self, bytes: u64) -> io::Result<()> {
        let fits = bytes <= self.memory_share();
        if fits { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    /// Room on the cache's disk. `None`: it is not known.
    pub(crate) fn disk_room(&self) -> Option<DiskRoom> {
        let stat = rustix::fs::statfs(&self.blobs().directory).ok()?;
        // The type of these fields depends on the machine.
        let bytes = |blocks: u64| blocks.saturating_mul(u64::try_from(stat.f_bsize).unwrap_or_default());
        let evictable = self.blobs().state().unpinned_bytes();
        let free = bytes(stat.f_bavail).saturating_add(evictable).saturating_sub(self.evictor.limits().min_free);
        let in_memory = IN_MEMORY.iter().any(|magic| i128::from(*magic) == i128::from(stat.f_type));
        Some(DiskRoom { total: bytes(stat.f_blocks), free, memory: in_memory.then(available_memory::available) })
    }

    /// Evicts until `bytes` are free on the disk, if that is necessary and eviction can achieve it.
    /// For a write that is not a package's. Returns whether anything was evicted.
    pub(crate) fn free_for(&self, bytes: u64) -> bool {
        self.evictor.free_space().is_ok_and(|free| free < bytes) && self.make_room(bytes)
    }

    /// Bytes that one package or index may take in memory when the disk is full.
    pub(crate) fn memory_share(&self) -> u64 {
        available_memory::available() / MEMORY_SHARE
    }

    /// Evicts until `bytes` more are free on the disk, if eviction can achieve that. For a write
    /// that found no space.
    #[must_use]
    pub(crate) fn make_room(&self, bytes: u64) -> bool {
        let free = self.evictor.free_space().unwrap_or_default();
        let missing = bytes.saturating_sub(free);
        if self.blobs().state().unpinned_bytes() < missing {
            return false;
        }
        self.evictor.evict(missing.max(1), Among::Unpinned) > 0
    }

    /// Whether the disk can take `size` bytes, if need be after evicting, with `min_free` left.
    /// Counts what downloads in progress have still to receive. Changes nothing.
    fn disk_takes(&self, size: u64) -> bool {
        let min_free = self.evictor.limits().min_free;
        let (coming, could_go) = {
            let state = self.blobs().state();
            let coming = state.claims.coming.saturating_add(state.claims.promised);
            (coming, if min_free == 0 { state.unpinned_bytes() } else { state.spare_bytes() })
        };
        let slack = if min_free == 0 { 0 } else { SLACK };
        let wanted = [size, coming, slack].into_iter().fold(min_free, u64::saturating_add);
        // If the free space is unknown, the write itself shows whether there is room.
        self.evictor.free_space().map_or(true, |free| wanted.saturating_sub(free) <= could_go)
    }

    /// Whether `more` bytes can be written now with `min_free` left; evicts for that if necessary.
    fn has_room(&self, more: u64) -> bool {
        let min_free = self.evictor.limits().min_free;
        let (promised, spare) = {
            let state = self.blobs().state();
            (state.claims.promised, state.spare_bytes())
        };
        let slack = if min_free == 0 { ROOM_OF_CATALOGUE } else { SLACK };
        let wanted = [more, promised, slack].into_iter().fold(min_free, u64::saturating_add);
        let has_room = match self.evictor.free_space() {
            // Evicting all spare blobs would not be enough: then none is evicted.
            Ok(free) if wanted.saturating_sub(free) > spare => false,
            Ok(_) => self.evictor.free_up(wanted),
            Err(_) => true,
        };
        // Without `min_free`, the write itself shows whether there is room.
        has_room || min_free == 0
    }

    /// Reserves `more` bytes within the bound, and evicts for them. Returns `false` if pinned blobs
    /// and other downloads take too much of the bound.
    pub(crate) fn grow(&self, more: u64) -> bool {
        let bound = self.evictor.limits().bound;
        let over = {
            let mut state = self.blobs().state();
            let taken = state.claims.reserved.saturating_add(more);
            let used = [state.bytes(), state.parked.bytes()].into_iter().fold(taken, u64::saturating_add);
            let over = used.saturating_sub(bound);
            // Pinned blobs are not evicted for a download.
            if over > 0 && state.pinned_bytes().saturating_add(taken) > bound {
                return false;
            }
            state.claims.reserved = taken;
            over
        };
        if over > 0 {
            self.evictor.evict(over, Among::Unpinned);
        }
        true
    }

    /// Creates an empty file for a download of `size` bytes, and passes it with its path to
    /// `claim`. Evicts nothing but for the file itself.
    ///
    /// # Errors
    /// There is no room ([`io::ErrorKind::StorageFull`] and the like), or the directory cannot be
    /// written.
    pub(crate) fn create<T>(&self, size: u64, claim: impl FnOnce(fs::File, PathBuf) -> T) -> io::Result<T> {
        // One at a time, until the size is claimed: two downloads must not count on the same free
        // space.
        let _room = self.room.lock();
        if !self.disk_takes(size) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.blobs().directory.join("incoming").join(format!("{number}.part"));
        let create = || fs::File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = match create() {
            Err(error) if is_full(&error) && self.make_room(SLACK) => create(),
            other => other,
        };
        Ok(claim(file?, path))
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

    /// Checks whether a package of `size` bytes would be kept if it alone were fetched now. Changes
    /// nothing.
    ///
    /// # Errors
    /// The package would not be kept, for this reason.
    pub(crate) fn would_keep(&self, size: u64) -> Result<(), Unkeepable> {
        let limits = self.evictor.limits();
        if size > limits.bound {
            return Err(Unkeepable::TooLarge);
        }
        if !self.blobs().budget.may_write(size) {
            return Err(Unkeepable::Budget);
        }
        let (over, pinned) = {
            let state = self.blobs().state();
            (state.bytes().saturating_add(size) > limits.bound, state.pinned_bytes())
        };
        if over && pinned.saturating_add(size) > limits.bound {
            return Err(Unkeepable::Pinned);
        }
        if self.disk_takes(size) { Ok(()) } else { Err(Unkeepable::Disk) }
    }
}
