//! The table of downloads: the only way to get a package from a binhost.
//!
//! | file | job |
//! |---|---|
//! | `scheduler` | starts downloads and gives them turns |
//! | `table` | the downloads and their waiters |
//! | `table::choice` | which download gets the next turn |
//! | `table::users` | the waiting opens of each user |
//! | `lane` | queue and turns of one binhost |
//! | `turn` | what a download may do |
//! | `run` | one download from its first turn to its end |
//! | `receive` | bytes -> proved and written |
//! | `download` | what waiters and task share |
//! | `waiter` | who waits |
//! | `entry` | a download in the table |
//! | `listed` | a handle to that |
//! | `interrupted` | bytes of downloads that lost their last waiter |
//!
//! A caller starts the download of a package with a [`Priority`] ([`Downloads::start`]) and gets a
//! [`Waiter`]. All waiters for one
//! package share one download, which has the highest of their priorities. A waiter that leaves does
//! not affect the others.
//!
//! # Stages of a download
//!
//! ```text
//!              a turn              silent for 1 s
//!   waiting ───────────► live ───────────────────────► parked
//!                         ▲                              │ bytes come
//!                         └───────── a turn ◄──── resuming
//! ```
//!
//! A waiting download holds its entry in the table. It is removed at once when its last waiter
//! leaves.
//!
//! A live download holds a turn, a place, a task and a connection. From its first byte on it also
//! holds its file, its room in the cache, two buffers of 512 KiB, and a thread while a piece is
//! proved and written. When its last waiter leaves, it continues for [`GRACE`] if somebody had
//! opened the package. Otherwise it ends at once.
//!
//! A parked download holds a place, a task, a connection and its file, but no turn, thread, buffer
//! or reservation. A resuming one holds the same, and the piece that has come. Both end at once
//! when the last waiter leaves.
//!
//! The bytes of a download that ended without a waiter are kept for [`interrupted::KEPT_FOR`].
//! The next download of the package continues from there.
//!
//! A live download without a byte for [`SILENCE`] is parked, before the answer as well as in its
//! middle. A parked download continues when bytes come and there is a turn. The time that it waits
//! for the turn does not count as the mirror's silence.
//!
//! # Turns and places
//!
//! - Each binhost has [`TURNS`] turns and [`PLACES`] places. All binhosts together have
//!   [`MAX_LIVE`] turns. A silent or slow binhost takes nothing from another one.
//! - The last quarter of a shared resource is reserved. Of a binhost's turns and places, it is for
//!   users without any. Of all turns, it is for binhosts without any. The last turn and the last
//!   place of a binhost are reserved for root, so that no number of users can keep emerge out.
//! - Opens come first. The next turn goes to the waiting user with the fewest turns; among users
//!   with the same number, to the one that has waited longest for a turn. Of the downloads of a
//!   user, a resuming one comes before the oldest.
//! - Prefetches come next: plan, then requested, then upgrade prefetches. They take at most
//!   [`PREFETCH_TURNS`] turns of each kind. Together with opens, they take at most half of a
//!   binhost's turns, and half of all turns. Only packages that the cache would keep are
//!   prefetched.
//! - A plan prefetch starts when less than [`REST_OF_LINE`] is left of the downloads before it. An
//!   upgrade prefetch starts only if there is no other download. It is stopped for any other
//!   request, unless half of it is received.
//! - A package that may be in the cache unproved (`blobs`) is looked for there first. These lookups
//!   have their own turns, because they need no binhost.
//! - The limits of bandwidth (`bandwidth`) hold a download back before it reads more. In the quiet
//!   hours no requested or upgrade prefetch begins, and one that has begun is parked.
//! - The number of waiting opens is bounded ([`MAX_WAITERS`]). No user may have more of them than
//!   are left for others.
//!
//! # Locks
//!
//! The list of a plan (`prefetch::planned`) or of a job (`prefetch::requested`), then the table,
//! then the locks of the cache. No lock is held while a task is started or a waiter is notified.
//!
//! Not its job: which packages to prefetch (`prefetch`).

mod download;
mod entry;
mod interrupted;
mod lane;
mod listed;
mod receive;
mod run;
mod scheduler;
mod table;
mod turn;
mod waiter;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

pub(super) use download::Download;
pub use receive::WORTH_KEEPING;
pub(crate) use table::Counts;
use table::DownloadTable;
pub(super) use waiter::{Waiter, Watcher};

use super::alarms::Alarms;
use super::bandwidth::Bandwidth;
use super::blobs::Blobs;
use super::error::FetchError;
use super::failures::Failures;
use super::index_mismatch::EntryComparer;
use super::outcomes::OutcomeSender;
use super::remote_binhost::RemoteBinhosts;
use crate::cache::Blob;
use crate::metrics::Metrics;
use interrupted::Interrupted;

