//! Computes eviction classes, only when something is to be evicted.

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::blob_files::BlobFiles;
use super::eviction_class::EvictionClasses;
use crate::index::{EntryId, Sha256Digest};
use crate::sys::seconds_now;

/// How long computed classes are valid.
pub(crate) const CLASSES_VALID: Duration = Duration::from_secs(300);

/// Returns the digest of an entry's blob, where the cache has one.
pub(crate) type DigestOf<'a> = &'a dyn Fn(EntryId) -> Option<Sha256Digest>;

type Ask = Box<dyn Fn(DigestOf<'_>) -> EvictionClasses + Send + Sync>;

/// Computes eviction classes through a function that knows the installed packages.
#[derive(Default)]
pub(crate) struct EvictionClassifier {
    ask: OnceLock<Ask>,
    /// When the classes were computed last.
    classified: Mutex<Option<Instant>>,
}

impl fmt::Debug for EvictionClassifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvictionClassifier").field("classified", &self.classified).finish_non_exhaustive()
    }
}

impl EvictionClassifier {
    /// Sets the function that computes the classes when something is to be evicted. `ask` may read
    /// files. Only the first call counts.
    pub(crate) fn ask(&self, ask: impl Fn(DigestOf<'_>) -> EvictionClasses + Send + Sync + 'static) {
        // `set` fails at a second call, which is ignored.
        drop(self.ask.set(Box::new(ask)));
    }

    /// Computes the classes of `blobs` if the last ones are no longer valid.
    pub(crate) fn classify_if_due(&self, blobs: &BlobFiles) {
        // A thread that comes while another one computes the classes uses the previous ones.
        let (Some(ask), Some(mut classified)) = (self.ask.get(), self.classified.try_lock()) else { return };
        if classified.is_none_or(|at| at.elapsed() >= CLASSES_VALID) {
            let since = seconds_now();
            // Before the call: if it panics, eviction goes on with the previous classes.
            *classified = Some(Instant::now());
            let classes = ask(&|id| blobs.digest(id));
            blobs.state().classify(&classes, since);
        }
    }
}
