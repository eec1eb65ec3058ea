//! A download in progress: its file, and the room that it takes.
//!
//! * The size in the index decides only whether a package may be kept. Nothing is allocated or
//!   evicted for that size: room is made step by step, for bytes that have arrived
//!   ([`Incoming::reserve`]).
//! * A parked download gives back its reservation ([`Incoming::park`]). The bytes that it has
//!   received stay in its file as long as nothing else needs that room. They are discarded after
//!   all blobs that may be evicted, and then the download restarts from its first byte.
//! * A download without waiters ([`Incoming::abandon`]) is discarded before all blobs.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::MemfdFlags;

use super::blob::CacheError;
use super::claim::SpaceClaim;
use super::space::Space;
use super::write_budget::Announced;
use crate::sys::is_full;

/// Room is made in steps of this many bytes.
pub(crate) const ROOM_STEP: u64 = 1 << 20;
const NO_WRITES: &str = "no more is to be written today (write-budget)";
/// Why a package is not kept that has no room.
const NO_ROOM: &str = "larger than the cache, or no space for it";

/// The medium that the bytes are written to.
#[derive(Debug)]
enum IncomingMedium {
    Disk(Announced),
    Memory,
}

/// Whether a parked download still has its received bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// All received bytes are still in the file.
    Whole,
    /// Other data needed the room: the received bytes are gone.
    Lost,
}

/// One download in progress. Dropping it gives all room back, and removes its file unless the file
/// was committed before.
#[derive(Debug)]
pub struct Incoming {
    space: Arc<Space>,
    file: Arc<File>,
    /// Size of the whole package in bytes, according to the index.
    size: u64,
    /// Bytes that have room, counted from the first one.
    room: u64,
    /// Path of the file, while the download may be kept.
    path: Option<PathBuf>,
    medium: IncomingMedium,
    claim: SpaceClaim,
    /// Number of this download among the parked ones, while it is parked.
    parked: Option<u64>,
    /// Why the download is not kept, where it has no path.
    pub(crate) why: &'static str,
}

impl Incoming {
    /// Creates a place for a download of `size` bytes: on the disk if all of it would fit there,
    /// otherwise in memory. Takes no room yet ([`Incoming::reserve`]), and evicts nothing.
    ///
    /// # Errors
    /// There is no room at all, or the directory cannot be written.
    pub(super) fn open(space: &Arc<Space>, size: u64) -> Result<Self, CacheError> {
        let budget = &space.blobs().budget;
        // Over the budget and too large for memory, the download goes to the disk anyway: a waiter
        // needs it.
        let announced = match budget.announce(size) {
            Some(announced) => announced,
            None => match Self::held(space, size, NO_WRITES) {
                Ok(incoming) => return Ok(incoming),
                Err(_) => budget.announce_anyway(size),
            },
        };
        match space.create(size, |file, path| Self::on_disk(space, file, path, (size, announced))) {
            Ok(incoming) => Ok(incoming),
            Err(error) if is_full(&error) => {
                tracing::warn!(%error, size, "no space for a download even after evicting; holding it in memory");
                Self::in_memory(space, size)
            }
            Err(error) => Err(CacheError::io("creating a file in", &space.blobs().directory.join("incoming"))(error)),
        }
    }

    /// Creates a place for `size` bytes in memory.
    ///
    /// # Errors
    /// The download would take too large a part of the available memory.
    pub(crate) fn in_memory(space: &Arc<Space>, size: u64) -> Result<Self, CacheError> {
        Self::held(space, size, NO_ROOM)
    }

    fn held(space: &Arc<Space>, size: u64, why: &'static str) -> Result<Self, CacheError> {
        let no_space = || CacheError::NoSpace { size, path: space.blobs().directory.clone() };
        space.check_memory(size).map_err(|_| no_space())?;
        let file = rustix::fs::memfd_create(c"binhostfs", MemfdFlags::CLOEXEC).map_err(|_| no_space())?;
        Ok(Self::new(space, file.into(), (size, IncomingMedium::Memory), why))
    }

    /// A download of `size` bytes into `file` at `path`, kept if they fit within the bound.
    fn on_disk(space: &Arc<Space>, file: File, path: PathBuf, (size, announced): (u64, Announced)) -> Self {
        let mut incoming = Self::new(space, file, (size, IncomingMedium::Disk(announced)), NO_ROOM);
        incoming.path = Some(path);
        incoming.claim_whole();
        incoming
    }

    fn new(space: &Arc<Space>, file: File, (size, medium): (u64, IncomingMedium), why: &'static str) -> Self {
        let (space, file, claim) = (Arc::clone(space), Arc::new(file), SpaceClaim::default());
        Self { space, file, size, room: 0, path: None, medium, claim, parked: None, why }
    }

