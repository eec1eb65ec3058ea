//! Changes of the names in the lower directory, with the caller's credentials: files and
//! directories are made, linked, renamed and removed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::attr_change::AttrChange;
use super::caller::{Caller, without_umask};
use super::inode_table::InodeTable;
use super::lower::{LowerCalls, Walk, stat_at, stat_of};
use super::own_names::{is_new_copy, new_name};
use super::permission_cache::Searchable;
use super::stat::Stat;
use crate::sys::WholeFile;

/// Whether a rename may replace an existing name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replace {
    /// Replaces the target.
    Yes,
    /// Fails with EEXIST.
    No,
}

/// The names in the lower directory.
#[derive(Debug)]
pub(crate) struct LowerNames {
    pub(super) lower: Arc<LowerCalls>,
    pub(super) known: Arc<InodeTable>,
    pub(super) searchable: Arc<Searchable>,
}

impl LowerNames {
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
        Ok((self.lower.open_for_all(path, asked)?, stat))
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// Those of mkdirat(2).
    pub(crate) fn make_directory(&self, caller: Caller, path: &Path, mode: u32) -> Result<Stat, Errno> {
        without_umask();
        let (parent, name) = self.lower.parent_for(caller, path)?;
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
        self.lower.access(caller, there, Access::WRITE_OK | Access::EXEC_OK)?;
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
        let (parent, name) = self.lower.parent_for(caller, path)?;
        caller.act(|| rustix::fs::unlinkat(&parent, name, AtFlags::empty()))?;
        self.known.removed(number, path);
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub(crate) fn remove_directory(&self, caller: Caller, path: &Path, number: u64) -> Result<(), Errno> {
        let (parent, name) = self.lower.parent_for(caller, path)?;
        caller.act(|| rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR))?;
        // A directory of a binhost may have the name still, whose mode is that of the lower directory.
        self.searchable.forget();
        self.known.removed(number, path);
        Ok(())
    }

    /// Renames the file or directory `number` from `from` to `to`. The caller holds the guard of
    /// [`LowerDirectory::names_move`](super::LowerDirectory::names_move).
    ///
    /// # Errors
    /// Those of renameat2(2).
    pub(crate) fn rename(
        &self,
        caller: Caller,
        number: u64,
        from: &Path,
        to: &Path,
        replace: Replace,
    ) -> Result<(), Errno> {
        let (from_parent, from_name) = self.lower.parent_for(caller, from)?;
        let (to_parent, to_name) = self.lower.parent_for(caller, to)?;
        let is_directory = stat_at(&from_parent, from_name)?.is_directory();
        let replaced = stat_at(&to_parent, to_name).ok();
        let flags = if replace == Replace::Yes { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        caller.act(|| rustix::fs::renameat_with(&from_parent, from_name, &to_parent, to_name, flags))?;
        if let Some(replaced) = replaced.filter(|replaced| replaced.number != number) {
            self.known.removed(replaced.number, to);
        }
        if is_directory {
            self.known.moved(from, to);
            self.searchable.forget();
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
        let (from_parent, from_name) = self.lower.parent_for(caller, from)?;
        let (to_parent, to_name) = self.lower.parent_for(caller, to)?;
        caller.act(|| rustix::fs::linkat(&from_parent, from_name, &to_parent, to_name, AtFlags::empty()))?;
        stat_at(&to_parent, to_name)
    }

    /// Makes a symbolic link, which is shown and never followed here.
    ///
    /// # Errors
    /// Those of symlinkat(2).
    pub(crate) fn symlink(&self, caller: Caller, target: &Path, path: &Path) -> Result<Stat, Errno> {
        let (parent, name) = self.lower.parent_for(caller, path)?;
        caller.act(|| rustix::fs::symlinkat(target, &parent, name))?;
        stat_at(&parent, name)
    }

    /// Checks whether the caller may remove `path`, rename it, or rename another file to it; `path`
    /// need not exist. For an operation on two names, both are checked before the first one
    /// changes.
    ///
    /// # Errors
    /// EACCES: the caller may not write to the directory. EPERM: the directory has the sticky bit,
    /// and the caller owns neither file nor directory.
    pub(crate) fn may_remove(&self, caller: Caller, path: &Path) -> Result<(), Errno> {
        let (parent, name) = caller.act(|| {
            let (parent, name) = self.lower.parent(path)?;
            rustix::fs::accessat(&parent, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?;
            Ok((parent, name))
        })?;
        let directory = stat_of(&parent)?;
        let sticky = Mode::from_raw_mode(directory.mode.into()).contains(Mode::SVTX);
        if !sticky || caller.uid == directory.uid {
            return Ok(());
        }
        match stat_at(&parent, name) {
            Ok(stat) if stat.uid != caller.uid && !caller.owns_all() => Err(Errno::PERM),
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        }
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
                std::io::copy(&mut WholeFile::new(from), &mut &file)?;
                let mtime = Some(Some((mtime, 0)));
                AttrChange { atime: mtime, mtime, ..AttrChange::default() }.apply_to(Caller::DAEMON, &file)?;
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

    /// Removes the copies that a crash has left under their temporary names.
    pub(super) fn remove_leftovers(&self) {
        // A file that cannot be listed or removed does no harm: the mount does not show it.
        let _ = self.lower.walk(&mut |path, name| {
            if name.kind == FileType::RegularFile
                && is_new_copy(path)
                && let Ok((directory, name)) = self.lower.parent(path)
            {
                let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
            }
            Walk::Go
        });
    }

    /// Opens a directory, so that its names can be made durable.
    ///
    /// # Errors
    /// Those of openat2(2).
    pub(crate) fn open_directory(&self, path: &Path) -> Result<File, Errno> {
        Ok(self.lower.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?.into())
    }
}

#[cfg(test)]
mod tests;
