//! Times and result of a binhost's last refresh.

use crate::api::RefreshStatus;
use crate::sys::Moment;

/// The time of an event, from disk or from this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Time that an earlier daemon stored, seconds since the epoch.
    Stored(u64),
    /// Time in this process, which stays correct if the clock is set.
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

/// Times and error of the last refresh.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastRefresh {
    /// When a URL last confirmed or sent the index.
    pub(crate) confirmed: Option<When>,
    /// When the last attempt ended.
    pub(crate) attempted: Option<When>,
    /// Why the last attempt failed, if it did.
    pub(crate) error: Option<String>,
    /// Since when the binhost has had only older indexes, seconds since the epoch.
    pub(crate) older_since: Option<u64>,
}

impl LastRefresh {
    /// Converts the times to the system clock as it is set now.
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
