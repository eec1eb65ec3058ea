//! The write budget: bytes written today, bounded for disks that wear.
//!
//! Bytes of packages count as they arrive. Those of indexes count when they have been written: a
//! new index is taken also if the budget is used up. Other writes are small records. The count is
//! written together with records and never alone, so a kill loses the bytes after the last commit.
//!
//! A download counts with its full size from its beginning ([`Announced`]): parallel downloads
//! cannot all count on the same rest of the budget. Bytes that do not arrive are given back.

use std::sync::Arc;

use parking_lot::Mutex;

use super::db::rows::DailyWrites;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct WriteBudget(Mutex<Counters>);

#[derive(Debug)]
struct Counters {
    /// Most bytes in a day (UTC); `None`: unlimited.
    per_day: Option<u64>,
    /// Bytes written, and the day of that.
    written: DailyWrites,
    /// Bytes that downloads in progress are still going to write.
    announced: u64,
}

impl Counters {
    /// Whether `size` more bytes may be written today.
    fn admits(&self, size: u64) -> bool {
        let counted = self.written.today().saturating_add(self.announced);
        self.per_day.is_none_or(|budget| counted.saturating_add(size) <= budget && counted < budget)
    }
}

impl WriteBudget {
    /// No budget, with the bytes that were written until now.
    pub(crate) fn new(written: DailyWrites) -> Self {
        Self(Mutex::new(Counters { per_day: None, written, announced: 0 }))
    }

    /// Sets the budget of a day, in bytes.
    pub(crate) fn set_per_day(&self, per_day: Option<u64>) {
        self.0.lock().per_day = per_day;
    }

    /// Whether `size` more bytes may be written today.
    pub(crate) fn may_write(&self, size: u64) -> bool {
        self.0.lock().admits(size)
    }

    /// Counts a download of `size` bytes. Returns `None` if it exceeds today's budget.
    pub(crate) fn announce(self: &Arc<Self>, size: u64) -> Option<Announced> {
        let mut counters = self.0.lock();
        if !counters.admits(size) {
            return None;
        }
        counters.announced = counters.announced.saturating_add(size);
        Some(Announced { budget: Arc::clone(self), size, written: 0, counts: true })
    }

    /// Counts a download of `size` bytes even if it exceeds the budget.
    pub(crate) fn announce_anyway(self: &Arc<Self>, size: u64) -> Announced {
        let mut announced = Announced { budget: Arc::clone(self), size, written: 0, counts: false };
        announced.renew();
        announced
    }

    /// Counts bytes that were written, whether or not they exceed the budget.
    pub(crate) fn count(&self, bytes: u64) {
        self.0.lock().written.add_today(bytes);
    }

    /// Bytes of packages and indexes written, and the day of that.
    pub(crate) fn written(&self) -> DailyWrites {
        self.0.lock().written
    }
}

/// Bytes that one download is going to write.
#[derive(Debug)]
pub(crate) struct Announced {
    budget: Arc<WriteBudget>,
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
        let mut counters = self.budget.0.lock();
        counters.written.add_today(new);
        if self.counts {
            counters.announced = counters.announced.saturating_sub(new);
        }
    }

    /// Stops counting the unwritten rest.
    pub(crate) fn withdraw(&mut self) {
        if std::mem::replace(&mut self.counts, false) {
            let mut counters = self.budget.0.lock();
            counters.announced = counters.announced.saturating_sub(self.size.saturating_sub(self.written));
        }
    }

    /// Counts the unwritten rest again, even over the budget: a download that has begun is
    /// finished.
    pub(crate) fn renew(&mut self) {
        if !std::mem::replace(&mut self.counts, true) {
            let mut counters = self.budget.0.lock();
            counters.announced = counters.announced.saturating_add(self.size.saturating_sub(self.written));
        }
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.withdraw();
    }
}
