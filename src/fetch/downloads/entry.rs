//! A download in the table, with its waiters by priority.

use std::collections::BTreeMap;

use super::lane::{Lane, Number};
use super::{Priority, Uid};

/// The properties of a download that the table uses.
pub(super) trait Load: Clone {
    /// Size of the package in bytes.
    fn size(&self) -> u64;
    /// Number of bytes still to come.
    fn left(&self) -> u64;
    /// Whether the cache counts the download in its usage.
    fn is_placed(&self) -> bool;
}

/// The stage of a download; see [`super`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// The download has a turn.
    Live,
    /// The download waits for bytes from its binhost.
    Parked,
    /// The binhost has sent bytes, and the download waits for a turn to continue.
    Resuming,
    /// The download waits for its first turn.
    Waiting,
}

/// An entry of the table of downloads.
#[derive(Debug)]
pub(super) struct TableEntry<D> {
    pub(super) number: Number,
    pub(super) download: D,
    pub(super) lane: Lane,
    pub(super) stage: Stage,
    /// The numbers of waiters, by priority.
    wants: BTreeMap<Priority, usize>,
    /// Whether somebody has opened the package, even if that waiter has left.
    pub(super) asked: bool,
    /// The user whose shares the turn and the place of the download count against.
    pub(super) owner: Option<Uid>,
}

impl<D> TableEntry<D> {
    /// A download that waits for its first turn, without waiters.
    pub(super) fn new(number: Number, lane: Lane, download: D) -> Self {
        Self { number, download, lane, stage: Stage::Waiting, wants: BTreeMap::new(), asked: false, owner: None }
    }

    /// The highest priority of its waiters. `None`: there are no waiters.
    pub(super) fn priority(&self) -> Option<Priority> {
        self.wants.last_key_value().map(|(priority, _)| *priority)
    }

    pub(super) fn is_wanted(&self) -> bool {
        !self.wants.is_empty()
    }

    /// Whether there is a waiter with exactly this priority.
    pub(super) fn is_wanted_for(&self, priority: Priority) -> bool {
        self.wants.contains_key(&priority)
    }

    /// Whether the download waits for a turn, to begin or to continue.
    pub(super) fn wants_turn(&self) -> bool {
        matches!(self.stage, Stage::Waiting | Stage::Resuming)
    }

    /// The numbers of opens that wait for the download, by user.
    pub(super) fn opens(&self) -> impl Iterator<Item = (Uid, usize)> {
        self.wants.iter().filter_map(|(priority, count)| Some((priority.uid()?, *count)))
    }

    pub(super) fn add(&mut self, priority: Priority) {
        *self.wants.entry(priority).or_default() += 1;
        self.asked |= priority.uid().is_some();
    }

    pub(super) fn remove(&mut self, priority: Priority) {
        match self.wants.get_mut(&priority) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.wants.remove(&priority);
            }
        }
    }
}
