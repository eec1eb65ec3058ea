//! The way to a package, for all who open packages.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::alarms::Alarms;
use super::availability::{Availability, PackageAvailability};
use super::bandwidth::Bandwidth;
use super::blobs::{Absence, Blobs};
use super::bulk_read_limit::BulkReadLimit;
use super::downloads::{Counts, DownloadContext, DownloadProgress, Downloads, Uid};
use super::entry_check::{CheckFor, EntryCheck, EntryChecker};
use super::error::{FetchError, Outcome};
use super::failures::{FailureReport, Failures};
use super::index_mismatch::EntryComparer;
use super::last_openers::{LastOpener, LastOpeners};
use super::machine_fetcher::MachineFetcher;
use super::outcomes::{DownloadOutcome, Mismatch, OutcomeSender};
use super::remote_binhost::{PackageRef, RemoteBinhost, RemoteBinhosts};
use super::uncached_open::{Miss, Openers};
use crate::cache::{Blob, Cache, Unkeepable};
use crate::index::{BinhostId, EntryId, Index, Sha256Digest, View};
use crate::metrics::Metrics;
use crate::verify::Sums;

/// The result of an open that does not wait.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// The blob can be served.
    Ready(Blob),
    /// The blob is on this machine, and is compared with its entry first ([`Fetcher::open`]).
    Unchecked,
    /// The package is not on this machine.
    Absent(Absence),
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Fetcher {
    pub(super) binhosts: Arc<RemoteBinhosts>,
    pub(super) blobs: Arc<Blobs>,
    pub(super) downloads: Arc<Downloads>,
    pub(super) checker: Arc<EntryChecker>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) comparer: Arc<EntryComparer>,
    failures: Arc<Failures>,
    alarms: Arc<Alarms>,
    limit: BulkReadLimit,
    bandwidth: Arc<Bandwidth>,
    pub(super) openers: Openers,
    last_openers: LastOpeners,
    for_machines: Arc<MachineFetcher>,
}

impl Fetcher {
    /// A fetcher that reads through `cache`, and the channel of its download outcomes. The fetcher
    /// has no binhosts yet. Must be called inside a tokio runtime.
    #[must_use]
    pub(crate) fn new(cache: Arc<Cache>, metrics: Arc<Metrics>) -> (Arc<Self>, mpsc::Receiver<DownloadOutcome>) {
        let (outcomes, receiver) = OutcomeSender::new();
        let (binhosts, failures) = (Arc::<RemoteBinhosts>::default(), Arc::<Failures>::default());
        let alarms = Arc::new(Alarms::new(Arc::clone(&cache), Arc::clone(&metrics)));
        let blobs = Arc::new(Blobs::new(cache));
        let comparer = Arc::new(EntryComparer {
            blobs: Arc::clone(&blobs),
            binhosts: Arc::clone(&binhosts),
            failures: Arc::clone(&failures),
            outcomes: outcomes.clone(),
            metrics: Arc::clone(&metrics),
            judgements: Default::default(),
        });
        let bandwidth = Arc::<Bandwidth>::default();
        let downloads = Downloads::new(DownloadContext {
            blobs: Arc::clone(&blobs),
            binhosts: Arc::clone(&binhosts),
            failures: Arc::clone(&failures),
            alarms: Arc::clone(&alarms),
            comparer: Arc::clone(&comparer),
            outcomes: outcomes.clone(),
            bandwidth: Arc::clone(&bandwidth),
            metrics: Arc::clone(&metrics),
        });
        let checker = EntryChecker::new(Arc::clone(&blobs), Arc::clone(&downloads), Arc::clone(&comparer), outcomes);
        let for_machines = Arc::new(MachineFetcher {
            binhosts: Arc::clone(&binhosts),
            blobs: Arc::clone(&blobs),
            downloads: Arc::clone(&downloads),
            metrics: Arc::clone(&metrics),
        });
        let fetcher = Self {
            binhosts,
            blobs,
            downloads,
            checker: Arc::new(checker),
            metrics,
            comparer,
            failures,
            alarms,
            limit: BulkReadLimit::default(),
            bandwidth,
            openers: Openers::default(),
            last_openers: LastOpeners::default(),
            for_machines,
        };
        (Arc::new(fetcher), receiver)
    }

