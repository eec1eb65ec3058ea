//! Changed-build alarms: packages that changed although their binhost says that they are the same
//! build.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::failures::FailureReport;
use super::remote_binhost::RemoteBinhost;
use crate::cache::{BinhostTag, BlobKeys, BuildKey, Cache};
use crate::index::{Entry, Sha256Digest};
use crate::metrics::Metrics;
use crate::sys::Moment;

/// Alarms kept for `status`.
const KEPT: usize = 32;

/// Compares builds with the build history, and keeps the latest [`KEPT`] alarms, newest first.
#[derive(Debug)]
pub(super) struct Alarms {
    cache: Arc<Cache>,
    metrics: Arc<Metrics>,
    latest: Mutex<VecDeque<FailureReport>>,
}

impl Alarms {
    pub(super) fn new(cache: Arc<Cache>, metrics: Arc<Metrics>) -> Self {
        Self { cache, metrics, latest: Mutex::default() }
    }

    /// Raises an alarm if `digest` differs from the digest that this build had when it was verified
    /// before.
    pub(super) fn compare(&self, build: BuildKey, entry: &Entry, digest: Sha256Digest) {
        let Some(before) = self.cache.build_digest(build).filter(|before| *before != digest) else { return };
        let (path, build) = (entry.path.as_str(), entry.build_id.unwrap_or_default());
        let reason = format!(
            "the binhost serves other bytes than before under the same name: BUILD_ID {build} had SHA-256 {before}, and has \
             {digest} now. Both were verified; a binhost that was rebuilt from nothing does this, and so does one that shows \
             different packages to different people"
        );
        tracing::error!(binhostfs.package = path, binhostfs.reason = reason, "ALARM: {path}: {reason}");
        self.metrics.alarms.increase();
        let mut latest = self.latest.lock();
        latest.truncate(KEPT - 1);
        latest.push_front(FailureReport { path: path.to_owned(), reason, at: Moment::now() });
    }

    pub(super) fn reports(&self) -> Vec<FailureReport> {
        self.latest.lock().iter().cloned().collect()
    }
}

/// The key of a verified package in the build history. `None`: without a BUILD_ID, other bytes at
/// the same PATH are normal.
pub(super) fn build_key(binhost: &RemoteBinhost, entry: &Entry) -> Option<BuildKey> {
    Some(BuildKey::new(&binhost.name, entry.path.as_str(), entry.build_id?))
}

/// What the cache records of a verified package beside its entry.
pub(super) fn keys_of(binhost: &RemoteBinhost, entry: &Entry) -> BlobKeys {
    let shared = entry.share_key().map(|key| (key, BinhostTag::new(&binhost.name)));
    BlobKeys { build: build_key(binhost, entry), shared }
}
