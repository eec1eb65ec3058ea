//! mount(2), the session's threads, umount.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{BackgroundSession, INodeNo, Notifier, Session};
use rustix::mount::{MountFlags, UnmountFlags};

use super::adapter::{Adapter, AdapterState};
use super::handover_log::{HandoverLog, Negotiated};
use super::{Kept, connection};
use crate::config::{MountConfig, Passthrough};
use crate::fs::Filesystem;
use crate::metrics::Metrics;
use crate::sys::{MountNamespace, NamespaceError, mount_on};
use crate::tree::Change;

/// What the kernel reads ahead where reads come to the daemon, KiB.
const READ_AHEAD_KIB: &str = "1024";

/// Why mounting failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no FUSE here.
    #[error("opening /dev/fuse: {0}; {hint}", hint = device_hint(.0))]
    Device(io::Error),
    /// mount(2) refused.
    #[error("mounting on {mountpoint}: {source}{hint}", mountpoint = .mountpoint.display())]
    Refused {
        /// The mountpoint.
        mountpoint: PathBuf,
        /// Why.
        source: io::Error,
        /// What to do about it.
        hint: &'static str,
    },
    /// Where the mountpoint is.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The kernel and the daemon did not agree.
    #[error("starting the FUSE session: {0}")]
    Session(io::Error),
}

fn device_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "only root can mount",
        _ => {
            "load the module with `modprobe fuse`; in a container pass the device in; in a service with PrivateDevices= \
             mount with --mount-namespace=/proc/1/ns/mnt"
        }
    }
}

/// A mounted file system; unmounted when dropped, if it was not before.
#[derive(Debug)]
pub struct Mount {
    mountpoint: PathBuf,
    namespace: MountNamespace,
    session: BackgroundSession,
    unmounted: AtomicBool,
    notifier: Notifier,
    shared: Arc<AdapterState>,
    begun: Begun,
}

/// How a mount came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// By mount(2).
    Mounted,
    /// It goes on with what an earlier daemon has mounted.
    Resumed,
}

impl Mount {
    /// Mounts `operations` as `config` says, or goes on with what `kept` says is mounted there. To be called inside a tokio
    /// runtime, which then waits for packages.
    ///
    /// # Errors
    /// See [`MountError`].
    pub fn new(
        config: &MountConfig,
        operations: Filesystem,
        metrics: Arc<Metrics>,
        kept: Option<Kept>,
    ) -> Result<Self, MountError> {
        let new = || Kept::create(None, config.namespace.clone());
        let Kept { device, ledger, namespace, .. } = kept.map_or_else(new, Ok).map_err(MountError::Device)?;
        let (mountpoint, passthrough) = (&config.mountpoint, config.passthrough);
        let before = ledger.agreement().filter(|_| ledger.device().is_some());
        let shared = AdapterState::new(operations, metrics, passthrough == Passthrough::Auto, device, ledger);
        let session = match before {
            Some(agreement) => resume(&shared, agreement)?,
            None => begin(&namespace, mountpoint, &shared)?,
        };
        let session = session.spawn().map_err(|error| {
            unmount(&namespace, mountpoint);
            MountError::Session(error)
        })?;
        let (notifier, unmounted) = (session.notifier(), AtomicBool::new(false));
        let begun = if before.is_some() { Begun::Resumed } else { Begun::Mounted };
        let mount = Self { mountpoint: mountpoint.clone(), namespace, session, unmounted, notifier, shared, begun };
        match begun {
            Begun::Mounted if !mount.passes_through() => mount.read_further_ahead(),
            Begun::Mounted => {}
            Begun::Resumed => mount.catch_up(),
        }
        mount.shared.note_published();
        Ok(mount)
    }

    /// Its device number; `None`: nobody could go on with it.
    #[must_use]
    pub fn device(&self) -> Option<u64> {
        self.shared.handles.ledger(|ledger| ledger.device())
    }

    /// How it came to be.
    #[must_use]
    pub fn begun(&self) -> Begun {
        self.begun
    }

    /// What the next daemon needs to go on; `None`: the kernel cannot (before Linux 6.9), or there are too many open files.
    #[must_use]
    pub fn keep(&self) -> Option<(OwnedFd, OwnedFd, OwnedFd)> {
        self.shared.descriptors()
    }

