//! Keeps what is shown up to date: the indexes at intervals with jitter, sooner after a failure or when packages prove not to
//! fit them; and without what cannot be had.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::binhosts::binhost::Binhost;
use super::binhosts::freshness::Order;
use super::binhosts::{Asker, Binhosts};
use super::request_queue::{Reply, Request, RequestQueue, explain, manage};
use super::state::DaemonState;
use super::tasks::clock::ClockWatch;
use crate::api::{Keep, RollbackTo};
use crate::config::{MountConfig, Offline};
use crate::fetch::{DownloadOutcome, OutcomeKind};
use crate::upstream::jittered;

/// After a failed refresh the next one comes no later than this.
const RETRY: Duration = Duration::from_secs(60);
/// Shortest span between refreshes that packages ask for.
const PACE: Duration = Duration::from_secs(10);

/// Decides what is shown: asks for the indexes when they are due, and leaves out what cannot be had.
#[derive(Debug)]
pub(super) struct Refresher {
    sources: Binhosts,
    verdicts: mpsc::Receiver<DownloadOutcome>,
    desk: RequestQueue,
    clock: ClockWatch,
    /// Mean time between refreshes.
    interval: Duration,
    due: Instant,
    last: Instant,
}

impl Refresher {
    /// Due at once: the stored indexes may be old.
    pub(super) fn new(
        sources: Binhosts,
        verdicts: mpsc::Receiver<DownloadOutcome>,
        requests: mpsc::Receiver<Request>,
        interval: Duration,
    ) -> Self {
        let (now, desk, clock) = (Instant::now(), RequestQueue::new(requests), ClockWatch::new());
        let last = now.checked_sub(PACE).unwrap_or(now);
        Self { sources, verdicts, desk, clock, interval, due: now, last }
    }

    /// Goes on for ever.
    pub(super) async fn run(mut self, shared: Arc<DaemonState>) {
        loop {
            shared.set_reports(&self.sources);
            tokio::select! {
                // What was put off, or broke something off, comes before what it broke off.
                biased;
                Some(request) = self.desk.next() => self.fulfil(&shared, request).await,
                // Whoever asks hears of a failure; here it is in the log and in `status`.
                () = tokio::time::sleep_until(self.due.into()) => drop(self.refresh(&shared, Order::Forward, Asker::Timer).await),
                Some(verdict) = self.verdicts.recv() => self.record_outcome(&shared, &verdict).await,
                () = self.clock.stepped() => self.judge_again(&shared),
            }
        }
    }

    async fn fulfil(&mut self, shared: &Arc<DaemonState>, request: Request) {
        match request {
            Request::Refresh { order, reply } => self.obey(shared, order, reply).await,
            Request::Explain { atoms, reply } => {
                explain(Arc::clone(shared), Arc::new(self.sources.explained()), atoms, reply).await;
            }
            Request::Manage { task, names, reply } => {
                let picture = Arc::new(self.sources.explained());
                manage(Arc::clone(shared), picture, task, names, reply).await;
            }
            Request::Rollback { to, reply } => self.roll_back(shared, to, reply).await,
            Request::Keep { number, keep, reply } => self.keep(number, keep, reply),
            Request::Configure(config) => self.configure(shared, &config).await,
        }
    }

    /// The clock was set: indexes and refused packages are judged by it with the refresh that follows, and who was blamed by
    /// the old one gets another chance.
    fn judge_again(&mut self, shared: &DaemonState) {
        tracing::info!("the system clock was set: the indexes are asked for and judged again");
        shared.fetcher.forget_failures();
        self.sources.all.iter().for_each(|source| source.origin.upstream.allow_retries());
        self.due = Instant::now();
    }

    /// A refresh that the administrator asks for; whatever was refused gets another chance.
    async fn obey(&mut self, shared: &Arc<DaemonState>, order: Order, reply: Reply<String>) {
        shared.fetcher.forget_failures();
        self.sources.all.iter().for_each(|source| source.origin.upstream.allow_retries());
        let Some(answer) = self.refresh(shared, order, Asker::Administrator).await else {
            return self.desk.put_off(Request::Refresh { order, reply });
        };
        let pardoned = self.sources.all.iter_mut().map(Binhost::clear_refusals).filter(|some| *some).count();
        drop(self.present(shared, pardoned > 0).await);
        // Nobody may wait for it any more.
        let _ = reply.send(answer.map(|()| shared.summary()));
    }

    async fn roll_back(&mut self, shared: &DaemonState, to: RollbackTo, reply: Reply<String>) {
        let made = self.sources.roll_back(to).await;
        let shown = made.and_then(|tree| {
            shared.fetcher.forget_failures();
            shared.set_reports(&self.sources);
            Ok(shared.publish(tree)?)
        });
        let answer = shown.map_err(|error| format!("{error:#}")).map(|_| shared.renewed.notify_one());
        // Where it failed, what was shown before may have to be made again.
        drop(self.present(shared, false).await);
        // Nobody may wait for it any more.
        let _ = reply.send(answer.map(|()| shared.summary()));
    }

