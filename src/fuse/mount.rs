//! Mounting and unmounting: mount(2), the session's threads, umount.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{BackgroundSession, Session};
use rustix::mount::{MountFlags, UnmountFlags};

use super::adapter::{Adapter, AdapterState};
use super::handover_log::{HandoverLog, Negotiated};
use super::kernel_cache::KernelCache;
use super::{Kept, connection};
use crate::config::{MountConfig, Passthrough};
use crate::fs::Filesystem;
use crate::metrics::Metrics;
use crate::sys::{MountNamespace, NamespaceError, mount_on};

/// The kernel's read-ahead where reads come to the daemon, in KiB.
const READ_AHEAD_KIB: &str = "1024";

/// Why mounting failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    /// /dev/fuse cannot be opened.
    #[error("opening /dev/fuse: {0}; {hint}", hint = device_hint(.0))]
    Device(io::Error),
    /// mount(2) failed.
    #[error("mounting on {mountpoint}: {source}{hint}", mountpoint = .mountpoint.display())]
    Refused {
        /// The directory to mount on.
        mountpoint: PathBuf,
        /// The error of mount(2).
        source: io::Error,
        /// The remedy, or empty.
        hint: &'static str,
    },
    /// The namespace of the mountpoint cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Kernel and daemon could not start a FUSE session.
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

/// A mounted file system. Dropping it unmounts it, if that has not happened before.
#[derive(Debug)]
pub(crate) struct Mount {
    mountpoint: PathBuf,
    namespace: MountNamespace,
    session: BackgroundSession,
    unmounted: AtomicBool,
    shared: Arc<AdapterState>,
    begun: Begun,
}

/// How a mount began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    /// This daemon called mount(2).
    Mounted,
    /// This daemon continues the mount of an earlier one.
    Resumed,
}

impl Mount {
    /// Mounts `operations` according to `config`, or continues the mount of `kept`. The caller must
    /// be inside a tokio runtime, in which waits for packages run.
    ///
    /// # Errors
    /// Returns a [`MountError`].
    pub(crate) fn new(
        config: &MountConfig,
        operations: Filesystem,
        metrics: Arc<Metrics>,
        kept: Option<Kept>,
    ) -> Result<Self, MountError> {
        let new = || Kept::create(None, config.namespace.clone());
        let Kept { device, log, namespace, .. } = kept.map_or_else(new, Ok).map_err(MountError::Device)?;
        let (mountpoint, passthrough) = (&config.mountpoint, config.options.passthrough);
        let before = log.agreement().filter(|_| log.device().is_some());
        let shared = AdapterState::new(operations, metrics, passthrough == Passthrough::Auto, device, log);
        let session = match before {
            Some(agreement) => resume(&shared, agreement)?,
            None => begin(&namespace, mountpoint, &shared)?,
        };
        let session = session.spawn().map_err(|error| {
            unmount(&namespace, mountpoint);
            MountError::Session(error)
        })?;
        let (cache, unmounted) = (KernelCache::new(session.notifier(), &shared), AtomicBool::new(false));
        let begun = if before.is_some() { Begun::Resumed } else { Begun::Mounted };
        let mount = Self { mountpoint: mountpoint.clone(), namespace, session, unmounted, shared, begun };
        match begun {
            Begun::Mounted if !mount.passes_through() => mount.read_further_ahead(),
            Begun::Mounted => {}
            Begun::Resumed => cache.catch_up(),
        }
        mount.shared.note_published();
        let front = mount.shared.operations.names().front();
        front.notify_with(move |changes| cache.tree_published(changes));
        Ok(mount)
    }

    /// Device number of the mount; `None` if no other daemon could continue it.
    #[must_use]
    pub(crate) fn device(&self) -> Option<u64> {
        self.shared.handles.with_log(|log| log.device())
    }

    /// Whether this daemon mounted, or continues a mount.
    #[must_use]
    pub(crate) fn begun(&self) -> Begun {
        self.begun
    }

    /// Descriptors that the next daemon needs to continue the mount. `None` if the kernel cannot
    /// resend requests (before Linux 6.9), or if there are too many open files.
    #[must_use]
    pub(crate) fn keep(&self) -> Option<(OwnedFd, OwnedFd, OwnedFd)> {
        self.shared.descriptors()
    }

    /// Holds back answers that a next daemon could not repeat, until the returned guard is dropped.
    #[must_use]
    pub(crate) fn pause(&self) -> impl Sized + '_ {
        self.shared.pause()
    }

    /// Whether the kernel reads cached blobs by itself (passthrough).
    #[must_use]
    pub(crate) fn passes_through(&self) -> bool {
        self.shared.passes_through()
    }

    /// Unmounts. If files are open, the name disappears at once, and the connection ends with this
    /// process: unmounting does not wait for processes that have files open.
    pub(crate) fn unmount(&self) {
        let over = self.shared.is_over() || self.session.guard.is_finished();
        if !over && !self.unmounted.swap(true, Ordering::SeqCst) {
            unmount(&self.namespace, &self.mountpoint);
        }
    }

    /// Waits until the session ends: an unmount, or the kernel closes the connection.
    pub(crate) async fn ended(&self) {
        self.shared.ended.notified().await;
    }

    /// Sets the kernel's read-ahead. The bdi of a mount is named after its device number.
    fn read_further_ahead(&self) {
        let Some(device) = self.device() else { return };
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        // The /sys of this process may be read-only.
        let written = self.namespace.enter(|| std::fs::write(&path, READ_AHEAD_KIB));
        if let Err(error) = written.map_err(NamespaceError::into_io).and_then(|written| written) {
            tracing::debug!(path, %error, "reading ahead stays as it is");
        }
    }
}

