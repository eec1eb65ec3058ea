//! Asks a FUSE mount, from a child process, whether its daemon answers.
//!
//! A daemon that has read a request and hangs blocks the thread that waits for the answer, and no signal ends that wait: the
//! process of this thread could not exit any more. A child process can be left behind; it ends when the mount answers or goes.

use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Name of the program's hidden command that runs [`statfs`]; its exit code is the errno, 0 if there was none.
pub const PROBE: &str = "probe";
/// How often the child is looked at.
const POLL: Duration = Duration::from_millis(20);

/// What a mount answered.
#[derive(Debug)]
pub enum ProbeAnswer {
    /// Its daemon works.
    Alive,
    /// statfs(2) failed.
    Failed(io::Error),
    /// No answer came in time.
    Silent,
}

/// Runs this program's [`PROBE`] command on a mountpoint, in this thread's mount namespace, and waits for it for up to `limit`.
///
/// # Errors
/// The program cannot be started: nothing is known of the mount.
pub fn probe(mountpoint: &Path, limit: Duration) -> io::Result<ProbeAnswer> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(PROBE).arg(mountpoint).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let Some(status) = wait(&mut child, limit)? else {
        // Not waited for any longer: it does not die before the mount answers.
        let _ = child.kill();
        return Ok(ProbeAnswer::Silent);
    };
    Ok(match status.code() {
        Some(0) => ProbeAnswer::Alive,
        Some(errno) => ProbeAnswer::Failed(io::Error::from_raw_os_error(errno)),
        None => ProbeAnswer::Failed(io::Error::other(format!("the probe ended with {status}"))),
    })
}

/// How the child ended; `None`: it runs on.
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

/// Calls statfs(2), which the kernel never answers from a cache, and returns its errno as an exit code, 0 if there was none.
#[must_use]
pub fn statfs(mountpoint: &Path) -> u8 {
    match rustix::fs::statfs(mountpoint) {
        Ok(_) => 0,
        // Every errno of a file system is below 256.
        Err(error) => u8::try_from(error.raw_os_error()).unwrap_or(u8::MAX),
    }
}
