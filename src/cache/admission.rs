//! Whether the cache would keep a package, checked before a prefetch. A package that would not be
//! kept is fetched only for waiters.

use super::Cache;

/// Why a package would not be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unkeepable {
    /// The package is larger than the bound.
    #[error("a package that is larger than the cache is not kept; a larger cache-size helps")]
    TooLarge,
    /// All other blobs that could be evicted are pinned.
    #[error("there is no room for it beside what is pinned; a larger cache-size helps, or `binhostfs pin --remove`")]
    Pinned,
    /// The write budget of today is used up.
    #[error(
        "today's write-budget is used up, or less is left than it takes: it would not be kept; there is more after midnight \
         (UTC), or with a larger write-budget"
    )]
    Budget,
    /// The disk is full.
    #[error("the cache's disk is full (min-free), and it would not be kept; free some space")]
    Disk,
}

impl Cache {
    /// Checks whether a package of `size` bytes would be kept if it alone were fetched now. Changes
    /// nothing.
    ///
    /// # Errors
    /// The package would not be kept, for this reason.
    pub fn would_keep(&self, size: u64) -> Result<(), Unkeepable> {
        let limits = self.limits();
        if size > limits.bound {
            return Err(Unkeepable::TooLarge);
        }
        if !self.may_write(size) {
            return Err(Unkeepable::Budget);
        }
        let (over, pinned) = {
            let state = self.state();
            (state.bytes().saturating_add(size) > limits.bound, state.pinned_bytes())
        };
        if over && pinned.saturating_add(size) > limits.bound {
            return Err(Unkeepable::Pinned);
        }
        if self.disk_takes(size) { Ok(()) } else { Err(Unkeepable::Disk) }
    }
}
