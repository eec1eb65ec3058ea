//! Reads blobs again, piece by piece. Drops a blob that differs from its verified bytes; the next
//! open fetches it again.
//!
//! A flipped bit on the disk leaves size and modification time as they were. Only the digest shows
//! it, and opening a cached blob computes no digest.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::fs::Advice;
use sha2::{Digest as _, Sha256};

use super::blob_files::BlobFiles;
use crate::index::{Digest, Sha256Digest};

/// Bytes that one step reads.
pub(crate) const SCRUB_STEP: usize = 256 << 10;

/// One blob that is being read again.
#[derive(Debug)]
pub(crate) struct Scrub {
    blobs: Arc<BlobFiles>,
    digest: Sha256Digest,
    file: Option<File>,
    position: u64,
    hash: Sha256,
    buffer: Vec<u8>,
}

/// Result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scrubbed {
    /// There is more to read.
    Unfinished,
    /// The blob has the verified digest; its size in bytes.
    Sound(u64),
    /// The blob had another digest, or could not be read, and was removed.
    Damaged,
    /// The blob was evicted meanwhile.
    Gone,
}

/// Asks the kernel to drop its cached pages of the file.
fn forget(file: &File, position: u64, length: Option<NonZeroU64>) {
    let _ = rustix::fs::fadvise(file, position, length, Advice::DontNeed);
}

impl Scrub {
    /// Starts with the blob whose digest follows `after`, or with the first one if none follows.
    /// `None`: there are no blobs.
    pub(super) fn start(blobs: &Arc<BlobFiles>, after: Sha256Digest) -> Option<Self> {
        let digest = blobs.state().next_blob(after)?;
        let file = File::open(blobs.path(digest)).ok();
        // The kernel's cached pages say nothing about the disk.
        file.iter().for_each(|file| forget(file, 0, None));
        let (hash, buffer) = (Sha256::new(), Vec::new());
        Some(Self { blobs: Arc::clone(blobs), digest, file, position: 0, hash, buffer })
    }

    /// SHA-256 that the blob must have.
    #[must_use]
    pub(crate) fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Reads up to [`SCRUB_STEP`] bytes. Blocks.
    pub(crate) fn step(&mut self) -> Scrubbed {
        let Some(file) = &self.file else { return self.judge(Err(io::ErrorKind::NotFound.into())) };
        self.buffer.resize(SCRUB_STEP, 0);
        match file.read_at(&mut self.buffer, self.position) {
            Ok(0) => {
                let found = Digest(std::mem::take(&mut self.hash).finalize().into());
                self.judge(Ok(found))
            }
            Ok(count) => {
                self.hash.update(self.buffer.get(..count).unwrap_or_default());
                // Pages of the scrub must not displace pages that readers use.
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
        let (blobs, path) = (&self.blobs, self.blobs.path(self.digest));
        if !blobs.state().has_blob(self.digest) {
            return Scrubbed::Gone;
        }
        blobs.metrics.scrubbed.increase();
        let problem = match found {
            Ok(found) if found == self.digest => return Scrubbed::Sound(self.position),
            Ok(found) => format!("its SHA-256 is {found} now"),
            Err(error) => error.to_string(),
        };
        blobs.metrics.damaged.increase();
        tracing::warn!(blob = %path.display(), problem, "a cached package is damaged: it is removed, and fetched again when it is wanted; check the disk");
        blobs.reject(self.digest);
        Scrubbed::Damaged
    }
}
