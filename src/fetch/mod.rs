//! Read-through: returns a blob from the cache, else runs one download -> verify -> commit, shared
//! by all callers.
//!
//! | file | job |
//! |---|---|
//! | `downloads` | the table of downloads |
//! | `prefetch` | downloads before an open |
//! | `uncached_open` | an open of a package that is not cached |
//! | `bulk_read_limit` | limits jobs that read the whole mount |
//! | `index_mismatch` | compares an entry with its package |
//! | `emerge_plan` | the merge plan of an emerge, and its entries |
//! | `plan_check` | checks the entries of a plan first |
//! | `sample` | test: a fetcher with one binhost |
//! | `remote_binhost` | where packages come from, and what they must prove |
//! | `failures` | recent failures |
//! | `outcomes` | which check failed, and what to do |
//! | `alarms` | builds that changed |
//! | `availability` | the state of one package |
//! | `last_openers` | who opened a package last |
//! | `transient_blobs` | verified, and not in the cache |
//! | `reclaim` | proves blobs without a record |
//!
//! - One table (`downloads`) holds all downloads, for every reason and every user. The table
//!   chooses which download gets the next turn.
//! - A failure answers further opens for [`failures::FAILURE_MEMORY`], so that a program that opens
//!   the file again at once does not hammer the binhost. The reason is kept for `status`.
//! - A transient blob (verified, but not in the cache) stays here for a while, because emerge opens
//!   a package some twenty times.
//!
//! - `prefetch::planned` fetches the packages that an emerge is going to open. Requested prefetches
//!   (`prefetch::requested`) and upgrade prefetches (`prefetch::upgrade`) come after those.
//!   `prefetch::target` resolves the names in a request to packages.
//!
//! - `index_mismatch` compares the entry with the package before the daemon answers with a byte of
//!   it.
//! - `bulk_read_limit` refuses a job that reads one package after the other and is no emerge.
//!
//! Not its job: which entries are visible, and the mapping of errors to an errno.

mod alarms;
mod availability;
mod bulk_read_limit;
mod downloads;
mod emerge_plan;
mod failures;
mod index_mismatch;
mod last_openers;
mod outcomes;
mod plan_check;
mod prefetch;
mod reclaim;
mod remote_binhost;
#[cfg(test)]
pub(crate) mod sample;
mod transient_blobs;
mod uncached_open;

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use tokio::sync::mpsc;

use crate::cache::{Blob, Cache, CacheError, Unkeepable};
use crate::index::{BinhostId, EntryId, IndexMismatch, Record, View};
use crate::metrics::Metrics;
use crate::sys::WrongClock;
use crate::upstream::UpstreamError;
use crate::verify::{Policy, VerifyError};

use alarms::Alarms;
pub(crate) use availability::{Availability, PackageAvailability};
use bulk_read_limit::BulkReadLimit;
pub(crate) use downloads::{Counts, DownloadProgress, DownloadState, Uid};
use downloads::{Downloads, Priority};
pub use downloads::{MAX_LIVE, PLACES, TURNS, TURNS_OF_USER, WORTH_KEEPING};
pub(crate) use failures::FailureReport;
use failures::Failures;
use index_mismatch::Judgements;
pub(crate) use index_mismatch::Mismatch;
use last_openers::LastOpeners;
use plan_check::ProvedAhead;
pub(crate) use plan_check::{CheckFor, EntryCheck};
pub(crate) use prefetch::planned::PlanPrefetch;
pub use prefetch::planned::{AHEAD_SHARE, MAX_AHEAD_BYTES};
pub(crate) use prefetch::requested::{Done, InProgress, PackageOutcome, RequestedPrefetch, RequestedPrefetchReport};
pub(crate) use prefetch::target::{PrefetchTarget, ResolvedTarget};
pub(crate) use prefetch::upgrade::BackgroundOutcome;
use remote_binhost::{PackageKey, RemoteBinhosts};
pub(crate) use remote_binhost::{PackageRef, RemoteBinhost};
use transient_blobs::TransientBlobs;
pub(crate) use uncached_open::Miss;
use uncached_open::Openers;

