//! The lower directory, beneath the mount: local packages and their part of `Packages`.
//!
//! | file | job |
//! |---|---|
//! | `lower` | system calls beneath one descriptor, opened before mounting |
//! | `stat` | attributes, and the numbers that files are known by |
//! | `inode_table` | number -> paths, for what the kernel remembers |
//! | `caller` | doing something as whoever asked |
//! | `assumed_credentials` | the rights of somebody else, for one operation |
//! | `permission_cache` | directories that everybody may search, for a second |
//! | `operations` | what can be done with files and directories |
//! | `sticky` | whether a name may be taken away |
//! | `scan` | all files of the lower directory at one moment |
//! | `unlisted` | the entry of a package that nobody indexed |
//! | `local_index` | `Packages` and `Packages.gz` of the local packages alone |
//!
//! * What is beneath is an ordinary PKGDIR at any time: `Packages` there names the local packages and nothing else, and is
//!   replaced whole (written beside its name, made durable, renamed). A full disk or a crash leaves the one before.
//! * An entry counts only while there is a file that has its SIZE and MTIME; a package file without one is picked up
//!   with its own metadata.
//! * A file's number is made from its inode beneath and a directory's from its path, so both are the same after a restart and
//!   can be found again ([`LowerDirectory::locate`]). Directories are not renamed: EXDEV, as overlayfs has it, and `mv` copies.
//! * Locks (fcntl, flock) are the kernel's own business: the file system takes part in none, so that they hold between all who
//!   see the same mount, in whatever namespace.
//!
//! Not its job: what is remote, what Portage is shown.

mod assumed_credentials;
mod caller;
mod inode_table;
mod local_index;
mod lower;
mod operations;
mod permission_cache;
mod scan;
mod stat;
mod sticky;
mod unlisted;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::Mode;
pub use rustix::fs::{Access, FileType, OFlags};
pub use rustix::io::Errno;

pub use caller::{Caller, sees_callers};
use inode_table::InodeTable;
pub use local_index::{COMPRESSED, NoPackages, Prepared, is_own};
use lower::{LowerCalls, Walk};
pub use lower::{Name, generation_of};
pub use operations::{AttrChange, Replace};
use permission_cache::Searchable;
pub use scan::LocalScan;
pub use stat::{Stat, Time, is_number};
pub use unlisted::is_package;

/// Name of the index in PKGDIR.
pub const INDEX: &str = "Packages";

/// A directory, for [`LowerDirectory::resume`].
///
/// # Errors
/// It cannot be opened.
pub fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Device and inode.
///
/// # Errors
/// Of fstat(2).
pub fn identity(directory: impl AsFd) -> Result<(u64, u64), Errno> {
    let stat = rustix::fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// See the module's documentation. Paths are relative to the directory, and empty for itself.
#[derive(Debug)]
pub struct LowerDirectory {
    lower: LowerCalls,
    known: InodeTable,
    searchable: Searchable,
    /// Nothing is written, not even an index.
    read_only: bool,
}

impl LowerDirectory {
    /// The directory at `path`, on which nothing is mounted yet.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, Errno> {
        Ok(Self::resume(open_directory(path)?, read_only))
    }

    /// The directory that `directory` is, whatever is mounted on it.
    #[must_use]
    pub fn resume(directory: OwnedFd, read_only: bool) -> Self {
        let layer = Self {
            lower: LowerCalls::at(directory),
            known: InodeTable::default(),
            searchable: Searchable::default(),
            read_only,
        };
        if !read_only {
            layer.remove_leftovers();
        }
        layer
    }

    /// For a later daemon to go on with.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn descriptor(&self) -> std::io::Result<OwnedFd> {
        self.lower.root().try_clone()
    }

    /// Device and inode of the directory.
    ///
    /// # Errors
    /// Of fstat(2).
    pub fn identity(&self) -> Result<(u64, u64), Errno> {
        identity(self.lower.root())
    }

    /// Whether nothing is ever written.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether everybody may search and list a directory; where there is none, the topmost one counts. What was seen holds for a
    /// second, unless it is changed through this.
    #[must_use]
    pub fn is_open_to_all(&self, directory: &Path) -> bool {
        if self.searchable.has(directory) {
            return true;
        }
        let seen = Instant::now();
        let stat = self.stat(directory).or_else(|_| self.stat(Path::new("")));
        let open = stat.is_ok_and(|stat| stat.is_directory() && stat.mode & 0o555 == 0o555);
        if open {
            self.searchable.add(directory, seen);
        }
        open
    }

    /// The kernel was told that `path` is `number`.
    pub fn note_lookup(&self, number: u64, path: &Path) {
        self.known.note_lookup(number, path);
    }

    /// The kernel has forgotten `lookups` of what it was told of `number`.
    pub fn forget(&self, number: u64, lookups: u64) {
        self.known.forget(number, lookups);
    }

    /// Where the file or directory is that the kernel knows as `number`. `is_it` says whether a path and what is there are the
    /// one. What this daemon has not told the kernel, a predecessor may have: it is looked for everywhere, once.
    #[must_use]
    pub fn locate(&self, number: u64, is_it: impl Fn(&Path, &Stat) -> bool) -> Option<(PathBuf, Stat)> {
        let there = |path: PathBuf| {
            // The indexes have other numbers, and no descriptor of anybody's leads to them.
            let stat = self.stat(&path).ok().filter(|stat| !is_own(&path) && is_it(&path, stat))?;
            Some((path, stat))
        };
        if let Some(found) = self.known.paths(number).into_iter().find_map(there) {
            return Some(found);
        }
        if self.known.knows(number) {
            return None;
        }
        let mut found = None;
        // What cannot be listed is not where it is found.
        let _ = self.lower.walk(&mut |path, _| {
            found = there(path.to_owned());
            if found.is_some() { Walk::Stop } else { Walk::Go }
        });
        if let Some((path, _)) = &found {
            self.known.found(number, path);
        }
        found
    }
}
