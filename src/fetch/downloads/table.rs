//! The table of downloads and their waiters. `choice` decides which download gets the next turn,
//! `users` counts the waiting opens. No function here waits, locks or downloads.

mod choice;
#[cfg(test)]
mod tests;
mod users;

use std::collections::HashMap;

use choice::TurnChoice;
pub(super) use choice::{Gate, OnTheWay};
use users::Users;

use super::entry::{Load, Stage, TableEntry};
use super::lane::{Lane, LaneQueue, Number};
use super::{Priority, Uid};
use crate::cache::Unkeepable;
use crate::fetch::remote_binhost::PackageKey;

/// The action for the next download.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextAction<D> {
    /// Start the download in this lane.
    Start(Number, Lane, D),
    /// Resume the parked download.
    Resume(D),
    /// End the download: nobody has opened the package, and the cache would not keep it. The table
    /// has removed it.
    Refuse(D, Unkeepable),
}

/// The effect that a leaving waiter has on its download.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OnLeave {
    /// The download continues, for other waiters or for the grace time.
    Stays,
    /// The download had not begun, and is removed.
    Removed,
    /// The download was parked and is removed, and the caller must stop its task.
    Stop,
}

/// The downloads, the queues of the lanes, and the users.
#[derive(Debug)]
pub(super) struct DownloadTable<D> {
    downloads: HashMap<PackageKey, TableEntry<D>>,
    lanes: HashMap<Lane, LaneQueue>,
    users: Users,
    live: usize,
    last: Number,
    turns: u64,
}

/// A read-only view of a download.
pub(super) struct Look<'a, D> {
    pub(super) number: Number,
    pub(super) download: &'a D,
    pub(super) stage: Stage,
    pub(super) waiters: usize,
    pub(super) asked: bool,
}

/// The numbers of downloads, and of opens that wait for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Downloads that have a turn.
    pub live: usize,
    /// Downloads whose binhost is silent.
    pub parked: usize,
    /// Downloads that wait for a turn.
    pub waiting: usize,
    /// Opens that wait for a download.
    pub opens: usize,
}

impl<D: Load> DownloadTable<D> {
    pub(super) fn new() -> Self {
        let (downloads, lanes, users) = (HashMap::new(), HashMap::new(), Users::default());
        Self { downloads, lanes, users, live: 0, last: 0, turns: 0 }
    }

