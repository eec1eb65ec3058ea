//! Build history: the digest that each build had when it was last verified, for as long as the
//! cache directory exists.
//!
//! A binhost gives each build of a package a BUILD_ID of its own. Other bytes under the same
//! BUILD_ID raise an alarm, however well they are signed. The records of blobs cannot show such a
//! change, since they are removed with the blobs.

use sha2::{Digest as _, Sha256};

use super::catalogue::{Catalogue, Durable};
use crate::cache::Cache;
use crate::index::{Digest, Sha256Digest};
use crate::sys::seconds_now;

/// Most builds that are remembered; the oldest are removed first. A build takes some 100 bytes on
/// disk, and none in memory.
pub const MAX_BUILDS: usize = 100_000;

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

    fn key(self) -> [u8; 17] {
        let mut key = [b'h'; 17];
        key.iter_mut().skip(1).zip(self.0).for_each(|(to, from)| *to = from);
        key
    }

    /// Adds to `batch` that the build has this digest.
    pub(crate) fn record(self, batch: &mut sled::Batch, digest: Sha256Digest) {
        let value = [&digest.0[..], &seconds_now().to_be_bytes()].concat();
        batch.insert(&self.key()[..], value);
    }
}

impl Catalogue {
    fn build_digest(&self, build: BuildKey) -> Option<Sha256Digest> {
        let value = self.with(|db| db.get(build.key()).ok().flatten())??;
        value.first_chunk().copied().map(Digest)
    }

    /// Removes the oldest builds if there are more than `most`.
    fn prune_builds(&self, most: usize) {
        let all = |db: &sled::Db| db.scan_prefix(b"h").filter_map(Result::ok);
        let surplus = self.with(|db| all(db).count()).unwrap_or_default().saturating_sub(most);
        if surplus == 0 {
            return;
        }
        let oldest = self.with(|db| {
            let mut times: Vec<(u64, sled::IVec)> = all(db).map(|(key, value)| (time_of(&value), key)).collect();
            times.sort_unstable();
            times.truncate(surplus);
            times
        });
        let mut batch = sled::Batch::default();
        oldest.into_iter().flatten().for_each(|(_, key)| batch.remove(key));
        if let Err(error) = self.apply(batch, Durable::Now) {
            tracing::debug!(%error, "forgetting old builds");
        }
    }

    fn record_build(&self, build: BuildKey, digest: Sha256Digest) {
        let mut batch = sled::Batch::default();
        build.record(&mut batch, digest);
        if let Err(error) = self.apply(batch, Durable::Now) {
            tracing::debug!(%error, "remembering a build");
        }
    }
}

fn time_of(value: &[u8]) -> u64 {
    value.last_chunk().copied().map_or(0, u64::from_be_bytes)
}

impl Cache {
    /// SHA-256 of the build when it was verified last.
    #[must_use]
    pub fn build_digest(&self, build: BuildKey) -> Option<Sha256Digest> {
        self.catalogue.build_digest(build)
    }

    /// Records the digest of a build whose blob gets no record of its own.
    pub(crate) fn record_build(&self, build: BuildKey, digest: Sha256Digest) {
        if self.build_digest(build) != Some(digest) {
            self.catalogue.record_build(build, digest);
        }
    }

    pub(crate) fn prune_build_history(&self) {
        self.catalogue.prune_builds(MAX_BUILDS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_the_last_word_counts() {
        let directory = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::open(&directory.path().join("catalogue")).unwrap();
        let key = |build| BuildKey::new("host", "a/b-1.gpkg.tar", build);
        assert_ne!(key(1), BuildKey::new("other", "a/b-1.gpkg.tar", 1));
        for build in 1..=5 {
            catalogue.record_build(key(build), Digest([build as u8; 32]));
        }
        catalogue.record_build(key(5), Digest([50; 32]));
        assert_eq!(catalogue.build_digest(key(5)), Some(Digest([50; 32])));
        assert_eq!(catalogue.build_digest(key(6)), None);
        // All but the first build are from tomorrow.
        for build in 2..=5 {
            let value = [&[build as u8; 32][..], &(seconds_now() + 86400).to_be_bytes()].concat();
            let mut batch = sled::Batch::default();
            batch.insert(&key(build).key()[..], value);
            catalogue.apply(batch, Durable::Now).unwrap();
        }
        catalogue.prune_builds(4);
        let left: Vec<u64> = (1..=5).filter(|build| catalogue.build_digest(key(*build)).is_some()).collect();
        assert_eq!(left, [2, 3, 4, 5]);
    }
}
