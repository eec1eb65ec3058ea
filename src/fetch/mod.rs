//! Read-through: a body from the cache, else one download -> verify -> store, however many ask.
//!
//! * A package is in at most one `flight` at a time. Everyone who asks meanwhile waits for that one, and gets the verified
//!   body as soon as it is proved; making it durable goes on behind their backs.
//! * A waiter that goes away harms nobody. A flight without waiters goes on for [`GRACE`], then it is broken off.
//! * A failure is remembered for [`FAILURE_MEMORY`], so that a program that opens the file again at once does not hammer the
//!   binhost; the reason is kept for `status`.
//! * A verified body that could not be kept stays here for a while: emerge opens a package some twenty times.
//!
//! * What an emerge is going to open is fetched ahead of it (`ahead`), by the same flights: one that nobody has asked for fails
//!   silently, and an open joins it like any other.
//! * What somebody asks for by name (`errand`), or what will be upgraded one day (`idle`), comes after all of these; what is
//!   meant by it is found out in `wish`.
//!
//! * What reads one package after the other, and is no emerge, is refused after some (`guard`).
//!
//! `verify` and `store` are synchronous: each flight has one blocking thread for them, fed by a bounded channel (`receive`).
//!
//! Not its job: what is shown, and what an errno is.

mod ahead;
mod alarms;
mod errand;
mod failures;
mod flight;
mod guard;
mod held;
mod idle;
mod opener;
mod origin;
mod plan;
mod queue;
mod receive;
mod reclaim;
mod standing;
mod traces;
mod verdicts;
mod wish;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, mpsc, watch};

use crate::index::{EntryId, OriginId, Record, View};
use crate::metrics::Metrics;
use crate::store::{Body, Store, StoreError};
use crate::upstream::UpstreamError;
use crate::verify::{Policy, VerifyError};

pub use ahead::{AHEAD_SHARE, Ahead, MAX_AHEAD_BYTES, MAX_AHEAD_DOWNLOADS, RESERVED};
use alarms::Alarms;
pub use errand::{Brought, Done, Errand, ErrandReport, MAX_TOGETHER, Underway};
use failures::Failures;
pub use failures::{FAILURE_MEMORY, FailureReport};
use flight::Cause;
use guard::Guard;
pub use guard::WINDOW as MASS_READ_WINDOW;
use held::Held;
pub use idle::Idled;
use origin::{Key, Origins};
pub use origin::{Origin, Wanted};
pub use standing::{Standing, State};
pub use traces::Caller;
use traces::Traces;
pub use wish::{Meant, Wish, WishError};

/// Downloads at the same time; more wait for their turn.
pub const MAX_DOWNLOADS: usize = 6;
/// Packages that are downloaded or wait for their turn; beyond that an open is refused.
pub const MAX_FLIGHTS: usize = 1024;
/// How long a download goes on when nobody waits for it any more.
pub const GRACE: Duration = Duration::from_secs(30);

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
    /// The cache cannot take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cache's disk failed while it was written.
    #[error("writing the download to the cache: {0}")]
    Disk(std::io::Error),
    /// Too many packages at once.
    #[error("{MAX_FLIGHTS} packages are being fetched or wait for it already")]
    Busy,
    /// The reader is no emerge, and has had many packages fetched already.
    #[error("refused: too many packages that are not cached were opened by something that is no emerge (mass-read)")]
    MassRead,
    /// The daemon stops.
    #[error("the download was broken off")]
    Stopped,
}

impl FetchError {
    /// Whether what the binhost serves is not what its index says, or is not there at all: trying again is no use.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused { .. } => true,
            Self::Upstream(error) => error.contradicts_index(),
            Self::Index(_) | Self::Store(_) | Self::Disk(_) | Self::Busy | Self::MassRead | Self::Stopped => false,
        }
    }
}

/// What came of a download, for whoever decides what is shown.
#[derive(Debug)]
pub struct Verdict {
    /// Its binhost.
    pub origin: OriginId,
    /// The entry.
    pub id: EntryId,
    /// Its PATH there.
    pub path: String,
    /// URI of the index header it belongs to.
    pub uri: Option<String>,
    /// How it ended.
    pub kind: VerdictKind,
}

/// How a download ended.
#[derive(Debug)]
pub enum VerdictKind {
    /// It was verified.
    Verified,
    /// It cannot be had as long as the binhost has the same bytes.
    Refused(Arc<FetchError>),
    /// Nobody sent it.
    Unreachable,
}

/// Verdicts that wait to be looked at; more are dropped, the next download of the same package brings them again.
pub const MAX_VERDICTS: usize = 256;

/// How a flight ended, for all its waiters.
pub type Outcome = Result<Body, Arc<FetchError>>;

/// A download in progress, for `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// PATH of the package.
    pub path: String,
    /// Bytes received.
    pub received: u64,
    /// Bytes in all.
    pub size: u64,
    /// Opens that wait for it.
    pub waiters: usize,
    /// It was begun ahead of an emerge, and nobody has opened it yet.
    pub ahead: bool,
}

