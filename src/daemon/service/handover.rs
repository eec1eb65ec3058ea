//! Hands the mount over to the next daemon, also when this one is killed.
//!
//! * systemd's descriptor store holds the connection, its handover log and the lower directory
//!   (`FileDescriptorStoreMax=` of the unit). The daemon that systemd starts after a crash gets
//!   them as LISTEN_FDS.
//! * `binhostfs reload` makes this process execute the program again, from the path by which it was
//!   started: an upgraded one, if the file was replaced. The connection stays open across exec(2);
//!   an environment variable has its descriptor numbers. The old program first tests that the new
//!   one can start with the current configuration: after exec(2) a failure could not be undone.
//! * `mount --supervise` holds the descriptors in a parent process, for systems without systemd.

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

/// Names of the descriptors in systemd's store.
const DEVICE: &str = "binhostfs-fuse";
const LOG: &str = "binhostfs-handover";
const BENEATH: &str = "binhostfs-beneath";
/// Targets of /proc/self/fd that the first two descriptors must have. Source: proc_pid_fd(5).
const DEVICE_LINK: &str = "/dev/fuse";
const LOG_LINK: &str = "/memfd:binhostfs-handover";

/// The command line that started this program.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// Name of the program, searched for in PATH if it has no slash.
    pub name: OsString,
    /// Arguments of the program after `mount`.
    pub arguments: Vec<OsString>,
}

/// Finds the connection that systemd or a parent has held for this process, of a mount in
/// `namespace`. Call this once, and before anything else opens files.
#[must_use]
pub(crate) fn kept(namespace: &MountNamespace) -> Option<Kept> {
    if let Some((device, log, beneath)) = kept_descriptors() {
        let (device, log) = (adopt(device, DEVICE_LINK)?, adopt(log, LOG_LINK)?);
        return Some(Kept::from_descriptors((device, log, beneath.and_then(adopt_directory)), namespace.clone()));
    }
    let (mut device, mut log, mut beneath) = (None, None, None);
    for (number, name) in sd_notify::listen_fds_with_names().ok()? {
        match &*name {
            DEVICE => device = adopt(number, DEVICE_LINK),
            LOG => log = adopt(number, LOG_LINK),
            BENEATH => beneath = adopt_directory(number),
            _ => {}
        }
    }
    Some(Kept::from_descriptors((device?, log?, beneath), namespace.clone()))
}