    /// A new descriptor of the file, through which the bytes are written and verified.
    ///
    /// # Errors
    /// The process has no more descriptors.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Makes room for the bytes up to `upto`, which have arrived: evicts where necessary, and
    /// allocates the disk space.
    ///
    /// # Errors
    /// There is no room ([`io::ErrorKind::StorageFull`] and the like).
    pub fn reserve(&mut self, upto: u64) -> io::Result<()> {
        let upto = upto.checked_next_multiple_of(ROOM_STEP).unwrap_or(upto).min(self.size);
        let Some(more) = upto.checked_sub(self.room).filter(|more| *more > 0) else { return Ok(()) };
        match self.medium {
            IncomingMedium::Memory => self.space.check_memory(self.size - self.room)?,
            IncomingMedium::Disk(_) => {
                if self.path.is_some() && !self.space.grow(more) {
                    self.keep_no_longer();
                } else if self.path.is_some() {
                    self.claim.reserved += more;
                }
                let promised = self.space.allocate(&self.file, self.room, more)?;
                self.claim(SpaceClaim { coming: self.size - upto, promised, ..self.claim });
            }
        }
        self.room = upto;
        Ok(())
    }

    /// Starts writing the first `received` bytes to the disk, so that the fsync at the end is
    /// short. Does nothing for files in memory, and where the system has no such call.
    pub fn start_writeback(&mut self, received: u64) {
        let IncomingMedium::Disk(announced) = &mut self.medium else { return };
        announced.wrote(received);
        if self.claim.promised > 0 {
            self.claim(SpaceClaim { promised: 0, ..self.claim });
        }
        if self.path.is_none() {
            return;
        }
        let length = i64::try_from(received).unwrap_or(i64::MAX);
        // SAFETY: the descriptor is open for as long as `self`; the call only starts input and
        // output on the file.
        unsafe {
            libc::sync_file_range(self.file.as_raw_fd(), 0, length, libc::SYNC_FILE_RANGE_WRITE);
        }
    }

    /// Discards the room of the received bytes: the download restarts from its first byte.
    pub fn restart(&mut self) {
        if let IncomingMedium::Disk(_) = self.medium {
            self.claim(SpaceClaim { reserved: 0, coming: self.size, promised: 0, ..self.claim });
        }
        self.room = 0;
    }

    /// Gives back all room but that of the `received` bytes in the file, which stay as long as
    /// nothing else needs it.
    pub fn park(&mut self, received: u64) {
        let IncomingMedium::Disk(announced) = &mut self.medium else { return };
        announced.withdraw();
        // Frees the space behind the last byte; where that fails, at most one step stays allocated.
        drop(self.file.set_len(received));
        self.room = received;
        let mut state = self.space.blobs().state();
        state.claims.replace(self.claim, SpaceClaim::default());
        self.claim = SpaceClaim::default();
        // A download that is not kept does not count within the bound.
        self.parked = self.path.is_some().then(|| state.parked.park(&self.file, received));
    }

    /// Parks the download, if it is not parked yet, and marks it as the first to be discarded: it
    /// has no waiters. Returns `false` if it is not in the cache, or if its room was needed
    /// already.
    pub fn abandon(&mut self, received: u64) -> bool {
        if self.path.is_some() && self.parked.is_none() {
            self.park(received);
        }
        self.parked.is_some_and(|number| self.space.blobs().state().parked.abandon(number))
    }

    /// Continues a parked download.
    pub fn resume(&mut self) -> Resumed {
        let IncomingMedium::Disk(announced) = &mut self.medium else { return Resumed::Whole };
        if let Some(number) = self.parked.take()
            && !self.space.blobs().state().parked.unpark(number)
        {
            return Resumed::Lost;
        }
        announced.renew();
        self.claim_whole();
        Resumed::Whole
    }

    /// Path of the file, if the download may be kept.
    pub(crate) fn kept_path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Claims the whole size and the room that the download has. A download that does not fit
    /// within the bound is not kept.
    fn claim_whole(&mut self) {
        let coming = self.size - self.room.min(self.size);
        let kept = SpaceClaim { expected: self.size, reserved: self.room, coming, promised: 0 };
        let bound = self.space.evictor.limits().bound;
        let fits = {
            let mut state = self.space.blobs().state();
            // Pinned blobs are not evicted for a download.
            let taken = [self.size, state.pinned_bytes()].into_iter().fold(state.claims.expected, u64::saturating_add);
            let fits = self.path.is_some() && taken <= bound;
            let claim = if fits { kept } else { SpaceClaim { coming, ..SpaceClaim::default() } };
            state.claims.replace(self.claim, claim);
            self.claim = claim;
            fits
        };
        if !fits {
            self.keep_no_longer();
        }
    }

    /// Continues the download in a file without a name, which the kernel frees at the last close.
    fn keep_no_longer(&mut self) {
        self.path.take().iter().for_each(|path| remove(path));
        self.claim(SpaceClaim { expected: 0, reserved: 0, ..self.claim });
        self.why = NO_ROOM;
    }

    fn claim(&mut self, claim: SpaceClaim) {
        self.space.blobs().state().claims.replace(self.claim, claim);
        self.claim = claim;
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // A committed file was renamed: then this path no longer exists.
        self.path.take().iter().for_each(|path| remove(path));
        let mut state = self.space.blobs().state();
        state.claims.replace(self.claim, SpaceClaim::default());
        if let Some(number) = self.parked {
            state.parked.unpark(number);
        }
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => (),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a download cannot be removed from the cache directory")
        }
    }
}
