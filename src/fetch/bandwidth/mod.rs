//! The limits of bandwidth: `rate-limit`, `prefetch-rate-limit` and `quiet-hours`.
//!
//! | file | job |
//! |---|---|
//! | `token_bucket` | how many bytes a rate has allowed |
//!
//! A download that has received bytes waits here before it reads more of them
//! ([`Bandwidth::held`]). Meanwhile further bytes wait in the kernel, and TCP slows the server
//! down. That time is no time of the mirror: nothing counts against a mirror that is not read.
//!
//! - `rate-limit` is for the packages of all downloads together, also those from peers. Downloads
//!   take [`QUANTUM`] bytes in turn, so each of them gets the same rate.
//! - `prefetch-rate-limit` and `quiet-hours` hold back requested and upgrade prefetches. A plan
//!   prefetch or an open lifts both for its package at once, as long as it waits ([`Haste`]).
//! - In quiet hours no such prefetch begins, and one that has begun is parked.
//! - Without a plausible clock there are no quiet hours: they could last for ever.
//! - Indexes and the checks of entries are not limited. They have few bytes, and everything waits
//!   for them.
//!
//! Not its job: which download gets a turn (`downloads`).

mod token_bucket;

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::sys::{Clock, second_of_day, seconds_now};
use crate::units::{ByteSize, DailySpan};
use token_bucket::TokenBucket;

/// Bytes that a download takes at once, of those that it has received.
const QUANTUM: u64 = 8 << 10;
/// A wait for the end of the quiet hours looks at the clock again after this time, because somebody
/// may have set it.
const CLOCK_CHECK: Duration = Duration::from_secs(30);

/// The limits. 0: none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BandwidthLimits {
    /// Bytes a second of all downloads together.
    pub rate: ByteSize,
    /// Bytes a second of all prefetches together that nobody waits for.
    pub prefetch_rate: ByteSize,
    /// When nothing is prefetched that nobody waits for, in local time.
    pub quiet_hours: Vec<DailySpan>,
}

impl Default for BandwidthLimits {
    /// Nothing is limited.
    fn default() -> Self {
        Self { rate: ByteSize(0), prefetch_rate: ByteSize(0), quiet_hours: Vec::new() }
    }
}

/// Whether somebody waits for the package of a download.
#[derive(Debug, Default)]
pub(super) struct Haste(watch::Sender<bool>);

impl Haste {
    /// Lifts the limits of prefetch.
    pub(super) fn begin(&self) {
        self.0.send_if_modified(|hasty| !std::mem::replace(hasty, true));
    }

    /// Applies the limits of prefetch again, since only a prefetch is left that nobody waits for.
    pub(super) fn end(&self) {
        self.0.send_if_modified(|hasty| std::mem::replace(hasty, false));
    }

    pub(super) fn is_hasty(&self) -> bool {
        *self.0.borrow()
    }

    /// Completes when somebody waits for the package.
    async fn begun(&self) {
        // The sender lives as long as this future.
        drop(self.0.subscribe().wait_for(|hasty| *hasty).await);
    }
}

#[derive(Debug)]
struct BandwidthState {
    all: TokenBucket,
    prefetch: TokenBucket,
    quiet_hours: Vec<DailySpan>,
    /// The clock, which tests replace.
    now: fn() -> u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Bandwidth {
    state: Mutex<BandwidthState>,
    /// Changes with the limits.
    changed: watch::Sender<()>,
    /// Notified when a prefetch could not begin in the quiet hours.
    held_back: Notify,
}

impl Default for Bandwidth {
    /// Nothing is limited.
    fn default() -> Self {
        let [all, prefetch] = [(); 2].map(|()| TokenBucket::new());
        let state = BandwidthState { all, prefetch, quiet_hours: Vec::new(), now: seconds_now };
        Self { state: Mutex::new(state), changed: watch::Sender::default(), held_back: Notify::new() }
    }
}

impl Bandwidth {
    /// Sets the limits, also for downloads that wait now.
    pub(crate) fn set(&self, limits: BandwidthLimits) {
        let BandwidthLimits { rate, prefetch_rate, quiet_hours } = limits;
        let (mut state, now) = (self.state.lock(), Instant::now());
        state.all.set_rate(rate.0, now);
        state.prefetch.set_rate(prefetch_rate.0, now);
        state.quiet_hours = quiet_hours;
        drop(state);
        self.changed.send_replace(());
    }

