//! Rows that find the blob of a key that another machine sends.

use sha2::{Digest as _, Sha256};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::rows::{BuildKey, RowKey};
use crate::index::{Digest, Sha256Digest, ShareKey};

/// Names a binhost in the database: 16 bytes of a SHA-256 of its directory's name in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BinhostTag([u8; 16]);

impl BinhostTag {
    /// The binhost that is called `binhost` in the cache.
    #[must_use]
    pub(crate) fn new(binhost: &str) -> Self {
        Self(first_16(Sha256::new_with_prefix(b"binhost\0").chain_update(binhost)))
    }
}

fn first_16(hash: Sha256) -> [u8; 16] {
    let mut first = [0; 16];
    first.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
    first
}

/// What the catalogue records of a blob beside the blob's entry.
#[derive(Debug, Clone, Copy, Default)]
pub struct BlobKeys {
    /// The build, for the build history.
    pub(crate) build: Option<BuildKey>,
    /// The key by which other machines ask for the blob, and the binhost that the blob came from.
    pub(crate) shared: Option<(ShareKey, BinhostTag)>,
}

/// Value of a key.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SharedValue {
    /// SHA-256 of the blob.
    digest: [u8; 32],
    /// `BinhostTag` of the binhost that it came from.
    binhost: [u8; 16],
}

/// The key of the row for a key of another machine.
pub(super) fn row_key(key: &ShareKey) -> RowKey {
    let ShareKey { sha1, md5, size } = key;
    let hash = Sha256::new_with_prefix(b"shared\0").chain_update(sha1.0).chain_update(md5.0);
    RowKey::of_share(first_16(hash.chain_update(size.to_be_bytes())))
}

/// The value of a row: the blob, and the binhost that it came from.
pub(super) fn value(digest: Sha256Digest, binhost: BinhostTag) -> SharedValue {
    SharedValue { digest: digest.0, binhost: binhost.0 }
}

/// The blob and the binhost of a row.
pub(super) fn parts(value: &[u8]) -> Option<(Sha256Digest, BinhostTag)> {
    let SharedValue { digest, binhost } = SharedValue::read_from_bytes(value).ok()?;
    Some((Digest(digest), BinhostTag(binhost)))
}