    pub(super) fn contains(&self, key: PackageKey) -> bool {
        self.downloads.contains_key(&key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.downloads.is_empty()
    }

    /// Whether one more waiter with this priority is accepted.
    pub(super) fn admits(&self, priority: Priority) -> bool {
        priority.uid().is_none_or(|uid| self.users.admit(uid))
    }

    /// Adds a waiter to a download. Returns the download, and whether it was opened before. `None`:
    /// there is no download.
    pub(super) fn join(&mut self, key: PackageKey, priority: Priority) -> Option<(Number, D, bool)> {
        let entry = self.downloads.get(&key)?;
        let (number, download, asked) = (entry.number, entry.download.clone(), entry.asked);
        self.change(key, |entry| {
            entry.add(priority);
            // A begun prefetch counts for the first user who opens the package.
            if entry.stage != Stage::Waiting {
                entry.owner = entry.owner.or(priority.uid());
            }
        });
        priority.uid().into_iter().for_each(|uid| self.users.add(uid));
        Some((number, download, asked))
    }

    /// Adds a new download with one waiter.
    pub(super) fn insert(&mut self, key: PackageKey, lane: Lane, download: D, priority: Priority) -> Number {
        self.last += 1;
        self.downloads.insert(key, TableEntry::new(self.last, lane, download));
        drop(self.join(key, priority));
        self.last
    }

    /// Removes a waiter from a download.
    pub(super) fn leave(&mut self, key: PackageKey, number: Number, priority: Priority) -> OnLeave {
        if self.entry(key, number).is_none() {
            return OnLeave::Stays;
        }
        self.change(key, |entry| entry.remove(priority));
        priority.uid().into_iter().for_each(|uid| self.users.remove(uid, 1));
        let left = match self.entry(key, number).filter(|entry| !entry.is_wanted()).map(|entry| entry.stage) {
            Some(Stage::Waiting) => OnLeave::Removed,
            Some(Stage::Parked | Stage::Resuming) => OnLeave::Stop,
            Some(Stage::Live) | None => return OnLeave::Stays,
        };
        // The download is removed at once, so that no new waiter joins a download that ends.
        self.remove(key);
        left
    }

    /// Removes a download if it has no waiter. `true`: it has one.
    pub(super) fn end_unless_wanted(&mut self, key: PackageKey, number: Number) -> bool {
        let wanted = self.entry(key, number).is_some_and(TableEntry::is_wanted);
        if !wanted {
            self.finish(key, number);
        }
        wanted
    }

    /// Removes a download that has ended.
    pub(super) fn finish(&mut self, key: PackageKey, number: Number) {
        if self.entry(key, number).is_some() {
            self.remove(key);
        }
    }

    /// Takes the turn of a download and parks it. `false`: it has no waiter, and is removed.
    pub(super) fn park(&mut self, key: PackageKey, number: Number) -> bool {
        let wanted = self.end_unless_wanted(key, number);
        if wanted && self.entry(key, number).is_some_and(|entry| entry.stage == Stage::Live) {
            self.take_turn(key);
            self.change(key, |entry| entry.stage = Stage::Parked);
        }
        wanted
    }

    /// Queues a parked download for a turn.
    pub(super) fn resume(&mut self, key: PackageKey, number: Number) {
        if self.entry(key, number).is_some_and(|entry| entry.stage == Stage::Parked) {
            self.change(key, |entry| entry.stage = Stage::Resuming);
        }
    }

    /// Moves a download with a turn to the queue of another lane. `false`: it has no waiter, and is
    /// removed.
    pub(super) fn change_lane(&mut self, key: PackageKey, number: Number, lane: Lane) -> bool {
        let wanted = self.end_unless_wanted(key, number);
        if wanted && self.entry(key, number).is_some_and(|entry| entry.stage == Stage::Live) {
            self.take_turn(key);
            self.give_up_place(key);
            self.change(key, |entry| (entry.lane, entry.owner, entry.stage) = (lane, None, Stage::Waiting));
        }
        wanted
    }

    /// The highest priority of a download's waiters. `None`: there are no waiters.
    pub(super) fn priority(&self, key: PackageKey, number: Number) -> Option<Priority> {
        self.entry(key, number)?.priority()
    }

    /// Whether somebody has opened the package of a download.
    pub(super) fn is_asked(&self, key: PackageKey, number: Number) -> bool {
        self.entry(key, number).is_some_and(|entry| entry.asked)
    }

    /// Removes upgrade prefetches with less than half of their package, if the table has any other
    /// download.
    pub(super) fn take_out_of_the_way(&mut self) -> Vec<D> {
        if self.choice().is_quiet() {
            return Vec::new();
        }
        let early = |key: &PackageKey| {
            let entry = self.downloads.get(key)?;
            let little = entry.download.left() > entry.download.size() / 2;
            let gives_way = little && !entry.asked && entry.priority() == Some(Priority::Upgrade);
            gives_way.then(|| (*key, entry.download.clone()))
        };
        let early: Vec<(PackageKey, D)> =
            self.lanes.values().flat_map(|queue| &queue.holders).filter_map(early).collect();
        early.iter().for_each(|(key, _)| self.remove(*key));
        early.into_iter().map(|(_, download)| download).collect()
    }

    /// The next download, which has a turn from now on. `None`: no download may have one now.
    /// `gate` decides whether a prefetch may begin.
    pub(super) fn next(&mut self, gate: impl Fn(&D, OnTheWay) -> Gate) -> Option<NextAction<D>> {
        let choice = self.choice();
        if let Some((key, uid)) = choice.next_open() {
            return self.give_turn(key, Some(uid));
        }
        match choice.next_prefetch(gate)? {
            (key, Some(why)) => {
                let download = self.downloads.get(&key)?.download.clone();
                self.remove(key);
                Some(NextAction::Refuse(download, why))
            }
            (key, None) => self.give_turn(key, None),
        }
    }

    fn choice(&self) -> TurnChoice<'_, D> {
        TurnChoice { downloads: &self.downloads, lanes: &self.lanes, users: &self.users, live: self.live }
    }

