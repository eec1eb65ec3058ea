//! Size and modification time of a file, to notice that somebody else wrote it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

/// Size in bytes and modification time in nanoseconds since the epoch. The daemon relies on a file
/// of its own only while both are unchanged.
pub(crate) type FileStamp = (u64, i64);

pub(crate) fn stamp(metadata: &fs::Metadata) -> FileStamp {
    (metadata.len(), mtime_ns(metadata))
}

/// The modification time of a file, in nanoseconds since the epoch.
pub(crate) fn mtime_ns(metadata: &fs::Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}
