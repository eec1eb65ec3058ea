//! Room that downloads in progress and parked downloads take.

use std::fs::File;
use std::sync::Arc;

/// Bytes that downloads in progress claim, of one download or of all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Full sizes of the downloads that may be kept.
    pub(crate) expected: u64,
    /// The part of `expected` that has room within the bound.
    pub(crate) reserved: u64,
    /// Bytes that are still to be allocated on the disk.
    pub(crate) coming: u64,
    /// Bytes that the file system allocates only when they are written.
    pub(crate) promised: u64,
}

impl Claim {
    /// Replaces one download's claim `old` within this sum by `new`.
    pub(crate) fn replace(&mut self, old: Self, new: Self) {
        let change = |sum: &mut u64, old: u64, new: u64| *sum = sum.saturating_sub(old).saturating_add(new);
        change(&mut self.expected, old.expected, new.expected);
        change(&mut self.reserved, old.reserved, new.reserved);
        change(&mut self.coming, old.coming, new.coming);
        change(&mut self.promised, old.promised, new.promised);
    }
}

/// The received bytes of a parked download.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) file: Arc<File>,
    pub(crate) bytes: u64,
    /// Whether a waiter waits for the download.
    pub(crate) awaited: Awaited,
}

/// Whether a parked download has waiters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    Yes,
    No,
}

impl Parked {
    /// Gives the disk its space back. The file itself is freed with its download.
    pub(crate) fn discard(&self) {
        if let Err(error) = self.file.set_len(0) {
            tracing::debug!(%error, "giving back the space of a parked download");
        }
    }
}
