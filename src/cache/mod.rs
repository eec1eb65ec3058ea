//! Verified blobs and their catalogue, within a bound.
//!
//! ```text
//! <cache-dir>/v1/
//!   lock              held while a daemon uses the directory; its pid
//!   catalogue/        sled: entry -> body, and what is known of each body
//!   bodies/ab/cdef…   verified bodies, named by SHA-256
//!   incoming/         downloads in progress; emptied at start
//!   index/            the indexes as received (`upstream`)
//!   generations/      what Portage reads (`daemon`)
//! ```
//!
//! * A body gets here only as a [`Verified`]. Order of a commit: written -> verified -> rename -> fsync -> catalogue ->
//!   its fsync, which several commits may share. A kill or a power cut at any point leaves at worst an orphan: a body without a record, which is proved
//!   anew before it is used again ([`Store::unproved`]).
//! * A record says how its body was proved. A body is served only where that meets the policy of who asks, and the keys as
//!   they are now; else it is proved anew, like an orphan ([`Store::unproved`]).
//! * A record is believed only as long as the body has the size and modification time that it had when it was committed;
//!   anything else is a miss, never wrong bytes.
//! * What the disk turns without a trace is found by reading bodies again ([`Store::scrub`]), and dropped.
//! * Damage to the catalogue is a miss too: it is set aside and started anew, and the bodies become orphans.
//! * `bound` holds for bodies and for downloads together. Bodies that someone has open are evicted last; an open body stays
//!   readable after its eviction.
//! * A download gets room step by step, as its bytes arrive (`incoming`): a size that only the index names evicts nothing.
//! * `min_free` bytes of the disk stay free, as far as it is up to the cache: a download goes to the disk only where all of
//!   it would fit, and each step takes its space before it is written. Where somebody else fills the disk, bodies go until
//!   it holds or none is left.
//! * No space: bodies go in the order of `eviction_class`; else the download is kept in memory only (if it is small) or refused.
//! * What is pinned (`db::pins`) goes only where the bound itself is made smaller than that.
//! * Nothing is written while nothing is fetched, but times of last use, batched. A budget of writes may end a day's
//!   keeping (`db::write_budget`).
//!
//! Lock order: `adoptions`, `room`, `commits`, `ranked`, `state`. The catalogue has its own lock, taken last, and so have the limits.
//!
//! Not its job: what to fetch, and proving it.

mod admission;
mod blob_info;
mod db;
mod eviction;
mod eviction_class;
mod incoming;
mod limits;
mod memory;
mod recovery;
mod scrub;
mod space;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use crate::index::{AuxDigest, EntryId, Sha256Digest};
use crate::metrics::Metrics;
use crate::sys::seconds_now;
use crate::verify::{Assurance, Policy, Verified};

pub use admission::Unkeepable;
pub use blob_info::BlobInfo;
pub use db::build_history::{BuildKey, MAX_WITNESSES};
use db::catalogue::{BodyRecord, Catalogue};
pub use db::pins::{MAX_PINS, PIN_SHARE, Pin, PinError};
use eviction::EvictionState;
use eviction_class::EvictionClassifier;
pub use eviction_class::{EvictionClass, RANK_AGAIN, Ranks, WAITS};
pub use incoming::{Incoming, ROOM_STEP, Resumed};
pub use limits::Limits;
pub use recovery::{Removed, Unproved};
pub use scrub::{SCRUB_STEP, Scrub, Scrubbed};
pub use space::{Placement, is_full};

/// Version of the layout on disk.
pub const LAYOUT: &str = "v1";

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory of the cache.
    #[error("{attempted} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another daemon uses the directory.
    #[error("the cache directory {path} is in use by another binhostfs{pid}: each mount needs its own --cache-dir", path = path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// ` (pid N)`, where known.
        pid: String,
    },
    /// The catalogue could not be opened even after it was started anew.
    #[error("the catalogue {path} cannot be opened: {reason}", path = path.display())]
    Catalogue {
        /// Its directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// There is no room for a package.
    #[error("no space for {size} bytes in {path}, and too large to be held in memory", path = path.display())]
    NoSpace {
        /// Bytes wanted.
        size: u64,
        /// The cache directory.
        path: PathBuf,
    },
}

impl StoreError {
    pub(super) fn io(attempted: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { attempted, path, source }
    }
}

/// A verified body, open for reading. Stays readable when it is evicted.
#[derive(Debug, Clone)]
pub struct Blob {
    file: Arc<File>,
    size: u64,
    digest: Sha256Digest,
    values: AuxDigest,
    assurance: Assurance,
}

