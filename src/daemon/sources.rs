//! All binhosts together: who is asked, and what is shown of what they have.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;

use super::explain::Beside;
use super::files::blocking;
use super::generation::{Generations, Recipe};
use super::source::{News, Order, Source};
use super::state::SourceReport;
use super::{START_BUDGET, policies, shown};
use crate::config::{Binhost, MountConfig};
use crate::fetch::{Fetcher, Origin};
use crate::index::{OriginId, Record};
use crate::metrics::Metrics;
use crate::policy::{self, Formats, Here, Input, Rules, Shown, Tally};
use crate::store::Store;
use crate::tree::Tree;
use crate::upstream::Upstream;
use crate::verify::Policy;

/// All binhosts and what is shown of them.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) all: Vec<Source>,
    generations: Generations,
    store: Arc<Store>,
    fetcher: Arc<Fetcher>,
    metrics: Arc<Metrics>,
    rules: Rules,
    /// Number of the next binhost: none has that of another.
    next: u32,
    tallies: HashMap<OriginId, Tally>,
    /// What was said of the libc guard.
    guarded: Option<String>,
    /// What is known is not what is shown: showing it failed.
    pub(super) behind: bool,
}

impl Sources {
    /// The binhosts of `config`, whose packages `fetcher` can be asked for from now on. Nothing is read or asked yet.
    pub(super) fn open(
        store: Arc<Store>,
        fetcher: Arc<Fetcher>,
        metrics: Arc<Metrics>,
        config: &MountConfig,
        policies: Vec<Policy>,
    ) -> anyhow::Result<Self> {
        let generations = Generations::open(store.directory())?;
        let (all, rules, tallies, guarded) = (Vec::new(), Rules::default(), HashMap::new(), None);
        let mut sources =
            Self { all, generations, store, fetcher, metrics, rules, next: 0, tallies, guarded, behind: false };
        sources.take_over(config, policies)?;
        Ok(sources)
    }

    /// Other binhosts, or other rules. Those that are configured as before go on as they are; new ones are asked, so that
    /// what they have is shown together with what they replace being gone.
    pub(super) async fn configure(&mut self, config: &MountConfig) -> anyhow::Result<()> {
        let fresh = self.take_over(config, policies(&config.binhosts)?)?;
        for source in self.all.iter_mut().filter(|source| fresh.contains(&source.id)) {
            source.load().await;
        }
        // Why not is said by each of them.
        drop(self.ask_new().await);
        self.behind = true;
        Ok(())
    }

    /// The new ones among the binhosts.
    fn take_over(&mut self, config: &MountConfig, policies: Vec<Policy>) -> anyhow::Result<Vec<OriginId>> {
        let mut fresh = Vec::new();
        for (binhost, policy) in config.binhosts.iter().zip(policies) {
            if self.all.iter().any(|source| source.config == *binhost) {
                continue;
            }
            let (id, name) = (OriginId(self.next), binhost.directory.clone());
            self.next += 1;
            let upstream = Arc::new(Upstream::new(binhost.clone(), Arc::clone(&self.metrics))?);
            let origin = Arc::new(Origin { name, upstream, policy });
            let mut source = Source::open(self.store.directory(), binhost.clone(), id, origin)?;
            if let Some(before) = self.all.iter().find(|before| before.config.directory == binhost.directory) {
                source.succeed(before);
            }
            fresh.push(source);
        }
        // Nothing can fail any more.
        let ids = fresh.iter().map(|source| source.id).collect();
        fresh.iter().for_each(|source| self.fetcher.add_origin(source.id, Arc::clone(&source.origin)));
        self.all.append(&mut fresh);
        let place = |source: &Source| config.binhosts.iter().position(|binhost| *binhost == source.config);
        self.all.retain(|source| place(source).is_some());
        self.all.sort_by_key(place);
        self.rules = Rules { selection: config.selection.clone(), libc_guard: config.libc_guard };
        Ok(ids)
    }

    /// What is stored, or, where nothing is, what the binhosts say within [`START_BUDGET`]; before anything is mounted.
    pub(super) async fn first(&mut self) -> anyhow::Result<Arc<Tree>> {
        for source in &mut self.all {
            source.load().await;
        }
        let none = |all: &[Source]| all.iter().all(|source| source.current().is_none());
        if none(&self.all) {
            let reason = self.ask_new().await;
            if none(&self.all) {
                tracing::warn!("no index: PKGDIR is shown empty until a binhost answers; {reason}");
            } else if !reason.is_empty() {
                tracing::warn!(
                    "not every binhost has an index; their packages are not shown until they have; {reason}"
                );
            }
        }
        self.tree().await
    }

