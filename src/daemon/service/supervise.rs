//! A parent process that only holds the connection and restarts the daemon, as systemd does on
//! other systems.

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

/// Pause before a crashed daemon is started again.
const PAUSE: Duration = Duration::from_secs(1);
/// The supervisor gives up after so many crashes within [`SPAN`].
const MAX_CRASHES: usize = 10;
const SPAN: Duration = Duration::from_secs(60);
/// Exit code of a daemon with a wrong configuration: a restart would fail again.
const MISCONFIGURED: i32 = 2;

/// Runs daemons until one ends by itself, and returns its exit code. `config` reads the
/// configuration for the next daemon; the daemon itself reports errors in it.
///
/// # Errors
/// No daemon can be started, or they crash too often.
pub(crate) async fn supervise(
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

/// Runs one daemon from start to end. When this process gets a signal to stop, the daemon gets
/// SIGTERM.
async fn run(program: &Program, kept: &Kept, stop: &mut Stop) -> anyhow::Result<ExitStatus> {
    let mut child = start(program, kept)?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let mut ended = tokio::task::spawn_blocking(move || child.wait());
    loop {
        tokio::select! {
            status = &mut ended => return status.context("waiting for the daemon")?.context("waiting for the daemon"),
            () = stop.requested() => if let Some(pid) = pid {
                // The daemon may have ended just now.
                let _ = kill_process(pid, Signal::TERM);
            },
        }
    }
}

/// Returns the connection for the next daemon: the same one, if it can be continued.
fn next(kept: Kept, namespace: &MountNamespace, config: &impl Fn() -> Option<MountConfig>) -> anyhow::Result<Kept> {
    let descriptors = kept.descriptors().context("keeping the connection")?;
    // Reads the handover log again: the daemon has written to it.
    let now = Kept::from_descriptors(descriptors, namespace.clone());
    if now.resumable().is_some() {
        return Ok(now);
    }
    now.abandon();
    create(namespace, config)
}

/// Opens a new connection. The lower directory can be opened only now, before the mount covers it.
/// If that fails, the daemon reports the reason.
fn create(namespace: &MountNamespace, config: &impl Fn() -> Option<MountConfig>) -> anyhow::Result<Kept> {
    let open = |config: MountConfig| namespace.enter(|| open_directory(&config.mountpoint).ok()).ok().flatten();
    Kept::create(config().and_then(open), namespace.clone()).context("opening /dev/fuse")
}
