//! Doing something as whoever asked for it.
//!
//! The daemon is root, and the kernel leaves permissions to us: the mount is without `default_permissions`, since with it
//! root could not be told that remote packages are not to be written. So a thread takes on the caller's user, group, groups and
//! capabilities for the length of an operation, and the file system beneath decides, charges quotas and sets owners as it would
//! without a mount.
//!
//! Of capabilities a caller never has more than the user id alone would give: those of root, and of these only what its thread has
//! in effect. Who is not root has none, whatever its thread has; nor has root of another user namespace, which the kernel shows
//! with all of them; nor has a thread that the daemon cannot see.

use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::process::{Gid, Pid, getpid};
use rustix::thread::{CapabilitySet, capabilities};

use super::assumed_credentials::AssumedCredentials;

/// What root may do with files that others may not. The kernel takes it from a thread whose fsuid is another's. Source:
/// capabilities(7), "Effect of user ID changes on capabilities".
const RIGHTS_OF_ROOT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// User id, as the daemon's user namespace has it.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Thread id; 0 where we do not see it. The thread waits until it is answered, so that nobody else has its number.
    pub pid: u32,
    /// It is the daemon itself.
    own: bool,
}

impl Caller {
    /// The daemon itself.
    pub const DAEMON: Self = Self { uid: 0, gid: 0, pid: 0, own: true };

    /// A thread that has called the kernel.
    #[must_use]
    pub fn of_thread(pid: u32, (uid, gid): (u32, u32)) -> Self {
        Self { uid, gid, pid, own: false }
    }

    /// Does `work` as the caller.
    ///
    /// # Errors
    /// That of `work`; EPERM where the daemon may not become somebody else.
    pub(super) fn act<T>(self, work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let lacks = if self.uid == 0 { RIGHTS_OF_ROOT - self.rights() } else { CapabilitySet::empty() };
        if self.uid == 0 && self.gid == 0 && lacks.is_empty() {
            return work();
        }
        let mut disguise = AssumedCredentials::default();
        // They do not matter to root, who has the rights of all.
        if self.uid != 0 || !lacks.is_empty() {
            disguise.put_on_groups(&self.groups())?;
        }
        disguise.put_on(self.uid, self.gid)?;
        disguise.put_off(lacks)?;
        work()
    }

    /// Does `work` on an open file, which nobody has to be permitted any more, so that the caller is charged for what it takes:
    /// quotas hold, and what a file system keeps for root is kept. Groups and capabilities do not count there.
    ///
    /// # Errors
    /// That of `work`; EPERM where the daemon may not become somebody else.
    pub fn charged<T, E: From<Errno>>(self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if self.uid == 0 {
            return work();
        }
        let mut disguise = AssumedCredentials::default();
        disguise.put_on(self.uid, self.gid)?;
        work()
    }

    /// Whether everything beneath is as good as the caller's own (CAP_FOWNER).
    pub(super) fn owns_all(self) -> bool {
        self.rights().contains(CapabilitySet::FOWNER)
    }

    /// Of the rights of root, those that the caller has.
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

    /// Supplementary groups, as far as they can be seen. Source: proc_pid_status(5).
    fn groups(self) -> Vec<Gid> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
        line.split_whitespace().filter_map(|group| group.parse().ok()).map(Gid::from_raw).collect()
    }
}

/// Whether the daemon can see what rights a caller has.
#[must_use]
pub fn sees_callers() -> bool {
    let may = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_PTRACE));
    may && own_user_namespace().is_some()
}

fn is_in_own_user_namespace(thread: u32) -> bool {
    let own = own_user_namespace();
    own.is_some() && user_namespace(&thread.to_string()).as_ref() == own
}

/// `None`: /proc is not that of this pid namespace, and shows others under the numbers of callers.
fn own_user_namespace() -> Option<&'static PathBuf> {
    static OWN: OnceLock<Option<PathBuf>> = OnceLock::new();
    let own = OWN.get_or_init(|| {
        let named = std::fs::read_link("/proc/self").ok()?;
        let own = named.to_str() == Some(&getpid().as_raw_nonzero().to_string());
        own.then(|| user_namespace("self")).flatten()
    });
    own.as_ref()
}

/// `user:[4026531837]`, which no other has at the same time: a quarter of what stat(2) of it takes. Source: namespaces(7).
fn user_namespace(thread: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{thread}/ns/user")).ok()
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

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use super::super::assumed_credentials::current;
    use super::*;

    fn create(caller: Caller, path: &Path) -> Result<(), Errno> {
        caller.act(|| std::fs::File::create_new(path).map(drop).map_err(|e| Errno::from_io_error(&e).unwrap()))
    }

    /// A process that waits, and is ended when dropped.
    struct Waits(Child);

    impl Waits {
        fn run_by(words: &[&str]) -> Self {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).args(["sh", "-c", "echo; exec cat"]);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            // It runs.
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
        // Not TMPDIR, to which the way may be closed, as it is where Portage builds.
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
        // It has all of them there.
        assert_eq!(of(&["unshare", "--user", "--map-root-user"]), CapabilitySet::empty());
        // Nobody is seen, and nobody is there.
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
