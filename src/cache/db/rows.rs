//! The rows of the database as bytes: their keys, and those of their values that have a fixed size.
//! Numbers are big endian, so that no row depends on the machine.

use sha2::{Digest as _, Sha256};
use zerocopy::byteorder::big_endian::{I64, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::index::{EntryId, Sha256Digest};
use crate::sys::seconds_now;

/// Key of the bytes written today.
pub(super) const WRITTEN_KEY: &[u8] = b"w";

/// Key of the row of an entry, a pin, a build or a key of another machine.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RowKey {
    kind: u8,
    pub(super) id: [u8; 16],
}

impl RowKey {
    pub(super) fn of_entry(id: EntryId) -> Self {
        Self { kind: b'e', id: id.0 }
    }

    /// `id`: see `shared`.
    pub(super) fn of_share(id: [u8; 16]) -> Self {
        Self { kind: b'd', id }
    }

    pub(super) fn of_pin(id: EntryId) -> Self {
        Self { kind: b'p', id: id.0 }
    }
}

/// Key of the record of a blob.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct BlobKey {
    kind: u8,
    pub(super) digest: [u8; 32],
}

impl BlobKey {
    pub(super) fn of(digest: Sha256Digest) -> Self {
        Self { kind: b'b', digest: digest.0 }
    }
}

/// The beginning of the record of a blob. The assurance and the EntryIds follow.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct BlobHead {
    /// `verify::RULES`.
    pub(super) rules: u8,
    pub(super) size: U64,
    /// Modification time in ns.
    pub(super) mtime: I64,
    /// Last use in s.
    pub(super) last_use: U64,
    /// `AuxDigest` of the package.
    pub(super) values: [u8; 16],
}

/// Value of a build.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct BuildValue {
    /// SHA-256 of a blob that was verified once.
    pub(super) digest: [u8; 32],
    /// When it was verified, in s.
    pub(super) verified: U64,
}

/// The beginning of the value of a pin. The PATH follows.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct PinHead {
    pub(super) size: U64,
    /// When the pin was made, in s.
    pub(super) since: U64,
}

/// Value of the bytes written on one day.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WrittenValue {
    day: U64,
    bytes: U64,
}

const DAY: u64 = 86400;

/// Bytes of packages written on one day (UTC).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DailyWrites {
    /// Days since the epoch.
    pub(super) day: u64,
    pub(super) bytes: u64,
}

impl DailyWrites {
    fn on(self, day: u64) -> u64 {
        if self.day == day { self.bytes } else { 0 }
    }

    fn add(&mut self, bytes: u64, day: u64) {
        *self = Self { day, bytes: self.on(day).saturating_add(bytes) };
    }

    /// Bytes written today.
    pub(crate) fn today(self) -> u64 {
        self.on(seconds_now() / DAY)
    }

    pub(crate) fn add_today(&mut self, bytes: u64) {
        self.add(bytes, seconds_now() / DAY);
    }

    pub(super) fn record(self, batch: &mut sled::Batch) {
        let value = WrittenValue { day: self.day.into(), bytes: self.bytes.into() };
        batch.insert(WRITTEN_KEY, value.as_bytes());
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let WrittenValue { day, bytes } = WrittenValue::read_from_bytes(value).ok()?;
        Some(Self { day: day.get(), bytes: bytes.get() })
    }
}

/// Names one build of one binhost: 16 bytes of a SHA-256 over binhost, PATH and BUILD_ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BuildKey([u8; 16]);

impl BuildKey {
    /// The build `build_id` at `path` of the binhost that is called `binhost` in the cache.
    #[must_use]
    pub(crate) fn new(binhost: &str, path: &str, build_id: u64) -> Self {
        let mut hash = Sha256::new_with_prefix(b"build\0");
        for text in [binhost, path] {
            hash.update(text);
            hash.update([0]);
        }
        hash.update(build_id.to_be_bytes());
        let mut first = [0; 16];
        first.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
        Self(first)
    }

    pub(super) fn key(self) -> RowKey {
        RowKey { kind: b'h', id: self.0 }
    }

    /// Adds to `batch` that the build has this digest.
    pub(super) fn record(self, batch: &mut sled::Batch, digest: Sha256Digest) {
        let value = BuildValue { digest: digest.0, verified: seconds_now().into() };
        batch.insert(self.key().as_bytes(), value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_day_begins_with_nothing() {
        let mut written = DailyWrites::default();
        written.add(5, 100);
        written.add(7, 100);
        assert_eq!((written.on(100), written.on(101)), (12, 0));
        written.add(1, 101);
        assert_eq!((written.on(100), written.on(101)), (0, 1));
    }
}
