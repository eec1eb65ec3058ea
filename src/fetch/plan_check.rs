//! Checks the entries of a merge plan before the first package of the plan is answered. Portage
//! would merge a dependency that somebody has added to an entry before it opens the package of that
//! entry.
//!
//! - Entries are checked only where packages are signed and an index mismatch is refused. Otherwise
//!   the result would have no effect.
//! - Only a proof that an entry is wrong stops a plan. A package that cannot be fetched fails when
//!   it is opened.
//! - The open waits for a bounded time. A longer check continues, and stops packages of the plan
//!   that are opened later.
//! - The opener is looked up once for each thread, and remembered for a while. That lookup
//!   (`uncached_open`) and the reading of a plan may never end. Root, the user of emerge, therefore
//!   has readers that other users cannot take.
//!
//! Not its job: how an entry is checked (`entry_check`), fetching the packages of a plan
//! (`prefetch::planned`).

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::emerge_plan;
use super::entry_check::{CheckFor, EntryCheck, EntryChecker};
use super::error::FetchError;
use super::remote_binhost::{PackageRef, RemoteBinhosts};
use super::uncached_open::Miss;
use crate::config::OnMismatch;
use crate::portage::emerge_process::{OpenerProcess, ProcessKey};

/// Packages of a plan that are checked at the same time.
const TOGETHER: usize = 6;
/// How long the check of a plan may run, also when no open waits for it any more.
const LONGEST: Duration = Duration::from_secs(60);
/// Plans whose check is remembered.
const MAX_PLANS: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Threads that are known to follow no plan, or a plan that is checked.
const MAX_OPENERS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// How long a thread is remembered. After that another process may have its number.
const KNOWN: Duration = Duration::from_secs(30);
/// Plans that are read at the same time, for root and for all other users. A process may have its
/// files on a file system where reading never ends.
const MAX_READERS: usize = 4;
/// The progress of the check of one plan.
#[derive(Debug, Clone)]
enum Progress {
    Running,
    /// No entry of the plan is known to be wrong.
    Done,
    /// The emerge had no plan yet.
    NoPlan,
    Wrong(Arc<FetchError>),
}

#[derive(Debug, Clone)]
struct PlanCheck {
    began: Instant,
    progress: watch::Receiver<Progress>,
}

/// The checks of all plans, one for each emerge process.
#[derive(Debug)]
pub(super) struct PlanChecks {
    binhosts: Arc<RemoteBinhosts>,
    checker: Arc<EntryChecker>,
    /// How long an open waits for a check. Zero: nothing is checked.
    limit: Duration,
    plans: Mutex<LruCache<ProcessKey, PlanCheck>>,
    openers: Mutex<LruCache<u32, Instant>>,
    readers_of_root: Arc<Semaphore>,
    readers: Arc<Semaphore>,
}

impl PlanChecks {
    pub(super) fn new(binhosts: Arc<RemoteBinhosts>, checker: Arc<EntryChecker>, limit: Duration) -> Self {
        let readers = || Arc::new(Semaphore::new(MAX_READERS));
        Self {
            binhosts,
            checker,
            limit,
            plans: Mutex::new(LruCache::new(MAX_PLANS)),
            openers: Mutex::new(LruCache::new(MAX_OPENERS)),
            readers_of_root: readers(),
            readers: readers(),
        }
    }

    /// Whether thread `tid` may follow a plan that is not checked. For FUSE threads.
    pub(super) fn concerns(&self, wanted: &PackageRef, tid: u32) -> bool {
        let binhost = wanted.binhost();
        let is_judged = binhost.policy.keyring.is_some() && binhost.on_mismatch == OnMismatch::Refuse;
        !self.limit.is_zero()
            && tid != 0
            && is_judged
            && self.openers.lock().get(&tid).is_none_or(|known| known.elapsed() > KNOWN)
    }

