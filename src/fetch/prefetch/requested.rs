//! Requested prefetch: fetches the packages of a prefetch job before they are opened.
//!
//! - Opens go first (`downloads`). At most [`MAX_TOGETHER`] packages of a job wait for a turn at
//!   the same time.
//! - A job does not evict the packages that it has fetched, or found in the cache. A package that
//!   does not fit into the cache together with all before it in the list is not fetched, and the
//!   report says so.
//! - A package that the cache would not keep, because the day's `write-budget` is used up or the
//!   disk is full, is not fetched. The report says so.
//! - A failure does not end the job: each package is fetched or has a reason.
//!
//! Locks: the list's before the table of downloads.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::task::JoinSet;

use super::target::ResolvedTarget;
use crate::fetch::downloads::{Download, Priority, Start, Waiter};
use crate::fetch::fetcher::Fetcher;
use crate::fetch::remote_binhost::PackageRef;
use crate::units::ByteSize;

/// Packages of one job that are fetched, or wait for a turn, at the same time.
pub(crate) const MAX_TOGETHER: usize = 3;

/// The outcome of one package of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PackageOutcome {
    /// The package was in the cache.
    Here,
    /// The package was fetched by this job.
    Fetched,
    /// The package could not be fetched or kept, for this reason.
    Failed(String),
}

/// A finished package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Done {
    /// The path at which the package is shown, or the requested name if no package matches.
    pub path: String,
    /// Size of the package in bytes.
    pub size: u64,
    pub brought: PackageOutcome,
}

/// A package that is being fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InProgress {
    /// The path at which the package is shown.
    pub path: String,
    /// Size of the package in bytes.
    pub size: u64,
    /// Number of bytes received.
    pub received: u64,
}

/// The state of a prefetch job at one moment.
#[derive(Debug, Clone)]
pub(crate) struct RequestedPrefetchReport {
    /// Number of packages of the job.
    pub packages: usize,
    /// Size of these packages in bytes.
    pub bytes: u64,
    /// The packages that are being fetched.
    pub underway: Vec<InProgress>,
    /// The finished packages, in the order in which they finished. If a package occurs twice, the
    /// last outcome counts.
    pub done: Vec<Done>,
}

/// A prefetch job.
#[derive(Debug)]
pub(crate) struct RequestedPrefetch {
    packages: usize,
    bytes: u64,
    list: Mutex<List>,
}

#[derive(Debug)]
struct List {
    waiting: VecDeque<PackageRef>,
    /// Packages whose download has had a turn.
    underway: Vec<(PackageRef, Arc<Download>)>,
    done: Vec<Done>,
    fetched: Vec<PackageRef>,
    /// Bytes of the packages of this job that are cached, or are being fetched.
    taken: u64,
}

/// The next action of a job.
enum JobStep {
    Fetch(PackageRef, Waiter),
    /// The list is empty.
    End,
}

impl RequestedPrefetch {
    /// A job for these packages. Nothing is fetched before [`Self::run`].
    #[must_use]
    pub(crate) fn new(ResolvedTarget { wanted, missing }: ResolvedTarget) -> Self {
        let (packages, bytes) = (wanted.len() + missing.len(), wanted.iter().map(|wanted| wanted.record().size).sum());
        let missed = |(path, reason)| Done { path, size: 0, brought: PackageOutcome::Failed(reason) };
        let done = missing.into_iter().map(missed).collect();
        let list = List { waiting: wanted.into(), underway: Vec::new(), done, fetched: Vec::new(), taken: 0 };
        Self { packages, bytes, list: Mutex::new(list) }
    }

    /// The state of the job. Of the finished packages, only those from number `since` on.
    #[must_use]
    pub(crate) fn report(&self, since: usize) -> RequestedPrefetchReport {
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

    /// Runs the job to its end. Dropping the future stops the job, and its downloads that have no
    /// other waiters.
    pub(crate) async fn run(self: Arc<Self>, fetcher: Arc<Fetcher>) {
        // Dropped at the end, with all tasks in it.
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
            let brought = match start(fetcher, &wanted, list.taken) {
                Ok(Start::Started(waiter) | Start::Joined(waiter)) => {
                    list.taken += size;
                    return JobStep::Fetch(wanted, waiter);
                }
                // The lookup counts as a use, so that the package is not evicted next.
                Ok(Start::Cached(_)) => PackageOutcome::Here,
                Ok(Start::Refused(error)) => PackageOutcome::Failed(error.to_string()),
                Err(outcome) => outcome,
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
        if begun {
            self.list.lock().underway.push((wanted.clone(), Arc::clone(waiter.download())));
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

    /// Adds a second outcome for packages that were fetched, but evicted since to make room for
    /// others.
    fn count_losses(&self, fetcher: &Fetcher) {
        let mut list = self.list();
        let lost: Vec<PackageRef> = list.fetched.drain(..).filter(|wanted| !fetcher.is_cached(wanted)).collect();
        for wanted in lost {
            let brought = PackageOutcome::Failed("it was fetched, and pushed out again by other packages".to_owned());
            list.done.push(Done { path: wanted.path().to_owned(), size: wanted.record().size, brought });
        }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock()
    }
}

/// Starts the download of a package of a job. `taken`: bytes of the job's packages that are cached
/// or being fetched.
///
/// # Errors
/// The outcome of a package that is not cached, and does not fit into the cache beside these.
fn start(fetcher: &Fetcher, wanted: &PackageRef, taken: u64) -> Result<Start, PackageOutcome> {
    let (bound, size) = (fetcher.blobs.cache().usage().bound, wanted.record().size);
    if taken.saturating_add(size) <= bound {
        return Ok(fetcher.downloads.start(wanted, Priority::Requested, None));
    }
    fetcher.blobs.get(wanted).map(Start::Cached).map_err(|_| {
        let [bound, taken, size] = [bound, taken, size].map(|bytes| ByteSize(bytes).to_string());
        PackageOutcome::Failed(format!(
            "its {size} do not fit into the cache ({bound}) beside the {taken} that came before it; a larger cache-size helps"
        ))
    })
}
