//! The table itself: which downloads there are, who waits for them, and which one gets the next turn. Nothing here waits,
//! locks or downloads.

use std::collections::{BTreeMap, HashMap};

use super::lane::{Lane, Queue, Share};
use super::{MAX_LIVE, MAX_WAITERS, PLACES, PREFETCH_TURNS, Priority, REST_OF_LINE, TURNS, Uid};
use crate::fetch::origin::Key;
use crate::store::Unkeepable;

/// What the table has to know of a download.
pub(super) trait Load: Clone {
    /// Bytes in all.
    fn size(&self) -> u64;
    /// Bytes that are still to come.
    fn left(&self) -> u64;
    /// The store knows of it, and counts it.
    fn is_placed(&self) -> bool;
}

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

/// What is to be done with the next download.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<D> {
    /// It begins, in this lane.
    Start(Number, Lane, D),
    /// It goes on.
    Resume(D),
    /// It would not be kept, and nobody has opened it: it is not in the table any more.
    Refuse(D, Unkeepable),
}

/// Whether a prefetch may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// When something has ended.
    Later,
    Never(Unkeepable),
}

/// What has a turn or is parked, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct OnTheWay {
    /// All of it.
    pub(super) all: u64,
    /// That of which the store does not know yet.
    pub(super) unplaced: u64,
}

/// Tells a download from another one of the same package, before or after it.
pub(super) type Number = u64;

/// A download, and who wants it.
#[derive(Debug)]
struct Entry<D> {
    number: Number,
    download: D,
    lane: Lane,
    stage: Stage,
    /// Opens that wait for it.
    opens: BTreeMap<Uid, usize>,
    /// Prefetches that wait for it, by [`Priority::class`].
    prefetches: [usize; Priority::PREFETCHES],
    /// Somebody has opened it, be they gone or not.
    asked: bool,
    /// For whom it has its turn and its place.
    owner: Option<Uid>,
}

impl<D> Entry<D> {
    /// The most urgent reason to have it; `None`: nobody waits for it.
    fn class(&self) -> Option<usize> {
        let prefetch = self.prefetches.iter().rposition(|count| *count > 0);
        if self.opens.is_empty() { prefetch } else { Some(Priority::OPEN) }
    }

    fn is_wanted(&self) -> bool {
        self.class().is_some()
    }

    fn add(&mut self, priority: Priority) {
        match priority {
            Priority::Open(uid) => {
                *self.opens.entry(uid).or_default() += 1;
                self.asked = true;
            }
            other => self.prefetches.get_mut(other.class()).into_iter().for_each(|count| *count += 1),
        }
    }

    fn remove(&mut self, priority: Priority) {
        match priority {
            Priority::Open(uid) => match self.opens.get_mut(&uid) {
                Some(count) if *count > 1 => *count -= 1,
                _ => {
                    self.opens.remove(&uid);
                }
            },
            other => {
                self.prefetches.get_mut(other.class()).into_iter().for_each(|count| *count = count.saturating_sub(1));
            }
        }
    }
}

/// A user, over all lanes.
#[derive(Debug, Default)]
struct User {
    waiters: usize,
    live: usize,
    /// When it got a turn last, by the number of turns given.
    served: u64,
}

