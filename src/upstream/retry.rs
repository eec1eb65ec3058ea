//! Which failures are tried again, how often and how soon. Nothing else in the program decides that.

use std::time::Duration;

use super::UpstreamError;

/// Time for DNS, TCP and TLS together.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest silence, before an answer or within it.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries of one URL without a new byte in between.
pub const ATTEMPTS: u32 = 3;
/// After so long without a new byte no further try is begun, on whatever URL.
pub const NO_PROGRESS_BUDGET: Duration = Duration::from_secs(45);
/// Least rate of a body, bytes/s over [`RATE_WINDOW`].
pub(super) const RATE_FLOOR: u64 = 1024;
/// See [`RATE_FLOOR`].
pub(super) const RATE_WINDOW: Duration = Duration::from_secs(30);
/// Longest wait that a server's Retry-After can ask for.
const MAX_WAIT: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(250);

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same URL may do better in a moment.
    Again,
    /// This URL will not do better: the next one.
    NextUrl,
}

pub(super) fn judge(error: &UpstreamError) -> Verdict {
    match error {
        UpstreamError::Transport { .. }
        | UpstreamError::Stalled { .. }
        | UpstreamError::TooSlow { .. }
        | UpstreamError::Truncated { .. }
        | UpstreamError::WrongRange { .. } => Verdict::Again,
        UpstreamError::Status { status, .. } => match status {
            408 | 425 | 429 | 500..=599 => Verdict::Again,
            _ => Verdict::NextUrl,
        },
        UpstreamError::Setup(_)
        | UpstreamError::Redirect { .. }
        | UpstreamError::SizeMismatch { .. }
        | UpstreamError::File { .. }
        | UpstreamError::Store { .. }
        | UpstreamError::Compressed { .. }
        | UpstreamError::TooLarge { .. }
        | UpstreamError::All(_) => Verdict::NextUrl,
    }
}

/// How long to wait before try number `attempt` (the second is 1): doubling, with jitter, at least what the server asks for.
pub(super) fn wait(attempt: u32, error: &UpstreamError) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(1 << attempt.saturating_sub(1).min(5));
    let asked = match error {
        UpstreamError::Status { retry_after: Some(asked), .. } => *asked,
        _ => Duration::ZERO,
    };
    jittered(doubled).max(asked).min(MAX_WAIT)
}

/// Between half of `mean` and one and a half of it, so that many clients do not come back together.
#[must_use]
pub fn jittered(mean: Duration) -> Duration {
    use std::hash::{BuildHasher as _, RandomState};
    // Seeded from the system's randomness at each use; good enough to spread requests.
    let random = RandomState::new().hash_one(std::time::Instant::now());
    mean.mul_f64(0.5 + (random >> 11) as f64 / (1_u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<u64>) -> UpstreamError {
        UpstreamError::Status { url: String::new(), status, retry_after: retry_after.map(Duration::from_secs) }
    }

    #[test]
    fn what_is_tried_again() {
        for (code, verdict) in [
            (500, Verdict::Again),
            (503, Verdict::Again),
            (429, Verdict::Again),
            (408, Verdict::Again),
            (404, Verdict::NextUrl),
            (403, Verdict::NextUrl),
            (401, Verdict::NextUrl),
            (410, Verdict::NextUrl),
        ] {
            assert_eq!(judge(&status(code, None)), verdict, "{code}");
        }
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
}