/// Downloads of all binhosts that have a turn at the same time. The number is below the number of
/// blocking threads, so that some are left for other work.
pub const MAX_LIVE: usize = 16;
/// Downloads of one binhost that have a turn at the same time.
pub(crate) const TURNS: usize = 8;
/// Downloads of one binhost that have a turn at the same time for one user.
pub const TURNS_OF_USER: usize = TURNS - TURNS / 4;
/// Downloads of one binhost that have a turn or are parked. Each keeps a connection and a file
/// open, three descriptors in all. When that many downloads of all binhosts are parked, each
/// binhost has no more places than turns.
pub const PLACES: usize = 24;
/// Packages that are looked for among unproved blobs at the same time. Each of them is read from
/// the disk.
const TURNS_OF_CACHE: usize = 2;
/// Prefetches of one kind and one binhost that have a turn at the same time: enough for small
/// packages over a connection with a long latency.
pub(crate) const PREFETCH_TURNS: usize = 3;
/// A plan prefetch starts when less than this is left of the downloads before it, in bytes. A
/// package that is opened first has the line to itself, and the latency of the next request is
/// hidden behind the rest of its transfer. Two downloads side by side cost an emerge of 30 packages
/// over 100 Mbit/s a tenth of its time.
pub(super) const REST_OF_LINE: u64 = 2 << 20;
/// A download that has received nothing for this time is parked.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);
/// How long a download continues without a waiter, after an open.
pub(crate) const GRACE: Duration = Duration::from_secs(30);
/// Opens that wait for a download. One user may have at most half of them, and fewer if others
/// wait.
pub(crate) const MAX_WAITERS: usize = 16_384;

/// The user who opens a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Uid(pub u32);

impl Uid {
    /// The administrator, and the daemon itself.
    pub(crate) const ROOT: Self = Self(0);
}

/// The reason to fetch a package, in ascending order of urgency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// An upgrade prefetch: an installed package can be upgraded to this one.
    Upgrade,
    /// A requested prefetch: a prefetch job names the package.
    Requested,
    /// A plan prefetch: the merge plan of an emerge has the package.
    Plan,
    /// An open by this user.
    Open(Uid),
}

impl Priority {
    /// The user of an open.
    fn uid(self) -> Option<Uid> {
        match self {
            Self::Open(uid) => Some(uid),
            Self::Upgrade | Self::Requested | Self::Plan => None,
        }
    }

    /// Whether somebody waits for the package: an open, or an emerge that is going to open it.
    fn is_waited_for(self) -> bool {
        self >= Self::Plan
    }
}

/// The state of a download, for `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransferState {
    /// The download has a turn, and receives.
    Live,
    /// The mirror sends nothing, and the download has no turn.
    Parked,
    /// The download waits for a turn.
    Waiting,
}

/// A download, for `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DownloadProgress {
    /// PATH of the package.
    pub path: String,
    pub state: TransferState,
    /// Number of bytes received.
    pub received: u64,
    /// Size of the package in bytes.
    pub size: u64,
    /// Opens that wait for the download.
    pub waiters: usize,
    /// Whether the download is a prefetch of a package that nobody has opened so far.
    pub ahead: bool,
    /// Whether the download is parked for the quiet hours.
    pub resting: bool,
}

/// The services that downloads read from and report to.
#[derive(Debug)]
pub(super) struct DownloadContext {
    pub(super) blobs: Arc<Blobs>,
    pub(super) binhosts: Arc<RemoteBinhosts>,
    pub(super) failures: Arc<Failures>,
    pub(super) alarms: Arc<Alarms>,
    pub(super) comparer: Arc<EntryComparer>,
    pub(super) outcomes: OutcomeSender,
    pub(super) bandwidth: Arc<Bandwidth>,
    pub(super) metrics: Arc<Metrics>,
}

/// The table of all downloads, with its scheduler.
#[derive(Debug)]
pub(super) struct Downloads {
    context: DownloadContext,
    table: Mutex<DownloadTable<Arc<Download>>>,
    interrupted: Interrupted,
    /// Notified when a turn may be free or may be given.
    changed: Arc<Notify>,
    /// Sends after each change of the table, when all turns that follow from it are given.
    moved: watch::Sender<()>,
    runtime: Handle,
    scheduler: AbortHandle,
}

/// The answer to a request for a package.
#[derive(Debug)]
pub(super) enum Start {
    /// A new download: it has a turn, or waits for one.
    Started(Waiter),
    /// A download of the package was in the table already.
    Joined(Waiter),
    /// The package is on this machine.
    Cached(Blob),
    /// There is no download, for this reason.
    Refused(Arc<FetchError>),
}