#[derive(Debug)]
struct Flight {
    outcome: watch::Sender<Option<Outcome>>,
    path: String,
    size: u64,
    received: AtomicU64,
    began: Instant,
    /// When it last received something, in milliseconds since it began.
    heard: AtomicU64,
    /// A plan has it.
    planned: bool,
    /// The store knows of it, and counts it.
    placed: AtomicBool,
    /// Somebody has opened it; until then, it is fetched ahead.
    asked: AtomicBool,
    /// Of those that wait for it, whoever fetches it ahead; no open.
    ahead: AtomicUsize,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Fetcher {
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    origins: Origins,
    flights: Mutex<HashMap<Key, Arc<Flight>>>,
    failures: Failures,
    alarms: Alarms,
    held: Held,
    guard: Guard,
    traces: Traces,
    turns: Arc<Semaphore>,
    /// A download has ended, or nearly so.
    moved: Notify,
    verdicts: mpsc::Sender<Verdict>,
}

impl Fetcher {
    /// A fetcher that reads through `store`, and the verdicts on what it downloads. It knows no binhost yet.
    #[must_use]
    pub fn new(store: Arc<Store>, metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<Verdict>) {
        let (verdicts, receiver) = mpsc::channel(MAX_VERDICTS);
        let fetcher = Self {
            store,
            metrics,
            origins: Origins::default(),
            flights: Mutex::default(),
            failures: Failures::default(),
            alarms: Alarms::default(),
            held: Held::default(),
            guard: Guard::default(),
            traces: Traces::default(),
            turns: Arc::new(Semaphore::new(MAX_DOWNLOADS)),
            moved: Notify::new(),
            verdicts,
        };
        (fetcher, receiver)
    }

    /// Packages of `origin` can be asked for from now on.
    pub fn add_origin(&self, id: OriginId, origin: Arc<Origin>) {
        self.origins.add(id, origin);
    }

    /// Nothing is asked for any more but of `wanted`.
    pub fn retain_origins(&self, wanted: &HashSet<OriginId>) {
        self.origins.retain(wanted);
    }

    /// Entry number `row` of `view`. `None`: there is none, or its binhost is no longer used.
    #[must_use]
    pub fn wanted(&self, view: &Arc<View>, row: u32) -> Option<Wanted> {
        Wanted::new(&self.origins, view, row)
    }

    /// The body, if it can be had without waiting. For FUSE threads.
    #[must_use]
    pub fn cached(&self, wanted: &Wanted) -> Option<Body> {
        let body = self.here(wanted.record(), &wanted.origin().policy);
        if body.is_some() {
            self.metrics.hits.increase();
        }
        body
    }

    /// The body, fetched if need be for thread `tid`; 0: nobody that we see. Dropping the future gives up waiting and nothing else.
    ///
    /// # Errors
    /// The package cannot be had; the same reason for all who asked.
    pub async fn open(self: &Arc<Self>, wanted: Wanted, tid: u32) -> Outcome {
        // What is under way costs nothing more.
        let under_way = self.flights().contains_key(&wanted.key());
        if !under_way && !self.guard.admits(tid, wanted.path()).await {
            self.metrics.mass_reads.increase();
            return Err(Arc::new(FetchError::MassRead));
        }
        let mut outcome = self.join(wanted)?;
        let result = outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
        result.ok().flatten().unwrap_or_else(|| Err(Arc::new(FetchError::Stopped)))
    }

    /// Removes the body from the cache, unless it is pinned. `true`: it was there.
    pub fn evict(&self, wanted: &Wanted) -> bool {
        let id = wanted.record().id;
        !self.store.pins().iter().any(|pin| pin.id == id) && self.store.forget(id).is_some()
    }

    /// How many packages that are not here a job may open within [`MASS_READ_WINDOW`] if it is no emerge; 0: any number.
    pub fn set_mass_read(&self, most: u32) {
        self.guard.set(most);
    }

    /// Forgets failures: the next open tries again.
    pub fn forget_failures(&self) {
        self.failures.forget();
    }

    /// Lets go of bodies that are only held, once nobody has used them for a while. To be called now and then.
    pub fn let_go(&self) {
        self.held.let_go();
    }

    /// The body, where it is here and may be served.
    fn here(&self, record: &Record, policy: &Policy) -> Option<Body> {
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

    /// What is being downloaded or waits for its turn.
    #[must_use]
    pub fn in_progress(&self) -> Vec<Progress> {
        let progress = |flight: &Arc<Flight>| Progress {
            path: flight.path.clone(),
            received: flight.received.load(Ordering::Relaxed),
            size: flight.size,
            waiters: flight.outcome.receiver_count().saturating_sub(flight.ahead.load(Ordering::Relaxed)),
            ahead: !flight.is_asked(),
        };
        let mut all: Vec<Progress> = self.flights().values().map(progress).collect();
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all
    }

    /// Joins the flight of a package, or starts it.
    fn join(self: &Arc<Self>, wanted: Wanted) -> Result<watch::Receiver<Option<Outcome>>, Arc<FetchError>> {
        let key = wanted.key();
        let mut flights = self.flights();
        if let Some(flight) = flights.get(&key) {
            if !flight.asked.swap(true, Ordering::Relaxed) {
                self.metrics.misses.increase();
            }
            return Ok(flight.outcome.subscribe());
        }
        // It may have landed since the FUSE thread looked.
        if let Some(body) = self.here(wanted.record(), &wanted.origin().policy) {
            return Ok(watch::channel(Some(Ok(body))).1);
        }
        if let Some(error) = self.failures.recent(key) {
            return Err(error);
        }
        if flights.len() >= MAX_FLIGHTS {
            return Err(Arc::new(FetchError::Busy));
        }
        self.metrics.misses.increase();
        let (flight, receiver) = Flight::new(&wanted, Cause::Open);
        flights.insert(key, Arc::clone(&flight));
        tokio::spawn(flight::fly(Arc::clone(self), flight, wanted, None));
        Ok(receiver)
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Key, Arc<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
