//! Runs an operation with the credentials of its caller.
//!
//! The daemon is root, and the kernel leaves permission checks to the daemon. The mount lacks
//! `default_permissions`, because with that option root could not be refused a write to a remote
//! package. So a thread assumes the caller's user, group, groups and capabilities for the length of
//! an operation. The lower file system then checks permissions, charges quotas and sets owners as
//! it would without a mount.
//!
//! A caller never gets more capabilities than its user id alone would give: root's, and of these
//! only those that its thread has in effect. The following callers get none:
//!
//! - a user other than root, whatever capabilities its thread has;
//! - root of another user namespace, whose threads the kernel reports with all capabilities;
//! - a thread that the daemon cannot see.

use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::process::{Gid, Pid, getpid};
use rustix::thread::{CapabilitySet, capabilities};

use crate::sys::assumed_credentials::AssumedCredentials;

/// The capabilities over files that root has and other users do not. The kernel takes them from a
/// thread whose fsuid is not 0. Source: capabilities(7), "Effect of user ID changes on
/// capabilities".
const RIGHTS_OF_ROOT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// The thread that makes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    /// User id in the daemon's user namespace.
    pub uid: u32,
    /// Group id in the daemon's user namespace.
    pub gid: u32,
    /// Thread id; 0 where the daemon cannot see the thread. The thread waits for its answer, so no
    /// other thread can get this number meanwhile.
    pub pid: u32,
    /// Whether the daemon itself is the caller.
    own: bool,
}

impl Caller {
    /// The daemon itself, with all of root's rights.
    pub(crate) const DAEMON: Self = Self { uid: 0, gid: 0, pid: 0, own: true };

    /// A thread that has made a system call on the mount.
    #[must_use]
    pub(crate) fn of_thread(pid: u32, (uid, gid): (u32, u32)) -> Self {
        Self { uid, gid, pid, own: false }
    }

    /// Runs `work` with the caller's credentials.
    ///
    /// # Errors
    /// The error of `work`; EPERM where the daemon may not assume the credentials.
    pub(super) fn act<T>(self, work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let lacks = if self.uid == 0 { RIGHTS_OF_ROOT - self.rights() } else { CapabilitySet::empty() };
        if self.uid == 0 && self.gid == 0 && lacks.is_empty() {
            return work();
        }
        let mut disguise = AssumedCredentials::default();
        // Groups do not matter to root with all its capabilities, because it may access any file.
        if self.uid != 0 || !lacks.is_empty() {
            disguise.put_on_groups(&self.groups())?;
        }
        disguise.put_on(self.uid, self.gid)?;
        disguise.put_off(lacks)?;
        work()
    }

    /// Runs `work` on an open file and charges the caller for the space that it takes. Access was
    /// checked at open, so groups and capabilities do not matter here. Quotas and the blocks that a
    /// file system reserves for root hold as usual.
    ///
    /// # Errors
    /// The error of `work`; EPERM where the daemon may not assume the credentials.
    pub(crate) fn charged<T, E: From<Errno>>(self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if self.uid == 0 {
            return work();
        }
        let mut disguise = AssumedCredentials::default();
        disguise.put_on(self.uid, self.gid)?;
        work()
    }

    /// Whether the caller may act as the owner of a file of user `uid`.
    #[must_use]
    pub(crate) fn owns(self, uid: u32) -> bool {
        self.uid == uid || self.owns_all()
    }

    /// Whether the caller may act as the owner of any file in the lower directory (CAP_FOWNER).
    pub(super) fn owns_all(self) -> bool {
        self.rights().contains(CapabilitySet::FOWNER)
    }

    /// The subset of `RIGHTS_OF_ROOT` that the caller has.
    fn rights(self) -> CapabilitySet {
        if self.own {
            return RIGHTS_OF_ROOT;
        }
        if self.uid != 0 {
            return CapabilitySet::empty();
        }
        let thread = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let in_effect = thread.and_then(|thread| capabilities(Some(thread)).ok());
        let rights = in_effect.map_or(CapabilitySet::empty(), |sets| sets.effective & RIGHTS_OF_ROOT);
        if rights.is_empty() || is_in_own_user_namespace(self.pid) { rights } else { CapabilitySet::empty() }
    }

    /// The caller's supplementary groups; none where /proc does not show the thread. Source:
    /// proc_pid_status(5).
    fn groups(self) -> Vec<Gid> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
        line.split_whitespace().filter_map(|group| group.parse().ok()).map(Gid::from_raw).collect()
    }
}

