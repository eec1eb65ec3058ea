//! Operations on the files and directories of the lower directory, with the caller's credentials.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, StatVfs};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::attr_change::{AttrChange, reopen};
use super::caller::Caller;
use super::lower::{Name, stat_at, stat_of};
use super::own_names::is_own;
use super::{LowerDirectory, Stat};

impl LowerDirectory {
    /// Attributes of the file at `path`; a symbolic link is not followed.
    ///
    /// # Errors
    /// Those of statx(2).
    pub(crate) fn stat(&self, path: &Path) -> Result<Stat, Errno> {
        self.lower.stat(path)
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
        self.lower.access(caller, path, access)
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
            // As the caller: the kernel takes the set-id bits from the file.
            caller.act(|| rustix::fs::ftruncate(&asked, 0))?;
        }
        self.lower.open_for_all(path, asked)
    }

    /// Checks whether the caller may open `file`, which has no name any more, with `flags`.
    ///
    /// # Errors
    /// EROFS, or an error of open(2).
    pub(crate) fn may_open_again(&self, caller: Caller, file: &File, flags: OFlags) -> Result<(), Errno> {
        let flags = flags & OFlags::ACCMODE;
        if self.read_only && flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
            return Err(Errno::ROFS);
        }
        reopen(caller, file, flags).map(drop)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// Those of readlinkat(2).
    pub(crate) fn read_link(&self, path: &Path) -> Result<CString, Errno> {
        let (parent, name) = self.lower.parent(path)?;
        rustix::fs::readlinkat(&parent, name, Vec::new())
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
            self.lower.parent_for(caller, path)?;
        }
        let truncated = change.size.is_some();
        if let Some(size) = change.size {
            let file = caller.act(|| self.lower.open_at(path, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()))?;
            the_same(&file, is)?;
            caller.charged(|| rustix::fs::ftruncate(&file, size))?;
        }
        let file = self.lower.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        the_same(&file, is)?;
        let by_writer = change.by_writer || truncated;
        let changed = AttrChange { size: None, by_writer, ..*change }.apply(caller, &file, is);
        if is.is_directory() {
            self.searchable.forget();
        }
        changed?;
        stat_of(&file)
    }

    fn change_special(&self, caller: Caller, path: &Path, change: &AttrChange) -> Result<Stat, Errno> {
        let (parent, name) = self.lower.parent_for(caller, path)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if change.size.is_some() || change.mode.is_some() {
            return Err(Errno::OPNOTSUPP);
        }
        caller.act(|| {
            if change.uid.is_some() || change.gid.is_some() {
                let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
                rustix::fs::chownat(&parent, name, uid, gid, flags)?;
            }
            change.times().map_or(Ok(()), |times| rustix::fs::utimensat(&parent, name, &times, flags))
        })?;
        stat_at(&parent, name)
    }

    /// Size and free space of the lower file system.
    ///
    /// # Errors
    /// Those of fstatvfs(2).
    pub(crate) fn space(&self) -> Result<StatVfs, Errno> {
        rustix::fs::fstatvfs(self.lower.root())
    }
}

/// Checks that an opened file is the one that was looked up: another file may have got the name in
/// between.
fn the_same(file: impl AsFd, is: &Stat) -> Result<(), Errno> {
    if stat_of(file)?.is_of(is) { Ok(()) } else { Err(Errno::STALE) }
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