impl Blob {
    fn new(verified: Verified) -> Self {
        let (size, digest, assurance) = (verified.size(), verified.digest(), verified.assurance());
        let values = verified.aux_values().digest();
        Self { file: Arc::new(verified.into_file()), size, digest, values, assurance }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// SHA-256 of the whole body.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// What the package says of itself: an index has to say the same of it.
    #[must_use]
    pub fn aux_digest(&self) -> AuxDigest {
        self.values
    }

    /// How it was proved.
    #[must_use]
    pub fn assurance(&self) -> Assurance {
        self.assurance
    }
}

/// How full the cache is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of bodies on disk.
    pub bytes: u64,
    /// Bytes of downloads in progress, and room for what they receive next.
    pub reserved: u64,
    /// Bytes that parked downloads have received: they go where something else needs the room.
    pub parked: u64,
    /// Number of bodies.
    pub bodies: u64,
    /// The bound in bytes.
    pub bound: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    limits: Mutex<Limits>,
    metrics: Arc<Metrics>,
    catalogue: Catalogue,
    state: Mutex<EvictionState>,
    commits: Mutex<()>,
    /// Held while a body without a record gets one.
    adoptions: Mutex<()>,
    /// Somebody looks for free space on the disk.
    room: Mutex<()>,
    ranker: EvictionClassifier,
    /// Bodies without a record were looked for.
    swept: Once,
    /// Holds the lock on the directory.
    _lock: File,
}

impl Store {
    /// Opens the cache in `cache_dir` (created when missing), at most `bound` bytes of bodies.
    ///
    /// # Errors
    /// The directory cannot be used, or another daemon uses it. Damage is no error.
    pub fn open(cache_dir: &Path, bound: u64, metrics: Arc<Metrics>) -> Result<Self, StoreError> {
        let directory = cache_dir.join(LAYOUT);
        create_directory(&directory)?;
        for part in ["bodies", "incoming", "index", "generations"] {
            create_directory(&directory.join(part))?;
        }
        let lock = lock(&directory)?;
        empty_incoming(&directory.join("incoming"));
        let catalogue = Catalogue::open(&directory.join("catalogue"))?;
        let pins = catalogue.pins().into_iter().map(|pin| pin.id).collect();
        let mut state = EvictionState::from_records(catalogue.records(), &pins);
        state.written = catalogue.written();
        let store = Self {
            directory,
            limits: Mutex::new(Limits { bound, ..Limits::default() }),
            metrics,
            catalogue,
            state: Mutex::new(state),
            commits: Mutex::new(()),
            adoptions: Mutex::new(()),
            room: Mutex::new(()),
            ranker: EvictionClassifier::default(),
            swept: Once::new(),
            _lock: lock,
        };
        // The bound may be smaller than last time.
        store.shrink_to(bound);
        Ok(store)
    }

    /// `<cache-dir>/v1`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The body of an entry, if it is here and was proved as `policy` asks. Fast enough for a FUSE thread: two look-ups, an
    /// open(2), and stat(2) of the keyring's files.
    #[must_use]
    pub fn get(&self, id: EntryId, size: u64, policy: &Policy) -> Option<Blob> {
        let (digest, record) = self.catalogue.find(id)?;
        let BodyRecord { values, assurance, .. } = record;
        if record.size != size || !policy.admits(&assurance) {
            return None;
        }
        if let Some(file) = self.state().touch(digest) {
            return Some(Blob { file, size, digest, values, assurance });
        }
        match open_body(&self.body_path(digest), &record) {
            Ok(file) => {
                let file = Arc::new(file);
                self.state().opened(digest, &file);
                Some(Blob { file, size, digest, values, assurance })
            }
            Err(error) => {
                self.disown(digest, &error);
                None
            }
        }
    }

    /// How the body of an entry was proved, where [`Store::get`] would most likely have it; a look into the catalogue only.
    #[must_use]
    pub fn assurance(&self, id: EntryId, size: u64, policy: &Policy) -> Option<Assurance> {
        self.known(id, size, policy).map(|known| known.assurance)
    }

    /// Whether [`Store::get`] would most likely have it; a look into the catalogue only.
    #[must_use]
    pub fn has(&self, id: EntryId, size: u64, policy: &Policy) -> bool {
        self.assurance(id, size, policy).is_some()
    }

    /// Keeps a verified body for `id`, or says why it is only served and not kept. The body is usable either way; it was
    /// usable before, too: nothing waits for a commit.
    /// `witness` is remembered in any case.
    pub fn commit(&self, incoming: Incoming, verified: &Blob, id: EntryId, witness: Option<BuildKey>) -> Placement {
        let placement = match incoming.kept_path() {
            Some(path) => self.place(path, verified, id, witness),
            None => Placement::Unkept(incoming.why.to_owned()),
        };
        if let Placement::Unkept(reason) = &placement {
            witness.into_iter().for_each(|witness| self.remember(witness, verified.digest()));
            self.metrics.transient_blobs.increase();
            tracing::debug!(%reason, "verified body is served without being kept");
        }
        drop(incoming);
        placement
    }

    /// Makes a body of what was proved. The only way from [`Verified`] to [`Blob`].
    #[must_use]
    pub fn body(&self, verified: Verified) -> Blob {
        Blob::new(verified)
    }

