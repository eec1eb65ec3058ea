//! The eviction class of a blob: how useful it is to this host, and so how soon it is evicted.
//!
//! 1. orphans, which no record names;
//! 2. blobs that no index names any more, not even one of a generation that could be shown again:
//!    nobody can open them. [`EvictionClass::Superseded`] blobs, and [`EvictionClass::Waiting`] blobs
//!    that were not used for [`WAITS`], go at the same time;
//! 3. [`EvictionClass::Installed`] blobs: kept for a reinstallation, or for a downgrade after the
//!    next upgrade;
//! 4. [`EvictionClass::Waiting`] blobs, with those that were fetched or used since the classes were
//!    computed;
//! 5. open blobs: their eviction gives the disk nothing back;
//! 6. pinned blobs.
//!
//! Within a class, the least recently used blob goes first. The classes are computed only when
//! something is to be evicted, and at most once in [`CLASSES_VALID`].

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Cache;
use crate::index::Sha256Digest;
use crate::sys::seconds_now;

/// How long computed classes are valid.
pub(crate) const CLASSES_VALID: Duration = Duration::from_secs(300);
/// A package that is not installed stays in class `Waiting` for this long after its last use, in
/// seconds.
pub(crate) const WAITS: u64 = 7 * 86400;

/// How a cached package relates to the installed packages, in the order of eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EvictionClass {
    /// The same version and slot, or a newer one, is installed from another build.
    Superseded,
    /// Exactly this package is installed; or it is kept for a return to an earlier generation.
    Installed,
    /// Nothing of it, or something older, is installed: the package may be installed soon.
    Waiting,
}

/// Classes of the blobs that an index names.
pub(crate) type EvictionClasses = HashMap<Sha256Digest, EvictionClass>;

type Ask = Box<dyn Fn(&Cache) -> EvictionClasses + Send + Sync>;

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

impl Cache {
    /// Sets the function that computes the classes when something is to be evicted. `ask` may read
    /// files. Only the first call counts.
    pub fn classify_by(&self, ask: impl Fn(&Cache) -> EvictionClasses + Send + Sync + 'static) {
        // `set` fails at a second call, which is ignored.
        drop(self.classifier.ask.set(Box::new(ask)));
    }

    pub(crate) fn classify_if_due(&self) {
        // A thread that comes while another one computes the classes uses the previous ones.
        let (Some(ask), Some(mut classified)) = (self.classifier.ask.get(), self.classifier.classified.try_lock())
        else {
            return;
        };
        if classified.is_none_or(|at| at.elapsed() >= CLASSES_VALID) {
            let since = seconds_now();
            let classes = ask(self);
            self.state().classify(&classes, since);
            *classified = Some(Instant::now());
        }
    }
}
