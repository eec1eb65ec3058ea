//! Verified blobs and their catalogue, within a bound.
//!
//! | file | job |
//! |---|---|
//! | `db` | the sled database: all keys and values |
//! | `build_history` | the digest last seen of each build |
//! | `claim` | room that downloads take |
//! | `write_budget` | how much may be written today |
//! | `incoming` | a download in progress |
//! | `space` | room for downloads, and what happens without any |
//! | `eviction` | order of eviction, sizes, open blobs |
//! | `eviction_class` | how soon a blob is evicted |
//! | `admission` | whether a package would be kept |
//! | `orphans` | blobs without a record |
//! | `scrub` | reads blobs again |
//! | `blob_info` | what is known of a blob without reading it |
//! | `limits` | limits that may change |
//! | `available_memory` | memory that can still be taken |
//!
//! ```text
//! <cache-dir>/v1/
//!   lock              held while a daemon uses the directory; its pid
//!   catalogue/        sled: entry -> blob, and what is known of each blob
//!   blobs/ab/cdef…   verified blobs, named by SHA-256
//!   incoming/         downloads in progress; emptied at start
//!   index/            the indexes as received (`upstream`)
//!   generations/      what Portage reads (`daemon`)
//! ```
//!
//! * A blob enters the cache only as a [`Verified`]. Order of a commit: written -> verified ->
//!   rename -> fsync -> catalogue -> its fsync, which several commits may share. A kill or a power
//!   cut at any point leaves at worst an orphan: a blob without a record, which is proved again
//!   before it is used ([`Cache::unproved`]).
//! * A record says how its blob was proved. The cache serves a blob only where that proof meets the
//!   caller's policy and the keys as they are now; otherwise the blob is proved again, like an
//!   orphan ([`Cache::unproved`]).
//! * A record is valid only as long as the blob has the size and modification time that it had when
//!   it was committed. A difference is a miss, never wrong bytes.
//! * The scrub reads blobs again to find silent disk damage ([`Cache::scrub`]), and drops damaged
//!   blobs.
//! * Damage to the catalogue is a miss too: the catalogue is set aside and recreated, and the blobs
//!   become orphans.
//! * `bound` holds for blobs and for downloads together. Open blobs are evicted last; an open blob
//!   stays readable after its eviction.
//! * A download gets room step by step, as its bytes arrive (`incoming`): a size that only the
//!   index names evicts nothing.
//! * `min_free` bytes of the disk stay free, as far as the cache can ensure it. A download goes to
//!   the disk only where all of it would fit, and each step takes its space before it is written.
//!   Where other programs fill the disk, the cache evicts blobs until `min_free` bytes are free or
//!   no blob is left.
//! * Without space, blobs are evicted in the order of `eviction_class`; if that does not help, the
//!   download is kept in memory only (if it is small) or refused.
//! * Pinned blobs (`db::pins`) are evicted only where the bound itself becomes smaller than their
//!   sum.
//! * While nothing is fetched, the cache writes nothing but times of last use, batched. A write
//!   budget may stop the keeping of blobs for the rest of the day (`write_budget`).
//!
//! Lock order: `adoptions`, `room`, `commits`, `ranked`, `state`. The catalogue has its own lock,
//! taken last, and so have the limits.
//!
//! Not its job: what to fetch, and proving it.

mod admission;
mod available_memory;
mod blob_info;
mod build_history;
mod claim;
mod db;
mod eviction;
mod eviction_class;
mod incoming;
mod limits;
mod orphans;
mod scrub;
mod space;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use parking_lot::{Mutex, MutexGuard};

use crate::index::{AuxDigest, EntryId, Sha256Digest};
use crate::metrics::Metrics;
use crate::sys::file_stamp::mtime_ns;
use crate::sys::seconds_now;
use crate::verify::{Assurance, Policy, Verified};

