//! Fetching ahead: when an emerge opens a package that is not here, the rest of its plan is fetched in the order of the plan.
//!
//! * Nothing that is opened waits for any of this: the opener, its plan and the index are looked at by a task of its own.
//! * What somebody waits for goes first: packages are fetched ahead only while [`RESERVED`] turns stay free, and while the
//!   line is not busy with what is opened, or will be opened before them.
//! * A plan is followed until its emerge ends; what is under way then, and nobody has asked for, is broken off.
//! * What fails, fails silently, and is tried again when it is opened.
//! * What would not be kept is not fetched ahead: it would be fetched again when it is opened.
//!
//! Locks: the queue's before the fetcher's table of flights.
//!
//! Not its job: which packages are ahead (`queue`), what a plan says (`plan`), whose it is (`opener`).

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::flight::{self, Cause, Landed};
use super::opener::{Emerge, Process, ProcessKey};
use super::origin::Key;
use super::plan::{self, PlanError};
use super::queue::{Added, Item, Queue};
use super::{Fetcher, Flight, MAX_FLIGHTS, Wanted};
use crate::config::Prefetch;
use crate::store::Unkeepable;

/// Packages that are fetched ahead at the same time: enough for small ones over a long way.
pub const MAX_AHEAD_DOWNLOADS: usize = 3;
/// The next one begins when this much is still to come of those before it: what is opened first has the line to itself, and
/// what a request takes is hidden behind the rest. Two side by side cost an emerge of 30 packages over 100 Mbit/s a tenth.
pub(super) const REST_OF_LINE: u64 = 2 << 20;
/// A download that has not moved for so long leaves the line to others.
const STILL: Duration = Duration::from_secs(2);
/// Of [`super::MAX_DOWNLOADS`] turns, those that are left to packages that somebody waits for.
pub const RESERVED: usize = 2;
/// Bytes that are ahead, for all plans: what a line of 100 Mbit/s brings in a minute and a half.
pub const MAX_AHEAD_BYTES: u64 = 1 << 30;
/// Of the cache, the part that may be ahead: the rest is for what has proved to be used.
pub const AHEAD_SHARE: u64 = 4;
/// Plans that are being read. A process may have its files where reading never ends.
const MAX_READERS: usize = 4;
/// How much longer than it worked a reader rests, so that many processes with many plans keep no processor busy.
const REST: u32 = 10;
/// How long it rests at most.
const MAX_REST: Duration = Duration::from_secs(1);
/// How often to look whether an emerge still runs.
const LIVENESS: Duration = Duration::from_secs(1);

