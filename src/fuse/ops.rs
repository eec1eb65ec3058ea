//! The operations, without FUSE.

use std::fs::File;
use std::sync::Arc;

use super::FsError;
use crate::config::Prefetch;
use crate::fetch::{Ahead, Fetcher, Wanted};
use crate::tree::{Age, Attributes, Inode, Node, Snapshots, Tree};

/// What an open leads to.
#[derive(Debug)]
pub(super) enum Opening {
    /// It can be answered at once.
    Ready(Arc<File>, Attributes),
    /// The package has to be fetched first.
    Wait(Box<Wanted>, Attributes),
}

/// What the mount shows, and where packages come from.
#[derive(Debug, Clone)]
pub struct Operations {
    snapshots: Arc<Snapshots>,
    fetcher: Arc<Fetcher>,
    ahead: Arc<Ahead>,
}

impl Operations {
    /// Operations on the current and earlier trees of `snapshots`. To be called inside a tokio runtime.
    #[must_use]
    pub fn new(snapshots: Arc<Snapshots>, fetcher: Arc<Fetcher>, prefetch: Prefetch) -> Self {
        let ahead = Arc::new(Ahead::new(Arc::clone(&fetcher), prefetch));
        Self { snapshots, fetcher, ahead }
    }

    pub(super) fn fetcher(&self) -> &Arc<Fetcher> {
        &self.fetcher
    }

    pub(super) fn ahead(&self) -> &Ahead {
        &self.ahead
    }

    pub(super) fn lookup(&self, parent: Inode, name: &str) -> Result<(Attributes, Age), FsError> {
        self.snapshots.lookup(parent, name).ok_or(FsError::NotFound)
    }

    pub(super) fn attributes(&self, inode: Inode) -> Result<Attributes, FsError> {
        let (tree, node) = self.find(inode)?;
        tree.attributes(node).ok_or(FsError::Stale)
    }

    /// The newest tree that has a directory.
    pub(super) fn directory(&self, inode: Inode) -> Result<(Arc<Tree>, Age), FsError> {
        match self.find(inode)? {
            (tree, Node::Directory(_)) => {
                let current = Arc::ptr_eq(&tree, &self.snapshots.current());
                Ok((tree, if current { Age::Current } else { Age::Earlier }))
            }
            _ => Err(FsError::NotADirectory),
        }
    }

    /// `tid`: the thread that opens; none: nobody does.
    pub(super) fn open(&self, inode: Inode, tid: Option<u32>) -> Result<Opening, FsError> {
        let (tree, node) = self.find(inode)?;
        let attributes = tree.attributes(node).ok_or(FsError::Stale)?;
        match node {
            Node::Directory(_) => Err(FsError::IsADirectory),
            Node::Packages => Ok(Opening::Ready(Arc::clone(&tree.packages().file), attributes)),
            Node::Package(at) => {
                let wanted = self.fetcher.wanted(tree.view(), at).ok_or(FsError::Stale)?;
                self.ahead.opened(&wanted);
                tid.into_iter().for_each(|tid| self.fetcher.opened_by(&wanted, tid));
                Ok(match self.fetcher.cached(&wanted) {
                    Some(body) => Opening::Ready(Arc::clone(body.file()), attributes),
                    None => Opening::Wait(Box::new(wanted), attributes),
                })
            }
        }
    }

    /// Bytes of all packages of the current tree, and how many there are.
    pub(super) fn totals(&self) -> (u64, u64) {
        let tree = self.snapshots.current();
        let view = tree.view();
        let sizes = (0..view.len() as u32).filter_map(|row| view.record(row)).map(|record| record.size);
        (sizes.fold(0, u64::saturating_add), view.len() as u64)
    }

    /// What is shown.
    pub(super) fn tree(&self) -> Arc<Tree> {
        self.snapshots.current()
    }

    pub(super) fn find(&self, inode: Inode) -> Result<(Arc<Tree>, Node), FsError> {
        self.snapshots.find(inode).ok_or(FsError::Stale)
    }
}
