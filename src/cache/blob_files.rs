//! The blobs on the disk, their records, and their state in memory.
//!
//! A record and its file change only here, in an order that leaves at worst an orphan after a kill:
//! a file comes before its record, and a record goes before its file.
//!
//! Not its job: how much room there is (`space`), and which blobs go first (`eviction`).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::blob::{Blob, CacheError, NoBlob, Placement, Removed};
use super::db::catalogue::{BlobRecord, Catalogue};
use super::db::rows::BuildKey;
use super::db::shared::{BinhostTag, BlobKeys};
use super::eviction::EvictionState;
use super::write_budget::WriteBudget;
use crate::index::{EntryId, Sha256Digest, ShareKey};
use crate::metrics::Metrics;
use crate::sys::file_stamp::mtime_ns;
use crate::sys::seconds_now;
use crate::verify::Policy;

/// Version of the layout on disk.
pub(crate) const LAYOUT: &str = "v1";

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct BlobFiles {
    /// `<cache-dir>/v1`.
    pub(super) directory: PathBuf,
    pub(super) metrics: Arc<Metrics>,
    pub(super) catalogue: Catalogue,
    pub(super) budget: Arc<WriteBudget>,
    /// Held while a blob gets or loses its record.
    pub(super) commits: Mutex<()>,
    state: Mutex<EvictionState>,
    /// Keeps the lock on the directory.
    _lock: File,
}

impl BlobFiles {
    /// Opens the blobs in `cache_dir`, which is created when missing.
    ///
    /// # Errors
    /// The directory cannot be used, or another daemon uses it. Damage to the catalogue is no
    /// error.
    pub(crate) fn open(cache_dir: &Path, metrics: Arc<Metrics>) -> Result<Self, CacheError> {
        let directory = cache_dir.join(LAYOUT);
        create_directory(&directory)?;
        for part in ["blobs", "incoming", "index", "generations"] {
            create_directory(&directory.join(part))?;
        }
        let lock = lock(&directory)?;
        empty_incoming(&directory.join("incoming"));
        let catalogue = Catalogue::open(&directory.join("catalogue"))?;
        let pins = catalogue.pins().all().into_iter().map(|pin| pin.id).collect();
        let state = Mutex::new(EvictionState::from_records(catalogue.records(), &pins));
        let budget = Arc::new(WriteBudget::new(catalogue.written()));
        Ok(Self { directory, metrics, catalogue, budget, commits: Mutex::new(()), state, _lock: lock })
    }

