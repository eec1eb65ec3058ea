//! Leaves the mount to the next daemon, also when this one is killed.
//!
//! * systemd's descriptor store holds the connection, its ledger and the directory beneath the mount (`FileDescriptorStoreMax=` of the unit): the daemon that
//!   is started after a crash gets them as LISTEN_FDS.
//! * `binhostfs reload` has this process run the program anew, from the path by which it was started: an upgraded one, if it was
//!   replaced. The connection stays open across exec(2), and is named in the environment. That the new program can start with
//!   the configuration as it is now is tried before: it would be too late afterwards.
//! * `mount --supervise` holds them in a parent process, for systems without systemd.

use std::ffi::OsString;
use std::fs::Metadata;
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use rustix::io::FdFlags;
use sd_notify::NotifyState;

use super::systemd;
use crate::config::{KEPT_VARIABLE, MountConfig, MountpointCheck, kept_descriptors};
use crate::fuse::{Kept, Mount};
use crate::sys::{MountNamespace, mount_on};

/// Names in systemd's store.
const DEVICE: &str = "binhostfs-fuse";
const LEDGER: &str = "binhostfs-ledger";
const BENEATH: &str = "binhostfs-beneath";
/// What the descriptors of the first two must be. Source: proc_pid_fd(5).
const DEVICE_LINK: &str = "/dev/fuse";
const LEDGER_LINK: &str = "/memfd:binhostfs-ledger";

/// How this program was started.
#[derive(Debug, Clone)]
pub struct Program {
    /// What it was called; searched for in PATH if it is no path.
    pub name: OsString,
    /// What follows `mount`.
    pub arguments: Vec<OsString>,
}

/// The connection that somebody has held for this process, of a mount in `namespace`. To be called once, and before anything else opens files.
#[must_use]
pub fn kept(namespace: &MountNamespace) -> Option<Kept> {
    if let Some((device, ledger, beneath)) = kept_descriptors() {
        let (device, ledger) = (adopt(device, DEVICE_LINK)?, adopt(ledger, LEDGER_LINK)?);
        return Some(Kept::from_descriptors((device, ledger, beneath.and_then(adopt_directory)), namespace.clone()));
    }
    let (mut device, mut ledger, mut beneath) = (None, None, None);
    for (number, name) in sd_notify::listen_fds_with_names().ok()? {
        match &*name {
            DEVICE => device = adopt(number, DEVICE_LINK),
            LEDGER => ledger = adopt(number, LEDGER_LINK),
            BENEATH => beneath = adopt_directory(number),
            _ => {}
        }
    }
    Some(Kept::from_descriptors((device?, ledger?, beneath), namespace.clone()))
}

/// What becomes of a connection that was kept, and what may be done about the mountpoint. One that cannot be gone on with is
/// taken away.
#[must_use]
pub fn take_up(kept: Option<Kept>) -> (Option<Kept>, MountpointCheck) {
    match kept {
        None => (None, MountpointCheck::Prepare),
        Some(kept) if kept.is_new() => (Some(kept), MountpointCheck::Prepare),
        Some(kept) => match kept.resumable() {
            Some(device) => (Some(kept), MountpointCheck::Kept(device)),
            None => {
                give_up(kept);
                (None, MountpointCheck::Prepare)
            }
        },
    }
}

/// The connection, if it is of the mount that is configured; else that is taken away.
#[must_use]
pub fn fitting(kept: Option<Kept>, config: &MountConfig) -> Option<Kept> {
    let kept = kept?;
    let mounted = config.namespace.enter(|| mount_on(&config.mountpoint));
    let here = mounted.ok().and_then(Result::ok).flatten().map(|mount| mount.device);
    if kept.is_new() || kept.resumable().is_some_and(|device| here == Some(device)) {
        return Some(kept);
    }
    give_up(kept);
    None
}

/// Unmounts what was kept: it is not gone on with.
pub fn give_up(kept: Kept) {
    kept.abandon();
    discard();
}

