//! A lane: downloads that share turns, since they come from one binhost.

use std::collections::{BTreeMap, HashMap};

use super::entry::Number;
use super::{PLACES, TURNS, TURNS_OF_CACHE, Uid};
use crate::fetch::remote_binhost::PackageKey;
use crate::index::BinhostId;

/// What downloads share turns by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Lane {
    /// It may be in the cache already, without a proof.
    Cache,
    /// It comes from this binhost.
    Binhost(BinhostId),
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

    /// The same for a user; where there are more than a few, the last one is root's.
    fn has_more_for(self, uid: Uid) -> bool {
        self.has_more() && (uid == Uid::ROOT || self.free > 1 || self.all < 4)
    }
}

/// Downloads that one user waits for and that want a turn, by number.
#[derive(Debug, Default)]
pub(super) struct UserDownloads {
    /// They go on.
    resuming: BTreeMap<Number, PackageKey>,
    /// They begin, and need a place as well.
    waiting: BTreeMap<Number, PackageKey>,
}

impl UserDownloads {
    /// The next one; whether it begins, its number and key.
    fn first(&self, may_begin: bool) -> Option<(bool, Number, PackageKey)> {
        let resuming = self.resuming.first_key_value().map(|first| (false, first));
        let waiting = || self.waiting.first_key_value().filter(|_| may_begin).map(|first| (true, first));
        resuming.or_else(waiting).map(|(begins, (number, key))| (begins, *number, *key))
    }

    fn is_empty(&self) -> bool {
        self.resuming.is_empty() && self.waiting.is_empty()
    }
}

/// The next download of a user.
#[derive(Debug, Clone, Copy)]
pub(super) struct NextDownload {
    pub(super) uid: Uid,
    /// Turns that the user has.
    pub(super) turns: usize,
    /// It does not go on, but begins.
    pub(super) begins: bool,
    pub(super) number: Number,
    pub(super) key: PackageKey,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct LaneQueue {
    /// What somebody has opened and wants a turn, by who waits for it.
    pub(super) opened: HashMap<Uid, UserDownloads>,
    /// Everything else that wants a turn, by number.
    pub(super) prefetches: BTreeMap<Number, PackageKey>,
    /// What has a place.
    pub(super) holders: Vec<PackageKey>,
    /// Of these, what has a turn.
    pub(super) live: usize,
}

impl LaneQueue {
    /// `opens`: those that wait for it, by user.
    pub(super) fn enqueue(
        &mut self,
        (number, key): (Number, PackageKey),
        begins: bool,
        opens: impl Iterator<Item = (Uid, usize)>,
    ) {
        let mut prefetch = true;
        for (uid, _) in opens {
            let opened = self.opened.entry(uid).or_default();
            if begins { &mut opened.waiting } else { &mut opened.resuming }.insert(number, key);
            prefetch = false;
        }
        if prefetch {
            self.prefetches.insert(number, key);
        }
    }

    pub(super) fn dequeue(&mut self, number: Number, opens: impl Iterator<Item = (Uid, usize)>) {
        self.prefetches.remove(&number);
        for (uid, _) in opens {
            let Some(opened) = self.opened.get_mut(&uid) else { continue };
            opened.waiting.remove(&number);
            opened.resuming.remove(&number);
            if opened.is_empty() {
                self.opened.remove(&uid);
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

    /// The next download of each user who may have one more. `shares`: turns and places of the users who have any;
    /// `may_park`: one more may be parked.
    pub(super) fn next_opened(
        &self,
        lane: Lane,
        shares: &HashMap<Uid, (usize, usize)>,
        may_park: bool,
    ) -> impl Iterator<Item = NextDownload> {
        let share = |own, used, all: usize| Share { own, free: all.saturating_sub(used), all };
        self.opened.iter().filter_map(move |(uid, opened)| {
            let (turns, places) = shares.get(uid).copied().unwrap_or_default();
            let may_go_on = share(turns, self.live, lane.turns()).has_more_for(*uid);
            let may_begin = may_park && share(places, self.holders.len(), lane.places()).has_more_for(*uid);
            let (begins, number, key) = may_go_on.then(|| opened.first(may_begin)).flatten()?;
            Some(NextDownload { uid: *uid, turns, begins, number, key })
        })
    }

    /// What somebody has opened and wants a turn, once for each who waits for it.
    #[cfg(test)]
    pub(super) fn queued(&self) -> impl Iterator<Item = PackageKey> {
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
