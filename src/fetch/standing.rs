//! How a package stands at this moment, for whoever asks of one file. Looks at memory and at the catalogue; waits for nothing.

use super::{Fetcher, Wanted};
use crate::store::Known;

/// Whether a package can be opened at once, and if not, why not.
#[derive(Debug, Clone)]
pub enum State {
    /// It is in the cache.
    Cached(Known),
    /// It is being fetched, or waits for its turn.
    Fetching,
    /// The last attempt to fetch it failed for this.
    Failed(String),
    /// It is fetched when it is opened.
    Remote,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Where it is.
    pub state: State,
    /// What its binhost is called in the configuration.
    pub binhost: String,
    /// The URL of the binhost that what is cached was fetched from, where that is known.
    pub source: Option<String>,
}

impl Fetcher {
    /// How a package stands.
    #[must_use]
    pub fn standing(&self, wanted: &Wanted) -> Standing {
        let (key, record) = (wanted.key(), wanted.record());
        let mut source = None;
        let state = if let Some(known) = self.store.known(record.id, record.size, &wanted.origin().policy) {
            source = self.store.source(known.digest);
            State::Cached(known)
        } else if self.downloads.contains(key) {
            State::Fetching
        } else {
            self.failures.reason(key).map_or(State::Remote, State::Failed)
        };
        let binhost = wanted.origin().upstream.binhost().name.clone();
        Standing { state, binhost, source }
    }
}
