//! How a package stands at this moment, for whoever asks of one file. Looks at memory and at the catalogue; waits for nothing.

use super::{Fetcher, PackageRef};
use crate::cache::BlobInfo;

/// Whether a package can be opened at once, and if not, why not.
#[derive(Debug, Clone)]
pub enum Availability {
    /// It is in the cache.
    Cached(BlobInfo),
    /// It is being fetched, or waits for its turn.
    Fetching,
    /// The last attempt to fetch it failed for this.
    Failed(String),
    /// It is fetched when it is opened.
    Remote,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct PackageAvailability {
    /// Where it is.
    pub state: Availability,
    /// What its binhost is called in the configuration.
    pub binhost: String,
    /// The URL of the binhost that what is cached was fetched from, where that is known.
    pub source: Option<String>,
}

impl Fetcher {
    /// How a package stands.
    #[must_use]
    pub fn availability(&self, wanted: &PackageRef) -> PackageAvailability {
        let (key, record) = (wanted.key(), wanted.record());
        let mut source = None;
        let state = if let Some(known) = self.store.known(record.id, record.size, &wanted.origin().policy) {
            source = self.store.source(known.digest);
            Availability::Cached(known)
        } else if self.downloads.contains(key) {
            Availability::Fetching
        } else {
            self.failures.reason(key).map_or(Availability::Remote, Availability::Failed)
        };
        let binhost = wanted.origin().upstream.binhost().name.clone();
        PackageAvailability { state, binhost, source }
    }
}
