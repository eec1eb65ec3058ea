//! Changes of the attributes of a file or directory.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, Nsecs, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::caller::Caller;
use super::lower::stat_of;
use super::stat::{Stat, Time};

/// The attributes of a file or directory that a call changes; `None` keeps one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AttrChange {
    pub size: Option<u64>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Last access; `Some(None)` sets the present time.
    pub atime: Option<Option<Time>>,
    /// Last change of the content; `Some(None)` sets the present time.
    pub mtime: Option<Option<Time>>,
    /// Whether the caller has the file open for writing.
    pub by_writer: bool,
}

/// Opens an open file again, with the caller's credentials and whether or not it has a name.
///
/// # Errors
/// Those of open(2).
pub(super) fn reopen(caller: Caller, file: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    caller.act(|| rustix::fs::open(path, flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()))
}

/// The bits of a mode that a write takes away, unless the writer has CAP_FSETID.
const SET_ID: Mode = Mode::SUID.union(Mode::SGID);

impl AttrChange {
    /// Changes an open file, and returns its new attributes.
    ///
    /// # Errors
    /// EPERM, or an error of the system call that makes the change.
    pub(crate) fn apply_to(&self, caller: Caller, file: &File) -> Result<Stat, Errno> {
        self.apply(caller, file, &stat_of(file)?)?;
        stat_of(file)
    }

    /// Changes the file, which has the attributes `before`.
    pub(super) fn apply(&self, caller: Caller, file: impl AsFd, before: &Stat) -> Result<(), Errno> {
        let file = file.as_fd();
        if let Some(size) = self.size {
            caller.charged(|| rustix::fs::ftruncate(file, size))?;
        }
        if self.uid.is_some() || self.gid.is_some() {
            let (uid, gid) = (self.uid.map(Uid::from_raw), self.gid.map(Gid::from_raw));
            caller.act(|| rustix::fs::fchown(file, uid, gid))?;
        }
        if let Some(mode) = self.mode.map(|mode| Mode::from_raw_mode(mode & 0o7777)) {
            if self.drops_set_id(caller, file, before, mode) {
                // The file system may have taken more away by itself.
                let now = Mode::from_raw_mode(stat_of(file)?.mode.into());
                rustix::fs::fchmod(file, now & mode)?;
            } else {
                caller.act(|| rustix::fs::fchmod(file, mode))?;
            }
        }
        self.times().map_or(Ok(()), |times| caller.act(|| rustix::fs::futimens(file, &times)))
    }

    /// Whether a time is set to another one than the present, which only the owner may do.
    #[must_use]
    pub(crate) fn sets_time(&self) -> bool {
        [self.atime, self.mtime].iter().any(|time| matches!(time, Some(Some(_))))
    }

    /// Whether mode or owner become other ones than these.
    #[must_use]
    pub(crate) fn alters(&self, mode: u16, (uid, gid): (u32, u32)) -> bool {
        let mode = self.mode.is_some_and(|new| new & 0o7777 != u32::from(mode));
        mode || self.uid.is_some_and(|new| new != uid) || self.gid.is_some_and(|new| new != gid)
    }

    /// Whether the kernel takes the set-id bits from a file because the caller writes to it. The
    /// kernel sends this as a change of the mode, in the name of the writer, who need not be the
    /// owner.
    fn drops_set_id(&self, caller: Caller, file: BorrowedFd<'_>, before: &Stat, mode: Mode) -> bool {
        let had = Mode::from_raw_mode(before.mode.into());
        let lost = had - mode;
        let is_drop = before.is_file() && had.contains(mode) && !lost.is_empty() && SET_ID.contains(lost);
        // A truncation or a change of the owner has shown that the caller may.
        let may = self.by_writer || self.size.is_some() || self.uid.is_some() || self.gid.is_some();
        is_drop && (may || reopen(caller, file, OFlags::WRONLY).is_ok())
    }

    /// The times to set. `None`: both stay.
    pub(super) fn times(&self) -> Option<Timestamps> {
        let time = |time: Option<Option<Time>>| match time {
            None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            Some(None) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
            Some(Some((seconds, nanoseconds))) => Timespec { tv_sec: seconds, tv_nsec: nanoseconds as Nsecs },
        };
        (self.atime.is_some() || self.mtime.is_some())
            .then(|| Timestamps { last_access: time(self.atime), last_modification: time(self.mtime) })
    }
}