    /// Adds a binhost: the fetcher serves its packages from now on.
    pub(crate) fn add_binhost(&self, id: BinhostId, binhost: Arc<RemoteBinhost>) {
        self.binhosts.add(id, binhost);
    }

    /// Removes all binhosts except those in `wanted`.
    pub(crate) fn retain_binhosts(&self, wanted: &HashSet<BinhostId>) {
        self.binhosts.retain(wanted);
    }

    /// The package of entry number `row` of `view`. `None`: there is no such entry, or its binhost
    /// is no longer used.
    #[must_use]
    pub(crate) fn wanted(&self, view: &Arc<View>, row: u32) -> Option<PackageRef> {
        PackageRef::new(&self.binhosts, view, row)
    }

    /// Returns the result of an open of the package, without waiting. For FUSE threads.
    #[must_use]
    pub(crate) fn look_up(&self, wanted: &PackageRef) -> Lookup {
        match self.blobs.get(wanted) {
            Ok(blob) if self.comparer.agrees(wanted, &blob) => {
                self.metrics.hits.increase();
                Lookup::Ready(blob)
            }
            Ok(_) => Lookup::Unchecked,
            Err(absence) => Lookup::Absent(absence),
        }
    }

    /// Records that thread `tid` of user `uid` opens a package that is not cached. `tid` 0: the
    /// process is in a pid namespace that the daemon does not see.
    #[must_use]
    pub(crate) fn miss(&self, tid: u32, uid: Uid) -> Miss {
        self.openers.miss(tid, uid)
    }

    /// Returns the blob. Fetches the package if it is not cached, on behalf of the opener in `miss`
    /// and user `uid`. Dropping the future only gives up waiting.
    ///
    /// # Errors
    /// The package cannot be fetched. All waiters get the same reason.
    pub(crate) async fn open(&self, wanted: PackageRef, miss: &Miss, uid: Uid) -> Outcome {
        let mut absence = miss.absence();
        // A cached package or a running download costs nothing more, so the limit does not count
        // it.
        if !self.downloads.contains(wanted.key())
            && let Err(absent) = self.blobs.get_unless(absence, &wanted)
        {
            absence = Some(absent);
            if !self.limit.admits(miss, wanted.path()).await {
                self.metrics.bulk_reads_refused.increase();
                return Err(Arc::new(FetchError::BulkRead));
            }
        }
        self.downloads.open(&wanted, uid, absence).await
    }

    /// The way to a package for other machines.
    #[must_use]
    pub(crate) fn for_machines(&self) -> &Arc<MachineFetcher> {
        &self.for_machines
    }

    /// Compares an entry with its package, and fetches as little of the package as possible.
    pub(crate) async fn check_entry(&self, wanted: &PackageRef, check_for: CheckFor) -> EntryCheck {
        self.checker.check(wanted, check_for).await
    }

    /// Removes the blob from the cache, unless it is pinned. Returns `true` if it was removed.
    pub(crate) fn evict(&self, wanted: &PackageRef) -> bool {
        self.blobs.evict(wanted.record().id)
    }

    /// Sets how many uncached packages a job that is no emerge may open within
    /// [`super::bulk_read_limit::WINDOW`]. 0: any number.
    pub(crate) fn set_bulk_read_limit(&self, most: u32) {
        self.limit.set(most);
    }

    /// The limits of bandwidth, and the quiet hours.
    pub(crate) fn bandwidth(&self) -> &Bandwidth {
        &self.bandwidth
    }

    /// Forgets failures: the next open tries again.
    pub(crate) fn forget_failures(&self) {
        self.failures.forget();
    }

    /// Drops transient blobs that nobody has used for a while, and the partial files of interrupted
    /// downloads. Must be called now and then.
    pub(crate) fn let_go(&self) {
        self.blobs.let_go();
        self.downloads.let_go();
    }

