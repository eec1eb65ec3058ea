//! Conversions between this crate's types and fuser's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileHandle, FileType, INodeNo, Request, TimeOrNow};

use super::super::TTL;
use crate::fs::FsError;
use crate::fs::attr::{Attr, Validity};
use crate::fs::replay::Delivery;
use crate::local::{self, AttrChange, Caller, Time};
use crate::metrics::{Outcome, Timed};

pub(super) const BLOCK: u32 = 4096;
/// How long the kernel may cache a local directory: another process may change it without the
/// mount.
const TTL_OF_DIRECTORIES: Duration = Duration::from_secs(1);

pub(super) fn errno(error: &FsError) -> Errno {
    Errno::from_i32(error.errno())
}

/// The errno of a request that ends with `error`.
pub(super) fn failed(timed: &mut Timed, error: &FsError) -> Errno {
    timed.ends(match error {
        FsError::NotFound | FsError::NoAttribute => Outcome::Absent,
        _ => Outcome::Failed,
    });
    errno(error)
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller::of_thread(request.pid(), (request.uid(), request.gid()))
}

/// The handle of all files that `user` opens.
pub(super) fn handle_of(user: u32) -> FileHandle {
    FileHandle(user.into())
}

/// The user that a handle belongs to.
pub(super) fn user_of(handle: FileHandle) -> u32 {
    // The kernel only sends handles that it got from a daemon.
    u32::try_from(handle.0).unwrap_or(u32::MAX)
}

/// FUSE_UNIQUE_RESEND: the bit of a request's number that says that it was sent before. Source:
/// linux/fuse.h.
const RESENT: u64 = 1 << 63;

pub(super) fn delivery(request: &Request) -> Delivery {
    if request.unique().0 & RESENT == 0 { Delivery::Once } else { Delivery::Again }
}

/// How long the kernel may use a name without asking.
pub(super) fn ttl(validity: Validity) -> Duration {
    match validity {
        Validity::Told => TTL,
        Validity::Directory => TTL_OF_DIRECTORIES,
        Validity::Fleeting => Duration::ZERO,
    }
}

pub(super) fn file_type(kind: local::FileType) -> FileType {
    match kind {
        local::FileType::Directory => FileType::Directory,
        local::FileType::Symlink => FileType::Symlink,
        local::FileType::Fifo => FileType::NamedPipe,
        local::FileType::Socket => FileType::Socket,
        local::FileType::CharacterDevice => FileType::CharDevice,
        local::FileType::BlockDevice => FileType::BlockDevice,
        local::FileType::RegularFile | local::FileType::Unknown => FileType::RegularFile,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.inode.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.ctime),
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.device,
        blksize: BLOCK,
        flags: 0,
    }
}

fn system_time((seconds, nanoseconds): Time) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    time.and_then(|time| time.checked_add(Duration::from_nanos(nanoseconds.into()))).unwrap_or(UNIX_EPOCH)
}

fn time(time: TimeOrNow) -> Option<Time> {
    match time {
        TimeOrNow::Now => None,
        TimeOrNow::SpecificTime(time) => Some(match time.duration_since(UNIX_EPOCH) {
            Ok(span) => (span.as_secs().cast_signed(), span.subsec_nanos()),
            Err(before) => match before.duration() {
                span if span.subsec_nanos() == 0 => (-span.as_secs().cast_signed(), 0),
                span => (-span.as_secs().cast_signed() - 1, 1_000_000_000 - span.subsec_nanos()),
            },
        }),
    }
}

pub(super) fn change(
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    (atime, mtime): (Option<TimeOrNow>, Option<TimeOrNow>),
) -> AttrChange {
    AttrChange { size, mode, uid, gid, atime: atime.map(time), mtime: mtime.map(time), by_writer: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch() {
        for there in [(0, 0), (5, 7), (-1, 0), (-1, 999_999_999), (-7, 3)] {
            assert_eq!(time(TimeOrNow::SpecificTime(system_time(there))), Some(there));
        }
    }
}
