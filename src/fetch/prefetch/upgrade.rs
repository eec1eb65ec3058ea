//! Upgrade prefetch: fetches one package while there is no other download.
//!
//! The download starts when nothing is being downloaded. If another package is requested meanwhile,
//! the download stops, unless more than half of the package is there already: then fetching the
//! rest is cheaper than starting again.

use std::sync::Arc;
use std::time::Duration;

use super::requested::PackageOutcome;
use crate::cache::Unkeepable;
use crate::fetch::downloads::{Priority, Start};
use crate::fetch::error::FetchError;
use crate::fetch::fetcher::Fetcher;
use crate::fetch::remote_binhost::PackageRef;

/// How long there must have been no download before a prefetch starts.
const QUIET: Duration = Duration::from_secs(2);

/// The result of an upgrade prefetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BackgroundOutcome {
    /// The download ended with this outcome.
    Ended(PackageOutcome),
    /// The cache would not keep the package now, for this reason. A later attempt may succeed.
    Unkept(Unkeepable),
    /// Another download has priority.
    GaveWay,
}

/// Fetches packages for later upgrades.
#[derive(Debug)]
pub(crate) struct UpgradePrefetch(Arc<Fetcher>);

impl UpgradePrefetch {
    #[must_use]
    pub(crate) fn new(fetcher: Arc<Fetcher>) -> Self {
        Self(fetcher)
    }

    /// Waits until there has been no download for [`QUIET`].
    pub(crate) async fn wait_until_quiet(&self) {
        let mut changes = self.0.downloads.changes();
        loop {
            changes.mark_unchanged();
            let is_quiet = self.0.downloads.is_empty();
            tokio::select! {
                // The table is gone if this fails, and waits for nothing any more.
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(QUIET), if is_quiet => return,
            }
        }
    }

    /// Fetches a package, as long as no other package is requested. Returns the result, and the
    /// number of bytes received. Dropping the future stops the download.
    pub(crate) async fn fetch(&self, wanted: &PackageRef) -> (BackgroundOutcome, u64) {
        let failed = |error: &FetchError| match error {
            FetchError::Unkept(why) => BackgroundOutcome::Unkept(*why),
            FetchError::GaveWay => BackgroundOutcome::GaveWay,
            error => BackgroundOutcome::Ended(PackageOutcome::Failed(error.to_string())),
        };
        let mut waiter = match self.0.downloads.start(wanted, Priority::Upgrade, None) {
            Start::Started(waiter) | Start::Joined(waiter) => waiter,
            Start::Cached(_) => return (BackgroundOutcome::Ended(PackageOutcome::Here), 0),
            Start::Refused(error) => return (failed(&error), 0),
        };
        // A download that has neither begun nor ended waits for another download.
        if !waiter.watcher().has_begun() && !waiter.watcher().has_ended() {
            return (BackgroundOutcome::GaveWay, 0);
        }
        let outcome = waiter.end().await;
        let unkept = || PackageOutcome::Failed("the cache could not keep it".to_owned());
        match outcome {
            Ok(_) if self.0.is_cached(wanted) => {
                (BackgroundOutcome::Ended(PackageOutcome::Fetched), wanted.record().size)
            }
            Ok(_) => (BackgroundOutcome::Ended(unkept()), wanted.record().size),
            Err(error) => (failed(&error), waiter.download().received()),
        }
    }
}
