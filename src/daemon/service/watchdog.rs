//! Tells systemd that the service does its work (`WatchdogSec=`), and only then: a daemon that hangs is killed and started again.
//!
//! Asked are both halves: the runtime, by a task of it, and the way through the kernel to a FUSE thread and back, by statfs(2),
//! which is never answered from a cache (see [`mount_probe`]).

use std::sync::mpsc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::systemd;
use crate::config::MountConfig;
use crate::sys::mount_probe::{self, ProbeAnswer};

/// Starts watching, where systemd asks for it. Goes on for as long as the process.
pub(crate) fn start(config: &MountConfig) {
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
    systemd::notify(vec![NotifyState::Watchdog]);
    loop {
        std::thread::sleep(pause.saturating_sub(begun.elapsed()));
        begun = Instant::now();
        match check(config, runtime, limit) {
            Ok(()) => systemd::notify(vec![NotifyState::Watchdog]),
            Err(reason) => tracing::error!("the service hangs: {reason}"),
        }
    }
}

fn check(config: &MountConfig, runtime: &tokio::runtime::Handle, limit: Duration) -> Result<(), String> {
    let (reply, answer) = mpsc::channel();
    runtime.spawn(async move { reply.send(()) });
    answer.recv_timeout(limit).map_err(|_| "its tasks do not run".to_owned())?;
    let mountpoint = &config.mountpoint;
    match config.namespace.enter(|| mount_probe::probe(mountpoint, limit)) {
        Ok(Ok(ProbeAnswer::Failed(error))) => Err(format!("{} cannot be asked: {error}", mountpoint.display())),
        Ok(Ok(ProbeAnswer::Silent)) => Err(format!("{} does not answer", mountpoint.display())),
        // Without a process to spare there is nothing wrong with the mount.
        Ok(Ok(ProbeAnswer::Alive) | Err(_)) | Err(_) => Ok(()),
    }
}
