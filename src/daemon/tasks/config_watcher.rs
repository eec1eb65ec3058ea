//! Watches the configuration files: applies a change without a restart, and ignores a broken file.

use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::{Resolution, Watch, WatchEvent};
use crate::daemon::request::Request;
use crate::daemon::state::DaemonState;

/// How long the files must be unchanged before they are read: an editor, or `emerge --config`,
/// touches a file several times.
const SETTLED: Duration = Duration::from_millis(300);

/// Wrapper that gives tokio the number of the descriptor.
struct Readable(Watch);

impl AsRawFd for Readable {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Runs until it is cancelled, or until the files cannot be watched.
pub(crate) async fn follow(shared: Arc<DaemonState>, requests: mpsc::Sender<Request>) {
    if let Err(error) = try_follow(&shared, &requests).await
        // The daemon may stop while files are read; that is no failure.
        && !tokio::runtime::is_rt_shutdown_err(&error)
    {
        tracing::warn!(%error, "the configuration files are not watched any more; changes take effect after a restart");
    }
}

async fn try_follow(shared: &DaemonState, requests: &mpsc::Sender<Request>) -> std::io::Result<()> {
    let watch = Readable(Watch::new()?);
    // SAFETY: the watch owns its descriptor, never exchanges it, and is never exchanged below.
    let mut watch = unsafe { AsyncFd::register_with_interest(watch, Interest::READABLE)? };
    let mut current = shared.config.clone();
    let mut warned = current.warnings.clone();
    loop {
        // The files are small, but the disk may be slow.
        let resolve = || tokio::task::block_in_place(|| current.reload());
        let Resolution { result, report, .. } = watch.get_mut().0.follow(resolve)?;
        for warning in report.warnings.iter().filter(|warning| !warned.contains(*warning)) {
            tracing::warn!("{warning}");
        }
        warned = report.warnings;
        shared.set_warnings(warned.clone());
        match result {
            Ok(config) if config.differs_from(&current) || shared.is_misconfigured() => {
                current = config.clone();
                if requests.send(Request::Configure(Box::new(config))).await.is_err() {
                    return Ok(());
                }
            }
            Ok(_) => {}
            Err(error) => shared.configured(Some(error.to_string())),
        }
        await_change(&mut watch).await?;
    }
}

/// Waits until a relevant file has changed, and then until no file changes any more.
async fn await_change(watch: &mut AsyncFd<Readable>) -> std::io::Result<()> {
    loop {
        let mut ready = watch.readable_mut().await?;
        let changes = ready.get_inner_mut().0.drain()?;
        ready.clear_ready();
        if changes == WatchEvent::Some {
            break;
        }
    }
    let mut quiet = Instant::now() + SETTLED;
    // Other events in these directories do not prolong the wait.
    while let Ok(ready) = tokio::time::timeout_at(quiet, watch.readable_mut()).await {
        let mut ready = ready?;
        if ready.get_inner_mut().0.drain()? == WatchEvent::Some {
            quiet = Instant::now() + SETTLED;
        }
        ready.clear_ready();
    }
    Ok(())
}
