//! Doing something as whoever asked for it.
//!
//! The daemon is root, and the kernel leaves permissions to us: the mount is without `default_permissions`, since with it
//! root could not be told that remote packages are not to be written. So a thread takes on the caller's user, group and
//! groups for the length of an operation (setfsuid(2), setfsgid(2), setgroups(2) of the thread alone), and the file system
//! beneath decides, charges quotas and sets owners as it would without a mount.

use rustix::io::Errno;
use rustix::process::Gid;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// User id, as the daemon's user namespace has it.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Thread id; 0 where we do not see it.
    pub pid: u32,
}

impl Caller {
    /// The daemon itself.
    pub const DAEMON: Self = Self { uid: 0, gid: 0, pid: 0 };

    /// Does `work` as the caller.
    ///
    /// # Errors
    /// That of `work`; EPERM where the daemon may not become somebody else.
    pub(super) fn act<T>(self, work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        if self.uid == 0 && self.gid == 0 {
            return work();
        }
        let _until_the_end = Disguise::put_on(self)?;
        work()
    }

    /// Does `work` on an open file, which nobody has to be permitted any more, so that the caller is charged for what it takes:
    /// quotas hold, and what a file system keeps for root is kept. Groups do not count there.
    ///
    /// # Errors
    /// That of `work`; EPERM where the daemon may not become somebody else.
    pub fn charged<T, E: From<Errno>>(self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if self.uid == 0 {
            return work();
        }
        let _until_the_end = Disguise::put_on_user(self)?;
        work()
    }

    /// Supplementary groups, as far as they can be seen. Source: proc_pid_status(5).
    fn groups(self) -> Vec<Gid> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
        line.split_whitespace().filter_map(|group| group.parse().ok()).map(Gid::from_raw).collect()
    }
}

/// Taken off when dropped.
struct Disguise {
    /// The daemon's own, where others were taken on.
    groups: Option<Vec<Gid>>,
}

impl Disguise {
    fn put_on(caller: Caller) -> Result<Self, Errno> {
        let disguise = Self { groups: Some(rustix::process::getgroups()?) };
        if caller.uid != 0 {
            rustix::thread::set_thread_groups(&caller.groups())?;
        }
        disguise.dressed_as(caller)
    }

    /// In the groups of the daemon.
    fn put_on_user(caller: Caller) -> Result<Self, Errno> {
        Self { groups: None }.dressed_as(caller)
    }

    fn dressed_as(self, caller: Caller) -> Result<Self, Errno> {
        identify(caller.uid, caller.gid);
        // It says only what was before.
        if current() == (caller.uid, caller.gid) { Ok(self) } else { Err(Errno::PERM) }
    }
}

impl Drop for Disguise {
    fn drop(&mut self) {
        identify(0, 0);
        let Some(groups) = &self.groups else { return };
        if let Err(error) = rustix::thread::set_thread_groups(groups) {
            tracing::error!(%error, "the daemon's own groups cannot be taken on again");
        }
    }
}

fn identify(uid: u32, gid: u32) {
    // SAFETY: both change the credentials of this thread alone and touch no memory. The group comes first when becoming
    // somebody else and does no harm when becoming root again: neither needs what the other takes away.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
}

/// The kernel has taken the caller's umask off already: that of the daemon must not count as well. From here on, this thread has
/// one of its own.
pub(super) fn without_umask() {
    thread_local! {
        static ALONE: bool = {
            // SAFETY: from here on this thread shares working directory and umask with no other; nothing else changes.
            let alone = unsafe { libc::unshare(libc::CLONE_FS) } == 0;
            if alone {
                rustix::process::umask(rustix::fs::Mode::empty());
            }
            alone
        };
    }
    if !ALONE.with(|alone| *alone) {
        tracing::debug!("the daemon's umask counts, too");
    }
}

fn current() -> (u32, u32) {
    // SAFETY: an id that is not valid changes nothing; the answer is the present one.
    let (uid, gid) = unsafe { (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX)) };
    (uid.cast_unsigned(), gid.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    #[test]
    fn somebody_else_for_one_operation() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        // Not TMPDIR, to which the way may be closed, as it is where Portage builds.
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let path = directory.path().join("x");
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        let create = |caller: Caller, path: &std::path::Path| {
            caller.act(|| std::fs::File::create_new(path).map(drop).map_err(|e| Errno::from_io_error(&e).unwrap()))
        };
        let nobody = Caller { uid: 65534, gid: 1234, pid: std::process::id() };
        create(nobody, &path).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (65534, 1234));
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        assert_eq!(create(nobody, &directory.path().join("y")), Err(Errno::ACCESS));
        create(Caller::DAEMON, &directory.path().join("z")).unwrap();
        assert_eq!(std::fs::metadata(directory.path().join("z")).unwrap().uid(), 0);
        let charged = nobody.charged(|| Ok::<_, Errno>((current(), rustix::process::getgroups()?)));
        assert_eq!(charged, Ok(((65534, 1234), rustix::process::getgroups().unwrap())));
        assert_eq!(current(), (0, 0));
    }
}
