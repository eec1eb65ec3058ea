//! A download's turn, from the first one to the end of the download.

use std::time::Duration;

use tokio::time::Instant;

use super::lane::Lane;
use super::listed::ListedDownload;
use super::{DownloadContext, REST_OF_LINE};
use crate::fetch::remote_binhost::PackageRef;
use crate::upstream::Active;

/// The turn that the task of a download holds. Dropping it ends the download and removes it from
/// the table, also after a panic, so that no waiter waits for ever.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) listed: ListedDownload,
    pub(super) lane: Lane,
    /// Counts the download among the active ones of its binhost.
    active: Option<Active>,
    /// Bytes that were received since [`Self::hold_back`].
    unpaid: u64,
    /// Whether this turn must end the download when it is dropped. `false`: the table has the
    /// download again, in another lane.
    held: bool,
}

impl Turn {
    pub(super) fn new(listed: ListedDownload, lane: Lane) -> Self {
        let active = (lane != Lane::Cache).then(|| listed.download.wanted.binhost().upstream.begin());
        Self { listed, lane, active, unpaid: 0, held: true }
    }

    /// The services that the download reads from and reports to.
    pub(super) fn context(&self) -> &DownloadContext {
        &self.listed.downloads.context
    }

    pub(super) fn wanted(&self) -> &PackageRef {
        &self.listed.download.wanted
    }

    /// Gives the turn back until bytes come.
    pub(super) fn park(&mut self) {
        self.active = None;
        self.listed.park();
    }

    /// Waits for a turn, after bytes have come. Returns the time that it waited.
    pub(super) async fn resume(&mut self) -> Duration {
        let began = Instant::now();
        self.listed.resume().await;
        self.active = Some(self.wanted().binhost().upstream.begin());
        began.elapsed()
    }

    /// Waits until the limits of bandwidth allow the received bytes. Returns the time that it
    /// waited.
    pub(super) async fn hold_back(&mut self) -> Duration {
        let bytes = std::mem::take(&mut self.unpaid);
        let (bandwidth, haste) = (&self.listed.downloads.context.bandwidth, &self.listed.download.haste);
        if bytes == 0 || !bandwidth.is_limited(haste) {
            return Duration::ZERO;
        }
        // Meanwhile the download takes nothing of the line.
        self.active = None;
        let waited = bandwidth.held(haste, bytes).await;
        self.active = (self.lane != Lane::Cache).then(|| self.listed.download.wanted.binhost().upstream.begin());
        waited
    }

    /// Whether the download must be parked for the quiet hours.
    pub(super) fn rests(&self) -> bool {
        let download = &self.listed.download;
        // What has all its bytes has nothing to wait for.
        download.received() < self.wanted().record().size && self.context().bandwidth.rests(&download.haste)
    }

    /// Waits until the quiet hours have ended, or somebody waits for the package.
    pub(super) async fn rest(&self) {
        let download = &self.listed.download;
        download.set_resting(true);
        self.context().bandwidth.may_go_on(&download.haste).await;
        download.set_resting(false);
    }

    /// Counts received bytes.
    pub(super) fn receive(&mut self, bytes: usize) {
        let (bytes, size) = (bytes as u64, self.wanted().record().size);
        self.unpaid += bytes;
        let before = self.listed.download.receive(bytes);
        let is_rest = |received: u64| size.saturating_sub(received) < REST_OF_LINE;
        if !is_rest(before) && is_rest(before.saturating_add(bytes)) {
            // Less than `REST_OF_LINE` is left, so the next plan prefetch may start.
            self.listed.changed();
        }
    }

    /// Moves the download to the lane of its binhost, because the cache does not have the package.
    pub(super) fn change_lane(mut self) {
        let binhost = Lane::Binhost(self.wanted().key().0);
        self.held = !self.listed.change_lane(binhost);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.held {
            self.listed.finish();
        }
    }
}
