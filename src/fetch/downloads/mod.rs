//! The table of downloads: the only way to get a package from a binhost.
//!
//! Who wants a package asks for it with a [`Priority`] and gets a [`Waiter`]. All who want the same package wait for one
//! download, which has the highest of their priorities. A waiter that goes away harms nobody.
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
//! | stage | what it holds | when nobody waits for it any more |
//! |---|---|---|
//! | waiting | its entry in the table | it is gone at once |
//! | live | a turn, a place, a task, a connection; from its first byte on its file, the room that it has in the cache, two buffers of 512 KiB, and a thread while a piece is proved and written | it goes on for [`GRACE`] if somebody had opened it, else it ends at once |
//! | parked | a place, a task, a connection, its file; no turn, thread, buffer or reservation | it ends at once |
//! | resuming | what a parked one holds, and the piece that has come | it ends at once |
//!
//! What an ended one had received is kept for [`KEPT_FOR`] (`interrupted`): the next download of the package goes on from there.
//!
//! A live download without a byte for [`SILENCE`] is parked, be it before the answer or in its middle. A parked one goes on
//! when bytes come and there is a turn. The time that it waits for the turn is not the mirror's silence.
//!
//! # Turns and places
//!
//! * Each binhost has [`TURNS`] turns and [`PLACES`] places, all binhosts together [`MAX_LIVE`] turns. A binhost that is
//!   silent or slow takes nothing from another.
//! * The last quarter of what is shared is for those who have none of it: of a binhost's turns and places for users without
//!   any, of all turns for binhosts without any. The last turn and the last place of a binhost are root's, so that nobody
//!   keeps emerge out, however many users they are.
//! * What is opened comes first. Of the users who wait, the one with the fewest turns is next; of several with the same
//!   number, the one that has waited longest for a turn. Of the downloads of a user, one that goes on is before the oldest.
//! * Then come prefetches: what an emerge has planned, what somebody has requested, what will be upgraded. They take at most
//!   [`PREFETCH_TURNS`] turns of each kind, at most half of a binhost's turns together with what is opened, and only what
//!   would be kept. A planned one begins when less than [`REST_OF_LINE`] is to come of those before it; one for an upgrade
//!   only while there is nothing else, and it ends for whatever else comes, unless half of it is there.
//! * What may lie in the cache without a proof (`adopt`) is looked at first, with turns of its own: it needs no binhost.
//! * No user may have so many opens waiting that less is left for others ([`MAX_WAITERS`]).
//!
//! # Locks
//!
//! The list of a plan (`prefetch::planned`) or of a job (`prefetch::requested`), then the table, then the locks of the store. No lock is held while a
//! task is started or a waiter is told.
//!
//! Not its job: which packages to prefetch (`prefetch`).

mod adopt;
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

use std::time::Duration;

pub(super) use adopt::adopt_one;
pub(super) use download::Download;
pub use interrupted::{KEPT_FOR, WORTH_KEEPING};
pub(super) use scheduler::Downloads;
pub use table::Counts;
pub(super) use waiter::{Waiter, Watcher};

/// Downloads that have a turn at the same time, of all binhosts: below the number of blocking threads, so that some are left
/// for everything else.
pub const MAX_LIVE: usize = 16;
/// Downloads of one binhost that have a turn at the same time.
pub const TURNS: usize = 8;
/// Downloads of one binhost that one user has a turn for at the same time.
pub const TURNS_OF_USER: usize = TURNS - TURNS / 4;
/// Downloads of one binhost that have a turn or are parked: each keeps a connection and a file open, three descriptors in
/// all. When so many are parked, of all binhosts, each has no more places than turns.
pub const PLACES: usize = 24;
/// Packages that are looked for among unproved bodies at the same time: each is read from the disk.
const TURNS_OF_CACHE: usize = 2;
/// Prefetches of one kind and one binhost that have a turn at the same time: enough for small ones over a long way.
pub const PREFETCH_TURNS: usize = 3;
/// A planned package is fetched when this much is still to come of those before it: what is opened first has the line to
/// itself, and what a request takes is hidden behind the rest. Two side by side cost an emerge of 30 packages over 100 Mbit/s
/// a tenth.
pub(super) const REST_OF_LINE: u64 = 2 << 20;
/// A download that has received nothing for so long is parked.
pub const SILENCE: Duration = Duration::from_secs(1);
/// How long a download goes on when nobody waits for it any more.
pub const GRACE: Duration = Duration::from_secs(30);
/// Opens that wait for a download; of one user at most half of them, and less where others wait.
pub const MAX_WAITERS: usize = 16_384;

/// Who opens a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(pub u32);

impl Uid {
    /// The administrator, and the daemon itself.
    pub const ROOT: Self = Self(0);
}

/// Why a package is wanted; the last reason is the most urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// Something that is installed can be upgraded to it.
    Upgrade,
    /// Somebody has asked for it before it is opened.
    Requested,
    /// An emerge has planned it.
    Plan,
    /// Somebody has opened it.
    Open(Uid),
}

impl Priority {
    /// The user who has opened it.
    fn uid(self) -> Option<Uid> {
        match self {
            Self::Open(uid) => Some(uid),
            Self::Upgrade | Self::Requested | Self::Plan => None,
        }
    }
}

/// What a download does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownloadState {
    /// It receives.
    Live,
    /// Its binhost is silent.
    Parked,
    /// It waits for a turn.
    Waiting,
}

/// A download, for `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadProgress {
    /// PATH of the package.
    pub path: String,
    /// What it does.
    pub state: DownloadState,
    /// Bytes received.
    pub received: u64,
    /// Bytes in all.
    pub size: u64,
    /// Opens that wait for it.
    pub waiters: usize,
    /// It was begun before anybody had opened it, and nobody has.
    pub ahead: bool,
}
