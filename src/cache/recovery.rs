//! Bodies without a record, found after the start and before anything is downloaded, or with one that is not strict enough:
//! taken back when they are asked for and prove right.

use std::fs::{self, File};
use std::path::Path;
use std::sync::PoisonError;

use crate::index::{EntryId, Sha256Digest};
use crate::verify::Policy;

use super::{Blob, BuildKey, Placement, Store};

/// A file that may be the package asked for.
#[derive(Debug)]
pub struct Unproved {
    /// Its name; not known to be its digest.
    pub digest: Sha256Digest,
    /// Open for reading.
    pub file: File,
    /// It was the package already, by a weaker proof.
    pub own: bool,
}

/// What was removed on request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Bodies.
    pub bodies: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl Store {
    /// Bodies that no record names, with their sizes. Waits for the sweep.
    #[must_use]
    pub fn orphans(&self) -> Vec<(Sha256Digest, u64)> {
        self.sweep();
        self.state().orphans()
    }

    /// One of them, if it is still there.
    #[must_use]
    pub fn orphan(&self, digest: Sha256Digest) -> Option<Unproved> {
        let file = File::open(self.body_path(digest)).ok()?;
        Some(Unproved { digest, file, own: false })
    }

    /// Removes every body that is neither pinned nor one of the entries `named`, and those without a record. `named` is asked
    /// for while nothing can land.
    pub fn retain(&self, named: impl IntoIterator<Item = EntryId>) -> Removed {
        self.sweep();
        let _one_at_a_time = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        // Only now: what had landed after that would have no name.
        let named = named.into_iter().filter_map(|id| self.digest(id)).collect();
        let (gone, bytes) = self.state().take_unnamed(&named);
        self.remove_bodies(&gone);
        Removed { bodies: gone.len() as u64, bytes }
    }

    /// Removes the body of an entry, pinned or not; its bytes. `None`: it is not here.
    pub fn forget(&self, id: EntryId) -> Option<u64> {
        let (digest, record) = self.catalogue.find(id)?;
        let here = self.state().has_body(digest);
        here.then(|| self.reject(digest)).map(|()| record.size)
    }

    /// SHA-256 of the body of an entry, where there is one; a look into the catalogue only.
    #[must_use]
    pub fn digest(&self, id: EntryId) -> Option<Sha256Digest> {
        self.catalogue.find(id).map(|(digest, _)| digest)
    }

    /// Looks, once, for bodies that no record names, as a kill or a lost catalogue leaves them. They count against the
    /// bound from then on.
    pub fn sweep(&self) {
        self.swept.call_once(|| {
            let found = self.find_orphans();
            if found > 0 {
                tracing::info!(
                    found,
                    "bodies in the cache without a record; each is proved again when it is asked for"
                );
            }
            self.shrink_to(self.limits().bound);
            self.prune_build_history();
        });
    }

    fn find_orphans(&self) -> usize {
        // No body may be between its rename and its record meanwhile.
        let _commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = 0;
        for directory in fs::read_dir(self.directory.join("bodies")).into_iter().flatten().flatten() {
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
            tracing::warn!(path = %file.path().display(), "this is no body of a package; binhostfs leaves it alone");
            return false;
        };
        let mut state = self.state();
        if state.knows(digest) {
            return false;
        }
        state.add_orphan(digest, metadata.len());
        true
    }

    /// Whether [`Store::unproved`], or [`Store::get`] after it, may find something that `get` did not. Waits for nothing.
    #[must_use]
    pub fn may_have_unproved(&self, id: EntryId, size: u64) -> bool {
        let others = || !self.state().candidates(size, !self.catalogue.is_open()).is_empty();
        let adopting = || self.adoptions.try_lock().is_err();
        let own = || self.catalogue.find(id).is_some_and(|(_, record)| record.size == size);
        // In this order: a body that is being adopted is no orphan any more, and has no record yet.
        !self.swept.is_completed() || others() || adopting() || own()
    }

    /// Files that may be the package asked for, each still to be proved: the entry's own body, where it was proved less
    /// strictly than `policy` asks, and orphans of that size; without a catalogue, any body of that size. Waits for the
    /// sweep.
    #[must_use]
    pub fn unproved(&self, id: EntryId, size: u64, policy: &Policy) -> Vec<Unproved> {
        self.sweep();
        // What is being adopted is either still here, or has its record when this is over.
        let _adopted = self.adoptions.lock().unwrap_or_else(PoisonError::into_inner);
        let own =
            self.catalogue.find(id).filter(|(_, record)| record.size == size && !policy.admits(&record.assurance));
        let recorded = !self.catalogue.is_open();
        let others = self.state().candidates(size, recorded);
        let own = own.into_iter().map(|(digest, _)| (digest, true));
        let all = own.chain(others.into_iter().map(|digest| (digest, false)));
        let open = |(digest, own)| Some(Unproved { digest, file: File::open(self.body_path(digest)).ok()?, own });
        all.filter_map(open).collect()
    }

    /// Removes a body that was found not to be what it should be. Who has it open keeps it.
    pub fn reject(&self, digest: Sha256Digest) {
        let _one_at_a_time = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        self.state().remove(digest);
        self.remove_bodies(&[digest]);
    }

    /// Takes a body back that was proved to be the package `id`.
    pub fn adopt(&self, orphan: Sha256Digest, body: &Blob, id: EntryId, witness: Option<BuildKey>) -> Placement {
        let _one_at_a_time = self.adoptions.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.body_path(orphan);
        if !path.is_file() {
            return Placement::Unkept("it was evicted meanwhile".to_owned());
        }
        self.state().remove(orphan);
        let placement = self.place(&path, body, id, witness);
        if placement == Placement::Kept {
            self.metrics.recovered.increase();
        } else if let Ok(metadata) = self.body_path(orphan).metadata() {
            self.state().add_orphan(orphan, metadata.len());
        }
        placement
    }
}
