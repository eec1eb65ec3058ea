//! Keeps what is shown up to date: the indexes at intervals with jitter, sooner after a failure or when packages prove not to
//! fit them; and without what cannot be had.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::source::{Order, Source};
use super::sources::Sources;
use super::state::{Shared, give_memory_back};
use crate::config::{MountConfig, Offline};
use crate::control::{Managed, PackageStatus, Task};
use crate::fetch::{Verdict, VerdictKind};
use crate::index::Atom;
use crate::upstream::jittered;

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
    /// Something with cached packages.
    Manage { task: Task, names: Vec<String>, reply: oneshot::Sender<Result<Managed, String>> },
    /// Other binhosts or rules from now on.
    Configure(Box<MountConfig>),
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
                    Request::Manage { task, names, reply } => self.manage(&shared, task, names, reply).await,
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

    async fn manage(
        &self,
        shared: &Arc<Shared>,
        task: Task,
        names: Vec<String>,
        reply: oneshot::Sender<Result<Managed, String>>,
    ) {
        if task == Task::Collect {
            // What can be used is not thrown away for want of a record.
            super::rebuild::pass(shared, None).await;
        }
        let answer = self.sources.manage(task, names).await;
        // Nobody may wait for it any more.
        let _ = reply.send(answer.map_err(|error| format!("{error:#}")));
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
        let (store, limits) = (Arc::clone(&shared.store), super::limits(config));
        shared.fetcher.set_mass_read(config.mass_read);
        // Evicting takes its time; whoever waits for it here would wait for a refresh anyway.
        drop(tokio::task::spawn_blocking(move || store.set_limits(limits)).await);
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
