//! A digest of a package's values. The cache keeps it to compare later indexes with a cached
//! package without reading the package.

use std::borrow::Cow;

use sha2::{Digest as _, Sha256};

use super::{AuxKey, AuxKeys, AuxValues, EntryValues};

/// The first 128 bits of a SHA-256 over the compared keys and all values, each in its simplest
/// form. A record of the cache has no room for more. To forge a match, the writer of an index would
/// have to find other values with the same bits.
///
/// Where two digests differ, only the package itself shows whether that is an index mismatch, and
/// in which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AuxDigest(pub [u8; 16]);

impl AuxDigest {
    fn of<'a>(compared: AuxKeys, value: impl Fn(AuxKey) -> Cow<'a, str>) -> Self {
        // One update of a kilobyte is faster than dozens of a few bytes each.
        let mut text = Vec::with_capacity(2048);
        text.extend_from_slice(&compared.bits().to_be_bytes());
        for key in AuxKey::ALL {
            let value = value(key);
            text.extend_from_slice(&(value.len() as u64).to_be_bytes());
            text.extend_from_slice(value.as_bytes());
        }
        let mut first = [0; 16];
        first.iter_mut().zip(Sha256::digest(&text)).for_each(|(to, from)| *to = from);
        Self(first)
    }
}

impl AuxValues {
    /// The digest of the package's values.
    #[must_use]
    pub fn digest(&self) -> AuxDigest {
        AuxDigest::of(AuxKeys::ALL, |key| self.simplest(key))
    }
}

impl EntryValues<'_> {
    /// The digest of the entry's values. Where the entry is no mismatch, the cache may keep this
    /// digest instead of the package's. The two differ where the header has a value and the package
    /// none, and where not all keys are compared.
    #[must_use]
    pub fn digest(&self) -> AuxDigest {
        AuxDigest::of(self.compared, |key| self.simplest(key))
    }

    /// Whether the entry means the same as the package or entry that `digest` was made from.
    #[must_use]
    pub fn agrees_with(&self, digest: AuxDigest) -> bool {
        // The fast case: nearly always the values are in their simplest form already.
        AuxDigest::of(self.compared, |key| self.get(key).into()) == digest || self.digest() == digest
    }
}
