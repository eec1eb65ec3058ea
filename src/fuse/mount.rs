//! mount(2), the session's threads, umount.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{BackgroundSession, Config, INodeNo, Notifier, Session, SessionACL};
use rustix::mount::{MountFlags, UnmountFlags};

use super::Operations;
use super::adapter::{Adapter, Shared};
use crate::config::Passthrough;
use crate::metrics::Metrics;
use crate::tree::Change;

/// Threads that answer requests. Two, so that a read does not wait behind a listing.
const THREADS: usize = 2;
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
    /// The kernel and the daemon did not agree.
    #[error("starting the FUSE session: {0}")]
    Session(io::Error),
}

fn device_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "only root can mount",
        _ => "load the module with `modprobe fuse`, and in a container pass the device in",
    }
}

/// A mounted file system; unmounted when dropped, if it was not before.
#[derive(Debug)]
pub struct Mount {
    mountpoint: PathBuf,
    session: BackgroundSession,
    unmounted: AtomicBool,
    notifier: Notifier,
    shared: Arc<Shared>,
}

impl Mount {
    /// Mounts `operations` on `mountpoint`. To be called inside a tokio runtime, which then waits for packages.
    ///
    /// # Errors
    /// See [`MountError`].
    pub fn new(
        mountpoint: &Path,
        operations: Operations,
        metrics: Arc<Metrics>,
        passthrough: Passthrough,
    ) -> Result<Self, MountError> {
        let device = File::options().read(true).write(true).open("/dev/fuse").map_err(MountError::Device)?;
        let options = format!("fd={},rootmode=40755,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let options = CString::new(options).map_err(|error| MountError::Session(error.into()))?;
        let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        flags.set(MountFlags::RDONLY, operations.layer().is_read_only());
        rustix::mount::mount("binhostfs", mountpoint, "fuse.binhostfs", flags, &*options).map_err(|error| {
            let hint = match error {
                rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => "; only root can mount",
                _ => "",
            };
            MountError::Refused { mountpoint: mountpoint.to_owned(), source: error.into(), hint }
        })?;
        // From here on it has to be unmounted again.
        let shared = Shared::new(operations, metrics, passthrough == Passthrough::Auto);
        let mut config = Config::default();
        config.n_threads = Some(THREADS);
        let session = Session::from_fd(Adapter(Arc::clone(&shared)), device.into(), SessionACL::All, config);
        let session = session.and_then(Session::spawn).map_err(|error| {
            unmount(mountpoint);
            MountError::Session(error)
        })?;
        let notifier = session.notifier();
        let mount =
            Self { mountpoint: mountpoint.to_owned(), session, unmounted: AtomicBool::new(false), notifier, shared };
        if !mount.passes_through() {
            mount.read_further_ahead();
        }
        Ok(mount)
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
            unmount(&self.mountpoint);
        }
    }

    /// Waits until the session ends: somebody unmounts it, or the kernel cuts the connection.
    pub async fn ended(&self) {
        self.shared.ended.notified().await;
    }

    /// Makes the kernel forget what changed. Not to be called from a FUSE thread.
    pub fn forget(&self, changes: &[Change]) {
        for change in changes {
            let told = match change {
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
        let Ok(metadata) = self.mountpoint.metadata() else { return };
        let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
        let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        if let Err(error) = std::fs::write(&path, READ_AHEAD_KIB) {
            tracing::debug!(path, %error, "reading ahead stays as it is");
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn unmount(mountpoint: &Path) {
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
