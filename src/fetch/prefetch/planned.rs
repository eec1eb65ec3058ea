//! Plan prefetch: when an emerge opens a package that is not cached, the rest of its merge plan is
//! fetched in the order of the plan.
//!
//! - An open does not wait for a prefetch. A separate task looks up the opener, reads its plan and
//!   searches the index. The open only waits for the lookup of the opener, for [`MOMENT`] at most,
//!   because a process that has its answer may end.
//! - Opens go first; the table of downloads ensures that.
//! - A plan is followed until its emerge ends. Downloads that are still running then, and that have
//!   no other waiters, are stopped.
//! - A failed prefetch is not reported. The open of the package tries again.
//! - A package that the cache would not keep is not prefetched, because its open would fetch it
//!   again.
//!
//! Locks: the queue's before the table of downloads.
//!
//! Not its job: which packages are ahead (`plan_queue`), the content of a plan
//! (`portage::merge_plan`), the owner of a plan (`portage::emerge_process`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::plan_queue::{Added, PrefetchQueue, Prefetchable};
use crate::config::Prefetch;
use crate::fetch::downloads::{Priority, Start, Waiter, Watcher};
use crate::fetch::emerge_plan;
use crate::fetch::error::FetchError;
use crate::fetch::fetcher::Fetcher;
use crate::fetch::plan_check::PlanChecks;
use crate::fetch::remote_binhost::{PackageKey, PackageRef};
use crate::fetch::uncached_open::Miss;
use crate::portage::emerge_process::{Emerge, OpenerProcess, ProcessKey};

/// Bytes that are ahead, for all plans: a line of 100 Mbit/s takes a minute and a half for them.
pub const MAX_AHEAD_BYTES: u64 = 1 << 30;
/// The part of the cache that may be ahead is 1 / `AHEAD_SHARE`. The rest is for blobs that are
/// known to be used.
pub const AHEAD_SHARE: u64 = 4;
/// Plans that are read at the same time. A process may have its files on a file system where
/// reading never ends.
const MAX_READERS: usize = 4;
/// The pause of a reader after its work, as a multiple of the time that it worked. It keeps many
/// processes with many plans from using up a processor.
const REST: u32 = 10;
/// The longest such pause.
const MAX_REST: Duration = Duration::from_secs(1);
/// How long an open waits at most for the lookup of its opener. The lookup takes some 0.1 ms, at
/// the same time as the download.
const MOMENT: Duration = Duration::from_millis(50);
/// Interval between two checks that an emerge still runs.
const LIVENESS: Duration = Duration::from_secs(1);

/// Follows the plans of all emerges. Dropping it stops its downloads.
#[derive(Debug)]
pub(crate) struct PlanPrefetch {
    prefetch: Prefetch,
    checks: PlanChecks,
    inner: Arc<PlanPrefetchState>,
    runtime: tokio::runtime::Handle,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct PlanPrefetchState {
    fetcher: Arc<Fetcher>,
    queue: Mutex<PrefetchQueue<ProcessKey, PackageRef>>,
    /// Notified when a plan has more packages to fetch, or when there is room for one.
    changed: Notify,
    readers: Arc<Semaphore>,
}

impl Prefetchable for PackageRef {
    type Key = PackageKey;

    fn key(&self) -> PackageKey {
        Self::key(self)
    }

    fn size(&self) -> u64 {
        self.record().size
    }
}

impl PlanPrefetch {
    /// Prefetches with `fetcher`. Must be called inside a tokio runtime.
    #[must_use]
    pub(crate) fn new(fetcher: Arc<Fetcher>, prefetch: Prefetch, plan_check: Duration) -> Self {
        let max_bytes = MAX_AHEAD_BYTES.min(fetcher.blobs.cache().usage().bound / AHEAD_SHARE);
        let (binhosts, checker) = (Arc::clone(&fetcher.binhosts), Arc::clone(&fetcher.checker));
        let checks = PlanChecks::new(binhosts, checker, plan_check);
        let inner = PlanPrefetchState {
            fetcher,
            queue: Mutex::new(PrefetchQueue::new(max_bytes)),
            changed: Notify::new(),
            readers: Arc::new(Semaphore::new(MAX_READERS)),
        };
        let runtime = tokio::runtime::Handle::current();
        Self { prefetch, checks, inner: Arc::new(inner), runtime, tasks: Mutex::default() }
    }

    /// Whether thread `tid` may follow a plan whose entries are not checked. If so, the caller must
    /// call [`Self::check_plan`] before it gives a package to the thread. For FUSE threads.
    pub(crate) fn is_unchecked(&self, wanted: &PackageRef, tid: u32) -> bool {
        self.checks.concerns(wanted, tid)
    }

