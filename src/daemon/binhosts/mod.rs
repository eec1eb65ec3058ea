//! All binhosts together: refreshes their indexes and makes one tree of them.
//!
//! | file | job |
//! |---|---|
//! | `binhost` | one binhost: which index is shown, and its refresh |
//! | `full_disk` | a refresh on a full disk |
//! | `freshness` | whether an index is accepted, by TIMESTAMP |
//! | `private` | which binhosts once had credentials |
//! | `quorum` | entries that enough mirrors list alike |
//! | `rejections` | entries that contradict their packages |
//! | `refusals` | the stored list of refused entries |
//! | `snapshot` | what explains the view |
//! | `stored_index` | the last good index, on disk |
//! | `refresh_error` | why a refresh failed |
//! | `report` | what `status` reports of a binhost |
//! | `scene` | tests: binhosts that answer as the test says |
//! | `last_refresh` | when the index was last asked for |
//! | `unusable` | binhosts of which nothing can be used |

pub(super) mod binhost;
pub(super) mod freshness;
mod full_disk;
pub(super) mod last_refresh;
mod private;
pub(super) mod quorum;
pub(super) mod refresh_error;
pub(super) mod refusals;
mod rejections;
pub(super) mod report;
#[cfg(test)]
pub(super) mod scene;
pub(super) mod snapshot;
mod stored_index;
pub(super) mod unusable;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::join_all;

use super::generations::rollback::{self, Rollback};
use super::generations::{GenerationStore, RecipeIndex};
use super::{START_BUDGET, policies, shown};
use crate::api::RollbackTo;
use crate::cache::Cache;
use crate::config::{AcceptedChosts, MountConfig};
use crate::fetch::{Fetcher, RemoteBinhost};
use crate::index::BinhostId;
use crate::metrics::Metrics;
use crate::policy::{self, EntryCounts, Rules, Union};
use crate::sys::durable::blocking;
use crate::tree::Tree;
use crate::units::Plural;
use crate::upstream::{ObjectStore, Upstream};
use crate::verify::Policy;
use binhost::{Binhost, IndexChoice};
use freshness::Order;
use refresh_error::RefreshFailure;
use report::{BinhostReport, RollbackReport};
use snapshot::ViewSnapshot;
use stored_index::RefreshOutcome;
use unusable::BinhostFacts;

/// The initiator of a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// The interval is over, or something seems to have changed. Frozen binhosts are not refreshed.
    Timer,
    /// The administrator, with `binhostfs refresh`. Frozen binhosts are refreshed too.
    Administrator,
}

/// All binhosts, and the state of what is shown of them.
#[derive(Debug)]
pub(super) struct Binhosts {
    pub(super) all: Vec<Binhost>,
    pub(super) generations: GenerationStore,
    /// The earlier generation that is shown, if any.
    rollback: Option<Rollback>,
    /// Why the generation that should be shown is not.
    rollback_problem: Option<String>,
    cache: Arc<Cache>,
    fetcher: Arc<Fetcher>,
    metrics: Arc<Metrics>,
    store: Option<Arc<ObjectStore>>,
    rules: Arc<Rules>,
    /// Number of the next binhost. No number is used twice.
    next: u32,
    tallies: HashMap<BinhostId, EntryCounts>,
    /// The last log message of the libc guard, to log changes only.
    libc_guarded: Option<String>,
    /// CHOSTs whose packages emerge accepts.
    accepted_chosts: AcceptedChosts,
    /// The root of Portage's files.
    portage_root: PathBuf,
    /// Reasons why nothing of a binhost can be used.
    unusable: HashMap<BinhostId, String>,
    /// Whether the published tree is older than the indexes: publishing is due, or has failed and
    /// will be retried.
    behind: bool,
}

impl Binhosts {
    /// Opens the binhosts of `config` and registers them with `fetcher`. Reads no index and sends
    /// no request.
    pub(super) fn open(
        cache: Arc<Cache>,
        fetcher: Arc<Fetcher>,
        metrics: Arc<Metrics>,
        store: Option<Arc<ObjectStore>>,
        config: &MountConfig,
        policies: Vec<Policy>,
    ) -> anyhow::Result<Self> {
        let generations = GenerationStore::open(
            cache.directory(),
            config.options.generations.get(),
            (config.options.store_index, Some(Arc::clone(cache.space()))),
        )?;
        let (all, rules, tallies, libc_guarded) = (Vec::new(), Arc::default(), HashMap::new(), None);
        let mut binhosts = Self {
            all,
            generations,
            rollback: None,
            rollback_problem: None,
            cache,
            fetcher,
            metrics,
            store,
            rules,
            next: 0,
            tallies,
            libc_guarded,
            accepted_chosts: config.accepted_chosts.clone(),
            portage_root: config.portage_root.clone(),
            unusable: HashMap::new(),
            behind: false,
        };
        binhosts.take_over(config, policies)?;
        Ok(binhosts)
    }