    /// Bytes and bodies at this moment.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let bound = self.limits().bound;
        let state = self.state();
        let (bytes, reserved, parked) = (state.bytes(), state.claims.reserved, state.parked_bytes());
        Usage { bytes, reserved, parked, bodies: state.bodies(), bound }
    }

    /// Writes the times of last use and records that are not on disk yet, in one batch. To be called now and then.
    pub fn write_uses(&self) {
        let uses = if self.may_write(0) { self.state().take_uses() } else { Vec::new() };
        if !uses.is_empty() {
            self.catalogue.update_uses(&uses);
        }
        self.catalogue.settle();
    }

    /// Keeps the body that is at `from`.
    fn place(&self, from: &Path, body: &Blob, id: EntryId, witness: Option<BuildKey>) -> Placement {
        let _one_at_a_time = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let to = self.body_path(body.digest);
        match self.move_in(from, &to, body) {
            Ok(mtime) => {
                let (Blob { size, values, assurance, .. }, now) = (body.clone(), seconds_now());
                let mut record = BodyRecord { size, mtime, last_use: now, values, assurance, entries: vec![id] };
                if let Some(earlier) = self.catalogue.body(body.digest) {
                    record.assurance = body.assurance.or_signed(earlier.assurance);
                    record.entries.extend(earlier.entries.into_iter().filter(|other| *other != id));
                }
                let written = self.state().written;
                let kept = self.catalogue.insert(body.digest, &record, id, witness, written);
                let pinned = record.entries.iter().any(|id| self.catalogue.is_pinned(*id));
                let mut state = self.state();
                match &kept {
                    Ok(()) => state.insert(body.digest, size, now, &body.file, pinned),
                    Err(_) => {
                        state.remove(body.digest);
                        state.add_orphan(body.digest, size);
                    }
                }
                drop(state);
                kept.map_or_else(|error| Placement::Unkept(format!("catalogue: {error}")), |()| Placement::Kept)
            }
            Err(error) => Placement::Unkept(error.to_string()),
        }
    }

    /// Gives a body its name and makes its bytes durable; its modification time in ns.
    ///
    /// The name comes first: then one fsync makes bytes and name durable together where the file system can do that (ext4,
    /// xfs, btrfs), instead of three. A power cut before it leaves an orphan at worst, which is proved before it is used, and
    /// a name that gets lost leaves a record without a body, which is a miss.
    fn move_in(&self, from: &Path, to: &Path, body: &Blob) -> Result<i64, StoreError> {
        let parent = to.parent().unwrap_or(&self.directory);
        if !parent.is_dir() {
            create_directory(parent)?;
        }
        fs::rename(from, to).map_err(StoreError::io("renaming a download to", to))?;
        if let Err(error) = body.file.sync_all() {
            // Whoever has it open reads on; nobody else is to find it.
            let _ = fs::remove_file(to);
            return Err(StoreError::io("writing to disk", to)(error));
        }
        let metadata = body.file.metadata().map_err(StoreError::io("looking at", to))?;
        Ok(mtime_ns(&metadata))
    }

    /// The body of a record is not what it was: forget the record, keep the file as an orphan if there is one.
    fn disown(&self, digest: Sha256Digest, error: &io::Error) {
        let path = self.body_path(digest);
        tracing::warn!(body = %path.display(), %error, "a cached body is not as it was left; it will be proved or fetched again");
        self.catalogue.remove(&[digest]);
        let size = path.metadata().ok().map(|metadata| metadata.len());
        let mut state = self.state();
        state.remove(digest);
        if let Some(size) = size {
            state.add_orphan(digest, size);
        }
    }

    fn body_path(&self, digest: Sha256Digest) -> PathBuf {
        let name = digest.to_string();
        let (first, rest) = name.split_at(2);
        self.directory.join("bodies").join(first).join(rest)
    }

    fn state(&self) -> MutexGuard<'_, EvictionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.write_uses();
    }
}

fn open_body(path: &Path, record: &BodyRecord) -> io::Result<File> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.len() != record.size || mtime_ns(&metadata) != record.mtime {
        return Err(io::Error::other("size or modification time changed"));
    }
    Ok(file)
}

fn mtime_ns(metadata: &fs::Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

fn create_directory(path: &Path) -> Result<(), StoreError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(StoreError::io("creating the directory", path))
}

fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join("lock");
    let options = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = options.map_err(StoreError::io("opening", &path))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            use io::Write as _;
            // Only for the message of another daemon, and a full disk may refuse it.
            if let Err(error) = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())) {
                tracing::debug!(path = %path.display(), %error, "writing the process id");
            }
            Ok(file)
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = fs::read_to_string(&path).unwrap_or_default();
            let pid = if pid.is_empty() { pid } else { format!(" (pid {pid})") };
            Err(StoreError::InUse { path: directory.to_owned(), pid })
        }
        Err(error) => Err(StoreError::io("locking", &path)(error.into())),
    }
}

/// Downloads that a killed daemon left: they are not resumed, their digests are not known any more.
fn empty_incoming(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "removing an unfinished download");
        }
    }
}

#[cfg(test)]
mod tests;