/// Takes a descriptor that was left open for us, if it is what it should be.
fn adopt(number: RawFd, link: &str) -> Option<OwnedFd> {
    let found = std::fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
    if !found.to_string_lossy().starts_with(link) {
        return None;
    }
    own(number)
}

/// The same for a directory; whether it is the right one is found out later.
fn adopt_directory(number: RawFd) -> Option<OwnedFd> {
    // Not followed: what is beneath a mount is looked at through the descriptor.
    std::fs::metadata(format!("/proc/self/fd/{number}")).ok().filter(Metadata::is_dir)?;
    own(number)
}

fn own(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: it is open, and was opened before this process began, for nobody else in it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&descriptor, FdFlags::CLOEXEC).ok()?;
    Some(descriptor)
}

/// Has systemd keep the connection.
pub(crate) fn store(mount: &Mount) {
    discard();
    let Some((device, ledger, beneath)) = mount.keep() else {
        return tracing::info!("this kernel cannot hand a mount over: a crash breaks it for those who use it");
    };
    for (descriptor, name) in [(&beneath, BENEATH), (&ledger, LEDGER), (&device, DEVICE)] {
        let state = [NotifyState::FdStore, NotifyState::FdName(name)];
        if let Err(error) = sd_notify::notify_with_fds(&state, &[descriptor.as_fd()]) {
            tracing::debug!(%error, "giving systemd the connection to keep");
        }
    }
}

/// Has systemd let go of what it keeps.
pub(crate) fn discard() {
    for name in [DEVICE, LEDGER, BENEATH] {
        systemd::notify(vec![NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
    }
}

/// Whether the program, as it is on disk now, can start with the configuration as it is now. Blocks.
pub(crate) fn try_out(program: &Program) -> Result<(), String> {
    let mut command = Command::new(&program.name);
    command.arg("check-config").args(&program.arguments).stdin(Stdio::null()).stdout(Stdio::null());
    let output = command.output().map_err(|error| format!("{}: {error}", program.name.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("it would not start: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Runs the program anew in this process. Returns only if that fails.
pub(crate) fn replace(program: &Program, mount: &Mount) -> anyhow::Error {
    let Some((device, ledger, beneath)) = mount.keep() else {
        return anyhow::anyhow!("this kernel (before Linux 6.9) cannot hand a mount over");
    };
    for descriptor in [&device, &ledger, &beneath] {
        if let Err(error) = rustix::io::fcntl_setfd(descriptor, FdFlags::empty()) {
            return error.into();
        }
    }
    let mut command = Command::new(&program.name);
    let kept = numbers([&device, &ledger, &beneath]);
    command.arg("mount").args(&program.arguments).env(KEPT_VARIABLE, kept);
    for listened in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        command.env_remove(listened);
    }
    let _paused = mount.pause();
    let error = command.exec();
    anyhow::Error::new(error).context(format!("running {}", program.name.display()))
}

fn numbers<'a>(descriptors: impl IntoIterator<Item = &'a OwnedFd>) -> String {
    use std::os::fd::AsRawFd as _;
    let numbers = descriptors.into_iter().map(|descriptor| descriptor.as_raw_fd().to_string());
    numbers.collect::<Vec<_>>().join(",")
}

/// Starts `program` with a connection that this process holds.
pub(crate) fn start(program: &Program, kept: &Kept) -> anyhow::Result<std::process::Child> {
    let (device, ledger, beneath) = kept.descriptors().context("keeping the connection")?;
    let all = || [&device, &ledger].into_iter().chain(&beneath);
    for descriptor in all() {
        rustix::io::fcntl_setfd(descriptor, FdFlags::empty()).context("keeping the connection")?;
    }
    let mut command = Command::new(&program.name);
    command.arg("mount").args(&program.arguments).env(KEPT_VARIABLE, numbers(all())).stdin(Stdio::null());
    command.spawn().with_context(|| format!("running {}", program.name.display()))
}
