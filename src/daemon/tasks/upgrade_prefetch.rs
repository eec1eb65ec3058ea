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
use std::sync::Arc;
use std::time::Duration;

use crate::cache::Unkeepable;
use crate::config::Prefetch;
use crate::daemon::acceptance::acceptance;
use crate::daemon::state::{DaemonState, give_memory_back};
use crate::fetch::{BackgroundOutcome, PackageOutcome, PackageRef, PrefetchTarget, ResolvedTarget, UpgradePrefetch};
use crate::sys::durable::blocking;

/// Divisor of the cache size: upgrades may take one half.
pub(crate) const SHARE: u64 = 2;
/// How often to check whether a new day has begun or the installed packages have changed.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
/// Pause after the prefetch gave way to another download.
const PAUSE: Duration = Duration::from_secs(5);

/// Runs until it is cancelled, if upgrade prefetch is configured.
pub(crate) async fn in_background(shared: Arc<DaemonState>) {
    if shared.config.options.prefetch != Prefetch::World {
        return;
    }
    let mut round = Round::default();
    loop {
        let tree_published = shared.tree_published.notified();
        let generation = shared.snapshots.current().generation();
        if round.generation != generation {
            round = Round { generation, failed: HashSet::new(), unkept: round.unkept };
        }
        round.go(&shared).await;
        tokio::select! {
            () = tree_published => {}
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
                if passed || wanted.record().size > shared.upgrade_budget.left() {
                    break;
                }
                if let Err(why) = shared.fetcher.would_keep(wanted) {
                    self.unkept = Some(why);
                    break;
                }
                shared.fetcher.bandwidth().quiet_ended().await;
                UpgradePrefetch::new(Arc::clone(&shared.fetcher)).wait_until_quiet().await;
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
            blocking(move || Ok(PrefetchTarget::World.resolve(&fetcher, tree.view(), &root, &acceptance(&root))?))
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
                shared.upgrade_budget.report(0, 0, Some(error.to_string()));
                None
            }
        }
    }

    /// Fetches one package, and returns `false` if the prefetch gave way and has to be repeated.
    async fn one(&mut self, shared: &DaemonState, wanted: &PackageRef) -> bool {
        let (ended, received) = UpgradePrefetch::new(Arc::clone(&shared.fetcher)).fetch(wanted).await;
        shared.metrics.upgrade_prefetch_bytes.add(received);
        shared.upgrade_budget.spend(received).await;
        match ended {
            BackgroundOutcome::GaveWay => return false,
            BackgroundOutcome::Unkept(why) => self.unkept = Some(why),
            BackgroundOutcome::Ended(PackageOutcome::Fetched) => shared.metrics.upgrade_prefetches.increase(),
            BackgroundOutcome::Ended(PackageOutcome::Here) => {}
            BackgroundOutcome::Ended(PackageOutcome::Failed(reason)) => {
                tracing::debug!(path = wanted.path(), reason, "not prefetched for what is installed");
                self.failed.insert(wanted.path().to_owned());
            }
        }
        true
    }
}

fn say(shared: &DaemonState, upgrades: &[PackageRef], unkept: Option<Unkeepable>) {
    let here = upgrades.iter().filter(|wanted| shared.fetcher.is_cached(wanted)).count();
    shared.upgrade_budget.report(upgrades.len(), here, unkept.map(|why| why.to_string()));
}
