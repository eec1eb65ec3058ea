//! Which failures are tried again, where, how often and how soon. Nothing else in the program decides that.

use std::time::Duration;

use super::UpstreamError;

/// Time for DNS, TCP and TLS together.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest silence, before an answer or within it, where there is nobody else to ask.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence where another URL is at hand, unless this one is known to take its time.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Tries of one URL without progress in between.
pub const ATTEMPTS: u32 = 3;
/// After so long without a new byte no further try is begun, on whatever URL.
pub const NO_PROGRESS_BUDGET: Duration = Duration::from_secs(45);
/// Least rate, bytes/s over [`RATE_WINDOW`].
pub(super) const RATE_FLOOR: u64 = 1024;
/// See [`RATE_FLOOR`].
pub(super) const RATE_WINDOW: Duration = Duration::from_secs(30);
/// So many new bytes of a URL are progress: as many as the least rate brings over its window. Else one byte for each connection
/// could keep a download going for as long as there are bytes.
pub(super) const PROGRESS: u64 = RATE_FLOOR * RATE_WINDOW.as_secs();
/// Over so long a URL must be slow to be left for another one.
pub(super) const SLOW_WINDOW: Duration = Duration::from_secs(4);
/// A URL is left for one that has been so many times as fast.
const SLOWER: f64 = 4.0;
/// A URL is left for one that was not measured yet below this rate, bytes/s.
const SLOW_FLOOR: f64 = (64_u32 << 10) as f64;
/// A URL is not left any more when the rest takes no longer than this, s.
const SOON: f64 = 4.0;
/// How often one package leaves a URL because it is slow.
pub(super) const MAX_SLOW: u32 = 2;
/// Longest wait that a server's Retry-After can ask for.
const MAX_WAIT: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// How long a URL rests after its first failure.
const FIRST_REST: Duration = Duration::from_secs(10);
/// Longest rest of a URL.
pub(super) const MAX_REST: Duration = Duration::from_secs(300);

/// Whether another URL is at hand that nothing is known against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    Ready,
    None,
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetryDecision {
    /// The same URL, asked in another way.
    Again,
    /// Any URL may do better in a moment.
    Later,
    /// Another URL at once; this one only when the others fail too.
    Elsewhere,
    /// This URL will not do better.
    Gone,
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureCause {
    /// The host or the way to it: other files will fare no better.
    Host,
    /// It answers, and has nothing good for this file.
    File,
    /// Not of anything over there.
    Own,
}

pub(super) fn judge(error: &UpstreamError, others: Others) -> RetryDecision {
    match (error, fault(error), others) {
        (UpstreamError::WrongRange { .. }, ..) => RetryDecision::Again,
        (UpstreamError::Outpaced { .. }, ..) | (_, FailureCause::Host, Others::Ready) => RetryDecision::Elsewhere,
        (_, FailureCause::Host, Others::None) => RetryDecision::Later,
        (_, FailureCause::File | FailureCause::Own, _) => RetryDecision::Gone,
    }
}

pub(super) fn fault(error: &UpstreamError) -> FailureCause {
    match error {
        UpstreamError::Transport { .. }
        | UpstreamError::Stalled { .. }
        | UpstreamError::TooSlow { .. }
        | UpstreamError::Truncated { .. }
        | UpstreamError::Status { status: 408 | 425 | 429 | 500..=599, .. } => FailureCause::Host,
        UpstreamError::Status { .. }
        | UpstreamError::NoIndex(_)
        | UpstreamError::Redirect { .. }
        | UpstreamError::WrongRange { .. }
        | UpstreamError::NoRange { .. }
        | UpstreamError::SizeMismatch { .. }
        | UpstreamError::File { .. }
        | UpstreamError::Compressed { .. }
        | UpstreamError::TooLarge { .. } => FailureCause::File,
        UpstreamError::Setup(_)
        | UpstreamError::Outpaced { .. }
        | UpstreamError::Store { .. }
        | UpstreamError::All(_) => FailureCause::Own,
    }
}

/// How long to wait before try number `attempt` (the second is 1): doubling, with jitter, at least what the server asks for.
pub(super) fn wait(attempt: u32, error: &UpstreamError) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(1 << attempt.saturating_sub(1).min(5));
    jittered(doubled).max(requested_delay(error)).min(MAX_WAIT)
}

/// How long a URL rests after so many failures in a row: doubling, bounded, and spread by `random` (0 to 1).
pub(super) fn rest(failures: u32, random: f64) -> Duration {
    let doubled = FIRST_REST.saturating_mul(1 << failures.saturating_sub(1).min(8));
    doubled.min(MAX_REST).mul_f64(1.0 + random / 2.0).min(MAX_REST)
}

