//! Tells systemd that the service does its work (`WatchdogSec=`), and only then: a daemon that hangs is killed and started again.
//!
//! Asked are both halves: the runtime, by a task of it, and the way through the kernel to a FUSE thread and back, by statfs(2),
//! which is never answered from a cache. The latter is done by a child process. A thread of this one that waits for an answer of
//! this one could not be killed, and would keep all of it from dying.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::systemd;
use crate::config::MountConfig;

/// Name of the hidden command that asks the mount.
pub const PROBE: &str = "probe";
/// How often it is looked whether the child has ended.
const POLL: Duration = Duration::from_millis(20);

/// Starts watching, where systemd asks for it. Goes on for as long as the process.
pub(super) fn start(config: &MountConfig) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let (config, runtime) = (config.clone(), tokio::runtime::Handle::current());
    let watch = move || watch(&config, &runtime, limit);
    if let Err(error) = std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch) {
        tracing::warn!(%error, "starting the watchdog; systemd will take the service for dead");
    }
}

/// Three times within the limit: one answer may come late. Not at once: whoever asks keeps the mount busy, and somebody may be
/// about to unmount what has just been mounted.
fn watch(config: &MountConfig, runtime: &tokio::runtime::Handle, limit: Duration) {
    let pause = limit / 3;
    let mut begun = Instant::now();
    systemd::tell(vec![NotifyState::Watchdog]);
    loop {
        std::thread::sleep(pause.saturating_sub(begun.elapsed()));
        begun = Instant::now();
        match check(config, runtime, limit) {
            Ok(()) => systemd::tell(vec![NotifyState::Watchdog]),
            Err(reason) => tracing::error!("the service hangs: {reason}"),
        }
    }
}

fn check(config: &MountConfig, runtime: &tokio::runtime::Handle, limit: Duration) -> Result<(), String> {
    let (reply, answer) = mpsc::channel();
    runtime.spawn(async move { reply.send(()) });
    answer.recv_timeout(limit).map_err(|_| "its tasks do not run".to_owned())?;
    let mountpoint = &config.mountpoint;
    let mut child = Command::new("/proc/self/exe");
    child.arg(PROBE).arg(mountpoint).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Without a process to spare there is nothing wrong with the mount.
    let Ok(Ok(mut child)) = config.namespace.enter(|| child.spawn()) else { return Ok(()) };
    match wait(&mut child, limit) {
        Some(true) => Ok(()),
        Some(false) => Err(format!("{} cannot be asked", mountpoint.display())),
        None => {
            // Nor is it waited for: it may not die before the mount answers.
            let _ = child.kill();
            Err(format!("{} does not answer", mountpoint.display()))
        }
    }
}

/// Whether it succeeds; `None`: it does not end.
fn wait(child: &mut Child, limit: Duration) -> Option<bool> {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.success()),
            Ok(None) => std::thread::sleep(POLL),
            Err(_) => return Some(false),
        }
    }
    None
}

/// Asks a mount for something that only its daemon knows.
///
/// # Errors
/// It is dead, or not there.
pub fn probe(mountpoint: &Path) -> std::io::Result<()> {
    rustix::fs::statfs(mountpoint)?;
    Ok(())
}
