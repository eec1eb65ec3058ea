//! What all requests share.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use fuser::BackingId;

use super::super::backing::{self, Backing};
use super::super::connection::FUSE_HAS_RESEND;
use super::super::handles::Handles;
use super::super::interrupt::Waiting;
use super::super::quota::Quota;
use crate::fs::filesystem::Filesystem;
use crate::fuse::handover_log::{HandoverLog, Negotiated};
use crate::metrics::Metrics;

/// What all requests share.
#[derive(Debug)]
pub(in crate::fuse) struct AdapterState {
    pub(in crate::fuse) operations: Filesystem,
    pub(in crate::fuse) metrics: Arc<Metrics>,
    pub(in crate::fuse) runtime: tokio::runtime::Handle,
    pub(in crate::fuse) handles: Handles,
    pub(in crate::fuse) waiting: Waiting,
    device: Arc<OwnedFd>,
    pub(super) agreement: OnceLock<Negotiated>,
    /// Held for writing while nothing may be opened, closed or changed.
    pause: RwLock<()>,
    /// Set when the kernel and the configuration allow it.
    passthrough: AtomicBool,
    /// Told when the session ends.
    pub(in crate::fuse) ended: tokio::sync::Notify,
    /// It has ended.
    over: AtomicBool,
}

impl AdapterState {
    pub(in crate::fuse) fn new(
        operations: Filesystem,
        metrics: Arc<Metrics>,
        passthrough: bool,
        device: OwnedFd,
        ledger: HandoverLog,
    ) -> Arc<Self> {
        let runtime = tokio::runtime::Handle::current();
        Arc::new(Self {
            operations,
            metrics,
            runtime,
            handles: Handles::new(ledger, Quota::of_process()),
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

    /// What is agreed on with the kernel; to be asked once the session is there.
    pub(in crate::fuse) fn agreement(&self) -> Negotiated {
        self.agreement.get().copied().unwrap_or_default()
    }

    /// Takes up what the daemon before this one left open.
    pub(in crate::fuse) fn inherit(&self) {
        let (records, highest) = self.handles.ledger(HandoverLog::read);
        let used: std::collections::HashSet<u32> = records.iter().filter_map(|record| record.backing()).collect();
        // What was asked for when it was killed, or not given back yet.
        (1..=highest.saturating_add(16))
            .filter(|id| !used.contains(id))
            .for_each(|id| backing::close(&self.device, id));
        self.handles.inherit(records, |id| Backing::new(id, Arc::downgrade(&self.device)));
    }

    /// Copies of device, ledger and the directory beneath, where a next daemon can go on with them.
    pub(in crate::fuse) fn descriptors(&self) -> Option<(OwnedFd, OwnedFd, OwnedFd)> {
        if self.agreement().flags & FUSE_HAS_RESEND == 0 {
            return None;
        }
        let ledger = self.handles.ledger(|ledger| std::os::fd::AsFd::as_fd(ledger).try_clone_to_owned()).ok()?;
        Some((self.device.try_clone().ok()?, ledger, self.operations.layer().descriptor().ok()?))
    }

    /// Nothing is opened, closed or changed while the answer lives: what is noted is what the kernel was told, and nothing that
    /// was done is asked for once more.
    pub(in crate::fuse) fn pause(&self) -> impl Sized + '_ {
        self.pause.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until it is paused: for what opens, closes or changes something, with the answer.
    pub(super) fn unpaused(&self) -> impl Sized + '_ {
        self.pause.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::fuse) fn passes_through(&self) -> bool {
        self.passthrough.load(Ordering::Relaxed)
    }

    pub(super) fn stop_passing_through(&self) {
        self.passthrough.store(false, Ordering::Relaxed);
    }

    /// Whether the session has ended: what is mounted now, if anything, is somebody else's.
    pub(in crate::fuse) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.ended.notify_one();
    }

    /// Another index is shown now.
    pub(in crate::fuse) fn note_published(&self) {
        self.handles.record_published(self.operations.tree().mark());
    }

    /// Has the kernel read `file` by itself, if it may.
    pub(super) fn back(&self, open: impl FnOnce() -> io::Result<BackingId>) -> Option<Backing> {
        match self.passes_through().then(open)? {
            Ok(backing) => Some(Backing::new(backing.into_raw(), Arc::downgrade(&self.device))),
            Err(error) => {
                tracing::debug!(%error, "no passthrough for this file");
                // Not permitted now is not permitted later; other reasons may hold for this file only.
                if error.kind() == io::ErrorKind::PermissionDenied {
                    self.stop_passing_through();
                }
                None
            }
        }
    }

    /// A local file that is open; one that a daemon before this one opened is found by its number.
    pub(super) fn local_file(&self, inode: crate::tree::Inode) -> Option<Arc<File>> {
        use crate::fs::filesystem::Reopening;
        if !crate::local::is_number(inode.0) {
            return None;
        }
        self.handles.file(inode).or_else(|| {
            let generation = self.handles.generation(inode);
            let Ok(Reopening::Ready(file)) = self.operations.reopen(inode, generation) else { return None };
            self.handles.found(inode, &file);
            Some(file)
        })
    }
}
