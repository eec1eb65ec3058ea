//! Keeps what is shown up to date: the indexes at intervals with jitter, sooner after a failure or when packages prove not to
//! fit them; and without what cannot be had.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::explain::Beside;
use super::files::blocking;
use super::generation::{Generations, Recipe};
use super::source::{News, Order, Source};
use super::state::{Shared, SourceReport, give_memory_back};
use super::{START_BUDGET, policies, shown};
use crate::config::{Binhost, MountConfig, Offline};
use crate::control::PackageStatus;
use crate::fetch::{Fetcher, Origin, Verdict, VerdictKind};
use crate::index::{Atom, OriginId, Record};
use crate::metrics::Metrics;
use crate::policy::{self, Formats, Here, Input, Rules, Shown, Tally};
use crate::store::Store;
use crate::tree::Tree;
use crate::upstream::{Upstream, jittered};
use crate::verify::Policy;

/// After a failed refresh the next one comes no later than this.
const RETRY: Duration = Duration::from_secs(60);
/// Shortest span between refreshes that packages ask for.
const PACE: Duration = Duration::from_secs(10);

/// What is asked of a [`Refresher`].
pub(super) enum Request {
    /// A refresh now, and where to tell how it went.
    Refresh { order: Order, reply: oneshot::Sender<Result<String, String>> },
    /// What becomes of packages, and why.
    Explain { atoms: Vec<Atom>, reply: oneshot::Sender<Result<Vec<PackageStatus>, String>> },
    /// Other binhosts or rules from now on.
    Configure(Box<MountConfig>),
}

