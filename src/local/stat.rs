//! What stat(2) says of something beneath.

use rustix::fs::{FileType, Statx};

/// Seconds and nanoseconds since the epoch.
pub type Time = (i64, u32);

/// Attributes of a file or directory beneath.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Made from the inode beneath, and no other's that is shown: see [`is_number`]. A directory goes by another one.
    pub number: u64,
    /// Tells files apart that had the same number one after the other: when it was made.
    pub generation: u64,
    /// What it is.
    pub kind: FileType,
    /// Permissions, with set-user-id and the like.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub links: u32,
    /// Bytes.
    pub size: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Device, of a device.
    pub device: u32,
    /// Last access.
    pub atime: Time,
    /// Last change of its content.
    pub mtime: Time,
    /// Last change of the file.
    pub ctime: Time,
}

impl Stat {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Whether `other` is of the same file, and of the same kind.
    #[must_use]
    pub fn is_of(&self, other: &Self) -> bool {
        (self.number, self.generation, self.kind) == (other.number, other.generation, other.kind)
    }

    /// Whether it is a plain file.
    #[must_use]
    pub fn is_file(&self) -> bool {
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

/// What is set in the number of every file, and in that of nothing else that the mount shows.
const TAG: u64 = 1 << 62;

/// What stands for the inode `inode` beneath. All is on one file system, and none that is known uses more than 62 bits, but for
/// overlayfs with `xino`, whose upper ones are folded in.
fn number_of(inode: u64) -> u64 {
    TAG | ((inode ^ (inode >> 62)) & (TAG - 1))
}

/// Whether `number` is that of a local file.
#[must_use]
pub fn is_number(number: u64) -> bool {
    number >> 62 == 1
}