    fn give_turn(&mut self, key: PackageKey, owner: Option<Uid>) -> Option<NextAction<D>> {
        let begins = self.downloads.get(&key)?.stage == Stage::Waiting;
        self.change(key, |entry| (entry.stage, entry.owner) = (Stage::Live, owner.or(entry.owner)));
        self.live += 1;
        self.turns += 1;
        let entry = self.downloads.get(&key)?;
        let (number, lane, owner, download) = (entry.number, entry.lane, entry.owner, entry.download.clone());
        let queue = self.lanes.entry(lane).or_default();
        queue.live += 1;
        if begins {
            queue.holders.push(key);
        }
        owner.into_iter().for_each(|uid| self.users.serve(uid, self.turns));
        Some(if begins { NextAction::Start(number, lane, download) } else { NextAction::Resume(download) })
    }

    /// Takes the turn of a live download.
    fn take_turn(&mut self, key: PackageKey) {
        let Some(lane) = self.downloads.get(&key).map(|entry| entry.lane) else { return };
        let queue = queue_of(&mut self.lanes, lane);
        queue.live = queue.live.saturating_sub(1);
        self.live = self.live.saturating_sub(1);
    }

    fn give_up_place(&mut self, key: PackageKey) {
        let Some(lane) = self.downloads.get(&key).map(|entry| entry.lane) else { return };
        queue_of(&mut self.lanes, lane).holders.retain(|holder| *holder != key);
    }

    /// Changes a download, and updates its place in the queues of those that want a turn.
    fn change(&mut self, key: PackageKey, change: impl FnOnce(&mut TableEntry<D>)) {
        let Some(entry) = self.downloads.get_mut(&key) else { return };
        let (lane, number) = (entry.lane, entry.number);
        queue_of(&mut self.lanes, lane).dequeue(number, entry.opens());
        change(entry);
        if lane != entry.lane {
            forget_if_idle(&mut self.lanes, lane);
        }
        if entry.wants_turn() {
            let begins = entry.stage == Stage::Waiting;
            queue_of(&mut self.lanes, entry.lane).enqueue((number, key), begins, entry.opens());
        }
    }

    /// Removes a download in any stage.
    fn remove(&mut self, key: PackageKey) {
        if self.downloads.get(&key).is_some_and(|entry| entry.stage == Stage::Live) {
            self.take_turn(key);
        }
        self.give_up_place(key);
        let Some(entry) = self.downloads.remove(&key) else { return };
        queue_of(&mut self.lanes, entry.lane).dequeue(entry.number, entry.opens());
        forget_if_idle(&mut self.lanes, entry.lane);
        entry.opens().for_each(|(uid, count)| self.users.remove(uid, count));
    }

    fn entry(&self, key: PackageKey, number: Number) -> Option<&TableEntry<D>> {
        self.downloads.get(&key).filter(|entry| entry.number == number)
    }

    /// All downloads, in no particular order.
    pub(super) fn looks(&self) -> impl Iterator<Item = Look<'_, D>> {
        self.downloads.values().map(|entry| Look {
            number: entry.number,
            download: &entry.download,
            stage: entry.stage,
            waiters: entry.opens().map(|(_, count)| count).sum(),
            asked: entry.asked,
        })
    }

    pub(super) fn counts(&self) -> Counts {
        let parked = self.downloads.values().filter(|entry| entry.stage == Stage::Parked).count();
        let waiting = self.downloads.len() - self.live - parked;
        Counts { live: self.live, parked, waiting, opens: self.users.waiters() }
    }
}

fn forget_if_idle(lanes: &mut HashMap<Lane, LaneQueue>, lane: Lane) {
    if lanes.get(&lane).is_some_and(LaneQueue::is_idle) {
        lanes.remove(&lane);
    }
}

fn queue_of(lanes: &mut HashMap<Lane, LaneQueue>, lane: Lane) -> &mut LaneQueue {
    lanes.entry(lane).or_default()
}
