//! Operations on files and directories of the lower directory, with the caller's credentials.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, FileType, Mode, Nsecs, OFlags, RenameFlags, StatVfs, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::caller::without_umask;
use super::lower::{Name, stat_at, stat_of};
use super::own_names::{is_own, new_name};
use super::{Caller, LowerDirectory, Stat, Time};

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

/// Whether a rename may replace an existing name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replace {
    /// Replaces the target.
    Yes,
    /// Fails with EEXIST.
    No,
}

impl LowerDirectory {
    /// Attributes of the file at `path`; a symbolic link is not followed.
    ///
    /// # Errors
    /// Those of statx(2).
    pub(crate) fn stat(&self, path: &Path) -> Result<Stat, Errno> {
        self.lower.stat(path)
    }

    /// Attributes of an open file.
    ///
    /// # Errors
    /// Those of statx(2).
    pub(crate) fn stat_of(&self, file: &File) -> Result<Stat, Errno> {
        stat_of(file)
    }

    /// The names in a directory, without the indexes.
    ///
    /// # Errors
    /// Those of getdents(2).
    pub(crate) fn list(&self, path: &Path) -> Result<Vec<Name>, Errno> {
        let mut names = self.lower.list(path)?;
        names.retain(|name| !is_own(&path.join(&name.name)));
        Ok(names)
    }

    /// Checks access(2) of `path` with the caller's credentials.
    ///
    /// # Errors
    /// EACCES, EROFS, or another error of access(2).
    pub(crate) fn access(&self, caller: Caller, path: &Path, access: Access) -> Result<(), Errno> {
        // EACCESS checks the effective ids, which are the caller's here, not the real ids of the
        // daemon.
        let flags = AtFlags::EACCESS | AtFlags::SYMLINK_NOFOLLOW;
        if path.as_os_str().is_empty() {
            return caller.act(|| rustix::fs::accessat(self.lower.root(), ".", access, AtFlags::EACCESS));
        }
        caller.act(|| {
            let (parent, name) = self.lower.parent(path)?;
            rustix::fs::accessat(&parent, name, access, flags)
        })
    }

    /// Opens the file that `is` describes, with `flags` (access mode, O_APPEND, O_TRUNC) and the
    /// caller's credentials. Where possible, the returned descriptor is open for reading and
    /// writing.
    ///
    /// # Errors
    /// ESTALE: another file has the name by now. Or an error of openat2(2).
    pub(crate) fn open_file(&self, caller: Caller, path: &Path, is: &Stat, flags: OFlags) -> Result<File, Errno> {
        let truncate = flags.contains(OFlags::TRUNC);
        let mode = match flags & OFlags::ACCMODE {
            // Truncation needs the right to write.
            OFlags::RDONLY if truncate => OFlags::RDWR,
            mode => mode | flags & OFlags::APPEND,
        };
        let asked = caller.act(|| self.lower.open_at(path, mode | OFlags::NONBLOCK, Mode::empty()))?;
        the_same(&asked, is)?;
        if truncate {
            rustix::fs::ftruncate(&asked, 0)?;
        }
        self.for_all_opens(path, asked)
    }

