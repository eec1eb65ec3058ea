//! Fetching one package while nobody else fetches anything.
//!
//! It begins when nothing is being downloaded, and gives way when somebody waits for a package meanwhile, unless more than half
//! of it is there already: then it is cheaper to have the rest.

use std::sync::Arc;
use std::time::Duration;

use super::requested::PackageOutcome;
use crate::cache::Unkeepable;
use crate::fetch::{FetchError, Fetcher, PackageRef, Priority};

/// How often to look whether anything is being downloaded.
const LOOK: Duration = Duration::from_millis(500);
/// How long nobody may have waited for anything before it begins.
const QUIET: u32 = 4;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackgroundOutcome {
    /// It ended like this.
    Ended(PackageOutcome),
    /// It would not be kept: why. It may be another time.
    Unkept(Unkeepable),
    /// Somebody waited for something else.
    GaveWay,
}

impl Fetcher {
    /// Waits until nothing is being downloaded for a while.
    pub async fn wait_until_quiet(&self) {
        let mut quiet = 0;
        while quiet < QUIET {
            quiet = if self.downloads.is_empty() { quiet + 1 } else { 0 };
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Fetches a package that nobody has asked for, as long as nobody waits for another; how that ended, and the bytes that
    /// were received. Dropping the future breaks it off.
    pub async fn fetch_in_background(self: &Arc<Self>, wanted: &PackageRef) -> (BackgroundOutcome, u64) {
        if self.is_cached(wanted) {
            return (BackgroundOutcome::Ended(PackageOutcome::Here), 0);
        }
        let failed = |error: &FetchError| match error {
            FetchError::Unkept(why) => BackgroundOutcome::Unkept(*why),
            FetchError::GaveWay => BackgroundOutcome::GaveWay,
            error => BackgroundOutcome::Ended(PackageOutcome::Failed(error.to_string())),
        };
        let mut waiter = match self.request(wanted, Priority::Upgrade) {
            Ok(waiter) => waiter,
            Err(error) => return (failed(&error), 0),
        };
        // What has neither begun nor ended waits for something else.
        if !waiter.watcher().has_begun() && !waiter.watcher().has_ended() {
            return (BackgroundOutcome::GaveWay, 0);
        }
        let outcome = waiter.end().await;
        let received = waiter.download().map_or(0, |download| download.received());
        let unkept = || PackageOutcome::Failed("the cache could not keep it".to_owned());
        match outcome {
            Ok(_) if self.is_cached(wanted) => {
                (BackgroundOutcome::Ended(PackageOutcome::Fetched), wanted.record().size)
            }
            Ok(_) => (BackgroundOutcome::Ended(unkept()), wanted.record().size),
            Err(error) => (failed(&error), received),
        }
    }
}