    fn keep(&self, number: u64, keep: Keep, reply: Reply<String>) {
        let marked = tokio::task::block_in_place(|| self.sources.generations.mark(number, keep == Keep::Always));
        let what = match keep {
            Keep::Always => "is kept, however old it becomes",
            Keep::AsUsual => "goes when it is old, like any other",
        };
        // Nobody may wait for it any more.
        let _ =
            reply.send(marked.map(|()| format!("generation {number} {what}")).map_err(|error| format!("{error:#}")));
    }

    /// Shows what is known of the binhosts that there are now, and asks them soon.
    async fn configure(&mut self, shared: &DaemonState, config: &MountConfig) {
        let (store, limits) = (Arc::clone(&shared.store), super::limits(config));
        shared.fetcher.set_bulk_read_limit(config.bulk_read_limit);
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
    async fn record_outcome(&mut self, shared: &Arc<DaemonState>, verdict: &DownloadOutcome) {
        let soon = (self.last + PACE).max(Instant::now());
        let refused = matches!(verdict.kind, OutcomeKind::Refused(_));
        let picture = refused.then(|| self.sources.explained());
        let Some(source) = self.sources.find(verdict.origin) else { return };
        let hides = source.config.offline == Offline::Hide;
        let changed = match (&verdict.kind, picture) {
            // The binhost is asked about it. Broken off, it is forgotten: the next open brings it again.
            (OutcomeKind::Refused(_), Some(picture)) => {
                self.desk.during(shared, picture, source.record_outcome(verdict)).await.unwrap_or(false)
            }
            (OutcomeKind::Verified | OutcomeKind::Refused(_) | OutcomeKind::IndexMismatch(_), _) => {
                source.record_outcome(verdict).await
            }
            (OutcomeKind::Unreachable, _) => false,
        };
        // What is wrong may be the index, or the binhost is away: ask for it soon, but not for every package.
        let wrong = refused || changed && matches!(verdict.kind, OutcomeKind::IndexMismatch(_));
        if wrong || hides && matches!(verdict.kind, OutcomeKind::Unreachable) {
            self.due = self.due.min(soon);
        }
        drop(self.present(shared, changed).await);
    }

    /// Shows what is known now, if that is something else. `true`: Portage sees something new.
    async fn present(&mut self, shared: &DaemonState, changed: bool) -> Result<bool, String> {
        let mut outcome = Ok(false);
        if changed || self.sources.behind {
            let tree = self.sources.tree().await;
            let shown = tree.and_then(|tree| Ok(shared.publish(tree)?));
            outcome = shown.map_err(|error| format!("showing it: {error:#}"));
            shared.set_problem(outcome.clone().err());
            // Also those of which nothing is shown yet.
            let mut wanted = shared.snapshots.origins();
            wanted.extend(self.sources.all.iter().map(|source| source.id));
            shared.fetcher.retain_origins(&wanted);
        }
        // Whoever misses a package in the index finds the reason in `status`.
        shared.set_reports(&self.sources);
        outcome
    }

    /// Asks for the indexes and shows what they bring. `None`: it was broken off, and is due again at once.
    async fn refresh(&mut self, shared: &Arc<DaemonState>, order: Order, asker: Asker) -> Option<Result<(), String>> {
        let picture = self.sources.explained();
        let Some(mut failures) = self.desk.during(shared, picture, self.sources.refresh(order, asker)).await else {
            self.sources.all.iter_mut().for_each(Binhost::break_off);
            self.due = Instant::now();
            return None;
        };
        if self.sources.behind {
            // Also where Portage sees nothing of it: a binhost that was away is back.
            shared.fetcher.forget_failures();
        }
        match self.present(shared, false).await {
            Ok(true) => {
                shared.metrics.refreshes.increase();
                shared.renewed.notify_one();
            }
            Ok(false) if failures.is_empty() => shared.metrics.unmodified.increase(),
            Ok(false) => {}
            Err(error) => failures.push(error),
        }
        shared.metrics.failed_refreshes.add(failures.len() as u64);
        let interval = jittered(self.interval);
        self.last = Instant::now();
        self.due = self.last + if failures.is_empty() { interval } else { interval.min(jittered(RETRY)) };
        self.recheck_refusals(shared).await;
        Some(if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) })
    }

    /// Looks whether what was refused can be had now.
    async fn recheck_refusals(&mut self, shared: &Arc<DaemonState>) {
        let picture = self.sources.explained();
        let all = async {
            let mut changed = false;
            for source in self.sources.all.iter_mut().filter(|source| !source.is_unreachable()) {
                changed = source.recheck_refusals().await || changed;
            }
            changed
        };
        // Broken off, it is for the next refresh.
        if self.desk.during(shared, picture, all).await == Some(true) {
            shared.fetcher.forget_failures();
            drop(self.present(shared, true).await);
        }
    }
}
