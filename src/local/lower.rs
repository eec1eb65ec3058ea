//! System calls on the directory beneath the mount.
//!
//! Every path starts at one descriptor that was opened before anything was mounted on the
//! directory. The kernel resolves it with `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS` and
//! `RESOLVE_NO_XDEV`. So no call leaves that directory or its file system, whatever other users put
//! there. A symbolic link is shown and never followed here.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use super::caller::Caller;
use super::stat::Stat;

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_XDEV)
    .union(ResolveFlags::NO_MAGICLINKS);
/// The attempts at an openat2(2) that fails with EAGAIN. More failures in a row mean that somebody
/// causes them on purpose.
const ATTEMPTS: u32 = 64;
/// The longest path that one system call takes, in bytes, with the NUL at its end. Source:
/// linux/limits.h.
const PATH_MAX: usize = 4096;
/// The deepest directory that a walk enters. Loops are impossible, but very deep directories are
/// not.
const MAX_DEPTH: usize = 32;

/// A name in the lower directory or a directory in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub name: OsString,
    /// The type of the file; `Unknown` where the file system does not say.
    pub kind: FileType,
}

/// System calls below one descriptor. Paths are relative to it; an empty path is the directory
/// itself.
#[derive(Debug)]
pub(super) struct LowerCalls {
    root: OwnedFd,
}

impl LowerCalls {
    pub(super) fn at(root: OwnedFd) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Opens `path`. A path may be longer than PATH_MAX: a process reaches such a file from a
    /// working directory in the mount. Such a path is opened in several steps.
    pub(super) fn open_at(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let mut reached: Option<OwnedFd> = None;
        let mut rest = path;
        while let Some((head, tail)) = first_part(rest) {
            let start = reached.as_ref().unwrap_or(&self.root);
            reached = Some(Self::open_from(start, head, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?);
            rest = tail;
        }
        Self::open_from(reached.as_ref().unwrap_or(&self.root), rest, flags, mode)
    }

    fn open_from(start: &OwnedFd, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let mut left = ATTEMPTS;
        loop {
            match rustix::fs::openat2(start, path, flags | OFlags::CLOEXEC, mode, RESOLVE) {
                Err(Errno::INTR) => {}
                // A directory was moved meanwhile, and the kernel cannot tell whether the path is
                // still beneath; or a lease delays the open.
                Err(Errno::AGAIN) if left > 0 => {
                    left -= 1;
                    std::thread::yield_now();
                }
                other => return other,
            }
        }
    }

    /// The directory that contains `path`, and the last component of `path`.
    pub(super) fn parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        Ok((self.directory(path.parent().unwrap_or(Path::new("")))?, name))
    }

    /// Opens a directory with O_PATH, for calls that take a name in it.
    pub(super) fn directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open_at(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
    }

