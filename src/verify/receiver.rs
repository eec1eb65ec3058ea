//! Receives the bytes of a package from the network, or reads them from a file on disk.

use std::cmp::Ordering;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::proof::Proof;
use super::{Policy, Verified, VerifyError};
use crate::index::Entry;

/// Bytes that [`recheck`] reads at once.
const READ_SIZE: usize = 512 << 10;

/// Writes a package to a file and proves it while it arrives.
pub struct Receiver {
    file: File,
    entry: Entry,
    policy: Policy,
    proof: Proof,
    received: u64,
    refused: bool,
}

impl Receiver {
    /// Receives the package of `entry` into `file`, which is empty and open for reading and
    /// writing. Space may be preallocated: the receiver writes at offsets of its own.
    #[must_use]
    pub fn new(file: File, entry: Entry, policy: Policy) -> Self {
        let proof = Proof::new(&entry);
        Self { file, entry, policy, proof, received: 0, refused: false }
    }

    /// Number of bytes that were written and digested.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Writes the next bytes of the package. The call blocks, and digests take about 5 ms per MiB.
    /// Large chunks cost less.
    ///
    /// # Errors
    /// [`VerifyError::Io`]: nothing of the chunk counts, and it can be written again, e.g. once
    /// there is space. Any other error: the bytes are not the package, and only
    /// [`Receiver::restart`] resets the receiver.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), VerifyError> {
        if self.refused {
            return Err(VerifyError::Refused);
        }
        let length = chunk.len() as u64;
        if length > self.entry.size - self.received {
            self.refused = true;
            return Err(VerifyError::TooLong { expected: self.entry.size });
        }
        if let Err(source) = self.file.write_all_at(chunk, self.received) {
            // Truncating frees the space of a partly written chunk. If that fails, too, a later
            // write overwrites the part.
            drop(self.file.set_len(self.received));
            return Err(VerifyError::Io { attempted: "writing a package to the cache", source });
        }
        self.received += length;
        self.proof.update(chunk, &self.entry, &self.policy).inspect_err(|_| self.refused = true)?;
        Ok(())
    }

    /// Writes to another file from now on, as if the disk had changed the contents of the first.
    #[cfg(test)]
    pub(super) fn exchange_file(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }

    /// Discards all bytes received. The caller sends the package again from its first byte.
    ///
    /// # Errors
    /// The file cannot be truncated.
    pub fn restart(&mut self) -> Result<(), VerifyError> {
        self.file.set_len(0).map_err(VerifyError::io("truncating an incomplete package"))?;
        self.proof = Proof::new(&self.entry);
        self.received = 0;
        self.refused = false;
        Ok(())
    }

    /// Judges the package after its last byte.
    ///
    /// # Errors
    /// See [`VerifyError`]. The file is closed but not unlinked; unlinking is the caller's job.
    pub fn finish(self) -> Result<Verified, VerifyError> {
        let Self { file, entry, policy, proof, received, refused } = self;
        if refused {
            return Err(VerifyError::Refused);
        }
        if received < entry.size {
            return Err(VerifyError::Truncated { expected: entry.size, got: received });
        }
        same_length(&file, &entry)?;
        let (digest, assurance, values) = proof.finish(&file, &entry, &policy)?;
        Ok(Verified { file, entry, digest, assurance, values })
    }
}

/// Proves a whole file that is already on disk. The file is only read.
///
/// # Errors
/// See [`VerifyError`] for all the reasons.
pub fn recheck(file: File, entry: Entry, policy: &Policy) -> Result<Verified, VerifyError> {
    same_length(&file, &entry)?;
    let mut proof = Proof::new(&entry);
    let mut buffer = vec![0; READ_SIZE];
    let mut position = 0;
    while position < entry.size {
        let count = usize::try_from(entry.size - position).unwrap_or(usize::MAX).min(READ_SIZE);
        let chunk = buffer.get_mut(..count).unwrap_or_default();
        file.read_exact_at(chunk, position).map_err(VerifyError::io("reading a package from the cache"))?;
        proof.update(chunk, &entry, policy)?;
        position += chunk.len() as u64;
    }
    let (digest, assurance, values) = proof.finish(&file, &entry, policy)?;
    Ok(Verified { file, entry, digest, assurance, values })
}

/// Checks that the file has SIZE bytes, so that only proved bytes are ever served.
fn same_length(file: &File, entry: &Entry) -> Result<(), VerifyError> {
    let got = file.metadata().map_err(VerifyError::io("reading the length of a package in the cache"))?.len();
    let expected = entry.size;
    match got.cmp(&expected) {
        Ordering::Less => Err(VerifyError::Truncated { expected, got }),
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(VerifyError::TooLong { expected }),
    }
}
