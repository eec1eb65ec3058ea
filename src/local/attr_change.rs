//! Changes of the attributes of a file or directory.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{Mode, Nsecs, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
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
}

impl AttrChange {
    /// Changes an open file, and returns its new attributes.
    ///
    /// # Errors
    /// EPERM, or an error of the system call that makes the change.
    pub(crate) fn apply_to(&self, caller: Caller, file: &File) -> Result<Stat, Errno> {
        self.apply(caller, file)?;
        stat_of(file)
    }

    pub(super) fn apply(&self, caller: Caller, file: impl AsFd) -> Result<(), Errno> {
        let file = file.as_fd();
        if let Some(size) = self.size {
            caller.charged(|| rustix::fs::ftruncate(file, size))?;
        }
        caller.act(|| {
            if self.uid.is_some() || self.gid.is_some() {
                rustix::fs::fchown(file, self.uid.map(Uid::from_raw), self.gid.map(Gid::from_raw))?;
            }
            if let Some(mode) = self.mode {
                rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777))?;
            }
            self.times().map_or(Ok(()), |times| rustix::fs::futimens(file, &times))
        })
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
