//! The filesystem that `fuse` serves: its names, its changes, and the opens of its files.

use std::sync::Arc;
use std::time::Duration;

use super::modify::Modifier;
use super::namespace::{InodeTarget, Namespace};
use super::{FsError, PublishedTree};
use crate::config::Prefetch;
use crate::fetch::{Absence, Fetcher, Lookup, PackageRef, PlanPrefetch};
use crate::local::{Caller, LowerDirectory, OFlags};
use crate::tree::{Attributes, FileContent, Inode, Node, Tree};

/// Outcome of an open.
#[derive(Debug)]
pub(crate) enum OpenOutcome {
    /// The open can be answered at once.
    Ready(FileContent, Attributes),
    /// The blob is cached, but the caller may follow a merge plan that must be checked first.
    Check(Box<PackageRef>, Attributes),
    /// The package must be fetched, or compared with its entry, first.
    Wait(Box<PackageRef>, Option<Absence>, Attributes),
}

/// Outcome of reopening an inode that an earlier daemon had open.
#[derive(Debug)]
pub(crate) enum Reopening {
    /// The content is available.
    Ready(FileContent),
    /// The package must be fetched first.
    Wait(Box<PackageRef>),
}

/// The published tree, and the fetcher that supplies its packages.
#[derive(Debug, Clone)]
pub(crate) struct Filesystem {
    modifier: Modifier,
    fetcher: Arc<Fetcher>,
    ahead: Arc<PlanPrefetch>,
}

impl Filesystem {
    /// Operations on the published tree `front`. The caller must be inside a tokio runtime.
    #[must_use]
    pub(crate) fn new(
        front: Arc<PublishedTree>,
        fetcher: Arc<Fetcher>,
        prefetch: Prefetch,
        plan_check: Duration,
    ) -> Self {
        let ahead = Arc::new(PlanPrefetch::new(Arc::clone(&fetcher), prefetch, plan_check));
        let modifier = Modifier::new(Namespace::new(front), Arc::clone(&fetcher));
        Self { modifier, fetcher, ahead }
    }

    pub(crate) fn fetcher(&self) -> &Arc<Fetcher> {
        &self.fetcher
    }

    pub(crate) fn ahead(&self) -> &PlanPrefetch {
        &self.ahead
    }

    /// Lookups, attributes and listings.
    pub(crate) fn names(&self) -> &Namespace {
        self.modifier.names()
    }

    /// Operations that change something.
    pub(crate) fn modifier(&self) -> &Modifier {
        &self.modifier
    }

    pub(crate) fn layer(&self) -> &LowerDirectory {
        self.names().layer()
    }

    /// Opens a remote file for reading. `tid` is the thread that opens it, or `None` if the daemon
    /// reopens it itself.
    pub(crate) fn open(&self, tree: &Arc<Tree>, node: Node, tid: Option<u32>) -> Result<OpenOutcome, FsError> {
        let attributes = tree.attributes(node).ok_or(FsError::Stale)?;
        match node {
            Node::Directory(_) => Err(FsError::IsADirectory),
            Node::Packages => Ok(OpenOutcome::Ready(tree.packages().content.clone(), attributes)),
            Node::Package(at) => {
                let wanted = self.wanted(tree, at)?;
                self.ahead.opened(&wanted);
                tid.into_iter().for_each(|tid| self.fetcher.opened_by(&wanted, tid));
                let unchecked = tid.is_some_and(|tid| self.ahead.is_unchecked(&wanted, tid));
                Ok(match self.fetcher.look_up(&wanted) {
                    Lookup::Ready(blob) if !unchecked => OpenOutcome::Ready(blob.file().into(), attributes),
                    Lookup::Ready(_) => OpenOutcome::Check(Box::new(wanted), attributes),
                    Lookup::Unchecked => OpenOutcome::Wait(Box::new(wanted), None, attributes),
                    Lookup::Absent(absence) => OpenOutcome::Wait(Box::new(wanted), Some(absence), attributes),
                })
            }
        }
    }

    /// The package of the row `at` of a tree, to be fetched.
    pub(crate) fn wanted(&self, tree: &Arc<Tree>, at: u32) -> Result<PackageRef, FsError> {
        self.fetcher.wanted(tree.view(), at).ok_or(FsError::Stale)
    }

    /// Finds the file of an inode that an earlier daemon had open. `generation` is the inode
    /// generation of a local file. Fails if the file's last name is gone, or if its index is no
    /// longer made. The caller does not hold the guard of [`LowerDirectory::names_stay`].
    pub(crate) fn reopen(&self, inode: Inode, generation: Option<u64>) -> Result<Reopening, FsError> {
        let steady = self.layer().names_stay();
        match self.names().place(inode)? {
            // The number now belongs to another file.
            InodeTarget::Local(_, stat) if generation != Some(stat.generation) => Err(FsError::Stale),
            InodeTarget::Local(path, stat) => {
                let file = self.layer().open_file(Caller::DAEMON, &path, &stat, OFlags::RDONLY)?;
                Ok(Reopening::Ready(Arc::new(file).into()))
            }
            InodeTarget::Compressed(file, _) => Ok(Reopening::Ready(file.into())),
            InodeTarget::Directory(_) => Err(FsError::IsADirectory),
            InodeTarget::Remote(tree, node) => {
                // Nothing renames it, and the cache has locks of its own.
                drop(steady);
                Ok(match self.open(&tree, node, None)? {
                    OpenOutcome::Ready(content, _) => Reopening::Ready(content),
                    OpenOutcome::Check(wanted, _) | OpenOutcome::Wait(wanted, ..) => Reopening::Wait(wanted),
                })
            }
        }
    }

    /// The current tree.
    pub(crate) fn tree(&self) -> Arc<Tree> {
        self.names().front().snapshots().current()
    }

    /// Bytes of all packages of the current tree, and their number.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let tree = self.names().front().snapshots().current();
        let view = tree.view();
        let sizes = (0..view.len() as u32).filter_map(|row| view.record(row)).map(|record| record.size);
        (sizes.fold(0, u64::saturating_add), view.len() as u64)
    }
}
