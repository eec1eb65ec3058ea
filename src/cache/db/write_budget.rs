//! The write budget: bytes written today, bounded for disks that wear.
//!
//! Only bytes of packages count, as they arrive. Other writes are small: records, and the index
//! when it changes. The count is written together with records and never alone, so a kill loses the
//! bytes after the last commit.
//!
//! A download counts with its full size from its beginning ([`Announced`]): parallel downloads
//! cannot all count on the same rest of the budget. Bytes that do not arrive are given back.

use std::sync::Arc;

use super::catalogue::Catalogue;
use crate::cache::Cache;
use crate::cache::eviction::EvictionState;
use crate::sys::seconds_now;

const KEY: &[u8] = b"w";
const DAY: u64 = 86400;

/// Bytes of packages written on one day (UTC).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DailyWrites {
    /// Days since the epoch.
    day: u64,
    bytes: u64,
}

impl DailyWrites {
    fn on(self, day: u64) -> u64 {
        if self.day == day { self.bytes } else { 0 }
    }

    fn add(&mut self, bytes: u64, day: u64) {
        *self = Self { day, bytes: self.on(day).saturating_add(bytes) };
    }

    pub(crate) fn record(self, batch: &mut sled::Batch) {
        let mut value = [0; 16];
        value.iter_mut().zip([self.day, self.bytes].map(u64::to_be_bytes).concat()).for_each(|(to, from)| *to = from);
        batch.insert(KEY, &value[..]);
    }
}

impl Catalogue {
    /// The count that was stored with the last record.
    pub(crate) fn written(&self) -> DailyWrites {
        let value = self.with(|db| db.get(KEY).ok().flatten()).flatten();
        let numbers = value.as_deref().and_then(|value| Some((value.first_chunk()?, value.last_chunk()?)));
        let number = |bytes: &[u8; 8]| u64::from_be_bytes(*bytes);
        numbers.map(|(day, bytes)| DailyWrites { day: number(day), bytes: number(bytes) }).unwrap_or_default()
    }
}

impl Cache {
    /// Whether `size` more bytes may be written today.
    #[must_use]
    pub fn may_write(&self, size: u64) -> bool {
        let Some(budget) = self.limits().writes_per_day else { return true };
        self.state().admits(size, budget)
    }

    /// Counts a download of `size` bytes. Returns `None` if it exceeds today's budget.
    pub(crate) fn announce(self: &Arc<Self>, size: u64) -> Option<Announced> {
        let budget = self.limits().writes_per_day;
        let mut state = self.state();
        if budget.is_some_and(|budget| !state.admits(size, budget)) {
            return None;
        }
        state.announced = state.announced.saturating_add(size);
        drop(state);
        Some(Announced { cache: Arc::clone(self), size, written: 0, counts: true })
    }

    /// Counts a download of `size` bytes even if it exceeds the budget.
    pub(crate) fn announce_anyway(self: &Arc<Self>, size: u64) -> Announced {
        let mut announced = Announced { cache: Arc::clone(self), size, written: 0, counts: false };
        announced.renew();
        announced
    }

    /// Bytes of packages written today.
    #[must_use]
    pub fn written_today(&self) -> u64 {
        self.state().written.on(seconds_now() / DAY)
    }
}

impl EvictionState {
    fn admits(&self, size: u64, budget: u64) -> bool {
        let counted = self.written.on(seconds_now() / DAY).saturating_add(self.announced);
        counted.saturating_add(size) <= budget && counted < budget
    }
}

/// Bytes that one download is going to write.
#[derive(Debug)]
pub(crate) struct Announced {
    cache: Arc<Cache>,
    size: u64,
    written: u64,
    /// Whether the unwritten rest counts against the budget.
    counts: bool,
}

impl Announced {
    /// Counts the bytes up to `received` as written. Bytes that arrive a second time do not count.
    pub(crate) fn wrote(&mut self, received: u64) {
        let received = received.min(self.size);
        let new = received.saturating_sub(self.written);
        self.written += new;
        let mut state = self.cache.state();
        state.written.add(new, seconds_now() / DAY);
        if self.counts {
            state.announced = state.announced.saturating_sub(new);
        }
    }

    /// Stops counting the unwritten rest.
    pub(crate) fn withdraw(&mut self) {
        if std::mem::replace(&mut self.counts, false) {
            let mut state = self.cache.state();
            state.announced = state.announced.saturating_sub(self.size.saturating_sub(self.written));
        }
    }

    /// Counts the unwritten rest again, even over the budget: a download that has begun is
    /// finished.
    pub(crate) fn renew(&mut self) {
        if !std::mem::replace(&mut self.counts, true) {
            let mut state = self.cache.state();
            state.announced = state.announced.saturating_add(self.size.saturating_sub(self.written));
        }
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.withdraw();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::db::catalogue::Durable;

    #[test]
    fn a_new_day_begins_with_nothing() {
        let mut written = DailyWrites::default();
        written.add(5, 100);
        written.add(7, 100);
        assert_eq!((written.on(100), written.on(101)), (12, 0));
        written.add(1, 101);
        assert_eq!((written.on(100), written.on(101)), (0, 1));
    }

    #[test]
    fn it_outlives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalogue");
        let catalogue = Catalogue::open(&path).unwrap();
        assert_eq!(catalogue.written(), DailyWrites::default());
        let mut batch = sled::Batch::default();
        DailyWrites { day: 20_000, bytes: 1 << 40 }.record(&mut batch);
        catalogue.apply(batch, Durable::Now).unwrap();
        drop(catalogue);
        assert_eq!(Catalogue::open(&path).unwrap().written(), DailyWrites { day: 20_000, bytes: 1 << 40 });
    }
}
