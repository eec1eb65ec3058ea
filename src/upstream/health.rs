//! Recent record of one URL: whether to ask it at all, and how fast it is.
//!
//! * After a failure of the host (`retry` decides which failures are the host's) the URL backs off,
//!   longer each time. Then a single try decides. Failures during the backoff come from connections
//!   that existed before, and count once.
//! * A missing file does not count against a host.
//! * A URL that served a wrong package or index is ranked behind others for [`DISTRUST`].
//! * Rate and time to the first byte come from real downloads. The last measurement counts half.
//!
//! Callers pass the time in. This module sends no request, does not wait, takes no lock and uses no
//! random numbers.

use std::time::Duration;

use tokio::time::Instant;

/// How long a URL that served wrong bytes is ranked behind the others.
pub(super) const DISTRUST: Duration = Duration::from_secs(600);
/// After a backoff one try is made. No other try starts for so long, unless the first one ends
/// before.
const TRIAL: Duration = Duration::from_secs(15);
/// Fewer bytes in less than [`MIN_TIME`] give no usable rate.
pub(super) const MIN_SAMPLE: u64 = 256 << 10;
const MIN_TIME: Duration = Duration::from_secs(2);
/// Age at which a measurement is no longer used.
pub(super) const STALE: Duration = Duration::from_secs(3600);
/// Size in bytes of the typical package by which speeds are compared.
const TYPICAL: f64 = (2_u32 << 20) as f64;
/// Smallest difference that changes the order of URLs: a factor, and seconds for a typical package.
/// Both must be exceeded.
const CLEARLY: (f64, f64) = (1.5, 0.1);

/// State of a URL, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HealthState {
    /// No fault is known.
    Healthy,
    /// The URL served wrong bytes lately.
    Distrusted,
    /// The backoff is over, and one download tries the URL.
    Probing,
    /// The host failed lately. The URL is asked only if no other URL is better.
    BackingOff,
}

/// Health of one URL. See the module's documentation.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Health {
    /// Number of failures in a row.
    failures: u32,
    backoff_until: Option<Instant>,
    trial_until: Option<Instant>,
    /// End of the distrust, and its reason.
    distrusted: Option<(Instant, String)>,
    /// Rate in bytes/s, and when it was measured.
    rate: Option<(f64, Instant)>,
    first_byte: Option<Duration>,
    wrong: u64,
    last_error: Option<(String, Instant)>,
}

impl Health {
    pub(super) fn state(&self, now: Instant) -> HealthState {
        let lasts = |until: Option<Instant>| until.is_some_and(|until| now < until);
        match () {
            () if lasts(self.backoff_until) => HealthState::BackingOff,
            () if lasts(self.trial_until) => HealthState::Probing,
            () if lasts(self.distrusted.as_ref().map(|(until, _)| *until)) => HealthState::Distrusted,
            () => HealthState::Healthy,
        }
    }

    /// Notes a new request. After a backoff no other download asks the URL until it has answered.
    pub(super) fn note_request(&mut self, now: Instant) {
        if self.failures > 0 && self.state(now) != HealthState::BackingOff {
            self.trial_until = Some(now + TRIAL);
        }
    }

    /// Notes that the server began to send the requested file, `after` so long.
    pub(super) fn note_response(&mut self, after: Duration) {
        self.trial_until = None;
        self.first_byte = Some(self.first_byte.map_or(after, |before| (before + after) / 2));
    }