    /// The state in memory. No other lock of the cache may be taken while it is held, but the
    /// catalogue's.
    pub(crate) fn state(&self) -> MutexGuard<'_, EvictionState> {
        self.state.lock()
    }

    /// Path of the blob with this digest.
    pub(crate) fn path(&self, digest: Sha256Digest) -> PathBuf {
        let name = digest.to_string();
        let (first, rest) = name.split_at(2);
        self.directory.join("blobs").join(first).join(rest)
    }

    /// Returns the blob of an entry, if the cache has it with a proof that `policy` accepts.
    ///
    /// Fast enough for a FUSE thread: two look-ups, an open(2), and stat(2) of the keyring's files.
    pub(crate) fn look_up(&self, id: EntryId, size: u64, policy: &Policy) -> Result<Blob, NoBlob> {
        let (digest, record) =
            self.catalogue.find(id).filter(|(_, record)| record.size == size).ok_or(NoBlob::Unknown)?;
        if !policy.admits(&record.assurance) {
            return Err(NoBlob::Unfit);
        }
        self.open_recorded(digest, &record).ok_or(NoBlob::Unfit)
    }

    /// Returns the blob of a key, however it was proved, if `shares` admits the binhost that it
    /// came from.
    pub(crate) fn shared(&self, key: &ShareKey, shares: impl FnOnce(BinhostTag) -> bool) -> Option<Blob> {
        let (digest, binhost) = self.catalogue.shared(key)?;
        let record = self.catalogue.blob(digest)?;
        let fits = record.size == key.size && shares(binhost);
        fits.then(|| self.open_recorded(digest, &record))?
    }

    /// Opens a blob by its record. A file that is not the one of the record loses it.
    fn open_recorded(&self, digest: Sha256Digest, record: &BlobRecord) -> Option<Blob> {
        let BlobRecord { size, values, assurance, .. } = *record;
        if let Some(file) = self.state().touch(digest) {
            return Some(Blob { file, size, digest, values, assurance });
        }
        match open_blob(&self.path(digest), record) {
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

    /// Keeps the blob whose file is at `from`.
    pub(crate) fn place(&self, from: &Path, blob: &Blob, id: EntryId, keys: BlobKeys) -> Placement {
        let _one_at_a_time = self.commits.lock();
        let to = self.path(blob.digest);
        match self.move_in(from, &to, blob) {
            Ok(mtime) => {
                let (Blob { size, values, assurance, .. }, now) = (blob.clone(), seconds_now());
                let mut record = BlobRecord { size, mtime, last_use: now, values, assurance, entries: vec![id] };
                if let Some(earlier) = self.catalogue.blob(blob.digest) {
                    record.assurance = blob.assurance.or_signed(earlier.assurance);
                    record.entries.extend(earlier.entries.into_iter().filter(|other| *other != id));
                }
                let written = self.budget.written();
                let kept = self.catalogue.insert(blob.digest, &record, id, keys, written);
                let pinned = record.entries.iter().any(|id| self.catalogue.pins().contains(*id));
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
        let path = self.path(digest);
        tracing::warn!(blob = %path.display(), %error, "a cached blob is not as it was left; it will be proved or fetched again");
        self.catalogue.remove(&[digest]);
        let size = path.metadata().ok().map(|metadata| metadata.len());
        let mut state = self.state();
        state.remove(digest);
        if let Some(size) = size {
            state.add_orphan(digest, size);
        }
    }

    /// Removes the records and files of blobs that `state` does not contain any more.
    pub(crate) fn remove(&self, digests: &[Sha256Digest]) {
        // Records first: a kill in between leaves orphans, never records without blobs that look
        // like damage.
        self.catalogue.remove(digests);
        self.unlink(digests);
    }

    /// Removes evicted blobs as [`BlobFiles::remove`] does. The caller does not hold `commits`.
    pub(crate) fn remove_evicted(&self, digests: &[Sha256Digest]) {
        self.catalogue.remove(digests);
        self.unlink_evicted(digests);
    }

    /// Removes the files of evicted blobs, but for those that were fetched again since their
    /// records were removed.
    pub(super) fn unlink_evicted(&self, digests: &[Sha256Digest]) {
        // Under the lock, no blob can be between its rename and its record.
        let _one_at_a_time = self.commits.lock();
        let gone: Vec<Sha256Digest> = {
            let state = self.state();
            digests.iter().copied().filter(|digest| !state.knows(*digest)).collect()
        };
        self.unlink(&gone);
    }

    fn unlink(&self, digests: &[Sha256Digest]) {
        for digest in digests {
            let path = self.path(*digest);
            match fs::remove_file(&path) {
                Ok(()) => self.metrics.evicted.increase(),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a package cannot be evicted and still takes up space")
                }
            }
        }
    }

    /// Removes a blob that was found to be wrong. Readers that have it open keep it.
    pub(crate) fn reject(&self, digest: Sha256Digest) {
        let _one_at_a_time = self.commits.lock();
        self.state().remove(digest);
        self.remove(&[digest]);
    }

    /// Removes every blob that is neither pinned nor one of the entries `named`, and all blobs
    /// without a record. Reads `named` only while no commit can happen.
    pub(crate) fn retain(&self, named: impl IntoIterator<Item = EntryId>) -> Removed {
        let _one_at_a_time = self.commits.lock();
        // Under the lock: a blob committed after `named` was read would have no name.
        let named = named.into_iter().filter_map(|id| self.digest(id)).collect();
        let (gone, bytes) = self.state().take_unnamed(&named);
        self.remove(&gone);
        Removed { blobs: gone.len() as u64, bytes }
    }

    /// Removes the blob of an entry, pinned or not, and returns its bytes. `None`: the cache does
    /// not have it.
    pub(crate) fn forget(&self, id: EntryId) -> Option<u64> {
        let (digest, record) = self.catalogue.find(id)?;
        let here = self.state().has_blob(digest);
        here.then(|| self.reject(digest)).map(|()| record.size)
    }

    /// SHA-256 of the blob of an entry, where there is one. Reads the catalogue only.
    pub(crate) fn digest(&self, id: EntryId) -> Option<Sha256Digest> {
        self.catalogue.find(id).map(|(digest, _)| digest)
    }

    /// Records the digest of a build whose blob gets no record of its own.
    pub(crate) fn record_build(&self, build: BuildKey, digest: Sha256Digest) {
        if self.catalogue.builds().digest(build) != Some(digest) {
            self.catalogue.builds().record(build, digest);
        }
    }

    /// Writes the times of last use and the records that are not on disk yet, in one batch. The
    /// caller repeats this periodically.
    pub(crate) fn write_uses(&self) {
        let uses = if self.budget.may_write(0) { self.state().take_uses() } else { Vec::new() };
        if !uses.is_empty() {
            self.catalogue.update_uses(&uses);
        }
        self.catalogue.database().settle();
    }
}

impl Drop for BlobFiles {
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
            tracing::warn!(path = %entry.path().display(), %error, "an unfinished download cannot be removed");
        }
    }
}
