//! A lane: the queue and the turns of downloads from one binhost, or from the cache.

use std::collections::{BTreeMap, HashMap};

use super::{PLACES, TURNS, TURNS_OF_CACHE, Uid};
use crate::fetch::remote_binhost::PackageKey;
use crate::index::BinhostId;

/// Distinguishes successive downloads of the same package.
pub(super) type Number = u64;
/// The lane of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Lane {
    /// The package may be in the cache already, unproved.
    Cache,
    /// The package comes from this binhost.
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

    /// Downloads that are live, parked or resuming at the same time.
    fn places(self) -> usize {
        match self {
            Self::Cache => TURNS_OF_CACHE,
            Self::Binhost(_) => PLACES,
        }
    }
}

/// A resource that several users or lanes share, in turns or places.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    /// The part of one user or lane.
    pub(super) own: usize,
    pub(super) free: usize,
    pub(super) all: usize,
}

impl Share {
    /// Whether this user or lane may have one more. The last quarter is for those that have none.
    pub(super) fn has_more(self) -> bool {
        self.free > self.all / 4 || self.own == 0 && self.free > 0
    }

    /// Whether this user may have one more. The last one is for root, if there are at least four.
    fn has_more_for(self, uid: Uid) -> bool {
        self.has_more() && (uid == Uid::ROOT || self.free > 1 || self.all < 4)
    }
}

/// The queued downloads that one user waits for, by number.
#[derive(Debug, Default)]
pub(super) struct UserDownloads {
    /// Downloads that continue. Each of them has a place already.
    resuming: BTreeMap<Number, PackageKey>,
    /// Downloads that begin. Each of them needs a place as well.
    waiting: BTreeMap<Number, PackageKey>,
}

impl UserDownloads {
    /// The next download: whether it begins, its number and its key.
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
    /// Whether the download begins. `false`: it resumes.
    pub(super) begins: bool,
    pub(super) number: Number,
    pub(super) key: PackageKey,
}

/// The queue of a lane, and the downloads that have its turns and places.
#[derive(Debug, Default)]
pub(super) struct LaneQueue {
    /// Opened packages whose download waits for a turn, by the user who waits.
    pub(super) opened: HashMap<Uid, UserDownloads>,
    /// Prefetches that wait for a turn, by number.
    pub(super) prefetches: BTreeMap<Number, PackageKey>,
    /// The downloads that have a place.
    pub(super) holders: Vec<PackageKey>,
    /// The number of holders that have a turn.
    pub(super) live: usize,
}

impl LaneQueue {
    /// Queues a download. `opens`: the opens that wait for it, by user.
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

    /// The number of holders that have no turn.
    pub(super) fn parked(&self) -> usize {
        self.holders.len().saturating_sub(self.live)
    }

    /// The next download of each user who may have one more. `shares`: turns and places of the
    /// users who have any. `may_park`: whether one more download may be parked.
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

    /// Queued downloads of opened packages, once for each user who waits.
    #[cfg(test)]
    pub(super) fn queued(&self) -> impl Iterator<Item = PackageKey> {
        self.opened.values().flat_map(|opened| opened.resuming.values().chain(opened.waiting.values()).copied())
    }

    /// Half of all turns are reserved for opens.
    pub(super) fn has_turn_for_prefetch(&self, lane: Lane) -> bool {
        self.live < lane.turns() / 2
    }

    pub(super) fn has_place_for_prefetch(&self, lane: Lane) -> bool {
        self.holders.len() < lane.places() / 2
    }
}
