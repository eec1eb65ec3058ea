//! Recovery of blobs without a record, which a sweep finds after the start and before the first
//! download, and of blobs with a record that is not strict enough.
//!
//! An open of the package proves such a blob again, and takes it back if it is right.

use std::fs::{self, File};
use std::path::Path;

use crate::index::{EntryId, Sha256Digest};
use crate::verify::Policy;

use super::{Blob, BuildKey, Cache, Placement};

/// A file that may be the package of an entry, still to be proved.
#[derive(Debug)]
pub struct Unproved {
    /// The file's name, which need not be its digest.
    pub digest: Sha256Digest,
    /// The file, open for reading.
    pub file: File,
    /// Whether the file is the entry's own blob, by a weaker proof.
    pub own: bool,
}

/// Blobs that a request removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Number of removed blobs.
    pub blobs: u64,
    /// Bytes of these blobs.
    pub bytes: u64,
}

impl Cache {
    /// Blobs that no record names, with their sizes. Waits for the sweep.
    #[must_use]
    pub fn orphans(&self) -> Vec<(Sha256Digest, u64)> {
        self.sweep();
        self.state().orphans()
    }

    /// Opens one of the orphans, if it still exists.
    #[must_use]
    pub fn orphan(&self, digest: Sha256Digest) -> Option<Unproved> {
        let file = File::open(self.blob_path(digest)).ok()?;
        Some(Unproved { digest, file, own: false })
    }

    /// Removes every blob that is neither pinned nor one of the entries `named`, and all blobs
    /// without a record. Reads `named` only while no commit can happen.
    pub fn retain(&self, named: impl IntoIterator<Item = EntryId>) -> Removed {
        self.sweep();
        let _one_at_a_time = self.commits.lock();
        // Under the lock: a blob committed after `named` was read would have no name.
        let named = named.into_iter().filter_map(|id| self.digest(id)).collect();
        let (gone, bytes) = self.state().take_unnamed(&named);
        self.remove_blobs(&gone);
        Removed { blobs: gone.len() as u64, bytes }
    }

    /// Removes the blob of an entry, pinned or not, and returns its bytes. `None`: the cache does
    /// not have it.
    pub fn forget(&self, id: EntryId) -> Option<u64> {
        let (digest, record) = self.catalogue.find(id)?;
        let here = self.state().has_blob(digest);
        here.then(|| self.reject(digest)).map(|()| record.size)
    }

    /// SHA-256 of the blob of an entry, where there is one. Reads the catalogue only.
    #[must_use]
    pub fn digest(&self, id: EntryId) -> Option<Sha256Digest> {
        self.catalogue.find(id).map(|(digest, _)| digest)
    }

    /// Searches, once, for blobs that no record names, as a kill or a lost catalogue leaves them.
    /// From then on such blobs count against the bound.
    pub fn sweep(&self) {
        self.swept.call_once(|| {
            let found = self.find_orphans();
            if found > 0 {
                tracing::info!(found, "blobs in the cache without a record; each is proved again when it is asked for");
            }
            self.shrink_to(self.limits().bound);
            self.prune_build_history();
            self.catalogue.prune_entries();
        });
    }

    fn find_orphans(&self) -> usize {
        // Under the lock, no blob can be between its rename and its record.
        let _commits = self.commits.lock();
        let mut found = 0;
        for directory in fs::read_dir(self.directory.join("blobs")).into_iter().flatten().flatten() {
            for file in fs::read_dir(directory.path()).into_iter().flatten().flatten() {
                found += usize::from(self.sweep_one(&directory.path(), &file));
            }
        }
        found
    }

    fn sweep_one(&self, directory: &Path, file: &fs::DirEntry) -> bool {
        let (first, rest) = (directory.file_name().unwrap_or_default().to_string_lossy(), file.file_name());
        let name: Result<Sha256Digest, _> = format!("{first}{}", rest.to_string_lossy()).parse();
        let metadata = file.metadata().ok().filter(fs::Metadata::is_file);
        let (Ok(digest), Some(metadata)) = (name, metadata) else {
            tracing::warn!(path = %file.path().display(), "this is no blob of a package; binhostfs leaves it alone");
            return false;
        };
        let mut state = self.state();
        if state.knows(digest) {
            return false;
        }
        state.add_orphan(digest, metadata.len());
        true
    }

    /// Whether [`Cache::unproved`], or [`Cache::get`] after it, may find a blob that `get` did not
    /// find. Never blocks on the sweep or an adoption.
    #[must_use]
    pub fn may_have_unproved(&self, id: EntryId, size: u64) -> bool {
        let others = || !self.state().candidates(size, !self.catalogue.is_open()).is_empty();
        let adopting = || self.adoptions.try_lock().is_none();
        let own = || self.catalogue.find(id).is_some_and(|(_, record)| record.size == size);
        // The order matters: a blob that is being adopted is no orphan any more, and has no record
        // yet.
        !self.swept.is_completed() || others() || adopting() || own()
    }

    /// Files that may be the package of an entry, each still to be proved. Candidates are the
    /// entry's own blob, if its proof is weaker than `policy` asks, and orphans of that size;
    /// without a catalogue, any blob of that size. Waits for the sweep.
    #[must_use]
    pub fn unproved(&self, id: EntryId, size: u64, policy: &Policy) -> Vec<Unproved> {
        self.sweep();
        // Under the lock, a blob in adoption is either still an orphan or has its record.
        let _adopted = self.adoptions.lock();
        let own =
            self.catalogue.find(id).filter(|(_, record)| record.size == size && !policy.admits(&record.assurance));
        let recorded = !self.catalogue.is_open();
        let others = self.state().candidates(size, recorded);
        let own = own.into_iter().map(|(digest, _)| (digest, true));
        let all = own.chain(others.into_iter().map(|digest| (digest, false)));
        let open = |(digest, own)| Some(Unproved { digest, file: File::open(self.blob_path(digest)).ok()?, own });
        all.filter_map(open).collect()
    }

    /// Removes a blob that was found to be wrong. Readers that have it open keep it.
    pub fn reject(&self, digest: Sha256Digest) {
        let _one_at_a_time = self.commits.lock();
        self.state().remove(digest);
        self.remove_blobs(&[digest]);
    }

    /// Takes back an orphan that was proved to be the package `id`.
    pub fn adopt(&self, orphan: Sha256Digest, blob: &Blob, id: EntryId, build: Option<BuildKey>) -> Placement {
        let _one_at_a_time = self.adoptions.lock();
        let path = self.blob_path(orphan);
        if !path.is_file() {
            return Placement::Unkept("it was evicted meanwhile".to_owned());
        }
        self.state().remove(orphan);
        let placement = self.place(&path, blob, id, build);
        if placement == Placement::Kept {
            self.metrics.recovered.increase();
        } else if let Ok(metadata) = self.blob_path(orphan).metadata() {
            self.state().add_orphan(orphan, metadata.len());
        }
        placement
    }
}
