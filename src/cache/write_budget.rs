//! The write budget: bytes written today, bounded for disks that wear.
//!
//! Only bytes of packages count, as they arrive. Other writes are small: records, and the index
//! when it changes. The count is written together with records and never alone, so a kill loses the
//! bytes after the last commit.
//!
//! A download counts with its full size from its beginning ([`Announced`]): parallel downloads
//! cannot all count on the same rest of the budget. Bytes that do not arrive are given back.

use std::sync::Arc;

use super::Cache;

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
        self.state().written.today()
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
        state.written.add_today(new);
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
