//! Whether `Packages` of a generation is stored as a file, or rendered when it is read.
//!
//! A file is read by the kernel alone (passthrough). Rendering takes neither disk nor flash writes,
//! but some time for each part that the kernel has not cached. A file is chosen where it takes a
//! small part of the disk, and where the next generation has room beside it.

use std::fmt;

use crate::cache::DiskRoom;
use crate::config::StoreIndex;
use crate::units::ByteSize;

/// The file may take 1/`SHARE` of the disk, or of the available memory for a disk in memory.
const SHARE: u64 = 16;
/// So many files must have room: the next one is written before the last one is removed.
const FILES: u64 = 4;
/// The disk must have room for 1/`MARGIN` more before a file takes the place of an index that is
/// rendered when it is read. Otherwise a disk near the limit would change the form at each refresh.
const MARGIN: u64 = 4;

/// How `Packages` is kept, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PackagesForm {
    /// As a file.
    Stored,
    /// Rendered when it is read.
    Rendered(RenderReason),
}

/// Why `Packages` is rendered when it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RenderReason {
    /// The administrator wants it.
    Option,
    /// The file system has only so many bytes.
    SmallDisk(u64),
    /// Only so many bytes of the disk are free, or can be.
    FullDisk(u64),
    /// The disk is in memory, of which only so many bytes are available.
    Memory(u64),
}

impl fmt::Display for RenderReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option => write!(f, "store-index = \"small\""),
            Self::SmallDisk(bytes) => write!(f, "the disk of the cache has only {}", ByteSize(*bytes)),
            Self::FullDisk(bytes) => write!(f, "only {} of the cache's disk are free", ByteSize(*bytes)),
            Self::Memory(bytes) => {
                write!(f, "the cache is in memory, of which only {} are available", ByteSize(*bytes))
            }
        }
    }
}

impl PackagesForm {
    /// Chooses for an index of some `bytes`. `room`: that of the cache's disk, if it is known.
    /// `before`: the form of the last generation.
    pub(super) fn choose(option: StoreIndex, bytes: u64, room: Option<DiskRoom>, before: Option<Self>) -> Self {
        let room = match (option, room) {
            (StoreIndex::Small, _) => return Self::Rendered(RenderReason::Option),
            (StoreIndex::Plain, _) | (_, None) => return Self::Stored,
            (StoreIndex::Auto, Some(room)) => room,
        };
        let bytes = match before {
            Some(Self::Rendered(_)) => bytes.saturating_add(bytes / MARGIN),
            _ => bytes,
        };
        let share = bytes.saturating_mul(SHARE);
        match room {
            DiskRoom { memory: Some(memory), .. } if memory < share => Self::Rendered(RenderReason::Memory(memory)),
            DiskRoom { total, .. } if total < share => Self::Rendered(RenderReason::SmallDisk(total)),
            DiskRoom { free, .. } if free < bytes.saturating_mul(FILES) => Self::Rendered(RenderReason::FullDisk(free)),
            _ => Self::Stored,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_needs_a_disk_that_it_hardly_fills() {
        let mib = 1 << 20;
        let room = |total: u64, free: u64, memory: Option<u64>| {
            let room = DiskRoom { total: total * mib, free: free * mib, memory: memory.map(|memory| memory * mib) };
            PackagesForm::choose(StoreIndex::Auto, 10 * mib, Some(room), None)
        };
        let rendered = PackagesForm::Rendered;
        assert_eq!(room(160, 40, None), PackagesForm::Stored);
        assert_eq!(room(159, 159, None), rendered(RenderReason::SmallDisk(159 * mib)));
        assert_eq!(room(1000, 39, None), rendered(RenderReason::FullDisk(39 * mib)));
        assert_eq!(room(1000, 1000, Some(160)), PackagesForm::Stored);
        assert_eq!(room(1000, 1000, Some(159)), rendered(RenderReason::Memory(159 * mib)));
        let tiny = Some(DiskRoom { total: 1, free: 0, memory: Some(0) });
        assert_eq!(PackagesForm::choose(StoreIndex::Plain, mib, tiny, None), PackagesForm::Stored);
        assert_eq!(PackagesForm::choose(StoreIndex::Auto, mib, None, None), PackagesForm::Stored);
        assert_eq!(PackagesForm::choose(StoreIndex::Small, 0, None, None), rendered(RenderReason::Option));
        // An index without entries has a header only, which fits everywhere.
        assert_eq!(PackagesForm::choose(StoreIndex::Auto, 0, tiny, None), PackagesForm::Stored);
    }

    #[test]
    fn the_form_does_not_change_back_and_forth_near_the_limit() {
        let mib = 1 << 20;
        let mut form = None;
        let mut forms = Vec::new();
        for free in [41, 39, 41, 39, 49, 50, 41] {
            let room = DiskRoom { total: 1000 * mib, free: free * mib, memory: None };
            form = Some(PackagesForm::choose(StoreIndex::Auto, 10 * mib, Some(room), form));
            forms.push(form == Some(PackagesForm::Stored));
        }
        assert_eq!(forms, [true, false, false, false, false, true, true]);
    }
}
