//! The table itself: which downloads there are and who waits for them; `choice` says which one gets the next turn. Nothing here
//! waits, locks or downloads.

mod choice;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

pub(super) use choice::{Gate, NextAction, OnTheWay};

use super::entry::{Load, Number, Stage, TableEntry};
use super::lane::{Lane, LaneQueue};
use super::{MAX_WAITERS, Priority, Uid};
use crate::fetch::remote_binhost::PackageKey;

/// A user who waits for something.
#[derive(Debug, Default)]
struct User {
    waiters: usize,
    /// When it got a turn last, by the number of turns given.
    served: u64,
}

/// What leaving a download means for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OnLeave {
    /// It goes on, for others or for a while.
    Stays,
    /// It had not begun, and is gone.
    Removed,
    /// It was parked, is gone from the table, and is to end.
    Stop,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct DownloadTable<D> {
    downloads: HashMap<PackageKey, TableEntry<D>>,
    lanes: HashMap<Lane, LaneQueue>,
    users: HashMap<Uid, User>,
    live: usize,
    waiters: usize,
    last: Number,
    turns: u64,
}

/// A download, for those who look.
pub(super) struct Look<'a, D> {
    pub(super) number: Number,
    pub(super) download: &'a D,
    pub(super) stage: Stage,
    pub(super) waiters: usize,
    pub(super) asked: bool,
}

