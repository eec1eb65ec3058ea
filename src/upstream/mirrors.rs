//! The URLs of one binhost, and in which order they are asked.
//!
//! * Standing comes first (`health`): what rests is asked only where nothing better is left, the one whose rest ends first
//!   before the others. No URL is ever excluded for good.
//! * Then speed: the configured order holds until one URL proves clearly faster than another, and the new order until the
//!   opposite proves as clearly.
//! * Now and then a package goes first to a URL that was not measured lately, ever more seldom to one that has nothing to
//!   measure.
//! * The index comes from where it came from last ([`Home`]), so that mirrors at different states do not take turns; after
//!   [`HOME_TIME`] the first URL is asked again, so that an old mirror does not hold it up for ever.
//!
//! Time is passed in, and the same history gives the same order.

use std::time::{Duration, Instant};

use super::health::{Health, HealthState};
use crate::config::BinhostUrl;

/// Every so many packages a URL that was not measured lately gets a chance.
const CHANCES: u64 = 8;
/// Places that indexes name for their packages, remembered at the same time.
const MAX_NAMED: usize = 4;
/// How long the index comes from another URL than the first before that is asked again.
pub(super) const HOME_TIME: Duration = Duration::from_secs(7200);

/// Number of a URL, as configured from 0 on; then those that indexes name.
pub(super) type MirrorSlot = usize;

#[derive(Debug)]
struct Mirror {
    base: BinhostUrl,
    health: Health,
    chances: u32,
    /// Number of the package from which on it may get a chance.
    chance_at: u64,
}

impl Mirror {
    fn new(base: BinhostUrl) -> Self {
        Self { base, health: Health::default(), chances: 0, chance_at: 0 }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Mirrors {
    known: Vec<Mirror>,
    configured: usize,
    /// Slots, the most wanted first where their standing is the same.
    ranking: Vec<MirrorSlot>,
    packages: u64,
    next_chance: u64,
    home: Home,
}

impl Mirrors {
    pub(super) fn new(configured: &[BinhostUrl]) -> Self {
        let known: Vec<Mirror> = configured.iter().cloned().map(Mirror::new).collect();
        let (configured, ranking) = (known.len(), (0..known.len()).collect());
        Self { known, configured, ranking, packages: 0, next_chance: CHANCES, home: Home::default() }
    }

    /// The slot of a place that an index names.
    pub(super) fn slot_of(&mut self, base: &BinhostUrl) -> MirrorSlot {
        if let Some(slot) = self.known.iter().position(|mirror| mirror.base == *base) {
            return slot;
        }
        if self.known.len() >= self.configured + MAX_NAMED {
            // A binhost that names a new place with every index has to live with what is remembered of few.
            self.known.pop();
            self.ranking.retain(|slot| *slot != self.known.len());
        }
        self.known.push(Mirror::new(base.clone()));
        self.ranking.push(self.known.len() - 1);
        self.known.len() - 1
    }

    pub(super) fn base(&self, slot: MirrorSlot) -> Option<&BinhostUrl> {
        self.known.get(slot).map(|mirror| &mirror.base)
    }

    pub(super) fn health(&self, slot: MirrorSlot) -> Option<&Health> {
        self.known.get(slot).map(|mirror| &mirror.health)
    }

    pub(super) fn state(&self, slot: MirrorSlot, now: Instant) -> HealthState {
        self.health(slot).map_or(HealthState::BackingOff, |health| health.state(now))
    }

    /// All slots, the one to ask first in front.
    pub(super) fn order(&self, now: Instant) -> Vec<MirrorSlot> {
        let key = |slot: &MirrorSlot| {
            let standing = self.state(*slot, now);
            let until = self.health(*slot).and_then(Health::rest_until).filter(|_| standing == HealthState::BackingOff);
            (standing, until)
        };
        let mut order = self.ranking.clone();
        order.sort_by_key(key);
        order
    }

    /// The URL that one more package should go to first, out of turn, to get to know it.
    pub(super) fn chance(&mut self, now: Instant) -> Option<MirrorSlot> {
        self.packages += 1;
        if self.packages < self.next_chance {
            return None;
        }
        let (packages, configured) = (self.packages, self.configured);
        let due = |mirror: &Mirror| {
            mirror.chance_at <= packages
                && mirror.health.is_unmeasured(now)
                && mirror.health.state(now) == HealthState::Healthy
        };
        let slots = self.ranking.iter().copied().filter(|slot| *slot < configured);
        let slot = slots.into_iter().find(|slot| self.known.get(*slot).is_some_and(due))?;
        let mirror = self.known.get_mut(slot)?;
        mirror.chance_at = packages + (CHANCES << mirror.chances.min(8));
        mirror.chances += 1;
        self.next_chance = packages + CHANCES;
        Some(slot)
    }

    /// Something happens to a URL.
    pub(super) fn note(&mut self, slot: MirrorSlot, what: impl FnOnce(&mut Health)) {
        if let Some(mirror) = self.known.get_mut(slot) {
            what(&mut mirror.health);
        }
    }

    /// None rests any more.
    pub(super) fn allow_retries(&mut self) {
        self.known.iter_mut().for_each(|mirror| mirror.health.retry_allowed());
    }

    /// It delivered so many bytes, for which it was waited so long.
    pub(super) fn delivered(&mut self, slot: MirrorSlot, now: Instant, (bytes, took): (u64, Duration)) {
        self.note(slot, |health| health.delivered(now, bytes, took));
        if let Some(mirror) = self.known.get_mut(slot).filter(|mirror| !mirror.health.is_unmeasured(now)) {
            mirror.chances = 0;
        }
        self.rank();
    }

    /// Moves every URL in front of the first one that it is clearly faster than. None is then behind one that is clearly slower.
    fn rank(&mut self) {
        for at in 1..self.ranking.len() {
            let health = |at: usize| self.ranking.get(at).and_then(|slot| self.health(*slot));
            let faster = |before: usize| health(at).zip(health(before)).is_some_and(|(a, b)| a.is_clearly_faster(b));
            let Some(to) = (0..at).find(|before| faster(*before)) else { continue };
            if let Some(part) = self.ranking.get_mut(to..=at) {
                part.rotate_right(1);
            }
        }
    }

    /// The URL to ask for the index first, where the stored one came from `source`.
    pub(super) fn index_first(&mut self, source: Option<MirrorSlot>, now: Instant) -> MirrorSlot {
        self.home.first(source, now)
    }

    /// Base and health of the URLs, those that were configured and, where packages were fetched from them, others.
    pub(super) fn all(&self, now: Instant) -> Vec<(&BinhostUrl, &Health)> {
        let of = |slot: MirrorSlot| self.known.get(slot).map(|mirror| (&mirror.base, &mirror.health));
        self.order(now).into_iter().filter_map(of).collect()
    }
}

/// Where the index came from last, and since when it is not the first URL.
#[derive(Debug, Default)]
struct Home(Option<(MirrorSlot, Instant)>);

impl Home {
    fn first(&mut self, source: Option<MirrorSlot>, now: Instant) -> MirrorSlot {
        let Some(source) = source.filter(|source| *source > 0) else {
            self.0 = None;
            return 0;
        };
        match self.0 {
            Some((home, since)) if home == source && now.saturating_duration_since(since) < HOME_TIME => source,
            Some((home, _)) if home == source => {
                self.0 = Some((source, now));
                0
            }
            _ => {
                self.0 = Some((source, now));
                source
            }
        }
    }
}

#[cfg(test)]
mod tests;
