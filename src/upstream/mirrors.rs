//! The URLs of one binhost, and the order in which they are asked.
//!
//! * The mirror state comes first (`health`). A URL that backs off is asked only if no better one
//!   is left, and the one whose backoff ends first precedes the others. No URL is ever excluded for
//!   good.
//! * Speed is the second criterion. The configured order holds until one URL proves clearly faster
//!   than another; the new order holds until the opposite proves as clearly.
//! * Every few packages, one is fetched first from a URL that was not measured lately. A URL that
//!   never yields a measurement is chosen ever more rarely.
//! * The index is fetched from the same URL as last time ([`Home`]), so that mirrors in different
//!   states do not alternate. After [`HOME_TIME`] the first URL is asked again, so that an old
//!   mirror does not delay the index for ever.
//!
//! Callers pass the time in. The same history always gives the same order.

use std::time::Duration;

use tokio::time::Instant;

use super::health::{Health, HealthState};
use crate::config::BinhostUrl;

/// Number of packages after which a URL that was not measured lately is asked first.
const CHANCES: u64 = 8;
/// Most URLs that are remembered at the same time because an index named them.
const MAX_NAMED: usize = 4;
/// How long the index may come from another URL than the first, before the first one is asked
/// again.
pub(super) const HOME_TIME: Duration = Duration::from_secs(7200);

/// Number of a URL. Configured URLs count from 0, followed by those that indexes name.
pub(super) type MirrorSlot = usize;

#[derive(Debug)]
struct Mirror {
    base: BinhostUrl,
    health: Health,
    chances: u32,
    /// Number of the package from which on this URL may be measured again.
    chance_at: u64,
}

impl Mirror {
    fn new(base: BinhostUrl) -> Self {
        Self { base, health: Health::default(), chances: 0, chance_at: 0 }
    }
}

/// The URLs of one binhost and their health. See the module's documentation.
#[derive(Debug)]
pub(super) struct Mirrors {
    known: Vec<Mirror>,
    configured: usize,
    /// Slots in order of preference, for URLs in the same mirror state.
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

    /// Returns the slot of a URL that an index names, adding it if it is new.
    pub(super) fn slot_of(&mut self, base: &BinhostUrl) -> MirrorSlot {
        if let Some(slot) = self.known.iter().position(|mirror| mirror.base == *base) {
            return slot;
        }
        if self.known.len() >= self.configured + MAX_NAMED {
            // A binhost may name a new URL with every index. Replacing the last one bounds the
            // memory.
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

    /// Returns all slots, the one to ask first in front.
    pub(super) fn order(&self, now: Instant) -> Vec<MirrorSlot> {
        let key = |slot: &MirrorSlot| {
            let standing = self.state(*slot, now);
            let until =
                self.health(*slot).and_then(Health::backoff_until).filter(|_| standing == HealthState::BackingOff);
            (standing, until)
        };
        let mut order = self.ranking.clone();
        order.sort_by_key(key);
        order
    }

    /// Returns the URL that the next package should ask first, out of order, to measure that URL.
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

    /// Records an event of a URL in its health.
    pub(super) fn note(&mut self, slot: MirrorSlot, what: impl FnOnce(&mut Health)) {
        if let Some(mirror) = self.known.get_mut(slot) {
            what(&mut mirror.health);
        }
    }

    /// Ends backoff and distrust of all URLs.
    pub(super) fn allow_retries(&mut self) {
        self.known.iter_mut().for_each(|mirror| mirror.health.retry_allowed());
    }

    /// Records that the URL delivered so many bytes, after so much waiting.
    pub(super) fn delivered(&mut self, slot: MirrorSlot, now: Instant, (bytes, took): (u64, Duration)) {
        self.note(slot, |health| health.delivered(now, bytes, took));
        if let Some(mirror) = self.known.get_mut(slot).filter(|mirror| !mirror.health.is_unmeasured(now)) {
            mirror.chances = 0;
        }
        self.rank();
    }

    /// Moves every URL in front of the first one that it is clearly faster than. No URL is then
    /// behind a clearly slower one.
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

    /// Returns the URL to ask first for the index, if the stored index came from `source`.
    pub(super) fn index_first(&mut self, source: Option<MirrorSlot>, now: Instant) -> MirrorSlot {
        self.home.first(source, now)
    }

    /// Returns base and health of the configured URLs, and of URLs that indexes named and packages
    /// were fetched from.
    pub(super) fn all(&self, now: Instant) -> Vec<(&BinhostUrl, &Health)> {
        let of = |slot: MirrorSlot| self.known.get(slot).map(|mirror| (&mirror.base, &mirror.health));
        self.order(now).into_iter().filter_map(of).collect()
    }
}

/// The URL of the last index if that is not the first URL, and since when.
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
