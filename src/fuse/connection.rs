//! A connection to the kernel that a daemon can leave to the next one.
//!
//! A mount exists as long as any process has its /dev/fuse open. A process that holds this
//! descriptor and the [`HandoverLog`] while no daemon runs can give both to a new daemon. Requests
//! wait meanwhile. The kernel sends those again that the dead daemon had taken, and processes that
//! use the mount notice nothing.
//!
//! fuser begins every session with the kernel's FUSE_INIT, which comes once in a connection's life.
//! To continue a connection, the daemon begins a session on a pair of sockets. Over these it sends
//! an INIT made of the earlier negotiation; then the device replaces the session's socket.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use fuser::{Config, Session, SessionACL};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::UnmountFlags;

use super::adapter::Adapter;
use super::handover_log::{HandoverLog, Negotiated};
use crate::local::identity;
use crate::sys::{MountNamespace, NamespaceError, mounts_of};

/// Threads that answer requests: two, so that a read does not wait behind a listing.
const THREADS: usize = 2;
/// Bytes of FUSE_INIT: fuse_in_header and fuse_init_in. Source: linux/fuse.h.
const INIT_LENGTH: usize = 40 + 64;
const FUSE_INIT: u32 = 26;
const FUSE_MAJOR: u32 = 7;
/// FUSE_INIT has the field flags2.
const FUSE_INIT_EXT: u64 = 1 << 30;
/// Notification that makes the kernel send unanswered requests again.
const NOTIFY_RESEND: i32 = 7;
/// Notification that makes the kernel look up every name again (Linux 6.16).
const NOTIFY_INC_EPOCH: i32 = 8;

/// The device, the handover log, and the lower directory.
pub(crate) type KeptDescriptors = (OwnedFd, OwnedFd, Option<OwnedFd>);

/// A connection and its handover log; a new one has no mount yet. Dropping it closes the device:
/// the mount is then dead, unless another process holds the device too.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(super) device: OwnedFd,
    pub(super) log: HandoverLog,
    /// The lower directory, which cannot be opened any more once it is mounted over.
    beneath: Option<OwnedFd>,
    /// The namespace of the mountpoint.
    pub(super) namespace: MountNamespace,
}

impl Kept {
    /// Makes a new connection. `beneath` is the lower directory, opened before the mount. Without
    /// it, no other daemon can continue the connection.
    ///
    /// # Errors
    /// /dev/fuse cannot be opened.
    pub(crate) fn create(beneath: Option<OwnedFd>, namespace: MountNamespace) -> io::Result<Self> {
        // The /dev of this process may have fewer devices.
        let device = namespace.enter(|| File::options().read(true).write(true).open("/dev/fuse"));
        let device = device.map_err(NamespaceError::into_io)??;
        Ok(Self { device: device.into(), log: HandoverLog::create()?, beneath, namespace })
    }

    /// The connection that another process has held; `namespace` is that of its mount.
    #[must_use]
    pub(crate) fn from_descriptors((device, log, beneath): KeptDescriptors, namespace: MountNamespace) -> Self {
        Self { device, log: HandoverLog::open(log), beneath, namespace }
    }

    /// Duplicates the descriptors, for another process to hold.
    ///
    /// # Errors
    /// There are too many open files.
    pub(crate) fn descriptors(&self) -> io::Result<KeptDescriptors> {
        Ok((self.device.try_clone()?, self.log.as_fd().try_clone_to_owned()?, self.beneath()?))
    }

    /// Duplicates the descriptor of the lower directory, if there is one.
    ///
    /// # Errors
    /// There are too many open files.
    pub(crate) fn beneath(&self) -> io::Result<Option<OwnedFd>> {
        self.beneath.as_ref().map(OwnedFd::try_clone).transpose()
    }

    /// Whether the held lower directory is the one that the mounting daemon recorded.
    fn knows_beneath(&self) -> bool {
        let held = self.beneath.as_ref().and_then(|held| identity(held).ok());
        held.is_some() && held == self.log.beneath()
    }

    /// Whether the connection never had a mount.
    #[must_use]
    pub(crate) fn is_new(&self) -> bool {
        self.log.device().is_none()
    }

    /// Device number of the mount, if a session can continue it.
    #[must_use]
    pub(crate) fn resumable(&self) -> Option<u64> {
        let usable = self.log.agreement().is_some_and(|agreement| agreement.flags & super::FUSE_HAS_RESEND != 0);
        self.log.device().filter(|_| usable && self.knows_beneath() && is_connected(&self.device))
    }