/// The reason why a package cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The stored index cannot be read from the disk.
    #[error("reading the stored index: {0}")]
    Index(std::io::Error),
    /// The binhost does not deliver the package.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The binhost delivers something else than the package that its index names.
    #[error("refused: {reason} (from {url})")]
    Refused {
        /// The URL that the bytes came from.
        url: String,
        /// The check that failed.
        reason: VerifyError,
    },
    /// The package is the right one, but its index entry contradicts it.
    #[error("index mismatch: {}", listed(.0))]
    IndexMismatch(Vec<IndexMismatch>),
    /// The emerge plan that contains this package also contains a package whose entry is wrong.
    #[error("the plan of this emerge has {path} in it, and {reason}")]
    Plan {
        /// The path at which the wrong package is shown.
        path: String,
        /// The error of that package's check.
        reason: Arc<FetchError>,
    },
    /// Signatures cannot be judged now, because the system clock is wrong.
    #[error("its signature cannot be checked: {0}")]
    Clock(#[from] WrongClock),
    /// The cache cannot take the package.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The cache's disk failed during a write of the package.
    #[error("writing the download to the cache: {0}")]
    Disk(std::io::Error),
    /// Too many opens wait for downloads.
    #[error("too many opens wait for packages already, most of them of the same user")]
    Busy,
    /// The package was not opened by anybody, and the cache would not keep it.
    #[error(transparent)]
    Unkept(#[from] Unkeepable),
    /// An upgrade prefetch was stopped because another package is requested now.
    #[error("the download gave way to another one")]
    GaveWay,
    /// The reader is no emerge, and has already had as many packages fetched as the limit allows.
    #[error(
        "refused: too many packages that are not cached were opened by something that is no emerge (bulk-read-limit)"
    )]
    BulkRead,
    /// The package was verified with other keys than those that may sign now.
    #[error("the keys that may sign have changed since it was verified")]
    KeysChanged,
    /// The daemon stops, or the download was stopped.
    #[error("the download was broken off")]
    Stopped,
}

impl FetchError {
    /// Whether the binhost's file contradicts the index or is missing at every URL: a retry would
    /// not help.
    #[must_use]
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::IndexMismatch(_) => true,
            Self::Upstream(error) => error.contradicts_index(),
            Self::Index(_)
            | Self::Plan { .. }
            | Self::Clock(_)
            | Self::Cache(_)
            | Self::Disk(_)
            | Self::Busy
            | Self::Unkept(_)
            | Self::GaveWay
            | Self::BulkRead
            | Self::KeysChanged
            | Self::Stopped => false,
        }
    }

    /// Whether the same bytes may be accepted once the system clock shows another time.
    #[must_use]
    pub(crate) fn depends_on_clock(&self) -> bool {
        matches!(self, Self::Refused { reason, .. } if reason.depends_on_clock())
    }
}

/// The first [`MAX_LISTED`] differences, and the number of the others.
fn listed(found: &[IndexMismatch]) -> String {
    let (shown, rest) = found.split_at(found.len().min(MAX_LISTED));
    let shown: Vec<String> = shown.iter().map(ToString::to_string).collect();
    let more = if rest.is_empty() { String::new() } else { format!("; {} more keys differ", rest.len()) };
    shown.join("; ") + &more
}

/// How a download ended, sent to the daemon, which decides which entries are visible.
#[derive(Debug)]
pub(crate) struct DownloadOutcome {
    /// The binhost of the package.
    pub binhost: BinhostId,
    pub id: EntryId,
    /// The PATH of the package at its binhost.
    pub path: String,
    /// URI of the index header that the entry belongs to.
    pub uri: Option<String>,
    pub kind: OutcomeKind,
}

/// The kinds of a [`DownloadOutcome`].
#[derive(Debug)]
pub(crate) enum OutcomeKind {
    Verified,
    /// The package stays refused as long as the binhost serves the same bytes.
    Refused(Arc<FetchError>),
    /// The package is the right one, but its entry contradicts it.
    IndexMismatch(Mismatch),
    /// No mirror sent the package.
    Unreachable,
}

/// Download outcomes that wait in the channel. More are dropped: the next download of the same
/// package sends them again.
pub(crate) const MAX_OUTCOMES: usize = 256;
/// Differences of one entry that an error message names.
const MAX_LISTED: usize = 3;

/// The result of a download, for all waiters.
pub(crate) type Outcome = Result<Blob, Arc<FetchError>>;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Fetcher {
    cache: Arc<Cache>,
    metrics: Arc<Metrics>,
    binhosts: RemoteBinhosts,
    downloads: Downloads,
    failures: Failures,
    alarms: Alarms,
    held: TransientBlobs,
    judgements: Judgements,
    proved_ahead: ProvedAhead,
    guard: BulkReadLimit,
    openers: Openers,
    traces: LastOpeners,
    outcomes: mpsc::Sender<DownloadOutcome>,
}

