//! Tasks of the administrator on cached packages, and their results. Fields are only ever added.

use serde::{Deserialize, Serialize};

use crate::units::ByteSize;

/// A task on cached packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheTask {
    /// List the pinned packages.
    Pins,
    /// Pin the shown packages that match.
    Pin,
    /// Unpin the packages that match, or that have exactly this PATH.
    Unpin,
    /// Remove the packages that match from the cache.
    Evict,
    /// Remove the packages that no index names from the cache.
    Collect,
}

/// The result of a [`CacheTask`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Managed {
    /// The packages that are pinned, no longer pinned, or removed.
    pub packages: Vec<ManagedPackage>,
    /// Number of blobs removed. For [`CacheTask::Collect`], `packages` does not name their
    /// packages.
    pub removed: u64,
    /// Size of the removed blobs in bytes.
    pub freed: u64,
}

/// One package of the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManagedPackage {
    /// The path at which the package is shown, or its PATH at its binhost.
    pub path: String,
    /// Size of the package in bytes.
    pub size: u64,
    /// Whether the package is in the cache.
    pub cached: bool,
    /// Whether the package is pinned.
    pub pinned: bool,
}

impl Managed {
    /// One line for a person: number and size of the removed packages.
    #[must_use]
    pub(crate) fn removal(&self) -> String {
        let Self { removed, freed, .. } = self;
        let plural = if *removed == 1 { "" } else { "s" };
        format!("removed {removed} package{plural}, {}", ByteSize(*freed))
    }
}

impl ManagedPackage {
    /// One line for a person about a removed package.
    #[must_use]
    pub(crate) fn removed_line(&self) -> String {
        format!("{:>10}  {}  removed", ByteSize(self.size).to_string(), self.path)
    }

    /// One line for a person about a package that is no longer pinned.
    #[must_use]
    pub(crate) fn unpinned_line(&self) -> String {
        let stays = if self.cached { "stays in the cache until something else needs the room" } else { "not cached" };
        format!("{:>10}  {}  no longer pinned; {stays}", ByteSize(self.size).to_string(), self.path)
    }

    /// One line for a person: whether the package is pinned, and whether it is cached.
    #[must_use]
    pub(crate) fn line(&self) -> String {
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
