//! The process gives up what the mount does not need, before it serves anybody.
//!
//! systemd's units take the same away from outside. `mount --supervise`, and with it OpenRC and fstab, has nobody who does that,
//! so the program does it itself, in the parent as well as in the daemon. What is given up already stays so: each step can be
//! done again, by the program that a reload or the parent runs.
//!
//! | step | what it is good for |
//! |---|---|
//! | capabilities | all but [`NEEDED`] are gone, also from the bounding set |
//! | NO_NEW_PRIVS | no program that is run gets more |
//! | not dumpable, no core | a core has passwords of URLs in it; nobody traces the daemon without CAP_SYS_PTRACE |
//! | refuse W^X | no memory that was written becomes code (Linux 6.3) |
//! | `seccomp` | system calls that a mount has no use for fail |
//!
//! No Landlock: a process under it cannot mount, and cannot look at processes outside its domain, as it has to for the plan of
//! an emerge and for the rights of a caller.
//!
//! Not its job: which files it sees. The units say that, with a mount namespace.

mod seccomp;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

/// What a daemon needs. The units name the same but for the last one, and a test holds both together.
const NEEDED: CapabilitySet = CapabilitySet::empty()
    // mount(2) and umount(2), also in another mount namespace; reads by the kernel alone (passthrough).
    .union(CapabilitySet::SYS_ADMIN)
    // setns(2) to the mount namespace that the mountpoint is in.
    .union(CapabilitySet::SYS_CHROOT)
    // /proc/PID of others: that namespace, the root and the environment of an emerge, the user namespace of a caller.
    .union(CapabilitySet::SYS_PTRACE)
    // The plan of an emerge, in whatever directory it lies.
    .union(CapabilitySet::DAC_READ_SEARCH)
    // Beneath the mount, what root may do through it: owners, permissions, bits. Who lacks them does not get them: `Caller`.
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    // setfsuid(2), setfsgid(2) and setgroups(2): beneath the mount, everything is done as the caller.
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    // `listen` on a port below 1024, also one that a later daemon is told of.
    .union(CapabilitySet::NET_BIND_SERVICE);

/// A core is a page at least, so that none is written to a file; and at just this limit the kernel starts no program for one
/// either, which it does at 0. Source: fs/coredump.c.
const NO_CORE: u64 = 1;

/// Gives up what is not needed, for this thread and those that it starts. To be called before there are any others.
pub fn confine() {
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
            // Neither the kernel's age nor its configuration is the administrator's to mend.
            Err(Errno::INVAL | Errno::NOSYS) => tracing::debug!("confinement: this kernel knows nothing of {what}"),
            Err(error) => tracing::warn!(%error, "confinement: {what}: the daemon keeps more rights than it needs"),
        }
    }
}

fn give_up_capabilities() -> Result<(), Errno> {
    // Beyond the last one that it knows the kernel says EINVAL.
    let all = (0..u64::BITS).map(|number| CapabilitySet::from_bits_retain(1 << number));
    let bounding = all.map_while(|one| Some((one, capability_is_in_bounding_set(one).ok()?)));
    for (one, _) in bounding.filter(|(one, there)| *there && !NEEDED.contains(*one)) {
        if let Err(error) = remove_capability_from_bounding_set(one) {
            // It takes CAP_SETPCAP. Without: no program gets what is not permitted here, after NO_NEW_PRIVS.
            tracing::debug!(%error, ?one, "confinement: it stays in the bounding set");
            break;
        }
    }
    let CapabilitySets { effective, permitted, inheritable } = capabilities(None)?;
    if NEEDED.contains(effective | permitted | inheritable) {
        // Some filters of system calls let nobody set any.
        return Ok(());
    }
    let less = CapabilitySets {
        effective: effective & NEEDED,
        permitted: permitted & NEEDED,
        inheritable: inheritable & NEEDED,
    };
    set_capabilities(None, less)
}

/// Both: where `fs.suid_dumpable` is 2, as with systemd-coredump, the kernel has a process that changes its fsuid dumped again.
fn forbid_cores() -> Result<(), Errno> {
    let limit = getrlimit(Resource::Core).maximum.map_or(NO_CORE, |hard| hard.min(NO_CORE));
    setrlimit(Resource::Core, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

fn refuse_new_code() -> Result<(), Errno> {
    let (refuse, none) = (libc::c_ulong::from(libc::PR_MDWE_REFUSE_EXEC_GAIN), 0 as libc::c_ulong);
    // SAFETY: it takes numbers, touches no memory, and is about what will be mapped.
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

    /// What is given up is not to be had again, so this one is run by the other test, in a process of its own.
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
            // SAFETY: a page of its own, which nobody else knows.
            let (page, code) = unsafe {
                let page = libc::mmap(none, 4096, writable, private, -1, 0);
                (page, libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC))
            };
            assert!(page != libc::MAP_FAILED && code == -1, "what was written becomes code");
        }
        // What is run starts, and has no more.
        let child = Command::new("cat").arg("/proc/self/status").output().unwrap();
        let status = String::from_utf8(child.stdout).unwrap();
        assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{status}");
        // However often it is confined, there is one filter more.
        assert!(filters(&status) <= before + 1, "{status}");
    }

    /// 0 before Linux 5.9.
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