    /// Applies another configuration of binhosts or rules. Binhosts with an unchanged configuration
    /// keep their state. Binhosts without an index are refreshed first, so that the packages of new
    /// binhosts appear in the same tree in which those of removed ones vanish.
    pub(super) async fn configure(&mut self, config: &MountConfig) -> anyhow::Result<()> {
        let fresh = self.take_over(config, policies(config)?)?;
        for binhost in self.all.iter_mut().filter(|binhost| fresh.contains(&binhost.id)) {
            binhost.load().await;
        }
        // Each binhost logs its own failure.
        let _ = self.refresh_new().await;
        self.behind = true;
        Ok(())
    }

    /// Opens the new binhosts, removes the old ones, and sorts them by preference. Returns the new
    /// ones.
    fn take_over(&mut self, config: &MountConfig, policies: Vec<Policy>) -> anyhow::Result<Vec<BinhostId>> {
        let mut fresh = Vec::new();
        for (new, policy) in config.binhosts.iter().zip(policies) {
            if self.all.iter().any(|binhost| *binhost.config == *new) {
                continue;
            }
            let (id, name) = (BinhostId(self.next), new.directory.clone());
            self.next += 1;
            let used = private::kept_private(self.cache.directory(), new);
            let upstream = Arc::new(Upstream::new(used, Arc::clone(&self.metrics), self.store.clone())?);
            let remote = Arc::new(RemoteBinhost::new(name, upstream, policy, new.on_mismatch));
            let mut binhost = Binhost::open(self.cache.directory(), new.clone(), id, remote)?;
            if let Some(before) = self.all.iter().find(|before| before.config.directory == new.directory) {
                binhost.inherit_reachability(before);
            }
            fresh.push(binhost);
        }
        // Nothing after this point can fail.
        let ids = fresh.iter().map(|binhost| binhost.id).collect();
        fresh.iter().for_each(|binhost| self.fetcher.add_binhost(binhost.id, Arc::clone(&binhost.remote)));
        self.all.append(&mut fresh);
        let place = |binhost: &Binhost| config.binhosts.iter().position(|config| *config == *binhost.config);
        self.all.retain(|binhost| place(binhost).is_some());
        self.all.sort_by_key(place);
        self.apply_rollback();
        self.accepted_chosts = config.accepted_chosts.clone();
        self.portage_root.clone_from(&config.portage_root);
        let selection = config.selection.clone();
        self.rules = Arc::new(Rules { selection, libc_guard: config.options.libc_guard });
        Ok(ids)
    }

    /// Makes the first tree, before anything is mounted. Uses the stored indexes, or, if there are
    /// none, the indexes that arrive within [`START_BUDGET`].
    pub(super) async fn first(&mut self) -> anyhow::Result<Arc<Tree>> {
        // The rollback comes first: loading an index forgets refusals of entries that no index has.
        self.roll_back_again().await;
        for binhost in &mut self.all {
            binhost.load().await;
        }
        let none = |all: &[Binhost]| all.iter().all(|binhost| binhost.stored.current().is_none());
        if none(&self.all) {
            // Each binhost has logged its own failure.
            let failed = self.refresh_new().await;
            if none(&self.all) {
                tracing::warn!("no index: PKGDIR is shown empty until a binhost answers");
            } else if failed {
                tracing::warn!("not every binhost has an index; their packages are not shown until they have");
            }
        }
        self.tree().await
    }

    /// Refreshes the binhosts without an index, within [`START_BUDGET`]. `true`: at least one
    /// failed or did not finish.
    async fn refresh_new(&mut self) -> bool {
        let asked = self.refresh_where(Order::Forward, |binhost| binhost.stored.current().is_none());
        match tokio::time::timeout(START_BUDGET, asked).await {
            Ok(failures) => !failures.is_empty(),
            Err(_) => {
                self.all
                    .iter()
                    .filter(|binhost| binhost.stored.current().is_none())
                    .for_each(|binhost| binhost.stored.discard());
                tracing::warn!("not every binhost has sent its index within {}", shown(START_BUDGET));
                true
            }
        }
    }

    /// Refreshes all binhosts at the same time. Returns the failures, with the binhost's name if
    /// there are several.
    pub(super) async fn refresh(&mut self, order: Order, asker: Asker) -> Vec<RefreshFailure> {
        self.refresh_where(order, |binhost| asker == Asker::Administrator || !binhost.is_frozen()).await
    }

