//! Checks from a child process whether the daemon of a FUSE mount answers.
//!
//! If a daemon has read a request and hangs, the thread that waits for the answer is blocked, and
//! no signal ends that wait. The process of such a thread cannot exit. A child process can be left
//! behind; it ends when the mount answers or is removed.

use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Name of the program's hidden command that runs [`statfs`]. Its exit code is the errno, or 0 on
/// success.
pub(crate) const PROBE: &str = "probe";
/// How often the child process is checked for its end.
const POLL: Duration = Duration::from_millis(20);

/// Answer of a mount to the probe.
#[derive(Debug)]
pub(crate) enum ProbeAnswer {
    /// The mount's daemon works.
    Alive,
    /// statfs(2) failed with this error.
    Failed(io::Error),
    /// No answer came in time.
    Silent,
}

/// Runs this program's [`PROBE`] command on a mountpoint, in this thread's mount namespace, and
/// waits up to `limit` for it.
///
/// # Errors
/// The program cannot be started. The state of the mount is then unknown.
pub(crate) fn probe(mountpoint: &Path, limit: Duration) -> io::Result<ProbeAnswer> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(PROBE).arg(mountpoint).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let Some(status) = wait(&mut child, limit)? else {
        // The child is not awaited any longer, because it does not die before the mount answers.
        let _ = child.kill();
        return Ok(ProbeAnswer::Silent);
    };
    Ok(match status.code() {
        Some(0) => ProbeAnswer::Alive,
        Some(errno) => ProbeAnswer::Failed(io::Error::from_raw_os_error(errno)),
        None => ProbeAnswer::Failed(io::Error::other(format!("the probe ended with {status}"))),
    })
}

/// Waits for the child's exit status. `None`: the child still runs after `limit`.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() >= limit {
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// Calls statfs(2), which the kernel never answers from a cache. Returns the errno as an exit code,
/// or 0 on success.
#[must_use]
pub(crate) fn statfs(mountpoint: &Path) -> u8 {
    match rustix::fs::statfs(mountpoint) {
        Ok(_) => 0,
        // Every errno of a file system is below 256.
        Err(error) => u8::try_from(error.raw_os_error()).unwrap_or(u8::MAX),
    }
}
