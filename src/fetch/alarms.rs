//! Changed-build alarms: packages that changed although their binhost says that they are the same
//! build.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::cache::BuildKey;
use crate::index::{Entry, Sha256Digest};
use crate::sys::Moment;

use super::{FailureReport, Fetcher, RemoteBinhost};

/// Alarms kept for `status`.
const KEPT: usize = 32;

/// The latest [`KEPT`] alarms, newest first.
#[derive(Debug, Default)]
pub(super) struct Alarms(Mutex<VecDeque<FailureReport>>);

impl Alarms {
    fn add(&self, report: FailureReport) {
        let mut alarms = self.0.lock();
        alarms.truncate(KEPT - 1);
        alarms.push_front(report);
    }

    pub(super) fn reports(&self) -> Vec<FailureReport> {
        self.0.lock().iter().cloned().collect()
    }
}

/// The key of a verified package in the build history. `None`: without a BUILD_ID, other bytes at
/// the same PATH are normal.
pub(super) fn build_key(binhost: &RemoteBinhost, entry: &Entry) -> Option<BuildKey> {
    Some(BuildKey::new(&binhost.name, entry.path.as_str(), entry.build_id?))
}

/// Raises an alarm if `digest` differs from the digest that this build had when it was verified
/// before.
pub(super) fn compare(fetcher: &Fetcher, build: BuildKey, entry: &Entry, digest: Sha256Digest) {
    let Some(before) = fetcher.cache.build_digest(build).filter(|before| *before != digest) else { return };
    let (path, build) = (entry.path.as_str(), entry.build_id.unwrap_or_default());
    let reason = format!(
        "the binhost serves other bytes than before under the same name: BUILD_ID {build} had SHA-256 {before}, and has \
         {digest} now. Both were verified; a binhost that was rebuilt from nothing does this, and so does one that shows \
         different packages to different people"
    );
    tracing::error!(binhostfs.package = path, binhostfs.reason = reason, "ALARM: {path}: {reason}");
    fetcher.metrics.alarms.increase();
    fetcher.alarms.add(FailureReport { path: path.to_owned(), reason, at: Moment::now() });
}
