//! What failed, why and when: to answer the next open at once, and for `status`.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;

use super::{FetchError, PackageKey};
use crate::sys::Moment;

/// How long a failure answers further opens of the same package.
pub const FAILURE_MEMORY: Duration = Duration::from_secs(5);
/// Failures kept for `status`.
const KEPT: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// A package that could not be had.
#[derive(Debug, Clone)]
pub struct FailureReport {
    /// PATH of the package.
    pub path: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Moment,
}

#[derive(Debug)]
struct FetchFailure {
    path: String,
    error: Arc<FetchError>,
    at: Moment,
    blocking: bool,
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

    /// For `status` only: the next open may be by another index.
    pub(super) fn note(&self, id: PackageKey, path: &str, error: &Arc<FetchError>) {
        self.put(id, path, error, false);
    }

    fn put(&self, id: PackageKey, path: &str, error: &Arc<FetchError>, blocking: bool) {
        let (path, error, at) = (path.to_owned(), Arc::clone(error), Moment::now());
        let failure = FetchFailure { path, error, at, blocking };
        self.lock().put(id, failure);
    }

    /// It was fetched after all, or what is at its path now was.
    pub(super) fn fetched(&self, id: PackageKey, path: &str) {
        self.clear(id, path, |error| !matches!(error, FetchError::IndexMismatch(_)));
    }

    /// Its entry says what the package says, or that of what is at its path now.
    pub(super) fn agreed(&self, id: PackageKey, path: &str) {
        self.clear(id, path, |error| matches!(error, FetchError::IndexMismatch(_)));
    }

    fn clear(&self, id: PackageKey, path: &str, such: impl Fn(&FetchError) -> bool) {
        let mut failures = self.lock();
        let over = |(key, failure): (&PackageKey, &FetchFailure)| {
            ((*key == id || failure.path == path) && such(&failure.error)).then_some(*key)
        };
        let over: Vec<PackageKey> = failures.iter().filter_map(over).collect();
        for key in over {
            failures.pop(&key);
        }
    }

    pub(super) fn recent(&self, id: PackageKey) -> Option<Arc<FetchError>> {
        let failures = self.lock();
        let failure = failures.peek(&id).filter(|failure| failure.blocking && failure.at.elapsed() < FAILURE_MEMORY)?;
        Some(Arc::clone(&failure.error))
    }

    /// Why it could not be had the last time, if that was lately.
    pub(super) fn reason(&self, id: PackageKey) -> Option<String> {
        self.lock().peek(&id).map(|failure| failure.error.to_string())
    }

    pub(super) fn forget(&self) {
        self.lock().iter_mut().for_each(|(_, failure)| failure.blocking = false);
    }

    pub(super) fn reports(&self) -> Vec<FailureReport> {
        let report = |(_, failure): (&PackageKey, &FetchFailure)| FailureReport {
            path: failure.path.clone(),
            reason: failure.error.to_string(),
            at: failure.at,
        };
        self.lock().iter().map(report).collect()
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<PackageKey, FetchFailure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