    /// Unmounts the mount of this connection everywhere: no session will continue it.
    pub(crate) fn abandon(self) {
        let Some(device) = self.log.device() else { return };
        if !self.knows_beneath() && is_connected(&self.device) {
            tracing::warn!("the directory beneath the mount was not handed over with it: it is mounted anew");
        }
        if let Err(error) = self.namespace.enter(|| unmount_all(device)) {
            tracing::warn!("unmounting what an earlier daemon left: {error}");
        }
    }
}

fn unmount_all(device: u64) {
    for path in mountpoints(device) {
        tracing::warn!(mountpoint = %path.display(), "unmounting what an earlier daemon left");
        if let Err(error) = rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            tracing::warn!(mountpoint = %path.display(), error = %io::Error::from(error), "the mountpoint cannot be unmounted");
        }
    }
}

/// Paths on which a device is mounted, the topmost first.
fn mountpoints(device: u64) -> Vec<PathBuf> {
    let mounts = mounts_of("thread-self").unwrap_or_default().into_iter();
    mounts.filter(|mount| mount.device == device).map(|mount| mount.path).collect()
}

/// Whether the kernel still has a mount for a device.
fn is_connected(device: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(device, PollFlags::OUT)];
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let answered = poll(&mut asked, Some(&zero)).is_ok();
    answered && asked.iter().all(|one| !one.revents().intersects(PollFlags::ERR | PollFlags::NVAL | PollFlags::HUP))
}

/// Starts a session on a device that has just been mounted.
pub(super) fn connect(adapter: Adapter, device: &OwnedFd) -> io::Result<Session<Adapter>> {
    Session::from_fd(adapter, device.try_clone()?, SessionACL::All, config())
}

/// Starts a session that continues the connection of an earlier one.
pub(super) fn reconnect(adapter: Adapter, device: &OwnedFd, agreement: Negotiated) -> io::Result<Session<Adapter>> {
    let (ours, theirs) = UnixDatagram::pair()?;
    ours.send(&init(agreement))?;
    let session = Session::from_fd(adapter, theirs.into(), SessionACL::All, config())?;
    // The session's answer to INIT is known already, so it is dropped.
    ours.recv(&mut [0; 256])?;
    // SAFETY: both descriptors are open. The session continues with the second one, and no other
    // code knows its number.
    let put = unsafe { libc::dup3(device.as_raw_fd(), session.as_fd().as_raw_fd(), libc::O_CLOEXEC) };
    if put < 0 { Err(io::Error::last_os_error()) } else { Ok(session) }
}

fn config() -> Config {
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    config
}

/// FUSE_INIT as the kernel would send it, if it offered exactly the negotiated flags.
pub(super) fn init(agreement: Negotiated) -> Vec<u8> {
    let Negotiated { flags, minor, readahead } = agreement;
    let flags = flags | FUSE_INIT_EXT;
    let mut message = Vec::with_capacity(INIT_LENGTH);
    for word in [INIT_LENGTH as u32, FUSE_INIT] {
        message.extend(word.to_ne_bytes());
    }
    // The header's unique and nodeid.
    for word in [1_u64, 0] {
        message.extend(word.to_ne_bytes());
    }
    // The header's uid, gid, pid and padding; then fuse_init_in.
    let (low, high) = (flags as u32, (flags >> 32) as u32);
    for word in [0, 0, 0, 0, FUSE_MAJOR, minor, readahead, low, high] {
        message.extend(word.to_ne_bytes());
    }
    message.resize(INIT_LENGTH, 0);
    message
}

/// Makes the kernel send the requests again that the dead daemon had taken and not answered.
pub(super) fn resend(device: &OwnedFd) -> io::Result<()> {
    notify(device, NOTIFY_RESEND)
}

/// Makes the kernel look up every name again. Fails if the kernel is too old for that.
pub(super) fn forget_names(device: &OwnedFd) -> io::Result<()> {
    notify(device, NOTIFY_INC_EPOCH)
}

/// Sends a notification that is only a header: fuse_out_header{len, error, unique}.
fn notify(device: &OwnedFd, code: i32) -> io::Result<()> {
    let mut message = Vec::with_capacity(16);
    message.extend(16_u32.to_ne_bytes());
    message.extend(code.to_ne_bytes());
    message.extend(0_u64.to_ne_bytes());
    rustix::io::write(device, &message)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_a_mount_is_not_connected() {
        let socket = UnixDatagram::pair().unwrap();
        assert!(is_connected(&OwnedFd::from(socket.0)));
        if let Ok(kept) = Kept::create(None, MountNamespace::default()) {
            assert!(!is_connected(&kept.device) && kept.is_new() && kept.resumable().is_none());
        }
    }

    #[test]
    fn mounts_are_found_by_their_number() {
        let root = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata("/proc").unwrap());
        assert!(mountpoints(root).contains(&PathBuf::from("/proc")));
        assert!(mountpoints(u64::MAX >> 1).is_empty());
    }
}
