//! A download in progress: its file, and the room that it takes.
//!
//! * The size that an index names decides whether a package may be kept, and nothing else. Nothing is allocated or evicted for
//!   it: room is made step by step, for bytes that have arrived ([`Incoming::reserve`]).
//! * A parked download gives back what it reserved ([`Incoming::park`]). What it has received stays in its file as long as
//!   nothing else needs that room; it goes after the bodies that may be evicted, and the download begins anew then.
//! * Where nobody waits for it any more ([`Incoming::abandon`]), it goes before all bodies.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Store;
use super::db::write_budget::Announced;
use super::eviction::EvictionState;
use super::space::NO_ROOM;

/// Room is made for so many bytes at once.
pub const ROOM_STEP: u64 = 1 << 20;

/// What downloads in progress count for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Bytes in all of those that may be kept.
    pub(crate) expected: u64,
    /// Of these, bytes that there is room for within the bound.
    pub(crate) reserved: u64,
    /// Bytes that are still to be allocated on the disk.
    pub(crate) coming: u64,
    /// Bytes that the file system takes only when they are written.
    pub(crate) promised: u64,
}

impl Claim {
    /// Replaces the part `old` of it.
    fn replace(&mut self, old: Self, new: Self) {
        let change = |sum: &mut u64, old: u64, new: u64| *sum = sum.saturating_sub(old).saturating_add(new);
        change(&mut self.expected, old.expected, new.expected);
        change(&mut self.reserved, old.reserved, new.reserved);
        change(&mut self.coming, old.coming, new.coming);
        change(&mut self.promised, old.promised, new.promised);
    }
}

/// Where the bytes go.
#[derive(Debug)]
enum IncomingMedium {
    Disk(Announced),
    Memory,
}

/// Whether a parked download still has what it had received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// It has.
    Whole,
    /// Something else needed the room: it is of no use any more.
    Lost,
}

/// See the module's documentation. Everything is given back when it is dropped; its file is removed unless it was committed
/// before.
#[derive(Debug)]
pub struct Incoming {
    store: Arc<Store>,
    file: Arc<File>,
    /// Bytes in all, as the index says.
    size: u64,
    /// Bytes from the first one on that there is room for.
    room: u64,
    /// Where it is, while it may be kept.
    path: Option<PathBuf>,
    medium: IncomingMedium,
    claim: Claim,
    /// What it is called among the parked ones, while it is one.
    parked: Option<u64>,
    /// Why it is not kept, where it has no path.
    pub(crate) why: &'static str,
}

impl Incoming {
    /// For `size` bytes in `file` at `path`; kept if they fit within the bound.
    pub(crate) fn on_disk(store: &Arc<Store>, file: File, path: PathBuf, (size, announced): (u64, Announced)) -> Self {
        let mut incoming = Self::new(store, file, (size, IncomingMedium::Disk(announced)), NO_ROOM);
        incoming.path = Some(path);
        incoming.claim_whole();
        incoming
    }

    pub(crate) fn in_memory(store: &Arc<Store>, file: File, size: u64, why: &'static str) -> Self {
        Self::new(store, file, (size, IncomingMedium::Memory), why)
    }

    fn new(store: &Arc<Store>, file: File, (size, medium): (u64, IncomingMedium), why: &'static str) -> Self {
        let (store, file, claim) = (Arc::clone(store), Arc::new(file), Claim::default());
        Self { store, file, size, room: 0, path: None, medium, claim, parked: None, why }
    }

    /// The empty file, to be written and verified through.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Makes room for the bytes up to `upto`, which have arrived: evicts where that is needed, and takes the disk space.
    ///
    /// # Errors
    /// There is none ([`io::ErrorKind::StorageFull`] and the like).
    pub fn reserve(&mut self, upto: u64) -> io::Result<()> {
        let upto = upto.checked_next_multiple_of(ROOM_STEP).unwrap_or(upto).min(self.size);
        let Some(more) = upto.checked_sub(self.room).filter(|more| *more > 0) else { return Ok(()) };
        match self.medium {
            IncomingMedium::Memory => self.store.check_memory(self.size - self.room)?,
            IncomingMedium::Disk(_) => {
                if self.path.is_some() && !self.store.grow(more) {
                    self.keep_no_longer();
                } else if self.path.is_some() {
                    self.claim.reserved += more;
                }
                let promised = self.store.allocate(&self.file, self.room, more)?;
                self.claim(Claim { coming: self.size - upto, promised, ..self.claim });
            }
        }
        self.room = upto;
        Ok(())
    }

    /// Has the disk begin to write what was received, `received` bytes, so that making it durable at the end is short. For
    /// files in memory, and where the system cannot do it, nothing happens.
    pub fn start_writeback(&mut self, received: u64) {
        let IncomingMedium::Disk(announced) = &mut self.medium else { return };
        announced.wrote(received);
        if self.claim.promised > 0 {
            self.claim(Claim { promised: 0, ..self.claim });
        }
        if self.path.is_none() {
            return;
        }
        let length = i64::try_from(received).unwrap_or(i64::MAX);
        // SAFETY: the descriptor is open for as long as `self`; the call only starts input and output on the file.
        unsafe {
            libc::sync_file_range(self.file.as_raw_fd(), 0, length, libc::SYNC_FILE_RANGE_WRITE);
        }
    }

