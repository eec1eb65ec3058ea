//! A download in the table, and who wants it.

use std::collections::BTreeMap;

use super::lane::Lane;
use super::{Priority, Uid};

/// What the table has to know of a download.
pub(super) trait Load: Clone {
    /// Bytes in all.
    fn size(&self) -> u64;
    /// Bytes that are still to come.
    fn left(&self) -> u64;
    /// The store knows of it, and counts it.
    fn is_placed(&self) -> bool;
}

/// Tells a download from another one of the same package, before or after it.
pub(super) type Number = u64;

/// Where a download stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// It has a turn.
    Live,
    /// It waits for its binhost to send something.
    Parked,
    /// Its binhost has sent something: it waits for a turn to go on.
    Resuming,
    /// It waits for its first turn.
    Waiting,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct TableEntry<D> {
    pub(super) number: Number,
    pub(super) download: D,
    pub(super) lane: Lane,
    pub(super) stage: Stage,
    /// Who waits for it, and how many.
    wants: BTreeMap<Priority, usize>,
    /// Somebody has opened it, be they gone or not.
    pub(super) asked: bool,
    /// For whom it has its turn and its place.
    pub(super) owner: Option<Uid>,
}

impl<D> TableEntry<D> {
    /// It waits for its first turn, and nobody wants it yet.
    pub(super) fn new(number: Number, lane: Lane, download: D) -> Self {
        Self { number, download, lane, stage: Stage::Waiting, wants: BTreeMap::new(), asked: false, owner: None }
    }

    /// The most urgent reason to have it; `None`: nobody waits for it.
    pub(super) fn priority(&self) -> Option<Priority> {
        self.wants.last_key_value().map(|(priority, _)| *priority)
    }

    pub(super) fn is_wanted(&self) -> bool {
        !self.wants.is_empty()
    }

    /// Whether somebody waits for it with just this priority.
    pub(super) fn is_wanted_for(&self, priority: Priority) -> bool {
        self.wants.contains_key(&priority)
    }

    /// It waits to begin, or to go on.
    pub(super) fn wants_turn(&self) -> bool {
        matches!(self.stage, Stage::Waiting | Stage::Resuming)
    }

    /// Opens that wait for it, by user.
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
