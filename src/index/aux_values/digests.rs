//! What the cache keeps of a package's values: a digest each, so that a later index can be held against a cached package
//! without reading it.
//!
//! Whoever writes the index would have to find another text with the same 128 bits of SHA-256.

use sha2::{Digest as _, Sha256};

use super::key::PerKey;
use super::{AuxKey, AuxKeys, AuxValues, EntryValues};

/// Bytes of one digest.
const LENGTH: usize = 16;

/// The digests of [`AuxValues`], each of the simplest form; of Portage's defaults there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuxDigests(PerKey<Option<[u8; LENGTH]>>);

impl AuxDigests {
    /// Those of a package.
    #[must_use]
    pub fn of(values: &AuxValues) -> Self {
        Self(PerKey::of(|key| digest(key, &values.simplest(key))))
    }

    /// The keys in which an entry says something else than the package: those that [`AuxValues::compare`] has as mismatches.
    #[must_use]
    pub fn mismatches(&self, entry: &EntryValues<'_>) -> AuxKeys {
        let mut found = AuxKeys::default();
        for key in entry.compared() {
            let (index, package) = (entry.get(key), *self.0.get(key));
            // Nearly always the entry has the simplest form already.
            let same = digest(key, index) == package
                || key.is_inherited() && package.is_none()
                || digest(key, &entry.simplest(key)) == package;
            if !same {
                found.insert(key);
            }
        }
        found
    }

    /// As bytes: which keys have a digest (32 bits, big endian, [`AuxKey::Bdepend`] the lowest), and the digests in the order
    /// of the keys. Some 200 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut keys = AuxKeys::default();
        let mut digests = Vec::with_capacity(4 + LENGTH * AuxKey::ALL.len());
        for key in AuxKey::ALL {
            if let Some(digest) = self.0.get(key) {
                keys.insert(key);
                digests.extend(digest);
            }
        }
        let mut bytes = keys.bits().to_be_bytes().to_vec();
        bytes.append(&mut digests);
        bytes
    }

    /// From what [`to_bytes`](Self::to_bytes) gave.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (bits, mut rest) = bytes.split_first_chunk()?;
        let keys = AuxKeys::from_bits(u32::from_be_bytes(*bits))?;
        let mut digests = PerKey::of(|_| None);
        for key in keys.iter() {
            let (digest, after) = rest.split_first_chunk()?;
            *digests.get_mut(key) = Some(*digest);
            rest = after;
        }
        rest.is_empty().then_some(Self(digests))
    }
}

fn digest(key: AuxKey, value: &str) -> Option<[u8; LENGTH]> {
    let first = || Sha256::digest(value).first_chunk().copied();
    (value != key.default()).then(first).flatten()
}
