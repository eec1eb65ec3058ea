//! Sends systemd's watchdog messages (`WatchdogSec=`) only while the service works: systemd kills
//! and restarts a daemon that hangs.
//!
//! The watchdog checks two paths. A task checks the runtime. statfs(2) checks the way through the
//! kernel to a FUSE thread and back; the kernel never answers that call from a cache (see
//! [`mount_probe`]).

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::systemd;
use crate::config::MountConfig;
use crate::sys::mount_probe::{self, ProbeAnswer};

/// Starts the watchdog thread, if systemd requires one. The thread runs as long as the process.
pub(crate) fn start(config: &MountConfig, is_mounted: bool) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let (config, runtime) = (is_mounted.then(|| config.clone()), tokio::runtime::Handle::current());
    let watch = move || watch(config.as_ref(), &runtime, limit);
    if let Err(error) = std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch) {
        tracing::warn!(%error, "the watchdog cannot be started; systemd will restart the service");
    }
}

/// Checks three times within the limit, so that one answer may be late. The first check comes after
/// a pause: a check keeps the mount busy, and a new mount may be about to be unmounted.
fn watch(config: Option<&MountConfig>, runtime: &tokio::runtime::Handle, limit: Duration) {
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

/// The part of the service that does not answer.
#[derive(Debug, thiserror::Error)]
enum Hang {
    #[error("its tasks do not run")]
    Tasks,
    #[error("{} cannot be asked: {source}", mountpoint.display())]
    Failed { mountpoint: PathBuf, source: std::io::Error },
    #[error("{} does not answer", .0.display())]
    Silent(PathBuf),
}

/// `config`: `None` without a mount.
fn check(config: Option<&MountConfig>, runtime: &tokio::runtime::Handle, limit: Duration) -> Result<(), Hang> {
    let (reply, answer) = mpsc::channel();
    runtime.spawn(async move { reply.send(()) });
    answer.recv_timeout(limit).map_err(|_| Hang::Tasks)?;
    let Some(config) = config else { return Ok(()) };
    let mountpoint = &config.mountpoint;
    match config.namespace.enter(|| mount_probe::probe(mountpoint, limit)) {
        Ok(Ok(ProbeAnswer::Failed(source))) => Err(Hang::Failed { mountpoint: mountpoint.clone(), source }),
        Ok(Ok(ProbeAnswer::Silent)) => Err(Hang::Silent(mountpoint.clone())),
        // A probe that cannot be started says nothing about the mount.
        Ok(Ok(ProbeAnswer::Alive) | Err(_)) | Err(_) => Ok(()),
    }
}
