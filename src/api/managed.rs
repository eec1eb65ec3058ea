//! What the administrator does with cached packages, and what came of it. Fields are only ever added.

use serde::{Deserialize, Serialize};

use crate::units::ByteSize;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheTask {
    /// Tell what is pinned.
    Pins,
    /// Pin what is shown and matches.
    Pin,
    /// Let what matches go, or has just that PATH.
    Unpin,
    /// Remove what matches from the cache.
    Evict,
    /// Remove what no index names from the cache.
    Collect,
}

impl CacheTask {
    /// All of them, with method and path.
    pub(crate) const ALL: [(Self, bool, &str); 5] = [
        (Self::Pins, false, "/v1/pins"),
        (Self::Pin, true, "/v1/pin"),
        (Self::Unpin, true, "/v1/unpin"),
        (Self::Evict, true, "/v1/evict"),
        (Self::Collect, true, "/v1/gc"),
    ];
}

/// What came of a [`CacheTask`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Managed {
    /// What is pinned, no longer pinned, or removed.
    pub packages: Vec<ManagedPackage>,
    /// Bodies removed; of [`CacheTask::Collect`] their packages are not known.
    pub removed: u64,
    /// Bytes of them.
    pub freed: u64,
    /// Why nothing was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedPackage {
    /// Where it is shown, or PATH at its binhost.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Whether it is in the cache.
    pub cached: bool,
    /// Whether it is pinned.
    pub pinned: bool,
}

impl Managed {
    /// One line for a person: what was removed in all.
    #[must_use]
    pub fn removal(&self) -> String {
        let Self { removed, freed, .. } = self;
        let plural = if *removed == 1 { "" } else { "s" };
        format!("removed {removed} package{plural}, {}", ByteSize(*freed))
    }
}

impl ManagedPackage {
    /// One line for a person, of what was removed.
    #[must_use]
    pub fn removed_line(&self) -> String {
        format!("{:>10}  {}  removed", ByteSize(self.size).to_string(), self.path)
    }

    /// One line for a person, of what is not pinned any more.
    #[must_use]
    pub fn unpinned_line(&self) -> String {
        let stays = if self.cached { "stays in the cache until something else needs the room" } else { "not cached" };
        format!("{:>10}  {}  no longer pinned; {stays}", ByteSize(self.size).to_string(), self.path)
    }

    /// One line for a person, of what is pinned or not.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { path, size, cached, pinned } = self;
        let state = match (pinned, cached) {
            (true, true) => "pinned",
            (true, false) => "pinned, to be kept once it is fetched",
            (false, true) => "cached",
            (false, false) => "not cached",
        };
        format!("{:>10}  {path}  {state}", ByteSize(*size).to_string())
    }
}