    /// What was received is not there any more: the body comes anew from its first byte.
    pub fn restart(&mut self) {
        if let IncomingMedium::Disk(_) = self.medium {
            self.claim(Claim { reserved: 0, coming: self.size, promised: 0, ..self.claim });
        }
        self.room = 0;
    }

    /// Gives back everything but the `received` bytes in the file; they stay for as long as nothing else needs the room.
    pub fn park(&mut self, received: u64) {
        let IncomingMedium::Disk(announced) = &mut self.medium else { return };
        announced.withdraw();
        // What was allocated behind the last byte; where that fails it stays allocated, a step at the most.
        drop(self.file.set_len(received));
        self.room = received;
        let mut state = self.store.state();
        state.claims.replace(self.claim, Claim::default());
        self.claim = Claim::default();
        // What is not kept does not count within the bound.
        self.parked = self.path.is_some().then(|| state.park(&self.file, received));
    }

    /// Parks it, if it is not yet, and has it go before everything else when room is needed: nobody waits for it. `false`: it
    /// is not in the cache, or its room was needed already.
    pub fn abandon(&mut self, received: u64) -> bool {
        if self.path.is_some() && self.parked.is_none() {
            self.park(received);
        }
        self.parked.is_some_and(|number| self.store.state().abandon(number))
    }

    /// Goes on with a parked download.
    pub fn resume(&mut self) -> Resumed {
        let IncomingMedium::Disk(announced) = &mut self.medium else { return Resumed::Whole };
        if let Some(number) = self.parked.take()
            && !self.store.state().unpark(number)
        {
            return Resumed::Lost;
        }
        announced.renew();
        self.claim_whole();
        Resumed::Whole
    }

    /// Where it is, if it may be kept.
    pub(crate) fn kept_path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Claims its size and the room that it has. Where that does not fit within the bound it is not kept.
    fn claim_whole(&mut self) {
        let coming = self.size - self.room.min(self.size);
        let kept = Claim { expected: self.size, reserved: self.room, coming, promised: 0 };
        let bound = self.store.limits().bound;
        let fits = {
            let mut state = self.store.state();
            // What is pinned does not go for something else.
            let taken = [self.size, state.pinned_bytes()].into_iter().fold(state.claims.expected, u64::saturating_add);
            let fits = self.path.is_some() && taken <= bound;
            let claim = if fits { kept } else { Claim { coming, ..Claim::default() } };
            state.claims.replace(self.claim, claim);
            self.claim = claim;
            fits
        };
        if !fits {
            self.keep_no_longer();
        }
    }

    /// It goes on without a name, and is gone when the last one closes it.
    fn keep_no_longer(&mut self) {
        self.path.take().iter().for_each(|path| remove(path));
        self.claim(Claim { expected: 0, reserved: 0, ..self.claim });
        self.why = NO_ROOM;
    }

    fn claim(&mut self, claim: Claim) {
        self.store.state().claims.replace(self.claim, claim);
        self.claim = claim;
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // After a commit the name is gone already.
        self.path.take().iter().for_each(|path| remove(path));
        let mut state = self.store.state();
        state.claims.replace(self.claim, Claim::default());
        if let Some(number) = self.parked {
            state.unpark(number);
        }
    }
}

/// What a parked download has received.
#[derive(Debug)]
pub(crate) struct Parked {
    file: Arc<File>,
    bytes: u64,
    /// Whether somebody waits for it.
    awaited: Awaited,
}

/// Whether somebody waits for a parked download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    Yes,
    No,
}

impl Parked {
    /// Gives the disk its space back. The file itself goes with its download.
    pub(crate) fn discard(&self) {
        if let Err(error) = self.file.set_len(0) {
            tracing::debug!(%error, "giving back the space of a parked download");
        }
    }
}

impl EvictionState {
    /// Bytes of parked downloads.
    pub(crate) fn parked_bytes(&self) -> u64 {
        self.parked.values().map(|parked| parked.bytes).sum()
    }

    /// Takes out parked downloads of at least `bytes`, where there are as many, the oldest first; and how many bytes they have.
    pub(crate) fn take_parked(&mut self, bytes: u64, awaited: Awaited) -> (Vec<Parked>, u64) {
        let mut freed = 0_u64;
        let enough = |(_, parked): &(&u64, &Parked)| {
            let wanted = freed < bytes;
            freed = freed.saturating_add(if wanted { parked.bytes } else { 0 });
            wanted
        };
        let all = self.parked.iter().filter(|(_, parked)| parked.awaited == awaited);
        let taken: Vec<u64> = all.take_while(enough).map(|(number, _)| *number).collect();
        let taken = taken.iter().filter_map(|number| self.parked.remove(number)).collect();
        (taken, freed)
    }

    /// Nobody waits for it any more. `false`: it was taken.
    fn abandon(&mut self, number: u64) -> bool {
        self.parked.get_mut(&number).map(|parked| parked.awaited = Awaited::No).is_some()
    }

    fn park(&mut self, file: &Arc<File>, bytes: u64) -> u64 {
        self.last_parked += 1;
        self.parked.insert(self.last_parked, Parked { file: Arc::clone(file), bytes, awaited: Awaited::Yes });
        self.last_parked
    }

    /// `false`: it was taken.
    fn unpark(&mut self, number: u64) -> bool {
        self.parked.remove(&number).is_some()
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => (),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        Err(error) => tracing::warn!(path = %path.display(), %error, "removing a download"),
    }
}
