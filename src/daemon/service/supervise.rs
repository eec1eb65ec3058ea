//! A parent that does nothing but hold the connection and start the daemon again: what systemd does, for systems without it.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use super::handover::{Program, start};
use crate::config::MountConfig;
use crate::daemon::Stop;
use crate::fuse::Kept;
use crate::local::open_directory;
use crate::sys::MountNamespace;

/// Before a daemon that crashed is started again.
const PAUSE: Duration = Duration::from_secs(1);
/// So many crashes within [`SPAN`] are too many.
const MAX_CRASHES: usize = 10;
const SPAN: Duration = Duration::from_secs(60);
/// What the configuration is to blame for: it would fail again.
const MISCONFIGURED: i32 = 2;

/// Runs daemons until one ends by itself; its exit code. `config`: what the next one will do, made ready for that; what is wrong with it
/// it says itself.
///
/// # Errors
/// No daemon can be started, or they crash too often.
pub async fn supervise(
    program: &Program,
    namespace: &MountNamespace,
    config: impl Fn() -> Option<MountConfig>,
) -> anyhow::Result<u8> {
    let mut stop = Stop::listen()?;
    let mut kept = create(namespace, &config)?;
    let mut crashes: Vec<Instant> = Vec::new();
    loop {
        let status = run(program, &kept, &mut stop).await?;
        if let Some(code @ (0 | MISCONFIGURED)) = status.code() {
            return Ok(u8::try_from(code).unwrap_or(1));
        }
        crashes.retain(|crash| crash.elapsed() < SPAN);
        crashes.push(Instant::now());
        kept = next(kept, namespace, &config)?;
        if crashes.len() >= MAX_CRASHES {
            kept.abandon();
            anyhow::bail!(
                "the daemon ended {MAX_CRASHES} times within {} s, the last time with {status}",
                SPAN.as_secs()
            );
        }
        tracing::error!("the daemon ended with {status}: starting it again");
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            _ = stop.requested() => {
                kept.abandon();
                return Ok(0);
            }
        }
    }
}

/// One daemon, from start to end. A signal is passed on.
async fn run(program: &Program, kept: &Kept, stop: &mut Stop) -> anyhow::Result<ExitStatus> {
    let mut child = start(program, kept)?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let mut ended = tokio::task::spawn_blocking(move || child.wait());
    loop {
        tokio::select! {
            status = &mut ended => return status.context("waiting for the daemon")?.context("waiting for the daemon"),
            () = stop.requested() => if let Some(pid) = pid {
                // It may have ended just now.
                let _ = kill_process(pid, Signal::TERM);
            },
        }
    }
}

/// What the next daemon gets: the same connection, if it is of use to it.
fn next(kept: Kept, namespace: &MountNamespace, config: &impl Fn() -> Option<MountConfig>) -> anyhow::Result<Kept> {
    let descriptors = kept.descriptors().context("keeping the connection")?;
    // Read again: the daemon has written to it.
    let now = Kept::from_descriptors(descriptors, namespace.clone());
    if now.resumable().is_some() {
        return Ok(now);
    }
    now.abandon();
    create(namespace, config)
}

/// A new connection. What is beneath the mountpoint can be opened now only; the daemon says if it cannot be, or is not there.
fn create(namespace: &MountNamespace, config: &impl Fn() -> Option<MountConfig>) -> anyhow::Result<Kept> {
    let open = |config: MountConfig| namespace.enter(|| open_directory(&config.mountpoint).ok()).ok().flatten();
    Kept::create(config().and_then(open), namespace.clone()).context("opening /dev/fuse")
}
