//! Installs a filter of system calls with seccomp(2).
//!
//! The filter lists the calls that it refuses, and allows the rest. A list of all calls that a libc
//! makes would have to follow its versions and every architecture. The filter refuses calls that
//! help an intruder, with the daemon's capabilities or without them:
//!
//! * access to memory, descriptors and keys of other processes, to files by handle, and to the
//!   kernel log;
//! * loading code into the kernel, and setting the host name, swap and quotas;
//! * changing the root directory, and bypassing the filter (io_uring).

use libc::c_long;
use rustix::io::Errno;

use super::last_error;

/// Architecture code with which a filter separates the call numbers of architectures. Source:
/// linux/audit.h, linux/elf-em.h.
#[cfg(target_endian = "little")]
const ARCHITECTURE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xC000_003E)
} else if cfg!(target_arch = "x86") {
    Some(0x4000_0003)
} else if cfg!(target_arch = "aarch64") {
    Some(0xC000_00B7)
} else if cfg!(target_arch = "arm") {
    Some(0x4000_0028)
} else if cfg!(target_arch = "riscv64") {
    Some(0xC000_00F3)
} else if cfg!(target_arch = "loongarch64") {
    Some(0xC000_0102)
} else if cfg!(target_arch = "powerpc64") {
    Some(0xC000_0015)
} else {
    None
};
#[cfg(target_endian = "big")]
const ARCHITECTURE: Option<u32> = None;

/// Bit in the numbers of x32 calls. Calls of x86-64 have the same architecture code, but not this
/// bit.
const X32: u32 = 0x4000_0000;

const REFUSED: [c_long; 25] = [
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_fanotify_init,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_userfaultfd,
];

/// Makes the refused calls fail with EPERM, in this thread and all threads that it starts, unless
/// they fail already.
pub(crate) fn refuse_useless_calls() -> Result<(), Errno> {
    let Some(architecture) = ARCHITECTURE.filter(|_| !refuses()) else { return Ok(()) };
    let mut program = program(architecture);
    let length = u16::try_from(program.len()).map_err(|_| Errno::TOOBIG)?;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // Without this flag, kernels before 5.16 also disable speculation, which is slow.
    let (add, flags) = (libc::SECCOMP_SET_MODE_FILTER as c_long, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW);
    // SAFETY: the kernel copies the program, whose length is correct and which outlives the call.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, add, flags, &raw const program) };
    if set == 0 { Ok(()) } else { Err(last_error()) }
}

/// Whether a filter is active: an own one, one from a parent process or from before exec(2), or
/// systemd's.
pub(crate) fn refuses() -> bool {
    let (request, nobody, nothing) = (libc::PTRACE_CONT as c_long, 0 as c_long, 0 as c_long);
    // SAFETY: process 0 does not exist, so without a filter the kernel returns ESRCH.
    let asked = unsafe { libc::syscall(libc::SYS_ptrace, request, nobody, nothing, nothing) };
    asked == -1 && last_error() == Errno::PERM
}

/// The filter as classic BPF over seccomp_data. Source: linux/seccomp.h, linux/filter.h.
fn program(architecture: u32) -> Vec<libc::sock_filter> {
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    let load = |offset| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    let jump = |test, value, if_so, else_| step(libc::BPF_JMP | test | libc::BPF_K, value, if_so, else_);
    let answer = |answer| step(libc::BPF_RET | libc::BPF_K, answer, 0, 0);
    let refuse = || answer(libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned());
    let allow = || answer(libc::SECCOMP_RET_ALLOW);
    // The numbers of another architecture mean other calls.
    let mut program = vec![load(ARCHITECTURE), jump(libc::BPF_JEQ, architecture, 1, 0), refuse(), load(NUMBER)];
    if cfg!(target_arch = "x86_64") {
        program.extend([jump(libc::BPF_JGE, X32, 0, 1), refuse()]);
    }
    for number in REFUSED {
        program.extend([jump(libc::BPF_JEQ, number as u32, 0, 1), refuse()]);
    }
    program.push(allow());
    program
}

fn step(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    // All BPF codes used here are below 256.
    libc::sock_filter { code: code as u16, jt, jf, k }
}
