//! What the cache may take. All of it may change while it is in use.

use std::sync::PoisonError;

use super::Store;

/// See the fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of bodies, with what is reserved for downloads.
    pub bound: u64,
    /// Bytes of the disk that stay free; 0: it may be filled.
    pub min_free: u64,
    /// Most bytes of packages written in a day (UTC); `None`: any.
    pub writes_per_day: Option<u64>,
}

impl Store {
    /// What it may take now.
    #[must_use]
    pub fn limits(&self) -> Limits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it may take from now on; what is too much goes at once.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
        self.shrink_to(limits.bound);
        self.keep_free();
    }
}
