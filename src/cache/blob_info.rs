//! What is known of a body, without reading it: from the catalogue, and where it came from, which stands in an extended
//! attribute of its file. That costs no write of its own, goes with the body, and is missed by nobody where the file system has
//! no such attributes.

use std::collections::HashMap;

use super::{Blob, Store};
use crate::index::{AuxDigest, EntryId, Sha256Digest};
use crate::verify::{Assurance, Policy};

/// A body that [`Store::get`] would most likely have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// SHA-256 of it.
    pub digest: Sha256Digest,
    /// How it was proved.
    pub assurance: Assurance,
    /// When its last byte was written, seconds since the epoch.
    pub since: u64,
}

/// Name of the attribute.
const SOURCE: &str = "user.binhostfs.source";
/// Longest value that is read, bytes.
const MAX_SOURCE: usize = 2048;

impl Blob {
    /// It was fetched from this URL of its binhost, without credentials.
    pub fn note_source(&self, url: &str) {
        let flags = rustix::fs::XattrFlags::empty();
        if let Err(error) = rustix::fs::fsetxattr(&*self.file, SOURCE, url.as_bytes(), flags) {
            tracing::debug!(error = %std::io::Error::from(error), "where a body came from is not noted");
        }
    }
}

impl Store {
    /// The URL of its binhost that a body was fetched from, where that is known.
    #[must_use]
    pub fn source(&self, digest: Sha256Digest) -> Option<String> {
        let mut value = vec![0; MAX_SOURCE];
        let length = rustix::fs::getxattr(self.body_path(digest), SOURCE, &mut value).ok()?;
        value.truncate(length);
        String::from_utf8(value).ok().filter(|url| !url.chars().any(char::is_control))
    }

    /// What the package of each entry says of itself, by the entry and its size: of all that are here, however they were proved.
    /// A look into the catalogue only.
    #[must_use]
    pub fn aux_digests(&self) -> HashMap<(EntryId, u64), AuxDigest> {
        self.catalogue.entries().into_iter().map(|(id, record)| ((id, record.size), record.values)).collect()
    }

    /// The body of an entry, where it is here and was proved as `policy` asks; a look into the catalogue only.
    #[must_use]
    pub fn known(&self, id: EntryId, size: u64, policy: &Policy) -> Option<BlobInfo> {
        let (digest, record) = self.catalogue.find(id)?;
        let since = u64::try_from(record.mtime / 1_000_000_000).unwrap_or_default();
        let known = BlobInfo { digest, assurance: record.assurance, since };
        (record.size == size && policy.admits(&known.assurance)).then_some(known)
    }
}
