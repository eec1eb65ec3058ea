//! System calls on the directory beneath the mount.
//!
//! Everything is reached from one descriptor that was opened before anything was mounted on it, component by component as the
//! kernel does it with `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS` and `RESOLVE_NO_XDEV`: whatever stands there, nothing else
//! than that file system below that directory is touched. A symbolic link is shown and never followed here.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use super::stat::{Stat, number_of};

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_XDEV)
    .union(ResolveFlags::NO_MAGICLINKS);
/// Deepest directory that is listed when everything is: a loop cannot be, but a very deep one could.
const MAX_DEPTH: usize = 32;
/// How often to look once more for what is being moved.
const MAX_TRIES: usize = 64;

/// A name in a directory beneath.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub name: OsString,
    /// See [`Stat::number`].
    pub number: u64,
    /// What it is.
    pub kind: FileType,
}

/// See the module's documentation. Paths are relative, and empty for the directory itself.
#[derive(Debug)]
pub(super) struct Lower {
    root: OwnedFd,
}

impl Lower {
    pub(super) fn at(root: OwnedFd) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    pub(super) fn open_at(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, mode, RESOLVE) {
                Err(Errno::INTR) => {}
                // A directory was moved meanwhile, and whether it is still beneath is not known. Or somebody has a lease.
                Err(Errno::AGAIN) if tries < MAX_TRIES => tries += 1,
                other => return other,
            }
        }
    }

    /// The directory that `path` is in, and its name there.
    pub(super) fn parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        Ok((self.directory(path.parent().unwrap_or(Path::new("")))?, name))
    }

    /// A directory, to name things in it.
    pub(super) fn directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open_at(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
    }

    pub(super) fn stat(&self, path: &Path) -> Result<Stat, Errno> {
        if path.as_os_str().is_empty() {
            return stat_of(&self.root);
        }
        let (parent, name) = self.parent(path)?;
        stat_at(&parent, name)
    }

    /// The names in a directory, but for `.` and `..`.
    pub(super) fn list(&self, path: &Path) -> Result<Vec<Name>, Errno> {
        let directory = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let mut names = Vec::new();
        for entry in Dir::new(directory)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                let (name, number) = (name.to_owned(), number_of(entry.ino()));
                names.push(Name { name, number, kind: entry.file_type() });
            }
        }
        Ok(names)
    }

    /// Tells `told` of everything beneath, directories before what is in them, until it says so. What cannot be listed is
    /// passed over.
    ///
    /// # Errors
    /// Why something that is there could not be listed; all else was told.
    pub(super) fn walk(&self, told: &mut dyn FnMut(&Path, &Name) -> Walk) -> Result<(), Errno> {
        let mut pending = vec![PathBuf::new()];
        let mut failed = Ok(());
        while let Some(directory) = pending.pop() {
            let names = self.list(&directory).unwrap_or_else(|error| {
                // Gone meanwhile, a mountpoint, nothing that we may look into, or that an index could name.
                if !matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::ACCESS | Errno::NAMETOOLONG) {
                    tracing::warn!(directory = %directory.display(), %error, "listing local packages");
                    failed = Err(error);
                }
                Vec::new()
            });
            for mut name in names {
                let path = directory.join(&name.name);
                if name.kind == FileType::Unknown {
                    name.kind = self.stat(&path).map_or(FileType::Unknown, |stat| stat.kind);
                }
                if told(&path, &name) == Walk::Stop {
                    return failed;
                }
                if name.kind == FileType::Directory && path.components().count() < MAX_DEPTH {
                    pending.push(path);
                }
            }
        }
        failed
    }

    /// A file for reading.
    pub(super) fn read(&self, path: &Path) -> Result<File, Errno> {
        Ok(self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?.into())
    }
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walk {
    Go,
    Stop,
}

pub(super) fn stat_at(directory: impl AsFd, name: &OsStr) -> Result<Stat, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    Ok(rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?.into())
}

/// See [`Stat::generation`]; 0 where the file system does not know.
#[must_use]
pub fn generation_of(file: &File) -> u64 {
    stat_of(file).map_or(0, |stat| stat.generation)
}

/// Attributes of an open file.
pub(super) fn stat_of(file: impl AsFd) -> Result<Stat, Errno> {
    Ok(rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?.into())
}
