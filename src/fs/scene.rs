//! Test: the filesystem without FUSE, with a binhost and a lower directory that the test fills.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::attr::Attr;
use super::{Filesystem, FsError, PublishedTree};
use crate::config::{OnMismatch, Prefetch};
use crate::fetch::{Fetcher, sample};
use crate::index::{BinhostId, Index, View};
use crate::local::{Caller, LowerDirectory};
use crate::tree::{Inode, Tree};

const BINHOST: BinhostId = BinhostId(3);
/// A user without rights.
const NOBODY: u32 = 65534;

/// Path and size of a package.
pub(super) type ScenePackage<'a> = (&'a str, u64);

/// A filesystem with one binhost. No package is cached, and none can be fetched.
pub(super) struct FsScene {
    pub(super) filesystem: Filesystem,
    generation: u64,
    pub(super) runtime: Runtime,
    place: TempDir,
}

impl FsScene {
    /// A filesystem with an empty lower directory.
    pub(super) fn new<'a>(packages: impl IntoIterator<Item = ScenePackage<'a>>) -> Self {
        Self::of(tree_of(1, packages), false, |cache| sample::fetcher(cache, BINHOST, OnMismatch::Off))
    }

    /// The same where nothing may be written.
    pub(super) fn read_only<'a>(packages: impl IntoIterator<Item = ScenePackage<'a>>) -> Self {
        Self::of(tree_of(1, packages), true, |cache| sample::fetcher(cache, BINHOST, OnMismatch::Off))
    }

    /// A filesystem with this tree, and the fetcher that `fetcher` makes inside the runtime, with a
    /// directory for its cache.
    pub(super) fn of(tree: Arc<Tree>, read_only: bool, fetcher: impl FnOnce(&std::path::Path) -> Arc<Fetcher>) -> Self {
        // Not TMPDIR: other users may be unable to search a directory above it.
        let place = TempDir::new_in("/tmp").unwrap();
        for directory in ["", "pkgdir", "scratch", "cache"] {
            let path = place.path().join(directory);
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        let layer = Arc::new(LowerDirectory::open(&place.path().join("pkgdir"), read_only).unwrap());
        let front = PublishedTree::new(tree, layer, place.path().join("scratch")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let inside = runtime.enter();
        let fetcher = fetcher(&place.path().join("cache"));
        let filesystem = Filesystem::new(Arc::new(front), fetcher, Prefetch::Off, Duration::ZERO);
        drop(inside);
        Self { filesystem, generation: 1, runtime, place }
    }

    /// Publishes another generation.
    pub(super) fn publish<'a>(&mut self, packages: impl IntoIterator<Item = ScenePackage<'a>>) {
        self.generation += 1;
        self.filesystem.names().front().publish(tree_of(self.generation, packages)).unwrap();
    }

    /// A path in the lower directory.
    pub(super) fn lower(&self, path: &str) -> PathBuf {
        self.place.path().join("pkgdir").join(path)
    }

    /// Puts a local file beneath the mount, with its directories.
    pub(super) fn put(&self, path: &str, text: &str) {
        let file = self.lower(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    pub(super) fn permit(&self, path: &str, mode: u32) {
        fs::set_permissions(self.lower(path), Permissions::from_mode(mode)).unwrap();
    }

    /// Looks a path up, name by name.
    pub(super) fn lookup(&self, path: &str) -> Result<Attr, FsError> {
        let mut found = self.filesystem.names().attributes(Inode::ROOT)?.0;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            found = self.filesystem.names().lookup(Caller::DAEMON, found.inode, OsStr::new(name))?.0;
        }
        Ok(found)
    }

    /// The inode number of a path.
    pub(super) fn inode(&self, path: &str) -> Inode {
        self.lookup(path).unwrap_or_else(|error| panic!("{path}: {error}")).inode
    }

    /// The directory of a path, and the name in it.
    pub(super) fn split<'a>(&self, path: &'a str) -> (Inode, &'a OsStr) {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.inode(directory), OsStr::new(name))
    }
}

/// A caller without rights. `None`: only root can act for others.
pub(super) fn nobody() -> Option<Caller> {
    rustix::process::geteuid().is_root().then(|| Caller::of_thread(std::process::id(), (NOBODY, NOBODY)))
}

/// The result of an operation, with the errno of a failure.
pub(super) fn errno<T>(done: Result<T, FsError>) -> Result<(), i32> {
    done.map(drop).map_err(|error| error.errno())
}

/// The tree of a generation with these packages.
pub(super) fn tree_of<'a>(generation: u64, packages: impl IntoIterator<Item = ScenePackage<'a>>) -> Arc<Tree> {
    let mut text = "TIMESTAMP: 1000\nVERSION: 0\n\n".to_owned();
    for (path, size) in packages {
        let name = path.trim_end_matches(".xpak").replace('/', "_");
        text += &format!("CPV: c/{name}-1\nMD5: {size:032x}\nMTIME: 7\nPATH: {path}\nSIZE: {size}\n\n");
    }
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let view = View::whole(BINHOST, Arc::new(Index::parse(file).unwrap()));
    Arc::new(Tree::of_view(generation, Arc::new(view)))
}
