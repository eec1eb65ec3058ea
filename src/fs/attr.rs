//! Attributes of what is shown, wherever it is.

use crate::local::{FileType, Stat, Time};
use crate::tree::{Age, Attributes, Inode, Node};

/// What stat(2) shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attr {
    pub(crate) inode: Inode,
    /// Tells files apart that had one number one after the other.
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

/// How long what was said of a name holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validity {
    /// The kernel is told when it changes.
    Told,
    /// It can change without anybody being told.
    Fleeting,
    /// A directory beneath: its names change only through the mount, unless somebody gets at it in another way.
    Directory,
}

impl From<Age> for Validity {
    fn from(age: Age) -> Self {
        match age {
            Age::Current => Self::Told,
            Age::Earlier => Self::Fleeting,
        }
    }
}

/// Whose remote packages and directories seem to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u16,
}

impl Owner {
    /// root's, for everybody to read.
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

    /// A directory that is both.
    pub(crate) fn of_both(remote: Attributes, stat: &Stat) -> Self {
        let newest = |time: Time| time.max((remote.mtime, 0));
        let attr = Self::of_local(remote.inode, stat);
        // How many directories are in it would have to be counted; 1 says that it is not known.
        Self {
            generation: 0,
            size: remote.size,
            links: 1,
            mtime: newest(stat.mtime),
            ctime: newest(stat.ctime),
            ..attr
        }
    }
}
