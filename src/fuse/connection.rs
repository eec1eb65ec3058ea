//! A connection to the kernel that a daemon can leave to the next one.
//!
//! A mount lives for as long as anybody has its /dev/fuse open. Who holds that, and the [`HandoverLog`], while no daemon runs, can
//! give both to a new one: requests wait meanwhile, those that the dead daemon had taken are sent again, and nobody who uses
//! the mount notices.
//!
//! fuser begins every session with the kernel's FUSE_INIT, which comes once in a connection's life. To go on with one, a
//! session is begun on a pair of sockets, over which it gets an INIT made of what was agreed on before; then the device is
//! put in the place of its socket.

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

/// Threads that answer requests. Two, so that a read does not wait behind a listing.
const THREADS: usize = 2;
/// Bytes of FUSE_INIT: fuse_in_header and fuse_init_in. Source: linux/fuse.h.
const INIT_LENGTH: usize = 40 + 64;
const FUSE_INIT: u32 = 26;
const FUSE_MAJOR: u32 = 7;
/// flags2 is there.
const FUSE_INIT_EXT: u64 = 1 << 30;
/// The kernel can send again what was taken and not answered (Linux 6.9).
pub(super) const FUSE_HAS_RESEND: u64 = 1 << 39;
/// Have it do that.
const NOTIFY_RESEND: i32 = 7;
/// Have it ask for every name again (Linux 6.16).
const NOTIFY_INC_EPOCH: i32 = 8;

/// The device, the ledger, and the directory beneath.
pub type KeptDescriptors = (OwnedFd, OwnedFd, Option<OwnedFd>);

/// A connection with what is known of it; with nothing mounted on it, if it is new. Closed when dropped: the mount, if nobody
/// else holds it, is dead then.
#[derive(Debug)]
pub struct Kept {
    pub(super) device: OwnedFd,
    pub(super) ledger: HandoverLog,
    /// The directory on which it is mounted, which cannot be opened any more.
    beneath: Option<OwnedFd>,
    /// Where it is or will be mounted.
    pub(super) namespace: MountNamespace,
}

impl Kept {
    /// A new one. Nobody else can go on with it without `beneath`: the directory that will be mounted on, opened before that.
    ///
    /// # Errors
    /// /dev/fuse cannot be opened.
    pub fn create(beneath: Option<OwnedFd>, namespace: MountNamespace) -> io::Result<Self> {
        // This process's /dev may have less in it.
        let device = namespace.enter(|| File::options().read(true).write(true).open("/dev/fuse"));
        let device = device.map_err(NamespaceError::into_io)??;
        Ok(Self { device: device.into(), ledger: HandoverLog::create()?, beneath, namespace })
    }

    /// What another process has held; what is mounted with it is in `namespace`.
    #[must_use]
    pub fn from_descriptors((device, ledger, beneath): KeptDescriptors, namespace: MountNamespace) -> Self {
        Self { device, ledger: HandoverLog::open(ledger), beneath, namespace }
    }

    /// The descriptors, for somebody to hold.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn descriptors(&self) -> io::Result<KeptDescriptors> {
        Ok((self.device.try_clone()?, self.ledger.as_fd().try_clone_to_owned()?, self.beneath()?))
    }

    /// The directory beneath the mount, if it is that.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn beneath(&self) -> io::Result<Option<OwnedFd>> {
        self.beneath.as_ref().map(OwnedFd::try_clone).transpose()
    }

    /// Whether what is held as the directory beneath is what the daemon that mounted it had there.
    fn knows_beneath(&self) -> bool {
        let held = self.beneath.as_ref().and_then(|held| identity(held).ok());
        held.is_some() && held == self.ledger.beneath()
    }

    /// Whether nothing was ever mounted with it.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.ledger.device().is_none()
    }

    /// Device number of the mount, if a session can go on with it.
    #[must_use]
    pub fn resumable(&self) -> Option<u64> {
        let usable = self.ledger.agreement().is_some_and(|agreement| agreement.flags & FUSE_HAS_RESEND != 0);
        self.ledger.device().filter(|_| usable && self.knows_beneath() && is_connected(&self.device))
    }

    /// Takes the mount away, wherever it is: no session will go on with it.
    pub fn abandon(self) {
        let Some(device) = self.ledger.device() else { return };
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
            tracing::warn!(mountpoint = %path.display(), error = %io::Error::from(error), "unmounting");
        }
    }
}

/// Where a device is mounted, the topmost first.
fn mountpoints(device: u64) -> Vec<PathBuf> {
    let mounts = mounts_of("thread-self").unwrap_or_default().into_iter();
    mounts.filter(|mount| mount.device == device).map(|mount| mount.path).collect()
}

/// Whether the kernel still has a mount behind a device.
fn is_connected(device: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(device, PollFlags::OUT)];
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let answered = poll(&mut asked, Some(&zero)).is_ok();
    answered && asked.iter().all(|one| !one.revents().intersects(PollFlags::ERR | PollFlags::NVAL | PollFlags::HUP))
}

/// A session on a device that has just been mounted.
pub(super) fn connect(adapter: Adapter, device: &OwnedFd) -> io::Result<Session<Adapter>> {
    Session::from_fd(adapter, device.try_clone()?, SessionACL::All, config())
}

/// A session that goes on where another one stopped.
pub(super) fn reconnect(adapter: Adapter, device: &OwnedFd, agreement: Negotiated) -> io::Result<Session<Adapter>> {
    let (ours, theirs) = UnixDatagram::pair()?;
    ours.send(&init(agreement))?;
    let session = Session::from_fd(adapter, theirs.into(), SessionACL::All, config())?;
    // What it answers is known.
    ours.recv(&mut [0; 256])?;
    // SAFETY: both descriptors are open. The session goes on with the second one, and nobody else knows its number.
    let put = unsafe { libc::dup3(device.as_raw_fd(), session.as_fd().as_raw_fd(), libc::O_CLOEXEC) };
    if put < 0 { Err(io::Error::last_os_error()) } else { Ok(session) }
}

fn config() -> Config {
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    config
}

/// FUSE_INIT as the kernel would send it, if it offered just what was agreed on.
fn init(agreement: Negotiated) -> Vec<u8> {
    let Negotiated { flags, minor, readahead } = agreement;
    let flags = flags | FUSE_INIT_EXT;
    let mut message = Vec::with_capacity(INIT_LENGTH);
    for word in [INIT_LENGTH as u32, FUSE_INIT] {
        message.extend(word.to_ne_bytes());
    }
    // unique, nodeid
    for word in [1_u64, 0] {
        message.extend(word.to_ne_bytes());
    }
    // uid, gid, pid, padding; then the body
    let (low, high) = (flags as u32, (flags >> 32) as u32);
    for word in [0, 0, 0, 0, FUSE_MAJOR, minor, readahead, low, high] {
        message.extend(word.to_ne_bytes());
    }
    message.resize(INIT_LENGTH, 0);
    message
}

/// Has the kernel send again what the dead daemon had taken and not answered.
pub(super) fn resend(device: &OwnedFd) -> io::Result<()> {
    notify(device, NOTIFY_RESEND)
}

/// Has the kernel ask anew for every name that it knows. An error: it is too old for that.
pub(super) fn forget_names(device: &OwnedFd) -> io::Result<()> {
    notify(device, NOTIFY_INC_EPOCH)
}

/// A notification without a body: fuse_out_header{len, error, unique}.
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
