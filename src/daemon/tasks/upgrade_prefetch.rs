//! Upgrade prefetch: fetches newer packages than those installed while nothing else is downloaded,
//! so that a later upgrade finds them cached. Runs only if that is configured (`prefetch =
//! "world"`).
//!
//! * One package is fetched at a time, only while there is no other download. A waiter for another
//!   package cancels it.
//! * At most the configured number of bytes is fetched a day (UTC). `world.json` in the cache
//!   stores how many were fetched, across restarts; cancelled downloads count, too.
//! * Upgrades take at most 1/[`SHARE`] of the cache.
//! * A package that the cache would not keep (`write-budget`, a full disk) waits, and `status`
//!   reports the reason.
//! * A package whose download failed is not tried again before the next generation.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::api::UpgradePrefetchStatus;
use crate::cache::Unkeepable;
use crate::config::Prefetch;
use crate::daemon::acceptance::acceptance;
use crate::daemon::state::{DaemonState, give_memory_back};
use crate::fetch::{BackgroundOutcome, PackageOutcome, PackageRef, PrefetchTarget, ResolvedTarget};
use crate::sys::durable::{blocking, read_json, write_json};
use crate::sys::seconds_now;

/// Divisor of the cache size: upgrades may take one half.
pub(crate) const SHARE: u64 = 2;
/// How often to check whether a new day has begun or the installed packages have changed.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
/// Pause after the prefetch gave way to another download.
const PAUSE: Duration = Duration::from_secs(5);
const FILE: &str = "world.json";
const DAY: u64 = 86400;

/// The part of the budget that was spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Spent {
    /// Days since the epoch.
    day: u64,
    bytes: u64,
}

/// Daily budget in bytes, and the status of the prefetch.
#[derive(Debug)]
pub(crate) struct Budget {
    file: PathBuf,
    daily: u64,
    spent: Mutex<Spent>,
    status: Mutex<(u64, u64, Option<String>)>,
}

impl Budget {
    pub(crate) fn open(cache: &std::path::Path, daily: u64) -> Self {
        let file = cache.join(FILE);
        let spent = if file.exists() { read_json(&file).unwrap_or_default() } else { Spent::default() };
        Self { file, daily, spent: Mutex::new(spent), status: Mutex::default() }
    }

    fn spent(&self, today: u64) -> u64 {
        let spent = *self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was ahead by more than a time zone was wrong, so its day does not count.
        if spent.day == today || spent.day == today + 1 { spent.bytes } else { 0 }
    }

    fn left(&self) -> u64 {
        self.daily.saturating_sub(self.spent(seconds_now() / DAY))
    }

    async fn spend(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let today = seconds_now() / DAY;
        let spent = Spent { day: today, bytes: self.spent(today).saturating_add(bytes) };
        *self.spent.lock().unwrap_or_else(PoisonError::into_inner) = spent;
        let file = self.file.clone();
        if let Err(error) = blocking(move || write_json(&file, &spent)).await {
            tracing::warn!("what was fetched today is not written; after a restart it may be more: {error:#}");
        }
    }

    /// Updates the status, and logs a new problem once.
    fn say(&self, upgrades: usize, here: usize, problem: Option<String>) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(problem) = problem.as_ref().filter(|problem| status.2.as_ref() != Some(problem)) {
            tracing::warn!("nothing is fetched for what is installed: {problem}");
        }
        *status = (upgrades as u64, here as u64, problem);
    }

    pub(crate) fn status(&self) -> UpgradePrefetchStatus {
        let (upgrades, cached, problem) = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let left = self.left();
        UpgradePrefetchStatus { budget: self.daily, spent: self.daily - left, left, upgrades, cached, problem }
    }
}

