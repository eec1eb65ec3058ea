//! A lane: downloads that share turns, since they come from one binhost.

use std::collections::{BTreeMap, HashMap};

use super::{PLACES, TURNS, TURNS_OF_CACHE, Uid};
use crate::fetch::origin::Key;
use crate::index::OriginId;

/// What downloads share turns by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Lane {
    /// It may be in the cache already, without a proof.
    Cache,
    /// It comes from this binhost.
    Binhost(OriginId),
}

impl Lane {
    /// Downloads that have a turn at the same time.
    pub(super) fn turns(self) -> usize {
        match self {
            Self::Cache => TURNS_OF_CACHE,
            Self::Binhost(_) => TURNS,
        }
    }

    /// Downloads that have a turn, are parked, or go on after that.
    fn places(self) -> usize {
        match self {
            Self::Cache => TURNS_OF_CACHE,
            Self::Binhost(_) => PLACES,
        }
    }
}

/// Something that several share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    /// What this one has of it.
    pub(super) own: usize,
    pub(super) free: usize,
    pub(super) all: usize,
}

impl Share {
    /// The last quarter is for those who have none.
    pub(super) fn has_more(self) -> bool {
        self.free > self.all / 4 || self.own == 0 && self.free > 0
    }

    /// The same for a user; the last one of all is root's.
    fn has_more_for(self, uid: Uid) -> bool {
        self.has_more() && (uid == Uid::ROOT || self.free > 1 || self.all < 4)
    }
}

/// Downloads that one user waits for and that want a turn, by number.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// They go on.
    resuming: BTreeMap<u64, Key>,
    /// They begin, and need a place as well.
    waiting: BTreeMap<u64, Key>,
}

impl Opened {
    /// The next one; `true`: it begins.
    fn first(&self, may_begin: bool) -> Option<(bool, u64, Key)> {
        let first = |downloads: &BTreeMap<u64, Key>| downloads.first_key_value().map(|(number, key)| (*number, *key));
        let resuming = first(&self.resuming).map(|(number, key)| (false, number, key));
        resuming.or_else(|| first(&self.waiting).filter(|_| may_begin).map(|(number, key)| (true, number, key)))
    }

    fn is_empty(&self) -> bool {
        self.resuming.is_empty() && self.waiting.is_empty()
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// What somebody has opened and wants a turn, by who waits for it.
    pub(super) opened: HashMap<Uid, Opened>,
    /// Everything else that wants a turn, by number.
    pub(super) prefetches: BTreeMap<u64, Key>,
    /// What has a place.
    pub(super) holders: Vec<Key>,
    /// Of these, what has a turn.
    pub(super) live: usize,
}

impl Queue {
    /// `uids`: who has opened it.
    pub(super) fn enqueue<'a>(&mut self, number: u64, key: Key, begins: bool, uids: impl Iterator<Item = &'a Uid>) {
        let mut prefetch = true;
        for uid in uids {
            let opened = self.opened.entry(*uid).or_default();
            if begins { &mut opened.waiting } else { &mut opened.resuming }.insert(number, key);
            prefetch = false;
        }
        if prefetch {
            self.prefetches.insert(number, key);
        }
    }

    pub(super) fn dequeue<'a>(&mut self, number: u64, uids: impl Iterator<Item = &'a Uid>) {
        self.prefetches.remove(&number);
        for uid in uids {
            let Some(opened) = self.opened.get_mut(uid) else { continue };
            opened.waiting.remove(&number);
            opened.resuming.remove(&number);
            if opened.is_empty() {
                self.opened.remove(uid);
            }
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.opened.is_empty() && self.prefetches.is_empty() && self.holders.is_empty()
    }

    pub(super) fn has_turn(&self, lane: Lane) -> bool {
        self.live < lane.turns()
    }

    /// Of what has a place, what has no turn.
    pub(super) fn parked(&self) -> usize {
        self.holders.len().saturating_sub(self.live)
    }

    /// The next download of each user who may have one more; with its number, and whether it begins. `shares`: turns and
    /// places of the users who have any.
    /// `may_park`: more may be parked.
    pub(super) fn next_opened(
        &self,
        lane: Lane,
        shares: &HashMap<Uid, (usize, usize)>,
        may_park: bool,
    ) -> impl Iterator<Item = (Uid, (bool, u64, Key))> {
        let (turns, places) = (lane.turns(), lane.places());
        let (free_turns, free_places) = (turns.saturating_sub(self.live), places.saturating_sub(self.holders.len()));
        self.opened.iter().filter_map(move |(uid, opened)| {
            let (own_turns, own_places) = shares.get(uid).copied().unwrap_or_default();
            let turn = Share { own: own_turns, free: free_turns, all: turns };
            let place = Share { own: own_places, free: free_places, all: places };
            let (may_go_on, may_begin) = (turn.has_more_for(*uid), may_park && place.has_more_for(*uid));
            may_go_on.then(|| opened.first(may_begin)).flatten().map(|first| (*uid, first))
        })
    }

    /// What somebody has opened and wants a turn, once for each who waits for it.
    #[cfg(test)]
    pub(super) fn queued(&self) -> impl Iterator<Item = Key> {
        self.opened.values().flat_map(|opened| opened.resuming.values().chain(opened.waiting.values()).copied())
    }

    /// Half of all turns are for what somebody waits for.
    pub(super) fn has_turn_for_prefetch(&self, lane: Lane) -> bool {
        self.live < lane.turns() / 2
    }

    pub(super) fn has_place_for_prefetch(&self, lane: Lane) -> bool {
        self.holders.len() < lane.places() / 2
    }
}
