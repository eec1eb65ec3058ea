//! Rows of the database beside the catalogue's: builds, and the bytes written today.

use sha2::{Digest as _, Sha256};

use crate::index::Sha256Digest;
use crate::sys::seconds_now;

/// Key of the bytes written today.
pub(super) const WRITTEN_KEY: &[u8] = b"w";
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
        let mut value = [0; 16];
        value.iter_mut().zip([self.day, self.bytes].map(u64::to_be_bytes).concat()).for_each(|(to, from)| *to = from);
        batch.insert(WRITTEN_KEY, &value[..]);
    }
}

/// Names one build of one binhost: 16 bytes of a SHA-256 over binhost, PATH and BUILD_ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildKey([u8; 16]);

impl BuildKey {
    /// The build `build_id` at `path` of the binhost that is called `binhost` in the cache.
    #[must_use]
    pub fn new(binhost: &str, path: &str, build_id: u64) -> Self {
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

    pub(super) fn key(self) -> [u8; 17] {
        let mut key = [b'h'; 17];
        key.iter_mut().skip(1).zip(self.0).for_each(|(to, from)| *to = from);
        key
    }

    /// Adds to `batch` that the build has this digest.
    pub(super) fn record(self, batch: &mut sled::Batch, digest: Sha256Digest) {
        let value = [&digest.0[..], &seconds_now().to_be_bytes()].concat();
        batch.insert(&self.key()[..], value);
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
