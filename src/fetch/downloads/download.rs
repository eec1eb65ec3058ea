//! One download, as those see it who wait for it, and the task that runs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portable_atomic::AtomicU64;
use tokio::sync::{Notify, watch};

use super::entry::Load;
use crate::fetch::{FetchError, Outcome, PackageRef};

/// How far a download is.
#[derive(Debug, Default)]
pub(super) struct Phase {
    /// It has had a turn.
    pub(super) begun: bool,
    /// How it ended, as soon as that is known: before the package is safe on the disk.
    pub(super) outcome: Option<Outcome>,
    /// It is over, and what it brought is kept or not.
    pub(super) ended: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(in crate::fetch) struct Download {
    pub(super) wanted: PackageRef,
    phase: watch::Sender<Phase>,
    received: AtomicU64,
    placed: AtomicBool,
    requested: Instant,
    /// It has a turn again.
    turn: Notify,
    /// It is to end.
    stop: Notify,
}

impl Download {
    pub(super) fn new(wanted: PackageRef) -> Self {
        let (phase, received, placed) = (watch::Sender::default(), AtomicU64::new(0), AtomicBool::new(false));
        Self { wanted, phase, received, placed, requested: Instant::now(), turn: Notify::new(), stop: Notify::new() }
    }

    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Ends when nobody waits for it.
    pub(super) async fn deserted(&self) {
        self.phase.closed().await;
    }

    /// How long it has been there.
    pub(super) fn age(&self) -> Duration {
        self.requested.elapsed()
    }

    /// Bytes received.
    pub(in crate::fetch) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// So many bytes came in; bytes received before.
    pub(super) fn receive(&self, bytes: u64) -> u64 {
        self.received.fetch_add(bytes, Ordering::Relaxed)
    }

    /// It begins at its first byte.
    pub(super) fn restart(&self) {
        self.go_on_at(0);
    }

    /// It goes on behind so many bytes.
    pub(super) fn go_on_at(&self, received: u64) {
        self.received.store(received, Ordering::Relaxed);
    }

    /// The store counts it, or does not any more.
    pub(super) fn set_placed(&self, placed: bool) {
        self.placed.store(placed, Ordering::Relaxed);
    }

    /// It has its first turn.
    pub(super) fn begin(&self) {
        self.phase.send_modify(|phase| phase.begun = true);
    }

    /// It has a turn again.
    pub(super) fn give_turn(&self) {
        self.turn.notify_one();
    }

    pub(super) async fn await_turn(&self) {
        self.turn.notified().await;
    }

    /// Has its task end.
    pub(super) fn stop(&self) {
        self.stop.notify_one();
    }

    pub(super) async fn stopped(&self) {
        self.stop.notified().await;
    }

    /// Tells everybody who waits how it ended, unless they know already.
    pub(super) fn settle(&self, outcome: impl FnOnce() -> Outcome) {
        self.phase.send_if_modified(|phase| {
            let open = phase.outcome.is_none();
            if open {
                phase.outcome = Some(outcome());
            }
            open
        });
    }

    /// It is over.
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