    /// Returns the present limits.
    pub(crate) fn limits(&self) -> BandwidthLimits {
        let state = self.state.lock();
        let [rate, prefetch_rate] = [&state.all, &state.prefetch].map(|bucket| ByteSize(bucket.rate()));
        BandwidthLimits { rate, prefetch_rate, quiet_hours: state.quiet_hours.clone() }
    }

    /// Returns the time until the quiet hours end. `None`: it is no quiet hour.
    pub(crate) fn quiet(&self) -> Option<Duration> {
        let state = self.state.lock();
        if state.quiet_hours.is_empty() {
            return None;
        }
        let Clock::Set(now) = Clock::showing((state.now)()) else { return None };
        DailySpan::rest_of(&state.quiet_hours, second_of_day(now)?).map(Duration::from_secs)
    }

    #[cfg(test)]
    pub(super) fn set_clock(&self, now: fn() -> u64) {
        self.state.lock().now = now;
    }

    /// Completes when the quiet hours end; at once if it is no quiet hour.
    pub(crate) async fn quiet_ended(&self) {
        let mut changed = self.changed.subscribe();
        while let Some(rest) = self.quiet() {
            tokio::select! {
                () = tokio::time::sleep(rest.min(CLOCK_CHECK)) => {}
                _ = changed.changed() => {}
            }
        }
    }

    /// Notes that a prefetch could not begin in the quiet hours.
    pub(super) fn note_held_back(&self) {
        self.held_back.notify_one();
    }

    /// Completes when the quiet hours end in which a prefetch could not begin.
    pub(super) async fn quiet_ended_for_others(&self) {
        self.held_back.notified().await;
        self.quiet_ended().await;
    }

    /// Completes when the quiet hours no longer hold back a download: after them, or when somebody
    /// waits for the package.
    pub(super) async fn may_go_on(&self, haste: &Haste) {
        tokio::select! {
            () = haste.begun() => {}
            () = self.quiet_ended() => {}
        }
    }

    /// Whether it is a quiet hour for this download.
    pub(super) fn rests(&self, haste: &Haste) -> bool {
        !haste.is_hasty() && self.quiet().is_some()
    }

    /// Waits until the limits allow `bytes` more. Returns how long it waited: exactly nothing
    /// without a limit.
    pub(super) async fn held(&self, haste: &Haste, bytes: u64) -> Duration {
        let (mut left, mut waited) = (bytes, Duration::ZERO);
        while left > 0 && self.is_limited(haste) {
            let quantum = left.min(QUANTUM);
            left -= quantum;
            waited += self.take(haste, quantum).await;
        }
        waited
    }

    /// Whether a rate is limited for this download.
    pub(super) fn is_limited(&self, haste: &Haste) -> bool {
        let state = self.state.lock();
        state.all.rate() > 0 || !haste.is_hasty() && state.prefetch.rate() > 0
    }

    /// Returns how long it waited.
    async fn take(&self, haste: &Haste, bytes: u64) -> Duration {
        let (all, prefetch) = {
            let (mut state, now) = (self.state.lock(), Instant::now());
            (state.all.take(bytes, now), (!haste.is_hasty()).then(|| state.prefetch.take(bytes, now)))
        };
        let (mut changed, mut began) = (self.changed.subscribe(), None);
        loop {
            let hasty = haste.is_hasty();
            let wait = {
                let (mut state, now) = (self.state.lock(), Instant::now());
                let of_prefetch = prefetch.filter(|_| !hasty).map(|ticket| state.prefetch.wait(ticket, now));
                state.all.wait(all, now).max(of_prefetch.unwrap_or_default())
            };
            if wait.is_zero() {
                return began.map_or(Duration::ZERO, |began: Instant| began.elapsed());
            }
            began = began.or_else(|| Some(Instant::now()));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = changed.changed() => {}
                () = haste.begun(), if !hasty => {}
            }
        }
    }
}

#[cfg(test)]
pub(in crate::fetch) mod tests;
