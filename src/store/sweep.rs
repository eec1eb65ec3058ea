//! Bodies without a record: found after the start, before anything is downloaded, taken back when they are asked for and prove right.

use std::fs::{self, File};
use std::path::Path;
use std::sync::PoisonError;

use crate::index::{EntryId, Sha256Digest};

use super::incoming::Incoming;
use super::{Body, Placement, Store};

impl Store {
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
            self.shrink_to(self.bound);
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

    /// Files of that size that may be the package asked for, each still to be proved. Waits for the sweep. Without a
    /// catalogue, any body may be.
    #[must_use]
    pub fn orphans(&self, size: u64) -> Vec<(Sha256Digest, File)> {
        self.sweep();
        let recorded = !self.catalogue.is_open();
        let digests = self.state().candidates(size, recorded);
        digests.into_iter().filter_map(|digest| Some((digest, File::open(self.body_path(digest)).ok()?))).collect()
    }

    /// Takes an orphan back that was proved to be the package `id`.
    pub fn adopt(&self, orphan: Sha256Digest, body: &Body, id: EntryId) -> Placement {
        let path = self.body_path(orphan);
        let Ok(file) = File::open(&path) else {
            return Placement::Unkept("it was evicted meanwhile".to_owned());
        };
        let mut incoming = Incoming::orphan(self, file, path);
        self.state().remove(orphan);
        let placement = self.place(&incoming, body, id);
        incoming.leave_file();
        if placement == Placement::Kept {
            self.metrics.adopted.increase();
        } else if let Ok(metadata) = self.body_path(orphan).metadata() {
            self.state().add_orphan(orphan, metadata.len());
        }
        placement
    }
}
