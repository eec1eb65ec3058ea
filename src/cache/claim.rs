//! Room that downloads in progress and parked downloads take.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

/// Bytes that downloads in progress claim, of one download or of all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SpaceClaim {
    /// Full sizes of the downloads that may be kept.
    pub(crate) expected: u64,
    /// The part of `expected` that has room within the bound.
    pub(crate) reserved: u64,
    /// Bytes that are still to be allocated on the disk.
    pub(crate) coming: u64,
    /// Bytes that the file system allocates only when they are written.
    pub(crate) promised: u64,
}

impl SpaceClaim {
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

/// The parked downloads.
#[derive(Debug, Default)]
pub(crate) struct ParkedDownloads {
    by_number: BTreeMap<u64, Parked>,
    /// The highest number so far.
    last: u64,
}

impl ParkedDownloads {
    /// Bytes of all parked downloads.
    pub(crate) fn bytes(&self) -> u64 {
        self.by_number.values().map(|parked| parked.bytes).sum()
    }

    /// Removes parked downloads of at least `bytes` in sum, if there are as many, the oldest first.
    /// Returns them, and the sum of their bytes.
    pub(crate) fn take(&mut self, bytes: u64, awaited: Awaited) -> (Vec<Parked>, u64) {
        let mut freed = 0_u64;
        let enough = |(_, parked): &(&u64, &Parked)| {
            let wanted = freed < bytes;
            freed = freed.saturating_add(if wanted { parked.bytes } else { 0 });
            wanted
        };
        let all = self.by_number.iter().filter(|(_, parked)| parked.awaited == awaited);
        let taken: Vec<u64> = all.take_while(enough).map(|(number, _)| *number).collect();
        let taken = taken.iter().filter_map(|number| self.by_number.remove(number)).collect();
        (taken, freed)
    }

    /// Marks a parked download as having no waiters. Returns `false` if it was discarded before.
    pub(crate) fn abandon(&mut self, number: u64) -> bool {
        self.by_number.get_mut(&number).map(|parked| parked.awaited = Awaited::No).is_some()
    }

    pub(crate) fn park(&mut self, file: &Arc<File>, bytes: u64) -> u64 {
        self.last += 1;
        self.by_number.insert(self.last, Parked { file: Arc::clone(file), bytes, awaited: Awaited::Yes });
        self.last
    }

    /// Returns `false` if the received bytes were discarded before.
    pub(crate) fn unpark(&mut self, number: u64) -> bool {
        self.by_number.remove(&number).is_some()
    }
}
