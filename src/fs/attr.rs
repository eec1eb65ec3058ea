//! Attributes of files and directories in the mount, local or remote.

use crate::local::{FileType, Stat, Time};
use crate::tree::{Age, Attributes, Inode, Node};

/// The attributes that stat(2) returns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attr {
    pub(crate) inode: Inode,
    /// Inode generation: distinguishes files that had the same inode number one after the other.
    pub(crate) generation: u64,
    pub(crate) kind: FileType,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u32,
    pub(crate) size: u64,
    pub(crate) blocks: u64,
    pub(crate) device: u32,
    pub(crate) atime: Time,
    pub(crate) mtime: Time,
    pub(crate) ctime: Time,
}

/// How long the kernel may use a name or attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validity {
    /// Until the daemon notifies the kernel of a change.
    Told,
    /// For the current request only: changes happen without a notification.
    Fleeting,
    /// For a short time. Names in a local directory change only through the mount, unless a process
    /// reaches the lower directory by another path.
    Directory,
}

impl Validity {
    /// The validity of a name in a directory. The kernel uses a valid name without asking whether
    /// the caller may search the directory. The names of the binhosts' packages are no secret.
    pub(crate) fn within(self, is_open_to_all: bool) -> Self {
        if self == Self::Directory && !is_open_to_all { Self::Fleeting } else { self }
    }
}

impl From<Age> for Validity {
    fn from(age: Age) -> Self {
        match age {
            Age::Current => Self::Told,
            Age::Earlier => Self::Fleeting,
        }
    }
}

/// Owner and permissions of remote packages and directories.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u16,
}

impl Owner {
    /// Owned by root, readable by all users.
    pub(crate) const FILE: Self = Self { uid: 0, gid: 0, mode: 0o644 };
}

impl From<Stat> for Owner {
    fn from(Stat { uid, gid, mode, .. }: Stat) -> Self {
        Self { uid, gid, mode }
    }
}

impl Attr {
    pub(crate) fn of_remote(attributes: Attributes, owner: Owner) -> Self {
        let Attributes { inode, node, size, mtime, links } = attributes;
        let kind = match node {
            Node::Directory(_) => FileType::Directory,
            Node::Package(_) | Node::Packages => FileType::RegularFile,
        };
        let Owner { uid, gid, mode } = owner;
        let (time, blocks) = ((mtime, 0), size.div_ceil(512));
        Self {
            inode,
            generation: 0,
            kind,
            mode,
            uid,
            gid,
            links,
            size,
            blocks,
            device: 0,
            atime: time,
            mtime: time,
            ctime: time,
        }
    }

    pub(crate) fn of_local(inode: Inode, stat: &Stat) -> Self {
        let Stat { generation, kind, mode, uid, gid, links, size, blocks, device, atime, mtime, ctime, .. } = *stat;
        Self { inode, generation, kind, mode, uid, gid, links, size, blocks, device, atime, mtime, ctime }
    }

    /// Attributes of a directory that is both local and remote.
    ///
    /// The kernel caches a listing until mtime differs from the value at the time of its request,
    /// and it fills the cache after the answer. A listing that was requested before a generation
    /// is replaced can enter the cache after the kernel was notified of the change. Therefore
    /// mtime differs in each generation, also if the lower directory has changed later than the
    /// index: its nanoseconds depend on both.
    pub(crate) fn of_both(remote: Attributes, stat: &Stat) -> Self {
        const SECOND: i64 = 1_000_000_000;
        let nanoseconds = (remote.mtime.rem_euclid(SECOND) + i64::from(stat.mtime.1)).rem_euclid(SECOND);
        let attr = Self::of_local(remote.inode, stat);
        // The true link count needs a count of all subdirectories; 1 means that it is unknown.
        Self {
            generation: 0,
            size: remote.size,
            links: 1,
            mtime: (stat.mtime.0.max(remote.mtime), u32::try_from(nanoseconds).unwrap_or_default()),
            ctime: stat.ctime.max((remote.mtime, 0)),
            ..attr
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_another_time_in_each_generation() {
        let time = (2_000_000_000, 999_999_999);
        let stat = Stat {
            number: 1,
            generation: 0,
            kind: FileType::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            links: 2,
            size: 0,
            blocks: 0,
            device: 0,
            atime: time,
            mtime: time,
            ctime: time,
        };
        let of = |mtime, stat: &Stat| {
            let (inode, node) = (Inode::ROOT, Node::Directory(0));
            Attr::of_both(Attributes { inode, node, size: 4096, mtime, links: 2 }, stat).mtime
        };
        // The lower directory is newer, as it is when something was built since the index was made.
        assert_eq!((of(1_760_000_000, &stat).0, of(1_760_000_001, &stat).0), (time.0, time.0));
        assert_ne!(of(1_760_000_000, &stat), of(1_760_000_001, &stat));
        assert_ne!(of(1_760_000_000, &stat), of(1_760_000_000, &Stat { mtime: (time.0, 1), ..stat }));
        assert_ne!(of(2_100_000_000, &stat), of(2_100_000_001, &stat));
        assert_eq!(of(-1, &stat).0, time.0);
    }
}