    /// Changed-build alarms (builds that had other bytes before), newest first.
    #[must_use]
    pub(crate) fn alarms(&self) -> Vec<FailureReport> {
        self.alarms.reports()
    }

    /// Recent failures, newest first.
    #[must_use]
    pub(crate) fn failures(&self) -> Vec<FailureReport> {
        self.failures.reports()
    }

    /// The running downloads, and those that have waiters.
    #[must_use]
    pub(crate) fn in_progress(&self) -> Vec<DownloadProgress> {
        self.downloads.progress()
    }

    /// The numbers of downloads, and of opens that wait for them.
    #[must_use]
    pub(crate) fn counts(&self) -> Counts {
        self.downloads.counts()
    }

    /// Whether the cache would keep a package if it were fetched now.
    ///
    /// # Errors
    /// The reason why the cache would not keep it.
    pub(crate) fn would_keep(&self, wanted: &PackageRef) -> Result<(), Unkeepable> {
        self.blobs.would_keep(wanted)
    }

    /// Whether the cache has a record of the package. The blob itself is not checked.
    #[must_use]
    pub(crate) fn is_cached(&self, wanted: &PackageRef) -> bool {
        self.blobs.has(wanted)
    }

    /// The state of `wanted` at this moment. Reads memory and the catalogue, and waits for nothing.
    #[must_use]
    pub(crate) fn availability(&self, wanted: &PackageRef) -> PackageAvailability {
        let (key, record, cache) = (wanted.key(), wanted.record(), self.blobs.cache());
        let mut source = None;
        let state = if let Some(known) = cache.known(record.id, record.size, &wanted.binhost().policy) {
            source = cache.source(known.digest);
            Availability::Cached(known)
        } else if self.downloads.contains(key) {
            Availability::Fetching
        } else {
            self.failures.reason(key).map_or(Availability::Remote, Availability::Failed)
        };
        let binhost = wanted.binhost().upstream.binhost().name.clone();
        PackageAvailability { state, binhost, source }
    }

    /// Records that thread `tid` opens a package. Waits for nothing.
    pub(crate) fn opened_by(&self, wanted: &PackageRef, tid: u32) {
        self.last_openers.opened(wanted.key(), tid);
    }

    /// The last opener of an entry, if the package was opened lately.
    #[must_use]
    pub(crate) fn caller(&self, binhost: BinhostId, id: EntryId) -> Option<LastOpener> {
        self.last_openers.get((binhost, id))
    }

    /// The index mismatches of an index, as far as the cache has the packages. Remembers the
    /// entries that agree. Blocks.
    #[must_use]
    pub(crate) fn mismatches(&self, binhost: BinhostId, index: &Arc<Index>) -> Vec<Mismatch> {
        self.comparer.mismatches(binhost, index)
    }

    /// Proves a blob without a record, as strictly as the binhost of its entry requires, and adopts
    /// it into the catalogue. Returns `true` if it was adopted. `among` are the packages that it
    /// may be, by its size.
    ///
    /// Reads the whole blob once for the digests, which say which of these packages it is, and once
    /// more to prove it. Blocks.
    #[must_use]
    pub(crate) fn reclaim(&self, orphan: Sha256Digest, among: &[PackageRef]) -> bool {
        let cache = self.blobs.cache();
        let Some(sums) = cache.recovery().orphan(orphan).and_then(|unproved| Sums::of(&unproved.file).ok()) else {
            return false;
        };
        // A package with a download in the table is skipped: that download looks for unproved blobs
        // itself.
        let is_under_way = |wanted: &PackageRef| self.downloads.contains(wanted.key());
        among.iter().filter(|wanted| !is_under_way(wanted)).any(|wanted| {
            let Some(entry) = wanted.entry().ok().filter(|entry| sums.fit(entry)) else { return false };
            let unproved = cache.recovery().orphan(orphan);
            unproved.is_some_and(|unproved| self.blobs.adopt(wanted.binhost(), &entry, unproved).is_some())
        })
    }
}
