//! The names that the kernel remembers: makes it forget those that a new tree has changed.

use std::ffi::OsStr;
use std::sync::{Arc, Weak};

use fuser::{INodeNo, Notifier};

use super::adapter::AdapterState;
use super::connection;
use crate::tree::Change;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(super) struct KernelCache {
    notifier: Notifier,
    /// Weak: the published tree, which the state refers to, has this as its listener.
    shared: Weak<AdapterState>,
}

impl KernelCache {
    pub(super) fn new(notifier: Notifier, shared: &Arc<AdapterState>) -> Self {
        Self { notifier, shared: Arc::downgrade(shared) }
    }

    /// Makes the kernel forget changed names after another tree was published. Must not be called
    /// from a FUSE thread: the kernel may wait for a request that holds the directory's lock.
    pub(super) fn tree_published(&self, changes: Vec<Change>) {
        let Some(shared) = self.shared.upgrade() else { return };
        self.forget(&shared, changes);
        shared.note_published();
    }

    /// Makes the kernel forget names of the earlier daemon's tree, if this daemon publishes another
    /// one.
    pub(super) fn catch_up(&self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let tree = shared.operations.tree();
        if shared.handles.with_log(|log| log.published()) != Some(tree.mark()) {
            self.forget(&shared, tree.everything());
        }
    }

    /// Notifies the kernel of changes. Names are forgotten all at once, if the kernel supports
    /// that.
    ///
    /// To forget a single name, the kernel takes the lock of the directory. A look-up holds that
    /// lock until it is answered. If this process were killed at that moment, both would wait for
    /// ever.
    fn forget(&self, shared: &AdapterState, mut changes: Vec<Change>) {
        let is_name = |change: &Change| matches!(change, Change::Name { .. });
        if changes.iter().any(is_name) && connection::forget_names(shared.device()).is_ok() {
            changes.retain(|change| !is_name(change));
        }
        for change in changes {
            let told = match &change {
                Change::Name { parent, name } => self.notifier.inval_entry(INodeNo(parent.0), OsStr::new(name)),
                Change::Listing(inode) => self.notifier.inval_inode(INodeNo(inode.0), 0, 0),
            };
            if let Err(error) = told {
                tracing::debug!(%error, ?change, "the kernel could not be told of a change");
            }
        }
    }
}
