//! How one URL has done lately: whether it is to be asked at all, and how fast it is.
//!
//! * A failure of the host (`retry` says which are) lets it rest, longer each time; then one try decides. Failures while it
//!   rests come from connections that were there before, and count once.
//! * That a host lacks one file says nothing against it.
//! * A package or an index that proved wrong costs it preference for [`DISTRUST`].
//! * Rate and time to the first byte come from real downloads, the last one counting half.
//!
//! Time is passed in. Nothing here asks, waits, locks or draws lots.

use std::time::{Duration, Instant};

/// How long a URL that served something wrong stands behind those that did not.
pub(super) const DISTRUST: Duration = Duration::from_secs(600);
/// After a rest, one try; no other for so long unless it ended before.
const TRIAL: Duration = Duration::from_secs(15);
/// Fewer bytes in less than [`MIN_TIME`] say nothing about a rate.
pub(super) const MIN_SAMPLE: u64 = 256 << 10;
const MIN_TIME: Duration = Duration::from_secs(2);
/// A measurement says nothing any more.
pub(super) const STALE: Duration = Duration::from_secs(3600);
/// Bytes of the package that speeds are compared by.
const TYPICAL: f64 = (2_u32 << 20) as f64;
/// A difference that is worth another order: so many times, and at least so long for a typical package.
const CLEARLY: (f64, f64) = (1.5, 0.1);

/// Whether to ask a URL; the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthState {
    /// Nothing is known against it.
    Healthy,
    /// It served something wrong lately.
    Distrusted,
    /// It has rested, and one download tries it.
    Probing,
    /// It failed; asked only where no other is better.
    BackingOff,
}

/// See the module's documentation.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Health {
    /// In a row.
    failures: u32,
    rest_until: Option<Instant>,
    trial_until: Option<Instant>,
    /// Until when, and for what.
    distrusted: Option<(Instant, String)>,
    /// Bytes/s, and when it was measured.
    rate: Option<(f64, Instant)>,
    first_byte: Option<Duration>,
    wrong: u64,
    last_error: Option<(String, Instant)>,
}

impl Health {
    pub(super) fn state(&self, now: Instant) -> HealthState {
        let lasts = |until: Option<Instant>| until.is_some_and(|until| now < until);
        match () {
            () if lasts(self.rest_until) => HealthState::BackingOff,
            () if lasts(self.trial_until) => HealthState::Probing,
            () if lasts(self.distrusted.as_ref().map(|(until, _)| *until)) => HealthState::Distrusted,
            () => HealthState::Healthy,
        }
    }

    /// It is asked now. After a rest nobody else asks it until it has answered.
    pub(super) fn note_request(&mut self, now: Instant) {
        if self.failures > 0 && self.state(now) != HealthState::BackingOff {
            self.trial_until = Some(now + TRIAL);
        }
    }

    /// It began to send what it was asked for.
    pub(super) fn note_response(&mut self, after: Duration) {
        self.trial_until = None;
        self.first_byte = Some(self.first_byte.map_or(after, |before| (before + after) / 2));
    }

    /// The host failed. `rest`: for how long after so many failures in a row, at least `at_least`.
    pub(super) fn failed(&mut self, now: Instant, error: String, rest: impl Fn(u32) -> Duration, at_least: Duration) {
        self.last_error = Some((error, now));
        self.trial_until = None;
        let until = if self.state(now) == HealthState::BackingOff {
            self.rest_until.max(Some(now + at_least))
        } else {
            self.failures = self.failures.saturating_add(1);
            Some(now + rest(self.failures).max(at_least))
        };
        self.rest_until = until;
    }

    /// It has served a file to its end, or said properly that it has none.
    pub(super) fn served(&mut self) {
        (self.failures, self.rest_until, self.trial_until) = (0, None, None);
    }

    /// Somebody says that it is worth another try now: one decides.
    pub(super) fn retry_allowed(&mut self) {
        (self.rest_until, self.trial_until, self.distrusted) = (None, None, None);
    }

    /// It delivered `bytes`, in `took` without what others were waited for.
    pub(super) fn delivered(&mut self, now: Instant, bytes: u64, took: Duration) {
        if bytes < MIN_SAMPLE && took < MIN_TIME {
            return;
        }
        let sample = bytes as f64 / took.as_secs_f64().max(1e-6);
        let current = self.rate.filter(|(_, at)| now.saturating_duration_since(*at) < STALE);
        self.rate = Some((current.map_or(sample, |(rate, _)| (rate + sample) / 2.0), now));
    }

    /// A package that it served proved wrong.
    pub(super) fn wrong(&mut self, now: Instant) {
        self.wrong += 1;
        self.distrust(now, "served wrong bytes".to_owned());
    }

    /// What it served is not to be used.
    pub(super) fn distrust(&mut self, now: Instant, reason: String) {
        self.distrusted = Some((now + DISTRUST, reason));
    }

    /// Why it was distrusted the last time, be that over or not.
    pub(super) fn distrusted_for(&self) -> Option<&str> {
        self.distrusted.as_ref().map(|(_, reason)| &**reason)
    }

