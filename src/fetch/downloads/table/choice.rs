//! The choice of the download that gets the next turn.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::super::entry::{Load, Stage, TableEntry};
use super::super::lane::Number;
use super::super::lane::{Lane, LaneQueue, NextDownload, Share};
use super::super::{MAX_LIVE, PLACES, PREFETCH_TURNS, Priority, REST_OF_LINE, TURNS, Uid};
use super::DownloadTable;
use crate::cache::Unkeepable;
use crate::fetch::remote_binhost::PackageKey;

/// The action for the next download.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::fetch::downloads) enum NextAction<D> {
    /// Start the download in this lane.
    Start(Number, Lane, D),
    /// Resume the parked download.
    Resume(D),
    /// End the download: nobody has opened the package, and the cache would not keep it. The table
    /// has removed it.
    Refuse(D, Unkeepable),
}

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

impl<D: Load> DownloadTable<D> {
    /// The next download, which has a turn from now on. `None`: no download may have one now.
    /// `gate` decides whether a prefetch may begin.
    pub(in crate::fetch::downloads) fn next(&mut self, gate: impl Fn(&D, OnTheWay) -> Gate) -> Option<NextAction<D>> {
        if let Some((key, uid)) = self.next_open() {
            return self.give_turn(key, Some(uid));
        }
        let on_the_way = self.on_the_way();
        let (key, gate) = self.next_prefetches().into_iter().find_map(|key| {
            let entry = self.downloads.get(&key)?;
            // A prefetch that has begun is finished, whatever the gate would say.
            let begins = entry.stage == Stage::Waiting;
            let gate = if begins { gate(&entry.download, on_the_way) } else { Gate::Open };
            (gate != Gate::Later).then_some((key, gate))
        })?;
        match gate {
            Gate::Never(why) => {
                let download = self.downloads.get(&key)?.download.clone();
                self.remove(key);
                Some(NextAction::Refuse(download, why))
            }
            Gate::Open | Gate::Later => self.give_turn(key, None),
        }
    }

    /// The next opened package. Users with the fewest turns in a lane come first, then the user who
    /// has had no turn for the longest time. Of the downloads of that user, resuming ones come
    /// first, then the oldest one.
    fn next_open(&self) -> Option<(PackageKey, Uid)> {
        let lanes = self.lanes.iter().filter(|(lane, queue)| queue.has_turn(**lane) && self.has_turn_for(queue));
        let next = lanes.filter_map(|(lane, queue)| {
            let shares = self.shares(queue);
            let rank = |next: NextDownload| {
                let served = self.users.get(&next.uid).map(|user| user.served);
                ((next.turns, served, next.begins, next.number), (next.key, next.uid))
            };
            queue.next_opened(*lane, &shares, self.may_park(queue)).map(rank).min_by_key(|(rank, _)| *rank)
        });
        next.min_by_key(|(rank, _)| *rank).map(|(_, next)| next)
    }

    /// The prefetches that the free turns and the line allow, in order.
    fn next_prefetches(&self) -> Vec<PackageKey> {
        let line = self.line();
        let mut allowed = Vec::new();
        for (lane, queue) in &self.lanes {
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

    fn on_the_way(&self) -> OnTheWay {
        self.holders().fold(OnTheWay::default(), |sum, entry| {
            let size = entry.download.size();
            let unplaced = if entry.download.is_placed() { 0 } else { size };
            OnTheWay { all: sum.all.saturating_add(size), unplaced: sum.unplaced.saturating_add(unplaced) }
        })
    }
}
