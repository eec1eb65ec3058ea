//! Information about a blob without reading it: from the catalogue, and the source URL from an
//! extended attribute of its file.
//!
//! The attribute costs no write of its own and is removed with the file. Where the file system has
//! no such attributes, only the URL is missing.

use std::collections::HashMap;

use super::{Blob, Cache};
use crate::index::{AuxDigest, EntryId, Sha256Digest};
use crate::verify::{Assurance, Policy};

/// A blob that [`Cache::get`] would most likely return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// SHA-256 of the whole blob.
    pub digest: Sha256Digest,
    /// How the blob was proved.
    pub assurance: Assurance,
    /// Modification time of the file, which is when its last byte was written, in seconds since the
    /// epoch.
    pub since: u64,
}

/// Name of the extended attribute.
const SOURCE: &str = "user.binhostfs.source";
/// Longest value that is read, in bytes.
const MAX_SOURCE: usize = 2048;

impl Blob {
    /// Records the URL of its binhost that the blob was fetched from, without credentials.
    pub fn note_source(&self, url: &str) {
        let flags = rustix::fs::XattrFlags::empty();
        if let Err(error) = rustix::fs::fsetxattr(&*self.file, SOURCE, url.as_bytes(), flags) {
            tracing::debug!(error = %std::io::Error::from(error), "where a blob came from is not noted");
        }
    }
}

impl Cache {
    /// The URL of its binhost that a blob was fetched from, where it is recorded.
    #[must_use]
    pub fn source(&self, digest: Sha256Digest) -> Option<String> {
        let mut value = vec![0; MAX_SOURCE];
        let length = rustix::fs::getxattr(self.blob_path(digest), SOURCE, &mut value).ok()?;
        value.truncate(length);
        String::from_utf8(value).ok().filter(|url| !url.chars().any(char::is_control))
    }

    /// The digest of the blob of each entry and the `AuxDigest` of its package, by entry and size,
    /// for all blobs in the cache, however they were proved. Reads the catalogue only.
    #[must_use]
    pub fn aux_digests(&self) -> HashMap<(EntryId, u64), (Sha256Digest, AuxDigest)> {
        let entries = self.catalogue.entries().into_iter();
        entries.map(|(id, digest, record)| ((id, record.size), (digest, record.values))).collect()
    }

    /// The blob of an entry, if the cache has it with a proof that `policy` accepts. Reads the
    /// catalogue only.
    #[must_use]
    pub fn known(&self, id: EntryId, size: u64, policy: &Policy) -> Option<BlobInfo> {
        let (digest, record) = self.catalogue.find(id)?;
        let since = u64::try_from(record.mtime / 1_000_000_000).unwrap_or_default();
        let known = BlobInfo { digest, assurance: record.assurance, since };
        (record.size == size && policy.admits(&known.assurance)).then_some(known)
    }
}