    /// Notes a failure of the host. `backoff` gives the backoff after so many failures in a row; it
    /// lasts at least `at_least`.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        error: String,
        backoff: impl Fn(u32) -> Duration,
        at_least: Duration,
    ) {
        self.last_error = Some((error, now));
        self.trial_until = None;
        let until = if self.state(now) == HealthState::BackingOff {
            self.backoff_until.max(Some(now + at_least))
        } else {
            self.failures = self.failures.saturating_add(1);
            Some(now + backoff(self.failures).max(at_least))
        };
        self.backoff_until = until;
    }

    /// Notes that the host served a file to its end, or answered properly that it has no such file.
    pub(super) fn served(&mut self) {
        (self.failures, self.backoff_until, self.trial_until) = (0, None, None);
    }

    /// Ends backoff and distrust on request of an administrator. One try then decides.
    pub(super) fn retry_allowed(&mut self) {
        (self.backoff_until, self.trial_until, self.distrusted) = (None, None, None);
    }

    /// Ends the backoff, because the host may be reachable now. What it served stays as wrong as it
    /// was.
    pub(super) fn network_changed(&mut self) {
        (self.backoff_until, self.trial_until) = (None, None);
    }

    /// Notes that `bytes` arrived in `took`, not counting the time in which the receiver did not
    /// read.
    pub(super) fn delivered(&mut self, now: Instant, bytes: u64, took: Duration) {
        if bytes < MIN_SAMPLE && took < MIN_TIME {
            return;
        }
        let sample = bytes as f64 / took.as_secs_f64().max(1e-6);
        let current = self.rate.filter(|(_, at)| now.saturating_duration_since(*at) < STALE);
        self.rate = Some((current.map_or(sample, |(rate, _)| (rate + sample) / 2.0), now));
    }

    /// Notes that the URL served a wrong package.
    pub(super) fn wrong(&mut self, now: Instant) {
        self.wrong += 1;
        self.distrust(now, "served wrong bytes".to_owned());
    }

    /// Distrusts the URL, because the file that it served is not to be used.
    pub(super) fn distrust(&mut self, now: Instant, reason: String) {
        self.distrusted = Some((now + DISTRUST, reason));
    }

    /// Reason of the last distrust, whether it is over or not.
    pub(super) fn distrusted_for(&self) -> Option<&str> {
        self.distrusted.as_ref().map(|(_, reason)| &**reason)
    }

    /// Smoothed rate in bytes/s.
    pub(super) fn rate(&self) -> Option<f64> {
        self.rate.map(|(rate, _)| rate)
    }

    pub(super) fn first_byte(&self) -> Option<Duration> {
        self.first_byte
    }

    pub(super) fn backoff_until(&self) -> Option<Instant> {
        self.backoff_until
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn wrong_packages(&self) -> u64 {
        self.wrong
    }

    pub(super) fn last_error(&self) -> Option<&(String, Instant)> {
        self.last_error.as_ref()
    }

    /// Whether the rate is unknown, or was measured long ago.
    pub(super) fn is_unmeasured(&self, now: Instant) -> bool {
        self.rate.is_none_or(|(_, at)| now.saturating_duration_since(at) >= STALE)
    }

    /// Whether this URL is so much faster than `other` that it is asked first. The relation is a
    /// strict order: if A is clearly faster than B, and B than C, then A is clearly faster than C.
    pub(super) fn is_clearly_faster(&self, other: &Self) -> bool {
        let (Some(own), Some(other)) = (self.typical(), other.typical()) else { return false };
        other > own * CLEARLY.0 && other - own > CLEARLY.1
    }

    /// Number of seconds that a typical package takes.
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
        for backoff in [10, 20, 30] {
            failed(&mut health, now);
            assert_eq!(health.state(now + S * (backoff - 1)), HealthState::BackingOff);
            // Five more connections of the same moment fail.
            (0..5).for_each(|_| failed(&mut health, now + S));
            now += S * backoff;
            assert_eq!(health.state(now), HealthState::Healthy);
            health.note_request(now);
            assert_eq!(health.state(now), HealthState::Probing);
        }
        // The download that tries the URL may have been cancelled.
        assert_eq!(health.state(now + TRIAL), HealthState::Healthy);
        health.note_response(S);
        assert_eq!(health.state(now), HealthState::Healthy);
        health.served();
        failed(&mut health, now);
        assert_eq!((health.failures(), health.backoff_until()), (1, Some(now + S * 10)));
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
    fn another_network_makes_nobody_honest() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.wrong(now);
        health.failed(now, String::new(), |_| S * 10, Duration::ZERO);
        health.network_changed();
        assert_eq!(health.state(now), HealthState::Distrusted);
        health.retry_allowed();
        assert_eq!(health.state(now), HealthState::Healthy);
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
        assert_eq!((health.state(now), health.wrong_packages()), (HealthState::Distrusted, 1));
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
            // A distant host, which matters most for a small package.
            (((10, 9000), (800, 9000)), true),
            // Both are equally fast as far as measured.
            (((1, 1_000_000), (3, 100_000)), false),
        ] {
            let (first, second) = (measured(first.0, first.1), measured(second.0, second.1));
            assert_eq!(first.is_clearly_faster(&second), clearly, "{first:?} {second:?}");
            assert!(!second.is_clearly_faster(&first));
            assert!(!first.is_clearly_faster(&Health::default()) && !Health::default().is_clearly_faster(&first));
        }
    }
}
