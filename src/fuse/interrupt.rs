//! Detects whether a caller that waits in open(2) was interrupted.
//!
//! fuser answers FUSE_INTERRUPT with ENOSYS, and a killed caller stays in D state until its request
//! is answered. So a waiting request looks at its caller in /proc, twenty times a second. The wait
//! ends when a signal is pending that would kill the caller or that it handles. Signals that only
//! inform it (SIGCHLD, job control, a resized window) do not count: Ctrl-Z and `fg` must not break
//! an installation.
//!
//! A look costs some 20 us. Where many requests wait, each looks less often: the requests of one
//! user together look at most [`LOOKS_OF_USER`] times a second, all requests together at most
//! [`LOOKS`] times.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

/// Time between two looks, if few requests wait.
pub(super) const POLL: Duration = Duration::from_millis(50);
/// Most looks a second at the callers of one user.
const LOOKS_OF_USER: u32 = 1000;
/// Most looks a second at all callers.
const LOOKS: u32 = 4000;

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

/// Number of waiting requests by user.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<HashMap<u32, u32>>);

impl Waiting {
    /// Counts one more request of user `uid`, until the returned guard is dropped.
    fn enter(&self, uid: u32) -> Entered<'_> {
        *self.counts().entry(uid).or_default() += 1;
        Entered { waiting: self, uid }
    }

    /// How long a request of user `uid` waits before it looks at its caller.
    fn pause(&self, uid: u32) -> Duration {
        let counts = self.counts();
        let own = counts.get(&uid).copied().unwrap_or_default();
        let all = counts.values().fold(0, |sum: u32, count| sum.saturating_add(*count));
        drop(counts);
        POLL.max(Duration::from_secs(1) * own / LOOKS_OF_USER).max(Duration::from_secs(1) * all / LOOKS)
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<u32, u32>> {
        self.0.lock()
    }
}

struct Entered<'a> {
    waiting: &'a Waiting,
    uid: u32,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut counts = self.waiting.counts();
        match counts.get_mut(&self.uid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                counts.remove(&self.uid);
            }
        }
    }
}

/// Returns when thread `tid` of user `uid` is interrupted or has exited. Never returns for `tid` 0,
/// a caller in a pid namespace that this process cannot see.
pub(super) async fn interrupted(waiting: &Waiting, tid: u32, uid: u32) {
    if tid == 0 {
        return std::future::pending().await;
    }
    let _entered = waiting.enter(uid);
    let path = format!("/proc/{tid}/status");
    loop {
        tokio::time::sleep(waiting.pause(uid)).await;
        // The kernel makes a file of /proc from memory while it is read, so this read does not
        // block.
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
    fn many_who_wait_look_less_often() {
        let waiting = Waiting::default();
        let few: Vec<_> = (0..50).map(|_| waiting.enter(7)).collect();
        assert_eq!((waiting.pause(7), waiting.pause(8)), (POLL, POLL));
        let many: Vec<_> = (0..10_000).map(|_| waiting.enter(8)).collect();
        // A request of another user waits no longer than the limit for all looks requires.
        assert_eq!(
            (waiting.pause(8), waiting.pause(7)),
            (Duration::from_secs(10), Duration::from_secs(10_050) / LOOKS)
        );
        drop(many);
        assert_eq!(waiting.pause(7), POLL);
        drop(few);
        assert!(waiting.counts().is_empty());
    }

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
