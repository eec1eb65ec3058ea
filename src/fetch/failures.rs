//! Recent failures, with their reason and time. A failure answers the next open at once, and
//! `status` lists them.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::error::FetchError;
use super::remote_binhost::PackageKey;
use crate::sys::Moment;

/// How long a failure answers further opens of the same package.
pub(crate) const FAILURE_MEMORY: Duration = Duration::from_secs(5);
/// Failures kept for `status`.
const KEPT: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// A package that could not be fetched, or that changed under the same name.
#[derive(Debug, Clone)]
pub(crate) struct FailureReport {
    /// PATH of the package.
    pub path: String,
    pub reason: String,
    pub at: Moment,
}

#[derive(Debug)]
struct FetchFailure {
    path: String,
    error: Arc<FetchError>,
    at: Moment,
    /// Until when the failure answers opens of the package. `None`: it does not.
    blocks_until: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Failures(Mutex<LruCache<PackageKey, FetchFailure>>);

impl Default for Failures {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(KEPT)))
    }
}

impl Failures {
    pub(super) fn add(&self, id: PackageKey, path: &str, error: &Arc<FetchError>) {
        self.put(id, path, error, true);
    }

    /// Adds a failure for `status` only. It does not answer the next open, which may use an entry
    /// of another index.
    pub(super) fn note(&self, id: PackageKey, path: &str, error: &Arc<FetchError>) {
        self.put(id, path, error, false);
    }

    fn put(&self, id: PackageKey, path: &str, error: &Arc<FetchError>, blocking: bool) {
        let (path, error, at) = (path.to_owned(), Arc::clone(error), Moment::now());
        let blocks_until = blocking.then(|| Instant::now() + FAILURE_MEMORY);
        let failure = FetchFailure { path, error, at, blocks_until };
        self.0.lock().put(id, failure);
    }

    /// Removes the failures of a package that was fetched, and of an older package at the same
    /// path. Index mismatches stay.
    pub(super) fn fetched(&self, id: PackageKey, path: &str) {
        self.clear(id, path, |error| !matches!(error, FetchError::IndexMismatch(_)));
    }

    /// Removes the index mismatches of a package whose entry agrees with it, and of an older
    /// package at the same path.
    pub(super) fn agreed(&self, id: PackageKey, path: &str) {
        self.clear(id, path, |error| matches!(error, FetchError::IndexMismatch(_)));
    }

    fn clear(&self, id: PackageKey, path: &str, such: impl Fn(&FetchError) -> bool) {
        let mut failures = self.0.lock();
        let over = |(key, failure): (&PackageKey, &FetchFailure)| {
            ((*key == id || failure.path == path) && such(&failure.error)).then_some(*key)
        };
        let over: Vec<PackageKey> = failures.iter().filter_map(over).collect();
        for key in over {
            failures.pop(&key);
        }
    }

    pub(super) fn recent(&self, id: PackageKey) -> Option<Arc<FetchError>> {
        let failures = self.0.lock();
        let failure = failures.peek(&id)?;
        failure.blocks_until.filter(|until| Instant::now() < *until).map(|_| Arc::clone(&failure.error))
    }

    /// The reason of the last failure, if it is among the last [`KEPT`].
    pub(super) fn reason(&self, id: PackageKey) -> Option<String> {
        self.0.lock().peek(&id).map(|failure| failure.error.to_string())
    }

    pub(super) fn forget(&self) {
        self.0.lock().iter_mut().for_each(|(_, failure)| failure.blocks_until = None);
    }

    pub(super) fn reports(&self) -> Vec<FailureReport> {
        let report = |(_, failure): (&PackageKey, &FetchFailure)| FailureReport {
            path: failure.path.clone(),
            reason: failure.error.to_string(),
            at: failure.at,
        };
        self.0.lock().iter().map(report).collect()
    }
}