    /// Bytes/s.
    pub(super) fn rate(&self) -> Option<f64> {
        self.rate.map(|(rate, _)| rate)
    }

    pub(super) fn first_byte(&self) -> Option<Duration> {
        self.first_byte
    }

    pub(super) fn rest_until(&self) -> Option<Instant> {
        self.rest_until
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn wrong_bodies(&self) -> u64 {
        self.wrong
    }

    pub(super) fn last_error(&self) -> Option<&(String, Instant)> {
        self.last_error.as_ref()
    }

    /// Its rate is not known, or was measured long ago.
    pub(super) fn is_unmeasured(&self, now: Instant) -> bool {
        self.rate.is_none_or(|(_, at)| now.saturating_duration_since(at) >= STALE)
    }

    /// Whether it is known to be so much faster than `other` that it is asked before it. A strict order: whoever is clearly
    /// faster than a second, which is than a third, is than the third.
    pub(super) fn is_clearly_faster(&self, other: &Self) -> bool {
        let (Some(own), Some(other)) = (self.typical(), other.typical()) else { return false };
        other > own * CLEARLY.0 && other - own > CLEARLY.1
    }

    /// Seconds that a typical package takes.
    fn typical(&self) -> Option<f64> {
        let first_byte = self.first_byte.unwrap_or_default().as_secs_f64();
        self.rate().map(|rate| first_byte + TYPICAL / rate.max(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn failed(health: &mut Health, now: Instant) {
        health.failed(now, "no".to_owned(), |failures| S * 10 * failures, Duration::ZERO);
    }

    #[test]
    fn rests_longer_each_time_and_then_gets_one_try() {
        let (mut health, mut now) = (Health::default(), Instant::now());
        for rest in [10, 20, 30] {
            failed(&mut health, now);
            assert_eq!(health.state(now + S * (rest - 1)), HealthState::BackingOff);
            // Five more connections of the same moment.
            (0..5).for_each(|_| failed(&mut health, now + S));
            now += S * rest;
            assert_eq!(health.state(now), HealthState::Healthy);
            health.note_request(now);
            assert_eq!(health.state(now), HealthState::Probing);
        }
        // Who tries may have gone away.
        assert_eq!(health.state(now + TRIAL), HealthState::Healthy);
        health.note_response(S);
        assert_eq!(health.state(now), HealthState::Healthy);
        health.served();
        failed(&mut health, now);
        assert_eq!((health.failures(), health.rest_until()), (1, Some(now + S * 10)));
    }

    #[test]
    fn a_pardon_is_worth_one_try() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.failed(now, String::new(), |_| S * 10, Duration::ZERO);
        health.retry_allowed();
        assert_eq!(health.state(now), HealthState::Healthy);
        health.note_request(now);
        assert_eq!((health.state(now), health.failures()), (HealthState::Probing, 1));
    }

    #[test]
    fn rests_as_long_as_it_asks_for() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.failed(now, "429".to_owned(), |_| S, S * 60);
        assert_eq!(health.state(now + S * 59), HealthState::BackingOff);
        assert_eq!(health.state(now + S * 60), HealthState::Healthy);
    }

    #[test]
    fn wrong_bytes_cost_preference_for_a_while() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.wrong(now);
        health.served();
        assert_eq!((health.state(now), health.wrong_bodies()), (HealthState::Distrusted, 1));
        assert_eq!(health.state(now + DISTRUST), HealthState::Healthy);
    }

    #[test]
    fn rates_are_smoothed_and_age() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.delivered(now, MIN_SAMPLE - 1, S);
        assert!(health.is_unmeasured(now));
        health.delivered(now, 1 << 20, S);
        health.delivered(now, 3 << 20, S);
        let mut slow = Health::default();
        slow.delivered(now, 1000, MIN_TIME);
        assert!(!slow.is_unmeasured(now) && health.is_clearly_faster(&slow));
        assert_eq!(health.rate(), Some(f64::from(2 << 20)));
        assert!(!health.is_unmeasured(now) && health.is_unmeasured(now + STALE));
        health.delivered(now + STALE, 1 << 20, S);
        assert_eq!(health.rate(), Some(f64::from(1 << 20)));
    }

    #[test]
    fn only_clear_differences_count() {
        let measured = |first_byte: u64, rate: u64| {
            let mut health = Health::default();
            health.note_response(Duration::from_millis(first_byte));
            health.delivered(Instant::now(), rate << 10, S);
            health
        };
        for ((first, second), clearly) in [
            (((0, 1000), (0, 1000)), false),
            (((0, 1400), (0, 1000)), false),
            (((0, 1600), (0, 1000)), true),
            // Far away, which a small package notices most.
            (((10, 9000), (800, 9000)), true),
            // Both are as fast as anybody can tell.
            (((1, 1_000_000), (3, 100_000)), false),
        ] {
            let (first, second) = (measured(first.0, first.1), measured(second.0, second.1));
            assert_eq!(first.is_clearly_faster(&second), clearly, "{first:?} {second:?}");
            assert!(!second.is_clearly_faster(&first));
            assert!(!first.is_clearly_faster(&Health::default()) && !Health::default().is_clearly_faster(&first));
        }
    }
}
