//! Fetching a list of packages that somebody asked for, before anybody opens them.
//!
//! * What somebody waits for goes first (`downloads`); [`MAX_TOGETHER`] wait for a turn at the same time.
//! * It does not push out what it has fetched itself, or found: what does not fit into the cache together with all that came
//!   before it in the list is not fetched, and says so.
//! * What would not be kept, because the day's `write-budget` is used up or the disk is full, is not fetched, and says so.
//! * It outlives failures: each package is had or has a reason.
//!
//! Locks: the list's before the table of downloads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinSet;

use super::target::ResolvedTarget;
use crate::fetch::downloads::{Download, Waiter};
use crate::fetch::{Fetcher, PackageRef, Priority};
use crate::units::ByteSize;

/// Packages of one errand that are fetched, or wait for their turn, at the same time.
pub const MAX_TOGETHER: usize = 3;

/// What became of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackageOutcome {
    /// It was in the cache.
    Here,
    /// It was fetched.
    Fetched,
    /// It could not be had.
    Failed(String),
}

/// A package that is done with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Where it is shown; what was asked for, where there is nothing.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// How it ended.
    pub brought: PackageOutcome,
}

/// A package that is being fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InProgress {
    /// Where it is shown.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Bytes received.
    pub received: u64,
}

/// An errand at one moment.
#[derive(Debug, Clone)]
pub struct RequestedPrefetchReport {
    /// Packages in all.
    pub packages: usize,
    /// Bytes in all.
    pub bytes: u64,
    /// What is being fetched.
    pub underway: Vec<InProgress>,
    /// What is done with, in the order in which that happened; of what is there twice, the last one counts.
    pub done: Vec<Done>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct RequestedPrefetch {
    packages: usize,
    bytes: u64,
    list: Mutex<List>,
}

#[derive(Debug)]
struct List {
    waiting: VecDeque<PackageRef>,
    /// What has had a turn.
    underway: Vec<(PackageRef, Arc<Download>)>,
    done: Vec<Done>,
    fetched: Vec<PackageRef>,
    /// Bytes that are here for it, or about to be.
    taken: u64,
}

/// How to go on.
enum JobStep {
    Fetch(PackageRef, Waiter),
    /// There is nothing left.
    End,
}

impl RequestedPrefetch {
    /// An errand for these packages; nothing is done yet.
    #[must_use]
    pub fn new(ResolvedTarget { wanted, missing }: ResolvedTarget) -> Self {
        let (packages, bytes) = (wanted.len() + missing.len(), wanted.iter().map(|wanted| wanted.record().size).sum());
        let missed = |(path, reason)| Done { path, size: 0, brought: PackageOutcome::Failed(reason) };
        let done = missing.into_iter().map(missed).collect();
        let list = List { waiting: wanted.into(), underway: Vec::new(), done, fetched: Vec::new(), taken: 0 };
        Self { packages, bytes, list: Mutex::new(list) }
    }

    /// How far it is; of what is done with, all from number `since` on.
    #[must_use]
    pub fn report(&self, since: usize) -> RequestedPrefetchReport {
        let list = self.list();
        let underway = |(wanted, download): &(PackageRef, Arc<Download>)| InProgress {
            path: wanted.path().to_owned(),
            size: wanted.record().size,
            received: download.received(),
        };
        RequestedPrefetchReport {
            packages: self.packages,
            bytes: self.bytes,
            underway: list.underway.iter().map(underway).collect(),
            done: list.done.get(since..).unwrap_or_default().to_vec(),
        }
    }

    /// Runs it to its end. Dropping the future stops it; what nobody else waits for is broken off.
    pub async fn run(self: Arc<Self>, fetcher: Arc<Fetcher>) {
        // Dropped at the end, with all that is in it.
        let mut downloads = JoinSet::new();
        loop {
            while downloads.len() < MAX_TOGETHER {
                match self.step(&fetcher) {
                    JobStep::Fetch(wanted, waiter) => {
                        let (errand, fetcher) = (Arc::clone(&self), Arc::clone(&fetcher));
                        downloads.spawn(async move { errand.fetch(&fetcher, wanted, waiter).await });
                    }
                    JobStep::End => break,
                }
            }
            if downloads.join_next().await.is_none() {
                return self.count_losses(&fetcher);
            }
        }
    }

