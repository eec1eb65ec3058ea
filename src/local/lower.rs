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

use super::stat::Stat;

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_XDEV)
    .union(ResolveFlags::NO_MAGICLINKS);
/// How often what the kernel could not find out is asked for again: more often somebody sees to it that it cannot.
const ATTEMPTS: u32 = 64;
/// Deepest directory that is listed when everything is: a loop cannot be, but a very deep one could.
const MAX_DEPTH: usize = 32;

/// A name in a directory beneath.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub name: OsString,
    /// What it is.
    pub kind: FileType,
}

/// See the module's documentation. Paths are relative, and empty for the directory itself.
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

    pub(super) fn open_at(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let mut left = ATTEMPTS;
        loop {
            match rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, mode, RESOLVE) {
                Err(Errno::INTR) => {}
                // A directory was moved meanwhile, and whether it is still beneath is not known; or a lease is in the way.
                Err(Errno::AGAIN) if left > 0 => {
                    left -= 1;
                    std::thread::yield_now();
                }
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
                names.push(Name { name: name.to_owned(), kind: entry.file_type() });
            }
        }
        Ok(names)
    }

    /// Tells `told` of everything beneath, directories before what is in them, until it says so. What cannot be listed is
    /// passed over, and told of in the end.
    ///
    /// # Errors
    /// That of the first directory that is there and cannot be listed.
    pub(super) fn walk(&self, told: &mut dyn FnMut(&Path, &Name) -> Walk) -> Result<(), Errno> {
        let mut pending = vec![PathBuf::new()];
        let mut outcome = Ok(());
        while let Some(directory) = pending.pop() {
            let names = self.list(&directory).unwrap_or_else(|error| {
                if !is_nowhere(error) {
                    tracing::warn!(directory = %directory.display(), %error, "listing local packages");
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

    /// A file for reading.
    pub(super) fn read(&self, path: &Path) -> Result<File, Errno> {
        Ok(self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?.into())
    }
}

/// Whether it says that nothing of ours is there: gone meanwhile, another file system, or deeper than any path can say.
pub(super) fn is_nowhere(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG)
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    /// The crate has no name for it. Source: fcntl(2), asm-generic/fcntl.h.
    const F_SETSIG: libc::c_int = 10;

    /// Somebody who holds a lease makes every open fail for 45 s.
    #[test]
    fn what_stays_in_the_way_is_told() {
        let place = tempfile::tempdir().unwrap();
        let held = File::create(place.path().join("held")).unwrap();
        let lower = LowerCalls::at(File::open(place.path()).unwrap().into());
        // SAFETY: they change what is told of this file, and to whom; nobody minds this signal.
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
