//! Bodies are read again, piece by piece: what is no longer what was verified is dropped, and fetched anew when it is wanted.
//!
//! A disk that turns a bit leaves size and modification time as they were; only the digest tells, and nobody computes that
//! when a cached body is opened.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::fs::Advice;
use sha2::{Digest as _, Sha256};

use super::Store;
use crate::index::{Digest, Sha256Digest};

/// Bytes read at once.
pub const SCRUB_STEP: usize = 256 << 10;

/// One body that is being read again.
#[derive(Debug)]
pub struct Scrub {
    store: Arc<Store>,
    digest: Sha256Digest,
    file: Option<File>,
    position: u64,
    hash: Sha256,
    buffer: Vec<u8>,
}

/// What a step found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrubbed {
    /// There is more to read.
    Unfinished,
    /// It is what was verified: so many bytes.
    Sound(u64),
    /// It was not, or could not be read, and is no longer there.
    Damaged,
    /// It was evicted meanwhile.
    Gone,
}

impl Store {
    /// The body whose digest follows `after`, or the first one where there is none. `None`: there are no bodies.
    #[must_use]
    pub fn scrub(self: &Arc<Self>, after: Sha256Digest) -> Option<Scrub> {
        let digest = self.state().next_body(after)?;
        let file = File::open(self.body_path(digest)).ok();
        // What the kernel remembers of it says nothing about the disk.
        file.iter().for_each(|file| forget(file, 0, None));
        let (hash, buffer) = (Sha256::new(), Vec::new());
        Some(Scrub { store: Arc::clone(self), digest, file, position: 0, hash, buffer })
    }
}

/// The kernel drops what it remembers of the file, if it likes.
fn forget(file: &File, position: u64, length: Option<NonZeroU64>) {
    let _ = rustix::fs::fadvise(file, position, length, Advice::DontNeed);
}

impl Scrub {
    /// SHA-256 that the body has to have.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Reads [`SCRUB_STEP`] bytes. Blocks.
    pub fn step(&mut self) -> Scrubbed {
        let Some(file) = &self.file else { return self.judge(Err(io::ErrorKind::NotFound.into())) };
        self.buffer.resize(SCRUB_STEP, 0);
        match file.read_at(&mut self.buffer, self.position) {
            Ok(0) => {
                let found = Digest(std::mem::take(&mut self.hash).finalize().into());
                self.judge(Ok(found))
            }
            Ok(count) => {
                self.hash.update(self.buffer.get(..count).unwrap_or_default());
                // It is not to push what is really read out of memory.
                let read = NonZeroU64::new(count as u64);
                forget(file, self.position, read);
                self.position += count as u64;
                Scrubbed::Unfinished
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Scrubbed::Unfinished,
            Err(error) => self.judge(Err(error)),
        }
    }

    fn judge(&self, found: io::Result<Sha256Digest>) -> Scrubbed {
        let (store, path) = (&self.store, self.store.body_path(self.digest));
        if !store.state().has_body(self.digest) {
            return Scrubbed::Gone;
        }
        store.metrics.scrubbed.increase();
        let problem = match found {
            Ok(found) if found == self.digest => return Scrubbed::Sound(self.position),
            Ok(found) => format!("its SHA-256 is {found} now"),
            Err(error) => error.to_string(),
        };
        store.metrics.damaged.increase();
        tracing::warn!(body = %path.display(), problem, "a cached package is damaged: it is removed, and fetched again when it is wanted; check the disk");
        store.reject(self.digest);
        Scrubbed::Damaged
    }
}
