//! Read-through: a body from the cache, else one download -> verify -> commit, however many ask.
//!
//! * All downloads are in one table (`downloads`), whoever wants them and why; it says which one goes on next.
//! * A failure is remembered for [`FAILURE_MEMORY`], so that a program that opens the file again at once does not hammer the
//!   binhost; the reason is kept for `status`.
//! * A verified body that could not be kept stays here for a while: emerge opens a package some twenty times.
//!
//! * What an emerge is going to open is fetched ahead of it (`prefetch::planned`); what somebody asks for by name (`prefetch::requested`), or what will
//!   be upgraded one day (`prefetch::background`), comes after that. `prefetch::target` resolves what is asked for.
//!
//! * Before a byte of a package is answered, its entry is held against it (`index_mismatch`).
//! * What reads one package after the other, and is no emerge, is refused after some (`bulk_read_limit`).
//!
//! Not its job: what is shown, and what an errno is.

mod alarms;
mod availability;
mod bulk_read_limit;
mod downloads;
mod failures;
mod index_mismatch;
mod last_openers;
mod outcomes;
mod plan;
mod plan_check;
mod prefetch;
mod recovery;
mod remote_binhost;
mod transient_blobs;
mod uncached_open;

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use tokio::sync::mpsc;

use crate::cache::{Blob, Store, StoreError, Unkeepable};
use crate::index::{BinhostId, EntryId, IndexMismatch, Record, View};
use crate::metrics::Metrics;
use crate::sys::WrongClock;
use crate::upstream::UpstreamError;
use crate::verify::{Policy, VerifyError};

use alarms::Alarms;
pub use availability::{Availability, PackageAvailability};
use bulk_read_limit::BulkReadLimit;
pub use bulk_read_limit::WINDOW as BULK_READ_WINDOW;
pub use downloads::{
    Counts, DownloadProgress, DownloadState, GRACE, KEPT_FOR, MAX_LIVE, MAX_WAITERS, PLACES, PREFETCH_TURNS, SILENCE,
    TURNS, TURNS_OF_USER, Uid, WORTH_KEEPING,
};
use downloads::{Downloads, Priority};
use failures::Failures;
pub use failures::{FAILURE_MEMORY, FailureReport};
use index_mismatch::Judgements;
pub use index_mismatch::Mismatch;
pub use last_openers::LastOpener;
use last_openers::LastOpeners;
use plan_check::ProvedAhead;
pub use plan_check::{CheckFor, EntryCheck};
pub use prefetch::background::BackgroundOutcome;
pub use prefetch::planned::{AHEAD_SHARE, MAX_AHEAD_BYTES, PlanPrefetch};
pub use prefetch::requested::{
    Done, InProgress, MAX_TOGETHER, PackageOutcome, RequestedPrefetch, RequestedPrefetchReport,
};
pub use prefetch::target::{PrefetchTarget, PrefetchTargetError, ResolvedTarget};
use remote_binhost::{PackageKey, RemoteBinhosts};
pub use remote_binhost::{PackageRef, RemoteBinhost};
use transient_blobs::TransientBlobs;
pub use uncached_open::Miss;
use uncached_open::Openers;

/// Why a package cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The index on disk cannot be read.
    #[error("reading the stored index: {0}")]
    Index(std::io::Error),
    /// The binhost does not deliver it.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// What the binhost delivers is not the package that its index names.
    #[error("refused: {reason} (from {url})")]
    Refused {
        /// Where it came from.
        url: String,
        /// What is wrong with it.
        reason: VerifyError,
    },
    /// It is the package, and its index entry says something else of it.
    #[error("index mismatch: {}", listed(.0))]
    IndexMismatch(Vec<IndexMismatch>),
    /// The plan that it is a part of counts on a package whose entry is wrong.
    #[error("the plan of this emerge has {path} in it, and {reason}")]
    Plan {
        /// Where that package is shown.
        path: String,
        /// What is wrong with it.
        reason: Arc<FetchError>,
    },
    /// Signatures cannot be judged now.
    #[error("its signature cannot be checked: {0}")]
    Clock(#[from] WrongClock),
    /// The cache cannot take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cache's disk failed while it was written.
    #[error("writing the download to the cache: {0}")]
    Disk(std::io::Error),
    /// Too many opens wait.
    #[error("too many opens wait for packages already, most of them of the same user")]
    Busy,
    /// Nobody has opened it, and it would not be kept.
    #[error(transparent)]
    Unkept(#[from] Unkeepable),
    /// It was fetched for an upgrade to come, and something else is wanted now.
    #[error("the download gave way to another one")]
    GaveWay,
    /// The reader is no emerge, and has had many packages fetched already.
    #[error(
        "refused: too many packages that are not cached were opened by something that is no emerge (bulk-read-limit)"
    )]
    BulkRead,
    /// It was verified by other keys than those that may sign now.
    #[error("the keys that may sign have changed since it was verified")]
    KeysChanged,
    /// The daemon stops.
    #[error("the download was broken off")]
    Stopped,
}

