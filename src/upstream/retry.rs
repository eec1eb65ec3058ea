//! Decides which failures are retried, at which URL, how often and how soon. No other module
//! decides this.

use std::time::Duration;

use super::UpstreamError;

/// Timeout for DNS, TCP and TLS together.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout to connect to a peer, which is near.
pub(super) const PEER_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest silence, before or within an answer, if no other URL is available.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence if another URL is available, unless this URL is known to answer slowly.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Tries of one URL without progress between them.
pub(crate) const ATTEMPTS: u32 = 3;
/// Time without a new byte after which no further try starts, at any URL.
pub const NO_PROGRESS_BUDGET: Duration = Duration::from_secs(45);
/// Minimum rate in bytes/s over [`RATE_WINDOW`].
pub(super) const RATE_FLOOR: u64 = 1024;
/// Time over which [`RATE_FLOOR`] is measured.
pub(super) const RATE_WINDOW: Duration = Duration::from_secs(30);
/// Number of new bytes of a URL that count as progress: the minimum rate over its window. Otherwise
/// one byte for each connection could keep a download running without end.
pub(super) const PROGRESS: u64 = RATE_FLOOR * RATE_WINDOW.as_secs();
/// Window over which a URL must be slow before a download leaves it.
pub(super) const SLOW_WINDOW: Duration = Duration::from_secs(4);
/// Factor by which another URL must have been faster before a download leaves this one.
const SLOWER: f64 = 4.0;
/// Rate in bytes/s below which a download leaves a URL for one that was not measured yet.
const SLOW_FLOOR: f64 = (64_u32 << 10) as f64;
/// Number of seconds: a download that needs no longer than this for the rest stays at its URL.
const SOON: f64 = 4.0;
/// How often one package leaves a URL because it is slow.
pub(super) const MAX_SLOW: u32 = 2;
/// Longest wait between two tries, also if a server's Retry-After asks for more.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Wait before the second try.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Backoff of a URL after its first failure.
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
/// Longest backoff of a URL.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// Whether another URL without known faults is available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    Ready,
    None,
}

/// Decision after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetryDecision {
    /// Ask the same URL in another way.
    Again,
    /// Wait, since any URL may succeed in a moment.
    Later,
    /// Ask another URL at once, and this one only if the others fail, too.
    Elsewhere,
    /// Do not ask this URL again for the file.
    Gone,
}

/// Cause of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureCause {
    /// The host or the network path to it. Other files would fail as well.
    Host,
    /// The host answers, but has no usable copy of this file.
    File,
    /// The cause is not at the binhost: a local error, or a faster URL.
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
        | UpstreamError::Store { .. }
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
        | UpstreamError::Disk { .. }
        | UpstreamError::All(_) => FailureCause::Own,
    }
}

/// Returns the wait before try number `attempt` (the second try is 1). The wait doubles, with
/// jitter, and lasts at least as long as the server asks for.
pub(super) fn wait(attempt: u32, error: &UpstreamError) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1 << attempt.saturating_sub(1).min(5));
    jittered(doubled).max(requested_delay(error)).min(MAX_WAIT)
}

/// Returns the backoff of a URL after so many failures in a row. The backoff doubles up to a bound,
/// and `random` (0 to 1) spreads it.
pub(super) fn backoff(failures: u32, random: f64) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(8));
    doubled.min(MAX_BACKOFF).mul_f64(1.0 + random / 2.0).min(MAX_BACKOFF)
}

/// Returns how long the server asks the client to wait, within bounds.
pub(super) fn requested_delay(error: &UpstreamError) -> Duration {
    match error {
        UpstreamError::Status { retry_after: Some(asked), .. } => (*asked).min(MAX_BACKOFF),
        _ => Duration::ZERO,
    }
}

/// Whether to leave a URL that delivers `rate`, with `missing` bytes to come, for a URL that has
/// delivered `other` before (`None`: not measured). Rates are in bytes/s.
pub(super) fn is_outpaced(rate: f64, other: Option<f64>, missing: u64) -> bool {
    let slow = other.map_or(rate < SLOW_FLOOR, |other| rate * SLOWER < other);
    slow && missing as f64 > rate * SOON
}

/// Returns how long a URL may be silent if another one is available. `first_byte` is its usual time
/// to the first byte.
pub(super) fn patience(first_byte: Option<Duration>) -> Duration {
    first_byte.unwrap_or_default().saturating_mul(4).clamp(PATIENCE, STALL_TIMEOUT)
}

/// Returns a random time from 0.5 to 1.5 times `mean`, so that many clients do not return at the
/// same moment.
#[must_use]
pub(crate) fn jittered(mean: Duration) -> Duration {
    mean.mul_f64(0.5 + random())
}

/// Returns a random number from 0 to 1. Each use takes a seed from the system, which is good enough
/// to spread requests.
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
            assert!(wait >= FIRST_WAIT / 2 && wait <= MAX_WAIT, "{attempt}: {wait:?}");
        }
        assert!(wait(1, &status(429, Some(3))) >= Duration::from_secs(3));
        assert_eq!(wait(1, &status(429, Some(86400))), MAX_WAIT);
        let spread: std::collections::HashSet<_> = (0..50).map(|_| jittered(Duration::from_secs(1))).collect();
        assert!(spread.len() > 10);
        assert!(spread.iter().all(|d| (500..=1500).contains(&d.as_millis())));
    }

    #[test]
    fn rests_grow_are_spread_and_bounded() {
        let backoffs: Vec<Duration> = (1..40).map(|failures| backoff(failures, 0.0)).collect();
        assert!(backoffs.is_sorted() && backoffs[0] == FIRST_BACKOFF && backoffs[1] == FIRST_BACKOFF * 2);
        assert!(backoffs.iter().all(|backoff| *backoff <= MAX_BACKOFF));
        assert!(backoff(1, 1.0) > backoff(1, 0.0) && backoff(u32::MAX, 1.0) == MAX_BACKOFF);
        assert_eq!(requested_delay(&status(503, Some(86400))), MAX_BACKOFF);
    }

    #[test]
    fn what_is_slow() {
        const MIB: f64 = (1_u32 << 20) as f64;
        for (rate, other, missing, left) in [
            (MIB, Some(5.0 * MIB), 100 << 20, true),
            (MIB, Some(3.0 * MIB), 100 << 20, false),
            // The rest is done before the other URL could begin.
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
