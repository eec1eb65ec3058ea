//! Keeps the published tree up to date.
//!
//! The refresher fetches the indexes when `refresh_schedule` says, and hides entries whose packages
//! cannot be fetched.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::binhosts::freshness::Order;
use super::binhosts::refresh_error::{RefreshError, RefreshFailure};
use super::binhosts::{Asker, Binhosts};
use super::refresh_schedule::RefreshSchedule;
use super::request::{Reply, Request};
use super::request_queue::{RequestQueue, explain, manage};
use super::state::DaemonState;
use super::tasks::clock::ClockWatch;
use crate::api::{ApiError, ErrorCode, Keep, RollbackTo};
use crate::config::{MountConfig, Offline};
use crate::fetch::{DownloadOutcome, OutcomeKind};

/// Decides which entries are shown: fetches the indexes when they are due, and hides entries whose
/// packages cannot be fetched.
#[derive(Debug)]
pub(super) struct Refresher {
    binhosts: Binhosts,
    outcomes: mpsc::Receiver<DownloadOutcome>,
    requests: RequestQueue,
    clock: ClockWatch,
    schedule: RefreshSchedule,
}

impl Refresher {
    pub(super) fn new(
        binhosts: Binhosts,
        outcomes: mpsc::Receiver<DownloadOutcome>,
        requests: mpsc::Receiver<Request>,
        interval: Duration,
    ) -> Self {
        let (requests, clock) = (RequestQueue::new(requests), ClockWatch::new());
        Self { binhosts, outcomes, requests, clock, schedule: RefreshSchedule::new(interval) }
    }

    /// Handles requests, refreshes and download outcomes until it is cancelled.
    pub(super) async fn run(mut self, shared: Arc<DaemonState>) {
        loop {
            shared.set_reports(&self.binhosts);
            tokio::select! {
                // Requests come first: a request that cancelled a refresh must run before that
                // refresh is repeated.
                biased;
                Some(request) = self.requests.next() => self.fulfil(&shared, request).await,
                // Failures of a timed refresh are in the log and in `status`, so the result is
                // dropped.
                () = self.schedule.due() => drop(self.refresh(&shared, Order::Forward, Asker::Timer).await),
                Some(outcome) = self.outcomes.recv() => self.record_outcome(&shared, &outcome).await,
                () = self.clock.stepped() => self.judge_again(&shared),
            }
        }
    }

    async fn fulfil(&mut self, shared: &Arc<DaemonState>, request: Request) {
        match request {
            Request::Refresh { order, reply } => self.obey(shared, order, reply).await,
            Request::Explain { atoms, reply } => {
                explain(Arc::clone(shared), self.binhosts.snapshot().explained(), atoms, reply).await;
            }
            Request::Manage { task, names, reply } => {
                let explained = self.binhosts.snapshot().explained();
                manage(Arc::clone(shared), explained, task, names, reply).await;
            }
            Request::Rollback { to, reply } => self.roll_back(shared, to, reply).await,
            Request::Keep { number, keep, reply } => self.keep(number, keep, reply),
            Request::Configure(config) => self.configure(shared, &config).await,
        }
    }

    /// Handles a clock that was set. The next refresh judges indexes and refused packages by the
    /// new time. Mirrors that failed by the old time are tried again.
    fn judge_again(&mut self, shared: &DaemonState) {
        tracing::info!("the system clock was set: the indexes are asked for and judged again");
        shared.fetcher.forget_failures();
        self.binhosts.all.iter().for_each(|binhost| binhost.remote.upstream.allow_retries());
        self.schedule.hurry();
    }

    /// Refreshes on the administrator's request, and then forgets all refusals.
    async fn obey(&mut self, shared: &Arc<DaemonState>, order: Order, reply: Reply<String>) {
        shared.fetcher.forget_failures();
        self.binhosts.all.iter().for_each(|binhost| binhost.remote.upstream.allow_retries());
        let Some(answer) = self.refresh(shared, order, Asker::Administrator).await else {
            return self.requests.put_off(Request::Refresh { order, reply });
        };
        let pardoned =
            self.binhosts.all.iter_mut().map(|binhost| binhost.rejections.clear()).filter(|some| *some).count();
        drop(self.present(shared, pardoned > 0).await);
        // The client may have disconnected.
        let _ = reply.send(answer.map(|()| shared.summary()).map_err(ApiError::from));
    }

    async fn roll_back(&mut self, shared: &DaemonState, to: RollbackTo, reply: Reply<String>) {
        let made = self.binhosts.roll_back(to).await;
        let shown = made.and_then(|tree| {
            shared.fetcher.forget_failures();
            shared.set_reports(&self.binhosts);
            Ok(shared.publish(tree)?)
        });
        let answer = shown.map_err(conflict).map(|_| shared.tree_published.notify_one());
        // If the rollback failed, the previous tree may have to be made again.
        drop(self.present(shared, false).await);
        // The client may have disconnected.
        let _ = reply.send(answer.map(|()| shared.summary()));
    }

    fn keep(&self, number: u64, keep: Keep, reply: Reply<String>) {
        let marked = tokio::task::block_in_place(|| self.binhosts.generations.mark(number, keep == Keep::Always));
        let what = match keep {
            Keep::Always => "is kept, however old it becomes",
            Keep::AsUsual => "goes when it is old, like any other",
        };
        // The client may have disconnected.
        let _ = reply.send(marked.map(|()| format!("generation {number} {what}")).map_err(conflict));
    }