impl FetchError {
    /// Whether what the binhost serves is not what its index says, or is not there at all: trying again is no use.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::IndexMismatch(_) => true,
            Self::Upstream(error) => error.contradicts_index(),
            Self::Index(_)
            | Self::Plan { .. }
            | Self::Clock(_)
            | Self::Store(_)
            | Self::Disk(_)
            | Self::Busy
            | Self::Unkept(_)
            | Self::GaveWay
            | Self::BulkRead
            | Self::KeysChanged
            | Self::Stopped => false,
        }
    }

    /// Whether the same bytes may be taken once the system clock shows another time.
    #[must_use]
    pub fn depends_on_clock(&self) -> bool {
        matches!(self, Self::Refused { reason, .. } if reason.depends_on_clock())
    }
}

/// The first differences, and how many more there are.
fn listed(found: &[IndexMismatch]) -> String {
    let (shown, rest) = found.split_at(found.len().min(MAX_LISTED));
    let shown: Vec<String> = shown.iter().map(ToString::to_string).collect();
    let more = if rest.is_empty() { String::new() } else { format!("; {} more keys differ", rest.len()) };
    shown.join("; ") + &more
}

/// What came of a download, for whoever decides what is shown.
#[derive(Debug)]
pub struct DownloadOutcome {
    /// Its binhost.
    pub origin: BinhostId,
    /// The entry.
    pub id: EntryId,
    /// Its PATH there.
    pub path: String,
    /// URI of the index header it belongs to.
    pub uri: Option<String>,
    /// How it ended.
    pub kind: OutcomeKind,
}

/// How a download ended.
#[derive(Debug)]
pub enum OutcomeKind {
    /// It was verified.
    Verified,
    /// It cannot be had as long as the binhost has the same bytes.
    Refused(Arc<FetchError>),
    /// It is the package, and its entry says something else of it.
    IndexMismatch(Mismatch),
    /// Nobody sent it.
    Unreachable,
}

/// Verdicts that wait to be looked at; more are dropped, the next download of the same package brings them again.
pub const MAX_VERDICTS: usize = 256;
/// Differences of one entry that are named.
const MAX_LISTED: usize = 3;

/// How a download ended, for all who wait for it.
pub type Outcome = Result<Blob, Arc<FetchError>>;

/// See the module's documentation.
#[derive(Debug)]
pub struct Fetcher {
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    origins: RemoteBinhosts,
    downloads: Downloads,
    failures: Failures,
    alarms: Alarms,
    held: TransientBlobs,
    judgements: Judgements,
    proved_ahead: ProvedAhead,
    guard: BulkReadLimit,
    openers: Openers,
    traces: LastOpeners,
    verdicts: mpsc::Sender<DownloadOutcome>,
}

impl Fetcher {
    /// A fetcher that reads through `store`, and the verdicts on what it downloads. It knows no binhost yet. To be called
    /// inside a tokio runtime.
    #[must_use]
    pub fn new(store: Arc<Store>, metrics: Arc<Metrics>) -> (Arc<Self>, mpsc::Receiver<DownloadOutcome>) {
        let (verdicts, receiver) = mpsc::channel(MAX_VERDICTS);
        let fetcher = Arc::new_cyclic(|fetcher| Self {
            store,
            metrics,
            origins: RemoteBinhosts::default(),
            downloads: Downloads::new(Weak::clone(fetcher)),
            failures: Failures::default(),
            alarms: Alarms::default(),
            held: TransientBlobs::default(),
            judgements: Judgements::default(),
            proved_ahead: ProvedAhead::default(),
            guard: BulkReadLimit::default(),
            openers: Openers::default(),
            traces: LastOpeners::default(),
            verdicts,
        });
        (fetcher, receiver)
    }