/// How long the server asks to be left alone, within bounds.
pub(super) fn requested_delay(error: &UpstreamError) -> Duration {
    match error {
        UpstreamError::Status { retry_after: Some(asked), .. } => (*asked).min(MAX_REST),
        _ => Duration::ZERO,
    }
}

/// Whether a URL that delivers `rate` is to be left in the middle, with `missing` bytes to come, for one that has delivered
/// `other` before (`None`: not measured). Rates in bytes/s.
pub(super) fn is_outpaced(rate: f64, other: Option<f64>, missing: u64) -> bool {
    let slow = other.map_or(rate < SLOW_FLOOR, |other| rate * SLOWER < other);
    slow && missing as f64 > rate * SOON
}

/// How long a silent URL is waited for where another one is at hand; `first_byte`: what it usually takes.
pub(super) fn patience(first_byte: Option<Duration>) -> Duration {
    first_byte.unwrap_or_default().saturating_mul(4).clamp(PATIENCE, STALL_TIMEOUT)
}

/// Between half of `mean` and one and a half of it, so that many clients do not come back together.
#[must_use]
pub fn jittered(mean: Duration) -> Duration {
    mean.mul_f64(0.5 + random())
}

/// 0 to 1. Seeded from the system's randomness at each use; good enough to spread requests.
pub(super) fn random() -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    let random = RandomState::new().hash_one(std::time::Instant::now());
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<u64>) -> UpstreamError {
        UpstreamError::Status { url: String::new(), status, retry_after: retry_after.map(Duration::from_secs) }
    }

    #[test]
    fn what_is_tried_again() {
        for code in [500, 503, 429, 408] {
            assert_eq!(judge(&status(code, None), Others::None), RetryDecision::Later, "{code}");
            assert_eq!(judge(&status(code, None), Others::Ready), RetryDecision::Elsewhere, "{code}");
        }
        for (code, others) in [404, 403, 401, 410].into_iter().zip([Others::None, Others::Ready].into_iter().cycle()) {
            assert_eq!(judge(&status(code, None), others), RetryDecision::Gone, "{code}");
            assert_eq!(fault(&status(code, None)), FailureCause::File, "{code}");
        }
        let wrong = UpstreamError::WrongRange { url: String::new(), range: String::new() };
        assert_eq!(judge(&wrong, Others::Ready), RetryDecision::Again);
    }

    #[test]
    fn waits_grow_are_spread_and_bounded() {
        for attempt in 1..20 {
            let wait = wait(attempt, &status(500, None));
            assert!(wait >= FIRST_BACKOFF / 2 && wait <= MAX_WAIT, "{attempt}: {wait:?}");
        }
        assert!(wait(1, &status(429, Some(3))) >= Duration::from_secs(3));
        assert_eq!(wait(1, &status(429, Some(86400))), MAX_WAIT);
        let spread: std::collections::HashSet<_> = (0..50).map(|_| jittered(Duration::from_secs(1))).collect();
        assert!(spread.len() > 10);
        assert!(spread.iter().all(|d| (500..=1500).contains(&d.as_millis())));
    }

    #[test]
    fn rests_grow_are_spread_and_bounded() {
        let rests: Vec<Duration> = (1..40).map(|failures| rest(failures, 0.0)).collect();
        assert!(rests.is_sorted() && rests[0] == FIRST_REST && rests[1] == FIRST_REST * 2);
        assert!(rests.iter().all(|rest| *rest <= MAX_REST));
        assert!(rest(1, 1.0) > rest(1, 0.0) && rest(u32::MAX, 1.0) == MAX_REST);
        assert_eq!(requested_delay(&status(503, Some(86400))), MAX_REST);
    }

    #[test]
    fn what_is_slow() {
        const MIB: f64 = (1_u32 << 20) as f64;
        for (rate, other, missing, left) in [
            (MIB, Some(5.0 * MIB), 100 << 20, true),
            (MIB, Some(3.0 * MIB), 100 << 20, false),
            // Done before the other one has begun.
            (MIB, Some(50.0 * MIB), 3 << 20, false),
            (MIB, None, 100 << 20, false),
            (MIB / 100.0, None, 100 << 20, true),
            (MIB / 100.0, Some(MIB / 50.0), 100 << 20, false),
        ] {
            assert_eq!(is_outpaced(rate, other, missing), left, "{rate} {other:?} {missing}");
        }
    }

    #[test]
    fn slow_starters_are_waited_for() {
        let second = Duration::from_secs(1);
        assert_eq!([None, Some(second / 10)].map(patience), [PATIENCE; 2]);
        assert_eq!(patience(Some(second * 2)), second * 8);
        assert_eq!(patience(Some(second * 9)), STALL_TIMEOUT);
    }
}
