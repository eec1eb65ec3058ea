//! When a binhost was asked for its index, and what came of it.

use crate::api::RefreshStatus;
use crate::sys::Moment;

/// When something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// As an earlier daemon wrote it down, seconds since the epoch.
    Stored(u64),
    /// While this daemon runs.
    Now(Moment),
}

impl When {
    fn by_clock(self) -> u64 {
        match self {
            Self::Stored(seconds) => seconds,
            Self::Now(moment) => moment.by_clock(),
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastRefresh {
    /// When the binhost last confirmed or sent the index.
    pub(crate) confirmed: Option<When>,
    /// When the last attempt ended.
    pub(crate) attempted: Option<When>,
    /// Why it failed, if it did.
    pub(crate) error: Option<String>,
    /// Since when the binhost has had only older indexes, seconds since the epoch.
    pub(crate) older_since: Option<u64>,
}

impl LastRefresh {
    /// The same by the system clock as that is set now.
    pub(crate) fn status(&self) -> RefreshStatus {
        let by_clock = |when: Option<When>| when.map_or(0, When::by_clock);
        RefreshStatus {
            confirmed: by_clock(self.confirmed),
            attempted: by_clock(self.attempted),
            error: self.error.clone(),
            older_since: self.older_since,
        }
    }
}