    fn step(&self, fetcher: &Arc<Fetcher>) -> JobStep {
        let mut list = self.list();
        while let Some(wanted) = list.waiting.pop_front() {
            let (path, size) = (wanted.path().to_owned(), wanted.record().size);
            let requested = || fetcher.request(&wanted, Priority::Requested);
            let brought = match obstacle(fetcher, &wanted, list.taken) {
                Some(brought) => brought,
                None => match requested() {
                    Ok(waiter) => {
                        list.taken += size;
                        return JobStep::Fetch(wanted, waiter);
                    }
                    Err(error) => PackageOutcome::Failed(error.to_string()),
                },
            };
            if brought == PackageOutcome::Here {
                list.taken += size;
            }
            list.done.push(Done { path, size, brought });
        }
        JobStep::End
    }

    async fn fetch(&self, fetcher: &Fetcher, wanted: PackageRef, mut waiter: Waiter) {
        let begun = waiter.watcher().clone().begun().await;
        if let Some(download) = waiter.download().filter(|_| begun) {
            self.list().underway.push((wanted.clone(), Arc::clone(download)));
        }
        let brought = match waiter.end().await {
            Ok(_) if fetcher.is_cached(&wanted) => PackageOutcome::Fetched,
            Ok(_) => PackageOutcome::Failed("it was fetched, and the cache could not keep it".to_owned()),
            Err(error) => PackageOutcome::Failed(error.to_string()),
        };
        let (path, size) = (wanted.path().to_owned(), wanted.record().size);
        let mut list = self.list();
        list.underway.retain(|(other, _)| other.key() != wanted.key());
        match brought {
            PackageOutcome::Fetched => {
                fetcher.metrics.requested_prefetches.increase();
                fetcher.metrics.requested_prefetch_bytes.add(size);
                list.fetched.push(wanted);
            }
            _ => list.taken = list.taken.saturating_sub(size),
        }
        list.done.push(Done { path, size, brought });
    }

    /// What was fetched, and others have pushed out since: it is not here, and is done with a second time.
    fn count_losses(&self, fetcher: &Fetcher) {
        let mut list = self.list();
        let lost: Vec<PackageRef> = list.fetched.drain(..).filter(|wanted| !fetcher.is_cached(wanted)).collect();
        for wanted in lost {
            let brought = PackageOutcome::Failed("it was fetched, and pushed out again by other packages".to_owned());
            list.done.push(Done { path: wanted.path().to_owned(), size: wanted.record().size, brought });
        }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a package need not, or cannot, be fetched. `taken`: bytes that are here already for whoever wants it.
fn obstacle(fetcher: &Fetcher, wanted: &PackageRef, taken: u64) -> Option<PackageOutcome> {
    // Being asked for counts as a use: it is not what is pushed out next.
    if fetcher.here(wanted.record(), &wanted.origin().policy).is_some() {
        return Some(PackageOutcome::Here);
    }
    let (bound, size) = (fetcher.store.usage().bound, wanted.record().size);
    if taken.saturating_add(size) > bound {
        let [bound, taken, size] = [bound, taken, size].map(|bytes| ByteSize(bytes).to_string());
        return Some(PackageOutcome::Failed(format!(
            "its {size} do not fit into the cache ({bound}) beside the {taken} that came before it; a larger cache-size helps"
        )));
    }
    if let Err(why) = fetcher.would_keep(wanted) {
        return Some(PackageOutcome::Failed(why.to_string()));
    }
    let is_used = fetcher.origins.get(wanted.key().0).is_some();
    (!is_used).then(|| PackageOutcome::Failed("its binhost is not used any more".to_owned()))
}
