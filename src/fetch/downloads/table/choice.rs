//! The choice of the download that gets the next turn.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::super::entry::{Load, Stage, TableEntry};
use super::super::lane::{Lane, LaneQueue, NextDownload, Share};
use super::super::{MAX_LIVE, PLACES, PREFETCH_TURNS, Priority, REST_OF_LINE, TURNS, Uid};
use super::users::Users;
use crate::cache::Unkeepable;
use crate::fetch::remote_binhost::PackageKey;

/// Whether a prefetch may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fetch::downloads) enum Gate {
    Open,
    /// The prefetch may begin after another download has ended.
    Later,
    Never(Unkeepable),
}

/// The sizes of the downloads that have a turn or are parked, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::fetch::downloads) struct OnTheWay {
    /// The sum of all these downloads.
    pub(in crate::fetch::downloads) all: u64,
    /// The sum of those that the cache does not count yet.
    pub(in crate::fetch::downloads) unplaced: u64,
}

/// The facts that the choice depends on: the downloads, the queues of the lanes, and the users.
pub(super) struct TurnChoice<'a, D> {
    pub(super) downloads: &'a HashMap<PackageKey, TableEntry<D>>,
    pub(super) lanes: &'a HashMap<Lane, LaneQueue>,
    pub(super) users: &'a Users,
    /// Downloads that have a turn.
    pub(super) live: usize,
}

impl<D: Load> TurnChoice<'_, D> {
    /// The next opened package. Users with the fewest turns in a lane come first, then the user who
    /// has had no turn for the longest time. Of the downloads of that user, resuming ones come
    /// first, then the oldest one.
    pub(super) fn next_open(&self) -> Option<(PackageKey, Uid)> {
        let lanes = self.lanes.iter().filter(|(lane, queue)| queue.has_turn(**lane) && self.has_turn_for(queue));
        let next = lanes.filter_map(|(lane, queue)| {
            let shares = self.shares(queue);
            let rank = |next: NextDownload| {
                ((next.turns, self.users.served(next.uid), next.begins, next.number), (next.key, next.uid))
            };
            queue.next_opened(*lane, &shares, self.may_park(queue)).map(rank).min_by_key(|(rank, _)| *rank)
        });
        next.min_by_key(|(rank, _)| *rank).map(|(_, next)| next)
    }

    /// The next prefetch. With it, the reason why the cache would not keep the package, if there is
    /// one. `gate` decides whether a prefetch may begin.
    pub(super) fn next_prefetch(
        &self,
        gate: impl Fn(&D, OnTheWay) -> Gate,
    ) -> Option<(PackageKey, Option<Unkeepable>)> {
        let on_the_way = self.on_the_way();
        self.next_prefetches().into_iter().find_map(|key| {
            let entry = self.downloads.get(&key)?;
            // A prefetch that has begun is finished, whatever the gate would say.
            let begins = entry.stage == Stage::Waiting;
            match if begins { gate(&entry.download, on_the_way) } else { Gate::Open } {
                Gate::Open => Some((key, None)),
                Gate::Never(why) => Some((key, Some(why))),
                Gate::Later => None,
            }
        })
    }

    /// The prefetches that the free turns and the line allow, in order.
    fn next_prefetches(&self) -> Vec<PackageKey> {
        let line = self.line();
        let mut allowed = Vec::new();
        for (lane, queue) in self.lanes {
            if !queue.has_turn_for_prefetch(*lane) || self.live >= MAX_LIVE / 2 {
                continue;
            }
            let has_place = queue.has_place_for_prefetch(*lane) && self.may_park(queue);
            for (number, key) in &queue.prefetches {
                let Some(entry) = self.downloads.get(key) else { continue };
                let Some(priority) = entry.priority() else { continue };
                let may = match priority {
                    Priority::Plan => line < REST_OF_LINE,
                    Priority::Upgrade => self.live == 0 && self.is_quiet(),
                    Priority::Requested | Priority::Open(_) => true,
                };
                let goes_on = entry.stage == Stage::Resuming;
                if may && (has_place || goes_on) && self.live_of(queue, priority) < PREFETCH_TURNS {
                    allowed.push((Reverse(priority), *number, *key));
                }
            }
        }
        allowed.sort_unstable_by_key(|(priority, number, _)| (*priority, *number));
        allowed.into_iter().map(|(.., key)| key).collect()
    }

    /// Whether the table has only upgrade prefetches.
    pub(super) fn is_quiet(&self) -> bool {
        self.downloads.values().all(|entry| entry.priority() == Some(Priority::Upgrade))
    }

    /// Whether a lane may have one more of all turns. The last quarter is for lanes that have none.
    fn has_turn_for(&self, queue: &LaneQueue) -> bool {
        Share { own: queue.live, free: MAX_LIVE.saturating_sub(self.live), all: MAX_LIVE }.has_more()
    }

    /// Whether a lane may have one more download that can be parked. When many are parked, each
    /// lane has no more places than turns.
    fn may_park(&self, queue: &LaneQueue) -> bool {
        queue.holders.len() < TURNS || self.lanes.values().map(LaneQueue::parked).sum::<usize>() < PLACES
    }

    /// Turns and places of each user in a lane.
    fn shares(&self, queue: &LaneQueue) -> HashMap<Uid, (usize, usize)> {
        let mut shares: HashMap<Uid, (usize, usize)> = HashMap::new();
        for entry in self.holders_of(queue) {
            let Some(owner) = entry.owner else { continue };
            let (turns, places) = shares.entry(owner).or_default();
            *turns += usize::from(entry.stage == Stage::Live);
            *places += 1;
        }
        shares
    }

    /// Turns of prefetches of one kind, including packages that were opened since.
    fn live_of(&self, queue: &LaneQueue, priority: Priority) -> usize {
        let is_of = |entry: &&TableEntry<D>| entry.stage == Stage::Live && entry.is_wanted_for(priority);
        self.holders_of(queue).filter(is_of).count()
    }

    /// Bytes still to come of opened packages and plan prefetches that have a turn.
    fn line(&self) -> u64 {
        let urgent = |entry: &&TableEntry<D>| entry.stage == Stage::Live && entry.priority() >= Some(Priority::Plan);
        self.holders().filter(urgent).map(|entry| entry.download.left()).fold(0, u64::saturating_add)
    }

    /// The downloads that have a turn or are parked.
    pub(super) fn holders(&self) -> impl Iterator<Item = &TableEntry<D>> {
        self.lanes.values().flat_map(|queue| self.holders_of(queue))
    }

    fn holders_of(&self, queue: &LaneQueue) -> impl Iterator<Item = &TableEntry<D>> {
        queue.holders.iter().filter_map(|key| self.downloads.get(key))
    }

    fn on_the_way(&self) -> OnTheWay {
        self.holders().fold(OnTheWay::default(), |sum, entry| {
            let size = entry.download.size();
            let unplaced = if entry.download.is_placed() { 0 } else { size };
            OnTheWay { all: sum.all.saturating_add(size), unplaced: sum.unplaced.saturating_add(unplaced) }
        })
    }
}
