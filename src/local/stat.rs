//! File attributes from statx(2), with the inode numbers that the mount shows.

use rustix::fs::{FileType, Statx};

/// Seconds and nanoseconds since the epoch.
pub(crate) type Time = (i64, u32);

/// Attributes of a local file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Inode number on the mount, made from the inode in the lower directory. No other file of the
    /// mount has it: see [`is_number`]. For a directory that the binhosts have as well, the mount
    /// shows another number.
    pub number: u64,
    /// Inode generation, which distinguishes files that had the same number one after the other.
    /// The value is the birth time in ns.
    pub generation: u64,
    pub kind: FileType,
    /// Permissions, with the set-user-id, set-group-id and sticky bits.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Number of hard links.
    pub links: u32,
    /// Size in bytes.
    pub size: u64,
    /// Disk space in blocks of 512 bytes.
    pub blocks: u64,
    /// Device number of a device file.
    pub device: u32,
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
}

impl Stat {
    #[must_use]
    pub(crate) fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Whether `other` describes the same file, and the same type of file.
    #[must_use]
    pub(crate) fn is_of(&self, other: &Self) -> bool {
        (self.number, self.generation, self.kind) == (other.number, other.generation, other.kind)
    }

    #[must_use]
    pub(crate) fn is_file(&self) -> bool {
        self.kind == FileType::RegularFile
    }
}

impl From<Statx> for Stat {
    fn from(stat: Statx) -> Self {
        let time = |time: rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
        let (seconds, nanoseconds) = time(stat.stx_btime);
        Self {
            number: number_of(stat.stx_ino),
            generation: seconds.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(nanoseconds.into()),
            kind: FileType::from_raw_mode(stat.stx_mode.into()),
            mode: stat.stx_mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            links: stat.stx_nlink,
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            device: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor) as u32,
            atime: time(stat.stx_atime),
            mtime: time(stat.stx_mtime),
            ctime: time(stat.stx_ctime),
        }
    }
}

/// The bit that is set in the number of every local file, and in no other number that the mount
/// shows.
const TAG: u64 = 1 << 62;

/// The number for the inode `inode` of the lower directory, which is one file system. No known file
/// system uses more than 62 bits, except overlayfs with `xino`; there the upper bits are folded in.
fn number_of(inode: u64) -> u64 {
    TAG | ((inode ^ (inode >> 62)) & (TAG - 1))
}

/// Whether `number` belongs to a local file.
#[must_use]
pub(crate) fn is_number(number: u64) -> bool {
    number >> 62 == 1
}
