//! Build history: the digest that each build had when it was last verified, for as long as the
//! cache directory exists.
//!
//! A binhost gives each build of a package a BUILD_ID of its own. Other bytes under the same
//! BUILD_ID raise an alarm, however well they are signed. The records of blobs cannot show such a
//! change, since they are removed with the blobs.

use zerocopy::{FromBytes as _, IntoBytes as _};

use super::database::{Database, Durable};
use super::rows::{BuildKey, BuildValue};
use crate::index::{Digest, Sha256Digest};

/// Most builds that are remembered; the oldest are removed first. A build takes some 100 bytes on
/// disk, and none in memory.
pub(crate) const MAX_BUILDS: usize = 100_000;

/// The rows of the build history.
pub(crate) struct BuildHistory<'a>(pub(super) &'a Database);

impl BuildHistory<'_> {
    pub(crate) fn digest(&self, build: BuildKey) -> Option<Sha256Digest> {
        let value = self.0.with(|db| db.get(build.key().as_bytes()).ok().flatten())??;
        BuildValue::read_from_bytes(&value).ok().map(|build| Digest(build.digest))
    }

    /// Removes the oldest builds if there are more than `most`.
    pub(crate) fn prune(&self, most: usize) {
        let all = |db: &sled::Db| db.scan_prefix(b"h").filter_map(Result::ok);
        let surplus = self.0.with(|db| all(db).count()).unwrap_or_default().saturating_sub(most);
        if surplus == 0 {
            return;
        }
        let oldest = self.0.with(|db| {
            let mut times: Vec<(u64, sled::IVec)> = all(db).map(|(key, value)| (time_of(&value), key)).collect();
            times.sort_unstable();
            times.truncate(surplus);
            times
        });
        let mut batch = sled::Batch::default();
        oldest.into_iter().flatten().for_each(|(_, key)| batch.remove(key));
        if let Err(error) = self.0.apply(batch, Durable::Now) {
            tracing::debug!(%error, "forgetting old builds");
        }
    }

    pub(crate) fn record(&self, build: BuildKey, digest: Sha256Digest) {
        let mut batch = sled::Batch::default();
        build.record(&mut batch, digest);
        if let Err(error) = self.0.apply(batch, Durable::Now) {
            tracing::debug!(%error, "remembering a build");
        }
    }
}

fn time_of(value: &[u8]) -> u64 {
    BuildValue::read_from_bytes(value).map_or(0, |build| build.verified.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seconds_now;

    #[test]
    fn the_oldest_go_first_and_the_last_word_counts() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(&directory.path().join("catalogue")).unwrap();
        let builds = BuildHistory(&database);
        let key = |build| BuildKey::new("host", "a/b-1.gpkg.tar", build);
        assert_ne!(key(1), BuildKey::new("other", "a/b-1.gpkg.tar", 1));
        for build in 1..=5 {
            builds.record(key(build), Digest([build as u8; 32]));
        }
        builds.record(key(5), Digest([50; 32]));
        assert_eq!(builds.digest(key(5)), Some(Digest([50; 32])));
        assert_eq!(builds.digest(key(6)), None);
        // All but the first build are from tomorrow.
        for build in 2..=5 {
            let value = BuildValue { digest: [build as u8; 32], verified: (seconds_now() + 86400).into() };
            let mut batch = sled::Batch::default();
            batch.insert(key(build).key().as_bytes(), value.as_bytes());
            database.apply(batch, Durable::Now).unwrap();
        }
        builds.prune(4);
        let left: Vec<u64> = (1..=5).filter(|build| builds.digest(key(*build)).is_some()).collect();
        assert_eq!(left, [2, 3, 4, 5]);
    }
}
