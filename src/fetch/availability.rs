//! The state of one package at one moment.

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
