//! The lower directory, beneath the mount: local packages and their part of `Packages`.
//!
//! | file | job |
//! |---|---|
//! | `lower` | system calls beneath one descriptor, opened before mounting |
//! | `stat` | attributes and inode numbers |
//! | `inode_table` | inode number -> paths, for the inodes that the kernel remembers |
//! | `caller` | runs an operation with the caller's credentials |
//! | `permission_cache` | directories that all users may search, for a second |
//! | `own_names` | names that are binhostfs's own |
//! | `operations` | operations on files and directories |
//! | `attr_change` | changes of their attributes |
//! | `public` | files that everybody may read, for other machines |
//! | `names` | changes of names: create, link, rename, remove |
//! | `held_files` | packages that are held back, under another name |
//! | `scan` | all files of the lower directory at one moment |
//! | `unlisted` | the entry of a package that no index has |
//! | `local_index` | `Packages` and `Packages.gz` of the local packages alone |
//!
//! * The lower directory is an ordinary PKGDIR at any time. Its `Packages` names the local packages
//!   and nothing else. The file is replaced as a whole: written under another name, made durable,
//!   renamed. After a full disk or a crash, the file before is still there.
//! * An entry counts only while a file with its SIZE and MTIME exists. A package file without an
//!   entry gets one from its own metadata.
//! * The inode number of a file or directory is made from its inode in the lower directory. It is
//!   the same after a rename and after a restart, and can be found again
//!   ([`LowerDirectory::locate`]). A directory that the binhosts have as well shows the number of
//!   its path instead. Renaming such a directory fails with EXDEV, as on overlayfs.
//! * Renaming a directory changes the paths of all that is below it. An operation that finds the
//!   path of an inode and then uses it holds the guard of [`LowerDirectory::names_stay`] meanwhile.
//! * The kernel alone handles locks (fcntl, flock). The filesystem implements none, so that locks
//!   hold between all processes that use the same mount, in any namespace.
//!
//! Not its job: remote packages, and the content of the published tree.

mod attr_change;
mod caller;
mod held_files;
mod inode_table;
mod local_index;
mod lower;
mod names;
mod operations;
mod own_names;
mod permission_cache;
mod public;
mod scan;
mod stat;
mod unlisted;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use rustix::fs::Mode;
pub(crate) use rustix::fs::{Access, FileType, OFlags};
pub(crate) use rustix::io::Errno;

pub(crate) use attr_change::AttrChange;
pub(crate) use caller::{Caller, sees_callers};
use held_files::HeldFiles;
use inode_table::InodeTable;
use local_index::LocalIndex;
pub(crate) use local_index::NoPackages;
use lower::{LowerCalls, Walk};
pub(crate) use lower::{Name, generation_of, stat_of};
use names::LowerNames;
pub(crate) use names::Replace;
pub(crate) use own_names::{COMPRESSED, is_own};
use permission_cache::Searchable;
pub(crate) use public::{open_for_everybody, stat_for_everybody};
pub(crate) use scan::LocalScan;
pub(crate) use stat::{Stat, Time, is_number};
pub(crate) use unlisted::is_package;

/// The file name of the index in PKGDIR.
pub(crate) const INDEX: &str = "Packages";

/// Opens a directory, for [`LowerDirectory::resume`].
///
/// # Errors
/// The directory cannot be opened.
pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Device and inode number of a directory.
///
/// # Errors
/// Those of fstat(2).
pub(crate) fn identity(directory: impl AsFd) -> Result<(u64, u64), Errno> {
    let stat = rustix::fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The lower directory. Paths are relative to it; an empty path is the directory itself.
#[derive(Debug)]
pub(crate) struct LowerDirectory {
    lower: Arc<LowerCalls>,
    known: Arc<InodeTable>,
    searchable: Arc<Searchable>,
    names: LowerNames,
    index: LocalIndex,
    /// Locked for writing while a file or directory is renamed.
    renaming: RwLock<()>,
    /// Whether nothing may be written, not even an index.
    read_only: bool,
}

impl LowerDirectory {
    /// Opens the directory at `path`, before anything is mounted on it.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub(crate) fn open(path: &Path, read_only: bool) -> Result<Self, Errno> {
        Ok(Self::resume(open_directory(path)?, read_only))
    }

    /// Uses an open directory, whatever is mounted on its path. Removes temporary files that a
    /// crash has left.
    #[must_use]
    pub(crate) fn resume(directory: OwnedFd, read_only: bool) -> Self {
        let lower = Arc::new(LowerCalls::at(directory));
        let (known, searchable) = (Arc::<InodeTable>::default(), Arc::<Searchable>::default());
        let names =
            LowerNames { lower: Arc::clone(&lower), known: Arc::clone(&known), searchable: Arc::clone(&searchable) };
        let index = LocalIndex { lower: Arc::clone(&lower), read_only };
        if !read_only {
            index.discard();
            names.remove_leftovers();
        }
        Self { lower, known, searchable, names, index, renaming: RwLock::new(()), read_only }
    }

    /// The names in the directory.
    #[must_use]
    pub(crate) fn names(&self) -> &LowerNames {
        &self.names
    }

    /// The packages that are held back.
    #[must_use]
    pub(crate) fn held(&self) -> HeldFiles<'_> {
        HeldFiles(self)
    }

    /// The indexes in the directory.
    #[must_use]
    pub(crate) fn index(&self) -> &LocalIndex {
        &self.index
    }

    /// While the returned guard is held, nothing is renamed through the mount, and the path of an
    /// inode stays the same.
    ///
    /// A thread holds one guard at most. A rename waits for all guards, and all later guards wait
    /// for the rename. So the holder waits for nothing that may take long: not for the state of the
    /// published tree, the cache or the downloads.
    pub(crate) fn names_stay(&self) -> RwLockReadGuard<'_, ()> {
        self.renaming.read()
    }

    /// The guard of an operation that renames.
    pub(crate) fn names_move(&self) -> RwLockWriteGuard<'_, ()> {
        self.renaming.write()
    }

    /// A copy of the descriptor, for the next daemon of a handover.
    ///
    /// # Errors
    /// There are too many open files.
    pub(crate) fn descriptor(&self) -> std::io::Result<OwnedFd> {
        self.lower.root().try_clone()
    }

    /// Device and inode number of the directory.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub(crate) fn identity(&self) -> Result<(u64, u64), Errno> {
        identity(self.lower.root())
    }

    #[must_use]
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether all users may search and list `directory`; where it does not exist, the mode of the
    /// lower directory decides. The answer is cached for a second, or until a change through this
    /// type.
    #[must_use]
    pub(crate) fn is_open_to_all(&self, directory: &Path) -> bool {
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

    /// The kernel has looked up `path` as `number`.
    pub(crate) fn note_lookup(&self, number: u64, path: &Path) {
        self.known.note_lookup(number, path);
    }

    /// The kernel has forgotten `lookups` of its lookups of `number`.
    pub(crate) fn forget(&self, number: u64, lookups: u64) {
        self.known.forget(number, lookups);
    }

    /// Finds the file or directory that the kernel knows as `number`. `is_it` says whether a path
    /// and its attributes belong to it. An inode that this daemon has not looked up may be one that
    /// the kernel has from a previous daemon. One walk of the whole directory looks for it.
    #[must_use]
    pub(crate) fn locate(&self, number: u64, is_it: impl Fn(&Path, &Stat) -> bool) -> Option<(PathBuf, Stat)> {
        let there = |path: PathBuf| {
            // The indexes have other inode numbers, and no open descriptor refers to the files
            // here.
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
        // An error of the walk means no more than that the file is not found in that directory.
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
