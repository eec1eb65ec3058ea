//! Recovery of blobs without a record, which a sweep finds after the start and before the first
//! download, and of blobs with a record that is not strict enough.
//!
//! An open of the package proves such a blob again, and takes it back if it is right.

use std::fs::{self, File};
use std::path::Path;
use std::sync::{Arc, Once};

use parking_lot::Mutex;

use crate::index::{EntryId, Sha256Digest};
use crate::verify::Policy;

use super::blob::{Blob, Placement};
use super::blob_files::BlobFiles;
use super::db::build_history::MAX_BUILDS;
use super::db::shared::BlobKeys;
use super::evictor::Evictor;

/// A file that may be the package of an entry, still to be proved.
#[derive(Debug)]
pub(crate) struct Unproved {
    /// The file's name, which need not be its digest.
    pub digest: Sha256Digest,
    /// The file, open for reading.
    pub file: File,
    /// Whether the file is the entry's own blob, by a weaker proof.
    pub own: bool,
}

/// Finds blobs without a record, and takes them back once they are proved.
#[derive(Debug)]
pub(crate) struct Recovery {
    blobs: Arc<BlobFiles>,
    evictor: Arc<Evictor>,
    /// Held while a blob without a record gets one.
    pub(super) adoptions: Mutex<()>,
    /// Completed once the cache was searched for blobs without a record.
    swept: Once,
}

impl Recovery {
    pub(super) fn new(blobs: &Arc<BlobFiles>, evictor: &Arc<Evictor>) -> Self {
        let (blobs, evictor) = (Arc::clone(blobs), Arc::clone(evictor));
        Self { blobs, evictor, adoptions: Mutex::new(()), swept: Once::new() }
    }

    /// Blobs that no record names, with their sizes. Waits for the sweep.
    pub(crate) fn orphans(&self) -> Vec<(Sha256Digest, u64)> {
        self.sweep();
        self.blobs.state().orphans()
    }

    /// Opens one of the orphans, if it still exists.
    pub(crate) fn orphan(&self, digest: Sha256Digest) -> Option<Unproved> {
        let file = File::open(self.blobs.path(digest)).ok()?;
        Some(Unproved { digest, file, own: false })
    }

    /// Searches, once, for blobs that no record names, as a kill or a lost catalogue leaves them.
    /// From then on such blobs count against the bound.
    pub(crate) fn sweep(&self) {
        self.swept.call_once(|| {
            let found = self.find_orphans();
            if found > 0 {
                tracing::info!(found, "blobs in the cache without a record; each is proved again when it is asked for");
            }
            self.evictor.shrink_to(self.evictor.limits().bound);
            self.blobs.catalogue.builds().prune(MAX_BUILDS);
            self.blobs.catalogue.prune_entries();
        });
    }

    fn find_orphans(&self) -> usize {
        // Under the lock, no blob can be between its rename and its record.
        let _commits = self.blobs.commits.lock();
        let mut found = 0;
        for directory in fs::read_dir(self.blobs.directory.join("blobs")).into_iter().flatten().flatten() {
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
        let mut state = self.blobs.state();
        if state.knows(digest) {
            return false;
        }
        state.add_orphan(digest, metadata.len());
        true
    }

    /// Whether there may be blobs of this size without a record, or an adoption of one. Never
    /// blocks on the sweep or an adoption.
    pub(crate) fn may_have_orphans(&self, size: u64) -> bool {
        let others = || !self.blobs.state().candidates(size, !self.blobs.catalogue.database().is_open()).is_empty();
        let adopting = || self.adoptions.is_locked();
        // The order matters: a blob that is being adopted is no orphan any more, and has no record
        // yet.
        !self.swept.is_completed() || others() || adopting()
    }

    /// Files that may be the package of an entry, each still to be proved. Candidates are the
    /// entry's own blob, if its proof is weaker than `policy` asks, and orphans of that size;
    /// without a catalogue, any blob of that size. Waits for the sweep.
    pub(crate) fn unproved(&self, id: EntryId, size: u64, policy: &Policy) -> Vec<Unproved> {
        self.sweep();
        // Under the lock, a blob in adoption is either still an orphan or has its record.
        let _adopted = self.adoptions.lock();
        let own = self
            .blobs
            .catalogue
            .find(id)
            .filter(|(_, record)| record.size == size && !policy.admits(&record.assurance));
        let recorded = !self.blobs.catalogue.database().is_open();
        let others = self.blobs.state().candidates(size, recorded);
        let own = own.into_iter().map(|(digest, _)| (digest, true));
        let all = own.chain(others.into_iter().map(|digest| (digest, false)));
        let open = |(digest, own)| Some(Unproved { digest, file: File::open(self.blobs.path(digest)).ok()?, own });
        all.filter_map(open).collect()
    }

    /// Takes back an orphan that was proved to be the package `id`.
    pub(crate) fn adopt(&self, orphan: Sha256Digest, blob: &Blob, id: EntryId, keys: BlobKeys) -> Placement {
        let _one_at_a_time = self.adoptions.lock();
        let path = self.blobs.path(orphan);
        if !path.is_file() {
            return Placement::Unkept("it was evicted meanwhile".to_owned());
        }
        self.blobs.state().remove(orphan);
        let placement = self.blobs.place(&path, blob, id, keys);
        if placement == Placement::Kept {
            self.blobs.metrics.recovered.increase();
        } else if let Ok(metadata) = self.blobs.path(orphan).metadata() {
            self.blobs.state().add_orphan(orphan, metadata.len());
        }
        placement
    }
}