    /// Holds back answers that a next daemon could not make up for, as long as what is returned lives.
    #[must_use]
    pub fn pause(&self) -> impl Sized + '_ {
        self.shared.pause()
    }

    /// The kernel forgets what the daemon before this one showed and this one does not.
    fn catch_up(&self) {
        let tree = self.shared.operations.tree();
        if self.shared.handles.ledger(|ledger| ledger.published()) != Some(tree.mark()) {
            self.forget(tree.everything());
        }
    }

    /// Something else is shown now: makes the kernel forget what changed. Not to be called from a FUSE thread.
    pub fn notify_kernel(&self, changes: Vec<Change>) {
        self.forget(changes);
        self.shared.note_published();
    }

    /// Whether cached bodies are read by the kernel alone.
    #[must_use]
    pub fn passes_through(&self) -> bool {
        self.shared.passes_through()
    }

    /// Unmounts. Where files are open, the name goes at once, and the connection when this process ends: nobody waits for
    /// whoever has them open.
    pub fn unmount(&self) {
        let over = self.shared.is_over() || self.session.guard.is_finished();
        if !over && !self.unmounted.swap(true, Ordering::SeqCst) {
            unmount(&self.namespace, &self.mountpoint);
        }
    }

    /// Waits until the session ends: somebody unmounts it, or the kernel cuts the connection.
    pub async fn ended(&self) {
        self.shared.ended.notified().await;
    }

    /// Of names the kernel forgets all at once, where it can: to forget one it takes the lock of the directory, which whoever looks
    /// something up there holds until it is answered; a kill of this process in that moment would leave both waiting for ever.
    fn forget(&self, mut changes: Vec<Change>) {
        let is_name = |change: &Change| matches!(change, Change::Name { .. });
        if changes.iter().any(is_name) && connection::forget_names(self.shared.device()).is_ok() {
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

    /// The bdi of a mount is named after its device number.
    fn read_further_ahead(&self) {
        let Some(device) = self.device() else { return };
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        // This process's /sys may be read-only.
        let written = self.namespace.enter(|| std::fs::write(&path, READ_AHEAD_KIB));
        if let Err(error) = written.map_err(NamespaceError::into_io).and_then(|written| written) {
            tracing::debug!(path, %error, "reading ahead stays as it is");
        }
    }
}

/// Goes on with what is mounted.
fn resume(shared: &Arc<AdapterState>, agreement: Negotiated) -> Result<Session<Adapter>, MountError> {
    shared.inherit();
    let session = connection::reconnect(Adapter(Arc::clone(shared)), shared.device(), agreement);
    // Before anything is read, which would be sent again as well.
    if let Err(error) = connection::resend(shared.device()) {
        tracing::warn!(%error, "what the daemon before this one was doing is not done again; its callers may hang");
    }
    session.map_err(MountError::Session)
}

/// Mounts.
fn begin(
    namespace: &MountNamespace,
    mountpoint: &Path,
    shared: &Arc<AdapterState>,
) -> Result<Session<Adapter>, MountError> {
    let device = shared.device();
    let options = format!("fd={},rootmode=40755,user_id=0,group_id=0,allow_other", device.as_raw_fd());
    let options = CString::new(options).map_err(|error| MountError::Session(error.into()))?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    flags.set(MountFlags::RDONLY, shared.operations.layer().is_read_only());
    let beneath = shared.operations.layer().identity().map_err(|error| MountError::Session(error.into()))?;
    let number = namespace.enter(|| mount(mountpoint, flags, &options)).map_err(MountError::from)??;
    // From here on it has to be unmounted again.
    let undone = |error| {
        unmount(namespace, mountpoint);
        MountError::Session(error)
    };
    let session = connection::connect(Adapter(Arc::clone(shared)), device).map_err(undone)?;
    let begin =
        |ledger: &mut HandoverLog| ledger.begin(number, shared.agreement(), shared.operations.tree().mark(), beneath);
    shared.handles.ledger(begin).map_err(undone)?;
    Ok(session)
}

/// mount(2); its device number.
fn mount(mountpoint: &Path, flags: MountFlags, options: &CStr) -> Result<u64, MountError> {
    rustix::mount::mount("binhostfs", mountpoint, "fuse.binhostfs", flags, options).map_err(|error| {
        let hint = match error {
            rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => "; only root can mount",
            _ => "",
        };
        MountError::Refused { mountpoint: mountpoint.to_owned(), source: error.into(), hint }
    })?;
    // Not from stat(2): nobody serves it yet.
    let number = mount_on(mountpoint).and_then(|mount| Ok(mount.ok_or(io::ErrorKind::NotFound)?.device));
    number.map_err(|error| {
        unmount_here(mountpoint);
        MountError::Session(error)
    })
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn unmount(namespace: &MountNamespace, mountpoint: &Path) {
    if let Err(error) = namespace.enter(|| unmount_here(mountpoint)) {
        tracing::warn!(mountpoint = %mountpoint.display(), "unmounting: {error}");
    }
}

/// In the namespace of this thread.
fn unmount_here(mountpoint: &Path) {
    let plain = rustix::mount::unmount(mountpoint, UnmountFlags::NOFOLLOW);
    let result = match plain {
        Err(rustix::io::Errno::BUSY) => {
            tracing::info!(mountpoint = %mountpoint.display(), "in use; unmounting as soon as nobody has a file open");
            rustix::mount::unmount(mountpoint, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        }
        other => other,
    };
    if let Err(error) = result {
        tracing::warn!(mountpoint = %mountpoint.display(), error = %io::Error::from(error), "unmounting");
    }
}