    async fn refresh_where(&mut self, order: Order, which: impl Fn(&Binhost) -> bool) -> Vec<RefreshFailure> {
        let many = self.all.len() > 1;
        let (space, generations) = (Arc::clone(self.cache.space()), self.generations.old());
        let asked = self.all.iter_mut().filter(|binhost| which(binhost)).map(async |binhost| {
            let news = full_disk::refresh_with_room(binhost, order, &space, &generations).await;
            (binhost.config.name.clone(), news)
        });
        let mut failures = Vec::new();
        let finished = join_all(asked).await;
        let written = self.all.iter_mut().map(|binhost| binhost.stored.take_downloaded()).sum();
        self.cache.budget().count(written);
        for (name, news) in finished {
            match news {
                Ok(news) => self.behind = self.behind || news == RefreshOutcome::Changed,
                Err(error) if many => failures.push(RefreshFailure::IndexOf { binhost: name, error }),
                Err(error) => failures.push(RefreshFailure::Index(error)),
            }
        }
        // A binhost that became unreachable may have to be shown with fewer packages.
        self.behind = self.behind || self.all.iter().any(Binhost::hides);
        failures
    }

    /// Whether the published tree is older than the indexes.
    pub(super) fn is_behind(&self) -> bool {
        self.behind || self.all.iter().any(|binhost| binhost.unpublished)
    }

    /// Makes the tree that is to be published now.
    pub(super) async fn tree(&mut self) -> anyhow::Result<Arc<Tree>> {
        let made = self.make_tree().await;
        self.behind = made.is_err();
        made
    }

    /// Restores the rollback that is stored on disk.
    async fn roll_back_again(&mut self) {
        let Some(number) = rollback::written(&self.generations.directory) else { return };
        if let Err(error) = self.take_back(number).await {
            let problem = format!("generation {number} should be shown, and cannot be: {error:#}; the newest is shown");
            tracing::warn!("{problem}");
            self.rollback_problem = Some(problem);
        }
    }

    async fn take_back(&mut self, number: u64) -> anyhow::Result<()> {
        let directory = self.generations.directory.clone();
        let read = blocking(move || Rollback::read(&directory, number)).await?;
        if !self.all.iter().any(|binhost| read.parts.contains_key(&binhost.config.directory)) {
            anyhow::bail!("none of its binhosts is configured any more");
        }
        self.rollback = Some(read);
        self.apply_rollback();
        Ok(())
    }

    /// Shows another generation until the rollback is undone, and stores this on disk. On an error,
    /// everything stays as before.
    pub(super) async fn roll_back(&mut self, to: RollbackTo) -> anyhow::Result<Arc<Tree>> {
        let number =
            rollback::resolve(&self.generations.directory, to, self.generations.current_number(), &self.portage_root)?;
        let before = self.rollback.take();
        let shown = match number {
            Some(number) => self.take_back(number).await,
            None => Ok(()),
        };
        self.apply_rollback();
        let made = match shown {
            Ok(()) => self.make_tree().await.and_then(|tree| self.write_rollback().map(|()| tree)),
            Err(error) => Err(error),
        };
        match made {
            Ok(_) => (self.behind, self.rollback_problem) = (false, None),
            Err(_) => {
                // The tree that was made is not published.
                (self.rollback, self.behind) = (before, true);
                self.apply_rollback();
            }
        }
        made
    }

    /// Stores on disk which generation is shown.
    fn write_rollback(&self) -> anyhow::Result<()> {
        let directory = &self.generations.directory;
        match &self.rollback {
            Some(rollback) => rollback.write(directory),
            None => rollback::undo(directory),
        }
    }

    fn apply_rollback(&mut self) {
        for binhost in &mut self.all {
            let earlier =
                |rollback: &Rollback| IndexChoice::Earlier(rollback.parts.get(&binhost.config.directory).cloned());
            binhost.choice = self.rollback.as_ref().map_or(IndexChoice::Latest, earlier);
        }
    }

    /// Whether an earlier generation is shown, and why a stored rollback is not in effect.
    pub(super) fn rollback_report(&self) -> RollbackReport {
        RollbackReport { rolled_back: self.rollback.is_some(), problem: self.rollback_problem.clone() }
    }

    /// The stored indexes that the tree is made of.
    fn ingredients(&self) -> anyhow::Result<Vec<RecipeIndex>> {
        match &self.rollback {
            None => Ok(self.all.iter().filter_map(Binhost::ingredient).collect()),
            Some(rollback) => {
                let preferred: Vec<String> = self.all.iter().map(|binhost| binhost.config.directory.clone()).collect();
                rollback.ingredients(&self.generations.directory, &preferred)
            }
        }
    }