/// See the module's documentation. What is under way ends when it is dropped.
#[derive(Debug)]
pub struct Ahead {
    prefetch: Prefetch,
    inner: Arc<Inner>,
    runtime: tokio::runtime::Handle,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Inner {
    fetcher: Arc<Fetcher>,
    queue: Mutex<Queue<ProcessKey, Wanted>>,
    readers: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

impl Item for Wanted {
    type Key = Key;

    fn key(&self) -> Key {
        Self::key(self)
    }

    fn size(&self) -> u64 {
        self.record().size
    }
}

impl Ahead {
    /// Fetches ahead with `fetcher`. To be called inside a tokio runtime.
    #[must_use]
    pub fn new(fetcher: Arc<Fetcher>, prefetch: Prefetch) -> Self {
        let max_bytes = MAX_AHEAD_BYTES.min(fetcher.store.usage().bound / AHEAD_SHARE);
        let inner = Inner {
            fetcher,
            queue: Mutex::new(Queue::new(max_bytes)),
            readers: Arc::new(Semaphore::new(MAX_READERS)),
            turns: Arc::new(Semaphore::new(MAX_AHEAD_DOWNLOADS)),
        };
        Self { prefetch, inner: Arc::new(inner), runtime: tokio::runtime::Handle::current(), tasks: Mutex::default() }
    }

    /// A package is opened. Waits for nothing.
    pub fn opened(&self, wanted: &Wanted) {
        if self.inner.queue().opened(wanted.key()) {
            self.inner.fetcher.metrics.prefetch_hits.increase();
            self.inner.fetcher.moved.notify_waiters();
        }
    }

    /// Thread `tid` opens a package that is not here; 0: nobody that we see. Waits for nothing.
    pub fn missed(&self, wanted: &Wanted, tid: u32) {
        if self.prefetch == Prefetch::Off || tid == 0 || self.inner.queue().is_planned(wanted.key()) {
            return;
        }
        let Ok(reader) = Arc::clone(&self.inner.readers).try_acquire_owned() else {
            return tracing::debug!(tid, "too many plans are being read; this one is not");
        };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(Arc::clone(&self.inner).look(wanted.clone(), tid, reader), &self.runtime);
    }
}

/// What was found out about an opener.
struct Found {
    process: Process,
    plan: Vec<Wanted>,
}

impl Inner {
    fn queue(&self) -> MutexGuard<'_, Queue<ProcessKey, Wanted>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks whether thread `tid` follows a plan, and follows it too.
    async fn look(self: Arc<Self>, wanted: Wanted, tid: u32, reader: OwnedSemaphorePermit) {
        let (inner, opened) = (Arc::clone(&self), wanted.key());
        // What reads takes its place along: it may never end.
        let find = move || {
            let began = Instant::now();
            (inner.find(&wanted, tid), began.elapsed(), reader)
        };
        let Ok((found, took, reader)) = tokio::task::spawn_blocking(find).await else { return };
        let rest = async {
            tokio::time::sleep(took.saturating_mul(REST).min(MAX_REST)).await;
            drop(reader);
        };
        let Some(Found { process, plan }) = found else { return rest.await };
        let key = process.key();
        let added = self.queue().add(key, plan, opened);
        tracing::debug!(?key, ?added, "an emerge's plan");
        self.fetcher.moved.notify_waiters();
        match added {
            Added::New => drop(tokio::join!(self.follow(process), rest)),
            Added::Extended | Added::Refused => rest.await,
        }
    }

    /// The plan that `wanted` belongs to, of the emerge that opened it.
    fn find(&self, wanted: &Wanted, tid: u32) -> Option<Found> {
        let emerge = Emerge::find(Path::new("/proc"), tid)?;
        if !self.queue().may_read(emerge.key()) {
            return None;
        }
        let names = match read(&emerge) {
            Ok(names) => names,
            Err(error) => {
                tracing::debug!(tid, %error, "no plan of an emerge");
                return None;
            }
        };
        let rows = plan::rows(wanted.view(), &names);
        let plan: Vec<Wanted> = rows.into_iter().filter_map(|row| self.fetcher.wanted(wanted.view(), row)).collect();
        let belongs = plan.iter().any(|planned| planned.key() == wanted.key());
        let plan = plan.into_iter().filter(|planned| !self.fetcher.need_not(planned)).collect();
        belongs.then(|| Found { process: emerge.into_process(), plan })
    }

    /// Fetches what is ahead of an emerge, until it ends.
    async fn follow(self: &Arc<Self>, process: Process) {
        let course = End { inner: self, key: process.key() };
        // Dropped at the end, with all that is in it.
        let mut downloads = JoinSet::new();
        let mut liveness = tokio::time::interval(LIVENESS);
        loop {
            let moved = self.fetcher.moved.notified();
            while let Some(download) = self.next(course.key) {
                downloads.spawn(download);
            }
            tokio::select! {
                () = moved => {}
                Some(_) = downloads.join_next() => {}
                _ = liveness.tick() => if !process.is_alive() {
                    return tracing::debug!(key = ?course.key, "the emerge has ended");
                }
            }
        }
    }

    /// The next download ahead, if it may begin now.
    fn next(self: &Arc<Self>, process: ProcessKey) -> Option<impl Future<Output = ()> + Send + use<>> {
        if !self.fetcher.store.may_write(0) {
            return None;
        }
        let place = Arc::clone(&self.turns).try_acquire_owned().ok()?;
        let turn = self.fetcher.spare_turn(RESERVED).filter(|_| !self.fetcher.is_line_full())?;
        let wanted = self
            .queue()
            .next(process, |wanted| self.fetcher.need_not(wanted) || self.fetcher.would_keep(wanted).is_err())?;
        let (key, size) = (wanted.key(), wanted.record().size);
        // At once: whether the next one may begin depends on it.
        let landed = self.fetcher.set_off(&wanted, turn);
        let inner = Arc::clone(self);
        Some(async move {
            if inner.fetcher.ahead(&wanted, landed).await {
                inner.fetcher.metrics.prefetched.increase();
                inner.fetcher.metrics.prefetched_bytes.add(size);
                inner.queue().succeeded(process);
            } else {
                inner.queue().failed(process, key);
            }
            drop(place);
            inner.fetcher.moved.notify_waiters();
        })
    }
}

impl Fetcher {
    /// Waits for a package that nobody has opened yet. Dropping the future breaks it off where nobody has. `true`: it is in the
    /// cache now.
    async fn ahead(&self, wanted: &Wanted, landed: Option<Landed>) -> bool {
        let Some(landed) = landed else { return false };
        drop(landed.outcome().await);
        self.has(wanted)
    }

    /// Begins to fetch a package that nobody has opened yet; `turn` is a turn of ours. Whoever opens it meanwhile joins the
    /// flight.
    fn set_off(self: &Arc<Self>, wanted: &Wanted, turn: OwnedSemaphorePermit) -> Option<Landed> {
        let key = wanted.key();
        let mut flights = self.flights();
        if flights.contains_key(&key) || flights.len() >= MAX_FLIGHTS || self.failures.recent(key).is_some() {
            return None;
        }
        if !self.may_write_beside(wanted, &flights) {
            return None;
        }
        let (flight, receiver) = Flight::new(wanted, Cause::Plan);
        let landed = Landed::new(&flight, receiver);
        flights.insert(key, Arc::clone(&flight));
        tokio::spawn(flight::fly(Arc::clone(self), flight, wanted.clone(), Some(turn)));
        Some(landed)
    }

    /// Whether the line has enough to do with what is opened, or will be opened first.
    fn is_line_full(&self) -> bool {
        let flights = self.flights();
        let before = flights.values().filter(|flight| (flight.is_asked() || flight.planned) && !flight.is_still(STILL));
        before.map(|flight| flight.left()).sum::<u64>() >= REST_OF_LINE
    }

    /// Whether a package would be kept if it were fetched now.
    ///
    /// # Errors
    /// It would not: why.
    pub fn would_keep(&self, wanted: &Wanted) -> Result<(), Unkeepable> {
        self.store.would_keep(wanted.record().size)
    }

    /// Whether it may be written today besides what is going to be downloaded, of which the store does not know yet.
    pub(super) fn may_write_beside(&self, wanted: &Wanted, flights: &HashMap<Key, Arc<Flight>>) -> bool {
        let coming = flights.values().filter(|flight| !flight.placed.load(Ordering::Relaxed));
        self.store.may_write(coming.fold(wanted.record().size, |sum, flight| sum.saturating_add(flight.size)))
    }

    /// Whether it is in the cache, most likely.
    pub(super) fn has(&self, wanted: &Wanted) -> bool {
        self.store.has(wanted.record().id, wanted.record().size, &wanted.origin().policy)
    }

    /// Whether fetching it would be no use: it is here, or under way, or its binhost is no longer used.
    fn need_not(&self, wanted: &Wanted) -> bool {
        let (origin, _) = wanted.key();
        self.has(wanted) || self.flights().contains_key(&wanted.key()) || self.origins.get(origin).is_none()
    }

    /// A turn, if more than `reserved` are free.
    pub(super) fn spare_turn(&self, reserved: usize) -> Option<OwnedSemaphorePermit> {
        let spare = self.turns.available_permits() > reserved;
        spare.then(|| Arc::clone(&self.turns).try_acquire_owned().ok()).flatten()
    }
}

/// The course ends, also when the task that follows it is aborted.
struct End<'a> {
    inner: &'a Inner,
    key: ProcessKey,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let wasted = self.inner.queue().end(self.key);
        self.inner.fetcher.metrics.prefetch_wasted.add(wasted as u64);
    }
}

/// The plan of an emerge, from the first EROOT that has one.
fn read(emerge: &Emerge) -> Result<Vec<plan::Planned>, PlanError> {
    let root = emerge.root().map_err(PlanError::Open)?;
    let mut last = Ok(Vec::new());
    for eroot in &emerge.eroots {
        last = plan::read(root.as_fd(), eroot, emerge.started);
        if last.as_ref().is_ok_and(|plan| !plan.is_empty()) {
            break;
        }
    }
    last
}