    /// The same with the caller's credentials: the caller needs the right to search all directories
    /// on the way.
    pub(super) fn parent_for<'a>(&self, caller: Caller, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), Errno> {
        caller.act(|| self.parent(path))
    }

    /// Checks access(2) of `path` with the caller's credentials.
    pub(super) fn access(&self, caller: Caller, path: &Path, access: Access) -> Result<(), Errno> {
        // EACCESS checks the effective ids, which are the caller's here, not the real ids of the
        // daemon.
        let flags = AtFlags::EACCESS | AtFlags::SYMLINK_NOFOLLOW;
        if path.as_os_str().is_empty() {
            return caller.act(|| rustix::fs::accessat(&self.root, ".", access, AtFlags::EACCESS));
        }
        caller.act(|| {
            let (parent, name) = self.parent(path)?;
            rustix::fs::accessat(&parent, name, access, flags)
        })
    }

    /// Opens the descriptor that serves all opens of the file `asked` at `path`. Each open's own
    /// rights are checked when it is opened, and by the kernel.
    pub(super) fn open_for_all(&self, path: &Path, asked: OwnedFd) -> Result<File, Errno> {
        let open = |flags| self.open_at(path, OFlags::RDWR | OFlags::NONBLOCK | flags, Mode::empty());
        // An append-only file (chattr +a) cannot be opened for writing in any other way.
        match open(OFlags::empty()).or_else(|_| open(OFlags::APPEND)) {
            Ok(both) if stat_of(&both)?.is_of(&stat_of(&asked)?) => Ok(both.into()),
            _ => Ok(asked.into()),
        }
    }

    pub(super) fn stat(&self, path: &Path) -> Result<Stat, Errno> {
        if path.as_os_str().is_empty() {
            return stat_of(&self.root);
        }
        let (parent, name) = self.parent(path)?;
        stat_at(&parent, name)
    }

    /// The names in a directory, without `.` and `..`.
    pub(super) fn list(&self, path: &Path) -> Result<Vec<Name>, Errno> {
        let directory = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let mut names = Vec::new();
        for entry in Dir::new(directory)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(Name { name: name.to_owned(), kind: entry.file_type() });
            }
        }
        Ok(names)
    }

    /// Calls `told` with every name below the directory, directories before their content, until
    /// `told` returns `Walk::Stop`. A directory that cannot be listed is skipped, and its error is
    /// returned in the end.
    ///
    /// # Errors
    /// The error of the first directory that exists and cannot be listed.
    pub(super) fn walk(&self, told: &mut dyn FnMut(&Path, &Name) -> Walk) -> Result<(), Errno> {
        let mut pending = vec![PathBuf::new()];
        let mut outcome = Ok(());
        while let Some(directory) = pending.pop() {
            let names = self.list(&directory).unwrap_or_else(|error| {
                if !is_nowhere(error) {
                    tracing::warn!(directory = %directory.display(), %error, "local packages cannot be listed");
                    outcome = outcome.and(Err(error));
                }
                Vec::new()
            });
            for mut name in names {
                let path = directory.join(&name.name);
                if name.kind == FileType::Unknown {
                    name.kind = self.stat(&path).map_or(FileType::Unknown, |stat| stat.kind);
                }
                if told(&path, &name) == Walk::Stop {
                    return outcome;
                }
                if name.kind == FileType::Directory && path.components().count() < MAX_DEPTH {
                    pending.push(path);
                }
            }
        }
        outcome
    }

    /// Opens a file for reading, without waiting for a lease or a FIFO.
    pub(super) fn read(&self, path: &Path) -> Result<File, Errno> {
        Ok(self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?.into())
    }
}

/// Splits a path that is too long for one system call, after as many names as fit.
fn first_part(path: &Path) -> Option<(&Path, &Path)> {
    let bytes = path.as_os_str().as_bytes();
    let at = bytes.get(..PATH_MAX)?.iter().rposition(|byte| *byte == b'/')?;
    let (head, tail) = (bytes.get(..at)?, bytes.get(at + 1..)?);
    Some((Path::new(OsStr::from_bytes(head)), Path::new(OsStr::from_bytes(tail))))
}

/// Whether the error means that no file of the lower directory is there. The file is gone, or is on
/// another file system.
pub(super) fn is_nowhere(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV)
}

/// Whether a walk continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walk {
    Go,
    Stop,
}

pub(super) fn stat_at(directory: impl AsFd, name: &OsStr) -> Result<Stat, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    Ok(rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?.into())
}

/// The inode generation of `file` ([`Stat::generation`]); 0 where the file system has no birth
/// time.
#[must_use]
pub(crate) fn generation_of(file: &File) -> u64 {
    stat_of(file).map_or(0, |stat| stat.generation)
}

/// Attributes of an open file.
///
/// # Errors
/// Those of statx(2).
pub(crate) fn stat_of(file: impl AsFd) -> Result<Stat, Errno> {
    Ok(rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    /// F_SETSIG, for which the crate has no name. Source: fcntl(2), asm-generic/fcntl.h.
    const F_SETSIG: libc::c_int = 10;

    /// A process that holds a lease on a file can delay every open of it for 45 s.
    #[test]
    fn what_stays_in_the_way_is_told() {
        let place = tempfile::tempdir().unwrap();
        let held = File::create(place.path().join("held")).unwrap();
        let lower = LowerCalls::at(File::open(place.path()).unwrap().into());
        // SAFETY: the calls set how this process is notified about this file; nothing handles the
        // signal.
        let leased = unsafe {
            libc::fcntl(held.as_raw_fd(), F_SETSIG, libc::SIGURG);
            libc::fcntl(held.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK)
        };
        if leased != 0 {
            eprintln!("skipped: no leases on this file system");
            return;
        }
        assert_eq!(lower.read(Path::new("held")).unwrap_err(), Errno::AGAIN);
    }
}
