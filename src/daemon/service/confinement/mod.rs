//! Gives up the rights that the mount does not need, before the process serves any request.
//!
//! systemd's units remove the same rights from outside. `mount --supervise`, as OpenRC and fstab
//! use it, has no such help. So the program gives up its rights itself, in the parent as well as in
//! the daemon. Each step can be repeated, by the program that a reload or the parent executes.
//!
//! | step | purpose |
//! |---|---|
//! | capabilities | all but [`NEEDED`] are dropped, also from the bounding set |
//! | NO_NEW_PRIVS | no program that is executed gains rights |
//! | not dumpable, no core | a core has passwords of URLs in it; tracing takes CAP_SYS_PTRACE |
//! | refuse W^X | memory that was written cannot become executable (Linux 6.3) |
//! | `seccomp` | system calls that a mount does not use fail |
//!
//! Landlock is not used: a process under Landlock cannot mount, and cannot inspect processes
//! outside its domain. The daemon has to inspect them for the plan of an emerge and for the rights
//! of a caller.
//!
//! Not its job: which files the process sees. The units restrict them, with a mount namespace.

mod seccomp;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

/// Capabilities of a daemon. The units list the same ones except the last; a test compares the two.
const NEEDED: CapabilitySet = CapabilitySet::empty()
    // mount(2) and umount(2), also in another mount namespace; reads that bypass the daemon
    // (passthrough).
    .union(CapabilitySet::SYS_ADMIN)
    // setns(2) into the mount namespace of the mountpoint.
    .union(CapabilitySet::SYS_CHROOT)
    // /proc/PID of other processes: that namespace, the root and environment of an emerge, the user
    // namespace of a caller.
    .union(CapabilitySet::SYS_PTRACE)
    // Reading the plan of an emerge, in any directory.
    .union(CapabilitySet::DAC_READ_SEARCH)
    // For owners, permissions and mode bits in the lower directory: root may change them through
    // the mount. A caller without these capabilities gains none: `Caller`.
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    // setfsuid(2), setfsgid(2) and setgroups(2): all work in the lower directory runs as the
    // caller.
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    // `listen` on a port below 1024, also on one that only a later daemon's configuration has.
    .union(CapabilitySet::NET_BIND_SERVICE);

/// A core has at least one page, so no core file is written with this limit. At exactly this limit
/// the kernel starts no program for a core either; at 0 the kernel would start one. Source:
/// fs/coredump.c.
const NO_CORE: u64 = 1;

/// Gives up rights for this thread and the threads that it starts. Call this before any other
/// thread exists.
pub(crate) fn confine() {
    let steps: [(&str, Result<(), Errno>); 5] = [
        ("capabilities", give_up_capabilities()),
        ("NO_NEW_PRIVS", set_no_new_privs(true)),
        ("core dumps", forbid_cores()),
        ("system calls", seccomp::refuse_useless_calls()),
        ("memory that becomes code", refuse_new_code()),
    ];
    for (what, outcome) in steps {
        match outcome {
            Ok(()) => {}
            // No warning: the kernel's version and configuration are no mistakes of the
            // administrator.
            Err(Errno::INVAL | Errno::NOSYS) => tracing::debug!("confinement: this kernel knows nothing of {what}"),
            Err(error) => tracing::warn!(%error, "confinement: {what}: the daemon keeps more rights than it needs"),
        }
    }
}

fn give_up_capabilities() -> Result<(), Errno> {
    // For a capability beyond the last one that it knows, the kernel returns EINVAL.
    let all = (0..u64::BITS).map(|number| CapabilitySet::from_bits_retain(1 << number));
    let bounding = all.map_while(|one| Some((one, capability_is_in_bounding_set(one).ok()?)));
    for (one, _) in bounding.filter(|(one, there)| *there && !NEEDED.contains(*one)) {
        if let Err(error) = remove_capability_from_bounding_set(one) {
            // Removing a capability takes CAP_SETPCAP. Without it, NO_NEW_PRIVS still prevents that
            // a program gains capabilities.
            tracing::debug!(%error, ?one, "confinement: it stays in the bounding set");
            break;
        }
    }
    let CapabilitySets { effective, permitted, inheritable } = capabilities(None)?;
    if NEEDED.contains(effective | permitted | inheritable) {
        // Some filters of system calls refuse every capset(2).
        return Ok(());
    }
    let less = CapabilitySets {
        effective: effective & NEEDED,
        permitted: permitted & NEEDED,
        inheritable: inheritable & NEEDED,
    };
    set_capabilities(None, less)
}

/// Sets both the limit and the dumpable flag. If `fs.suid_dumpable` is 2, as with systemd-coredump,
/// the kernel makes a process dumpable again that changes its fsuid.
fn forbid_cores() -> Result<(), Errno> {
    let limit = getrlimit(Resource::Core).maximum.map_or(NO_CORE, |hard| hard.min(NO_CORE));
    setrlimit(Resource::Core, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

fn refuse_new_code() -> Result<(), Errno> {
    let (refuse, none) = (libc::c_ulong::from(libc::PR_MDWE_REFUSE_EXEC_GAIN), 0 as libc::c_ulong);
    // SAFETY: the call takes numbers, accesses no memory, and affects only future mappings.
    let set = unsafe { libc::prctl(libc::PR_SET_MDWE, refuse, none, none, none) };
    if set == 0 { Ok(()) } else { Err(last_error()) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::process::dumpable_behavior;
    use rustix::thread::no_new_privs;

    use super::*;

    /// The process cannot regain these rights, so the other test runs this one in a process of its
    /// own.
    #[test]
    #[ignore = "run by the other test"]
    fn confined() {
        let before = filters(&std::fs::read_to_string("/proc/self/status").unwrap());
        for _ in 0..3 {
            confine();
            let sets = capabilities(None).unwrap();
            assert!(NEEDED.contains(sets.permitted) && sets.effective == sets.permitted, "{sets:?}");
            assert!(!capability_is_in_bounding_set(CapabilitySet::SYS_RESOURCE).unwrap());
            assert!(no_new_privs().unwrap());
            assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable));
            assert!(getrlimit(Resource::Core).maximum.is_some_and(|limit| limit <= NO_CORE));
            assert!(seccomp::refuses());
            let writable = libc::PROT_READ | libc::PROT_WRITE;
            let (private, none) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, std::ptr::null_mut());
            // SAFETY: the page is new, and nothing else refers to it.
            let (page, code) = unsafe {
                let page = libc::mmap(none, 4096, writable, private, -1, 0);
                (page, libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC))
            };
            assert!(page != libc::MAP_FAILED && code == -1, "what was written becomes code");
        }
        // A child process starts, and has no more rights.
        let child = Command::new("cat").arg("/proc/self/status").output().unwrap();
        let status = String::from_utf8(child.stdout).unwrap();
        assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{status}");
        // Any number of calls adds at most one filter.
        assert!(filters(&status) <= before + 1, "{status}");
    }

    /// The number of seccomp filters; 0 before Linux 5.9.
    fn filters(status: &str) -> u32 {
        status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:\t")?.parse().ok()).unwrap_or_default()
    }

    #[test]
    fn what_is_given_up_is_gone_for_good() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let arguments = [
            "--exact",
            "daemon::service::confinement::tests::confined",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ];
        let output = Command::new("/proc/self/exe").args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
}
