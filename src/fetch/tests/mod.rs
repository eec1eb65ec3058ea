//! Downloads from a scripted server, under a paused clock: the clock moves only when all tasks
//! wait.

mod bandwidth;
mod opens;
mod prefetches;
mod turns;

use std::time::Duration;

use super::downloads::{Counts, Uid};
use super::sample::PackageScene;

/// Users without any rights.
const A: Uid = Uid(1000);
const B: Uid = Uid(1001);

impl PackageScene {
    /// Opens a package, and waits until the table has no download: a waiter is answered before the
    /// commit to the cache.
    pub(crate) async fn fetch(&self, at: usize) {
        assert!(self.open(at, A).await.is_ok());
        self.await_counts(0, 0, 0).await;
    }

    /// Waits until the table has these numbers of downloads: live, parked and waiting.
    async fn await_counts(&self, live: usize, parked: usize, waiting: usize) {
        let mut changes = self.fetcher.downloads.changes();
        let arrives = async {
            loop {
                changes.mark_unchanged();
                let Counts { live: l, parked: p, waiting: w, .. } = self.fetcher.counts();
                if (l, p, w) == (live, parked, waiting) {
                    return;
                }
                changes.changed().await.expect("the table is in the fetcher");
            }
        };
        let arrived = tokio::time::timeout(Duration::from_secs(3600), arrives).await;
        assert!(arrived.is_ok(), "{:?}", self.fetcher.counts());
    }
}