/// What leaving a download means for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It goes on, for others or for a while.
    Stays,
    /// It had not begun, and is gone.
    Removed,
    /// It is parked, and is to end.
    Stop,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Table<D> {
    downloads: HashMap<Key, Entry<D>>,
    lanes: HashMap<Lane, Queue>,
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

impl<D: Load> Table<D> {
    pub(super) fn new() -> Self {
        let (downloads, lanes, users) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { downloads, lanes, users, live: 0, waiters: 0, last: 0, turns: 0 }
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.downloads.contains_key(&key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.downloads.is_empty()
    }

    /// Whether one more may wait with this priority. No user takes more than what is left for others; root always has a part.
    pub(super) fn admits(&self, priority: Priority) -> bool {
        let Priority::Open(uid) = priority else { return true };
        let own = self.users.get(&uid).map_or(0, |user| user.waiters);
        own < MAX_WAITERS.saturating_sub(self.waiters) || uid == Uid::ROOT && own < MAX_WAITERS
    }

    /// One more waits for a download that is there; the download, and whether it was opened before. `None`: it is not there.
    pub(super) fn join(&mut self, key: Key, priority: Priority) -> Option<(Number, D, bool)> {
        let entry = self.downloads.get(&key)?;
        let (number, download, asked) = (entry.number, entry.download.clone(), entry.asked);
        self.change(key, |entry| entry.add(priority));
        if let Priority::Open(uid) = priority {
            self.waiters += 1;
            self.change_user(uid, |user| user.waiters += 1);
            self.give_to(key, uid);
        }
        Some((number, download, asked))
    }

    /// What has begun as a prefetch is a user's from now on, if it is nobody's.
    fn give_to(&mut self, key: Key, uid: Uid) {
        let begun = |entry: &&mut Entry<D>| entry.owner.is_none() && entry.stage != Stage::Waiting;
        let Some(entry) = self.downloads.get_mut(&key).filter(begun) else { return };
        entry.owner = Some(uid);
        if entry.stage == Stage::Live {
            self.change_user(uid, |user| user.live += 1);
        }
    }

    /// A new download, for which somebody waits.
    pub(super) fn insert(&mut self, key: Key, lane: Lane, download: D, priority: Priority) -> Number {
        self.last += 1;
        let (number, opens, prefetches) = (self.last, BTreeMap::new(), Default::default());
        let stage = Stage::Waiting;
        let entry = Entry { number, download, lane, stage, opens, prefetches, asked: false, owner: None };
        self.downloads.insert(key, entry);
        drop(self.join(key, priority));
        number
    }

    /// Somebody does not wait any more.
    pub(super) fn leave(&mut self, key: Key, number: Number, priority: Priority) -> Left {
        if self.entry(key, number).is_none() {
            return Left::Stays;
        }
        self.change(key, |entry| entry.remove(priority));
        if let Priority::Open(uid) = priority {
            self.waiters = self.waiters.saturating_sub(1);
            self.change_user(uid, |user| user.waiters = user.waiters.saturating_sub(1));
        }
        match self.entry(key, number).filter(|entry| !entry.is_wanted()).map(|entry| entry.stage) {
            Some(Stage::Waiting) => {
                self.remove(key);
                Left::Removed
            }
            Some(Stage::Parked | Stage::Resuming) => Left::Stop,
            Some(Stage::Live) | None => Left::Stays,
        }
    }

    /// Takes a download out if nobody waits for it; `false`: somebody does.
    pub(super) fn abandon(&mut self, key: Key, number: Number) -> bool {
        match self.downloads.get(&key).filter(|entry| entry.number == number) {
            Some(entry) if entry.is_wanted() => false,
            Some(_) => {
                self.remove(key);
                true
            }
            None => true,
        }
    }

    /// A download has ended.
    pub(super) fn finish(&mut self, key: Key, number: Number) {
        if self.entry(key, number).is_some() {
            self.remove(key);
        }
    }

    /// A download gives its turn back, and is parked. `false`: nobody waits for it.
    pub(super) fn park(&mut self, key: Key, number: Number) -> bool {
        if self.entry(key, number).is_some_and(|entry| entry.stage == Stage::Live) {
            self.take_turn(key);
            self.change(key, |entry| entry.stage = Stage::Parked);
        }
        self.entry(key, number).is_some_and(Entry::is_wanted)
    }

    /// A parked download wants a turn.
    pub(super) fn resume(&mut self, key: Key, number: Number) {
        if self.entry(key, number).is_some_and(|entry| entry.stage == Stage::Parked) {
            self.change(key, |entry| entry.stage = Stage::Resuming);
        }
    }

    /// A download that has its turn needs one in another lane instead. `false`: nobody waits for it.
    pub(super) fn change_lane(&mut self, key: Key, number: Number, lane: Lane) -> bool {
        if self.entry(key, number).is_none_or(|entry| entry.stage != Stage::Live || !entry.is_wanted()) {
            return false;
        }
        self.take_turn(key);
        self.give_up_place(key);
        self.change(key, |entry| (entry.lane, entry.owner, entry.stage) = (lane, None, Stage::Waiting));
        true
    }

    /// Whether somebody has opened the package of a download.
    pub(super) fn is_asked(&self, key: Key, number: Number) -> bool {
        self.entry(key, number).is_some_and(|entry| entry.asked)
    }

    /// What is prefetched for upgrades, has little of its package yet, and is in the way of something else.
    pub(super) fn in_the_way(&self) -> Vec<D> {
        if self.is_quiet() {
            return Vec::new();
        }
        let early = |entry: &&Entry<D>| {
            let little = entry.download.left() > entry.download.size() / 2;
            little && !entry.asked && entry.class() == Some(Priority::UPGRADE)
        };
        self.holders().filter(early).map(|entry| entry.download.clone()).collect()
    }

    /// The next download, which has a turn from now on; `None`: none may have one now. `gate`: whether a prefetch may begin.
    pub(super) fn next(&mut self, gate: impl Fn(&D, OnTheWay) -> Gate) -> Option<Step<D>> {
        if let Some((key, uid)) = self.next_open() {
            return self.give_turn(key, Some(uid));
        }
        let on_the_way = self.on_the_way();
        let (key, gate) = self.next_prefetches().into_iter().find_map(|key| {
            let entry = self.downloads.get(&key)?;
            // What has begun is ended.
            let begins = entry.stage == Stage::Waiting;
            let gate = if begins { gate(&entry.download, on_the_way) } else { Gate::Open };
            (gate != Gate::Later).then_some((key, gate))
        })?;
        match gate {
            Gate::Never(why) => {
                let download = self.downloads.get(&key)?.download.clone();
                self.remove(key);
                Some(Step::Refuse(download, why))
            }
            Gate::Open | Gate::Later => self.give_turn(key, None),
        }
    }

    /// Of what is opened: first the users with the fewest turns, of these the one that has had none for longest, and of its
    /// downloads one that goes on, then the oldest.
    fn next_open(&self) -> Option<(Key, Uid)> {
        let lanes = self.lanes.iter().filter(|(lane, queue)| queue.has_turn(**lane) && self.has_turn_for(queue));
        let next = lanes.filter_map(|(lane, queue)| {
            let rank = |(uid, (begins, number, key)): (Uid, (bool, Number, Key))| {
                let user = self.users.get(&uid).map(|user| (user.live, user.served));
                ((user, begins, number), (key, uid))
            };
            queue.next_opened(*lane, &self.shares(queue), self.may_park(queue)).map(rank).min_by_key(|(rank, _)| *rank)
        });
        next.min_by_key(|(rank, _)| *rank).map(|(_, next)| next)
    }

    /// Prefetches that turns and the line would allow, in their order.
    fn next_prefetches(&self) -> Vec<Key> {
        let line = self.line();
        let mut allowed = Vec::new();
        for (lane, queue) in &self.lanes {
            if !queue.has_turn_for_prefetch(*lane) || self.live >= MAX_LIVE / 2 {
                continue;
            }
            for (number, key) in &queue.prefetches {
                let Some(entry) = self.downloads.get(key) else { continue };
                let class = entry.class().unwrap_or_default();
                let may = match entry.class() {
                    Some(Priority::PLAN) => line < REST_OF_LINE,
                    Some(Priority::UPGRADE) => self.live == 0 && self.is_quiet(),
                    _ => true,
                };
                let has_place = queue.has_place_for_prefetch(*lane) && self.may_park(queue);
                if may && (has_place || entry.stage == Stage::Resuming) && self.live_of(queue, class) < PREFETCH_TURNS {
                    allowed.push((std::cmp::Reverse(class), *number, *key));
                }
            }
        }
        allowed.sort_unstable_by_key(|(class, number, _)| (*class, *number));
        allowed.into_iter().map(|(.., key)| key).collect()
    }

    /// Whether there is nothing but what is fetched for upgrades.
    fn is_quiet(&self) -> bool {
        self.downloads.values().all(|entry| entry.class() == Some(Priority::UPGRADE))
    }

    /// Whether a lane may have one more of all turns: the last quarter is for those that have none.
    fn has_turn_for(&self, queue: &Queue) -> bool {
        Share { own: queue.live, free: MAX_LIVE.saturating_sub(self.live), all: MAX_LIVE }.has_more()
    }

    /// Whether a lane may have one more that may be parked: where many are, each lane has no more places than turns.
    fn may_park(&self, queue: &Queue) -> bool {
        queue.holders.len() < TURNS || self.lanes.values().map(Queue::parked).sum::<usize>() < PLACES
    }

    /// Turns and places of each user in a lane.
    fn shares(&self, queue: &Queue) -> HashMap<Uid, (usize, usize)> {
        let mut shares: HashMap<Uid, (usize, usize)> = HashMap::new();
        for entry in queue.holders.iter().filter_map(|key| self.downloads.get(key)) {
            let Some(owner) = entry.owner else { continue };
            let (turns, places) = shares.entry(owner).or_default();
            *turns += usize::from(entry.stage == Stage::Live);
            *places += 1;
        }
        shares
    }

    /// Turns of prefetches of a class, be they opened since or not.
    fn live_of(&self, queue: &Queue, class: usize) -> usize {
        let holders = queue.holders.iter().filter_map(|key| self.downloads.get(key));
        let is_of = |entry: &&Entry<D>| entry.prefetches.get(class).is_some_and(|count| *count > 0);
        holders.filter(|entry| entry.stage == Stage::Live).filter(is_of).count()
    }

    /// Bytes that are still to come of what is opened, or will be opened first.
    fn line(&self) -> u64 {
        let urgent = |entry: &&Entry<D>| entry.stage == Stage::Live && entry.class() >= Some(Priority::PLAN);
        self.holders().filter(urgent).map(|entry| entry.download.left()).fold(0, u64::saturating_add)
    }

    fn on_the_way(&self) -> OnTheWay {
        self.holders().fold(OnTheWay::default(), |sum, entry| {
            let size = entry.download.size();
            let unplaced = if entry.download.is_placed() { 0 } else { size };
            OnTheWay { all: sum.all.saturating_add(size), unplaced: sum.unplaced.saturating_add(unplaced) }
        })
    }

    fn holders(&self) -> impl Iterator<Item = &Entry<D>> {
        self.lanes.values().flat_map(|queue| &queue.holders).filter_map(|key| self.downloads.get(key))
    }

    fn give_turn(&mut self, key: Key, owner: Option<Uid>) -> Option<Step<D>> {
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
        if let Some(uid) = owner {
            let turns = self.turns;
            self.change_user(uid, |user| (user.live, user.served) = (user.live + 1, turns));
        }
        Some(if begins { Step::Start(number, lane, download) } else { Step::Resume(download) })
    }

    /// Takes the turn of a download that has one.
    fn take_turn(&mut self, key: Key) {
        let Some(entry) = self.downloads.get(&key) else { return };
        let (lane, owner) = (entry.lane, entry.owner);
        let queue = queue_of(&mut self.lanes, lane);
        queue.live = queue.live.saturating_sub(1);
        self.live = self.live.saturating_sub(1);
        if let Some(uid) = owner {
            self.change_user(uid, |user| user.live = user.live.saturating_sub(1));
        }
    }

    fn give_up_place(&mut self, key: Key) {
        let Some(lane) = self.downloads.get(&key).map(|entry| entry.lane) else { return };
        queue_of(&mut self.lanes, lane).holders.retain(|holder| *holder != key);
    }

    /// Changes a download, and puts it where it belongs then among those that want a turn.
    fn change(&mut self, key: Key, change: impl FnOnce(&mut Entry<D>)) {
        let Some(entry) = self.downloads.get_mut(&key) else { return };
        let (lane, number) = (entry.lane, entry.number);
        queue_of(&mut self.lanes, lane).dequeue(number, entry.opens.keys());
        change(entry);
        if lane != entry.lane {
            forget_if_idle(&mut self.lanes, lane);
        }
        if matches!(entry.stage, Stage::Waiting | Stage::Resuming) {
            let begins = entry.stage == Stage::Waiting;
            queue_of(&mut self.lanes, entry.lane).enqueue(number, key, begins, entry.opens.keys());
        }
    }

    /// Takes a download out, whatever it does.
    fn remove(&mut self, key: Key) {
        if self.downloads.get(&key).is_some_and(|entry| entry.stage == Stage::Live) {
            self.take_turn(key);
        }
        self.give_up_place(key);
        let Some(entry) = self.downloads.remove(&key) else { return };
        queue_of(&mut self.lanes, entry.lane).dequeue(entry.number, entry.opens.keys());
        forget_if_idle(&mut self.lanes, entry.lane);
        for (uid, count) in entry.opens {
            self.waiters = self.waiters.saturating_sub(count);
            self.change_user(uid, |user| user.waiters = user.waiters.saturating_sub(count));
        }
    }

    fn entry(&self, key: Key, number: Number) -> Option<&Entry<D>> {
        self.downloads.get(&key).filter(|entry| entry.number == number)
    }

    /// A user of whom nothing is left is forgotten.
    fn change_user(&mut self, uid: Uid, change: impl FnOnce(&mut User)) {
        let user = self.users.entry(uid).or_default();
        change(user);
        if user.waiters == 0 && user.live == 0 {
            self.users.remove(&uid);
        }
    }

    /// All of them.
    pub(super) fn looks(&self) -> impl Iterator<Item = Look<'_, D>> {
        self.downloads.values().map(|entry| Look {
            number: entry.number,
            download: &entry.download,
            stage: entry.stage,
            waiters: entry.opens.values().sum(),
            asked: entry.asked,
        })
    }

    pub(super) fn counts(&self) -> Counts {
        let parked = self.holders().filter(|entry| entry.stage == Stage::Parked).count();
        let waiting = self.downloads.len() - self.live - parked;
        Counts { live: self.live, parked, waiting, opens: self.waiters }
    }
}

fn forget_if_idle(lanes: &mut HashMap<Lane, Queue>, lane: Lane) {
    if lanes.get(&lane).is_some_and(Queue::is_idle) {
        lanes.remove(&lane);
    }
}

fn queue_of(lanes: &mut HashMap<Lane, Queue>, lane: Lane) -> &mut Queue {
    lanes.entry(lane).or_default()
}

#[cfg(test)]
mod tests;