    /// Asks those that have no index, within [`START_BUDGET`]; what went wrong with which.
    async fn ask_new(&mut self) -> String {
        let asked = self.ask_those(Order::Forward, |source| source.current().is_none());
        match tokio::time::timeout(START_BUDGET, asked).await {
            Ok(failures) => failures.join("; "),
            Err(_) => {
                self.all.iter().filter(|source| source.current().is_none()).for_each(Source::discard);
                format!("nothing after {}", shown(START_BUDGET))
            }
        }
    }

    /// Asks all binhosts at once; what went wrong with which.
    pub(super) async fn ask(&mut self, order: Order) -> Vec<String> {
        self.ask_those(order, |_| true).await
    }

    async fn ask_those(&mut self, order: Order, which: impl Fn(&Source) -> bool) -> Vec<String> {
        let many = self.all.len() > 1;
        let asked = self.all.iter_mut().filter(|source| which(source)).map(async |source| {
            let news = source.refresh(order).await;
            (source.config.name.clone(), news)
        });
        let mut failures = Vec::new();
        for (name, news) in join_all(asked).await {
            match news {
                Ok(news) => self.behind = self.behind || news == News::Changed,
                Err(error) if many => failures.push(format!("{name}: {error:#}")),
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        // One that went away may have to be shown with less.
        self.behind = self.behind || self.all.iter().any(Source::hides);
        failures
    }

    /// The tree of what is to be shown now.
    pub(super) async fn tree(&mut self) -> anyhow::Result<Arc<Tree>> {
        let made = self.make_tree().await;
        self.behind = made.is_err();
        made
    }

    async fn make_tree(&mut self) -> anyhow::Result<Arc<Tree>> {
        let inputs: Vec<Input> = self.all.iter().filter_map(|source| self.input(source)).collect();
        let rules = self.rules.clone();
        let Shown { view, tallies } = blocking(move || Ok(policy::compose(&inputs, &rules)?)).await?;
        let stored = |source: &Source| Some((source.config.directory.clone(), source.current()?.stamp));
        let recipe = Recipe::new(self.all.iter().filter_map(stored).collect(), &view);
        let tree = self.generations.tree(view, recipe).await?;
        self.tallies = tallies.into_iter().collect();
        self.log_guarded(&tree);
        Ok(tree)
    }

    /// Says what the libc guard did, once for as long as it does the same.
    fn log_guarded(&mut self, tree: &Tree) {
        let (view, mut first) = (tree.view(), None);
        let mut count = 0;
        for (path, dependency) in (0..view.len() as u32).filter_map(|row| Some((view.path(row), view.dependency(row)?)))
        {
            tracing::debug!("libc guard: {path} gets {dependency}");
            first.get_or_insert((path, dependency));
            count += 1;
        }
        let guarded = first.map(|(path, dependency)| format!("{count} packages (first: {path} gets {dependency})"));
        if let Some(guarded) = guarded.as_ref().filter(|guarded| self.guarded.as_ref() != Some(guarded)) {
            tracing::info!("libc guard: a dependency on the libc that it was built against is added to {guarded}");
        }
        self.guarded = guarded;
    }

    fn input(&self, source: &Source) -> Option<Input> {
        let part = source.part()?;
        let (store, origin) = (Arc::clone(&self.store), Arc::clone(&source.origin));
        let here = move |record: &Record| store.has(record.id, record.size, &origin.policy);
        let here = source.hides().then(|| -> Here { Box::new(here) });
        let Binhost { name, selection, .. } = source.config.clone();
        let formats = match source.origin.policy {
            Policy::DigestsOnly => Formats::All,
            Policy::Signed(_) => Formats::Signed,
        };
        Some(Input { name, part, hidden: source.hidden(), selection, formats, here })
    }

    /// What [`Sources::explain`] is about.
    pub(super) fn explained(&self) -> (Vec<Input>, Vec<Beside>, Rules) {
        let both = |source: &Source| {
            let refused =
                source.refusals().all().iter().filter_map(|refusal| Some((refusal.id()?, refusal.reason.clone())));
            let (name, origin, quorum) =
                (source.config.name.clone(), Arc::clone(&source.origin), source.config.quorum.get());
            Some((self.input(source)?, Beside { name, origin, refused: refused.collect(), quorum }))
        };
        let (inputs, beside) = self.all.iter().filter_map(both).unzip();
        (inputs, beside, self.rules.clone())
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(super) fn fetcher(&self) -> &Arc<Fetcher> {
        &self.fetcher
    }

    /// What there is to say of each binhost.
    pub(super) fn reports(&self) -> Vec<SourceReport> {
        let tally = |source: &Source| self.tallies.get(&source.id).copied().unwrap_or_default();
        self.all.iter().map(|source| SourceReport::new(source, tally(source))).collect()
    }

    pub(super) fn find(&mut self, id: OriginId) -> Option<&mut Source> {
        self.all.iter_mut().find(|source| source.id == id)
    }
}