    async fn make_tree(&mut self) -> anyhow::Result<Arc<Tree>> {
        let fetcher = Arc::clone(&self.fetcher);
        for binhost in &mut self.all {
            binhost.compare_entries(&fetcher).await;
        }
        let snapshot = self.snapshot();
        let (inputs, rules) = (snapshot.members(), snapshot.rules);
        let Union { view, tallies } = blocking(move || Ok(policy::compose(&inputs, &rules)?)).await?;
        let tree = self.generations.tree(view, self.ingredients()?).await?;
        self.cache.budget().count(self.generations.take_written());
        let cache = Arc::clone(&self.cache);
        // The new generation may have taken what was to stay free.
        blocking(move || {
            cache.evictor().keep_free();
            Ok(())
        })
        .await?;
        let (directory, shown) = (&self.generations.directory, tree.generation());
        if let Some(rollback) = self.rollback.as_mut().filter(|rollback| rollback.number != shown)
            && super::generations::find(directory, shown).is_ok()
        {
            // Other rules make another generation, which replaces the first one, unless the disk had no
            // room for it.
            rollback.number = tree.generation();
        }
        self.all.iter_mut().for_each(|binhost| binhost.unpublished = false);
        self.tallies = tallies.into_iter().collect();
        self.find_unusable().await?;
        self.log_guarded(&tree);
        Ok(tree)
    }

    /// Finds the binhosts of which nothing can be used, and logs each reason when it is new.
    async fn find_unusable(&mut self) -> anyhow::Result<()> {
        let facts = |binhost: &Binhost| {
            Some(BinhostFacts {
                id: binhost.id,
                index: binhost.published_index()?.index,
                disputed: binhost.votes.disputed().len(),
                nowhere: binhost.nowhere(),
            })
        };
        let all: Vec<_> = self.all.iter().filter_map(facts).collect();
        let (tallies, accepted) = (self.tallies.clone(), self.accepted_chosts.clone());
        let found = blocking(move || {
            let mut found = HashMap::new();
            for facts in all {
                let tally = tallies.get(&facts.id).copied().unwrap_or_default();
                found.extend(unusable::reason(&facts, tally, &accepted)?.map(|reason| (facts.id, reason)));
            }
            Ok(found)
        })
        .await?;
        for binhost in &self.all {
            let reason = found.get(&binhost.id).filter(|reason| self.unusable.get(&binhost.id) != Some(*reason));
            if let Some(reason) = reason {
                tracing::warn!("nothing of the binhost {} can be used: {reason}", binhost.config.name);
            }
        }
        self.unusable = found;
        Ok(())
    }

    /// Logs the dependencies that the libc guard adds, when they change.
    fn log_guarded(&mut self, tree: &Tree) {
        let (view, mut first) = (tree.view(), None);
        let mut count = 0;
        for (path, dependency) in (0..view.len() as u32).filter_map(|row| Some((view.path(row), view.dependency(row)?)))
        {
            tracing::debug!("libc guard: {path} gets {dependency}");
            first.get_or_insert((path, dependency));
            count += 1;
        }
        let libc_guarded =
            first.map(|(path, dependency)| format!("{} (first: {path} gets {dependency})", Plural(count, "package")));
        if let Some(libc_guarded) =
            libc_guarded.as_ref().filter(|libc_guarded| self.libc_guarded.as_ref() != Some(libc_guarded))
        {
            tracing::info!("libc guard: a dependency on the libc that it was built against is added to {libc_guarded}");
        }
        self.libc_guarded = libc_guarded;
    }

    /// A snapshot of what explains the view, as of now.
    pub(super) fn snapshot(&self) -> ViewSnapshot {
        ViewSnapshot {
            binhosts: self.all.iter().filter_map(Binhost::snapshot).collect(),
            rules: Arc::clone(&self.rules),
            cache: Arc::clone(&self.cache),
            fetcher: Arc::clone(&self.fetcher),
            newer: self.all.iter().filter_map(Binhost::newer).collect(),
            indexless: self
                .all
                .iter()
                .find(|s| s.stored.current().is_none())
                .map(|binhost| binhost.config.name.clone()),
        }
    }

    /// Collects a report about each binhost.
    pub(super) fn reports(&self) -> Vec<BinhostReport> {
        let tally = |binhost: &Binhost| self.tallies.get(&binhost.id).copied().unwrap_or_default();
        let unusable = |binhost: &Binhost| self.unusable.get(&binhost.id).cloned();
        self.all.iter().map(|binhost| BinhostReport::new(binhost, tally(binhost), unusable(binhost))).collect()
    }

    pub(super) fn find(&mut self, id: BinhostId) -> Option<&mut Binhost> {
        self.all.iter_mut().find(|binhost| binhost.id == id)
    }
}

#[cfg(test)]
mod tests;