    /// Packages of `origin` can be asked for from now on.
    pub fn add_origin(&self, id: BinhostId, origin: Arc<RemoteBinhost>) {
        self.origins.add(id, origin);
    }

    /// Nothing is asked for any more but of `wanted`.
    pub fn retain_origins(&self, wanted: &HashSet<BinhostId>) {
        self.origins.retain(wanted);
    }

    /// Entry number `row` of `view`. `None`: there is none, or its binhost is no longer used.
    #[must_use]
    pub fn wanted(&self, view: &Arc<View>, row: u32) -> Option<PackageRef> {
        PackageRef::new(&self.origins, view, row)
    }

    /// The body, if it can be had without waiting. For FUSE threads.
    #[must_use]
    pub fn cached(&self, wanted: &PackageRef) -> Option<Blob> {
        let body = self.here(wanted.record(), &wanted.origin().policy).filter(|body| self.agrees(wanted, body));
        if body.is_some() {
            self.metrics.hits.increase();
        }
        body
    }

    /// Thread `tid` of user `uid` opens a package that is not here; 0: nobody that we see.
    #[must_use]
    pub fn miss(&self, tid: u32, uid: Uid) -> Miss {
        self.openers.miss(tid, uid)
    }

    /// The body, fetched if need be for who opens it, of user `uid`. Dropping the future gives up
    /// waiting and nothing else.
    ///
    /// # Errors
    /// The package cannot be had; the same reason for all who asked.
    pub async fn open(self: &Arc<Self>, wanted: PackageRef, miss: &Miss, uid: Uid) -> Outcome {
        // What is here or under way costs nothing more.
        let costs = !self.downloads.contains(wanted.key()) && !self.is_cached(&wanted);
        if costs && !self.guard.admits(miss, wanted.path()).await {
            self.metrics.bulk_reads_refused.increase();
            return Err(Arc::new(FetchError::BulkRead));
        }
        let body = self.request(&wanted, Priority::Open(uid))?.outcome().await?;
        // A download that others wait for may have ended before the keys changed.
        if !wanted.origin().policy.admits(&body.assurance()) {
            return Err(Arc::new(FetchError::KeysChanged));
        }
        self.held_against(&wanted, body).await
    }

    /// Removes the body from the cache, unless it is pinned. `true`: it was there.
    pub fn evict(&self, wanted: &PackageRef) -> bool {
        let id = wanted.record().id;
        !self.store.pins().iter().any(|pin| pin.id == id) && self.store.forget(id).is_some()
    }

    /// How many packages that are not here a job may open within [`BULK_READ_WINDOW`] if it is no emerge; 0: any number.
    pub fn set_bulk_read_limit(&self, most: u32) {
        self.guard.set(most);
    }

    /// Forgets failures: the next open tries again.
    pub fn forget_failures(&self) {
        self.failures.forget();
    }

    /// Lets go of bodies that are only held, once nobody has used them for a while, and of what interrupted downloads had
    /// received. To be called now and then.
    pub fn let_go(&self) {
        self.held.let_go();
        self.downloads.let_go();
    }

    /// The body, where it is here and may be served.
    fn here(&self, record: &Record, policy: &Policy) -> Option<Blob> {
        let held = || self.held.get(record.id).filter(|body| policy.admits(&body.assurance()));
        self.store.get(record.id, record.size, policy).or_else(held)
    }

    /// Builds that had other bytes before, newest first.
    #[must_use]
    pub fn alarms(&self) -> Vec<FailureReport> {
        self.alarms.reports()
    }

    /// What failed lately, newest first.
    #[must_use]
    pub fn failures(&self) -> Vec<FailureReport> {
        self.failures.reports()
    }

    /// What is being downloaded, and what somebody waits for.
    #[must_use]
    pub fn in_progress(&self) -> Vec<DownloadProgress> {
        self.downloads.progress()
    }

    /// How many downloads there are, and opens that wait for them.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.downloads.counts()
    }

    /// Whether a package would be kept if it were fetched now.
    ///
    /// # Errors
    /// It would not: why.
    pub fn would_keep(&self, wanted: &PackageRef) -> Result<(), Unkeepable> {
        self.store.would_keep(wanted.record().size)
    }

    /// Whether a package is in the cache, most likely.
    #[must_use]
    pub fn is_cached(&self, wanted: &PackageRef) -> bool {
        self.store.has(wanted.record().id, wanted.record().size, &wanted.origin().policy)
    }
}