impl Fetcher {
    /// A fetcher that reads through `cache`, and the channel of its download outcomes. The fetcher
    /// has no binhosts yet. Must be called inside a tokio runtime.
    #[must_use]
    pub(crate) fn new(cache: Arc<Cache>, metrics: Arc<Metrics>) -> (Arc<Self>, mpsc::Receiver<DownloadOutcome>) {
        let (outcomes, receiver) = mpsc::channel(MAX_OUTCOMES);
        let fetcher = Arc::new_cyclic(|fetcher| Self {
            cache,
            metrics,
            binhosts: RemoteBinhosts::default(),
            downloads: Downloads::new(Weak::clone(fetcher)),
            failures: Failures::default(),
            alarms: Alarms::default(),
            held: TransientBlobs::default(),
            judgements: Judgements::default(),
            proved_ahead: ProvedAhead::default(),
            guard: BulkReadLimit::default(),
            openers: Openers::default(),
            traces: LastOpeners::default(),
            outcomes,
        });
        (fetcher, receiver)
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

    /// The blob, if it can be served without waiting. For FUSE threads.
    #[must_use]
    pub(crate) fn cached(&self, wanted: &PackageRef) -> Option<Blob> {
        let blob = self.here(wanted.record(), &wanted.binhost().policy).filter(|blob| self.agrees(wanted, blob));
        if blob.is_some() {
            self.metrics.hits.increase();
        }
        blob
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
    pub(crate) async fn open(self: &Arc<Self>, wanted: PackageRef, miss: &Miss, uid: Uid) -> Outcome {
        // A cached package or a running download costs nothing more, so the limit does not count
        // it.
        let costs = !self.downloads.contains(wanted.key()) && !self.is_cached(&wanted);
        if costs && !self.guard.admits(miss, wanted.path()).await {
            self.metrics.bulk_reads_refused.increase();
            return Err(Arc::new(FetchError::BulkRead));
        }
        let blob = self.request(&wanted, Priority::Open(uid))?.outcome().await?;
        // A download that has other waiters may have ended before the keys changed.
        if !wanted.binhost().policy.admits(&blob.assurance()) {
            return Err(Arc::new(FetchError::KeysChanged));
        }
        self.held_against(&wanted, blob).await
    }

    /// Sends to the daemon how a download or a comparison with the index ended.
    fn send_outcome(&self, wanted: &PackageRef, kind: OutcomeKind) {
        let ((binhost, id), path, uri) = (wanted.key(), wanted.own_path().to_owned(), wanted.uri().map(str::to_owned));
        if self.outcomes.try_send(DownloadOutcome { binhost, id, path, uri, kind }).is_err() {
            tracing::debug!(path = wanted.path(), "too many outcomes at once; this one is dropped");
        }
    }

    /// Removes the blob from the cache, unless it is pinned. Returns `true` if it was removed.
    pub(crate) fn evict(&self, wanted: &PackageRef) -> bool {
        let id = wanted.record().id;
        !self.cache.pins().list().iter().any(|pin| pin.id == id) && self.cache.forget(id).is_some()
    }

    /// Sets how many uncached packages a job that is no emerge may open within
    /// [`bulk_read_limit::WINDOW`]. 0: any number.
    pub(crate) fn set_bulk_read_limit(&self, most: u32) {
        self.guard.set(most);
    }

    /// Forgets failures: the next open tries again.
    pub(crate) fn forget_failures(&self) {
        self.failures.forget();
    }

    /// Drops transient blobs that nobody has used for a while, and the partial files of interrupted
    /// downloads. Must be called now and then.
    pub(crate) fn let_go(&self) {
        self.held.let_go();
        self.downloads.let_go();
    }

    /// The blob, from the cache or from memory, if the policy admits it.
    fn here(&self, record: &Record, policy: &Policy) -> Option<Blob> {
        let held = || self.held.get(record.id).filter(|blob| policy.admits(&blob.assurance()));
        self.cache.get(record.id, record.size, policy).or_else(held)
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
        self.cache.space().would_keep(wanted.record().size)
    }

    /// Whether the cache has a record of the package. The blob itself is not checked.
    #[must_use]
    pub(crate) fn is_cached(&self, wanted: &PackageRef) -> bool {
        self.cache.has(wanted.record().id, wanted.record().size, &wanted.binhost().policy)
    }
}
