//! What the catalogue knows of a body, without opening it.

use super::Store;
use crate::index::{EntryId, Sha256Digest};
use crate::verify::{Assurance, Policy};

/// A body that [`Store::get`] would most likely have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// SHA-256 of it.
    pub digest: Sha256Digest,
    /// How it was proved.
    pub assurance: Assurance,
    /// When its last byte was written, seconds since the epoch.
    pub since: u64,
}

impl Store {
    /// The body of an entry, where it is here and was proved as `policy` asks; a look into the catalogue only.
    #[must_use]
    pub fn known(&self, id: EntryId, size: u64, policy: &Policy) -> Option<Known> {
        let (digest, record) = self.catalogue.find(id)?;
        let since = u64::try_from(record.mtime / 1_000_000_000).unwrap_or_default();
        let known = Known { digest, assurance: record.assurance, since };
        (record.size == size && policy.admits(&known.assurance)).then_some(known)
    }
}
