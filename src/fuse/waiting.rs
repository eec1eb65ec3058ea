//! Has a caller that waits in open(2) been interrupted?
//!
//! fuser answers FUSE_INTERRUPT with ENOSYS, and a caller that is killed stays in D state until its request is answered. So
//! a waiting request looks at its caller in /proc, twenty times a second, and ends when a signal waits for it that would
//! kill it or that it handles. Signals that only tell it something (SIGCHLD, job control, a resized window) do not count:
//! Ctrl-Z and `fg` must not break an installation.

use std::time::Duration;

/// How often to look.
pub(super) const POLL: Duration = Duration::from_millis(50);

const SIGNALS_THAT_DO_NOT_COUNT: [i32; 8] = [
    libc::SIGCHLD,
    libc::SIGCONT,
    libc::SIGSTOP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGURG,
    libc::SIGWINCH,
];

/// Ends when thread `tid` is interrupted or gone. Never ends for 0, a caller in a pid namespace that we do not see.
pub(super) async fn interrupted(tid: u32) {
    if tid == 0 {
        return std::future::pending().await;
    }
    let path = format!("/proc/{tid}/status");
    loop {
        tokio::time::sleep(POLL).await;
        // A file of /proc is made while it is read, from memory: this does not block.
        match std::fs::read_to_string(&path) {
            Ok(status) if !is_interrupted(&status) => {}
            _ => return,
        }
    }
}

/// Source: proc_pid_status(5); bit n-1 stands for signal n.
fn is_interrupted(status: &str) -> bool {
    let mask = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default()
    };
    let pending = mask("SigPnd:") | mask("ShdPnd:");
    let deaf = mask("SigBlk:") | mask("SigIgn:");
    let quiet = SIGNALS_THAT_DO_NOT_COUNT.iter().fold(0, |mask, signal| mask | bit(*signal));
    pending & (!deaf & !quiet | bit(libc::SIGKILL)) != 0
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_signals_end_a_wait() {
        let status = |pending: u64, shared: u64, blocked: u64, ignored: u64| {
            format!(
                "Name:\tx\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\n"
            )
        };
        let (int, kill, child, tstp) = (bit(libc::SIGINT), bit(libc::SIGKILL), bit(libc::SIGCHLD), bit(libc::SIGTSTP));
        assert!(is_interrupted(&status(int, 0, 0, 0)));
        assert!(is_interrupted(&status(0, int, 0, 0)));
        assert!(is_interrupted(&status(kill, 0, u64::MAX, 0)));
        assert!(!is_interrupted(&status(0, 0, 0, 0)));
        assert!(!is_interrupted(&status(int, 0, int, 0)));
        assert!(!is_interrupted(&status(0, int, 0, int)));
        assert!(!is_interrupted(&status(child | tstp, child, 0, 0)));
        assert!(!is_interrupted("nonsense"));
    }
}