/// Runs until it is cancelled, if upgrade prefetch is configured.
pub(crate) async fn in_background(shared: Arc<DaemonState>) {
    if shared.config.prefetch != Prefetch::World {
        return;
    }
    let mut round = Round::default();
    loop {
        let renewed = shared.renewed.notified();
        let generation = shared.snapshots.current().generation();
        if round.generation != generation {
            round = Round { generation, failed: HashSet::new(), unkept: round.unkept };
        }
        round.go(&shared).await;
        tokio::select! {
            () = renewed => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

/// State of the prefetch while one generation is shown.
#[derive(Debug, Default)]
struct Round {
    generation: u64,
    /// Paths of packages that could not be fetched.
    failed: HashSet<String>,
    /// Why the cache would not have kept a package, at the last attempt.
    unkept: Option<Unkeepable>,
}

impl Round {
    /// Fetches upgrades until the budget is spent or another generation is shown.
    async fn go(&mut self, shared: &Arc<DaemonState>) {
        let Some(upgrades) = self.upgrades(shared).await else { return };
        let unkept = self.unkept.take();
        for wanted in &upgrades {
            loop {
                let passed = shared.fetcher.is_cached(wanted) || self.failed.contains(wanted.path());
                if passed || wanted.record().size > shared.world.left() {
                    break;
                }
                if let Err(why) = shared.fetcher.would_keep(wanted) {
                    self.unkept = Some(why);
                    break;
                }
                shared.fetcher.wait_until_quiet().await;
                if shared.snapshots.current().generation() != self.generation {
                    return;
                }
                if self.one(shared, wanted).await {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            // The old reason is still reported until this pass has finished.
            say(shared, &upgrades, self.unkept.or(unkept));
        }
        say(shared, &upgrades, self.unkept);
    }

    /// Upgrades to fetch, as many as may be in the cache. `None`: they cannot be determined.
    async fn upgrades(&self, shared: &Arc<DaemonState>) -> Option<Vec<PackageRef>> {
        let (fetcher, tree) = (Arc::clone(&shared.fetcher), shared.snapshots.current());
        let root = shared.config.portage_root.clone();
        let meant =
            blocking(move || Ok(fetcher.resolve(tree.view(), &PrefetchTarget::World, &root, &acceptance(&root))?))
                .await;
        give_memory_back();
        match meant {
            Ok(ResolvedTarget { mut wanted, .. }) => {
                let mut room = shared.cache.usage().bound / SHARE;
                wanted.retain(|wanted| {
                    let fits = wanted.record().size <= room;
                    room -= if fits { wanted.record().size } else { 0 };
                    fits
                });
                say(shared, &wanted, self.unkept);
                Some(wanted)
            }
            Err(error) => {
                shared.world.say(0, 0, Some(error.to_string()));
                None
            }
        }
    }

    /// Fetches one package, and returns `false` if the prefetch gave way and has to be repeated.
    async fn one(&mut self, shared: &DaemonState, wanted: &PackageRef) -> bool {
        let (ended, received) = shared.fetcher.fetch_in_background(wanted).await;
        shared.metrics.upgrade_prefetch_bytes.add(received);
        shared.world.spend(received).await;
        match ended {
            BackgroundOutcome::GaveWay => return false,
            BackgroundOutcome::Unkept(why) => self.unkept = Some(why),
            BackgroundOutcome::Ended(PackageOutcome::Fetched) => shared.metrics.upgrade_prefetches.increase(),
            BackgroundOutcome::Ended(PackageOutcome::Here) => {}
            BackgroundOutcome::Ended(PackageOutcome::Failed(reason)) => {
                tracing::debug!(path = wanted.path(), reason, "not had for what is installed");
                self.failed.insert(wanted.path().to_owned());
            }
        }
        true
    }
}

fn say(shared: &DaemonState, upgrades: &[PackageRef], unkept: Option<Unkeepable>) {
    let here = upgrades.iter().filter(|wanted| shared.fetcher.is_cached(wanted)).count();
    shared.world.say(upgrades.len(), here, unkept.map(|why| why.to_string()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_day_has_so_many_bytes_also_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let budget = || Budget::open(directory.path(), 100);
        assert_eq!(budget().left(), 100);
        budget().spend(30).await;
        budget().spend(30).await;
        let again = budget();
        assert_eq!(again.left(), 40);
        let today = seconds_now() / DAY;
        assert_eq!((again.spent(today), again.spent(today + 1), again.spent(today - 2)), (60, 0, 0));
        again.spend(1000).await;
        assert_eq!((again.left(), again.status().spent), (0, 100));
        std::fs::write(directory.path().join(FILE), "nonsense").unwrap();
        assert_eq!(budget().left(), 100);
    }
}
