//! State that all requests share.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use fuser::BackingId;
use parking_lot::RwLock;

use super::super::FUSE_HAS_RESEND;
use super::super::backing::{self, Backing};
use super::super::handles::Handles;
use super::super::interrupt::Waiting;
use super::super::quota::Quota;
use crate::fs::filesystem::Filesystem;
use crate::fuse::handover_log::{HandoverLog, Negotiated};
use crate::metrics::Metrics;

/// State that all requests share.
#[derive(Debug)]
pub(in crate::fuse) struct AdapterState {
    pub(in crate::fuse) operations: Filesystem,
    pub(in crate::fuse) metrics: Arc<Metrics>,
    pub(in crate::fuse) runtime: tokio::runtime::Handle,
    pub(in crate::fuse) handles: Handles,
    pub(in crate::fuse) waiting: Waiting,
    device: Arc<OwnedFd>,
    pub(super) agreement: OnceLock<Negotiated>,
    /// Locked for writing while nothing may be opened, closed or changed.
    pause: RwLock<()>,
    /// Whether the kernel and the configuration allow passthrough.
    passthrough: AtomicBool,
    /// Notified when the session ends.
    pub(in crate::fuse) ended: tokio::sync::Notify,
    /// Set when the session has ended.
    over: AtomicBool,
}

impl AdapterState {
    pub(in crate::fuse) fn new(
        operations: Filesystem,
        metrics: Arc<Metrics>,
        passthrough: bool,
        device: OwnedFd,
        log: HandoverLog,
    ) -> Arc<Self> {
        let runtime = tokio::runtime::Handle::current();
        Arc::new(Self {
            operations,
            metrics,
            runtime,
            handles: Handles::new(log, Quota::of_process()),
            waiting: Waiting::default(),
            device: Arc::new(device),
            agreement: OnceLock::new(),
            pause: RwLock::new(()),
            passthrough: AtomicBool::new(passthrough),
            ended: tokio::sync::Notify::new(),
            over: AtomicBool::new(false),
        })
    }

    pub(in crate::fuse) fn device(&self) -> &OwnedFd {
        &self.device
    }

    /// The negotiation with the kernel; available once the session has started.
    pub(in crate::fuse) fn agreement(&self) -> Negotiated {
        self.agreement.get().copied().unwrap_or_default()
    }

    /// Continues the opens that the daemon before this one left.
    pub(in crate::fuse) fn inherit(&self) {
        let (records, highest) = self.handles.with_log(HandoverLog::read);
        let used: std::collections::HashSet<u32> = records.iter().filter_map(|record| record.backing()).collect();
        // Backings that the killed daemon had requested but not recorded, or not closed yet.
        (1..=highest.saturating_add(16))
            .filter(|id| !used.contains(id))
            .for_each(|id| backing::close(&self.device, id));
        self.handles.inherit(records, |id| Backing::new(id, Arc::downgrade(&self.device)));
    }

    /// Duplicates of the device, the handover log and the lower directory, if a next daemon can
    /// continue with them.
    pub(in crate::fuse) fn descriptors(&self) -> Option<(OwnedFd, OwnedFd, OwnedFd)> {
        if self.agreement().flags & FUSE_HAS_RESEND == 0 {
            return None;
        }
        let log = self.handles.with_log(|log| std::os::fd::AsFd::as_fd(log).try_clone_to_owned()).ok()?;
        Some((self.device.try_clone().ok()?, log, self.operations.layer().descriptor().ok()?))
    }

    /// Stops all opens, closes and changes until the returned guard is dropped. Until then the
    /// handover log matches the answers that the kernel has, and no completed request is sent
    /// again.
    pub(in crate::fuse) fn pause(&self) -> impl Sized + '_ {
        self.pause.write()
    }

    /// Waits while paused. Requests that open, close or change a file hold the returned guard until
    /// after their answer.
    pub(super) fn unpaused(&self) -> impl Sized + '_ {
        self.pause.read()
    }

    pub(in crate::fuse) fn passes_through(&self) -> bool {
        self.passthrough.load(Ordering::Relaxed)
    }

    pub(super) fn stop_passing_through(&self) {
        self.passthrough.store(false, Ordering::Relaxed);
    }

    /// Whether the session has ended: a mount that exists now belongs to another process.
    pub(in crate::fuse) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.ended.notify_one();
    }

    /// Records in the handover log that another index is published.
    pub(in crate::fuse) fn note_published(&self) {
        self.handles.record_published(self.operations.tree().mark());
    }

    /// Opens a backing for `file`, so that the kernel reads it by itself, if that is allowed.
    pub(super) fn back(&self, open: impl FnOnce() -> io::Result<BackingId>) -> Option<Backing> {
        match self.passes_through().then(open)? {
            Ok(backing) => Some(Backing::new(backing.into_raw(), Arc::downgrade(&self.device))),
            Err(error) => {
                tracing::debug!(%error, "no passthrough for this file");
                // A lack of permission is permanent; other errors may concern this file only.
                if error.kind() == io::ErrorKind::PermissionDenied {
                    self.stop_passing_through();
                }
                None
            }
        }
    }

    /// The file of an open local inode. If an earlier daemon opened it, the file is found by its
    /// number.
    pub(super) fn local_file(&self, inode: crate::tree::Inode) -> Option<Arc<File>> {
        use crate::fs::filesystem::Reopening;
        if !crate::local::is_number(inode.0) {
            return None;
        }
        self.handles.file(inode).or_else(|| {
            let generation = self.handles.generation(inode);
            let Ok(Reopening::Ready(content)) = self.operations.reopen(inode, generation) else { return None };
            self.handles.found(inode, content.clone());
            content.file().cloned()
        })
    }
}
