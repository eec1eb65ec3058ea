//! One download: the state that its waiters and its task share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portable_atomic::AtomicU64;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::entry::Load;
use crate::fetch::bandwidth::Haste;
use crate::fetch::error::{FetchError, Outcome};
use crate::fetch::remote_binhost::PackageRef;

/// The progress of a download.
#[derive(Debug, Default)]
pub(super) struct Phase {
    /// Whether the download has had a turn.
    pub(super) begun: bool,
    /// The outcome, as soon as it is known: before the package is safe on the disk.
    pub(super) outcome: Option<Outcome>,
    /// Whether the download has ended, after the commit to the cache has succeeded or failed.
    pub(super) ended: bool,
}

/// One download of one package.
#[derive(Debug)]
pub(in crate::fetch) struct Download {
    pub(super) wanted: PackageRef,
    phase: watch::Sender<Phase>,
    received: AtomicU64,
    placed: AtomicBool,
    /// Whether the download is parked for the quiet hours.
    resting: AtomicBool,
    pub(super) haste: Haste,
    requested: Instant,
    /// Notified when the download has a turn again.
    turn: Notify,
    /// Notified when the task of the download must end.
    stop: Notify,
}

impl Download {
    pub(super) fn new(wanted: PackageRef) -> Self {
        Self {
            wanted,
            phase: watch::Sender::default(),
            received: AtomicU64::new(0),
            placed: AtomicBool::new(false),
            resting: AtomicBool::new(false),
            haste: Haste::default(),
            requested: Instant::now(),
            turn: Notify::new(),
            stop: Notify::new(),
        }
    }

    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Completes when the download has no waiter and no watcher.
    pub(super) async fn deserted(&self) {
        self.phase.closed().await;
    }

    /// The time since the download was requested.
    pub(super) fn age(&self) -> Duration {
        self.requested.elapsed()
    }

    /// Number of bytes received.
    pub(in crate::fetch) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Adds received bytes. Returns the number of bytes received before.
    pub(super) fn receive(&self, bytes: u64) -> u64 {
        self.received.fetch_add(bytes, Ordering::Relaxed)
    }

    /// Resets the number of received bytes: the transfer begins with the first byte.
    pub(super) fn restart(&self) {
        self.go_on_at(0);
    }

    /// Sets the number of received bytes: the transfer continues after them.
    pub(super) fn go_on_at(&self, received: u64) {
        self.received.store(received, Ordering::Relaxed);
    }

    /// Records whether the cache counts this download in its usage.
    pub(super) fn set_placed(&self, placed: bool) {
        self.placed.store(placed, Ordering::Relaxed);
    }

    /// Records whether the download is parked for the quiet hours.
    pub(super) fn set_resting(&self, resting: bool) {
        self.resting.store(resting, Ordering::Relaxed);
    }

    pub(super) fn is_resting(&self) -> bool {
        self.resting.load(Ordering::Relaxed)
    }

    /// Marks the download as begun: it has its first turn.
    pub(super) fn begin(&self) {
        self.phase.send_modify(|phase| phase.begun = true);
    }

    /// Gives a resuming download its turn.
    pub(super) fn give_turn(&self) {
        self.turn.notify_one();
    }

    pub(super) async fn await_turn(&self) {
        self.turn.notified().await;
    }

    /// Asks the task of the download to end.
    pub(super) fn stop(&self) {
        self.stop.notify_one();
    }

    pub(super) async fn stopped(&self) {
        self.stop.notified().await;
    }

    /// Notifies all waiters of the outcome, unless they have one already.
    pub(super) fn settle(&self, outcome: impl FnOnce() -> Outcome) {
        self.phase.send_if_modified(|phase| {
            let open = phase.outcome.is_none();
            if open {
                phase.outcome = Some(outcome());
            }
            open
        });
    }

    /// Marks the download as ended.
    pub(super) fn end(&self) {
        self.settle(|| Err(Arc::new(FetchError::Stopped)));
        self.phase.send_modify(|phase| phase.ended = true);
    }
}

impl Load for Arc<Download> {
    fn size(&self) -> u64 {
        self.wanted.record().size
    }

    fn left(&self) -> u64 {
        self.size().saturating_sub(self.received())
    }

    fn is_placed(&self) -> bool {
        self.placed.load(Ordering::Relaxed)
    }
}
