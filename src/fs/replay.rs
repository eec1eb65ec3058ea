//! Replay of requests that the kernel sends again: the daemon before this one took them, and was
//! killed before it answered.
//!
//! The earlier daemon may have completed such a request. Then the new file exists, or the old one
//! is gone, and the replay answers with success instead of EEXIST or ENOENT. That is safe: the
//! kernel looked the name up before the request, and holds the directory's lock until the answer.
//! All other requests can be done twice.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;

use super::FsError;
use super::attr::{Attr, Validity};
use super::filesystem::Filesystem;
use super::modify::Renaming;
use crate::local::{Caller, Errno, OFlags, Stat};
use crate::tree::Inode;

/// How often the kernel has sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Only to this daemon.
    Once,
    /// To the daemon before this one, too.
    Again,
}

/// A directory and a name in it.
type ChildName<'a> = (Inode, &'a OsStr);

impl Delivery {
    fn again(self, error: &FsError, absent: bool) -> bool {
        let (own, system) = if absent { (FsError::NotFound, Errno::NOENT) } else { (FsError::Exists, Errno::EXIST) };
        self == Self::Again && [own.errno(), system.raw_os_error()].contains(&error.errno())
    }

    /// The result of an unlink or rmdir: in a replay, ENOENT is success.
    pub(crate) fn removed(self, done: Result<(), FsError>) -> Result<(), FsError> {
        done.or_else(|error| if self.again(&error, true) { Ok(()) } else { Err(error) })
    }

    /// The result of making something at `place`: in a replay, an existing file is the result if
    /// `is_it` accepts it.
    pub(crate) fn made(
        self,
        operations: &Filesystem,
        place: ChildName<'_>,
        made: Result<(Attr, Validity), FsError>,
        is_it: impl FnOnce(&Path, &Stat) -> bool,
    ) -> Result<(Attr, Validity), FsError> {
        made.or_else(|error| match self.again(&error, false).then(|| operations.modifier().found(place, is_it)) {
            Some(Ok(Some(found))) => Ok(found),
            _ => Err(error),
        })
    }

    /// The result of creating a file. In a replay, an existing file is the result if it is empty
    /// and the caller's: no process can have written to it yet.
    pub(crate) fn created(
        self,
        operations: &Filesystem,
        caller: Caller,
        place: ChildName<'_>,
        made: Result<(File, Attr, Validity), FsError>,
    ) -> Result<(File, Attr, Validity), FsError> {
        let error = match made {
            Err(error) if self.again(&error, false) => error,
            other => return other,
        };
        let opened = || {
            let path = operations.names().directory_path(place.0)?.join(place.1);
            let own = |stat: &Stat| stat.is_file() && stat.size == 0 && stat.uid == caller.uid;
            let stat = operations.names().local(&path)?.filter(own).ok_or(FsError::Exists)?;
            let file = operations.layer().open_file(Caller::DAEMON, &path, &stat, OFlags::RDWR)?;
            let (attr, validity) = operations.modifier().made(&path, Inode(stat.number), &stat);
            Ok::<_, FsError>((file, attr, validity))
        };
        opened().map_err(|_| error)
    }

    /// The result of a rename to `to`: in a replay, ENOENT is success if `to` is a local file or
    /// directory.
    pub(crate) fn renamed(
        self,
        operations: &Filesystem,
        to: ChildName<'_>,
        done: Result<Renaming, FsError>,
    ) -> Result<Renaming, FsError> {
        done.or_else(|error| {
            let there = || {
                let path = operations.names().directory_path(to.0)?.join(to.1);
                Ok::<_, FsError>(operations.layer().stat(&path).is_ok())
            };
            if self.again(&error, true) && there().unwrap_or(false) { Ok(Renaming::Done) } else { Err(error) }
        })
    }
}