/// How many downloads there are, and opens that wait for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
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
        let (downloads, lanes, users) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { downloads, lanes, users, live: 0, waiters: 0, last: 0, turns: 0 }
    }

    pub(super) fn contains(&self, key: PackageKey) -> bool {
        self.downloads.contains_key(&key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.downloads.is_empty()
    }

    /// Whether one more may wait with this priority. No user takes more than what is left for others; root always has a part.
    pub(super) fn admits(&self, priority: Priority) -> bool {
        let Some(uid) = priority.uid() else { return true };
        let own = self.users.get(&uid).map_or(0, |user| user.waiters);
        own < MAX_WAITERS.saturating_sub(self.waiters) || uid == Uid::ROOT && own < MAX_WAITERS
    }

    /// One more waits for a download that is there; the download, and whether it was opened before. `None`: it is not there.
    pub(super) fn join(&mut self, key: PackageKey, priority: Priority) -> Option<(Number, D, bool)> {
        let entry = self.downloads.get(&key)?;
        let (number, download, asked) = (entry.number, entry.download.clone(), entry.asked);
        self.change(key, |entry| {
            entry.add(priority);
            // What has begun as a prefetch is the first user's who opens it.
            if entry.stage != Stage::Waiting {
                entry.owner = entry.owner.or(priority.uid());
            }
        });
        if let Some(uid) = priority.uid() {
            self.waiters += 1;
            self.users.entry(uid).or_default().waiters += 1;
        }
        Some((number, download, asked))
    }

    /// A new download, for which somebody waits.
    pub(super) fn insert(&mut self, key: PackageKey, lane: Lane, download: D, priority: Priority) -> Number {
        self.last += 1;
        self.downloads.insert(key, TableEntry::new(self.last, lane, download));
        drop(self.join(key, priority));
        self.last
    }

    /// Somebody does not wait any more.
    pub(super) fn leave(&mut self, key: PackageKey, number: Number, priority: Priority) -> OnLeave {
        if self.entry(key, number).is_none() {
            return OnLeave::Stays;
        }
        self.change(key, |entry| entry.remove(priority));
        priority.uid().into_iter().for_each(|uid| self.go(uid, 1));
        let left = match self.entry(key, number).filter(|entry| !entry.is_wanted()).map(|entry| entry.stage) {
            Some(Stage::Waiting) => OnLeave::Removed,
            Some(Stage::Parked | Stage::Resuming) => OnLeave::Stop,
            Some(Stage::Live) | None => return OnLeave::Stays,
        };
        // At once: nobody joins what is to end.
        self.remove(key);
        left
    }

    /// Takes a download out if nobody waits for it; `true`: somebody does.
    pub(super) fn end_unless_wanted(&mut self, key: PackageKey, number: Number) -> bool {
        let wanted = self.entry(key, number).is_some_and(TableEntry::is_wanted);
        if !wanted {
            self.finish(key, number);
        }
        wanted
    }

    /// A download has ended.
    pub(super) fn finish(&mut self, key: PackageKey, number: Number) {
        if self.entry(key, number).is_some() {
            self.remove(key);
        }
    }

    /// A download gives its turn back, and is parked. `false`: nobody waits for it, it is gone from the table.
    pub(super) fn park(&mut self, key: PackageKey, number: Number) -> bool {
        let wanted = self.end_unless_wanted(key, number);
        if wanted && self.entry(key, number).is_some_and(|entry| entry.stage == Stage::Live) {
            self.take_turn(key);
            self.change(key, |entry| entry.stage = Stage::Parked);
        }
        wanted
    }

    /// A parked download wants a turn.
    pub(super) fn resume(&mut self, key: PackageKey, number: Number) {
        if self.entry(key, number).is_some_and(|entry| entry.stage == Stage::Parked) {
            self.change(key, |entry| entry.stage = Stage::Resuming);
        }
    }

    /// A download that has its turn needs one in another lane instead. `false`: nobody waits for it, it is gone from the table.
    pub(super) fn change_lane(&mut self, key: PackageKey, number: Number, lane: Lane) -> bool {
        let wanted = self.end_unless_wanted(key, number);
        if wanted && self.entry(key, number).is_some_and(|entry| entry.stage == Stage::Live) {
            self.take_turn(key);
            self.give_up_place(key);
            self.change(key, |entry| (entry.lane, entry.owner, entry.stage) = (lane, None, Stage::Waiting));
        }
        wanted
    }

    /// Whether somebody has opened the package of a download.
    pub(super) fn is_asked(&self, key: PackageKey, number: Number) -> bool {
        self.entry(key, number).is_some_and(|entry| entry.asked)
    }

    /// Takes out what is prefetched for upgrades, has little of its package yet, and is in the way of something else.
    pub(super) fn take_out_of_the_way(&mut self) -> Vec<D> {
        if self.is_quiet() {
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
        let user = owner.and_then(|uid| self.users.get_mut(&uid));
        user.into_iter().for_each(|user| user.served = self.turns);
        Some(if begins { NextAction::Start(number, lane, download) } else { NextAction::Resume(download) })
    }

    /// Takes the turn of a download that has one.
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

    /// Changes a download, and puts it where it belongs then among those that want a turn.
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

    /// Takes a download out, whatever it does.
    fn remove(&mut self, key: PackageKey) {
        if self.downloads.get(&key).is_some_and(|entry| entry.stage == Stage::Live) {
            self.take_turn(key);
        }
        self.give_up_place(key);
        let Some(entry) = self.downloads.remove(&key) else { return };
        queue_of(&mut self.lanes, entry.lane).dequeue(entry.number, entry.opens());
        forget_if_idle(&mut self.lanes, entry.lane);
        entry.opens().for_each(|(uid, count)| self.go(uid, count));
    }

    fn entry(&self, key: PackageKey, number: Number) -> Option<&TableEntry<D>> {
        self.downloads.get(&key).filter(|entry| entry.number == number)
    }

    /// So many waiters of a user go away; a user who waits for nothing is forgotten.
    fn go(&mut self, uid: Uid, count: usize) {
        self.waiters = self.waiters.saturating_sub(count);
        let Some(user) = self.users.get_mut(&uid) else { return };
        user.waiters = user.waiters.saturating_sub(count);
        if user.waiters == 0 {
            self.users.remove(&uid);
        }
    }

    fn holders(&self) -> impl Iterator<Item = &TableEntry<D>> {
        self.lanes.values().flat_map(|queue| self.holders_of(queue))
    }

    fn holders_of(&self, queue: &LaneQueue) -> impl Iterator<Item = &TableEntry<D>> {
        queue.holders.iter().filter_map(|key| self.downloads.get(key))
    }

    /// All of them.
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
        let parked = self.holders().filter(|entry| entry.stage == Stage::Parked).count();
        let waiting = self.downloads.len() - self.live - parked;
        Counts { live: self.live, parked, waiting, opens: self.waiters }
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