/// All binhosts and what is shown of them.
#[derive(Debug)]
pub(super) struct Sources {
    all: Vec<Source>,
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
    behind: bool,
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
    async fn ask(&mut self, order: Order) -> Vec<String> {
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
    async fn tree(&mut self) -> anyhow::Result<Arc<Tree>> {
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

    /// What there is to say of each binhost.
    pub(super) fn reports(&self) -> Vec<SourceReport> {
        let tally = |source: &Source| self.tallies.get(&source.id).copied().unwrap_or_default();
        self.all.iter().map(|source| SourceReport::new(source, tally(source))).collect()
    }

    fn find(&mut self, id: OriginId) -> Option<&mut Source> {
        self.all.iter_mut().find(|source| source.id == id)
    }
}

/// Decides what is shown: asks for the indexes when they are due, and leaves out what cannot be had.
#[derive(Debug)]
pub(super) struct Refresher {
    sources: Sources,
    verdicts: mpsc::Receiver<Verdict>,
    requests: mpsc::Receiver<Request>,
    /// Mean time between refreshes.
    interval: Duration,
    due: Instant,
    last: Instant,
}

impl Refresher {
    /// Due at once: the stored indexes may be old.
    pub(super) fn new(
        sources: Sources,
        verdicts: mpsc::Receiver<Verdict>,
        requests: mpsc::Receiver<Request>,
        interval: Duration,
    ) -> Self {
        let now = Instant::now();
        Self { sources, verdicts, requests, interval, due: now, last: now.checked_sub(PACE).unwrap_or(now) }
    }

    /// Goes on for ever.
    pub(super) async fn run(mut self, shared: Arc<Shared>) {
        loop {
            shared.set_reports(self.sources.reports());
            tokio::select! {
                // Whoever asks hears of a failure; here it is in the log and in `status`.
                () = tokio::time::sleep_until(self.due.into()) => drop(self.refresh(&shared, Order::Forward).await),
                Some(verdict) = self.verdicts.recv() => self.hear(&shared, &verdict).await,
                Some(request) = self.requests.recv() => match request {
                    Request::Refresh { order, reply } => self.obey(&shared, order, reply).await,
                    Request::Explain { atoms, reply } => self.explain(&shared, atoms, reply).await,
                    Request::Configure(config) => self.configure(&shared, &config).await,
                },
            }
        }
    }

    /// A refresh that the administrator asks for; whatever was refused gets another chance.
    async fn obey(&mut self, shared: &Shared, order: Order, reply: oneshot::Sender<Result<String, String>>) {
        shared.fetcher.forget_failures();
        self.sources.all.iter().for_each(|source| source.origin.upstream.pardon());
        let answer = self.refresh(shared, order).await;
        let pardoned = self.sources.all.iter_mut().map(Source::pardon).filter(|some| *some).count();
        drop(self.present(shared, pardoned > 0).await);
        // Nobody may wait for it any more.
        let _ = reply.send(answer.map(|()| shared.summary()));
    }

    async fn explain(
        &self,
        shared: &Shared,
        atoms: Vec<Atom>,
        reply: oneshot::Sender<Result<Vec<PackageStatus>, String>>,
    ) {
        let failures = shared.fetcher.failures().into_iter().map(|report| (report.path, report.reason)).collect();
        let answer = self.sources.explain(atoms, failures).await;
        // Nobody may wait for it any more.
        let _ = reply.send(answer.map_err(|error| format!("{error:#}")));
        give_memory_back();
    }

    /// Shows what is known of the binhosts that there are now, and asks them soon.
    async fn configure(&mut self, shared: &Shared, config: &MountConfig) {
        match self.sources.configure(config).await {
            Ok(()) => {
                shared.fetcher.forget_failures();
                (self.interval, self.due) = (config.refresh, Instant::now());
                drop(self.present(shared, true).await);
                shared.configured(None);
            }
            Err(error) => shared.configured(Some(format!("{error:#}"))),
        }
    }

    /// A package that cannot be had leaves the index; one that can be had after all comes back.
    async fn hear(&mut self, shared: &Shared, verdict: &Verdict) {
        let soon = (self.last + PACE).max(Instant::now());
        let Some(source) = self.sources.find(verdict.origin) else { return };
        let changed = match verdict.kind {
            VerdictKind::Verified | VerdictKind::Refused(_) => source.hear(verdict).await,
            VerdictKind::Unreachable => false,
        };
        let hides = source.config.offline == Offline::Hide;
        // What is wrong may be the index, or the binhost is away: ask for it soon, but not for every package.
        if matches!(verdict.kind, VerdictKind::Refused(_)) || hides && matches!(verdict.kind, VerdictKind::Unreachable)
        {
            self.due = self.due.min(soon);
        }
        drop(self.present(shared, changed).await);
    }

    /// Shows what is known now, if that is something else. `true`: Portage sees something new.
    async fn present(&mut self, shared: &Shared, changed: bool) -> Result<bool, String> {
        let mut outcome = Ok(false);
        if changed || self.sources.behind {
            let tree = self.sources.tree().await;
            outcome = tree.map(|tree| shared.show(tree)).map_err(|error| format!("showing it: {error:#}"));
            shared.set_problem(outcome.clone().err());
            // Also those of which nothing is shown yet.
            let mut wanted = shared.snapshots.origins();
            wanted.extend(self.sources.all.iter().map(|source| source.id));
            shared.fetcher.retain_origins(&wanted);
        }
        // Whoever misses a package in the index finds the reason in `status`.
        shared.set_reports(self.sources.reports());
        outcome
    }

    async fn refresh(&mut self, shared: &Shared, order: Order) -> Result<(), String> {
        let mut failures = self.sources.ask(order).await;
        if self.sources.behind {
            // Also where Portage sees nothing of it: a binhost that was away is back.
            shared.fetcher.forget_failures();
        }
        match self.present(shared, false).await {
            Ok(true) => shared.metrics.refreshes.increase(),
            Ok(false) if failures.is_empty() => shared.metrics.unmodified.increase(),
            Ok(false) => {}
            Err(error) => failures.push(error),
        }
        shared.metrics.failed_refreshes.add(failures.len() as u64);
        let interval = jittered(self.interval);
        self.last = Instant::now();
        self.due = self.last + if failures.is_empty() { interval } else { interval.min(jittered(RETRY)) };
        let mut changed = false;
        for source in self.sources.all.iter_mut().filter(|source| !source.is_away()) {
            changed = source.reconsider().await || changed;
        }
        if changed {
            shared.fetcher.forget_failures();
            drop(self.present(shared, true).await);
        }
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    }
}