/// Whether the daemon can read the capabilities and the user namespace of its callers.
#[must_use]
pub(crate) fn sees_callers() -> bool {
    let may = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_PTRACE));
    may && own_user_namespace().is_some()
}

fn is_in_own_user_namespace(thread: u32) -> bool {
    let own = own_user_namespace();
    own.is_some() && user_namespace(&thread.to_string()).as_ref() == own
}

/// The daemon's user namespace. `None`: /proc belongs to another pid namespace and shows other
/// processes under the callers' ids.
fn own_user_namespace() -> Option<&'static PathBuf> {
    static OWN: OnceLock<Option<PathBuf>> = OnceLock::new();
    let own = OWN.get_or_init(|| {
        let named = std::fs::read_link("/proc/self").ok()?;
        let own = named.to_str() == Some(&getpid().as_raw_nonzero().to_string());
        own.then(|| user_namespace("self")).flatten()
    });
    own.as_ref()
}

/// The name of a thread's user namespace, such as `user:[4026531837]`, which is unique at any
/// moment. Reading the link takes a quarter of the time of stat(2). Source: namespaces(7).
fn user_namespace(thread: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{thread}/ns/user")).ok()
}

/// Gives this thread its own, empty umask from here on. The kernel has already applied the caller's
/// umask; the daemon's must not be applied as well.
pub(super) fn without_umask() {
    thread_local! {
        static ALONE: bool = {
            // SAFETY: from here on this thread shares its working directory and umask with no other
            // thread; nothing else changes.
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

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::sys::assumed_credentials::current;

    fn create(caller: Caller, path: &Path) -> Result<(), Errno> {
        caller.act(|| std::fs::File::create_new(path).map(drop).map_err(|e| Errno::from_io_error(&e).unwrap()))
    }

    /// A process that sleeps until the value is dropped, which ends it.
    struct Waits(Child);

    impl Waits {
        fn run_by(words: &[&str]) -> Self {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).args(["sh", "-c", "echo; exec cat"]);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            // Wait until the process runs.
            std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut [0]).unwrap();
            Self(child)
        }

        fn as_root(&self) -> Caller {
            Caller::of_thread(self.0.id(), (0, 0))
        }
    }

    impl Drop for Waits {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn somebody_else_for_one_operation() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        // Not TMPDIR: other users may be unable to search a directory above it, as where Portage
        // builds.
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let path = directory.path().join("x");
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        let nobody = Caller::of_thread(std::process::id(), (65534, 1234));
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

    #[test]
    fn root_has_what_its_thread_has() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let own = capabilities(None).unwrap().effective & RIGHTS_OF_ROOT;
        let of = |words: &[&str]| Waits::run_by(words).as_root().rights();
        assert_eq!(of(&["env"]), own);
        assert_eq!(of(&["setpriv", "--bounding-set", "-all"]), CapabilitySet::empty());
        let one = ["setpriv", "--bounding-set", "-all,+chown", "--inh-caps", "-all,+chown"];
        assert_eq!(of(&one), CapabilitySet::CHOWN & own);
        // Root of another user namespace has all capabilities there.
        assert_eq!(of(&["unshare", "--user", "--map-root-user"]), CapabilitySet::empty());
        // Thread id 0 stands for a thread that cannot be seen, and the other id is unused.
        for pid in [0, u32::MAX, i32::MAX.cast_unsigned()] {
            assert_eq!(Caller::of_thread(pid, (0, 0)).rights(), CapabilitySet::empty());
        }
        let ambient = ["setpriv", "--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--reuid=65534"];
        let ambient = Waits::run_by(&ambient);
        assert_eq!(Caller::of_thread(ambient.0.id(), (65534, 0)).rights(), CapabilitySet::empty());
        assert!(sees_callers());
    }

    #[test]
    fn what_is_put_off_is_had_again_afterwards() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        std::os::unix::fs::chown(directory.path(), Some(65534), Some(65534)).unwrap();
        let before = (capabilities(None), rustix::process::getgroups());
        let powerless = Waits::run_by(&["setpriv", "--groups=4321", "--bounding-set", "-all"]);
        let path = directory.path().join("x");
        assert_eq!(create(powerless.as_root(), &path), Err(Errno::ACCESS));
        let groups = powerless.as_root().act(rustix::process::getgroups);
        assert_eq!(groups, Ok(vec![Gid::from_raw(4321)]));
        assert_eq!((capabilities(None), rustix::process::getgroups()), before);
        create(Caller::of_thread(std::process::id(), (0, 0)), &path).unwrap();
    }
}