    /// Waits until the entries of the opener's plan are compared with their packages, for no longer
    /// than `plan-check`.
    ///
    /// # Errors
    /// An entry of the plan is wrong.
    pub(crate) async fn check_plan(&self, wanted: &PackageRef, miss: &Miss) -> Result<(), Arc<FetchError>> {
        match miss.tid().filter(|tid| self.is_unchecked(wanted, *tid)) {
            Some(tid) => self.checks.check(wanted, (tid, miss)).await,
            None => Ok(()),
        }
    }

    /// Records that a package is opened, which makes room for another one. Waits for nothing.
    pub(crate) fn opened(&self, wanted: &PackageRef) {
        let Some(begun) = self.inner.queue().opened(wanted.key()) else { return };
        self.inner.fetcher.metrics.prefetch_hits.add(u64::from(begun));
        self.inner.changed.notify_waiters();
    }

    /// Waits for the lookup of the opener, before an uncached package is given to it. The opener
    /// may end as soon as it has the package.
    pub(crate) async fn found(&self, wanted: &PackageRef, miss: &Miss) {
        if self.prefetch != Prefetch::Off && miss.tid().is_some() && !self.inner.queue().is_planned(wanted.key()) {
            drop(tokio::time::timeout(MOMENT, miss.opener()).await);
        }
    }

    /// Starts a task that reads the opener's plan, because the opened package is not cached. Waits
    /// for nothing.
    pub(crate) fn missed(&self, wanted: &PackageRef, miss: &Miss) {
        let Some(tid) = miss.tid().filter(|_| self.prefetch != Prefetch::Off) else { return };
        if self.inner.queue().is_planned(wanted.key()) {
            return;
        }
        let Ok(reader) = Arc::clone(&self.inner.readers).try_acquire_owned() else {
            return tracing::debug!(tid, "too many plans are being read; this one is not");
        };
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(Arc::clone(&self.inner).read_plan(wanted.clone(), miss.clone(), reader), &self.runtime);
    }
}

/// The process and the plan of an opener.
struct OpenerPlan {
    looked: Arc<OpenerProcess>,
    key: ProcessKey,
    plan: Vec<PackageRef>,
}

impl PlanPrefetchState {
    fn queue(&self) -> MutexGuard<'_, PrefetchQueue<ProcessKey, PackageRef>> {
        self.queue.lock()
    }

    /// Looks whether the opener of the package follows a plan. If so, follows that plan, too.
    async fn read_plan(self: Arc<Self>, wanted: PackageRef, miss: Miss, reader: OwnedSemaphorePermit) {
        let (inner, opened) = (Arc::clone(&self), wanted.key());
        let began = Instant::now();
        let Some(looked) = miss.opener().await else { return };
        // The blocking read holds the permit, because the read may never end.
        let find = move || (inner.find(&wanted, looked), began.elapsed(), reader);
        let Ok((found, took, reader)) = tokio::task::spawn_blocking(find).await else { return };
        let rest = async {
            tokio::time::sleep(took.saturating_mul(REST).min(MAX_REST)).await;
            drop(reader);
        };
        let Some(OpenerPlan { looked, key, plan }) = found else { return rest.await };
        let added = self.queue().add(key, plan, opened);
        tracing::debug!(?key, ?added, "an emerge's plan");
        self.changed.notify_waiters();
        match added {
            Added::New => drop(tokio::join!(self.follow(key, &looked), rest)),
            Added::Extended | Added::Refused => rest.await,
        }
    }

    /// The plan of the emerge that opened `wanted`, if the plan contains `wanted`.
    fn find(&self, wanted: &PackageRef, looked: Arc<OpenerProcess>) -> Option<OpenerPlan> {
        let emerge = looked.emerge.as_ref()?;
        let key = emerge.key();
        if !self.queue().may_read(key) {
            return None;
        }
        let names = match emerge_plan::read(emerge) {
            Ok(names) => names,
            Err(error) => {
                tracing::debug!(?key, %error, "no plan of an emerge");
                return None;
            }
        };
        let rows = emerge_plan::rows(wanted.view(), &names);
        let plan: Vec<PackageRef> =
            rows.into_iter().filter_map(|row| self.fetcher.wanted(wanted.view(), row)).collect();
        let belongs = plan.iter().any(|planned| planned.key() == wanted.key());
        let plan = plan.into_iter().filter(|planned| !self.need_not(planned)).collect();
        belongs.then_some(OpenerPlan { looked, key, plan })
    }

