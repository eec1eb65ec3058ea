//! The state of one package at this moment. Reads memory and the catalogue, and waits for nothing.

use super::{Fetcher, PackageRef};
use crate::cache::BlobInfo;

/// Whether a package can be opened at once, and if not, why not.
#[derive(Debug, Clone)]
pub(crate) enum Availability {
    /// The package is in the cache.
    Cached(BlobInfo),
    /// The package is being fetched, or its download waits for a turn.
    Fetching,
    /// The last attempt to fetch the package failed, for this reason.
    Failed(String),
    /// The package is fetched when it is opened.
    Remote,
}

/// The state of a package, and where it comes from.
#[derive(Debug, Clone)]
pub(crate) struct PackageAvailability {
    pub state: Availability,
    /// The name of its binhost in the configuration.
    pub binhost: String,
    /// The URL of the binhost that the cached blob was fetched from, if it is known.
    pub source: Option<String>,
}

impl Fetcher {
    /// The state of `wanted` at this moment.
    #[must_use]
    pub(crate) fn availability(&self, wanted: &PackageRef) -> PackageAvailability {
        let (key, record) = (wanted.key(), wanted.record());
        let mut source = None;
        let state = if let Some(known) = self.cache.known(record.id, record.size, &wanted.binhost().policy) {
            source = self.cache.source(known.digest);
            Availability::Cached(known)
        } else if self.downloads.contains(key) {
            Availability::Fetching
        } else {
            self.failures.reason(key).map_or(Availability::Remote, Availability::Failed)
        };
        let binhost = wanted.binhost().upstream.binhost().name.clone();
        PackageAvailability { state, binhost, source }
    }
}