    /// Waits for the check of the plan that thread `tid` follows, if it follows one. The thread has
    /// opened a package.
    ///
    /// # Errors
    /// An entry of the plan is wrong.
    pub(super) async fn check(&self, wanted: &PackageRef, (tid, miss): (u32, &Miss)) -> Result<(), Arc<FetchError>> {
        let began = Instant::now();
        let Ok(looked) = tokio::time::timeout(self.limit, miss.opener()).await else { return Ok(()) };
        let Some((looked, key)) = looked.and_then(|looked| Some((Arc::clone(&looked), looked.emerge.as_ref()?.key())))
        else {
            self.clear(tid, began);
            return Ok(());
        };
        let readers = Arc::clone(if miss.is_of_root() { &self.readers_of_root } else { &self.readers });
        let left = self.limit.saturating_sub(began.elapsed());
        let Ok(Ok(reader)) = tokio::time::timeout(left, readers.acquire_owned()).await else { return Ok(()) };
        let mut check = self.of((key, looked, reader), wanted);
        let rest = self.limit.saturating_sub(check.began.elapsed());
        let ended = check.progress.wait_for(|progress| !matches!(progress, Progress::Running));
        let progress = match tokio::time::timeout(rest, ended).await {
            Ok(Ok(progress)) => progress.clone(),
            Ok(Err(_)) | Err(_) => Progress::Running,
        };
        match progress {
            Progress::Wrong(error) => Err(error),
            Progress::Done => {
                self.clear(tid, began);
                Ok(())
            }
            Progress::NoPlan => {
                self.plans.lock().pop(&key);
                Ok(())
            }
            // The check continues in its task. The next open waits for it again.
            Progress::Running => Ok(()),
        }
    }

    /// The check of an emerge's plan. Starts the check if there was none.
    fn of(
        &self,
        (key, looked, reader): (ProcessKey, Arc<OpenerProcess>, OwnedSemaphorePermit),
        wanted: &PackageRef,
    ) -> PlanCheck {
        let mut plans = self.plans.lock();
        if let Some(check) = plans.get(&key) {
            return check.clone();
        }
        let (sender, progress) = watch::channel(Progress::Running);
        let check = PlanCheck { began: Instant::now(), progress };
        plans.put(key, check.clone());
        drop(plans);
        let (binhosts, checker, wanted) = (Arc::clone(&self.binhosts), Arc::clone(&self.checker), wanted.clone());
        tokio::spawn(async move {
            let checks = async {
                match planned(binhosts, (looked, reader), &wanted).await {
                    Some(planned) => check_all(&checker, planned, &sender).await,
                    None => drop(sender.send_replace(Progress::NoPlan)),
                }
            };
            // Entries that are not checked after this time stay unknown.
            let _ = tokio::time::timeout(LONGEST, checks).await;
            sender.send_if_modified(|progress| {
                let is_running = matches!(progress, Progress::Running);
                if is_running {
                    *progress = Progress::Done;
                }
                is_running
            });
        });
        check
    }

    fn clear(&self, tid: u32, at: Instant) {
        self.openers.lock().put(tid, at);
    }
}

/// The packages of an emerge's plan that the view of `wanted` has.
async fn planned(
    binhosts: Arc<RemoteBinhosts>,
    (looked, reader): (Arc<OpenerProcess>, OwnedSemaphorePermit),
    wanted: &PackageRef,
) -> Option<Vec<PackageRef>> {
    let view = Arc::clone(wanted.view());
    let read = tokio::task::spawn_blocking(move || {
        let _reader = reader;
        let rows = emerge_plan::rows(&view, &emerge_plan::read(looked.emerge.as_ref()?).ok()?);
        let planned: Vec<_> = rows.into_iter().filter_map(|row| PackageRef::new(&binhosts, &view, row)).collect();
        (!planned.is_empty()).then_some(planned)
    });
    read.await.ok().flatten()
}

/// Checks all entries of a plan, also after the first wrong one, so that all wrong entries are
/// hidden before the next emerge plans.
async fn check_all(checker: &Arc<EntryChecker>, planned: Vec<PackageRef>, told: &watch::Sender<Progress>) {
    let (count, began) = (planned.len(), Instant::now());
    let checks = futures_util::stream::iter(planned).map(|wanted| {
        let checker = Arc::clone(checker);
        async move { (checker.check(&wanted, CheckFor::Plan).await, wanted) }
    });
    let (mut checks, mut unknown, mut is_stopped) = (checks.buffer_unordered(TOGETHER), 0, false);
    while let Some((check, wanted)) = checks.next().await {
        match check {
            EntryCheck::Agrees => {}
            EntryCheck::Unknown(reason) => {
                unknown += 1;
                tracing::debug!(path = wanted.path(), reason, "an entry of a plan is not checked");
            }
            EntryCheck::Wrong(reason) if !is_stopped => {
                is_stopped = true;
                let path = wanted.path().to_owned();
                tracing::warn!("no package of an emerge's plan is given out: it has {path} in it, and {reason}");
                told.send_replace(Progress::Wrong(Arc::new(FetchError::Plan { path, reason })));
            }
            // The log has the mismatch already, and one wrong entry is enough to stop the plan.
            EntryCheck::Wrong(_) => {}
        }
    }
    tracing::debug!(count, unknown, took = ?began.elapsed(), "the entries of an emerge's plan are checked");
}