    /// Checks whether the caller may open `file`, which has no name any more, with `flags`.
    ///
    /// # Errors
    /// EROFS, or an error of open(2).
    pub(crate) fn may_open_again(&self, caller: Caller, file: &File, flags: OFlags) -> Result<(), Errno> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = (flags & OFlags::ACCMODE) | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if self.read_only && flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
            return Err(Errno::ROFS);
        }
        caller.act(|| rustix::fs::open(path, flags, Mode::empty())).map(drop)
    }

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// Those of openat2(2) and fsync(2).
    pub(crate) fn sync_directory(&self, path: &Path) -> Result<(), Errno> {
        rustix::fs::fsync(self.lower.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?)
    }

    /// Creates a file and opens it.
    ///
    /// # Errors
    /// EEXIST, or another error of openat2(2).
    pub(crate) fn create(&self, caller: Caller, path: &Path, flags: OFlags, mode: u32) -> Result<(File, Stat), Errno> {
        let flags = (flags & OFlags::ACCMODE) | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        without_umask();
        let asked = caller.act(|| self.lower.open_at(path, flags, mode))?;
        let stat = stat_of(&asked)?;
        Ok((self.for_all_opens(path, asked)?, stat))
    }

    /// Opens the descriptor that serves all opens of a file. Each open's own rights are checked
    /// when it is opened, and by the kernel.
    fn for_all_opens(&self, path: &Path, asked: OwnedFd) -> Result<File, Errno> {
        let open = |flags| self.lower.open_at(path, OFlags::RDWR | OFlags::NONBLOCK | flags, Mode::empty());
        // An append-only file (chattr +a) cannot be opened for writing in any other way.
        match open(OFlags::empty()).or_else(|_| open(OFlags::APPEND)) {
            Ok(both) if stat_of(&both)?.is_of(&stat_of(&asked)?) => Ok(both.into()),
            _ => Ok(asked.into()),
        }
    }

    /// Makes a directory.
    /// # Errors
    /// Those of mkdirat(2).
    /// Of mkdirat(2).
    pub(crate) fn make_directory(&self, caller: Caller, path: &Path, mode: u32) -> Result<Stat, Errno> {
        without_umask();
        let (parent, name) = self.parent_of(caller, path)?;
        caller.act(|| rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(mode & 0o7777)))?;
        self.searchable.forget();
        stat_at(&parent, name)
    }

    /// Makes `path` and its missing parent directories, with owner and mode of the lower directory
    /// itself: the published tree shows them already. The caller needs write access to the deepest
    /// directory that exists.
    ///
    /// # Errors
    /// EACCES, or an error of mkdirat(2).
    pub(crate) fn make_directories(&self, caller: Caller, path: &Path) -> Result<(), Errno> {
        if self.lower.directory(path).is_ok() {
            return Ok(());
        }
        let mut above = path.ancestors().skip(1);
        let there = above.find(|above| self.lower.directory(above).is_ok()).unwrap_or(Path::new(""));
        self.access(caller, there, Access::WRITE_OK | Access::EXEC_OK)?;
        let top = stat_of(self.lower.root())?;
        let mut made = PathBuf::new();
        for component in path.components() {
            made.push(component);
            let (parent, name) = self.lower.parent(&made)?;
            match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
                Ok(()) => {
                    rustix::fs::chownat(
                        &parent,
                        name,
                        Some(Uid::from_raw(top.uid)),
                        Some(Gid::from_raw(top.gid)),
                        AtFlags::SYMLINK_NOFOLLOW,
                    )?;
                    let directory = self.lower.open_at(&made, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
                    rustix::fs::fchmod(&directory, Mode::from_raw_mode(top.mode.into()))?;
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes a file.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub(crate) fn unlink(&self, caller: Caller, path: &Path, number: u64) -> Result<(), Errno> {
        let (parent, name) = self.parent_of(caller, path)?;
        caller.act(|| rustix::fs::unlinkat(&parent, name, AtFlags::empty()))?;
        self.known.removed(number, path);
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub(crate) fn remove_directory(&self, caller: Caller, path: &Path, number: u64) -> Result<(), Errno> {
        let (parent, name) = self.parent_of(caller, path)?;
        caller.act(|| rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR))?;
        self.known.removed(number, path);
        Ok(())
    }

    /// Renames the file `number` from `from` to `to`.
    ///
    /// # Errors
    /// EXDEV for a directory; else an error of renameat2(2).
    pub(crate) fn rename(
        &self,
        caller: Caller,
        number: u64,
        from: &Path,
        to: &Path,
        replace: Replace,
    ) -> Result<(), Errno> {
        let (from_parent, from_name) = self.parent_of(caller, from)?;
        let (to_parent, to_name) = self.parent_of(caller, to)?;
        if stat_at(&from_parent, from_name)?.is_directory() {
            return Err(Errno::XDEV);
        }
        let replaced = stat_at(&to_parent, to_name).ok();
        let flags = if replace == Replace::Yes { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        caller.act(|| rustix::fs::renameat_with(&from_parent, from_name, &to_parent, to_name, flags))?;
        if let Some(replaced) = replaced.filter(|replaced| replaced.number != number) {
            self.known.removed(replaced.number, to);
        }
        // A rename between two names of one file does nothing, and both names stay.
        if stat_at(&from_parent, from_name).map(|stat| stat.number) != Ok(number) {
            self.known.removed(number, from);
        }
        self.known.found(number, to);
        Ok(())
    }

    /// Gives the file at `from` the additional name `to`.
    ///
    /// # Errors
    /// Those of linkat(2).
    pub(crate) fn link(&self, caller: Caller, from: &Path, to: &Path) -> Result<Stat, Errno> {
        let (from_parent, from_name) = self.parent_of(caller, from)?;
        let (to_parent, to_name) = self.parent_of(caller, to)?;
        caller.act(|| rustix::fs::linkat(&from_parent, from_name, &to_parent, to_name, AtFlags::empty()))?;
        stat_at(&to_parent, to_name)
    }

    /// Makes a symbolic link, which is shown and never followed here.
    ///
    /// # Errors
    /// Those of symlinkat(2).
    pub(crate) fn symlink(&self, caller: Caller, target: &Path, path: &Path) -> Result<Stat, Errno> {
        let (parent, name) = self.parent_of(caller, path)?;
        caller.act(|| rustix::fs::symlinkat(target, &parent, name))?;
        stat_at(&parent, name)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// Those of readlinkat(2).
    pub(crate) fn read_link(&self, path: &Path) -> Result<CString, Errno> {
        let (parent, name) = self.lower.parent(path)?;
        rustix::fs::readlinkat(&parent, name, Vec::new())
    }

    /// The directory that contains `path`, and the last component of `path`. The caller needs the
    /// right to search all directories on the way.
    fn parent_of<'a>(&self, caller: Caller, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), Errno> {
        caller.act(|| self.lower.parent(path))
    }

    /// Changes attributes of the file `is` at `path`, and returns the new ones.
    ///
    /// # Errors
    /// ESTALE: another file has the name by now. EPERM, or an error of the system call that makes
    /// the change.
    pub(crate) fn change(&self, caller: Caller, path: &Path, is: &Stat, change: &AttrChange) -> Result<Stat, Errno> {
        if !matches!(is.kind, FileType::RegularFile | FileType::Directory) {
            return self.change_special(caller, path, change);
        }
        if !path.as_os_str().is_empty() {
            self.parent_of(caller, path)?;
        }
        if let Some(size) = change.size {
            let file = caller.act(|| self.lower.open_at(path, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()))?;
            the_same(&file, is)?;
            caller.charged(|| rustix::fs::ftruncate(&file, size))?;
        }
        let file = self.lower.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        the_same(&file, is)?;
        let changed = change_open(caller, &file, &AttrChange { size: None, ..*change });
        if is.is_directory() {
            self.searchable.forget();
        }
        changed?;
        stat_of(&file)
    }

    /// Changes attributes of an open file, and returns the new ones.
    ///
    /// # Errors
    /// As [`LowerDirectory::change`].
    pub(crate) fn change_file(&self, caller: Caller, file: &File, change: &AttrChange) -> Result<Stat, Errno> {
        change_open(caller, file, change)?;
        stat_of(file)
    }

    fn change_special(&self, caller: Caller, path: &Path, change: &AttrChange) -> Result<Stat, Errno> {
        let (parent, name) = self.parent_of(caller, path)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if change.size.is_some() || change.mode.is_some() {
            return Err(Errno::OPNOTSUPP);
        }
        caller.act(|| {
            if change.uid.is_some() || change.gid.is_some() {
                let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
                rustix::fs::chownat(&parent, name, uid, gid, flags)?;
            }
            times(change).map_or(Ok(()), |times| rustix::fs::utimensat(&parent, name, &times, flags))
        })?;
        stat_at(&parent, name)
    }

    /// Puts a plain file at `path`, where none exists: an empty one, or a copy with a modification
    /// time. The file appears as a whole, by a rename.
    ///
    /// # Errors
    /// EEXIST, or an error of reading or writing.
    pub(crate) fn create_placeholder(&self, path: &Path, copy: Option<(&File, i64)>) -> std::io::Result<()> {
        let (parent, name) = self.lower.parent(path)?;
        let directory = self.lower.open_at(path.parent().unwrap_or(Path::new("")), OFlags::RDONLY, Mode::empty())?;
        let new = new_name();
        // Never open an existing file: other users may be able to put a link there. A file that a
        // crash has left is removed first.
        let _ = rustix::fs::unlinkat(&parent, &new, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file: File = rustix::fs::openat(&directory, &new, flags, Mode::from_raw_mode(0o644))?.into();
        let written = (|| {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
            if let Some((from, mtime)) = copy {
                std::io::copy(&mut FullRead { file: from, offset: 0 }, &mut &file)?;
                let mtime = Some(Some((mtime, 0)));
                change_open(Caller::DAEMON, &file, &AttrChange { atime: mtime, mtime, ..AttrChange::default() })?;
                // From now on the copy hides the binhost's package, so it must survive a power
                // failure, with the time that its entry states.
                file.sync_all()?;
            }
            rustix::fs::renameat_with(&parent, &new, &parent, name, RenameFlags::NOREPLACE)?;
            if copy.is_some() {
                rustix::fs::fsync(&directory)?;
            }
            Ok(())
        })();
        if written.is_err() {
            // A temporary file that cannot be removed does no harm; the mount does not show it.
            let _ = rustix::fs::unlinkat(&parent, &new, AtFlags::empty());
        }
        written
    }

    /// Size and free space of the lower file system.
    ///
    /// # Errors
    /// Those of fstatvfs(2).
    pub(crate) fn space(&self) -> Result<StatVfs, Errno> {
        rustix::fs::fstatvfs(self.lower.root())
    }
}

/// Reads a file from its beginning, independent of the descriptor's shared offset.
struct FullRead<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for FullRead<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// Checks that an opened file is the one that was looked up: another file may have got the name in
/// between.
fn the_same(file: impl AsFd, is: &Stat) -> Result<(), Errno> {
    if stat_of(file)?.is_of(is) { Ok(()) } else { Err(Errno::STALE) }
}

fn change_open(caller: Caller, file: impl AsFd, change: &AttrChange) -> Result<(), Errno> {
    let file = file.as_fd();
    if let Some(size) = change.size {
        caller.charged(|| rustix::fs::ftruncate(file, size))?;
    }
    caller.act(|| {
        if change.uid.is_some() || change.gid.is_some() {
            rustix::fs::fchown(file, change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw))?;
        }
        if let Some(mode) = change.mode {
            rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777))?;
        }
        times(change).map_or(Ok(()), |times| rustix::fs::futimens(file, &times))
    })
}

fn times(change: &AttrChange) -> Option<Timestamps> {
    let time = |time: Option<Option<Time>>| match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(None) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(Some((seconds, nanoseconds))) => Timespec { tv_sec: seconds, tv_nsec: nanoseconds as Nsecs },
    };
    (change.atime.is_some() || change.mtime.is_some())
        .then(|| Timestamps { last_access: time(change.atime), last_modification: time(change.mtime) })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn another_file_that_has_got_the_name_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let layer = LowerDirectory::open(directory.path(), false).unwrap();
        let (path, name) = (directory.path().join("f"), Path::new("f"));
        fs::write(&path, "one").unwrap();
        let seen = layer.stat(name).unwrap();
        assert!(layer.open_file(Caller::DAEMON, name, &seen, OFlags::RDWR).is_ok());
        fs::write(directory.path().join("other"), "other").unwrap();
        fs::rename(directory.path().join("other"), &path).unwrap();
        let open = |flags| layer.open_file(Caller::DAEMON, name, &seen, flags).map(drop);
        for flags in [OFlags::RDONLY, OFlags::RDWR, OFlags::WRONLY | OFlags::TRUNC] {
            assert_eq!(open(flags), Err(Errno::STALE));
        }
        for change in [
            AttrChange { size: Some(0), ..AttrChange::default() },
            AttrChange { mode: Some(0o777), ..AttrChange::default() },
            AttrChange { uid: Some(1), ..AttrChange::default() },
        ] {
            assert_eq!(layer.change(Caller::DAEMON, name, &seen, &change), Err(Errno::STALE), "{change:?}");
        }
        assert_eq!(fs::read(&path).unwrap(), b"other");
        // The other file has the same number, but was made at another time.
        let now = layer.stat(name).unwrap();
        let before = Stat { generation: now.generation.wrapping_sub(1), ..now };
        assert_eq!(layer.open_file(Caller::DAEMON, name, &before, OFlags::RDWR).map(drop), Err(Errno::STALE));
    }
}