pub(crate) use admission::Unkeepable;
pub(crate) use blob_info::BlobInfo;
use db::catalogue::{BlobRecord, Catalogue};
pub(crate) use db::pins::{Pin, PinError};
pub(crate) use db::rows::BuildKey;
use eviction::EvictionState;
use eviction_class::EvictionClassifier;
pub(crate) use eviction_class::{EvictionClass, EvictionClasses};
pub use incoming::Incoming;
pub(crate) use incoming::Resumed;
pub(crate) use limits::Limits;
pub(crate) use orphans::{Removed, Unproved};
pub(crate) use scrub::{SCRUB_STEP, Scrub, Scrubbed};
pub use space::Placement;

/// Version of the layout on disk.
pub(crate) const LAYOUT: &str = "v1";

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// An operation on a file or directory of the cache failed.
    #[error("{attempted} {path}: {source}", path = path.display())]
    Io {
        /// The operation, as a phrase before the path.
        attempted: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Another daemon uses the directory.
    #[error("the cache directory {path} is in use by another binhostfs{pid}: each mount needs its own --cache-dir", path = path.display())]
    InUse {
        path: PathBuf,
        /// ` (pid N)`, or empty if the lock file contains no pid.
        pid: String,
    },
    /// The catalogue could not be opened even after it was recreated.
    #[error("the catalogue {path} cannot be opened: {reason}", path = path.display())]
    Catalogue {
        /// Directory of the sled database.
        path: PathBuf,
        reason: String,
    },
    /// Neither the disk nor memory has room for a package.
    #[error("no space for {size} bytes in {path}, and too large to be held in memory", path = path.display())]
    NoSpace {
        /// Size of the download in bytes.
        size: u64,
        path: PathBuf,
    },
}

impl CacheError {
    pub(super) fn io(attempted: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { attempted, path, source }
    }
}

/// A verified blob, open for reading. It stays readable after its eviction.
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

    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// SHA-256 of the whole blob.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Digest of the metadata values in the package; an index entry must have the same values.
    #[must_use]
    pub fn aux_digest(&self) -> AuxDigest {
        self.values
    }

    /// How the blob was proved.
    #[must_use]
    pub fn assurance(&self) -> Assurance {
        self.assurance
    }
}

/// How full the cache is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of blobs on disk.
    pub bytes: u64,
    /// Bytes of downloads in progress, and room for the bytes that they receive next.
    pub reserved: u64,
    /// Bytes that parked downloads have received; they are discarded when other data needs the
    /// room.
    pub parked: u64,
    /// Number of blobs, orphans included.
    pub blobs: u64,
    /// The bound in bytes.
    pub bound: u64,
}

/// The cache of blobs; the module's documentation has its invariants.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
    limits: Mutex<Limits>,
    metrics: Arc<Metrics>,
    catalogue: Catalogue,
    state: Mutex<EvictionState>,
    commits: Mutex<()>,
    /// Held while a blob without a record gets one.
    adoptions: Mutex<()>,
    /// Held while a download checks and takes free space on the disk.
    room: Mutex<()>,
    classifier: EvictionClassifier,
    /// Completed once the cache was searched for blobs without a record.
    swept: Once,
    /// Keeps the lock on the directory.
    _lock: File,
}

impl Cache {
    /// Opens the cache in `cache_dir` (created when missing), with at most `bound` bytes of blobs.
    ///
    /// # Errors
    /// The directory cannot be used, or another daemon uses it. Damage to the catalogue is no
    /// error.
    pub fn open(cache_dir: &Path, bound: u64, metrics: Arc<Metrics>) -> Result<Self, CacheError> {
        let directory = cache_dir.join(LAYOUT);
        create_directory(&directory)?;
        for part in ["blobs", "incoming", "index", "generations"] {
            create_directory(&directory.join(part))?;
        }
        let lock = lock(&directory)?;
        empty_incoming(&directory.join("incoming"));
        let catalogue = Catalogue::open(&directory.join("catalogue"))?;
        let pins = catalogue.pins().into_iter().map(|pin| pin.id).collect();
        let mut state = EvictionState::from_records(catalogue.records(), &pins);
        state.written = catalogue.written();
        let cache = Self {
            directory,
            limits: Mutex::new(Limits { bound, ..Limits::default() }),
            metrics,
            catalogue,
            state: Mutex::new(state),
            commits: Mutex::new(()),
            adoptions: Mutex::new(()),
            room: Mutex::new(()),
            classifier: EvictionClassifier::default(),
            swept: Once::new(),
            _lock: lock,
        };
        // The bound may be smaller than last time.
        cache.shrink_to(bound);
        Ok(cache)
    }

