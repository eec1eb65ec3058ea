//! Limits of the cache, which may change while it is in use.

use super::Cache;

/// How much disk the cache may use and write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of blobs, with the reservations of downloads.
    pub bound: u64,
    /// Bytes of the disk that stay free; 0: the cache may fill the disk.
    pub min_free: u64,
    /// Most bytes of packages written in a day (UTC); `None`: unlimited.
    pub writes_per_day: Option<u64>,
}

impl Cache {
    /// The current limits.
    #[must_use]
    pub fn limits(&self) -> Limits {
        *self.limits.lock()
    }

    /// Sets new limits; evicts at once what exceeds them.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.lock() = limits;
        self.shrink_to(limits.bound);
        self.keep_free();
    }
}
