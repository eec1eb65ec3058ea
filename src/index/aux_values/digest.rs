//! What the cache keeps of a package's values, so that a later index can be held against a cached package without reading it.

use std::borrow::Cow;

use sha2::{Digest as _, Sha256};

use super::{AuxKey, AuxKeys, AuxValues, EntryValues};

/// 128 bits of SHA-256 over all values, each in its simplest form, and the keys that are compared: a record of the cache has room
/// for no more. Who writes an index would have to find other values with the same bits.
///
/// Where two digests differ, the package itself says whether that is an index mismatch, and in which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AuxDigest(pub [u8; 16]);

impl AuxDigest {
    fn of<'a>(compared: AuxKeys, value: impl Fn(AuxKey) -> Cow<'a, str>) -> Self {
        let mut hash = Sha256::new_with_prefix(compared.bits().to_be_bytes());
        for key in AuxKey::ALL {
            let value = value(key);
            hash.update((value.len() as u64).to_be_bytes());
            hash.update(value.as_bytes());
        }
        let mut first = [0; 16];
        first.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
        Self(first)
    }
}

impl AuxValues {
    /// That of the package.
    #[must_use]
    pub fn digest(&self) -> AuxDigest {
        AuxDigest::of(AuxKeys::ALL, |key| self.simplest(key))
    }
}

impl EntryValues<'_> {
    /// That of the entry. For one that is no mismatch it may be kept instead of its package's: it is another one where the package
    /// has no value and the header has, and where not all keys are compared.
    #[must_use]
    pub fn digest(&self) -> AuxDigest {
        AuxDigest::of(self.compared, |key| self.simplest(key))
    }

    /// Whether the entry means the same as the package, or the entry, with this digest.
    #[must_use]
    pub fn agrees_with(&self, digest: AuxDigest) -> bool {
        // Nearly always the values are in their simplest form already.
        AuxDigest::of(self.compared, |key| self.get(key).into()) == digest || self.digest() == digest
    }
}
