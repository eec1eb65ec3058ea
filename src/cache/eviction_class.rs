//! The eviction class of a blob: how useful it is to this host, and so how soon it is evicted.
//!
//! 1. orphans, which no record names;
//! 2. blobs that no index names any more, not even one of a generation that could be shown again:
//!    nobody can open them. [`EvictionClass::Superseded`] blobs, and [`EvictionClass::Waiting`]
//!    blobs that were not used for [`WAITS`], go at the same time;
//! 3. [`EvictionClass::Installed`] blobs: kept for a reinstallation, or for a downgrade after the
//!    next upgrade;
//! 4. [`EvictionClass::Waiting`] blobs, with those that were fetched or used since the classes were
//!    computed;
//! 5. open blobs: their eviction gives the disk nothing back;
//! 6. pinned blobs.
//!
//! Within a class, the least recently used blob goes first. The classes are computed only when
//! something is to be evicted, and not often (`classifier`).

use std::collections::HashMap;

use crate::index::Sha256Digest;

/// A package that is not installed stays in class `Waiting` for this long after its last use, in
/// seconds.
pub(crate) const WAITS: u64 = 7 * 86400;

/// How a cached package relates to the installed packages, in the order of eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EvictionClass {
    /// The same version and slot, or a newer one, is installed from another build.
    Superseded,
    /// Exactly this package is installed; or it is kept for a return to an earlier generation.
    Installed,
    /// Nothing of it, or something older, is installed: the package may be installed soon.
    Waiting,
}

/// Classes of the blobs that an index names.
pub(crate) type EvictionClasses = HashMap<Sha256Digest, EvictionClass>;