    /// Applies a new configuration: shows the indexes of its binhosts, and refreshes them soon.
    async fn configure(&mut self, shared: &DaemonState, config: &MountConfig) {
        let (cache, limits) = (Arc::clone(&shared.cache), super::limits(config));
        shared.fetcher.set_bulk_read_limit(config.options.bulk_read_limit);
        shared.fetcher.bandwidth().set(super::bandwidth_limits(config));
        // Evicting takes time. The requests that wait here would have to wait for a refresh anyway.
        drop(tokio::task::spawn_blocking(move || cache.evictor().set_limits(limits)).await);
        match self.binhosts.configure(config).await {
            Ok(()) => {
                shared.fetcher.forget_failures();
                self.schedule.set_interval(config.options.refresh);
                drop(self.present(shared, true).await);
                shared.configured(None);
            }
            Err(error) => shared.configured(Some(format!("{error:#}"))),
        }
    }

    /// Hides the entry of a refused package, and shows it again once the package is fetched after
    /// all.
    async fn record_outcome(&mut self, shared: &Arc<DaemonState>, outcome: &DownloadOutcome) {
        let refused = matches!(outcome.kind, OutcomeKind::Refused(_));
        let snapshot = self.binhosts.snapshot();
        let Some(binhost) = self.binhosts.find(outcome.binhost) else { return };
        let hides = binhost.config.offline == Offline::Hide;
        let changed = match &outcome.kind {
            // The daemon asks the binhost about the package. If that is cancelled, the outcome is
            // lost, and the next open reports it again.
            OutcomeKind::Refused(_) => {
                self.requests.during(shared, snapshot, binhost.record_outcome(outcome)).await.unwrap_or(false)
            }
            OutcomeKind::Verified | OutcomeKind::IndexMismatch(_) => binhost.record_outcome(outcome).await,
            OutcomeKind::Unreachable => false,
        };
        // The index may be wrong, or the binhost unreachable: refresh soon, but not for every
        // package.
        let wrong = refused || changed && matches!(outcome.kind, OutcomeKind::IndexMismatch(_));
        if wrong || hides && matches!(outcome.kind, OutcomeKind::Unreachable) {
            self.schedule.refresh_soon();
        }
        drop(self.present(shared, changed).await);
    }

    /// Publishes a new tree if the indexes or the refusals have changed. `true`: Portage sees a new
    /// tree.
    async fn present(&mut self, shared: &DaemonState, changed: bool) -> Result<bool, RefreshFailure> {
        let mut outcome = Ok(false);
        if changed || self.binhosts.is_behind() {
            let tree = self.binhosts.tree().await;
            // What is served to others follows from it, too.
            shared.set_snapshot(&self.binhosts);
            let shown = tree.and_then(|tree| Ok(shared.publish(tree)?));
            outcome = shown.map_err(RefreshFailure::Publish);
            shared.set_problem(outcome.as_ref().err().map(ToString::to_string));
            // Includes binhosts of which nothing is shown yet.
            let mut wanted = shared.snapshots.binhosts();
            wanted.extend(self.binhosts.all.iter().map(|binhost| binhost.id));
            shared.fetcher.retain_binhosts(&wanted);
        }
        // Updated before the answer: `status` explains why a package is missing from the index.
        shared.set_reports(&self.binhosts);
        outcome
    }

    /// Fetches the indexes and publishes the result. `None`: a request cancelled the refresh, which
    /// is due again at once.
    async fn refresh(
        &mut self,
        shared: &Arc<DaemonState>,
        order: Order,
        asker: Asker,
    ) -> Option<Result<(), RefreshError>> {
        let snapshot = self.binhosts.snapshot();
        let Some(mut failures) = self.requests.during(shared, snapshot, self.binhosts.refresh(order, asker)).await
        else {
            self.binhosts.all.iter_mut().for_each(|binhost| binhost.stored.break_off());
            self.schedule.hurry();
            return None;
        };
        if self.binhosts.is_behind() {
            // Also if the tree is the same for Portage: a binhost may be reachable again.
            shared.fetcher.forget_failures();
        }
        match self.present(shared, false).await {
            Ok(true) => {
                shared.metrics.refreshes.increase();
                shared.tree_published.notify_one();
            }
            Ok(false) if failures.is_empty() => shared.metrics.unmodified.increase(),
            Ok(false) => {}
            Err(error) => failures.push(error),
        }
        shared.metrics.failed_refreshes.add(failures.len() as u64);
        self.schedule.refreshed(!failures.is_empty());
        self.recheck_refusals(shared).await;
        Some(if failures.is_empty() { Ok(()) } else { Err(RefreshError(failures)) })
    }

    /// Checks whether refused packages can be fetched now.
    async fn recheck_refusals(&mut self, shared: &Arc<DaemonState>) {
        let snapshot = self.binhosts.snapshot();
        let all = async {
            let mut changed = false;
            for binhost in self.binhosts.all.iter_mut().filter(|binhost| !binhost.unreachable) {
                changed = binhost.recheck_refusals().await || changed;
            }
            changed
        };
        // If a request cancels the check, the next refresh repeats it.
        if self.requests.during(shared, snapshot, all).await == Some(true) {
            shared.fetcher.forget_failures();
            drop(self.present(shared, true).await);
        }
    }
}

/// The error of a request about generations.
fn conflict(error: anyhow::Error) -> ApiError {
    ApiError::new(ErrorCode::Conflict, format_args!("{error:#}"))
}

#[cfg(test)]
mod tests;
