//! Room for what comes in: the bound, the disk, and what to do when neither has any.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, MemfdFlags};

use crate::index::Sha256Digest;

use super::budget::Announced;
use super::incoming::Incoming;
use super::lru_state::Among;
use super::{Store, StoreError};

/// Of the memory that is available, the part that one package may take when the disk is full.
const MEMORY_SHARE: u64 = 4;

/// Beside a body, what a download takes of the disk: its directory, the catalogue, what the file system keeps for itself.
pub(super) const SLACK: u64 = 256 << 10;
/// A file system may give space back late: how often to evict for the same.
const MAX_ROUNDS: usize = 2;
const NO_ROOM: &str = "larger than the cache, or no space for it";
const NO_WRITES: &str = "no more is to be written today (write-budget)";

/// Where a verified body went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// In the cache; the body durably, and its record soon.
    Kept,
    /// Only served; why.
    Unkept(String),
}

/// Makes names in `incoming` unique within the process.
static NUMBER: AtomicU64 = AtomicU64::new(0);

impl Store {
    /// A place for a download of `size` bytes, with its space reserved: within the bound where it fits, else on the disk
    /// for as long as it is open, else in memory.
    ///
    /// # Errors
    /// There is no room at all, or the directory cannot be written.
    pub fn incoming(&self, size: u64) -> Result<Incoming<'_>, StoreError> {
        // What does not fit there has to be written all the same: somebody waits for it.
        let announced = match self.announce(size) {
            Some(announced) => announced,
            None => match self.held_in_memory(size, NO_WRITES) {
                Ok(incoming) => return Ok(incoming),
                Err(_) => self.announce_anyway(size),
            },
        };
        let keep = size <= self.limits().bound && self.reserve(size);
        // One at a time: what one of them finds free the others must not take.
        let _room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let found = if self.has_room(size) {
            self.on_disk(size, keep, announced)
        } else {
            self.unreserve(if keep { size } else { 0 });
            Err(io::ErrorKind::StorageFull.into())
        };
        match found {
            Ok(incoming) => Ok(incoming),
            Err(error) if is_full(&error) => {
                tracing::warn!(%error, size, "no space for a download even after evicting; holding it in memory");
                self.in_memory(size)
            }
            Err(error) => Err(StoreError::io("creating a file in", &self.directory.join("incoming"))(error)),
        }
    }

    /// A place for `size` bytes in memory.
    ///
    /// # Errors
    /// It would take too large a part of what is available.
    pub fn in_memory(&self, size: u64) -> Result<Incoming<'_>, StoreError> {
        self.held_in_memory(size, NO_ROOM)
    }

    fn held_in_memory(&self, size: u64, why: &'static str) -> Result<Incoming<'_>, StoreError> {
        let no_space = || StoreError::NoSpace { size, path: self.directory.clone() };
        if size > available_memory() / MEMORY_SHARE {
            return Err(no_space());
        }
        let file = rustix::fs::memfd_create(c"binhostfs", MemfdFlags::CLOEXEC).map_err(|_| no_space())?;
        Ok(Incoming::in_memory(self, file.into(), why))
    }

    /// Evicts until `bytes` more are free on the disk, where evicting can do that at all. For a write that found no space.
    #[must_use]
    pub fn make_room(&self, bytes: u64) -> bool {
        let free = free_space(&self.directory).unwrap_or_default();
        let missing = bytes.saturating_sub(free);
        if self.state().unpinned_bytes() < missing {
            return false;
        }
        self.evict(missing.max(1), Among::Unpinned) > 0
    }

    /// Whether `size` bytes can be written and `min_free` is left; makes room for that if it can.
    fn has_room(&self, size: u64) -> bool {
        let min_free = self.limits().min_free;
        if min_free == 0 {
            return true;
        }
        let (promised, spare) = {
            let state = self.state();
            (state.promised, state.spare_bytes())
        };
        let wanted = [size, promised, SLACK].into_iter().fold(min_free, u64::saturating_add);
        let missing = |free: u64| wanted.saturating_sub(free);
        match free_space(&self.directory) {
            // What is enough for nobody stays.
            Ok(free) if missing(free) > spare => false,
            Ok(_) => self.free_up(wanted),
            // Who writes finds out.
            Err(_) => true,
        }
    }

    /// Evicts until `wanted` bytes of the disk are free, or nothing is left that evicting would free. `false`: they are not.
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

    /// Evicts if less than `min_free` is free on the disk, whoever took it. To be called now and then.
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

    /// Gives back what an [`Incoming`] reserved.
    pub(super) fn unreserve(&self, bytes: u64) {
        let mut state = self.state();
        state.reserved = state.reserved.saturating_sub(bytes);
    }

    /// Evicts whatever is over `bound`.
    pub(super) fn shrink_to(&self, bound: u64) {
        let over = self.state().bytes().saturating_sub(bound);
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

    /// Reserves `size` bytes within the bound. `false`: downloads in progress take too much of it.
    fn reserve(&self, size: u64) -> bool {
        let over = {
            let bound = self.limits().bound;
            let mut state = self.state();
            let taken = state.reserved.saturating_add(size);
            if taken > bound {
                return false;
            }
            let over = state.bytes().saturating_add(taken).saturating_sub(bound);
            // What is pinned does not go for something else.
            if over > 0 && state.pinned_bytes().saturating_add(taken) > bound {
                return false;
            }
            state.reserved = taken;
            over
        };
        if over > 0 {
            self.evict(over, Among::Unpinned);
        }
        true
    }

    /// Evicts at least `bytes` where there is as much; how many bodies went.
    fn evict(&self, bytes: u64, among: Among) -> usize {
        self.rank_if_due();
        let victims: Vec<Sha256Digest> = self.state().victims(bytes, among);
        self.remove_bodies(&victims);
        victims.len()
    }

    /// Removes bodies that `state` does not have any more.
    pub(super) fn remove_bodies(&self, digests: &[Sha256Digest]) {
        // Records first: a kill in between leaves orphans, never records without bodies that look like damage.
        self.catalogue.remove(digests);
        for digest in digests {
            let path = self.body_path(*digest);
            match fs::remove_file(&path) {
                Ok(()) => self.metrics.evicted.increase(),
                Err(error) => tracing::warn!(path = %path.display(), %error, "evicting a package"),
            }
        }
    }

    fn on_disk<'a>(&'a self, size: u64, keep: bool, announced: Announced<'a>) -> io::Result<Incoming<'a>> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join("incoming").join(format!("{number}.part"));
        let reserved = if keep { size } else { 0 };
        let create = || fs::File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let mut file = create();
        if file.as_ref().is_err_and(is_full) && self.make_room(size) {
            file = create();
        }
        // From here on, dropping it gives everything back.
        let mut incoming = match file {
            Ok(file) => Incoming::on_disk(file, (path, keep), reserved, announced),
            Err(error) => {
                self.unreserve(reserved);
                return Err(error);
            }
        };
        self.allocate(&mut incoming, size)?;
        Ok(incoming)
    }

    /// Takes the disk space now, so that its lack shows before the download and not in its middle.
    fn allocate(&self, incoming: &mut Incoming<'_>, size: u64) -> io::Result<()> {
        let mut fallocate = || match rustix::fs::fallocate(incoming.file.as_fd(), FallocateFlags::KEEP_SIZE, 0, size) {
            // Some file systems cannot do that.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {
                incoming.promise(size);
                Ok(())
            }
            other => other.map_err(io::Error::from),
        };
        match fallocate() {
            Err(error) if is_full(&error) && self.make_room(size) => fallocate(),
            other => other,
        }
    }
}

/// No space left, quota, or larger than the file system can hold.
pub(super) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

pub(super) fn free_space(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Bytes that programs can still take, as the kernel estimates it.
fn available_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: u64 = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default();
    kib.saturating_mul(1024)
}