    /// The directory `<cache-dir>/v1`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the blob of an entry, if the cache has it with a proof that `policy` accepts.
    ///
    /// Fast enough for a FUSE thread: two look-ups, an open(2), and stat(2) of the keyring's files.
    #[must_use]
    pub fn get(&self, id: EntryId, size: u64, policy: &Policy) -> Option<Blob> {
        let (digest, record) = self.catalogue.find(id)?;
        let BlobRecord { values, assurance, .. } = record;
        if record.size != size || !policy.admits(&assurance) {
            return None;
        }
        if let Some(file) = self.state().touch(digest) {
            return Some(Blob { file, size, digest, values, assurance });
        }
        match open_blob(&self.blob_path(digest), &record) {
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

    /// How the blob of an entry was proved, if [`Cache::get`] would most likely return it. Reads
    /// the catalogue only.
    #[must_use]
    pub fn assurance(&self, id: EntryId, size: u64, policy: &Policy) -> Option<Assurance> {
        self.known(id, size, policy).map(|known| known.assurance)
    }

    /// Whether [`Cache::get`] would most likely return the blob. Reads the catalogue only.
    #[must_use]
    pub fn has(&self, id: EntryId, size: u64, policy: &Policy) -> bool {
        self.assurance(id, size, policy).is_some()
    }

    /// Keeps a verified blob for `id`, or returns why the blob is transient.
    ///
    /// The blob is usable in both cases, and was usable before: no waiter waits for a commit. The
    /// build `build` is recorded in the build history in any case.
    pub fn commit(&self, incoming: Incoming, verified: &Blob, id: EntryId, build: Option<BuildKey>) -> Placement {
        let placement = match incoming.kept_path() {
            Some(path) => self.place(path, verified, id, build),
            None => Placement::Unkept(incoming.why.to_owned()),
        };
        if let Placement::Unkept(reason) = &placement {
            build.into_iter().for_each(|build| self.record_build(build, verified.digest()));
            self.metrics.transient_blobs.increase();
            tracing::debug!(%reason, "verified blob is served without being kept");
        }
        drop(incoming);
        placement
    }

    /// Makes a blob of verified bytes: the only way from [`Verified`] to [`Blob`].
    #[must_use]
    pub fn blob(&self, verified: Verified) -> Blob {
        Blob::new(verified)
    }

    /// Current numbers of bytes and blobs.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let bound = self.limits().bound;
        let state = self.state();
        let (bytes, reserved, parked) = (state.bytes(), state.claims.reserved, state.parked_bytes());
        Usage { bytes, reserved, parked, blobs: state.blobs(), bound }
    }

    /// Writes the times of last use and the records that are not on disk yet, in one batch. The
    /// caller repeats this periodically.
    pub fn write_uses(&self) {
        let uses = if self.may_write(0) { self.state().take_uses() } else { Vec::new() };
        if !uses.is_empty() {
            self.catalogue.update_uses(&uses);
        }
        self.catalogue.settle();
    }

    /// Keeps the blob whose file is at `from`.
    fn place(&self, from: &Path, blob: &Blob, id: EntryId, build: Option<BuildKey>) -> Placement {
        let _one_at_a_time = self.commits.lock();
        let to = self.blob_path(blob.digest);
        match self.move_in(from, &to, blob) {
            Ok(mtime) => {
                let (Blob { size, values, assurance, .. }, now) = (blob.clone(), seconds_now());
                let mut record = BlobRecord { size, mtime, last_use: now, values, assurance, entries: vec![id] };
                if let Some(earlier) = self.catalogue.blob(blob.digest) {
                    record.assurance = blob.assurance.or_signed(earlier.assurance);
                    record.entries.extend(earlier.entries.into_iter().filter(|other| *other != id));
                }
                let written = self.state().written;
                let kept = self.catalogue.insert(blob.digest, &record, id, build, written);
                let pinned = record.entries.iter().any(|id| self.catalogue.is_pinned(*id));
                let mut state = self.state();
                match &kept {
                    Ok(()) => state.insert(blob.digest, size, now, &blob.file, pinned),
                    Err(_) => {
                        state.remove(blob.digest);
                        state.add_orphan(blob.digest, size);
                    }
                }
                drop(state);
                kept.map_or_else(|error| Placement::Unkept(format!("catalogue: {error}")), |()| Placement::Kept)
            }
            Err(error) => Placement::Unkept(error.to_string()),
        }
    }

    /// Gives a blob its name and makes its bytes durable; returns its modification time in ns.
    ///
    /// The rename comes first: then one fsync makes bytes and name durable together where the file
    /// system can do that (ext4, xfs, btrfs), instead of three. A power cut before the fsync leaves
    /// an orphan at worst, which is proved before it is used. A lost name leaves a record without a
    /// blob, which is a miss.
    fn move_in(&self, from: &Path, to: &Path, blob: &Blob) -> Result<i64, CacheError> {
        let parent = to.parent().unwrap_or(&self.directory);
        if !parent.is_dir() {
            create_directory(parent)?;
        }
        fs::rename(from, to).map_err(CacheError::io("renaming a download to", to))?;
        if let Err(error) = blob.file.sync_all() {
            // A reader that has the file open continues; no later look-up may find it.
            let _ = fs::remove_file(to);
            return Err(CacheError::io("writing to disk", to)(error));
        }
        let metadata = blob.file.metadata().map_err(CacheError::io("looking at", to))?;
        Ok(mtime_ns(&metadata))
    }

    /// Removes a record whose blob has changed; keeps the file, if there is one, as an orphan.
    fn disown(&self, digest: Sha256Digest, error: &io::Error) {
        let path = self.blob_path(digest);
        tracing::warn!(blob = %path.display(), %error, "a cached blob is not as it was left; it will be proved or fetched again");
        self.catalogue.remove(&[digest]);
        let size = path.metadata().ok().map(|metadata| metadata.len());
        let mut state = self.state();
        state.remove(digest);
        if let Some(size) = size {
            state.add_orphan(digest, size);
        }
    }

    fn blob_path(&self, digest: Sha256Digest) -> PathBuf {
        let name = digest.to_string();
        let (first, rest) = name.split_at(2);
        self.directory.join("blobs").join(first).join(rest)
    }

    fn state(&self) -> MutexGuard<'_, EvictionState> {
        self.state.lock()
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.write_uses();
    }
}

fn open_blob(path: &Path, record: &BlobRecord) -> io::Result<File> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.len() != record.size || mtime_ns(&metadata) != record.mtime {
        return Err(io::Error::other("size or modification time changed"));
    }
    Ok(file)
}

fn create_directory(path: &Path) -> Result<(), CacheError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(CacheError::io("creating the directory", path))
}

fn lock(directory: &Path) -> Result<File, CacheError> {
    let path = directory.join("lock");
    let options = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = options.map_err(CacheError::io("opening", &path))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            use io::Write as _;
            // The pid is only for the error message of another daemon, and a full disk may refuse
            // it.
            if let Err(error) = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())) {
                tracing::debug!(path = %path.display(), %error, "writing the process id");
            }
            Ok(file)
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = fs::read_to_string(&path).unwrap_or_default();
            let pid = if pid.is_empty() { pid } else { format!(" (pid {pid})") };
            Err(CacheError::InUse { path: directory.to_owned(), pid })
        }
        Err(error) => Err(CacheError::io("locking", &path)(error.into())),
    }
}

/// Removes the downloads of a killed daemon. They cannot be resumed: their digests are lost.
fn empty_incoming(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "removing an unfinished download");
        }
    }
}

#[cfg(test)]
mod tests;
mod write_budget;