/// Checks a kept connection, and returns what the start may do about the mountpoint. A connection
/// that cannot be continued is unmounted.
#[must_use]
pub(crate) fn take_up(kept: Option<Kept>) -> (Option<Kept>, MountpointCheck) {
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

/// Returns the connection if it belongs to the configured mount; otherwise unmounts it.
#[must_use]
pub(crate) fn fitting(kept: Option<Kept>, config: &MountConfig) -> Option<Kept> {
    let kept = kept?;
    let mounted = config.namespace.enter(|| mount_on(&config.mountpoint));
    let here = mounted.ok().and_then(Result::ok).flatten().map(|mount| mount.device);
    if kept.is_new() || kept.resumable().is_some_and(|device| here == Some(device)) {
        return Some(kept);
    }
    give_up(kept);
    None
}

/// Unmounts a kept connection that no daemon will continue.
pub(crate) fn give_up(kept: Kept) {
    kept.abandon();
    discard();
}

/// Takes ownership of an inherited descriptor, if it refers to the expected file.
fn adopt(number: RawFd, link: &str) -> Option<OwnedFd> {
    let found = std::fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
    if !found.to_string_lossy().starts_with(link) {
        return None;
    }
    own(number)
}

/// Takes ownership of an inherited directory; a later step checks that it is the right one.
fn adopt_directory(number: RawFd) -> Option<OwnedFd> {
    // The path of the directory is not resolved: the mount hides it, so only the descriptor reaches
    // it.
    std::fs::metadata(format!("/proc/self/fd/{number}")).ok().filter(Metadata::is_dir)?;
    own(number)
}

fn own(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: the descriptor is open, was opened before this process began, and has no other owner
    // here.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&descriptor, FdFlags::CLOEXEC).ok()?;
    Some(descriptor)
}

/// Puts the connection into systemd's descriptor store.
pub(crate) fn store(mount: &Mount) {
    discard();
    let Some((device, log, beneath)) = mount.keep() else {
        return tracing::info!("this kernel cannot hand a mount over: a crash breaks it for those who use it");
    };
    for (descriptor, name) in [(&beneath, BENEATH), (&log, LOG), (&device, DEVICE)] {
        let state = [NotifyState::FdStore, NotifyState::FdName(name)];
        if let Err(error) = sd_notify::notify_with_fds(&state, &[descriptor.as_fd()]) {
            tracing::debug!(%error, "giving systemd the connection to keep");
        }
    }
}

/// Removes the connection from systemd's descriptor store.
pub(crate) fn discard() {
    for name in [DEVICE, LOG, BENEATH] {
        systemd::notify(vec![NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
    }
}

/// Why the daemon does not execute its program again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    /// The program cannot be executed.
    #[error("{}: {source}", name.display())]
    Program {
        /// Name of the program.
        name: OsString,
        /// The error of exec(2).
        source: std::io::Error,
    },
    /// The program would not start with the current configuration, for this reason.
    #[error("it would not start: {0}")]
    WouldNotStart(String),
    /// There is no mount that the program could continue.
    #[error("nothing is mounted that could stay: start the service again instead")]
    NoMount,
    /// The test did not end.
    #[error(transparent)]
    Test(#[from] tokio::task::JoinError),
}

/// Tests whether the program on disk can start with the current configuration. Blocks.
pub(crate) fn try_out(program: &Program) -> Result<(), ReloadError> {
    let mut command = Command::new(&program.name);
    command.arg("check-config").args(&program.arguments).stdin(Stdio::null()).stdout(Stdio::null());
    let output = command.output().map_err(|source| ReloadError::Program { name: program.name.clone(), source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(ReloadError::WouldNotStart(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Executes the program in this process. Returns only if that fails.
pub(crate) fn replace(program: &Program, mount: &Mount) -> anyhow::Error {
    let Some((device, log, beneath)) = mount.keep() else {
        return anyhow::anyhow!("this kernel (before Linux 6.9) cannot hand a mount over");
    };
    for descriptor in [&device, &log, &beneath] {
        if let Err(error) = rustix::io::fcntl_setfd(descriptor, FdFlags::empty()) {
            return error.into();
        }
    }
    let mut command = Command::new(&program.name);
    let kept = numbers([&device, &log, &beneath]);
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
    let (device, log, beneath) = kept.descriptors().context("keeping the connection")?;
    let all = || [&device, &log].into_iter().chain(&beneath);
    for descriptor in all() {
        rustix::io::fcntl_setfd(descriptor, FdFlags::empty()).context("keeping the connection")?;
    }
    let mut command = Command::new(&program.name);
    command.arg("mount").args(&program.arguments).env(KEPT_VARIABLE, numbers(all())).stdin(Stdio::null());
    command.spawn().with_context(|| format!("running {}", program.name.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_tried_out_before_it_is_run() {
        let said = |name: &str| {
            let program = Program { name: name.into(), arguments: vec!["--nonsense".into()] };
            try_out(&program).map_err(|error| error.to_string())
        };
        assert_eq!(said("true"), Ok(()));
        let text = said("/nonexistent").unwrap_err();
        assert!(text.starts_with("/nonexistent: No such file"), "{text}");
        // It knows no such option.
        let text = said("ls").unwrap_err();
        assert!(text.starts_with("it would not start: ls: ") && text.contains("nonsense"), "{text}");
    }
}
