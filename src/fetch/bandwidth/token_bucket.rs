//! A token bucket: how many bytes a rate has allowed so far.
//!
//! A download takes a ticket for bytes that it has received, and waits until the bucket has allowed
//! them. Tickets are in the order in which they were taken, so downloads that take the same number
//! of bytes in turn have the same rate. A change of the rate counts for tickets that were taken
//! before. No function here waits.

use std::time::Duration;

use tokio::time::Instant;

/// A bucket that was not used has tokens for this time.
const BURST: Duration = Duration::from_millis(250);
/// The bucket has at least so many tokens when it was not used, in bytes.
const MIN_BURST: f64 = 64.0 * 1024.0;

/// The number of bytes that were taken up to and with these.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ticket(f64);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct TokenBucket {
    /// Bytes a second. 0: any.
    rate: u64,
    /// Bytes that were taken.
    taken: f64,
    /// Bytes that were allowed until `at`.
    allowed: f64,
    at: Instant,
}

impl TokenBucket {
    /// A bucket that allows everything.
    pub(super) fn new() -> Self {
        Self { rate: 0, taken: 0.0, allowed: 0.0, at: Instant::now() }
    }

    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// Sets the rate in bytes a second from `now` on. 0: any.
    pub(super) fn set_rate(&mut self, rate: u64, now: Instant) {
        if rate == self.rate {
            return;
        }
        self.advance(now);
        if self.rate == 0 {
            self.allowed = self.taken;
        }
        self.rate = rate;
    }

    /// Takes a ticket for `bytes`.
    pub(super) fn take(&mut self, bytes: u64, now: Instant) -> Ticket {
        self.advance(now);
        self.taken += bytes as f64;
        Ticket(self.taken)
    }

    /// Returns how long the ticket must wait, by the present rate.
    pub(super) fn wait(&mut self, Ticket(position): Ticket, now: Instant) -> Duration {
        self.advance(now);
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let missing = (position - self.allowed).max(0.0);
        // A day is enough: the caller asks again.
        Duration::from_secs_f64((missing / self.rate as f64).min(86400.0))
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        let burst = (self.rate as f64 * BURST.as_secs_f64()).max(MIN_BURST);
        self.allowed = (self.allowed + passed * self.rate as f64).min(self.taken + burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const MIB: u64 = 1 << 20;

    #[test]
    fn without_a_rate_nothing_waits() {
        let (mut bucket, now) = (TokenBucket::new(), Instant::now());
        let ticket = bucket.take(u64::MAX, now);
        assert_eq!(bucket.wait(ticket, now), Duration::ZERO);
    }

    #[test]
    fn tickets_follow_each_other_at_the_rate() {
        let (mut bucket, now) = (TokenBucket::new(), Instant::now());
        bucket.set_rate(MIB, now);
        let tickets = [(); 3].map(|()| bucket.take(MIB, now));
        assert_eq!(tickets.map(|ticket| bucket.wait(ticket, now)), [S, S * 2, S * 3]);
        assert_eq!(tickets.map(|ticket| bucket.wait(ticket, now + S * 2)), [Duration::ZERO, Duration::ZERO, S]);
    }

    #[test]
    fn an_unused_bucket_allows_no_more_than_a_burst() {
        let (mut bucket, now) = (TokenBucket::new(), Instant::now());
        bucket.set_rate(MIB, now);
        let later = now + S * 3600;
        let ticket = bucket.take(MIB, later);
        assert_eq!(bucket.wait(ticket, later), S * 3 / 4);
        // A clock that does not move forward takes nothing away.
        assert_eq!(bucket.wait(ticket, now), S * 3 / 4);
    }

    #[test]
    fn a_change_of_the_rate_counts_for_those_that_wait() {
        let (mut bucket, now) = (TokenBucket::new(), Instant::now());
        bucket.set_rate(MIB, now);
        let ticket = bucket.take(11 * MIB, now);
        bucket.set_rate(10 * MIB, now + S);
        assert_eq!(bucket.wait(ticket, now + S), S);
        bucket.set_rate(1, now + S);
        assert_eq!(bucket.wait(ticket, now + S), S * 86400);
        bucket.set_rate(0, now + S);
        assert_eq!(bucket.wait(ticket, now + S), Duration::ZERO);
        // What was fetched without a limit is no debt.
        bucket.set_rate(MIB, now + S);
        let next = bucket.take(MIB, now + S);
        assert_eq!(bucket.wait(next, now + S), S);
    }
}