    /// Fetches the next packages of a plan until its emerge ends.
    async fn follow(self: &Arc<Self>, key: ProcessKey, looked: &OpenerProcess) {
        let mut course = FollowedPlan { inner: self, key, waiters: BTreeMap::new(), last: 0 };
        let is_alive = || looked.emerge.as_ref().is_some_and(Emerge::is_alive);
        // Dropped at the end, with all tasks in it.
        let mut downloads = JoinSet::new();
        let mut liveness = tokio::time::interval(LIVENESS);
        loop {
            let changed = self.changed.notified();
            while let Some((wanted, waiter)) = self.next(course.key) {
                let (inner, process) = (Arc::clone(self), course.key);
                let watcher = waiter.as_ref().map(|waiter| waiter.watcher().clone());
                let number = course.keep(waiter);
                downloads.spawn(async move {
                    inner.watch(process, &wanted, watcher).await;
                    number
                });
            }
            tokio::select! {
                () = changed => {}
                Some(ended) = downloads.join_next() => drop(ended.map(|number| course.waiters.remove(&number))),
                _ = liveness.tick() => if !is_alive() {
                    return tracing::debug!(key = ?course.key, "the emerge has ended");
                }
            }
        }
    }

    /// The next package of a plan, with its download, which waits for a turn from now on. `None` in
    /// place of the download: it was refused.
    fn next(&self, process: ProcessKey) -> Option<(PackageRef, Option<Waiter>)> {
        if !self.fetcher.blobs.cache().budget().may_write(0) {
            return None;
        }
        loop {
            // What would be refused must not hold up the rest of a plan that is full.
            let passed = |wanted: &PackageRef| self.need_not(wanted) || self.fetcher.would_keep(wanted).is_err();
            let wanted = self.queue().next(process, passed)?;
            match self.fetcher.downloads.start(&wanted, Priority::Plan, None) {
                Start::Started(waiter) | Start::Joined(waiter) => return Some((wanted, Some(waiter))),
                Start::Refused(error) if !is_passed_over(&error) => return Some((wanted, None)),
                Start::Cached(_) | Start::Refused(_) => drop(self.queue().opened(wanted.key())),
            }
        }
    }

    /// Waits for the end of one prefetch and records the result. `None`: the request was refused.
    async fn watch(&self, process: ProcessKey, wanted: &PackageRef, watcher: Option<Watcher>) {
        let (mut ahead, mut fetched) = (false, false);
        if let Some(mut watcher) = watcher {
            ahead = watcher.begun().await && self.queue().begun(wanted.key());
            self.changed.notify_waiters();
            fetched = watcher.end().await.is_ok() && self.fetcher.is_cached(wanted);
        }
        if fetched {
            self.queue().succeeded(process);
        } else {
            self.queue().failed(process, wanted.key());
        }
        // A package that was opened before its turn came does not count as prefetched.
        if fetched && ahead {
            self.fetcher.metrics.prefetched.increase();
            self.fetcher.metrics.prefetched_bytes.add(wanted.record().size);
        }
        self.changed.notify_waiters();
    }

    /// Whether a prefetch is useless: the package is cached or being fetched.
    fn need_not(&self, wanted: &PackageRef) -> bool {
        self.fetcher.is_cached(wanted) || self.fetcher.downloads.contains(wanted.key())
    }
}

/// Whether a package that was refused says nothing about the next packages of the plan.
fn is_passed_over(error: &FetchError) -> bool {
    matches!(error, FetchError::Unkept(_) | FetchError::NotUsed)
}

/// A plan that is followed. Dropping it ends the plan, also when its task is aborted.
struct FollowedPlan<'a> {
    inner: &'a PlanPrefetchState,
    key: ProcessKey,
    /// The waiters for its packages, in the order of the plan.
    waiters: BTreeMap<u64, Waiter>,
    last: u64,
}

impl FollowedPlan<'_> {
    /// Keeps the waiter for the next package. Returns its number.
    fn keep(&mut self, waiter: Option<Waiter>) -> u64 {
        self.last += 1;
        waiter.into_iter().for_each(|waiter| drop(self.waiters.insert(self.last, waiter)));
        self.last
    }
}

impl Drop for FollowedPlan<'_> {
    fn drop(&mut self) {
        // In reverse order: a turn that becomes free is then not given to a download that is
        // stopped next.
        while self.waiters.pop_last().is_some() {}
        let wasted = self.inner.queue().end(self.key);
        self.inner.fetcher.metrics.prefetch_wasted.add(wasted as u64);
    }
}

#[cfg(test)]
mod tests;
