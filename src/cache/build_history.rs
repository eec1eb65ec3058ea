//! Build history: the digest that each build had when it was last verified.

use super::db::build_history::MAX_BUILDS;
use super::{BuildKey, Cache};
use crate::index::Sha256Digest;

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