/// Continues the mount of an earlier daemon.
fn resume(shared: &Arc<AdapterState>, agreement: Negotiated) -> Result<Session<Adapter>, MountError> {
    shared.inherit();
    let session = connection::reconnect(Adapter(Arc::clone(shared)), shared.device(), agreement);
    // Before the session reads any request: the kernel would send that one again as well.
    if let Err(error) = connection::resend(shared.device()) {
        tracing::warn!(%error, "what the daemon before this one was doing is not done again; its callers may hang");
    }
    session.map_err(MountError::Session)
}

/// Mounts, starts a session and begins the handover log.
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
    // From here on, an error has to undo the mount.
    let undone = |error| {
        unmount(namespace, mountpoint);
        MountError::Session(error)
    };
    let session = connection::connect(Adapter(Arc::clone(shared)), device).map_err(undone)?;
    let begin = |log: &mut HandoverLog| log.begin(number, shared.agreement(), shared.operations.tree().mark(), beneath);
    shared.handles.with_log(begin).map_err(undone)?;
    Ok(session)
}

/// Calls mount(2); returns the device number of the mount.
fn mount(mountpoint: &Path, flags: MountFlags, options: &CStr) -> Result<u64, MountError> {
    rustix::mount::mount("binhostfs", mountpoint, "fuse.binhostfs", flags, options).map_err(|error| {
        let hint = match error {
            rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => "; only root can mount",
            _ => "",
        };
        MountError::Refused { mountpoint: mountpoint.to_owned(), source: error.into(), hint }
    })?;
    // Read from the mount table: stat(2) would wait, since nothing serves the mount yet.
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
        tracing::warn!(mountpoint = %mountpoint.display(), "the mountpoint cannot be unmounted: {error}");
    }
}

/// Unmounts in the mount namespace of this thread.
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
        tracing::warn!(mountpoint = %mountpoint.display(), error = %io::Error::from(error), "the mountpoint cannot be unmounted");
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel_double::KernelDouble;
    use super::*;
    use crate::fuse::FUSE_HAS_RESEND;
    use crate::tree::{Inode, PACKAGES};

    const NOTIFY_RESEND: u32 = 7;

    #[test]
    fn the_next_daemon_continues_without_a_handshake() {
        let mut kernel = KernelDouble::without_session(false);
        let agreement = Negotiated { flags: FUSE_HAS_RESEND, minor: 41, readahead: 1 << 17 };
        let session = resume(&kernel.state, agreement).unwrap();
        // The kernel sends again what the daemon before had taken, before it is asked for more.
        assert_eq!(kernel.notification(), NOTIFY_RESEND);
        kernel.serve(session);
        let index = kernel.lookup(Inode::ROOT.0, PACKAGES).unwrap();
        assert_eq!(kernel.state.agreement(), agreement);
        assert!(kernel.state.descriptors().is_some(), "the daemon after this one can continue, too");
        assert!(!kernel.state.passes_through(), "the first handshake did not agree on it");
        kernel.open(index.inode, libc::O_RDONLY).unwrap();
    }

    #[test]
    fn a_mount_that_is_refused_names_its_mountpoint_and_the_remedy() {
        let kernel = KernelDouble::without_session(false);
        let place = tempfile::tempdir().unwrap();
        let absent = place.path().join("absent");
        let Err(error) = begin(&MountNamespace::default(), &absent, &kernel.state) else { panic!("it is mounted") };
        let text = error.to_string();
        assert!(text.starts_with(&format!("mounting on {}: ", absent.display())), "{text}");
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!(text.ends_with("; only root can mount"), !is_root, "{text}");
        // The device is a socket here, which the kernel does not take for one.
        let Err(error) = begin(&MountNamespace::default(), place.path(), &kernel.state) else {
            panic!("it is mounted")
        };
        assert!(matches!(error, MountError::Refused { .. }), "{error}");
        assert_eq!(mount_on(place.path()).unwrap().map(|mount| mount.device), None);
    }

    #[test]
    fn a_device_that_is_missing_has_another_remedy_than_one_that_is_forbidden() {
        let text = |kind: io::ErrorKind| MountError::Device(kind.into()).to_string();
        assert!(text(io::ErrorKind::PermissionDenied).ends_with("; only root can mount"));
        assert!(text(io::ErrorKind::NotFound).contains("modprobe fuse"));
    }
}
