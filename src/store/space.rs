//! Room for what comes in: the bound, the disk, and what to do when neither has any.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, MemfdFlags};

use crate::index::Sha256Digest;

use super::incoming::Incoming;
use super::{Store, StoreError};

/// Of the memory that is available, the part that one package may take when the disk is full.
const MEMORY_SHARE: u64 = 4;

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
        let keep = size <= self.bound && self.reserve(size);
        match self.on_disk(size, keep) {
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
        let no_space = || StoreError::NoSpace { size, path: self.directory.clone() };
        if size > available_memory() / MEMORY_SHARE {
            return Err(no_space());
        }
        let file = rustix::fs::memfd_create(c"binhostfs", MemfdFlags::CLOEXEC).map_err(|_| no_space())?;
        Ok(Incoming::unkept(self, file.into()))
    }

    /// Evicts until `bytes` more are free on the disk, where evicting can do that at all. For a write that found no space.
    #[must_use]
    pub fn make_room(&self, bytes: u64) -> bool {
        let free = free_space(&self.directory).unwrap_or_default();
        let missing = bytes.saturating_sub(free);
        if self.state().bytes() < missing {
            return false;
        }
        self.evict(missing.max(1)) > 0
    }

    /// Gives back what an [`Incoming`] reserved.
    pub(super) fn unreserve(&self, bytes: u64) {
        let mut state = self.state();
        state.reserved = state.reserved.saturating_sub(bytes);
    }

    /// Evicts whatever is over `bound`.
    pub(super) fn shrink_to(&self, bound: u64) {
        let over = self.state().bytes().saturating_sub(bound);
        if over > 0 {
            self.evict(over);
        }
    }

    /// Reserves `size` bytes within the bound. `false`: downloads in progress take too much of it.
    fn reserve(&self, size: u64) -> bool {
        let over = {
            let mut state = self.state();
            if state.reserved.saturating_add(size) > self.bound {
                return false;
            }
            state.reserved += size;
            state.bytes().saturating_add(state.reserved).saturating_sub(self.bound)
        };
        if over > 0 {
            self.evict(over);
        }
        true
    }

    /// Evicts at least `bytes` where there is as much; how many bodies went.
    fn evict(&self, bytes: u64) -> usize {
        let victims: Vec<Sha256Digest> = self.state().victims(bytes);
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

    fn on_disk(&self, size: u64, keep: bool) -> io::Result<Incoming<'_>> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join("incoming").join(format!("{number}.part"));
        let reserved = if keep { size } else { 0 };
        let create = || fs::File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let mut file = create();
        if file.as_ref().is_err_and(is_full) && self.make_room(size) {
            file = create();
        }
        // From here on, dropping it gives everything back.
        let incoming = match file {
            Ok(file) => Incoming::on_disk(self, file, path, keep, reserved),
            Err(error) => {
                self.unreserve(reserved);
                return Err(error);
            }
        };
        self.allocate(&incoming, size)?;
        Ok(incoming)
    }

    /// Takes the disk space now, so that its lack shows before the download and not in its middle.
    fn allocate(&self, incoming: &Incoming<'_>, size: u64) -> io::Result<()> {
        let fallocate = || match rustix::fs::fallocate(incoming.file.as_fd(), FallocateFlags::KEEP_SIZE, 0, size) {
            // Some file systems cannot do that.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => Ok(()),
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

fn free_space(path: &Path) -> io::Result<u64> {
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
